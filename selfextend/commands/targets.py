"""The model and the methods that a command's arguments name."""

from __future__ import annotations

import argparse

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
    """The methods, with the numbers that are given."""
    numbers = {"group_size": arguments.group_size, "neighbor_window": arguments.neighbor_window}
    return tuple(parse_methods(arguments.methods, target.profile, **numbers))
