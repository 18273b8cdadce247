"""SelfExtend (arXiv 2401.01325): near keys keep exact positions, far keys share floored ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from selfextend.config import SelfExtendConfig, suggest
from selfextend.methods.base import Method
from selfextend.profile import Profile


@dataclass(frozen=True)
class SelfExtend(Method):
    """SelfExtend.

    Attributes:
        group_size: the paper's G_s; None takes what `suggest` gives for each length.
        neighbor_window: the paper's w_n, in tokens; None takes the model's own.
    """

    group_size: int | None = None
    neighbor_window: int | None = None

    kind = "selfextend"
    heading = "SelfExtend"
    symbols = (("group_size", "G"), ("neighbor_window", "w"))

    @classmethod
    def of(cls, config: SelfExtendConfig) -> Self:
        """The settled method with these settings."""
        return cls(config.query_scaling, config.group_size, config.neighbor_window)

    def at(self, profile: Profile, length: int) -> Self:
        window = profile.neighbors if self.neighbor_window is None else self.neighbor_window
        group = self.group_size
        if group is None:
            group = suggest(profile.trained_window, length, neighbor_window=window).group_size
        return replace(self, group_size=group, neighbor_window=window)

    @property
    def positions(self) -> SelfExtendConfig:
        if self.group_size is None or self.neighbor_window is None:
            raise ValueError(f"{self.label} has open numbers: settle them for a model and a length with `at`.")
        return SelfExtendConfig(self.group_size, self.neighbor_window, self.query_scaling)
