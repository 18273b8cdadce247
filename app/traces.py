"""Where each token of an answer looked, word by word: what glows on a page, and what the chat's tokens are joined to.

Made from the keys that the record holds one by one (`AttentionRecord.top_keys`), so that a browser can follow a hovered
token without asking the server again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .evidence import answer_rows, passage_squares

if TYPE_CHECKING:
    from selfextend.recording import AttentionRecord

    from .documents.index import TokenIndex
    from .session import Turn

ALL = "all"
"""Every recorded layer, or every head."""
MOST_KEYS = 48
"""Keys of one answer token that are sent to the browser."""
FAINTEST = 1e-3
"""Keys with a smaller part of the row's largest weight are left out: nobody would see them."""


def trace_of(turn: Turn, layer: str = ALL, head: str = ALL) -> dict[str, Any]:
    """Where each of the answer's tokens looked, as JSON holds it.

    A key's weight is the sum, over the chosen layers and heads, of the *square* of the attention that fell on it, as
    in `app.evidence.passage_squares`: a head that looks at one word counts for more than one that looks everywhere.

    Args:
        layer, head: an index that was recorded, as text, or "all".

    Returns:
        - `turn`: its id. `first_query`: the token index of the query that predicted the answer's first token.
        - `tokens`: the text of each token of the answer.
        - `documents`: the checksums of the documents, in the prompt's order.
        - `keys`: for each key that any row looked at: token index, document, page, and the characters [from, to) of
          the page's text that it covers.
        - `rows`: for each recorded answer token [[index into `keys`, weight], ...], the largest first; each row's
          largest weight is 1, so that rows compare by where they looked.
        - `pages`: for each recorded answer token [[document, page, share], ...]: its attention by page, which adds
          up to 1.
        - `citations`: rank, document, page and characters [from, to) of each cited passage.

    Raises:
        ValueError: a layer or head that was not recorded.
    """
    record, index = turn.answer.attention, turn.prompt.index
    traced: dict[str, Any] = {
        "turn": turn.id,
        "first_query": len(index) - 1,
        "tokens": list(turn.token_texts),
        "documents": [stored.document.sha256 for stored in turn.documents],
        "citations": [
            [cited.rank, cited.document, cited.page, cited.char_start, cited.char_end]
            for cited in turn.citations
        ],
        "keys": [], "rows": [], "pages": [],
    }  # fmt: skip
    if record is None:
        return traced
    layers, heads = chosen(layer, record.layers, "layer"), chosen(head, record.heads, "head")
    count = answer_rows(record, len(turn.answer.token_ids))
    places: dict[int, int] = {}
    for row in range(count):
        looked = weights_by_key(record, layers, heads, row)
        traced["rows"].append(
            [[places.setdefault(key, len(places)), weight] for key, weight in looked if index.place(key) is not None]
        )
    traced["keys"] = [[key, *(index.place(key) or ())] for key in places]
    traced["pages"] = _pages(record, index, layers, heads, count)
    return traced


def chosen(choice: str, recorded: Sequence[int], what: str) -> list[int]:
    """The places, among those recorded, of a layer or head named as text; all of them for "all".

    Raises:
        ValueError: it was not recorded.
    """
    if choice == ALL:
        return list(range(len(recorded)))
    if choice not in map(str, recorded):
        raise ValueError(f"There is no recorded {what} {choice}. Recorded: {', '.join(map(str, recorded))}.")
    return [list(recorded).index(int(choice))]


def weights_by_key(record: AttentionRecord, layers: list[int], heads: list[int], row: int) -> list[tuple[int, float]]:
    """The keys that a row looked at most and their weights, the largest first, as parts of the largest."""
    picked = np.ix_(layers, heads, [row], range(record.top_keys.shape[3]))
    keys, weights = record.top_keys[picked].ravel(), record.top_weights[picked].ravel().astype(np.float64)
    found, place = np.unique(keys[keys >= 0], return_inverse=True)
    summed = np.bincount(place, np.square(weights[keys >= 0]), minlength=len(found))
    if not len(found) or summed.max() <= 0:
        return []
    summed = summed / summed.max()
    order = np.argsort(-summed, kind="stable")[:MOST_KEYS]
    return [(int(found[n]), round(float(summed[n]), 4)) for n in order if summed[n] >= FAINTEST]


def _pages(
    record: AttentionRecord, index: TokenIndex, layers: list[int], heads: list[int], count: int
) -> list[list[list[float]]]:
    """For each row its attention by page: [[document, page, share], ...]."""
    passages, squares = passage_squares(record, index, count, layers, heads)
    if not passages:
        return [[] for _ in range(count)]
    owners = [(passage.document, passage.page) for passage in passages]  # those of a page stand together
    starts = [n for n, owner in enumerate(owners) if n == 0 or owner != owners[n - 1]]
    by_page = np.add.reduceat(squares, starts, axis=1)
    by_page = by_page / np.maximum(by_page.sum(axis=1, keepdims=True), np.finfo(float).tiny)
    return [
        [[*owners[n], round(float(share), 4)] for n, share in zip(starts, row, strict=True) if share >= FAINTEST]
        for row in by_page
    ]
