"""From recorded attention to pages and passages.

Citations are looked up in the attention by token; the model writes none of them. Attention is not proof: what a
passage did for an answer is only known by taking it away, which `app.whatif` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from selfextend.positions import PositionMap, relative_position

from .documents.index import Passage, TokenIndex

if TYPE_CHECKING:
    from selfextend.recording import AttentionRecord, RecordingRequest

Level = Literal["neighbor", "grouped"]
Floats = npt.NDArray[np.floating[Any]]

MAX_BYTES = 128 * 2**20
MAX_ROWS = 128
"""Answer tokens whose attention is kept."""
TOP_KEYS = 24
"""Of each answer token under each head, so many tokens of the documents are kept one by one: what glows on the page."""
ENOUGH_LAYERS = 8
"""As many layers are kept before passages are merged to save room."""
CITATIONS = 5
FAINT = 0.02
"""A share below which a citation is faint. Shares are squares that add up to 1 over all passages: a passage below this
got less than a seventh of the attention that the only one to be looked at would have got, and its bar is unseen."""


@dataclass(frozen=True)
class Citation:
    """A passage that the answer's tokens looked at.

    Attributes:
        rank: 1 is the one looked at most.
        document: place in the index's `documents`, from 0; `name` is its name.
        page: its number, from 1; `page_word` is "page" or "part".
        text: of the passage.
        share: its part of what the answer's tokens paid to all passages of all documents, 0 to 1.
        level: "neighbor", the model saw it at its exact relative position, or "grouped", its position was floored.
        relative_position: what the model saw, from the answer token that looked hardest to the passage's middle token.
        plus_minus: tokens by which the position may be off: 0 for neighbors, the group size for grouped passages.
        char_start, char_end: characters of the page's text, for the box.
        token_start, token_stop: tokens of the prompt.
    """

    rank: int
    document: int
    name: str
    page: int
    page_word: str
    text: str
    share: float
    level: Level
    relative_position: int
    plus_minus: int
    char_start: int
    char_end: int
    token_start: int
    token_stop: int

    @property
    def is_faint(self) -> bool:
        """Whether its share is too small to be listed among the others."""
        return self.share < FAINT

    @property
    def level_words(self) -> str:
        """How exactly the model saw where the passage stands, in plain words."""
        if self.level == "neighbor":
            return "seen at its exact place"
        return f"place known to ±{self.plus_minus:,} tokens"

    @property
    def paper_words(self) -> str:
        """The same in the paper's terms."""
        return f"{self.level} attention, relative position {self.relative_position:,}"

    def as_json(self) -> dict[str, str | int | float]:
        """What the API gives out of it."""
        return {
            "document": self.name,
            "page": self.page,
            "text": self.text,
            "share": round(self.share, 6),
            "level": self.level,
            "relative_position": self.relative_position,
        }


def worth_a_look(citations: Sequence[Citation]) -> list[Citation]:
    """The passages of an answer that got a share that can be seen, and the first in any case."""
    return [citation for citation in citations if citation.rank == 1 or not citation.is_faint]


@dataclass(frozen=True)
class PageShare:
    """A page and its part, 0 to 1, of what the answer's tokens paid to all pages."""

    document: int
    name: str
    page: int
    page_word: str
    share: float


