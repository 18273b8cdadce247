"""Maps the tokens of a prompt to documents, pages and passages, and back, from a fast tokenizer's own offsets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from .document import Document
from .encoding import Encoded, Ints, encode
from .passages import split_passages

Integers = NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True)
class Passage:
    """One sentence or several: characters `char_start` to `char_end` of a page.

    `document` counts from 0 in the order given, `page` from 1. The passage's tokens, `token_start` to `token_stop`,
    are those that begin in it, so that every token of a page belongs to one passage.
    """

    document: int
    page: int
    char_start: int
    char_end: int
    token_start: int
    token_stop: int


class Passages(Sequence[Passage]):
    """The passages of a prompt, made when asked for: kept as numbers, in 24 bytes each.

    `rows`: (passages, 6), the fields of `Passage`.
    """

    def __init__(self, rows: Ints) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, place: int) -> Passage: ...
    @overload
    def __getitem__(self, place: slice) -> Passages: ...
    def __getitem__(self, place: int | slice) -> Passage | Passages:
        if isinstance(place, slice):
            return Passages(self._rows[place])
        return Passage(*self._rows[place].tolist())


class TokenIndex:
    """Where each token of a prompt comes from, in 20 bytes a token.

    Arrays, one row for each token:

    - `input_ids`: (tokens,) the ids to give to the model.
    - `chars`: (tokens, 2) the characters of the prompt that the token covers. Together they cover the prompt
      without a gap. Tokens that hold the bytes of one character share it. A token that the tokenizer added
      (`<s>`) covers nothing.
    - `passage`: (tokens,) index into `passages`, or -1.
    - `document` and `page`, which are made when asked for.
    """

    def __init__(
        self, tokenizer: Any, prompt: str, documents: Sequence[Document], *, add_special_tokens: bool = True
    ) -> None:
        """Tokenizes the prompt and finds the documents in it.

        Args:
            tokenizer: a fast tokenizer of transformers (`is_fast`).
            prompt: the whole prompt, chat template applied, with each document's `text` in it unchanged.
            documents: in their order in the prompt.
            add_special_tokens: as for the tokenizer: False where the template has added them already.

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
        encoded = encode(tokenizer, prompt, add_special_tokens=add_special_tokens)
        self.input_ids: Ints = encoded.ids
        self.chars: Ints = _covered(tokenizer, encoded, len(prompt))
        self._lay_out_pages(find_documents(prompt, documents))
        self._lay_out_passages()

    def __len__(self) -> int:
        return len(self.input_ids)

    def _lay_out_pages(self, document_starts: Sequence[int]) -> None:
        rows = []
        for place, (document, start) in enumerate(zip(self.documents, document_starts, strict=True)):
            rows += [
                (place, page.number, start + first, start + end)
                for page, (first, end) in zip(document.pages, document.page_ranges, strict=True)
            ]
        self._pages: Ints = np.asarray(rows, dtype=np.int32).reshape(-1, 4)
        self._page_row = {(int(row[0]), int(row[1])): k for k, row in enumerate(self._pages)}
        self._page_owner = _owner(self.chars, self._pages[:, 2:])
        self._page_tokens = np.stack(_runs(self._page_owner, len(self._pages)), axis=1)

    def _lay_out_passages(self) -> None:
        spans: Ints = np.asarray(
            [
                (place, number, first, end, start + first, start + end)
                for place, number, start, stop in self._pages.tolist()
                for first, end in split_passages(self.prompt[start:stop])
            ],
            dtype=np.int32,
        ).reshape(-1, 6)
        self.passage: Ints = _owner(self.chars, spans[:, 4:])
        tokens = np.stack(_runs(self.passage, len(spans)), axis=1)
        self.passages = Passages(np.concatenate((spans[:, :4], tokens), axis=1, dtype=np.int32))

    @property
    def document(self) -> Ints:
        """(tokens,) index into `documents`, or -1 for a token outside every document."""
        return np.append(self._pages[:, 0], np.int32(-1))[self._page_owner]

    @property
    def page(self) -> Ints:
        """(tokens,) page number, or 0. A token across two pages counts for the first."""
        return np.append(self._pages[:, 1], np.int32(0))[self._page_owner]

    def page_tokens(self, document: int, page: int) -> tuple[int, int]:
        """First token of a page and the one after its last; equal where no token counts for it.

        Raises:
            KeyError: no such page.
        """
        first, stop = self._page_tokens[self._page_row[document, page]].tolist()
        return first, stop

    def place(self, token: int) -> tuple[int, int, int, int] | None:
        """Document, page, and the characters of the page's text, [from, to), that a token covers; None where it is
        outside every document. A token across two pages covers the first one's last characters."""
        row = int(self._page_owner[token])
        if row < 0:
            return None
        document, page, start, stop = self._pages[row].tolist()
        first, last = self.chars[token].tolist()
        return document, page, max(first, start) - start, min(last, stop) - start

    def token_at(self, document: int, page: int, char: int) -> int:
        """The token that covers a character of a page's text.

        Raises:
            KeyError: no such page, or no such character on it.
        """
        _, _, start, stop = self._pages[self._page_row[document, page]].tolist()
        if not 0 <= char < stop - start:
            raise KeyError(char)
        return int(np.searchsorted(self.chars[:, 1], start + char, side="right"))

    def text(self, passage: Passage) -> str:
        """The words of a passage, without the blanks around them."""
        page_start = int(self._pages[self._page_row[passage.document, passage.page], 2])
        return self.prompt[page_start + passage.char_start : page_start + passage.char_end].strip()


