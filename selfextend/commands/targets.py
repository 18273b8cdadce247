"""The model and the methods that a command's arguments name."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from selfextend.lab.target import Target, find_target
from selfextend.methods import Method, parse_methods


def target_of(arguments: argparse.Namespace) -> Target:
    """The model, looked up but not loaded."""
    return find_target(
        arguments.model,
        trained_window=arguments.trained_window,
        quantization=arguments.quantization,
        device=arguments.device,
        dtype=arguments.dtype,
    )


def methods_of(arguments: argparse.Namespace, target: Target) -> tuple[Method, ...]:
    """The methods of --methods, with the numbers that are given."""
    return _with_numbers(arguments.methods, arguments, target)


def method_of(arguments: argparse.Namespace, target: Target) -> Method:
    """The method of --method, with the numbers that are given."""
    (method,) = _with_numbers([arguments.method], arguments, target)
    return method


def _with_numbers(names: Sequence[str], arguments: argparse.Namespace, target: Target) -> tuple[Method, ...]:
    numbers = {"group_size": arguments.group_size, "neighbor_window": arguments.neighbor_window}
    return tuple(parse_methods(names, target.profile, **numbers))
