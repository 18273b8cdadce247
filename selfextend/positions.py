"""The method itself: which relative position a query sees a key at. Its only definition.

Integers in, integers out, with plain operators, so that Python numbers, numpy arrays and torch tensors all work.
Knows nothing about tensors' devices, models or rotary embeddings.
"""

from __future__ import annotations

import math
from typing import Any

from selfextend.config import SelfExtendConfig


def grouped_key_positions(key_positions: Any, config: SelfExtendConfig) -> Any:
    """Where far keys stand: j // G_s. Same shape as `key_positions`; fixed once a key is written."""
    return key_positions // config.group_size


def grouped_query_positions(query_positions: Any, config: SelfExtendConfig) -> Any:
    """Where a query stands when it looks at far keys: i // G_s + w_n - w_n // G_s. Same shape as the input."""
    return query_positions // config.group_size + config.position_shift


def relative_positions(query_positions: Any, key_positions: Any, config: SelfExtendConfig) -> Any:
    """The relative position at which each query sees each key.

    Distances below w_n keep i - j; from w_n on it is i // G_s - j // G_s + w_n - w_n // G_s.

    Args:
        query_positions: i, shape (q,): a numpy array or torch tensor of integers.
        key_positions: j, shape (k,), of the same kind.

    Returns:
        Integers of shape (q, k). Keys after their query (j > i), which causal attention never looks at, come out
        negative.
    """
    queries, keys = query_positions[:, None], key_positions[None, :]
    distance = queries - keys
    grouped = grouped_query_positions(queries, config) - grouped_key_positions(keys, config)
    is_neighbor = distance < config.neighbor_window
    return is_neighbor * distance + ~is_neighbor * grouped


def relative_position(query: int, key: int, config: SelfExtendConfig) -> int:
    """`relative_positions` for one query and one key, as plain integers."""
    distance = query - key
    if distance < config.neighbor_window:
        return distance
    return grouped_query_positions(query, config) - grouped_key_positions(key, config)


def largest_relative_position(length: int, config: SelfExtendConfig) -> int:
    """The largest relative position that occurs in a sequence of `length` tokens (>= 1): the last query's first key."""
    return relative_position(length - 1, 0, config)


def explain(query: int, key: int, config: SelfExtendConfig) -> str:
    """The formula for one cell with its numbers put in, for captions and the command line."""
    group, window = config.group_size, config.neighbor_window
    distance = query - key
    if distance < 0:
        return f"key {key} comes after query {query}: causal attention never looks at it"
    position = relative_position(query, key, config)
    if distance < window:
        return f"neighbor: {query} - {key} = {position} (distance {distance} < {window})"
    return (
        f"grouped: {query}//{group} - {key}//{group} + {window} - {window}//{group} = "
        f"{query // group} - {key // group} + {window} - {window // group} = {position} "
        f"(distance {distance} >= {window})"
    )


def logn_query_scale(position: int, trained_window: int) -> float:
    """The factor that query_scaling="logn" multiplies the query at `position` (from 0) by.

    max(1, ln(position + 1) / ln(L)), the rule of the authors' passkey runs. 1 inside the trained window.
    """
    return max(1.0, math.log(position + 1) / math.log(trained_window))
