"""Maps the tokens of a prompt to documents, pages, characters and passages, and back.

Built from a fast tokenizer's own offsets, so a citation is looked up, never guessed. Knows nothing about
models, attention or files: it sees a prompt, the documents in it and numbers for each token.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from app.documents.reader import Document

MIN_PASSAGE = 40
MAX_PASSAGE = 400

_SENTENCE_END = re.compile(r"""[.!?…]["'’”)\]»]*(?=\s)|[。！？][”」』）]*|\n""")
_INITIAL = re.compile(r"(?:^|[\s(])(?:\w|[Ee]\.g|[Ii]\.e|cf|Dr|Eq|Fig|Mr|Mrs|No|St|al|p|pp|vs)\.$")

Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Passage:
    """A sentence or a few: characters `char_start` to `char_end` of a page.

    `document` counts from 0 in the order given, `page` is the number on it, from 1. Its tokens, `token_start`
    to `token_stop`, are those that begin in it, so that every token of a page counts for one passage.
    """

    document: int
    page: int
    char_start: int
    char_end: int
    token_start: int
    token_stop: int


@dataclass(frozen=True, slots=True)
class Spot:
    """What one token stands for: characters `char_start` to `char_end` of a page."""

    document: int
    page: int
    char_start: int
    char_end: int


