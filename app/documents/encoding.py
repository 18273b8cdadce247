"""Tokenizes a text, a long one piece by piece, so that it takes little memory."""

from __future__ import annotations

from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

PIECE = 200_000
"""Characters tokenized at a time. A tokenizer takes some 130 bytes for each of them, which are free again then."""
OVERLAP = 2000
"""Characters that a piece shares with the next one."""

Ints = NDArray[np.int32]


class Encoded(NamedTuple):
    """Tokens of a text: their ids, (tokens,); the characters that each was made of, (tokens, 2), as the tokenizer gives
    them; and whether it comes from the text, (tokens,), or was added by the tokenizer."""

    ids: Ints
    offsets: Ints
    from_text: NDArray[np.bool_]

    def of(self, tokens: slice) -> Encoded:
        """Some of the tokens."""
        return Encoded(self.ids[tokens], self.offsets[tokens], self.from_text[tokens])


def encode(
    tokenizer: Any, text: str, *, add_special_tokens: bool, piece: int = PIECE, overlap: int = OVERLAP
) -> Encoded:
    """The tokens of a text, the same as in one go.

    A long text is cut into pieces that overlap. Where two of them meet, both have to give the same tokens for the
    middle half of what they share: so far from the cuts, none of them can tell where the text was cut. A tokenizer for
    which this does not hold reads the text in one go.

    Args:
        tokenizer: a fast one.
        piece, overlap: in characters.
    """
    if len(text) <= piece + overlap:
        return _in_one_go(tokenizer, text, add_special_tokens)
    parts: list[Encoded] = []
    for start in range(0, len(text) - overlap, piece):
        part = _in_one_go(tokenizer, text[start : start + piece + overlap], add_special_tokens)
        moved = part.offsets + np.int32(start) * part.from_text[:, None]  # an added token stands nowhere, at 0
        part = Encoded(part.ids, moved, part.from_text)
        if parts:
            before, after = parts[-1], _without_added(part, leading=True)
            joined = _joined(
                _without_added(before, leading=False), after, start + overlap // 4, start + overlap * 3 // 4
            )
            if joined is None:
                return _in_one_go(tokenizer, text, add_special_tokens)
            parts[-1], part = joined
        parts.append(part)
    ids, offsets, from_text = zip(*parts, strict=True)
    return Encoded(np.concatenate(ids), np.concatenate(offsets), np.concatenate(from_text))


def count_tokens(tokenizer: Any, text: str) -> int:
    """Tokens of a text, without those that the tokenizer adds."""
    return len(encode(tokenizer, text, add_special_tokens=False).ids)


def _in_one_go(tokenizer: Any, text: str, add_special_tokens: bool) -> Encoded:
    encoded = tokenizer(
        text,
        add_special_tokens=add_special_tokens,
        truncation=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    ).encodings[0]
    ids = np.asarray(encoded.ids, dtype=np.int32)
    # One by one: all offsets at once, as Python's tuples, take ten times as much as the array.
    characters = chain.from_iterable(encoded.token_to_chars(token) or (0, 0) for token in range(len(ids)))
    offsets = np.fromiter(characters, dtype=np.int32, count=2 * len(ids)).reshape(-1, 2)
    from_text = np.asarray([part is not None for part in encoded.sequence_ids], dtype=bool)
    return Encoded(ids, offsets, from_text)


def _without_added(part: Encoded, *, leading: bool) -> Encoded:
    """Without the tokens that the tokenizer added before its text, or after it."""
    inside = np.flatnonzero(part.from_text)
    if not len(inside):
        return part.of(slice(0, 0))
    return part.of(slice(inside[0], None) if leading else slice(None, inside[-1] + 1))


def _joined(before: Encoded, after: Encoded, first: int, last: int) -> tuple[Encoded, Encoded] | None:
    """Two pieces, each without what the other has; None where they differ in the tokens from `first` to `last`."""
    rows = []
    for part in (before, after):
        inside = np.flatnonzero(part.from_text & (part.offsets[:, 0] >= first) & (part.offsets[:, 0] < last))
        rows.append(slice(inside[0], inside[-1] + 1) if len(inside) else slice(0, 0))
    shared, other = rows
    same = shared.stop > shared.start and all(
        np.array_equal(one, two) for one, two in zip(before.of(shared), after.of(other), strict=True)
    )
    return (before.of(slice(None, shared.start)), after.of(slice(other.start, None))) if same else None
