"""A probe at several lengths and depths, with several trials and methods.

A cell is one method at one length and depth; its trials are answered together. What the prompts of one length have in
common is read once for all depths.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

from transformers import PreTrainedTokenizerBase

from selfextend.config import checked_integer
from selfextend.lab.errors import LabError
from selfextend.lab.plans import Cell, Plan, blank_row, check_methods
from selfextend.lab.probes.cases import Case, Probe, case_seed
from selfextend.lab.probes.haystack import check_depth
from selfextend.lab.records import CellKey, Row, cell_key
from selfextend.methods import Method
from selfextend.profile import Profile
from selfextend.reader import Reader
from selfextend.reading import PrefixCache, TokensRead, common_beginning, end_tokens, greedy_answers_steps, read_steps


@dataclass(frozen=True)
class GridPlan(Plan):
    """A grid.

    Attributes:
        probe: makes the cases.
        methods: all get the same cases.
        lengths: tokens of prompt and answer together.
        depths: 0 to 1, where in the text the planted thing lies.
        trials: cases in each cell.
        seed: of everything random.
        sweep: whether the methods are SelfExtend with different settings.

    Raises:
        LabError: nothing to measure, or a number out of range.
    """

    probe: Probe
    methods: tuple[Method, ...]
    lengths: tuple[int, ...]
    depths: tuple[float, ...]
    trials: int
    seed: int = 0
    sweep: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.lengths and self.depths):
            raise LabError("Name at least one length and one depth.")
        try:
            checked_integer("The number of trials", self.trials, 1)
            for length in self.lengths:
                checked_integer("length", length, 2)
        except ValueError as error:
            raise LabError(str(error)) from None
        for depth in self.depths:
            check_depth(depth)
        if self.trials > 1 and not self.probe.varies:
            raise LabError("Nothing in these cases is random, so one trial says it all: choose 1 trial.")

    @property
    def name(self) -> str:
        return self.probe.name

    @property
    def weight(self) -> int:
        return sum(self.lengths) * len(self.depths) * len(self.methods)

    def settings(self) -> dict[str, Any]:
        cells = {"lengths": list(self.lengths), "depths": list(self.depths), "trials": self.trials}
        return {**self.probe.settings(), **cells, **({"sweep": True} if self.sweep else {})}

    def check(self, profile: Profile, tokenizer: PreTrainedTokenizerBase) -> None:
        """See `Plan.check`.

        Raises:
            LabError: what is planted does not fit the shortest length, or a text is shorter than the longest.
        """
        check_methods(self.methods, profile, self.lengths)
        for length in {min(self.lengths), max(self.lengths)}:
            self._case(tokenizer, length, self.depths[0], 0)

    def _case(self, tokenizer: PreTrainedTokenizerBase, length: int, depth: float, trial: int) -> Case:
        return self.probe.case(tokenizer, length, depth, case_seed(self.seed, self.probe.name, length, depth, trial))

    def cells(self, tokenizer: PreTrainedTokenizerBase, profile: Profile, done: AbstractSet[CellKey]) -> Iterator[Cell]:
        depths, trials = sorted(self.depths), range(self.trials)
        for length in self.lengths:
            cases = [[self._case(tokenizer, length, depth, trial) for trial in trials] for depth in depths]
            for method in self.methods:
                yield from self._cells_of(tokenizer, profile, done, method, length, cases)

    def _cells_of(
        self,
        tokenizer: PreTrainedTokenizerBase,
        profile: Profile,
        done: AbstractSet[CellKey],
        method: Method,
        length: int,
        cases: Sequence[Sequence[Case]],
    ) -> Iterator[Cell]:
        """The cells of one method at one length, which share what they read. `cases` are those of each depth."""
        words = f"{self.probe.name}, {method.label}, {length:,} tokens"
        common_row = blank_row(self.probe.name, method, profile, length, cell_rows=self.trials)
        rows = [{**common_row, "depth": depth} for depth in sorted(self.depths)]
        missing = [index for index, row in enumerate(rows) if cell_key(row) not in done]
        prefix, read = PrefixCache(), 0
        for index, row in enumerate(rows):
            if not missing or index > missing[-1]:
                yield Cell(method, row, words, length)
                continue
            # What the next depth's prompts begin with, too.
            prompts = [case.tokens for case in (*cases[index], *cases[min(index + 1, len(cases) - 1)])]
            common = prompts[0][: common_beginning(prompts)]
            # What is recorded already is read up to the same place, so that later rows do not depend on it.
            wanted = cases[index] if index in missing else ()
            tokens = len(common) - read + sum(len(case.tokens) - len(common) for case in wanted)
            work = partial(answer_cases, tokenizer, wanted, common, prefix)
            yield Cell(method, row, words, length, tokens, work, prefix)
            read = len(common)

    def parts(self) -> Sequence[GridPlan]:
        """One for each method at each length."""
        pairs = product(self.lengths, self.methods)
        return [replace(self, methods=(method,), lengths=(length,)) for length, method in pairs]


def answer_cases(
    tokenizer: PreTrainedTokenizerBase,
    cases: Sequence[Case],
    common: Sequence[int],
    prefix: PrefixCache,
    reader: Reader,
) -> Generator[TokensRead, None, list[Row]]:
    """Read on to the end of `common` and answer the cases, if there are any. Returns a row for each."""
    if not cases:
        yield from read_steps(reader, prefix, common)
        return []
    answers = yield from greedy_answers_steps(
        reader,
        prefix,
        common,
        [case.tokens for case in cases],
        max(case.max_new_tokens for case in cases),
        end_tokens(reader.model, tokenizer),
    )
    rows = []
    for trial, (case, answer) in enumerate(zip(cases, answers, strict=True)):
        text = tokenizer.decode(answer[: case.max_new_tokens], skip_special_tokens=True)
        assert isinstance(text, str)
        told = {"trial": trial, "prompt_tokens": len(case.tokens), "expected": list(case.expected)}
        rows.append({**told, "answer": text, "score": case.score(text)})
    return rows
