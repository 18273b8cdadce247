"""The model as it is, or with log-n query scaling alone."""

from __future__ import annotations

from dataclasses import dataclass

from selfextend.methods.base import Method
from selfextend.positions import ExactPositions


@dataclass(frozen=True)
class Vanilla(Method):
    """Every key at its distance, past the trained window too."""

    kind = "vanilla"
    heading = "Vanilla"

    def settings(self) -> dict[str, str]:
        return {} if self.query_scaling == "none" else {"query_scaling": self.query_scaling}

    @property
    def positions(self) -> ExactPositions:
        return ExactPositions(self.query_scaling)
