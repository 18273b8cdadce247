"""The map from (query, key) to relative position, for any viewport of any length, on at most 512 x 512 cells.

A closed formula evaluated where it is looked at, so 100,000 tokens cost what 512 do. The formula itself is in
`selfextend.positions`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from selfextend.config import checked_integer
from selfextend.positions import EXACT, PositionMap, relative_positions

Span = tuple[int, int | None]
"""A viewport along one axis, in tokens: the first, and one past the last; None there is the length."""

MAX_CELLS = 512
MAX_LENGTH = 2**31 - 1


@dataclass(frozen=True, slots=True)
class MapCells:
    """A viewport of the map. Cell (r, c) shows `query[r]` looking at `key[c]`, exactly: nothing is averaged.

    Where rows or columns are more than one token apart, a cell stands for the queries from after `query[r - 1]` to
    `query[r]` and the keys from `key[c]` to before `key[c + 1]`. Its last query and first key are the pair among them
    that lies furthest apart, so no position that the model never saw can hide between two cells.

    Attributes:
        query: query positions i, shape (rows,), evenly spaced.
        key: key positions j, shape (columns,), evenly spaced.
        relative: int32, shape (rows, columns). The relative position; of a difference, the distance minus it, in
            tokens (never below -1). -1 where the key comes after the query, which causal attention never looks at.
        unseen: bool, same shape. True where the model would need a position of `trained_window` or more, which it
            never saw in training.
    """

    query: npt.NDArray[np.int64]
    key: npt.NDArray[np.int64]
    relative: npt.NDArray[np.int32]
    unseen: npt.NDArray[np.bool_]


def position_map(
    trained_window: int,
    length: int,
    positions: PositionMap,
    queries: Span = (0, None),
    keys: Span = (0, None),
    *,
    difference: bool = False,
    max_cells: int = MAX_CELLS,
) -> MapCells:
    """The relative positions of some queries and keys.

    Args:
        trained_window: the paper's L, in tokens.
        length: the paper's N, tokens in the sequence.
        positions: SelfExtend's settings, `selfextend.positions.EXACT` for the vanilla model, or any other map.
        queries, keys: see `Span`.
        difference: by how many positions nearer than in the vanilla model each key is seen.
        max_cells: most rows and most columns, 1 to 512.

    Raises:
        ValueError: a number is out of range; each message says which and what it may be.
    """
    checked_integer("trained_window", trained_window, 2)
    checked_integer("length", length, 1)
    if length > MAX_LENGTH:
        raise ValueError(f"length must be at most {MAX_LENGTH:,}, not {length:,}.")
    if checked_integer("max_cells", max_cells, 1) > MAX_CELLS:
        raise ValueError(f"max_cells must be at most {MAX_CELLS}, not {max_cells}.")
    query_start, query_stop = _checked_range("query", *queries, length)
    key_start, key_stop = _checked_range("key", *keys, length)
    positions.reach(trained_window)  # refuses settings that do not fit the trained window

    query_stride = -(-(query_stop - query_start) // max_cells)
    key_stride = -(-(key_stop - key_start) // max_cells)
    query = np.arange(query_stop - 1, query_start - 1, -query_stride, dtype=np.int64)[::-1]
    key = np.arange(key_start, key_stop, key_stride, dtype=np.int64)

    visible = key[None, :] <= query[:, None]
    relative = relative_positions(query, key, positions)
    unseen = visible & (relative >= trained_window)
    if difference:
        relative = relative_positions(query, key, EXACT) - relative
    return MapCells(
        query=query,
        key=key,
        relative=np.where(visible, relative, -1).astype(np.int32),
        unseen=unseen,
    )


def _checked_range(name: str, start: int, stop: int | None, length: int) -> tuple[int, int]:
    stop = length if stop is None else stop
    checked_integer(f"{name}_from", start, 0)
    checked_integer(f"{name}_to", stop, 1)
    if stop > length:
        raise ValueError(f"{name}_to must be at most the length ({length:,}), not {stop:,}.")
    if start >= stop:
        raise ValueError(f"{name}_from ({start:,}) must be smaller than {name}_to ({stop:,}).")
    return start, stop
