"""Text of TXT, MD and DOCX files, cut into pages. Runs in the child process (`app.documents.worker`)."""

from __future__ import annotations

import re
import unicodedata
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chardet
import docx
import docx.opc.exceptions

from .messages import Message, Refused, check_pages, too_long
from .page_text import PART_CHARS, clean_plain, cut_into_parts
from .words import words_of_one_script

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
    text, notes = decode(Path(path).read_bytes())
    yield from parts(text, max_pages, max_characters, notes)


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
