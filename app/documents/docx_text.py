"""Text of DOCX files, cut into pages. Runs in the child process (`app.documents.worker`)."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from typing import Any

import docx
import docx.opc.exceptions

from .messages import Message, Refused, too_long
from .text import parts

ARCHIVES = {
    "xl/workbook.xml": "an Excel workbook",
    "ppt/presentation.xml": "a PowerPoint presentation",
    "META-INF/container.xml": "an e-book (EPUB)",
    "content.xml": "an OpenDocument file",
}
"""What a ZIP archive is, by a file in it."""


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
                " | ".join(" ".join(" ".join(docx_blocks(cell, page_break)).split()) for cell in _own(row, "tc"))
                for row in _own(child, "tr")
            )
        elif name not in DOCX_SKIPPED:
            yield from docx_blocks(child, page_break)


def _own(element: Any, name: str) -> Iterator[Any]:
    """A table's own rows ("tr") or a row's own cells ("tc"), also in content controls; not those of inner tables."""
    for child in element.iterchildren("*"):
        found = child.tag.rpartition("}")[2]
        if found == name:
            yield child
        elif found not in DOCX_SKIPPED:
            yield from _own(child, name)


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
