"""Reads PDF, TXT, MD and DOCX files into pages of text, finds where a passage is on a page, and draws the page.

Every file is opened in a child process with limits, so that a malicious one cannot harm the app. Nothing is left out
silently: a file that cannot be read completely is refused with a sentence that says what to do, and pages without text
are listed.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Literal, NamedTuple

from selfextend.steps import Progress

from .child import answers
from .document import Document, DocumentError, Limits, Page
from .kinds import kind_of
from .messages import Message


class Box(NamedTuple):
    """A rectangle on a page, in fractions of the page as it is shown; 0, 0 is the top left corner."""

    left: float
    top: float
    right: float
    bottom: float


def read_document_steps(path: Path, limits: Limits, name: str) -> Generator[Progress, None, Document]:
    """Reads a file: a `Progress` for each page and at least every 0.2 s. Closing the generator kills the child at once.

    Args:
        path: the file. Its kind is determined from its content first and its name second.
        limits: what it may cost.
        name: what to call it.

    Raises:
        DocumentError: missing, empty, locked, scanned, cut off, damaged, misnamed, unsupported, past a limit.
    """
    kind = kind_of(path, name, limits)
    yield Progress(f"reading {name}")
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    pages: list[Page] = []
    notes: list[str] = []
    total = 0
    page_word: Literal["page", "part"] = "page"
    request = {"task": "read", "kind": kind, "max_pages": limits.max_pages, "max_characters": limits.max_characters}
    with closing(answers(path, name, request, limits)) as messages:
        for message in messages:
            if "pages_total" in message:
                total = message["pages_total"]
                page_word = "part" if message.get("from_parts") else "page"
            elif "page" in message:
                pages.append(Page(**message["page"]))
            elif "notes" in message:
                notes += message["notes"]
            words = f"reading {name}: {len(pages):,} of {total or '?'} pages"
            yield Progress(words, len(pages) / total if total else None)
    if page_word == "part":
        notes.insert(0, "It has no pages of its own: it was cut into parts of at most 3,000 characters.")
    return Document(name, sha256, kind, tuple(pages), page_word, tuple(notes))


def passage_boxes(path: str | Path, page: int, char_start: int, char_end: int) -> list[Box]:
    """Where characters `char_start` to `char_end` of a PDF page's text are on it: one box for each line.

    Args:
        path: the PDF that the `Document` was read from.
        page: the page's number, from 1.
        char_start: first character in `Page.text`.
        char_end: the character after the last.

    Raises:
        DocumentError: no such page or characters, or no PDF: the other kinds have no page to point at.
    """
    message = _pdf_answer(path, {"task": "boxes", "page": page, "start": char_start, "end": char_end})
    return [Box(*box) for box in message["boxes"]]


def page_image(path: str | Path, page: int, boxes: Sequence[Box] = (), width: int = 1000) -> bytes:
    """A PDF page as PNG, `width` pixels wide, with `boxes` marked as with a highlighter.

    A page so long that this would exceed 16 million pixels comes out narrower.

    Raises:
        DocumentError: no such page, or no PDF.
    """
    message = _pdf_answer(path, {"task": "image", "page": page, "boxes": boxes, "width": width})
    return base64.b64decode(message["png"])


def _pdf_answer(path: str | Path, request: Message) -> Message:
    path, limits = Path(path), Limits()
    if kind_of(path, path.name, limits) != "pdf":
        raise DocumentError(f"{path.name} is not a PDF: there is no page to draw.")
    with closing(answers(path, path.name, request, limits)) as messages:
        (message,) = filter(None, messages)  # empty ones only mark time
    return message
