"""Perplexity by position: how well each token of one long text is predicted, in bins of positions, one curve a method.

Plain sliding-window attention stays flat as well: a flat curve shows that the text is still read fluently, not that
anything far back is used.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from selfextend.config import checked_integer
from selfextend.lab.errors import LabError
from selfextend.lab.plans import Cell, Plan, blank_row, check_methods
from selfextend.lab.records import CellKey, Row, cell_key
from selfextend.methods import Method
from selfextend.profile import Profile
from selfextend.reader import Reader
from selfextend.reading import PrefixCache, TokensRead, loss_steps


@dataclass(frozen=True)
class PerplexityPlan(Plan):
    """A text to be read by several methods.

    Attributes:
        methods: one curve each.
        tokens: of the text; the first `length` are read.
        length: tokens to read.
        bin_tokens: width of a bin.
        source: names the text in the record.
        seed: of a generated text.
        sweep: whether the methods are SelfExtend with different settings.

    Raises:
        LabError: no method, or a number out of range.
    """

    methods: tuple[Method, ...]
    tokens: tuple[int, ...]
    length: int
    bin_tokens: int
    source: str
    seed: int = 0
    sweep: bool = False

    name = "perplexity"

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            checked_integer("length", self.length, 2)
            checked_integer("bin_tokens", self.bin_tokens, 1)
        except ValueError as error:
            raise LabError(str(error)) from None

    @property
    def weight(self) -> int:
        return self.length * len(self.methods)

    def settings(self) -> dict[str, Any]:
        sweep = {"sweep": True} if self.sweep else {}
        return {"text": self.source, "length": self.length, "bin_tokens": self.bin_tokens, **sweep}

    def check(self, profile: Profile, tokenizer: PreTrainedTokenizerBase) -> None:
        """See `Plan.check`.

        Raises:
            LabError: the text is too short.
        """
        check_methods(self.methods, profile, [self.length])
        if len(self.tokens) < self.length:
            raise LabError(
                f"The text has {len(self.tokens):,} tokens, fewer than the {self.length:,} asked for. Give a longer "
                "text or a smaller length."
            )

    def cells(self, tokenizer: PreTrainedTokenizerBase, profile: Profile, done: AbstractSet[CellKey]) -> Iterator[Cell]:
        bins = -(-(self.length - 1) // self.bin_tokens)
        for method in self.methods:
            row = blank_row(self.name, method, profile, self.length, cell_rows=bins)
            words = f"perplexity, {method.label}, {self.length:,} tokens"
            prefix = PrefixCache()
            work = None if cell_key(row) in done else partial(self._bins, prefix)
            yield Cell(method, row, words, self.length, self.length, work, prefix)

    def _bins(self, prefix: PrefixCache, reader: Reader) -> Generator[TokensRead, None, list[Row]]:
        losses = yield from loss_steps(reader, self.tokens[: self.length], prefix=prefix)
        rows = []
        for start in range(0, len(losses), self.bin_tokens):
            part = losses[start : start + self.bin_tokens]
            # The loss at index t is that of token t + 1.
            place = {"start": start + 1, "end": start + 1 + len(part), "tokens": len(part)}
            rows.append({**place, "loss": round(float(np.mean(part, dtype=np.float64)), 6)})
        return rows

    def parts(self) -> Sequence[PerplexityPlan]:
        """One for each method."""
        return [replace(self, methods=(method,)) for method in self.methods]
