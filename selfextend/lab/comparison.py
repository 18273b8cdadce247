"""One prompt read by several methods: each one's answer, and how likely each finds the answer that is expected."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import partial
from typing import Any

from transformers import PreTrainedTokenizerBase

from selfextend.lab.plans import Cell, Plan, blank_row, check_methods
from selfextend.lab.records import CellKey, Row
from selfextend.methods import Method
from selfextend.profile import Profile
from selfextend.reader import Reader
from selfextend.reading import PrefixCache, TokensRead, end_tokens, greedy_answers_steps, log_probability_steps


@dataclass(frozen=True)
class ComparisonPlan(Plan):
    """A comparison. A row has `answer`, and `log_probability` (natural logarithm) of the expected answer or None.

    Attributes:
        prompt: token ids, at least two.
        max_new_tokens: the answer's budget.
        expected: token ids of the answer expected, or empty where none is.
    """

    prompt: tuple[int, ...]
    max_new_tokens: int
    expected: tuple[int, ...]
    methods: tuple[Method, ...]
    seed: int = 0

    name = "compare"

    @property
    def length(self) -> int:
        """Tokens of prompt and answer."""
        return len(self.prompt) + max(self.max_new_tokens, len(self.expected))

    @property
    def weight(self) -> int:
        return len(self.methods)

    def settings(self) -> dict[str, Any]:
        return {"length": self.length}

    def check(self, profile: Profile, tokenizer: PreTrainedTokenizerBase) -> None:
        check_methods(self.methods, profile, [self.length])

    def cells(self, tokenizer: PreTrainedTokenizerBase, profile: Profile, done: AbstractSet[CellKey]) -> Iterator[Cell]:
        for method in self.methods:
            row = blank_row(self.name, method, profile, self.length, cell_rows=1, prompt_tokens=len(self.prompt))
            prefix = PrefixCache()
            work = partial(self._answer, tokenizer, prefix)
            yield Cell(method, row, method.label, 1, self.length, work, prefix)

    def _answer(
        self, tokenizer: PreTrainedTokenizerBase, prefix: PrefixCache, reader: Reader
    ) -> Generator[TokensRead, None, list[Row]]:
        ends = end_tokens(reader.model, tokenizer)
        (answer,) = yield from greedy_answers_steps(
            reader, prefix, self.prompt[:-1], [self.prompt], self.max_new_tokens, ends
        )
        likely = None
        if self.expected:
            scores = yield from log_probability_steps(reader, prefix, self.prompt, self.expected)
            likely = round(float(scores.sum()), 5)
        return [{"answer": tokenizer.decode(answer, skip_special_tokens=True), "log_probability": likely}]
