"""SelfExtend's settings, how far they reach, and which to choose. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, get_args

from selfextend.positions import (
    Band,
    QueryScaling,
    explain_exact,
    grouped_key_positions,
    grouped_query_positions,
    relative_position,
    unchanged,
)


def checked_integer(name: str, value: Any, minimum: int) -> int:
    """`value` if it is a whole number of at least `minimum`, else a ValueError that says what to change."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name} must be a whole number of at least {minimum}, not {value!r}.")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum:,}, not {value:,}.")
    return value


@dataclass(frozen=True, slots=True)
class SelfExtendConfig:
    """How SelfExtend (arXiv 2401.01325) maps distances to the positions that a model was trained on.

    Attributes:
        group_size: the paper's G_s. Tokens that share one grouped position, >= 1. 1 is the vanilla model.
        neighbor_window: the paper's w_n, in tokens, >= 1. Distances 0 ... neighbor_window - 1 stay exact.
        query_scaling: "none", or "logn" to multiply each query at position i by max(1, ln(i + 1) / ln(L)),
            which keeps the softmax from thinning out over many keys (L is the model's trained window).

    Raises:
        ValueError: a value is not a whole number, too small, or an unknown query scaling.
    """

    group_size: int
    neighbor_window: int
    query_scaling: QueryScaling = "none"

    def __post_init__(self) -> None:
        checked_integer("group_size", self.group_size, 1)
        checked_integer("neighbor_window", self.neighbor_window, 1)
        if self.query_scaling not in get_args(QueryScaling):
            choices = " or ".join(repr(choice) for choice in get_args(QueryScaling))
            raise ValueError(f"query_scaling must be {choices}, not {self.query_scaling!r}.")

    @property
    def bands(self) -> tuple[Band, Band]:
        """Neighbors at exact positions, all further keys at grouped ones. See `selfextend.positions.PositionMap`."""
        group, window = self.group_size, self.neighbor_window
        return (
            Band(window, unchanged, unchanged),
            Band(
                None,
                partial(grouped_query_positions, group_size=group, neighbor_window=window),
                partial(grouped_key_positions, group_size=group),
            ),
        )

    @property
    def position_shift(self) -> int:
        """What a grouped query's position is moved by, so that it continues the neighbors': w_n - w_n // G_s."""
        return int(grouped_query_positions(0, self.group_size, self.neighbor_window))

    def reach(self, trained_window: int) -> int:
        """See `max_length`."""
        return max_length(trained_window, self)

    def complaint(self, trained_window: int, length: int, advised_window: int | None = None) -> str | None:
        """Why `length` tokens are refused, with settings that fit; None where they are within the reach.

        Args:
            advised_window: the neighbor window recommended for the model, see `suggest`.

        Raises:
            ValueError: see `check_window`.
        """
        reach = self.reach(trained_window)
        if length <= reach:
            return None
        advised = suggest(trained_window, length, neighbor_window=advised_window)
        return (
            f"{length:,} tokens are past the reach of {reach:,} that group size {self.group_size:,} and neighbor "
            f"window {self.neighbor_window:,} give a trained window of {trained_window:,}. The smallest change that "
            f"fits is group size {smallest_group_size(trained_window, length, self.neighbor_window):,}; advised are "
            f"group size {advised.group_size:,} and neighbor window {advised.neighbor_window:,}."
        )

    def uncertainty(self, distance: int) -> int:
        """Tokens that share a position with the key at this distance; 0 where the position is exact."""
        return 0 if distance < self.neighbor_window or self.group_size == 1 else self.group_size

    def explain(self, query: int, key: int) -> str:
        """The formula for one cell with its numbers put in, for captions and the command line."""
        group, window, distance = self.group_size, self.neighbor_window, query - key
        if distance < 0:
            return explain_exact(query, key)
        if distance < window:
            return f"neighbor: {explain_exact(query, key)} (distance {distance:,} < {window:,})"
        return (
            f"grouped: {query:,}//{group:,} - {key:,}//{group:,} + {window:,} - {window:,}//{group:,} = "
            f"{query // group:,} - {key // group:,} + {window:,} - {window // group:,} = "
            f"{relative_position(query, key, self):,} (distance {distance:,} >= {window:,})"
        )


def check_window(trained_window: int, config: SelfExtendConfig) -> None:
    """Refuse settings under which no key would ever be grouped within the trained window.

    Raises:
        ValueError: `trained_window` is no whole number of at least 2, or neighbor_window is not below it.
    """
    checked_integer("trained_window", trained_window, 2)
    if config.neighbor_window >= trained_window:
        raise ValueError(
            f"neighbor_window ({config.neighbor_window:,}) must be smaller than the trained window "
            f"({trained_window:,}), else no position is left for grouped keys. "
            f"Try {usual_neighbor_window(trained_window):,}."
        )


