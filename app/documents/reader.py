"""Reads PDF, TXT, MD and DOCX files into pages of text, draws PDF pages and finds where their words are.

Every file is opened in a child process with limits, so that a malicious one cannot harm the app. Nothing is left out
silently: a file that cannot be read completely is refused with a sentence that says what to do, and pages without text
are listed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Literal, NamedTuple

from selfextend.steps import Progress

from . import ocr
from .child import answers
from .document import Document, DocumentError, Limits, Page, Word
from .kinds import kind_of
from .messages import Message


class PageView(NamedTuple):
    """How a PDF page looks: its picture, WebP in base64 ("" where the page is damaged), and where its words are."""

    number: int
    picture: str
    words: tuple[Word, ...]


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
    scanned = False
    page_word: Literal["page", "part"] = "page"
    request = {
        "task": "read",
        "kind": kind,
        "max_pages": limits.max_pages,
        "max_characters": limits.max_characters,
        "scanned_pages": limits.scanned_pages if ocr.is_installed() else None,
    }
    with closing(answers(path, name, request, limits)) as messages:
        for message in messages:
            if "pages_total" in message:
                total = message["pages_total"]
                page_word = "part" if message.get("from_parts") else "page"
            elif "page" in message:
                pages.append(Page.from_json(message["page"]))
            elif "notes" in message:
                notes += message["notes"]
            scanned = scanned or "scanned" in message
            how = " by OCR" if scanned else ""
            words = f"reading {name}{how}: {len(pages):,} of {total or '?'} pages"
            yield Progress(words, len(pages) / total if total else None)
    if page_word == "part":
        notes.insert(0, "It has no pages of its own: it was cut into parts of at most 3,000 characters.")
    return Document(name, sha256, kind, tuple(pages), page_word, tuple(notes))


def page_sizes(path: Path) -> list[tuple[float, float]]:
    """Width and height of each page of a PDF, in PDF units.

    Raises:
        DocumentError: no PDF, or one that cannot be opened.
    """
    (message,) = _pdf_answers(path, {"task": "sizes"})
    return [(width, height) for width, height in message["sizes"]]


def page_views(path: Path, numbers: Sequence[int], width: int) -> list[PageView]:
    """How PDF pages look, in one go: starting the child process takes longer than drawing a page.

    Args:
        numbers: of the pages, from 1.
        width: of the pictures, in pixels. A page so long that it would exceed 16 million pixels comes out narrower.

    Raises:
        DocumentError: no such page, no PDF, or one that cannot be opened.
    """
    messages = _pdf_answers(path, {"task": "views", "pages": list(numbers), "width": width})
    return [
        PageView(view["number"], view["picture"], tuple(Word(*word) for word in view["words"]))
        for view in (message["view"] for message in messages)
    ]


def _pdf_answers(path: Path, request: Message) -> list[Message]:
    limits = Limits()
    if kind_of(path, path.name, limits) != "pdf":
        raise DocumentError(f"{path.name} is not a PDF: there is no page to draw.")
    with closing(answers(path, path.name, request, limits)) as messages:
        return list(filter(None, messages))  # empty ones only mark time