def recording_request(
    index: TokenIndex,
    max_new_tokens: int,
    *,
    layers: Sequence[int],
    heads: int,
    max_bytes: int = MAX_BYTES,
) -> RecordingRequest:
    """What to record for an answer's evidence.

    Rows are the queries that predict the answer's tokens, the first of them the prompt's last token, at most
    `MAX_ROWS`. Every passage is a bin; so is every stretch that belongs to no passage: what stands before the first
    document (where models park attention that they have no use for), between pages, the question, the answer.

    The documents' tokens with the largest weights are kept one by one besides, as many as `TOP_KEYS` for each row.

    Where that does not fit `max_bytes`, in this order: layers are thinned out evenly, down to 8; neighboring
    passages of a page are merged, two, four, eight at a time, up to whole pages; rows are halved, so that only the
    answer's beginning is kept; the remaining layers are thinned out.

    Args:
        index: of the whole prompt.
        max_new_tokens: of the answer.
        layers: indices of the extended layers.
        heads: attention heads in a layer.
    """
    from selfextend.recording import RecordingRequest

    rows = min(max_new_tokens, MAX_ROWS)
    merged = 1
    longest_page = _most_passages_on_a_page(index)
    starts = _bin_starts(index, merged)
    within = tokens_of_documents(index)
    top = min(TOP_KEYS, len(within))

    def too_big() -> bool:
        return 2 * 4 * len(layers) * heads * rows * (len(starts) + top) > max_bytes

    layers = tuple(layers)
    while too_big() and len(layers) > ENOUGH_LAYERS:
        layers = _half_of(layers)
    while too_big() and merged < longest_page:
        merged *= 2
        starts = _bin_starts(index, merged)
    while too_big() and rows > 1:
        rows //= 2
    while too_big() and len(layers) > 1:
        layers = _half_of(layers)
    first = len(index) - 1
    # Some room beyond the record is what its computation needs for one row of a long prompt.
    return RecordingRequest(
        range(first, first + rows), starts, layers=layers, top=top, top_within=within, max_bytes=max(max_bytes, 2**20)
    )


