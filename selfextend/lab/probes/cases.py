"""What a probe is: it makes cases, each with a prompt, what the answer should hold, and how it is scored."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Match = Literal["begins", "contains"]


@dataclass(frozen=True)
class Case:
    """One question.

    Attributes:
        tokens: the prompt.
        expected: everything that the answer should hold.
        max_new_tokens: the answer's budget.
        match: "begins": the answer begins with the first of `expected`, character by character.
            "contains": each of `expected` stands somewhere in the answer, as RULER scores.
    """

    tokens: tuple[int, ...]
    expected: tuple[str, ...]
    max_new_tokens: int
    match: Match

    @property
    def length(self) -> int:
        """Tokens of prompt and answer."""
        return len(self.tokens) + self.max_new_tokens

    def score(self, answer: str) -> float:
        """The share of `expected` that the answer holds, 0 to 1."""
        if self.match == "begins":
            return float(answer.strip().startswith(self.expected[0]))
        lowered = answer.lower()
        return sum(wanted.lower() in lowered for wanted in self.expected) / len(self.expected)


class Tokenizer(Protocol):
    """What a probe needs of transformers' tokenizers, which are not loaded for it: a text's `input_ids`."""

    def __call__(self, text: str, *, verbose: bool) -> Any: ...


class Probe(Protocol):
    """Makes cases of a wanted length."""

    @property
    def name(self) -> str: ...

    @property
    def varies(self) -> bool:
        """Whether two trials of the same cell differ."""

    def settings(self) -> dict[str, Any]:
        """What a record says about how the cases were made."""

    def case(self, tokenizer: Tokenizer, length: int, depth: float, rng: random.Random) -> Case:
        """A case of at most `length` tokens, answer included. Everything random comes from `rng`."""


def case_seed(seed: int, probe: str, length: int, depth: float, trial: int) -> random.Random:
    """The random numbers of one case: the same whatever method or machine it is for, and whatever ran before."""
    return random.Random(f"{seed} {probe} {length} {depth} {trial}")
