"""Which relative position a query sees a key at: the method's only definition.

Plain operators on integers, so that Python numbers, numpy arrays and torch tensors all work. Standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

QueryScaling = Literal["none", "logn"]


@dataclass(frozen=True)
class Band:
    """Keys at some distances, and the positions at which they and their queries are rotated.

    A key in the band is seen at relative position `query_positions(i) - key_positions(j)`. What a key is rotated at
    depends on the key alone, so that it is rotated once, when it is written.

    Attributes:
        until: the band holds keys at distances i - j below this, from where the band before it ends; None is no end.
        query_positions, key_positions: integers of any shape -> integers of that shape.
    """

    until: int | None
    query_positions: Callable[[Any], Any]
    key_positions: Callable[[Any], Any]


class PositionMap(Protocol):
    """A map from (query, key) to relative position, as bands of distance. To be compared with `==` and hashed."""

    @property
    def bands(self) -> tuple[Band, ...]:
        """Nearest first; only the last has no end."""
        ...

    @property
    def query_scaling(self) -> QueryScaling:
        """ "none", or "logn" to multiply each query by `logn_query_scale`."""
        ...

    def reach(self, trained_window: int) -> int | None:
        """The longest sequence, in tokens, without a relative position of `trained_window` or more; None: no limit."""
        ...

    def complaint(self, trained_window: int, length: int, advised_window: int | None = None) -> str | None:
        """Why a text of `length` tokens is refused, with what would fit; None where it is read, however well.

        Args:
            advised_window: the neighbor window recommended for the model, in tokens; None for a quarter of its window.
        """
        ...

    def uncertainty(self, distance: int) -> int:
        """By how many tokens a key at this distance may lie elsewhere and be seen at the same position; 0 is exact."""
        ...

    def explain(self, query: int, key: int) -> str:
        """The formula for one cell with its numbers put in."""
        ...


def unchanged(positions: Any) -> Any:
    """Positions as they are: exact attention."""
    return positions


def grouped_key_positions(key_positions: Any, group_size: int) -> Any:
    """Where SelfExtend's far keys stand: j // G_s."""
    return key_positions // group_size


def grouped_query_positions(query_positions: Any, group_size: int, neighbor_window: int) -> Any:
    """Where a query stands when it looks at SelfExtend's far keys: i // G_s + w_n - w_n // G_s."""
    return query_positions // group_size + neighbor_window - neighbor_window // group_size


def relative_positions(query_positions: Any, key_positions: Any, positions: PositionMap) -> Any:
    """The relative position at which each query sees each key.

    Args:
        query_positions: i, shape (q,): a numpy array or torch tensor of integers.
        key_positions: j, shape (k,), of the same kind.

    Returns:
        Integers of shape (q, k). Keys after their query (j > i), which causal attention never looks at, come out
        negative.
    """
    queries, keys = query_positions[:, None], key_positions[None, :]
    distance = queries - keys
    *nearer, last = positions.bands
    relative = last.query_positions(queries) - last.key_positions(keys)
    for band in reversed(nearer):
        inside = distance < band.until
        relative = inside * (band.query_positions(queries) - band.key_positions(keys)) + ~inside * relative
    return relative


def relative_position(query: int, key: int, positions: PositionMap) -> int:
    """`relative_positions` for one query and one key, as plain integers."""
    band = next(band for band in positions.bands if band.until is None or query - key < band.until)
    return int(band.query_positions(query) - band.key_positions(key))


def largest_relative_position(length: int, positions: PositionMap) -> int:
    """The largest relative position in a sequence of `length` tokens (>= 1): the last query's first key's, or the last
    one inside a band before that."""
    last = length - 1
    ends = [last, *(min(last, band.until - 1) for band in positions.bands if band.until is not None)]
    return max(relative_position(last, last - distance, positions) for distance in ends)


@dataclass(frozen=True)
class ExactPositions:
    """The vanilla model's map: every key at its distance."""

    query_scaling: QueryScaling = "none"

    @property
    def bands(self) -> tuple[Band, ...]:
        return (Band(None, unchanged, unchanged),)

    def reach(self, trained_window: int) -> int:
        return trained_window

    def complaint(self, trained_window: int, length: int, advised_window: int | None = None) -> None:
        """None: the vanilla model is shown past its window too."""

    def uncertainty(self, distance: int) -> int:
        return 0

    def explain(self, query: int, key: int) -> str:
        return explain_exact(query, key)


EXACT = ExactPositions()


def explain_exact(query: int, key: int) -> str:
    """The difference of two positions in words."""
    if query < key:
        return f"key {key:,} comes after query {query:,}: causal attention never looks at it"
    return f"{query:,} - {key:,} = {query - key:,}"


def logn_query_scale(position: int, trained_window: int) -> float:
    """The factor that query_scaling="logn" multiplies the query at `position` (from 0) by.

    max(1, ln(position + 1) / ln(L)), the rule of the authors' passkey runs. 1 inside the trained window.
    """
    return max(1.0, math.log(position + 1) / math.log(trained_window))
