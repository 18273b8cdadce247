"""From the bytes of a text file to its characters, whatever encoding they are in."""

from __future__ import annotations

import re
import unicodedata

import chardet

from .messages import Refused
from .words import words_of_one_script

_MARKS = (
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe\0\0", "utf-32"),
    (b"\0\0\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
_TO_JAPANESE = b"\x1b$"
"""Begins Japanese in ISO-2022-JP, whose bytes are all ASCII, so that it would pass for UTF-8."""
_REPLACED = "\ufffd"
_MOST_DAMAGE = 0.05
"""Share of a text's non-ASCII characters that may be damaged; with more of them, it is in another encoding."""
_DETECTED_BYTES = 5000
"""Bytes that the encoding is told from, taken where they are not ASCII: as sure as with more, which take seconds."""
_CONTROLS = re.compile("[\x80-\x84\x86-\x9f]")
"""Nobody writes these: bytes that ISO 8859 turns into them are the letters and quotation marks of a Windows code."""
_TYPOGRAPHY = frozenset("‘’‚“”„‹›«»–—…·•€£§©®°²³\xa0\u3000、。「」『』・，．！？：；（）【】《》～￥")


def decode(data: bytes) -> tuple[str, list[str]]:
    """The text, and notes on how it was read: by its byte order mark, as UTF-8, or in the encoding that fits best.

    Raises:
        Refused: not text, or in no encoding in which it makes words.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return _mended(data, encoding)
    sample = data[:200_000]
    zeros = sample.count(0)
    if zeros > 0.2 * len(sample):
        # UTF-16 without its mark: the high bytes of Latin text are zeros, all on one side.
        odd = sample[1::2].count(0) / zeros
        if odd > 0.95 or odd < 0.05:
            return _guessed(data, "utf-16-le" if odd > 0.5 else "utf-16-be")
    if sum(sample.count(code) for code in [*range(9), *range(14, 27), 28, 29, 30, 31]) > 0.01 * len(sample):
        raise Refused("is not a text file: it holds binary data. Use a PDF, TXT, MD or DOCX file.")
    if _TO_JAPANESE not in data and _damage(data.decode("utf-8", errors="replace")) <= _MOST_DAMAGE:
        return _mended(data, "utf-8")
    eras = chardet.EncodingEra.MODERN_WEB | chardet.EncodingEra.LEGACY_ISO
    telling = data if data.isascii() else b"\n".join(line for line in data.splitlines() if not line.isascii())
    found = chardet.detect_all(telling[:_DETECTED_BYTES], ignore_threshold=True, encoding_era=eras)
    for encoding in dict.fromkeys(guess["encoding"] for guess in found if guess["encoding"]):
        text = data.decode(encoding, errors="replace")
        if _damage(text) <= _MOST_DAMAGE and not _CONTROLS.search(text) and _makes_words(text[:100_000]):
            return _guessed(data, encoding)
    raise Refused("is in an encoding that cannot be told: open it in an editor and save it as UTF-8.")


def _guessed(data: bytes, encoding: str) -> tuple[str, list[str]]:
    text, notes = _mended(data, encoding)
    guess = (
        f"Its characters were read as {encoding}, the most likely encoding: where they look wrong, save it as UTF-8."
    )
    return text, [guess, *notes]


def _mended(data: bytes, encoding: str) -> tuple[str, list[str]]:
    """The text, with � for each character that is damaged, and a note that says so."""
    text = data.decode(encoding, errors="replace")
    damaged = text.count(_REPLACED)
    return text, [f"Damaged characters, which stand as {_REPLACED}: {damaged:,}."] if damaged else []


def _damage(text: str) -> float:
    """Share of the characters outside ASCII that are damaged. A text with none of them has none damaged."""
    outside = len(text) - len(text.encode("ascii", errors="ignore"))
    return text.count(_REPLACED) / max(outside, 1)


def _makes_words(text: str) -> bool:
    """Whether the characters outside ASCII are letters, in words of one script each: misread ones are a mixture."""
    outside = [character for character in text if not character.isascii()]
    letters = sum(character in _TYPOGRAPHY or unicodedata.category(character)[0] in "LM" for character in outside)
    if letters < 0.85 * len(outside):
        return False
    return words_of_one_script(text)
