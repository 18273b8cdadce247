"""Cleans the text of a page for a language model, and cuts text without pages into parts."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

PART_CHARS = 3000
"""Upper size, in characters, of a part of a document that has no pages of its own."""

LIGATURES = {
    0xFB00: "ff", 0xFB01: "fi", 0xFB02: "fl", 0xFB03: "ffi", 0xFB04: "ffl", 0xFB05: "st", 0xFB06: "st",
}  # fmt: skip
"""Only these: full NFKC would also turn a superscript 2 into a plain one, and 10² into 102."""

WORDS = re.compile(r"[\u2e80-\u9fff\uac00-\ud7a3\uf900-\ufaff]|[^\s\u2e80-\u9fff\uac00-\ud7a3\uf900-\ufaff]+")
"""What can be pointed at on a page: a run without blanks, or one character where writing has no blanks."""

Rectangle = tuple[float, float, float, float]
"""left, bottom, right, top in PDF units, the origin at the bottom left."""

PDFIUM_HYPHENS = "\x02\ufffe"
"""What PDFium gives for a hyphen at a line's end."""
_HYPHEN_CODES = set(map(ord, PDFIUM_HYPHENS))
_SOFT_HYPHEN = 0xAD
_HYPHENS = "-\u2010"
_SENTENCE_END = re.compile(r"""[.!?:;。！？…]["'’”)\]»]*$""")
_LIST_ITEM = re.compile(r"(?:[•◦‣▪●○·*–—-]|\(?\d{1,3}[.)]|\(?[a-zA-Z][.)])\s")
_SHORT_LINE = 25
_BLANK = {0x09, 0x20, 0xA0, 0x1680, 0x202F, 0x205F, 0x3000, *range(0x2000, 0x200B)}


def _is_junk(code: int) -> bool:
    """Whether the code point is invisible or not a character. Joiners stay (emoji, Indic)."""
    return (
        code < 0x20
        or 0x7F <= code < 0xA0
        or code in (_SOFT_HYPHEN, 0x200B, 0x2060, 0xFEFF)
        or 0xD800 <= code < 0xE000
        or 0xFDD0 <= code <= 0xFDEF
        or code & 0xFFFE == 0xFFFE
        or code > 0x10FFFF
    )


@dataclass(frozen=True, slots=True)
class CleanPage:
    """A page's text for the model. `source[k]` is the index, among the page's original characters, of the one
    that `text[k]` came from; it never decreases."""

    text: str
    source: list[int]


@dataclass(slots=True)
class _Line:
    characters: list[str]
    source: list[int]
    hyphen: int | None = None
    box: Rectangle = (0.0, 0.0, 0.0, 0.0)

    @property
    def text(self) -> str:
        return "".join(self.characters)

    @property
    def height(self) -> float:
        return max(self.box[3] - self.box[1], 1.0)


def clean_page(codes: Sequence[int], box_of: Callable[[int], Rectangle | None]) -> CleanPage:
    """Turns the characters of a PDF page, in reading order, into running text.

    Line breaks inside a paragraph become spaces, words hyphenated over a line end are joined, ligatures are
    spelled out, and runs of blanks, soft hyphens, NULs and other invisible characters go. A paragraph ends
    with one newline; where it ends is judged from the boxes of each line's first and last character.

    Args:
        codes: what the PDF library gives, line ends (10, 13) included: code points, or UTF-16 units where a
            character takes two of them.
        box_of: the box of the character at an index, or None where it has none.
    """
    lines = _lines(codes)
    for line in lines:
        first, last = box_of(line.source[0]), box_of(line.source[-1])
        if first and last:
            line.box = (first[0], min(first[1], last[1]), last[2], max(first[3], last[3]))
    edges = _column_edges(lines)
    step = _line_step(lines)
    characters: list[str] = []
    source: list[int] = []
    for index, line in enumerate(lines):
        characters += line.characters
        source += line.source
        if index + 1 == len(lines):
            break
        following = lines[index + 1]
        if line.hyphen is not None:
            if following.characters[0].islower():
                continue
            characters.append("-")
            source.append(line.hyphen)
            continue
        separator = _separator(line, following, edges, step)
        characters += separator
        source += [line.source[-1]] * len(separator)
    return CleanPage("".join(characters), source)


def _lines(codes: Sequence[int]) -> list[_Line]:
    lines = []
    line = _Line([], [])
    for index, unit in enumerate(codes):
        if 0x20 < unit < 0x7F:  # nearly all of them, and most of the time of a page goes here
            line.characters.append(chr(unit))
            line.source.append(index)
            continue
        code = unit
        if 0xD800 <= unit < 0xDC00 and index + 1 < len(codes) and 0xDC00 <= codes[index + 1] < 0xE000:
            code = 0x10000 + ((unit - 0xD800) << 10) + codes[index + 1] - 0xDC00
        if code in (10, 13):
            lines.append(line)
            line = _Line([], [])
        elif code in _HYPHEN_CODES:
            line.hyphen = index
            lines.append(line)
            line = _Line([], [])
        elif code in _BLANK:
            if line.characters and line.characters[-1] != " ":
                line.characters.append(" ")
                line.source.append(index)
        elif not _is_junk(code):
            spelled = LIGATURES.get(code, chr(code))
            line.characters += spelled
            line.source += [index] * len(spelled)
    lines.append(line)
    for line in lines:
        if line.characters and line.characters[-1] == " ":
            del line.characters[-1], line.source[-1]
        if (
            len(line.characters) > 1
            and line.hyphen is None
            and line.characters[-1] in _HYPHENS
            and line.characters[-2].isalpha()
        ):
            line.hyphen = line.source[-1]
            del line.characters[-1], line.source[-1]
    kept = [line for line in lines if line.characters]
    if kept and kept[-1].hyphen is not None:
        kept[-1].characters.append("-")
        kept[-1].source.append(kept[-1].hyphen)
    return kept


