"""The ways of reading past the trained window that the lab lays side by side, and their settings for a length.

SelfExtend, log-n scaling alone, plain sliding-window attention, and transformers' own RoPE scalings. Only names and
numbers: knows nothing about tensors or models. How a model runs under each is in `selfextend.lab.running`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from selfextend.config import QueryScaling, SelfExtendConfig, check_window, checked_integer, max_length, suggest
from selfextend.errors import PastReachError

MethodName = Literal["vanilla", "vanilla+logn", "selfextend", "selfextend+logn", "window", "linear", "dynamic", "yarn"]
METHOD_NAMES: tuple[str, ...] = get_args(MethodName)
RECOMMENDED = "recommended"
"""Stands for "selfextend" or "selfextend+logn", whichever is recommended for the model."""

_LABELS = {
    "vanilla": "Vanilla",
    "vanilla+logn": "Vanilla with log-n",
    "selfextend": "SelfExtend",
    "selfextend+logn": "SelfExtend with log-n",
    "window": "Sliding window",
    "linear": "Linear interpolation",
    "dynamic": "Dynamic NTK",
    "yarn": "YaRN",
}


@dataclass(frozen=True)
class Method:
    """One way of reading, whatever the length.

    Attributes:
        name: see `MethodName`.
        group_size: the paper's G_s for SelfExtend; None takes what `suggest` gives for each length.
        neighbor_window: the paper's w_n for SelfExtend, in tokens; None is a quarter of the trained window.

    Raises:
        ValueError: an unknown name, a number out of range, or SelfExtend's numbers on another method.
    """

    name: str
    group_size: int | None = None
    neighbor_window: int | None = None

    def __post_init__(self) -> None:
        if self.name not in METHOD_NAMES:
            raise ValueError(f"There is no method {self.name!r}. Methods: {', '.join(METHOD_NAMES)}.")
        for attribute in ("group_size", "neighbor_window"):
            value = getattr(self, attribute)
            if value is not None:
                checked_integer(attribute, value, 1)
                if not self.is_selfextend:
                    raise ValueError(f"{attribute} is a setting of SelfExtend, not of {self.label}.")

    @property
    def is_selfextend(self) -> bool:
        return self.name.startswith("selfextend")

    @property
    def label(self) -> str:
        """For legends: the name, with the settings that were fixed by hand."""
        fixed = [
            f"{symbol}={value}"
            for symbol, value in (("G", self.group_size), ("w", self.neighbor_window))
            if value is not None
        ]
        return _LABELS[self.name] + (f" ({', '.join(fixed)})" if fixed else "")

    def config(self, trained_window: int, length: int) -> SelfExtendConfig | None:
        """The settings for a sequence of `length` tokens; None where the method is none of SelfExtend's.

        Raises:
            ValueError: see `selfextend.config`.
        """
        scaling: QueryScaling = "logn" if self.name.endswith("+logn") else "none"
        if self.name == "vanilla+logn":
            return SelfExtendConfig(1, max(1, trained_window // 4), scaling)
        if not self.is_selfextend:
            return None
        if self.group_size is None:
            return suggest(trained_window, length, neighbor_window=self.neighbor_window, query_scaling=scaling)
        window = max(1, trained_window // 4) if self.neighbor_window is None else self.neighbor_window
        return SelfExtendConfig(self.group_size, window, scaling)

    def settings(self, trained_window: int, length: int) -> dict[str, Any]:
        """What a row says about how it was made: every number that the method takes at this length."""
        config = self.config(trained_window, length)
        if config is not None:
            numbers = {"query_scaling": config.query_scaling}
            if self.is_selfextend:
                return {"group_size": config.group_size, "neighbor_window": config.neighbor_window, **numbers}
            return dict(numbers)
        if self.name == "window":
            return {"window": trained_window}
        if self.name == "dynamic":
            # The frequencies are those for the whole length, as when transformers reads it in one go.
            return {"rope_type": "dynamic", "factor": 1.0, "length": length}
        if self.name in ("linear", "yarn"):
            return {"rope_type": self.name, "factor": max(1.0, length / trained_window)}
        return {}

    def check(self, trained_window: int, length: int) -> None:
        """Refuse a length that SelfExtend's settings do not reach. Other methods are shown past their limit.

        Raises:
            PastReachError: with settings that fit.
            ValueError: settings that do not fit the trained window.
        """
        checked_integer("length", length, 1)
        config = self.config(trained_window, length)
        if config is None or not self.is_selfextend:
            return
        check_window(trained_window, config)
        reach = max_length(trained_window, config)
        if length > reach:
            fitting = suggest(trained_window, length)
            raise PastReachError(
                f"{length:,} tokens are past the reach of {reach:,} that group size {config.group_size} and neighbor "
                f"window {config.neighbor_window} give a trained window of {trained_window:,}. Group size "
                f"{fitting.group_size} with neighbor window {fitting.neighbor_window} would do."
            )


def parse_methods(
    names: Sequence[str],
    *,
    recommended_scaling: QueryScaling = "none",
    group_size: int | None = None,
    neighbor_window: int | None = None,
) -> list[Method]:
    """Methods by name, each once, in order. `group_size` and `neighbor_window` go to SelfExtend.

    Args:
        names: of `METHOD_NAMES`, or "recommended", or "all".
        recommended_scaling: what "recommended" stands for, see `selfextend.lab.target`.

    Raises:
        ValueError: an unknown name or no name.
    """
    recommended = "selfextend+logn" if recommended_scaling == "logn" else "selfextend"
    wanted: list[str] = []
    for name in names:
        if name == "all":
            wanted += METHOD_NAMES
        else:
            wanted.append(recommended if name == RECOMMENDED else name)
    if not wanted:
        raise ValueError(f"Name at least one method: {', '.join((*METHOD_NAMES, RECOMMENDED, 'all'))}.")
    methods = []
    for name in dict.fromkeys(wanted):
        own = name.startswith("selfextend")
        methods.append(Method(name, group_size if own else None, neighbor_window if own else None))
    return methods
