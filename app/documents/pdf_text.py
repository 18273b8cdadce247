"""The text of a PDF page with pypdfium2, and where its characters are. Runs in the child process."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pypdfium2
import pypdfium2.raw as pdfium_c

from .form_fields import filled_fields
from .page_text import PDFIUM_HYPHENS, Rectangle, clean_page
from .words import is_writing, strange_share

UNSURE_SHARE = 0.2
"""With a larger share of characters whose meaning the font does not tell, these have to look like writing."""
STRANGE_SHARE = 0.4
"""A page with a larger share of characters that no text holds counts as unreadable."""
FIELDS = "Form fields filled in:"
"""Stands before what is filled into a page's form, below the page's own text."""


class PageText(NamedTuple):
    """A page's clean text, and the box of the character at a place in it, in PDF units; None where it has none.

    `box_of` works while the page and its text page are open. `unsure`: whether the fonts do not say which letters they
    show, so that the text was read by its codes.
    """

    text: str
    box_of: Callable[[int], Rectangle | None]
    unsure: bool = False


class UnmappedText(Exception):
    """The characters of a page are not those that it shows."""


def printed_text(textpage: Any) -> PageText:
    """The text that the page holds as text.

    Raises:
        UnmappedText: the characters are not those that the page shows.
    """
    codes = character_codes(textpage)
    unsure = _check_letters(textpage, codes)
    clean = clean_page(codes, lambda index: loose_box(textpage, index))
    return PageText(clean.text, lambda place: loose_box(textpage, clean.source[place]), unsure)


def with_fields(read: PageText, pdf: Any, page: Any) -> PageText:
    """The text of a page and, at its end, what is filled into the page's form."""
    fields = list(filled_fields(pdf.formenv, page)) if pdf.formenv else []
    if not fields:
        return read
    pieces = [read.text, FIELDS] if read.text else [FIELDS]
    length = len("\n".join(pieces))
    boxes: list[tuple[int, int, Rectangle]] = []
    for field in fields:
        start = length + len(f"\n{field.label}: ")
        length = start + len(field.value)
        boxes.append((start, length, field.box))
        pieces.append(f"{field.label}: {field.value}")

    def box_of(place: int) -> Rectangle | None:
        if place < len(read.text):
            return read.box_of(place)
        return next((box for start, end, box in boxes if start <= place < end), None)

    return PageText("\n".join(pieces), box_of, read.unsure)


def _check_letters(textpage: Any, codes: Sequence[int]) -> bool:
    """Whether PDFium is not sure what many of the characters are: it then takes their codes, which are often right.

    Raises:
        UnmappedText: the characters are not those that the page shows.
    """
    unsure = unsure_share(textpage) > UNSURE_SHARE
    if unsure:
        is_unsure, raw = pdfium_c.FPDFText_HasUnicodeMapError, textpage.raw
        if not is_writing(_character(code) for index, code in enumerate(codes) if is_unsure(raw, index) == 1):
            raise UnmappedText
    seen = [character for character in map(_character, codes) if not character.isspace()]
    if strange_share(character for character in seen if character not in PDFIUM_HYPHENS) > STRANGE_SHARE:
        raise UnmappedText
    return unsure


def _character(unit: int) -> str:
    """The character of a UTF-16 unit; a letter for each half of one that takes two, which are hardly ever strange."""
    return "x" if 0xD800 <= unit < 0xE000 else chr(unit)


def character_codes(textpage: Any) -> list[int]:
    """UTF-16 unit of each of PDFium's characters: `codes[i]` belongs to the character with index i."""
    count = textpage.count_chars()
    buffer = (ctypes.c_ushort * (count + 1))()
    written = pdfium_c.FPDFText_GetText(textpage.raw, 0, count, buffer)
    if written == count + 1:
        return list(buffer)[:count]
    # GetText leaves characters without a Unicode value out, and then its places are not the indices.
    get_unicode, raw = pdfium_c.FPDFText_GetUnicode, textpage.raw
    return [get_unicode(raw, index) for index in range(count)]


def unsure_share(textpage: Any) -> float:
    """Share of the page's characters, of at most 500 taken evenly, of which the font does not say what they are."""
    count = textpage.count_chars()
    sample = range(0, count, max(count // 500, 1))
    unsure = sum(pdfium_c.FPDFText_HasUnicodeMapError(textpage.raw, index) == 1 for index in sample)
    return unsure / max(len(sample), 1)


def loose_box(textpage: Any, index: int) -> Rectangle | None:
    try:
        left, bottom, right, top = textpage.get_charbox(index, loose=True)
    except pypdfium2.PdfiumError:
        return None
    return left, bottom, right, top
