"""PDF pages with pypdfium2: their text, their picture, where their words are. Runs in the child process."""

from __future__ import annotations

import base64
import ctypes
import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pypdfium2
import pypdfium2.raw as pdfium_c

from .form_fields import filled_fields
from .messages import Message, Refused, check_pages, too_long
from .page_text import PDFIUM_HYPHENS, WORDS, Rectangle, clean_page
from .words import is_writing, strange_share

GRID = 10_000
"""Steps across a page in which boxes are computed before they become fractions."""

MAX_PIXELS = 16_000_000
UNSURE_SHARE = 0.2
"""With a larger share of characters whose meaning the font does not tell, these have to look like writing."""
STRANGE_SHARE = 0.4
"""A page with a larger share of characters that no text holds counts as unreadable."""

UNMAPPED = "its fonts do not say which letters they show: needs OCR"
PICTURE = "only a picture, no text: needs OCR"

FIELDS = "Form fields filled in:"
"""Stands before what is filled into a page's form, below the page's own text."""

A4 = (595.0, 842.0)

FractionBox = tuple[float, float, float, float]
"""left, top, right, bottom as fractions of the page as it is shown, the origin at the top left."""


def open_pdf(path: str) -> Any:
    """Opens a PDF with pypdfium2.

    Raises:
        Refused: cut off, damaged or locked with a password.
    """
    with Path(path).open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 65536, 0))
        tail = file.read().rstrip(b"\0 \t\r\n")
    try:
        pdf = pypdfium2.PdfDocument(path)
    except pypdfium2.PdfiumError as error:
        if getattr(error, "err_code", None) == pdfium_c.FPDF_ERR_PASSWORD:
            raise Refused("is locked with a password: save a copy without one and use that.") from None
        if getattr(error, "err_code", None) == pdfium_c.FPDF_ERR_SECURITY:
            raise Refused("is protected in a way not known here: save an open copy and use that.") from None
        pdf = None
    # PDFium rebuilds a file that was cut off and says nothing about the pages that are missing, so the end
    # mark is looked for here.
    if b"%%EOF" not in tail[-2048:]:
        if pdf is not None:
            pdf.close()
        raise Refused("is cut off: its end is missing. Download or copy it again, or save it anew.")
    if pdf is None:
        raise Refused("is a damaged PDF that cannot be opened: open it in a PDF program and save it anew.")
    # Before a page is loaded, else the fields of a form stay blank. A damaged form is left out, as other programs do.
    with suppress(pypdfium2.PdfiumError):
        pdf.init_forms()
    return pdf


class PageText(NamedTuple):
    """A page's clean text, and the box of the character at a place in it, in PDF units; None where it has none.

    `box_of` works while the page and its `textpage` are open. `unsure`: whether the fonts do not say which letters they
    show, so that the text was read by its codes.
    """

    text: str
    box_of: Callable[[int], Rectangle | None]
    unsure: bool


class UnmappedText(Exception):
    """The characters of a page are not those that it shows."""


def read_pdf(path: str, max_pages: int, max_characters: int) -> Iterator[Message]:
    """Reads all pages.

    Raises:
        Refused: cut off, damaged or locked, too long, or no text on any page.
    """
    with closing(open_pdf(path)) as pdf:
        total = len(pdf)
        if total == 0:
            raise Refused("has no pages.")
        check_pages(total, max_pages, "pages")
        yield {"pages_total": total}
        characters = 0
        reasons = set()
        unsure = []
        for index in range(total):
            text, reason = "", None
            try:
                with closing(pdf[index]) as page, closing(page.get_textpage()) as textpage:
                    characters += textpage.count_chars()
                    if characters > max_characters:
                        raise Refused(too_long(max_characters))
                    read = page_text(pdf, page, textpage)
                    text = read.text
                    if read.unsure:
                        unsure.append(index + 1)
                    if not text:
                        reason = PICTURE if has_picture(page) else "blank: no text on it"
            except pypdfium2.PdfiumError:
                reason = "damaged: it cannot be opened"
            except UnmappedText:
                reason = UNMAPPED
            reasons.add(reason)
            yield {"page": {"number": index + 1, "text": text, "unreadable": reason}}
        if None in reasons:
            if notes := [*_said_of_letters(unsure), *_said_of_forms(pdf)]:
                yield {"notes": notes}
            return
        if PICTURE in reasons:
            raise Refused(
                "is a scan: its pages are pictures without a text layer. "
                "Run it through OCR first (OCRmyPDF, Acrobat, a scanner's software) and use the result."
            )
        if UNMAPPED in reasons:
            raise Refused(
                "has text that cannot be read: its fonts do not say which letters they show. "
                "Run it through OCR first and use the result."
            )
        raise Refused("is empty: there is no text on any of its pages.")


def _said_of_letters(pages: Sequence[int]) -> list[str]:
    if not pages:
        return []
    listed = ", ".join(f"{page:,}" for page in pages[:10]) + ("…" if len(pages) > 10 else "")
    doubt = f"The fonts on page {listed} do not say which letters they show"
    return [f"{doubt}: they were read by their codes, which look like writing. Compare them with the page."]


