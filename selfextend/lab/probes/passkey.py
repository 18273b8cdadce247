"""Passkey retrieval: a number hidden in a long text and asked for at its end.

The prompts are word for word those of LongLM's example (github.com/datamllab/LongLM, after Landmark Attention,
arXiv 2305.16300), so that results can be compared. LongLM's test sets can be read too.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfextend.config import checked_integer
from selfextend.lab.errors import TestSetError
from selfextend.lab.probes.cases import Case, Tokenizer
from selfextend.lab.probes.haystack import Filler, Planted, encode, plant
from selfextend.lab.probes.held_out import is_held_out

HEADER = (
    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize it. "
    "I will quiz you about the important information there."
)
FILLER = Filler(
    ("The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.",),
    repeats=True,
    joint="\n",
    source="standard",
)
NEEDLE = "The pass key is {key}. Remember it. {key} is the pass key."
QUESTION = "What is the pass key? The pass key is "


@dataclass(frozen=True)
class Passkey:
    """The passkey probe.

    Attributes:
        digits: of each key.
        filler: what to hide it in.
    """

    digits: int = 5
    filler: Filler = FILLER

    name = "passkey"
    varies = True

    def __post_init__(self) -> None:
        if checked_integer("digits", self.digits, 1) > 100:
            raise ValueError(f"digits must be at most 100, not {self.digits}.")

    def settings(self) -> dict[str, Any]:
        return {"digits": self.digits, "filler": self.filler.source}

    def case(self, tokenizer: Tokenizer, length: int, depth: float, rng: random.Random) -> Case:
        """One prompt of at most `length` tokens, its answer included, with the key at `depth`.

        Raises:
            LabError: see `plant`.
        """
        key = _unseen_key(self.digits, rng)
        planted = [Planted(depth, NEEDLE.format(key=key))]
        budget = length - self.digits
        tokens = plant(tokenizer, self.filler, budget, header=HEADER, planted=planted, question=QUESTION)
        return Case(tokens=tokens, expected=(key,), max_new_tokens=self.digits, match="begins")


def _unseen_key(digits: int, rng: random.Random) -> str:
    """A key that the bundled model was never trained on, or any key where they have fewer than three digits."""
    while True:
        key = str(rng.randrange(10 ** (digits - 1), 10**digits))
        if digits < 3 or is_held_out(key):
            return key


def read_test_set(path: Path) -> list[dict[str, Any]]:
    """The rows of a test set in LongLM's form: JSON lines with `input`, `target` and maybe `passkey_position`.

    Raises:
        TestSetError: the file cannot be read, is empty, or a line is not of that form.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TestSetError(f"{path} cannot be read as a test set: {error}.") from None
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise TestSetError(f"{path}, line {number}, is not JSON ({error}).") from None
        if not isinstance(row, dict) or not all(isinstance(row.get(key), (str, int)) for key in ("input", "target")):
            raise TestSetError(f"{path}, line {number}, has no `input` and `target`, as LongLM's test sets do.")
        position = row.get("passkey_position")
        if position is not None and (isinstance(position, bool) or not isinstance(position, int) or position < 0):
            raise TestSetError(f"{path}, line {number}: passkey_position must be a whole number, not {position!r}.")
        if not str(row["target"]):
            raise TestSetError(f"{path}, line {number}, has an empty target.")
        rows.append({"input": str(row["input"]), "target": str(row["target"]), "passkey_position": position})
    if not rows:
        raise TestSetError(f"{path} holds no rows.")
    return rows


def case_of_row(tokenizer: Tokenizer, row: dict[str, Any]) -> Case:
    """One row of a test set as a case. As in LongLM's example, an input without the question gets it at its end."""
    prompt = row["input"]
    if QUESTION.strip() not in prompt:
        prompt += QUESTION
    target = row["target"]
    return Case(tokens=tuple(encode(tokenizer, prompt)), expected=(target,), max_new_tokens=len(target), match="begins")