def find_documents(prompt: str, documents: Sequence[Document]) -> list[int]:
    """Where each document's text starts in the prompt, looked for from left to right.

    Raises:
        ValueError: a document's text is not there.
    """
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


def _covered(tokenizer: Any, encoded: Encoded, length: int) -> Ints:
    """(tokens, 2): the characters of the prompt that each token covers, from first to last without a gap.

    Tokenizers differ in what their offsets leave out: byte-level ones may trim the spaces that are part of a
    token, others drop blanks or merge a letter and its accent. Trimmed spaces go back to the token that holds
    them; characters that no token holds go to the token before.
    """
    input_ids, offsets, from_text = encoded
    starts = np.maximum.accumulate(offsets[from_text, 0])
    ends = np.maximum.accumulate(offsets[from_text, 1])
    if not len(starts):
        return np.zeros((len(input_ids), 2), dtype=np.int32)
    gaps = np.concatenate((starts[:1] > 0, starts[1:] > ends[:-1]))
    if gaps.any():
        leading = _leading_spaces(tokenizer, input_ids[from_text])
        before = np.concatenate(([0], ends[:-1]))
        starts = np.where(gaps, np.maximum(starts - leading, before), starts)
    starts[0] = 0
    ends = np.maximum(ends, np.concatenate((starts[1:], [length])))
    chars: Ints = np.zeros((len(input_ids), 2), dtype=np.int32)
    chars[from_text, 0] = starts
    chars[from_text, 1] = ends
    # An added token is empty and stands where the text before it ends, since searching needs the rows in order.
    position = np.cumsum(from_text) - 1
    before_first = position < 0
    place = np.where(before_first, 0, ends[np.maximum(position, 0)])
    chars[~from_text] = place[~from_text, None]
    return chars


def _leading_spaces(tokenizer: Any, input_ids: Ints) -> Integers:
    """How many spaces, written as Ġ, each token begins with."""
    unique, inverse = np.unique(input_ids, return_inverse=True)
    tokens = tokenizer.convert_ids_to_tokens(unique.tolist())
    counts: Integers = np.asarray([len(token) - len(token.lstrip("Ġ")) for token in tokens], dtype=np.int64)
    return counts[inverse]


def _owner(chars: Ints, ranges: Ints) -> Ints:
    """For each token the first of `ranges` (ordered, apart) that it covers a character of, or -1."""
    owner: Ints = np.full(len(chars), -1, dtype=np.int32)
    filled = np.flatnonzero(ranges[:, 1] > ranges[:, 0])
    if not len(filled):
        return owner
    place = np.searchsorted(ranges[filled, 1], chars[:, 0], side="right")
    found = place < len(filled)
    candidate = filled[np.minimum(place, len(filled) - 1)]
    found &= (ranges[candidate, 0] < chars[:, 1]) & (chars[:, 1] > chars[:, 0])
    owner[found] = candidate[found]
    return owner


def _runs(owner: Ints, count: int) -> tuple[Integers, Integers]:
    """First token and the one after the last of each of `count` owners, whose tokens are in their order.

    An owner without tokens gets an empty run where its tokens would be.
    """
    inside = np.flatnonzero(owner >= 0)
    owned = owner[inside]
    first = np.searchsorted(owned, np.arange(count), side="left")
    stop = np.searchsorted(owned, np.arange(count), side="right")
    padded = np.append(inside, len(owner))
    starts = padded[first]
    return starts, np.where(stop > first, padded[stop - 1] + 1, starts)