def _column_edges(lines: Sequence[_Line]) -> dict[int, float]:
    """Rightmost edge of the lines that start at about the same place, by that place in steps of 12 units."""
    edges: dict[int, float] = {}
    for line in lines:
        column = round(line.box[0] / 12)
        for near in (column - 1, column, column + 1):
            edges[near] = max(edges.get(near, 0.0), line.box[2])
    return edges


def _line_step(lines: Sequence[_Line]) -> float:
    """Usual distance from one base line to the next, in line heights."""
    steps = [(above.box[1] - below.box[1]) / above.height for above, below in pairwise(lines)]
    return median([step for step in steps if 0.5 < step < 4] or [1.2])


def _separator(line: _Line, following: _Line, edges: dict[int, float], step: float) -> str:
    """What stands between two lines: a newline where a paragraph, heading, list item or row ends."""
    together = "" if _is_cjk(line.characters[-1]) and _is_cjk(following.characters[0]) else " "
    drop = (line.box[1] - following.box[1]) / line.height
    if abs(drop) < 0.3:
        return " "
    ends = _SENTENCE_END.search(line.text[-8:]) is not None
    goes_on = not ends and following.characters[0].islower()
    if drop < 0 or drop > 4:  # another column, or from the header into the text
        return together if goes_on else "\n"
    if not 0.85 < following.height / line.height < 1.18 or drop > 1.4 * step:
        return "\n"
    if _LIST_ITEM.match(following.text[:8]):
        return "\n"
    if len(line.characters) < _SHORT_LINE and not goes_on:
        return "\n"
    width = max(edges[round(line.box[0] / 12)] - line.box[0], 1.0)
    missing = 1 - (line.box[2] - line.box[0]) / width
    indented = following.box[0] > line.box[0] + 0.8 * line.height
    if missing > 0.25 or (ends and (missing > 0.08 or indented)):
        return "\n"
    return together


def _is_cjk(character: str) -> bool:
    """Whether the script is written without spaces between words (Han, kana and their punctuation)."""
    code = ord(character)
    return 0x2E80 <= code < 0xA000 or 0xF900 <= code < 0xFB00 or 0xFF00 <= code < 0xFFF0 or code >= 0x20000


_LINE_ENDS = re.compile("\r\n|[\r\x0b\x85\u2028\u2029]")
_KEPT_CONTROLS = "\t\n\f"


def clean_plain(text: str) -> str:
    """Cleans text that was written as text: its own line breaks stay, they may be a list or verse."""
    text = _LINE_ENDS.sub("\n", text)
    replacements: dict[int, str | None] = {}
    for character in set(text):
        code = ord(character)
        if code in LIGATURES:
            replacements[code] = LIGATURES[code]
        elif _is_junk(code) and character not in _KEPT_CONTROLS:
            replacements[code] = None
    text = text.translate(replacements).replace("\xa0", " ")
    # No regular expression: one for blanks at a line's end takes quadratic time in a long run of them.
    text = "\n".join(line.rstrip(" \t") for line in text.split("\n"))
    return re.sub(r"\n{3,}", "\n\n", text)


def cut_into_parts(text: str) -> tuple[list[str], bool]:
    """Cuts cleaned text into pages at its form feeds, else into parts of at most `PART_CHARS` characters.

    Returns:
        The pages, and whether the form feeds made them. Form feeds are not used where a page would be longer
        than four parts: they are no pages then.
    """
    sheets = [sheet.strip("\n") for sheet in text.split("\f")]
    while sheets and not sheets[-1].strip():
        del sheets[-1]
    if len(sheets) > 1 and max(map(len, sheets)) <= 4 * PART_CHARS:
        return sheets, True
    text = text.replace("\f", "\n\n").strip("\n")
    parts = []
    start = 0
    while start < len(text):
        end = _part_end(text, start)
        part = text[start:end].strip("\n")
        if part.strip():
            parts.append(part)
        start = end
    return parts, False


def _part_end(text: str, start: int) -> int:
    """Where the part ends: at a blank line, else a line end, a sentence end, a space, or at the limit."""
    limit = start + PART_CHARS
    if len(text) <= limit:
        return len(text)
    earliest = start + PART_CHARS // 2
    for mark in ("\n\n", "\n", ". ", "。", " "):
        found = text.rfind(mark, earliest, limit)
        if found >= 0:
            return found + len(mark)
    return limit