def max_length(trained_window: int, config: SelfExtendConfig) -> int:
    """The reach: the longest sequence, in tokens, in which no key lies at a position the model never saw.

    Exact: the largest grouped position over N tokens, (N - 1) // G + w - w // G, is at most L - 1 just when
    N <= G * (L - w + w // G).

    Args:
        trained_window: the paper's L, tokens that the model was trained on.

    Raises:
        ValueError: see `check_window`.
    """
    check_window(trained_window, config)
    return config.group_size * (trained_window - config.position_shift)


def paper_max_length(trained_window: int, config: SelfExtendConfig) -> int:
    """The paper's own limit, (L - w_n) * G_s + w_n, in tokens.

    Equal to `max_length` where G_s divides w_n; up to G_s - 1 tokens too many where it does not.
    """
    check_window(trained_window, config)
    return (trained_window - config.neighbor_window) * config.group_size + config.neighbor_window


def rule_share(trained_window: int, length: int, config: SelfExtendConfig) -> float:
    """What the paper's empirical rule looks at, (w_n + (N - w_n) / G_s) / L: advised below 1/2 to 2/3.

    A share of the trained window, so 1 and more does not fit. Sequences of at most w_n tokens group nothing and
    take N / L.

    Args:
        trained_window: the paper's L, in tokens.
        length: the paper's N, tokens of prompt and answer together.
    """
    check_window(trained_window, config)
    checked_integer("length", length, 1)
    near = min(length, config.neighbor_window)
    return (near + (length - near) / config.group_size) / trained_window


def usual_neighbor_window(trained_window: int) -> int:
    """A quarter of the trained window, in tokens: the w_n to take where none is recommended (Phi-2: 512 of 2048)."""
    return max(1, trained_window // 4)


def room_for_groups(trained_window: int, neighbor_window: int) -> int:
    """Three times the positions that the paper's rule leaves for groups; with 0 or fewer, no group size is advised."""
    return 2 * trained_window - 3 * neighbor_window


def suggest(
    trained_window: int,
    length: int,
    *,
    neighbor_window: int | None = None,
    query_scaling: QueryScaling = "none",
) -> SelfExtendConfig:
    """The smallest group size that the paper's empirical rule allows for a sequence of `length` tokens.

    The rule, w_n + (N - w_n) / G_s < 2/3 * L, keeps away from a model's largest positions, which are its least
    trained. A sequence inside the trained window needs no grouping and gets group_size 1, the vanilla model.

    Args:
        trained_window: the paper's L, in tokens, >= 2.
        length: the paper's N, tokens of prompt and answer together, >= 1.
        neighbor_window: the paper's w_n; `usual_neighbor_window` unless given.
        query_scaling: passed on to the configuration.

    Raises:
        ValueError: a number is out of range, or neighbor_window alone is 2/3 of the trained window or more.
    """
    checked_integer("trained_window", trained_window, 2)
    checked_integer("length", length, 1)
    if neighbor_window is None:
        neighbor_window = usual_neighbor_window(trained_window)
    checked_integer("neighbor_window", neighbor_window, 1)
    room = room_for_groups(trained_window, neighbor_window)
    if room <= 0:
        raise ValueError(
            f"neighbor_window ({neighbor_window:,}) must stay below two thirds of the trained window "
            f"({trained_window:,}). Try {usual_neighbor_window(trained_window):,}."
        )
    group_size = 1 if length <= trained_window else 3 * (length - neighbor_window) // room + 1
    config = SelfExtendConfig(group_size, neighbor_window, query_scaling)
    # A window of a handful of tokens leaves so few positions that flooring can still overshoot by one.
    while max_length(trained_window, config) < length:
        config = SelfExtendConfig(config.group_size + 1, neighbor_window, query_scaling)
    return config


def smallest_group_size(trained_window: int, length: int, neighbor_window: int) -> int:
    """The smallest group size whose reach holds `length` tokens with this neighbor window: the least change that fits.

    Raises:
        ValueError: see `check_window`.
    """
    check_window(trained_window, SelfExtendConfig(1, neighbor_window))
    checked_integer("length", length, 1)
    # The paper's limit is never below the exact one, so no smaller group size can reach. From there the exact one
    # is asked, since it does not grow with every step (a group larger than the window wastes the window).
    group_size = max(1, -(-(length - neighbor_window) // (trained_window - neighbor_window)))
    while max_length(trained_window, SelfExtendConfig(group_size, neighbor_window)) < length:
        group_size += 1
    return group_size


def explain_max_length(trained_window: int, config: SelfExtendConfig) -> str:
    """The reach's formula with its numbers put in, for captions and lessons."""
    group, window = config.group_size, config.neighbor_window
    return (
        f"{group:,} * ({trained_window:,} - {window:,} + {window:,}//{group:,}) = "
        f"{group:,} * {trained_window - config.position_shift:,} = {max_length(trained_window, config):,}"
    )
