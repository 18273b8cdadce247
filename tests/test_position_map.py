"""Viewports of the position map against a double loop, and what one costs at 100,000 tokens."""

import time

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

from selfextend import SelfExtendConfig
from selfextend.methods.rerope import ReRoPEPositions
from selfextend.position_map import MAX_CELLS, MapCells, position_map
from selfextend.positions import EXACT, PositionMap

GOLDEN = SelfExtendConfig(group_size=2, neighbor_window=4)


def test_golden_rows() -> None:
    cells = position_map(7, 10, GOLDEN)
    assert cells.relative[4, :5].tolist() == [4, 3, 2, 1, 0]
    assert cells.relative[9].tolist() == [6, 6, 5, 5, 4, 4, 3, 2, 1, 0]
    assert (cells.relative[4, 5:] == -1).all()
    assert not cells.unseen.any()
    assert np.argwhere(position_map(7, 11, GOLDEN).unseen).tolist() == [[10, 0], [10, 1]]


def test_vanilla_leaves_its_window_where_selfextend_does_not() -> None:
    cells = position_map(7, 10, EXACT)
    assert np.argwhere(cells.unseen).tolist() == [[7, 0], [8, 0], [8, 1], [9, 0], [9, 1], [9, 2]]


@st.composite
def viewports(draw: st.DrawFn) -> tuple[int, int, SelfExtendConfig, tuple[int, int], tuple[int, int], int]:
    trained_window = draw(st.integers(3, 40))
    config = SelfExtendConfig(draw(st.integers(1, 9)), draw(st.integers(1, trained_window - 1)))
    length = draw(st.integers(1, 90))
    ranges = []
    for _ in range(2):
        start = draw(st.integers(0, length - 1))
        ranges.append((start, draw(st.integers(start + 1, length))))
    return trained_window, length, config, ranges[0], ranges[1], draw(st.integers(1, 30))


def seen(
    cells: MapCells, row: int, column: int, query_range: tuple[int, int], key_range: tuple[int, int]
) -> tuple[range, range]:
    """The queries and keys of the viewport that a cell stands for."""
    queries = [query_range[0] - 1, *cells.query.tolist()]
    keys = [*cells.key.tolist(), key_range[1]]
    return range(queries[row] + 1, queries[row + 1] + 1), range(keys[column], keys[column + 1])


@settings(max_examples=40)
@given(viewports(), st.sampled_from(["vanilla", "selfextend"]))
def test_each_cell_is_exact_and_the_largest_of_its_block(viewport: tuple, method: str) -> None:
    trained_window, length, config, query_range, key_range, max_cells = viewport
    positions = EXACT if method == "vanilla" else config
    cells = position_map(trained_window, length, positions, query_range, key_range, max_cells=max_cells)
    group, window = (1, 1) if method == "vanilla" else (config.group_size, config.neighbor_window)
    assert max(cells.relative.shape) <= max_cells
    covered_queries, covered_keys = set(), set()
    for row, query in enumerate(cells.query.tolist()):
        for column, key in enumerate(cells.key.tolist()):
            queries, keys = seen(cells, row, column, query_range, key_range)
            covered_queries.update(queries)
            covered_keys.update(keys)
            block = [reference.relative_position(i, j, group, window) for i in queries for j in keys if j <= i]
            assert (key <= query) == bool(block)
            if block:
                assert cells.relative[row, column] == reference.relative_position(query, key, group, window)
                assert cells.relative[row, column] == max(block)
                assert cells.unseen[row, column] == any(position >= trained_window for position in block)
            else:
                assert cells.relative[row, column] == -1
                assert not cells.unseen[row, column]
    assert covered_queries == set(range(*query_range))
    assert covered_keys == set(range(*key_range))


@given(viewports())
def test_difference_is_vanilla_less_selfextend(viewport: tuple) -> None:
    trained_window, length, config, query_range, key_range, max_cells = viewport
    vanilla, ours, difference = (
        position_map(
            trained_window, length, positions, query_range, key_range, difference=is_difference, max_cells=max_cells
        )
        for positions, is_difference in ((EXACT, False), (config, False), (config, True))
    )
    expected = np.where(ours.key <= ours.query[:, None], vanilla.relative - ours.relative, -1)
    assert difference.relative.tolist() == expected.tolist()
    assert (difference.relative >= -1).all()
    assert difference.unseen.tolist() == ours.unseen.tolist()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"trained_window": 1}, "trained_window must be at least 2"),
        ({"length": 0}, "length must be at least 1"),
        ({"length": 2**31}, "at most 2,147,483,647"),
        ({"length": "10"}, "length must be a whole number"),
        ({"queries": (-1, None)}, "query_from must be at least 0"),
        ({"queries": (0, 101)}, r"query_to must be at most the length \(100\)"),
        ({"queries": (5, 5)}, r"query_from \(5\) must be smaller than query_to \(5\)"),
        ({"keys": (1.5, None)}, "key_from must be a whole number"),
        ({"keys": (0, True)}, "key_to must be a whole number"),
        ({"max_cells": 513}, "max_cells must be at most 512"),
        ({"positions": SelfExtendConfig(2, 50)}, "must be smaller than the trained window"),
    ],
)
def test_refuses_in_plain_words(changed: dict, message: str) -> None:
    arguments = {"trained_window": 50, "length": 100, "positions": SelfExtendConfig(2, 4)} | changed
    with pytest.raises(ValueError, match=message):
        position_map(**arguments)


@pytest.mark.parametrize("positions", [EXACT, SelfExtendConfig(32, 1024), ReRoPEPositions(1024)], ids=str)
def test_100_000_tokens_cost_what_512_do(positions: PositionMap) -> None:
    def cost() -> float:
        # The processor's time and not the clock's, which other processes on the machine slow down.
        start = time.process_time()
        assert position_map(4096, 100_000, positions).relative.shape == (511, 511)
        return time.process_time() - start

    assert MAX_CELLS == 512
    assert min(cost() for _ in range(3)) < 0.100
