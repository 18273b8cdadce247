"""Text of TXT and MD files, cut into pages. Runs in the child process (`app.documents.worker`)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .decoding import decode
from .messages import Message, Refused, check_pages, too_long
from .page_text import PART_CHARS, clean_plain, cut_into_parts


def read_text(path: str, max_pages: int, max_characters: int) -> Iterator[Message]:
    """Reads a text file: its byte order mark, UTF-8, else the most likely encoding.

    Raises:
        Refused: not text, too long, or nothing but blanks in it.
    """
    if Path(path).stat().st_size > 4 * max_characters:
        raise Refused(too_long(max_characters))
    text, notes = decode(Path(path).read_bytes())
    yield from parts(text, max_pages, max_characters, notes)


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
