"""The pages of documents as a browser shows them, kept for a while, since many look at the same ones."""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any
from weakref import ref

from .documents.library import StoredDocument
from .documents.page_text import WORDS
from .documents.reader import page_sizes, page_views
from .sample import is_sample

PICTURE_WIDTH = 900
"""Pixels: sharp in a column of 600 on most screens."""
AT_ONCE = 8
"""Pages that may be asked for in one go."""
KEPT = 200
"""Pages kept in memory; one takes about 0.2 MB."""
MOST_HITS = 500


class Pages:
    """Draws pages and keeps them, the most recently asked for last. Safe to use from several threads.

    Args:
        share: whether a page that was drawn for one visitor is given to another. Time then tells whether somebody has
            looked at it; of the sample it is no secret.
    """

    def __init__(self, *, share: bool = False) -> None:
        self._share = share
        self._kept: OrderedDict[tuple[ref[StoredDocument] | str, int], dict[str, Any]] = OrderedDict()
        self._lock = threading.Lock()

    def forget(self, sha256: str) -> None:
        """Keep nothing of a document: its file was deleted."""
        with self._lock:
            for key in [key for key in self._kept if _checksum(key[0]) in (sha256, None)]:
                del self._kept[key]

    def sizes(self, stored: StoredDocument) -> list[tuple[float, float]]:
        """Width and height of each page of a PDF; empty for other kinds, whose text flows.

        Raises:
            DocumentError: the file cannot be opened any more.
        """
        return page_sizes(stored.path) if stored.document.kind == "pdf" else []

    def views(self, stored: StoredDocument, numbers: Iterable[int]) -> list[dict[str, Any]]:
        """Pages as JSON holds them, in the order asked for.

        Returns:
            For each page its `number`, `text`, and `words`: [start, end], characters of the text, followed by the box
            (left, top, right, bottom, as fractions of the page) where the page is a picture. `picture` is WebP in
            base64, "" where there is none: the words are then to be set as text.

        Raises:
            DocumentError: the file cannot be opened any more.
            ValueError: no such page, or more than `AT_ONCE`.
        """
        wanted = list(dict.fromkeys(numbers))
        pages = {page.number: page for page in stored.document.pages}
        if len(wanted) > AT_ONCE or not all(number in pages for number in wanted):
            raise ValueError(f"Up to {AT_ONCE} pages of the {len(pages):,} of {stored.document.name} can be shown.")
        # Each visitor has a StoredDocument of his own, which is compared by identity.
        whose = stored.document.sha256 if self._share or is_sample(stored) else ref(stored)
        keys = {number: (whose, number) for number in wanted}
        with self._lock:
            found = {number: self._kept[key] for number, key in keys.items() if key in self._kept}
        missing = [number for number in wanted if number not in found]
        found |= {view["number"]: view for view in self._draw(stored, missing)} if missing else {}
        with self._lock:
            for number, key in keys.items():
                self._kept[key] = found[number]
                self._kept.move_to_end(key)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return [found[number] for number in wanted]

    def _draw(self, stored: StoredDocument, numbers: Sequence[int]) -> list[dict[str, Any]]:
        pages = {page.number: page for page in stored.document.pages}
        if stored.document.kind != "pdf":
            return [_as_text(number, pages[number].text) for number in numbers]
        views = []
        for view in page_views(stored.path, numbers, PICTURE_WIDTH):
            text = pages[view.number].text
            # A text that an earlier version kept may end before what is filled into the page's form.
            found = pages[view.number].words or [word for word in view.words if word.end <= len(text)]
            if not view.picture:
                views.append(_as_text(view.number, text))
                continue
            words = [[word.start, word.end, *(round(edge, 4) for edge in word[2:])] for word in found]
            views.append({"number": view.number, "text": text, "picture": view.picture, "words": words})
        return views


def _checksum(whose: ref[StoredDocument] | str) -> str | None:
    """Of the document that a page is kept for; None where nobody holds it any more."""
    if isinstance(whose, str):
        return whose
    stored = whose()
    return stored.document.sha256 if stored else None


def _as_text(number: int, text: str) -> dict[str, Any]:
    words = [list(word.span()) for word in WORDS.finditer(text)]
    return {"number": number, "text": text, "picture": "", "words": words}


def find_text(stored: StoredDocument, wanted: str) -> list[list[int]]:
    """Where a document's pages have this text, whatever its case and blanks: [page, from, to), at most `MOST_HITS`."""
    words = [re.escape(word) for word in wanted.split()]
    if not words:
        return []
    pattern = re.compile(r"\s+".join(words), re.IGNORECASE)
    hits = ([page.number, *hit.span()] for page in stored.document.pages for hit in pattern.finditer(page.text))
    return list(islice(hits, MOST_HITS))