class TokenIndex:
    """Where each token of a prompt comes from.

    Arrays, one row a token:

    - `input_ids`: (tokens,) the ids, to be given to the model as they are.
    - `chars`: (tokens, 2) the characters of the prompt that the token covers. Together they cover the prompt
      without a gap; tokens that hold the bytes of one character share it; a token that the tokenizer added
      (`<s>`) covers nothing.
    - `document`: (tokens,) place in `documents`, or -1 where the token belongs to none.
    - `page`: (tokens,) page number, or 0. A token across two pages counts for the first.
    - `page_chars`: (tokens, 2) the characters of that page's text, or 0, 0.
    - `passage`: (tokens,) place in `passages`, or -1.
    """

    def __init__(
        self,
        tokenizer: Any,
        prompt: str,
        documents: Sequence[Document],
        *,
        add_special_tokens: bool = True,
        document_starts: Sequence[int] | None = None,
    ) -> None:
        """Tokenizes the prompt and finds the documents in it.

        Args:
            tokenizer: a fast tokenizer of transformers (`is_fast`).
            prompt: the whole prompt, chat template applied, with each document's `text` in it as it is.
            documents: in the order in which they stand in the prompt.
            add_special_tokens: as for the tokenizer: False where the template has put them in already.
            document_starts: where each document's text starts; looked for from left to right where None.

        Raises:
            ValueError: a slow tokenizer, or a document whose text is not in the prompt.
        """
        if not getattr(tokenizer, "is_fast", False):
            raise ValueError(
                f"{type(tokenizer).__name__} is a slow tokenizer, which cannot tell where its tokens come "
                "from: choose a model that has a tokenizer.json."
            )
        self.prompt = prompt
        self.documents = tuple(documents)
        encoded = tokenizer(
            prompt,
            add_special_tokens=add_special_tokens,
            truncation=False,
            return_offsets_mapping=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        self.input_ids: Integers = np.asarray(encoded["input_ids"], dtype=np.int64)
        self.chars = _covered(tokenizer, self.input_ids, encoded, len(prompt))
        starts = _find_documents(prompt, documents) if document_starts is None else document_starts
        self._lay_out_pages(starts)
        self._lay_out_passages()

    def __len__(self) -> int:
        return len(self.input_ids)

    def _lay_out_pages(self, document_starts: Sequence[int]) -> None:
        rows = []
        for place, (document, start) in enumerate(zip(self.documents, document_starts, strict=True)):
            if not self.prompt.startswith(document.text, start):
                raise ValueError(f"The text of {document.name} does not stand at character {start} of the prompt.")
            rows += [
                (place, page.number, start + first, start + end)
                for page, (first, end) in zip(document.pages, document.page_ranges, strict=True)
            ]
        self._pages: Integers = np.asarray(rows, dtype=np.int64).reshape(-1, 4)
        self._page_row = {(int(row[0]), int(row[1])): k for k, row in enumerate(self._pages)}
        owner = _owner(self.chars, self._pages[:, 2:])
        inside = owner >= 0
        row = self._pages[owner[inside]]
        self._page_owner = owner
        self.document: Integers = np.full(len(self), -1)
        self.page: Integers = np.zeros(len(self), dtype=np.int64)
        self.page_chars: Integers = np.zeros((len(self), 2), dtype=np.int64)
        self.document[inside] = row[:, 0]
        self.page[inside] = row[:, 1]
        self.page_chars[inside] = np.clip(self.chars[inside], row[:, 2:3], row[:, 3:4]) - row[:, 2:3]

    def _lay_out_passages(self) -> None:
        spans = [
            (place, number, start + first, start + end, start)
            for place, number, start, stop in self._pages.tolist()
            for first, end in split_passages(self.prompt[start:stop])
        ]
        rows: Integers = np.asarray(spans, dtype=np.int64).reshape(-1, 5)
        self.passage: Integers = _owner(self.chars, rows[:, 2:4])
        first, stop = _runs(self.passage, len(rows))
        self.passages: tuple[Passage, ...] = tuple(
            Passage(place, number, begin - start, end - start, token_start, token_stop)
            for (place, number, begin, end, start), token_start, token_stop in zip(
                spans, first.tolist(), stop.tolist(), strict=True
            )
        )

    def locate(self, token: int) -> Spot | None:
        """What the token stands for, or None outside every page. For many, index the arrays."""
        if self.document[token] < 0:
            return None
        start, end = self.page_chars[token]
        return Spot(int(self.document[token]), int(self.page[token]), int(start), int(end))

    def page_tokens(self, document: int, page: int) -> tuple[int, int]:
        """First token of a page and the one after its last; equal where no token counts for it.

        Raises:
            KeyError: no such page.
        """
        first, stop = _runs(self._page_owner, len(self._pages))
        row = self._page_row[document, page]
        return int(first[row]), int(stop[row])

    def tokens_at(
        self, document: int, page: int, char_start: ArrayLike, char_end: ArrayLike
    ) -> tuple[Integers, Integers]:
        """Tokens that cover any of a page's characters `char_start` to `char_end`: first, and after the last.

        Both may be arrays of one shape, and then so are the results. Tokens that the tokenizer added may lie
        within; an empty range of characters gives an empty range of tokens.

        Raises:
            KeyError: no such page.
        """
        offset = self._pages[self._page_row[document, page], 2]
        start = np.asarray(char_start, dtype=np.int64) + offset
        end = np.asarray(char_end, dtype=np.int64) + offset
        first = np.searchsorted(self.chars[:, 1], start, side="right")
        stop = np.searchsorted(self.chars[:, 0], end, side="left")
        return first, np.where(end > start, np.maximum(stop, first), first)

    def sum_by_page(self, mass: ArrayLike) -> NDArray[np.float64]:
        """Sums a number for each token over the pages.

        Args:
            mass: (..., tokens).

        Returns:
            (..., pages), the pages of all documents one after another.
        """
        return _sum_by(self._page_owner, len(self._pages), np.asarray(mass))

    def sum_by_passage(self, mass: ArrayLike) -> NDArray[np.float64]:
        """Sums a number for each token over `passages`: (..., tokens) to (..., passages)."""
        return _sum_by(self.passage, len(self.passages), np.asarray(mass))

    def text(self, passage: Passage) -> str:
        """The words of a passage, without the blanks around them."""
        page_start = int(self._pages[self._page_row[passage.document, passage.page], 2])
        return self.prompt[page_start + passage.char_start : page_start + passage.char_end].strip()


def split_passages(text: str) -> list[tuple[int, int]]:
    """Cuts a page's text into passages that follow each other without a gap.

    A passage ends at the first sentence end or line end at least `MIN_PASSAGE` characters in, at a space
    where none comes within `MAX_PASSAGE`, and anywhere where there is no space either. Each has between
    `MIN_PASSAGE` and `MAX_PASSAGE` characters; only a page with fewer is a shorter one.
    """
    ends = [match.end() for match in _SENTENCE_END.finditer(text) if _is_end(text, match)]
    spans = []
    start = 0
    following = 0
    while len(text) - start >= 2 * MIN_PASSAGE:
        earliest = start + MIN_PASSAGE
        latest = min(start + MAX_PASSAGE, len(text) - MIN_PASSAGE)
        while following < len(ends) and ends[following] < earliest:
            following += 1
        if following < len(ends) and ends[following] <= latest:
            end = ends[following]
        elif len(text) - start <= MAX_PASSAGE:
            break
        else:
            end = text.rfind(" ", earliest - 1, latest) + 1 or latest
        spans.append((start, end))
        start = end
    if start < len(text):
        spans.append((start, len(text)))
    return spans


def _is_end(text: str, match: re.Match[str]) -> bool:
    """Whether a full stop ends a sentence: not after an initial, nor before a small letter."""
    if match[0][0] != ".":
        return True
    following = text[match.end() : match.end() + 3].lstrip()
    if following and following[0].islower():
        return False
    return _INITIAL.search(text[max(match.start() - 8, 0) : match.start() + 1]) is None


def _find_documents(prompt: str, documents: Sequence[Document]) -> list[int]:
    starts = []
    after = 0
    for document in documents:
        start = prompt.find(document.text, after)
        if start < 0:
            raise ValueError(
                f"The text of {document.name} is not in the prompt as it is: put Document.text into it "
                "unchanged, the documents in their order."
            )
        starts.append(start)
        after = start + len(document.text)
    return starts


def _covered(tokenizer: Any, input_ids: Integers, encoded: Any, length: int) -> Integers:
    """(tokens, 2): the characters of the prompt that each token covers, from first to last without a gap.

    Tokenizers differ in what their offsets leave out: byte-level ones may trim the spaces that are part of a
    token, others drop blanks or fold a letter and its accent into one. Trimmed spaces go back to the token
    that holds them; what no token holds goes to the one before it.
    """
    offsets: Integers = np.asarray(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2)
    from_text = np.asarray([part is not None for part in encoded.sequence_ids(0)], dtype=bool)
    starts = np.maximum.accumulate(offsets[from_text, 0])
    ends = np.maximum.accumulate(offsets[from_text, 1])
    if not len(starts):
        return np.zeros((len(input_ids), 2), dtype=np.int64)
    gaps = np.concatenate((starts[:1] > 0, starts[1:] > ends[:-1]))
    if gaps.any():
        leading = _leading_spaces(tokenizer, input_ids[from_text])
        before = np.concatenate(([0], ends[:-1]))
        starts = np.where(gaps, np.maximum(starts - leading, before), starts)
    starts[0] = 0
    ends = np.maximum(ends, np.concatenate((starts[1:], [length])))
    chars: Integers = np.zeros((len(input_ids), 2), dtype=np.int64)
    chars[from_text, 0] = starts
    chars[from_text, 1] = ends
    # An added token stands, empty, where the text before it ends: searching needs the rows in order.
    position = np.cumsum(from_text) - 1
    before_first = position < 0
    place = np.where(before_first, 0, ends[np.maximum(position, 0)])
    chars[~from_text] = place[~from_text, None]
    return chars


def _leading_spaces(tokenizer: Any, input_ids: Integers) -> Integers:
    """How many spaces, written as Ġ, each token begins with."""
    unique, inverse = np.unique(input_ids, return_inverse=True)
    tokens = tokenizer.convert_ids_to_tokens(unique.tolist())
    counts: Integers = np.asarray([len(token) - len(token.lstrip("Ġ")) for token in tokens], dtype=np.int64)
    return counts[inverse]


def _owner(chars: Integers, ranges: Integers) -> Integers:
    """For each token the first of `ranges` (ordered, apart) that it covers a character of, or -1."""
    owner: Integers = np.full(len(chars), -1)
    filled = np.flatnonzero(ranges[:, 1] > ranges[:, 0])
    if not len(filled):
        return owner
    place = np.searchsorted(ranges[filled, 1], chars[:, 0], side="right")
    found = place < len(filled)
    candidate = filled[np.minimum(place, len(filled) - 1)]
    found &= (ranges[candidate, 0] < chars[:, 1]) & (chars[:, 1] > chars[:, 0])
    owner[found] = candidate[found]
    return owner


def _runs(owner: Integers, count: int) -> tuple[Integers, Integers]:
    """First token and the one after the last of each of `count` owners, whose tokens stand in their order.

    An owner without tokens gets an empty run where its tokens would stand.
    """
    inside = np.flatnonzero(owner >= 0)
    owned = owner[inside]
    first = np.searchsorted(owned, np.arange(count), side="left")
    stop = np.searchsorted(owned, np.arange(count), side="right")
    padded = np.append(inside, len(owner))
    starts = padded[first]
    return starts, np.where(stop > first, padded[stop - 1] + 1, starts)


def _sum_by(owner: Integers, count: int, mass: NDArray[Any]) -> NDArray[np.float64]:
    if mass.shape[-1] != len(owner):
        raise ValueError(f"There are {len(owner)} tokens, and the mass is for {mass.shape[-1]}.")
    sums = np.zeros((count, *mass.shape[:-1]))
    changes = np.flatnonzero(np.diff(owner, prepend=-2))
    if len(changes):
        runs = np.moveaxis(np.add.reduceat(mass, changes, axis=-1, dtype=np.float64), -1, 0)
        inside = owner[changes] >= 0
        np.add.at(sums, owner[changes[inside]], runs[inside])
    return np.moveaxis(sums, 0, -1)
