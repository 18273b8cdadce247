"""PDF pages with pypdfium2: their text, the boxes of a passage, their picture. Runs in the child process."""

from __future__ import annotations

import ctypes
import io
import os
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pypdfium2
import pypdfium2.raw as pdfium_c
from PIL import Image, ImageChops, ImageDraw

from .messages import Message, Refused, check_pages, too_long
from .page_text import CleanPage, Rectangle, clean_page

GRID = 10_000
"""Steps across a page in which boxes are computed before they become fractions."""

MAX_PIXELS = 16_000_000
UNMAPPED_SHARE = 0.2
"""A page with a larger share of characters that have no Unicode value counts as unreadable."""

UNMAPPED = "its fonts do not say which letters they show: needs OCR"
PICTURE = "only a picture, no text: needs OCR"

HIGHLIGHT = (255, 226, 110)
OUTLINE = (166, 84, 0)

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


def get_page(pdf: Any, number: int) -> Any:
    if not 1 <= number <= len(pdf):
        raise Refused(f"has no page {number}: it has {len(pdf)}.")
    try:
        return pdf[number - 1]
    except pypdfium2.PdfiumError:
        raise Refused(f"cannot be opened at page {number}: the page is damaged.") from None


def passage_boxes(path: str, number: int, start: int, end: int) -> list[FractionBox]:
    """Boxes of the characters `start` to `end` of the page's clean text, one for each line that they are on."""
    with (
        closing(open_pdf(path)) as pdf,
        closing(get_page(pdf, number)) as page,
        closing(page.get_textpage()) as textpage,
    ):
        clean = extract(textpage)
        if not 0 <= start <= end <= len(clean.text):
            raise Refused(f"has no characters {start} to {end} on page {number}: it has {len(clean.text)}.")
        wanted = {clean.source[k] for k in range(start, end) if not clean.text[k].isspace()}
        characters = [box for index in sorted(wanted) if (box := loose_box(textpage, index)) is not None]
        convert = pypdfium2.PdfPosConv(page, (0, 0, GRID, GRID, 0))
        boxes = []
        for line in merge_lines(characters):
            corners = [convert.to_bitmap(line[0], line[1]), convert.to_bitmap(line[2], line[3])]
            left, right = sorted(min(max(x, 0), GRID) / GRID for x, _ in corners)
            top, bottom = sorted(min(max(y, 0), GRID) / GRID for _, y in corners)
            if right > left and bottom > top:
                boxes.append((left, top, right, bottom))
        return boxes


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


def highlighter(size: tuple[int, int], boxes: list[list[float]]) -> Image.Image:
    """The marks alone, on white: boxes that stand close one below the other share one outline."""
    width, height = size
    marks = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(marks)
    line = max(round(width / 500), 1)
    corners = [
        (round(left * width), round(top * height), round(right * width), round(bottom * height))
        for left, top, right, bottom in boxes
    ]
    for left, top, right, bottom in corners:
        draw.rectangle((left - line, top - line, right + line, bottom + line), fill=OUTLINE)
    for box in corners:
        draw.rectangle(box, fill=HIGHLIGHT)
    for above, below in pairwise(corners):
        left, right = max(above[0], below[0]), min(above[2], below[2])
        if left < right and 0 < below[1] - above[3] < 2 * line:
            draw.rectangle((left, above[3], right, below[1]), fill=HIGHLIGHT)
    return marks


def page_png(path: str, number: int, boxes: list[list[float]], width: int) -> bytes:
    """The page as a PNG `width` pixels wide, its `boxes` marked as with a highlighter."""
    with closing(open_pdf(path)) as pdf:
        # Before the page is loaded, else the fields of a form stay blank.
        pdf.init_forms()
        with closing(get_page(pdf, number)) as page:
            page_width, page_height = max(page.get_width(), 1.0), max(page.get_height(), 1.0)
            scale = min(width / page_width, (MAX_PIXELS / (page_width * page_height)) ** 0.5)
            image = page.render(scale=scale).to_pil().convert("RGB")
    if boxes:
        # Multiplying keeps the letters black under the colour.
        image = ImageChops.multiply(image, highlighter(image.size, boxes))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()
