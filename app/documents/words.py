"""Tells text that says something from text that was read by the wrong table of characters."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import cache

_IN_WORDS = re.compile(r"[^\W\d_]+")
_EAST_ASIAN = {"CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "HALFWIDTH", "FULLWIDTH", "HANGUL"}
"""How the names of letters begin in scripts that stand beside any other in one word."""
_VOWELS = frozenset("aeiouy")
_FEWEST_LETTERS = 20
"""Of fewer letters the share of vowels says nothing."""


def words_of_one_script(text: str) -> bool:
    """Whether words keep to one script each: misread letters are a mixture, of Latin and Cyrillic for one."""
    words = [word for word in _IN_WORDS.findall(text) if not word.isascii()]
    mixed = sum(len({_script(letter) for letter in word} - {""}) > 1 for word in words)
    return mixed <= 0.1 * len(words)


def is_writing(characters: Iterable[str]) -> bool:
    """Whether characters whose meaning is not sure make text of a language: letters for the most part, hardly a control
    character, vowels among Latin letters, words of one script."""
    text = "".join(characters)
    seen = [character for character in text if not character.isspace() or character < " "]
    if strange_share(seen) > 0.05 or sum(character.isalnum() for character in seen) < 0.6 * len(seen):
        return False
    letters = [unicodedata.normalize("NFD", character)[0].lower() for character in seen if character.isalpha()]
    latin = [letter for letter in letters if letter.isascii()]
    if len(latin) >= max(_FEWEST_LETTERS, len(letters) / 2) and sum(map(_VOWELS.__contains__, latin)) < 0.2 * len(
        latin
    ):
        return False
    return words_of_one_script(text)


def strange_share(characters: Iterable[str]) -> float:
    """Share of characters that no text holds: control characters, �, private and unassigned ones."""
    characters = list(characters)
    strange = sum(character == "\ufffd" or unicodedata.category(character) in _STRANGE for character in characters)
    return strange / max(len(characters), 1)


_STRANGE = {"Cc", "Cn", "Co", "Cs"}


@cache
def _script(letter: str) -> str:
    """LATIN, CYRILLIC, GREEK and so on; "" for East Asian writing."""
    script = unicodedata.name(letter, "").partition(" ")[0]
    return "" if script in _EAST_ASIAN else script
