"""`ask` and what commands that load a model have in common."""

from __future__ import annotations

import argparse
from typing import Any


def add_model_arguments(one: argparse.ArgumentParser) -> None:
    """Which model, and how to load it."""
    group = one.add_argument_group("model")
    group.add_argument("--model", "-m", default="bundled", help="bundled, a folder, or a hub id (default: bundled)")
    group.add_argument("--quantization", choices=("none", "int8", "nf4"), default="none")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:0, mps")
    group.add_argument("--dtype", default="auto", help="auto, float32, bfloat16, float16")
    group.add_argument("--trained-window", "-L", type=int, help="from the model's configuration unless given")


def target_of(arguments: argparse.Namespace) -> Any:
    """The model that the arguments name, looked up but not loaded."""
    from selfextend.lab.target import find_target

    return find_target(
        arguments.model,
        trained_window=arguments.trained_window,
        quantization=arguments.quantization,
        device=arguments.device,
        dtype=arguments.dtype,
    )


def add_commands(commands: Any) -> None:
    """None yet."""
