"""PDF pages with pypdfium2: their text, their picture, where their words are. Runs in the child process."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pypdfium2
import pypdfium2.raw as pdfium_c

from . import ocr
from .messages import Message, Refused, check_pages, too_long
from .page_text import WORDS, Rectangle
from .pdf_text import PageText, UnmappedText, printed_text, with_fields
from .scans import ScanReader

GRID = 10_000
"""Steps across a page in which boxes are computed before they become fractions."""

MAX_PIXELS = 16_000_000
MAX_SIDE = 16_383
"""Pixels of a picture as WebP, which knows no longer ones."""
MOST_COLOURS = 4096
"""Of a page of text and drawings; a photograph has more."""
UNMAPPED = "its fonts do not say which letters they show"
PICTURE = "only a picture, no text"
BLANK = "blank: no text on it"
DAMAGED = "damaged: it cannot be opened"
LITTLE_TEXT = 40
"""Characters: a picture over more than half a page with no more text than this beside it is taken for a scan."""

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


def read_pdf(path: str, max_pages: int, max_characters: int, scanned_pages: int | None) -> Iterator[Message]:
    """Reads all pages.

    Args:
        scanned_pages: how many pages may be read by OCR, which takes seconds each; None where it is not installed.

    Raises:
        Refused: cut off, damaged or locked, too long, or no text on any page.
    """
    with closing(open_pdf(path)) as pdf:
        total = len(pdf)
        if total == 0:
            raise Refused("has no pages.")
        check_pages(total, max_pages, "pages")
        yield {"pages_total": total}
        reading = _Reading(pdf, max_characters, scanned_pages)
        for number in range(1, total + 1):
            yield from reading.page(number)
        reading.check_text()
        if notes := reading.notes():
            yield {"notes": notes}


class _Reading:
    """One reading of a PDF from its first page to its last, and what is to be said of it then."""

    def __init__(self, pdf: Any, max_characters: int, scanned_pages: int | None) -> None:
        self._pdf = pdf
        self._max_characters = max_characters
        self._characters = 0
        self._scanned_pages = scanned_pages
        self._scans = ScanReader()
        self._has_text = False
        self._reasons: set[str] = set()
        self._scanned: list[int] = []
        self._unsure: list[int] = []
        self._pictures: list[int] = []

    def page(self, number: int) -> Iterator[Message]:
        """Reads a page; says before it if that is going to take long, since it is read by OCR."""
        words: list[tuple[int, int, float, float, float, float]] = []
        text, reason, problem = "", None, None
        try:
            with closing(self._pdf[number - 1]) as page, closing(page.get_textpage()) as textpage:
                self._count(textpage.count_chars())
                read, reason = _printed(page, textpage)
                problem = reason
                if reason in (PICTURE, UNMAPPED):
                    problem = self._why_not_by_ocr(reason)
                    if problem is None:
                        self._scanned.append(number)
                        yield {"scanned": number}
                        read = self._scans.read(page)
                        self._count(len(read.text))
                        problem = None if read.text else f"{reason}: OCR finds none on it either"
                read = with_fields(read, self._pdf, page)
                text = read.text
                if number in self._scanned:
                    words = _words(read, page)
        except pypdfium2.PdfiumError:
            reason = problem = DAMAGED
        if text and problem is not None:
            self._pictures.append(number)
        elif text and reason is None and read.unsure:
            self._unsure.append(number)
        if text:
            self._has_text = True
        elif reason is not None:
            self._reasons.add(reason)
        page_of_it = {"number": number, "text": text, "unreadable": None if text else problem, "words": words}
        yield {"page": page_of_it}

    def _count(self, characters: int) -> None:
        self._characters += characters
        if self._characters > self._max_characters:
            raise Refused(too_long(self._max_characters))

    def _why_not_by_ocr(self, reason: str) -> str | None:
        if self._scanned_pages is None:
            return f"{reason}: needs OCR ({ocr.HOW_TO_INSTALL})"
        if len(self._scanned) >= self._scanned_pages:
            return f"{reason}: OCR reads no more than {self._scanned_pages:,} pages of a file"
        return None

    def check_text(self) -> None:
        """Raises Refused where no page has text."""
        if self._has_text:
            return
        if self._scanned_pages is None:
            remedy = f"To read it here: {ocr.HOW_TO_INSTALL}. Or run it through OCR elsewhere and use the result."
        else:
            remedy = "OCR finds none either: scan it anew, sharper and upright."
        if PICTURE in self._reasons:
            raise Refused(f"is a scan: its pages are pictures without a text layer. {remedy}")
        if UNMAPPED in self._reasons:
            raise Refused(f"has text that cannot be read: its fonts do not say which letters they show. {remedy}")
        raise Refused("is empty: there is no text on any of its pages.")

    def notes(self) -> list[str]:
        """What a reader of the text should know."""
        notes = []
        if self._scanned:
            notes.append(f"Read from a picture by OCR, which may misread: page {_listed(self._scanned)}.")
        if self._pictures:
            notes.append(f"Mostly a picture, whose text is not read: page {_listed(self._pictures)}.")
        if self._unsure:
            doubt = f"The fonts on page {_listed(self._unsure)} do not say which letters they show"
            notes.append(
                f"{doubt}: they were read by their codes, which look like writing. Compare them with the page."
            )
        if self._pdf.get_formtype() == pdfium_c.FORMTYPE_XFA_FULL:
            notes.append("Its form is of a kind (XFA) that is not read here: print it to a PDF to include its fields.")
        return notes


def _listed(pages: Sequence[int]) -> str:
    return ", ".join(f"{page:,}" for page in pages[:10]) + ("…" if len(pages) > 10 else "")


def _printed(page: Any, textpage: Any) -> tuple[PageText, str | None]:
    """The text that a page holds as text, and why this is not all of it, or none; None where it is all."""
    try:
        read = printed_text(textpage)
    except UnmappedText:
        return PageText("", lambda place: None), UNMAPPED
    if not read.text:
        return read, PICTURE if has_picture(page) else BLANK
    if len(read.text) <= LITTLE_TEXT and picture_share(page) > 0.5:
        return read, PICTURE
    return read, None


def has_picture(page: Any) -> bool:
    return any(True for _ in page.get_objects(filter=[pdfium_c.FPDF_PAGEOBJ_IMAGE], max_depth=4))


def picture_share(page: Any) -> float:
    """Share of a page that the largest picture on it covers."""
    width, height = page.get_size()
    if page.get_rotation() % 180:
        width, height = height, width
    share = 0.0
    for picture in page.get_objects(filter=[pdfium_c.FPDF_PAGEOBJ_IMAGE], max_depth=1):
        left, bottom, right, top = picture.get_bounds()
        share = max(share, (right - left) * (top - bottom) / max(width * height, 1.0))
    return share


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
    """Each of these pages as it is shown: its picture, `width` pixels wide, and where its words are, unless they were
    read by OCR: what that found is kept with the page's text.

    A page so long that this would exceed `MAX_PIXELS` or `MAX_SIDE` comes out narrower; one that cannot be opened has
    no picture.

    Raises:
        Refused: no such page.
    """
    with closing(open_pdf(path)) as pdf:
        for number in numbers:
            if not 1 <= number <= len(pdf):
                raise Refused(f"has no page {number}: it has {len(pdf)}.")
            try:
                with closing(pdf[number - 1]) as page, closing(page.get_textpage()) as textpage:
                    words = _words(with_fields(_printed(page, textpage)[0], pdf, page), page)
                    view = {"number": number, "picture": _picture(page, width), "words": words}
            except pypdfium2.PdfiumError:
                view = {"number": number, "picture": "", "words": []}
            yield {"view": view}


def _words(read: PageText, page: Any) -> list[tuple[int, int, float, float, float, float]]:
    """The words of a page's text: first character, the one after the last, and the box, for each line that a word is
    on."""
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


def _picture(page: Any, width: int) -> str:
    """The page as WebP, in base64: exact where it has few colours, as text has; a photograph would be megabytes so."""
    page_width, page_height = max(page.get_width(), 1.0), max(page.get_height(), 1.0)
    scale = min(
        width / page_width,
        (MAX_PIXELS / (page_width * page_height)) ** 0.5,
        (MAX_SIDE - 1) / max(page_width, page_height),  # a side is rounded up
    )
    buffer = io.BytesIO()
    picture = page.render(scale=scale).to_pil().convert("RGB")
    is_exact = picture.getcolors(MOST_COLOURS) is not None
    picture.save(buffer, "WEBP", lossless=is_exact, method=3 if is_exact else 2, quality=80)
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
