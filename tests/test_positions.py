"""The position map against a double loop and against the paper's figure."""

import math

import numpy as np
import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st

from selfextend import SelfExtendConfig
from selfextend.positions import (
    grouped_key_positions,
    grouped_query_positions,
    largest_relative_position,
    logn_query_scale,
    relative_position,
    relative_positions,
)

configs = st.builds(SelfExtendConfig, st.integers(1, 20), st.integers(1, 40))


def lower_triangle(matrix: object) -> list[list[int]]:
    return [[int(p) for p in row[: i + 1]] for i, row in enumerate(matrix)]  # type: ignore[arg-type]


def test_the_golden_matrix() -> None:
    rows = lower_triangle(relative_positions(np.arange(10), np.arange(10), SelfExtendConfig(2, 4)))
    assert rows[4] == [4, 3, 2, 1, 0]
    assert rows[9] == [6, 6, 5, 5, 4, 4, 3, 2, 1, 0]
    assert rows[3] == [3, 2, 1, 0]
    assert max(max(row) for row in rows) == 6  # L - 1, at N = reach


@given(configs, st.integers(1, 70))
def test_the_map_is_the_double_loop(config: SelfExtendConfig, length: int) -> None:
    expected = reference.relative_positions(range(length), range(length), config.group_size, config.neighbor_window)
    expected = [row[: i + 1] for i, row in enumerate(expected)]
    for tokens in (np.arange(length), torch.arange(length)):
        assert lower_triangle(relative_positions(tokens, tokens, config)) == expected


@given(
    configs,
    st.lists(st.integers(0, 10**6), min_size=1, max_size=8),
    st.lists(st.integers(0, 10**6), min_size=1, max_size=8),
)
def test_any_rows_and_columns(config: SelfExtendConfig, queries: list[int], keys: list[int]) -> None:
    found = relative_positions(np.array(queries), np.array(keys), config)
    assert found.shape == (len(queries), len(keys))
    assert np.issubdtype(found.dtype, np.integer)
    for row, i in zip(found, queries, strict=True):
        for p, j in zip(row, keys, strict=True):
            if j <= i:
                expected = reference.relative_position(i, j, config.group_size, config.neighbor_window)
                assert p == expected == relative_position(i, j, config)
            else:
                assert p < 0


@given(configs, st.integers(0, 10**6), st.integers(0, 10**6))
def test_far_pairs_split_into_a_query_part_and_a_key_part(config: SelfExtendConfig, query: int, distance: int) -> None:
    key = query
    query = key + config.neighbor_window + distance
    split = grouped_query_positions(query, config.group_size, config.neighbor_window) - grouped_key_positions(
        key, config.group_size
    )
    assert split == reference.relative_position(query, key, config.group_size, config.neighbor_window)


@given(configs, st.integers(0, 120))
def test_the_references_row_is_its_pairs(config: SelfExtendConfig, query: int) -> None:
    sizes = config.group_size, config.neighbor_window
    pairs = [reference.relative_position(query, key, *sizes) for key in range(query + 1)]
    assert reference.row_of_positions(query, *sizes).tolist() == pairs


@given(configs, st.integers(1, 120))
def test_the_largest_position_is_found_without_looking_at_every_pair(config: SelfExtendConfig, length: int) -> None:
    counted = reference.largest_position(length, config.group_size, config.neighbor_window)
    assert largest_relative_position(length, config) == counted


@given(configs, st.integers(0, 300))
def test_a_row_never_falls_as_keys_get_farther(config: SelfExtendConfig, query: int) -> None:
    row = relative_positions(np.array([query]), np.arange(query + 1), config)[0][::-1]
    steps = np.diff(row)
    assert (steps >= 0).all()
    seam = np.arange(len(steps)) == config.neighbor_window - 1
    assert (steps[~seam] <= 1).all()
    # Where neighbors end, a group that the query's own does not line up with can leave one position out.
    at_the_seam = steps[seam]
    assert (at_the_seam >= 1).all()
    assert (at_the_seam <= (1 if config.neighbor_window % config.group_size == 0 else 2)).all()


@given(st.integers(1, 40), st.integers(1, 100))
def test_group_size_one_is_distance(neighbor_window: int, length: int) -> None:
    tokens = np.arange(length)
    found = relative_positions(tokens, tokens, SelfExtendConfig(1, neighbor_window))
    assert (np.tril(found) == np.tril(tokens[:, None] - tokens)).all()


@given(st.integers(1, 40), st.integers(1, 40))
def test_a_text_within_the_neighbor_window_is_distance(group_size: int, neighbor_window: int) -> None:
    tokens = np.arange(neighbor_window)
    found = relative_positions(tokens, tokens, SelfExtendConfig(group_size, neighbor_window))
    assert (np.tril(found) == np.tril(tokens[:, None] - tokens)).all()


def test_one_distance_can_have_two_positions() -> None:
    config = SelfExtendConfig(3, 4)
    found = {relative_position(j + 10, j, config) for j in range(6)}
    assert len(found) == 2
    assert max(found) - min(found) == 1


def test_explanations_carry_the_numbers() -> None:
    config = SelfExtendConfig(3, 16)
    grouped = config.explain(50, 10)
    assert str(reference.relative_position(50, 10, 3, 16)) in grouped
    assert all(number in grouped for number in ("50", "10", "16", "40"))
    assert "neighbor" in config.explain(50, 40)
    assert "10" in config.explain(50, 40)
    assert "never" in config.explain(10, 50)


@given(st.integers(0, 10**6), st.integers(2, 10**5))
def test_logn_scale(position: int, trained_window: int) -> None:
    scale = logn_query_scale(position, trained_window)
    assert scale == pytest.approx(reference.logn(position, trained_window), rel=1e-12)
    assert scale == 1.0 if position < trained_window else scale > 1.0


def test_logn_scale_by_hand() -> None:
    assert logn_query_scale(256**2 - 1, 256) == pytest.approx(2.0)
    assert logn_query_scale(255, 256) == 1.0
    assert logn_query_scale(511, 256) == pytest.approx(math.log(512) / math.log(256))
