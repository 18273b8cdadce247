"""Key-value retrieval: a JSON object of random identifiers, and a question for the value of one of its keys.

After Lost in the Middle (arXiv 2307.03172), with other prompts.
"""

from __future__ import annotations

import random
import uuid
from dataclasses import dataclass
from typing import Any

from selfextend.lab.probes.cases import Case, Tokenizer
from selfextend.lab.probes.haystack import Filler, encode, fill

_HEADER = "Here is a JSON object. Afterwards you will be asked for the value of one of its keys."


@dataclass(frozen=True)
class KeyValues:
    """The key-value probe."""

    name = "key-value"
    varies = True

    def settings(self) -> dict[str, Any]:
        return {"identifiers": "UUID4"}

    def case(self, tokenizer: Tokenizer, length: int, depth: float, rng: random.Random) -> Case:
        """One prompt of at most `length` tokens, answer included, with the pair asked for at `depth`.

        Raises:
            LabError: not even the pair asked for fits.
        """
        key, value = _identifier(rng), _identifier(rng)
        answer = len(encode(tokenizer, value)) + 2
        # An identifier has 32 hexadecimal digits, so a pair can hardly have fewer than 20 tokens.
        others = tuple(_pair(_identifier(rng), _identifier(rng)) for _ in range(length // 20 + 1))

        def build(pairs: list[str]) -> str:
            at = round(depth * len(pairs))
            listed = ",\n".join([*pairs[:at], _pair(key, value), *pairs[at:]])
            return f'{_HEADER}\n{{{listed}}}\nKey: "{key}"\nValue: "'

        filler = Filler(others, repeats=False, joint=",\n", source="UUID4")
        tokens = fill(tokenizer, filler, length - answer, build)
        return Case(tokens=tokens, expected=(value,), max_new_tokens=answer, match="contains")


def _identifier(rng: random.Random) -> str:
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


def _pair(key: str, value: str) -> str:
    return f'"{key}": "{value}"'
