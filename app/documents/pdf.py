"""PDF pages with pypdfium2: their text, their picture, where their words are. Runs in the child process."""

from __future__ import annotations

import base64
import ctypes
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pypdfium2
import pypdfium2.raw as pdfium_c

from .messages import Message, Refused, check_pages, too_long
from .page_text import WORDS, CleanPage, Rectangle, clean_page

GRID = 10_000
"""Steps across a page in which boxes are computed before they become fractions."""

MAX_PIXELS = 16_000_000
UNMAPPED_SHARE = 0.2
"""A page with a larger share of characters that have no Unicode value counts as unreadable."""

UNMAPPED = "its fonts do not say which letters they show: needs OCR"
PICTURE = "only a picture, no text: needs OCR"

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
    return pdf


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
        for index in range(total):
            text, reason = "", None
            try:
                with closing(pdf[index]) as page, closing(page.get_textpage()) as textpage:
                    characters += textpage.count_chars()
                    if characters > max_characters:
                        raise Refused(too_long(max_characters))
                    if unmapped_share(textpage) > UNMAPPED_SHARE:
                        reason = UNMAPPED
                    else:
                        text = extract(textpage).text
                        if not text:
                            reason = PICTURE if has_picture(page) else "blank: no text on it"
            except pypdfium2.PdfiumError:
                reason = "damaged: it cannot be opened"
            reasons.add(reason)
            yield {"page": {"number": index + 1, "text": text, "unreadable": reason}}
        if None in reasons:
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


def extract(textpage: Any) -> CleanPage:
    """The page's clean text; `source` holds PDFium's character indices."""
    return clean_page(character_codes(textpage), partial(loose_box, textpage))


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


def unmapped_share(textpage: Any) -> float:
    """Share of the page's characters, of at most 500 taken evenly, that PDFium cannot turn into Unicode."""
    count = textpage.count_chars()
    sample = range(0, count, max(count // 500, 1))
    unmapped = [index for index in sample if pdfium_c.FPDFText_HasUnicodeMapError(textpage.raw, index) == 1]
    return len(unmapped) / max(len(sample), 1)


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
        # Before a page is loaded, else the fields of a form stay blank.
        pdf.init_forms()
        for number in numbers:
            if not 1 <= number <= len(pdf):
                raise Refused(f"has no page {number}: it has {len(pdf)}.")
            try:
                with closing(pdf[number - 1]) as page:
                    view = {"number": number, "png": _png(page, width), "words": _words(page)}
            except pypdfium2.PdfiumError:
                view = {"number": number, "png": "", "words": []}
            yield {"view": view}


def _words(page: Any) -> list[tuple[int, int, float, float, float, float]]:
    """The words of the page's clean text: first character, the one after the last, and the box, for each line that a
    word is on."""
    with closing(page.get_textpage()) as textpage:
        clean = extract(textpage)
        convert = pypdfium2.PdfPosConv(page, (0, 0, GRID, GRID, 0))
        words = []
        for word in WORDS.finditer(clean.text):
            boxes = [loose_box(textpage, index) for index in clean.source[word.start() : word.end()]]
            lines = (_on_page(line, convert) for line in merge_lines([box for box in boxes if box is not None]))
            words += [(word.start(), word.end(), *line) for line in lines if line is not None]
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
