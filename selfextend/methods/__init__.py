"""The ways of reading past the trained window. One file a method; this registry is where everybody finds them.

CONTRIBUTING.md says how one is added. Importing this package loads no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from selfextend.methods.base import Method
from selfextend.methods.rerope import ReRoPE
from selfextend.methods.rope_scaling import DynamicNTK, LinearInterpolation, YaRN
from selfextend.methods.selfextend import SelfExtend
from selfextend.methods.sliding_window import SlidingWindow
from selfextend.methods.vanilla import Vanilla
from selfextend.profile import Profile

METHODS: tuple[type[Method], ...] = (
    Vanilla, SelfExtend, ReRoPE, SlidingWindow, LinearInterpolation, DynamicNTK, YaRN,
)  # fmt: skip
"""Every method, in the order in which they are shown."""

_BY_NAME: dict[str, Method] = {
    method.name: method
    for kind in METHODS
    for method in ([kind(), kind("logn")] if kind.takes_query_scaling else [kind()])
}
METHOD_NAMES = tuple(_BY_NAME)
POSITION_METHODS = tuple(kind for kind in METHODS if kind.takes_query_scaling)
"""The methods that are position maps: those that the map draws and the chat answers with, evidence and all."""
RECOMMENDED = "recommended"
"""Stands for SelfExtend as it is recommended for the model."""

__all__ = [
    "METHODS", "METHOD_NAMES", "POSITION_METHODS", "RECOMMENDED", "DynamicNTK", "LinearInterpolation", "Method",
    "ReRoPE", "SelfExtend", "SlidingWindow", "Vanilla", "YaRN", "method_from", "method_named", "parse_methods",
    "position_method", "recommended",
]  # fmt: skip


def method_named(name: str) -> Method:
    """A method by its name, with all its numbers open.

    Raises:
        ValueError: there is none of that name.
    """
    return method_from(name, {})


def position_method(name: str) -> Method:
    """One of `POSITION_METHODS` by its kind or its heading, with all its numbers open.

    Raises:
        ValueError: there is none of that name.
    """
    for kind in POSITION_METHODS:
        if name.lower() in (kind.kind, kind.heading.lower()):
            return kind()
    headings = ", ".join(repr(kind.heading) for kind in POSITION_METHODS)
    raise ValueError(f"method must be {headings}; not {name!r}.")


def method_from(name: str, settings: Mapping[str, Any]) -> Method:
    """The method of a row, a reply or a capsule: its name and what `Method.settings` gave.

    Raises:
        ValueError: there is none of that name, a number is out of range, or the method does not take it.
    """
    if name not in _BY_NAME:
        raise ValueError(f"There is no method {name!r}. Methods: {', '.join(METHOD_NAMES)}.")
    method = _BY_NAME[name]
    numbers = {key: value for key, value in settings.items() if key not in ("query_scaling", "rope_type")}
    unknown = numbers.keys() - {field.name for field in fields(method)}
    if unknown:
        raise ValueError(f"{method.title} has no setting {', '.join(sorted(unknown))}.")
    return type(method)(query_scaling=method.query_scaling, **numbers)


def recommended(profile: Profile) -> SelfExtend:
    """SelfExtend with what suits the model; its numbers stay open."""
    return SelfExtend(profile.query_scaling)


def parse_methods(
    names: Sequence[str], profile: Profile, *, group_size: int | None = None, neighbor_window: int | None = None
) -> list[Method]:
    """Methods by name, each once, in order. `group_size` and `neighbor_window` go to those that take them.

    Args:
        names: of `METHOD_NAMES`, or "recommended", or "all".

    Raises:
        ValueError: an unknown name or no name.
    """
    wanted: list[str] = []
    for name in names:
        wanted += METHOD_NAMES if name == "all" else [recommended(profile).name if name == RECOMMENDED else name]
    if not wanted:
        raise ValueError(f"Name at least one method: {', '.join((*METHOD_NAMES, RECOMMENDED, 'all'))}.")
    methods = [method_named(name) for name in dict.fromkeys(wanted)]
    return [method.with_numbers(group_size=group_size, neighbor_window=neighbor_window) for method in methods]