def further_request(
    record: AttentionRecord, index: TokenIndex, max_new_tokens: int, *, max_bytes: int = MAX_BYTES
) -> RecordingRequest | None:
    """What to record of an answer that goes on, to be joined with the record of its beginning.

    Args:
        index: of the prompt, as it was for the beginning.

    Returns:
        None where the beginning takes all of the room already.
    """
    from selfextend.recording import RecordingRequest

    layers, heads, rows, bins = record.sums.shape
    top = record.top_keys.shape[3]
    most = min(MAX_ROWS, max_bytes // (2 * 4 * layers * heads * (bins + top)))
    first, rows = record.query_rows.stop, min(max_new_tokens, most - rows)
    if rows < 1:
        return None
    starts = [int(start) for start in record.bin_starts]
    return RecordingRequest(
        range(first, first + rows),
        starts,
        layers=record.layers,
        heads=record.heads,
        top=top,
        top_within=tokens_of_documents(index),
        max_bytes=max(max_bytes, 2**20),
    )


def tokens_of_documents(index: TokenIndex) -> range:
    """From the documents' first token to their last."""
    inside = np.flatnonzero(index.document >= 0)
    return range(int(inside[0]), int(inside[-1]) + 1) if len(inside) else range(0)


def _half_of(layers: tuple[int, ...]) -> tuple[int, ...]:
    """Every other layer, the last among them: what an answer is copied with tends to stand late."""
    return layers[::-2][::-1]


def _most_passages_on_a_page(index: TokenIndex) -> int:
    if not index.passages:
        return 0
    return int(np.unique([(p.document, p.page) for p in index.passages], axis=0, return_counts=True)[1].max())


def _bin_starts(index: TokenIndex, merged: int) -> list[int]:
    """Where a bin begins: at each `merged`-th passage of a page, after each page, and where the answer begins."""
    starts = {0, len(index)}
    before, place = (-1, -1), 0
    for passage in index.passages:
        if passage.token_start == passage.token_stop:
            continue
        here = (passage.document, passage.page)
        place = place + 1 if here == before else 0
        before = here
        if place % merged == 0:
            starts.add(passage.token_start)
        else:
            starts.discard(passage.token_start)
        starts.add(passage.token_stop)
    return sorted(starts)


def answer_rows(record: AttentionRecord, answer_tokens: int) -> int:
    """How many of the record's rows predicted a token of an answer of `answer_tokens` tokens."""
    recorded = min(len(record.query_rows), answer_tokens)
    if record.sums.size:
        recorded = int((~np.isnan(record.sums[0, 0, :recorded, 0])).sum())
    return recorded


def trimmed(record: AttentionRecord, answer_tokens: int) -> AttentionRecord:
    """The record without the rows that the answer did not come to: what is worth keeping of it."""
    rows = answer_rows(record, answer_tokens)
    kept: dict[str, Any] = {name: array[:, :, :rows].copy() for name, array in record.arrays_of_rows.items()}
    return replace(record, query_rows=record.query_rows[:rows], **kept)


def recorded_passages(record: AttentionRecord, index: TokenIndex) -> list[tuple[int, Passage]]:
    """The bins that hold passages, each with its passage, or with those it was merged from as one."""
    found: dict[int, Passage] = {}
    for passage in index.passages:
        if passage.token_start == passage.token_stop:
            continue
        bin_number = int(np.searchsorted(record.bin_starts, passage.token_start, side="right")) - 1
        first = found.get(bin_number, passage)
        found[bin_number] = replace(first, char_end=passage.char_end, token_stop=passage.token_stop)
    return sorted(found.items())


def passage_squares(
    record: AttentionRecord,
    index: TokenIndex,
    rows: int,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
) -> tuple[list[Passage], Floats]:
    """The recorded passages, and (rows, passages): what each of the first rows paid to each, summed over layers and
    heads as squares.

    The square counts each view by how concentrated it is: a head that puts half its attention on one passage counts as
    one that found something, a head that spreads the same half over a hundred passages counts a hundredth of that. A
    plain mean drowns the one in the others.

    Args:
        layers, heads: places among those that were recorded; None takes all.
    """
    found = recorded_passages(record, index)
    layers = range(record.sums.shape[0]) if layers is None else layers
    heads = range(record.sums.shape[1]) if heads is None else heads
    views = record.sums[np.ix_(layers, heads, range(rows), [number for number, _ in found])].astype(np.float64)
    return [passage for _, passage in found], np.square(views).sum(axis=(0, 1))


def passage_weights(record: AttentionRecord, index: TokenIndex, answer_tokens: int) -> tuple[list[Passage], Floats]:
    """The recorded passages, and each one's part of the answer's attention: (passages,), adding up to 1.

    The weight of a passage is the sum, over every recorded layer, head and answer token, of the *square* of the
    attention that fell on it (see `passage_squares`). What falls on no passage (the attention sink before the first
    document, file names, the question, the answer itself) is left out.
    """
    passages, squares = passage_squares(record, index, answer_rows(record, answer_tokens))
    return passages, _parts_of_all(squares)


def _parts_of_all(squares: Floats) -> Floats:
    """(passages,) each one's part of the (rows, passages) in all; 0 where there is nothing."""
    weights: Floats = squares.sum(axis=0)
    total = float(weights.sum())
    return weights / total if total > 0 else weights


def page_shares(record: AttentionRecord, index: TokenIndex, answer_tokens: int) -> list[PageShare]:
    """Each page's part of the answer's attention, most first; weighed as in `passage_weights`."""
    passages, weights = passage_weights(record, index, answer_tokens)
    shares = {(place, page.number): 0.0 for place, document in enumerate(index.documents) for page in document.pages}
    for passage, weight in zip(passages, weights.tolist(), strict=True):
        shares[passage.document, passage.page] += weight
    ranked = sorted(shares.items(), key=lambda item: -item[1])
    return [
        PageShare(place, index.documents[place].name, page, index.documents[place].page_word, share)
        for (place, page), share in ranked
    ]


def passages_behind(
    record: AttentionRecord,
    index: TokenIndex,
    answer_tokens: int,
    positions: PositionMap,
    *,
    most: int = CITATIONS,
) -> list[Citation]:
    """The passages that the answer's tokens looked at most, the first first; weighed as in `passage_weights`.

    Args:
        record: with bins as `recording_request` lays them out.
        index: of the prompt that was answered.
        answer_tokens: tokens of the answer, its end-of-sequence token included.
        positions: the position map that the model answered with.
        most: citations at most; a passage that nothing fell on is none.
    """
    passages, squares = passage_squares(record, index, answer_rows(record, answer_tokens))
    weights = _parts_of_all(squares)
    ranked = [int(place) for place in np.argsort(-weights, kind="stable")[:most] if weights[place] > 0]
    citations = []
    for rank, place in enumerate(ranked, start=1):
        passage = passages[place]
        document = index.documents[passage.document]
        query = record.query_rows[int(squares[:, place].argmax())]  # the one that looked hardest
        key = (passage.token_start + passage.token_stop - 1) // 2
        plus_minus = positions.uncertainty(query - key)
        citations.append(
            Citation(
                **asdict(passage),
                rank=rank,
                name=document.name,
                page_word=document.page_word,
                text=index.text(passage),
                share=float(weights[place]),
                level="grouped" if plus_minus else "neighbor",
                relative_position=relative_position(query, key, positions),
                plus_minus=plus_minus,
            )
        )
    return citations
