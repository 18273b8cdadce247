"""The one rule that keeps test text out of the training set: every name, code, value and sentence has a side.

A text is held out when its CRC-32 (lower case, UTF-8) is a multiple of eight, or
when it holds a name reserved for the sample document; so each text falls on exactly one side, whatever seed or
generator made it, and anybody can check which.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from selfextend.lab.probes.held_out import is_held_out
from training.vocabulary import RESERVED_NAMES

Split = Literal["train", "held_out"]
_RESERVED = tuple(name.lower() for name in RESERVED_NAMES)


def side(text: str) -> Split:
    """Returns the side that ``text`` is on; upper and lower case make no difference."""
    text = text.lower()
    reserved = any(name in text for name in _RESERVED)
    return "held_out" if reserved or is_held_out(text) else "train"


def draw(make: Callable[[], str], split: Split) -> str:
    """Calls ``make`` until its text is on the side asked for.

    Raises RuntimeError after 10,000 tries: ``make`` then has too few different texts to offer.
    """
    for _ in range(10_000):
        text = make()
        if side(text) == split:
            return text
    raise RuntimeError(f"no {split} text among 10,000 tries, the last being {text!r}; widen its generator")