def _said_of_forms(pdf: Any) -> list[str]:
    if pdf.get_formtype() != pdfium_c.FORMTYPE_XFA_FULL:
        return []
    return ["It holds a form of a kind (XFA) that is not read here: print it to a PDF to include what is filled in."]


def page_text(pdf: Any, page: Any, textpage: Any) -> PageText:
    """The text of a page and, at its end, what is filled into its form.

    Raises:
        UnmappedText: the characters are not those that the page shows.
    """
    codes = character_codes(textpage)
    unsure = _check_letters(textpage, codes)
    clean = clean_page(codes, lambda index: loose_box(textpage, index))
    pieces = [clean.text] if clean.text else []
    boxes: list[tuple[int, int, Rectangle]] = []
    fields = list(filled_fields(pdf.formenv, page)) if pdf.formenv else []
    if fields:
        pieces.append(FIELDS)
        length = len("\n".join(pieces))
        for field in fields:
            start = length + len(f"\n{field.label}: ")
            length = start + len(field.value)
            boxes.append((start, length, field.box))
            pieces.append(f"{field.label}: {field.value}")

    def box_of(place: int) -> Rectangle | None:
        if place < len(clean.text):
            return loose_box(textpage, clean.source[place])
        return next((box for start, end, box in boxes if start <= place < end), None)

    return PageText("\n".join(pieces), box_of, unsure)


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


def has_picture(page: Any) -> bool:
    return any(True for _ in page.get_objects(filter=[pdfium_c.FPDF_PAGEOBJ_IMAGE], max_depth=4))


def page_sizes(path: str) -> list[tuple[float, float]]:
    """Width and height of each page as it is shown, in PDF units; of an A4 page where it is damaged."""
    sizes = []
    with closing(open_pdf(path)) as pdf:
        for index in range(len(pdf)):
            try:
                width, height = pdf.get_page_size(index)
            except pypdfium2.PdfiumError:
                width, height = A4
            sizes.append((max(width, 1.0), max(height, 1.0)))
    return sizes


def page_views(path: str, numbers: Sequence[int], width: int) -> Iterator[Message]:
    """Each of these pages as it is shown: its picture, `width` pixels wide, and where its words are.

    A page so long that this would exceed `MAX_PIXELS` comes out narrower; one that cannot be opened has no picture.

    Raises:
        Refused: no such page.
    """
    with closing(open_pdf(path)) as pdf:
        for number in numbers:
            if not 1 <= number <= len(pdf):
                raise Refused(f"has no page {number}: it has {len(pdf)}.")
            try:
                with closing(pdf[number - 1]) as page:
                    view = {"number": number, "png": _png(page, width), "words": _words(pdf, page)}
            except pypdfium2.PdfiumError:
                view = {"number": number, "png": "", "words": []}
            yield {"view": view}


def _words(pdf: Any, page: Any) -> list[tuple[int, int, float, float, float, float]]:
    """The words of the page's clean text: first character, the one after the last, and the box, for each line that a
    word is on. None where its text cannot be read."""
    with closing(page.get_textpage()) as textpage:
        try:
            read = page_text(pdf, page, textpage)
        except UnmappedText:
            return []
        convert = pypdfium2.PdfPosConv(page, (0, 0, GRID, GRID, 0))
        words = []
        for word in WORDS.finditer(read.text):
            boxes = [box for box in map(read.box_of, range(*word.span())) if box is not None]
            lines = (_on_page(line, convert) for line in merge_lines(boxes))
            words += [(*word.span(), *line) for line in lines if line is not None]
        return words


def _on_page(rectangle: Rectangle, convert: Any) -> FractionBox | None:
    """A rectangle in PDF units as fractions of the page as it is shown; None where nothing of it is on the page."""
    corners = [convert.to_bitmap(rectangle[0], rectangle[1]), convert.to_bitmap(rectangle[2], rectangle[3])]
    left, right = sorted(min(max(x, 0), GRID) / GRID for x, _ in corners)
    top, bottom = sorted(min(max(y, 0), GRID) / GRID for _, y in corners)
    return (left, top, right, bottom) if right > left and bottom > top else None


def _png(page: Any, width: int) -> str:
    """The page as a PNG, in base64."""
    page_width, page_height = max(page.get_width(), 1.0), max(page.get_height(), 1.0)
    scale = min(width / page_width, (MAX_PIXELS / (page_width * page_height)) ** 0.5)
    buffer = io.BytesIO()
    page.render(scale=scale).to_pil().convert("RGB").save(buffer, "PNG", compress_level=3)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def merge_lines(boxes: list[Rectangle]) -> list[Rectangle]:
    """Joins the boxes of characters that follow each other on a line; a wide gap (a column's) stays open."""
    merged: list[Rectangle] = []
    for box in boxes:
        if merged:
            line = merged[-1]
            height = min(line[3] - line[1], box[3] - box[1])
            overlap = min(line[3], box[3]) - max(line[1], box[1])
            gap = max(box[0] - line[2], line[0] - box[2])
            if overlap > 0.5 * height and gap < 2 * height:
                merged[-1] = (min(line[0], box[0]), min(line[1], box[1]), max(line[2], box[2]), max(line[3], box[3]))
                continue
        merged.append(box)
    return merged
