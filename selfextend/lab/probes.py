"""What a probe is: a maker of cases, each with a prompt, what the answer should hold, and how it is scored.

Knows nothing about models.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from transformers import PreTrainedTokenizerBase

Match = Literal["begins", "contains"]


@dataclass(frozen=True)
class Case:
    """One question.

    Attributes:
        tokens: the prompt.
        expected: all of these belong in the answer.
        max_new_tokens: the answer's budget.
        match: "begins": the answer begins with the one expected (exact match of as many characters as it has).
            "contains": each expected one stands somewhere in the answer, as RULER scores.
    """

    tokens: tuple[int, ...]
    expected: tuple[str, ...]
    max_new_tokens: int
    match: Match

    def score(self, answer: str) -> float:
        """The share of the expected that the answer holds, 0 ... 1."""
        if self.match == "begins":
            return float(answer.strip().startswith(self.expected[0]))
        lowered = answer.lower()
        return sum(wanted.lower() in lowered for wanted in self.expected) / len(self.expected)


class Probe(Protocol):
    """Makes cases of a wanted length."""

    @property
    def name(self) -> str: ...

    @property
    def varies(self) -> bool:
        """Whether two trials of the same cell differ."""
        ...

    def settings(self) -> dict[str, Any]:
        """What a record says about how the cases were made."""
        ...

    def case(self, tokenizer: PreTrainedTokenizerBase, length: int, depth: float, rng: random.Random) -> Case:
        """A case of at most `length` tokens, answer included. Everything random comes from `rng`."""
        ...


def case_seed(seed: int, probe: str, length: int, depth: float, trial: int) -> random.Random:
    """The random numbers of one case: the same whatever method or machine it is for, and whatever ran before."""
    return random.Random(f"{seed} {probe} {length} {depth} {trial}")
