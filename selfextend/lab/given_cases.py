"""Prompts from a file, each at its own length, read by several methods."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import partial
from typing import Any

from transformers import PreTrainedTokenizerBase

from selfextend.lab.grid import answer_cases
from selfextend.lab.plans import Cell, Plan, blank_row, check_methods
from selfextend.lab.probes.cases import Case
from selfextend.lab.records import CellKey, cell_key
from selfextend.methods import Method
from selfextend.profile import Profile
from selfextend.reading import PrefixCache


@dataclass(frozen=True)
class GivenCasesPlan(Plan):
    """A test set; each case is a cell.

    Attributes:
        cases: in order.
        positions: where each case's passkey stands, or None where the file does not say.
        methods: all get the same cases.
        source: names the file in the record.
    """

    cases: tuple[Case, ...]
    positions: tuple[int | None, ...]
    methods: tuple[Method, ...]
    source: str
    seed: int = 0

    name = "passkey"

    @property
    def weight(self) -> int:
        return sum(case.length for case in self.cases) * len(self.methods)

    def settings(self) -> dict[str, Any]:
        return {"file": self.source, "cases": len(self.cases)}

    def check(self, profile: Profile, tokenizer: PreTrainedTokenizerBase) -> None:
        check_methods(self.methods, profile, [max(case.length for case in self.cases)])

    def cells(self, tokenizer: PreTrainedTokenizerBase, profile: Profile, done: AbstractSet[CellKey]) -> Iterator[Cell]:
        for method in self.methods:
            for number, (case, position) in enumerate(zip(self.cases, self.positions, strict=True)):
                more = {"cell_rows": 1, "case": number, "passkey_position": position}
                row = blank_row(self.name, method, profile, case.length, **more)
                words = f"{self.source}, {method.label}, case {number + 1} of {len(self.cases)}"
                prefix = PrefixCache()
                work = None if cell_key(row) in done else partial(answer_cases, tokenizer, [case], (), prefix)
                yield Cell(method, row, words, case.length, case.length, work, prefix)
