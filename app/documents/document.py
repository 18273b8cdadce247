"""A document: the text of a file, page by page; and what reading one may cost."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

Kind = Literal["pdf", "txt", "md", "docx"]

PAGE_SEPARATOR = "\n\n"
"""Stands between two pages in `Document.text`."""


class DocumentError(ValueError):
    """A file that cannot be read; the message is a plain sentence that names it and says what to do."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one file may cost, and what text may be held in memory. What is beyond any of these is refused, never cut.

    `memory_bytes` limits the child process: its address space on Linux (by the kernel), its resident memory elsewhere
    (checked every 0.2 s, since macOS does not enforce the limit and Windows has none). `seconds` is wall-clock time for
    one reading or one picture.

    OCR is given `scanned_page_seconds` for each page that needs it, up to `scanned_pages` of a file, and
    `scanned_memory_bytes` more.

    `max_characters` is what one file may hold, and the documents of one visitor together; `all_characters` is for the
    documents of everybody. A character takes some ten bytes with all that is made of it.
    """

    max_bytes: int = 200_000_000
    max_pages: int = 2000
    max_characters: int = 10_000_000
    seconds: float = 120.0
    memory_bytes: int = 1_500_000_000
    scanned_pages: int = 200
    scanned_page_seconds: float = 60.0
    scanned_memory_bytes: int = 1_500_000_000
    all_characters: int = 200_000_000


class Word(NamedTuple):
    """A word on a page, or the part of it that is on one line.

    `start` to `end` are characters of `Page.text`. The box is in fractions of the page as it is shown; 0, 0 is the top
    left corner.
    """

    start: int
    end: int
    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True, slots=True)
class Page:
    """One page: `number` from 1, its text, and why it has none (`unreadable`), where it has none.

    `words` is where OCR found its words; empty where the file says itself where they are.
    """

    number: int
    text: str
    unreadable: str | None = None
    words: tuple[Word, ...] = ()

    @classmethod
    def from_json(cls, kept: dict[str, Any]) -> Page:
        """A page as JSON holds it, with lists for tuples.

        Raises:
            TypeError: it is none.
        """
        return cls(**{**kept, "words": tuple(Word(*word) for word in kept.get("words", ()))})


@dataclass(frozen=True)
class Document:
    """A file's text. `sha256` is that of its bytes and serves as its id.

    `page_word` is "page" where the file has pages (PDF, form feeds, Word's page breaks) and "part" where its text was
    cut here. `notes` are sentences about what the reader had to decide or leave out.
    """

    name: str
    sha256: str
    kind: Kind
    pages: tuple[Page, ...]
    page_word: Literal["page", "part"] = "page"
    notes: tuple[str, ...] = ()

    @cached_property
    def text(self) -> str:
        """All pages, joined with `PAGE_SEPARATOR`; a page without text stands there as an empty string."""
        return PAGE_SEPARATOR.join(page.text for page in self.pages)

    @cached_property
    def page_ranges(self) -> tuple[tuple[int, int], ...]:
        """(start, end) of each page in `text`, in the order of `pages`."""
        ranges = []
        start = 0
        for page in self.pages:
            ranges.append((start, start + len(page.text)))
            start += len(page.text) + len(PAGE_SEPARATOR)
        return tuple(ranges)

    @property
    def characters(self) -> int:
        """Of all pages."""
        return sum(len(page.text) for page in self.pages)

    @property
    def unreadable(self) -> tuple[Page, ...]:
        """The pages without text."""
        return tuple(page for page in self.pages if page.unreadable is not None)


def check_room(document: Document, visitors: int, everybodys: int, limits: Limits) -> None:
    """Raises DocumentError where a document's text does not go with what is held already.

    Args:
        visitors: characters of the visitor's other documents.
        everybodys: characters of all other documents in memory.
    """
    characters = document.characters
    if visitors + characters > limits.max_characters:
        raise DocumentError(
            f"{document.name} has {characters:,} characters, and your documents may have {limits.max_characters:,} "
            f"together, of which {visitors:,} are taken: remove another one, split it, or start the app with a larger "
            "--max-characters."
        )
    if everybodys + characters > limits.all_characters:
        raise DocumentError(
            f"{document.name} does not fit into the memory that everybody's documents share just now: try again later, "
            "or start the app with a larger --max-all-characters."
        )


def megabytes(size: int) -> str:
    """A size for people."""
    return f"{size / 1e6:,.0f} MB" if size >= 1e6 else f"{size:,} bytes"
