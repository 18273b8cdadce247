"""The pages of documents as a browser shows them, kept for a while, since many look at the same ones."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

from .documents.library import StoredDocument
from .documents.page_text import WORDS
from .documents.reader import page_sizes, page_views

PICTURE_WIDTH = 900
"""Pixels: sharp in a column of 600 on most screens."""
AT_ONCE = 8
"""Pages that may be asked for in one go."""
KEPT = 200
"""Pages kept in memory; one takes about 0.2 MB."""
MOST_HITS = 500


class Pages:
    """Draws pages and keeps them, the most recently asked for last. Safe to use from several threads."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, int], dict[str, Any]] = OrderedDict()
        self._lock = threading.Lock()

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
            (left, top, right, bottom, as fractions of the page) where the page is a picture. `png` is the picture in
            base64, "" where there is none: the words are then to be set as text.

        Raises:
            DocumentError: the file cannot be opened any more.
            ValueError: no such page, or more than `AT_ONCE`.
        """
        wanted = list(dict.fromkeys(numbers))
        pages = {page.number: page for page in stored.document.pages}
        if len(wanted) > AT_ONCE or not all(number in pages for number in wanted):
            raise ValueError(f"Up to {AT_ONCE} pages of the {len(pages):,} of {stored.document.name} can be shown.")
        sha256 = stored.document.sha256
        with self._lock:
            missing = [number for number in wanted if (sha256, number) not in self._kept]
        drawn = self._draw(stored, missing) if missing else []
        with self._lock:
            for view in drawn:
                self._kept[sha256, view["number"]] = view
            found = {number: self._kept.get((sha256, number)) for number in wanted}
            for number in wanted:
                if (sha256, number) in self._kept:
                    self._kept.move_to_end((sha256, number))
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        fresh = {view["number"]: view for view in drawn}
        return [found[number] or fresh[number] for number in wanted]

    def forget(self, sha256: str) -> None:
        """Let go of a document's pages."""
        with self._lock:
            for key in [key for key in self._kept if key[0] == sha256]:
                del self._kept[key]

    def _draw(self, stored: StoredDocument, numbers: Sequence[int]) -> list[dict[str, Any]]:
        pages = {page.number: page for page in stored.document.pages}
        if stored.document.kind != "pdf":
            return [_as_text(number, pages[number].text) for number in numbers]
        views = []
        for view in page_views(stored.path, numbers, PICTURE_WIDTH):
            text = pages[view.number].text
            if not view.png:
                views.append(_as_text(view.number, text))
                continue
            words = [[word.start, word.end, *(round(edge, 4) for edge in word[2:])] for word in view.words]
            views.append({"number": view.number, "text": text, "png": view.png, "words": words})
        return views


def _as_text(number: int, text: str) -> dict[str, Any]:
    return {"number": number, "text": text, "png": "", "words": [list(word.span()) for word in WORDS.finditer(text)]}


def find_text(stored: StoredDocument, wanted: str) -> list[list[int]]:
    """Where a document's pages have this text, whatever its case: [page, from, to), at most `MOST_HITS`."""
    wanted = " ".join(wanted.split()).casefold()
    hits: list[list[int]] = []
    if not wanted:
        return hits
    for page in stored.document.pages:
        # Newlines are blanks to whoever looks for words. Lower case, unlike casefold(), keeps the places of most texts.
        text = page.text.lower().replace("\n", " ")
        text = text if len(text) == len(page.text) else page.text.replace("\n", " ")
        start = text.find(wanted)
        while start >= 0 and len(hits) < MOST_HITS:
            hits.append([page.number, start, start + len(wanted)])
            start = text.find(wanted, start + len(wanted))
    return hits
