"""ReRoPE (github.com/bojone/rerope): no relative position is larger than w."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from selfextend.config import checked_integer
from selfextend.methods.base import Method
from selfextend.positions import Band, QueryScaling, explain_exact, unchanged
from selfextend.profile import Profile


@dataclass(frozen=True)
class ReRoPEPositions:
    """Relative position min(i - j, w): exact up to w tokens back, and w for everything further.

    Attributes:
        neighbor_window: w, in tokens, >= 1.
        query_scaling: see `selfextend.positions.PositionMap`.
    """

    neighbor_window: int
    query_scaling: QueryScaling = "none"

    @property
    def bands(self) -> tuple[Band, Band]:
        window = self.neighbor_window
        return (
            Band(window, unchanged, unchanged),
            # Far queries stand at w and far keys at 0, wherever they are. Written so that it suits arrays too.
            Band(None, lambda queries: queries * 0 + window, lambda keys: keys * 0),
        )

    def reach(self, trained_window: int) -> None:
        """No limit: w is below every trained window that `ReRoPE.check` lets through."""

    def complaint(self, trained_window: int, length: int, advised_window: int | None = None) -> None:
        """None: a text of any length is read."""

    def uncertainty(self, distance: int) -> int:
        return max(0, distance - self.neighbor_window)

    def explain(self, query: int, key: int) -> str:
        if query - key < self.neighbor_window:
            return explain_exact(query, key)
        return f"min({query:,} - {key:,}, {self.neighbor_window:,}) = {self.neighbor_window:,}"


@dataclass(frozen=True)
class ReRoPE(Method):
    """ReRoPE.

    Attributes:
        neighbor_window: w, in tokens; None takes the model's own neighbor window, or, for a text that fits the trained
            window, that window, under which nothing changes.
    """

    neighbor_window: int | None = None

    kind = "rerope"
    heading = "ReRoPE"
    symbols = (("neighbor_window", "w"),)

    def at(self, profile: Profile, length: int) -> Self:
        if self.neighbor_window is not None:
            return self
        fits = length <= profile.trained_window
        return replace(self, neighbor_window=profile.trained_window if fits else profile.neighbors)

    def check(self, profile: Profile, length: int) -> None:
        super().check(profile, length)
        if self.neighbor_window is not None and self.neighbor_window >= profile.trained_window:
            raise ValueError(
                f"neighbor_window ({self.neighbor_window:,}) must be smaller than the trained window "
                f"({profile.trained_window:,}): the model never saw that position. Try {profile.neighbors:,}."
            )

    @property
    def positions(self) -> ReRoPEPositions:
        return ReRoPEPositions(checked_integer("neighbor_window", self.neighbor_window, 1), self.query_scaling)
