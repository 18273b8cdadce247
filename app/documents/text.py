"""Text of TXT, MD and DOCX files, cut into pages. Runs in the child process (`app.documents.worker`)."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import charset_normalizer
import docx
import docx.opc.exceptions

from .messages import Message, Refused, check_pages, too_long
from .page_text import PART_CHARS, clean_plain, cut_into_parts

ARCHIVES = {
    "xl/workbook.xml": "an Excel workbook",
    "ppt/presentation.xml": "a PowerPoint presentation",
    "META-INF/container.xml": "an e-book (EPUB)",
    "content.xml": "an OpenDocument file",
}
"""What a ZIP archive is, by a file in it."""


def read_text(path: str, max_pages: int, max_characters: int) -> Iterator[Message]:
    """Reads a text file: its byte order mark, UTF-8, else the most likely encoding.

    Raises:
        Refused: not text, too long, or nothing but blanks in it.
    """
    if Path(path).stat().st_size > 4 * max_characters:
        raise Refused(too_long(max_characters))
    text, encoding = decode(Path(path).read_bytes())
    notes = [f"Its characters were read as {encoding}, the most likely encoding."] if encoding else []
    yield from parts(text, max_pages, max_characters, notes)


def decode(data: bytes) -> tuple[str, str | None]:
    """The text, and the encoding where it had to be guessed."""
    for mark, encoding in (
        (b"\xef\xbb\xbf", "utf-8-sig"),
        (b"\xff\xfe\0\0", "utf-32"),
        (b"\0\0\xfe\xff", "utf-32"),
        (b"\xff\xfe", "utf-16"),
        (b"\xfe\xff", "utf-16"),
    ):
        if data.startswith(mark):
            return data.decode(encoding, errors="replace"), None
    sample = data[:200_000]
    zeros = sample.count(0)
    if zeros > 0.2 * len(sample):
        # UTF-16 without its mark: the high bytes of Latin text are zeros, all on one side.
        odd = sample[1::2].count(0) / zeros
        if odd > 0.95 or odd < 0.05:
            encoding = "utf-16-le" if odd > 0.5 else "utf-16-be"
            return data.decode(encoding, errors="replace"), encoding
    if sum(sample.count(code) for code in [*range(9), *range(14, 27), 28, 29, 30, 31]) > 0.01 * len(sample):
        raise Refused("is not a text file: it holds binary data. Use a PDF, TXT, MD or DOCX file.")
    try:
        return data.decode("utf-8"), None
    except UnicodeDecodeError:
        best = charset_normalizer.from_bytes(sample).best()
        encoding = best.encoding if best is not None else "cp1252"
        return data.decode(encoding, errors="replace"), encoding


def parts(text: str, max_pages: int, max_characters: int, notes: list[str]) -> Iterator[Message]:
    if len(text) > max_characters:
        raise Refused(too_long(max_characters))
    sheets, from_form_feeds = cut_into_parts(clean_plain(text))
    if not any(sheet.strip() for sheet in sheets):
        raise Refused("is empty: there is no text in it.")
    check_pages(len(sheets), max_pages, "pages" if from_form_feeds else f"parts of {PART_CHARS:,} characters")
    yield {"pages_total": len(sheets), "from_parts": not from_form_feeds}
    for number, sheet in enumerate(sheets, start=1):
        reason = None if sheet.strip() else "blank: no text on it"
        yield {"page": {"number": number, "text": sheet if reason is None else "", "unreadable": reason}}
    if notes:
        yield {"notes": notes}


def read_docx(path: str, max_pages: int, max_characters: int) -> Iterator[Message]:
    """Reads a Word file: paragraphs and tables in order, pages at the page breaks that Word saved, if any."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
            unpacked = sum(entry.file_size for entry in archive.infolist() if entry.filename.endswith(".xml"))
    except (zipfile.BadZipFile, EOFError, OSError, ValueError):
        raise Refused("is damaged or cut off. Download or copy it again, or save it anew.") from None
    if "word/document.xml" not in names:
        kind = next((kind for entry, kind in ARCHIVES.items() if entry in names), "a ZIP archive")
        raise Refused(f"is {kind}, not a Word document. Use a PDF, TXT, MD or DOCX file.")
    if unpacked > 20 * max_characters:
        raise Refused(too_long(max_characters))

    try:
        body = docx.Document(path).element.body
    except (KeyError, ValueError, SyntaxError, OSError, zipfile.BadZipFile, docx.opc.exceptions.OpcError):
        raise Refused("is a damaged Word document: open it in a word processor and save it anew.") from None
    left_out = {
        "pictures": ".//a:blip",
        "footnotes": ".//w:footnoteReference | .//w:endnoteReference",
        "comments": ".//w:commentReference",
        "headers and footers": ".//w:headerReference | .//w:footerReference",
    }
    missing = [what for what, path_to_it in left_out.items() if body.xpath(path_to_it)]
    notes = [f"Not read: {', '.join(missing)}. Save it as a PDF to include them."] if missing else []
    # Word writes where its pages began when it last saved the file; other programs leave only the breaks that
    # the author put in.
    page_break = "lastRenderedPageBreak" if body.xpath(".//w:lastRenderedPageBreak") else "br"
    blocks = list(docx_blocks(body, page_break))
    yield from parts("\n\n".join(blocks), max_pages, max_characters, notes)


DOCX_SKIPPED = {"del", "moveFrom", "Fallback", "pPr", "rPr", "sectPr"}
"""Deleted text, the second copy of a text box, and formatting."""


def docx_blocks(element: Any, page_break: str) -> Iterator[str]:
    """Texts of the paragraphs and tables under a Word element, in order.

    Walks the XML itself: python-docx's `Paragraph.text` leaves out content controls, tracked insertions and
    text boxes without a word.
    """
    for child in element.iterchildren("*"):
        name = child.tag.rpartition("}")[2]
        if name == "p":
            yield docx_paragraph(child, page_break)
        elif name == "tbl":
            yield "\n".join(
                " | ".join(" ".join(" ".join(docx_blocks(cell, page_break)).split()) for cell in row)
                for row in ([*row.iterchildren("{*}tc", "{*}sdt")] for row in child.iter("{*}tr"))
            )
        elif name not in DOCX_SKIPPED:
            yield from docx_blocks(child, page_break)


def docx_paragraph(element: Any, page_break: str) -> str:
    pieces = []
    if page_break == "br" and element.find("{*}pPr/{*}pageBreakBefore") is not None:
        pieces.append("\f")
    for child in element.iterchildren("*"):
        name = child.tag.rpartition("}")[2]
        kind = next((value for key, value in child.attrib.items() if key.endswith("}type")), None)
        if name == "t":
            pieces.append(child.text or "")
        elif name == "tab":
            pieces.append("\t")
        elif name == page_break and (name != "br" or kind == "page"):
            pieces.append("\f")
        elif name in ("br", "cr"):
            pieces.append("\n")
        elif name == "noBreakHyphen":
            pieces.append("-")
        elif name == "txbxContent":
            pieces.append("\n" + "\n".join(docx_blocks(child, page_break)) + "\n")
        elif name not in DOCX_SKIPPED:
            pieces.append(docx_paragraph(child, page_break))
    return "".join(pieces)
