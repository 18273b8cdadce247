"""`suggest` and `map`: settings and the positions they give, which need no model."""

from __future__ import annotations

import argparse
from typing import Any

from selfextend.config import (
    SelfExtendConfig,
    explain_max_length,
    max_length,
    paper_max_length,
    rule_share,
    suggest,
    usual_neighbor_window,
)
from selfextend.methods import parse_methods
from selfextend.position_map import position_map
from selfextend.profile import Profile

# The example in the paper's figures, which `map` draws unless it is asked for something else.
PAPER_WINDOW, PAPER_LENGTH, PAPER_GROUP_SIZE, PAPER_NEIGHBOR_WINDOW = 7, 10, 2, 4


def run_suggest(arguments: argparse.Namespace) -> dict[str, Any]:
    profile, length = _asked(arguments)
    neighbors = profile.neighbor_window if arguments.neighbor_window is None else arguments.neighbor_window
    window = profile.trained_window
    config = suggest(window, length, neighbor_window=neighbors)
    return {
        "trained_window": window,
        "length": length,
        "group_size": config.group_size,
        "neighbor_window": config.neighbor_window,
        "reach": max_length(window, config),
        "reach_of_the_paper": paper_max_length(window, config),
        "reach_explained": explain_max_length(window, config),
        "rule_share": round(rule_share(window, length, config), 4),
    }


def _asked(arguments: argparse.Namespace) -> tuple[Profile, int]:
    """What is known about the model, and the length, from options and bare numbers."""
    numbers, window, length = list(arguments.numbers), arguments.trained_window, arguments.length
    if length is None and numbers:
        length = numbers.pop()
    if window is None and numbers:
        window = numbers.pop()
    if length is None or numbers or (window is None) == (arguments.model is None):
        raise ValueError("Give either --trained-window or --model, and the length: suggest 4096 16000.")
    if arguments.model is None:
        return Profile(window), length
    from selfextend.lab.target import find_target  # loads torch, which numbers alone do not need

    return find_target(arguments.model).profile, length


def show_suggest(result: dict[str, Any]) -> None:
    print(f"group size       {result['group_size']}")
    print(f"neighbor window  {result['neighbor_window']}")
    print(f"reach            {result['reach']:,} tokens = {result['reach_explained']}")
    print(f"paper's formula  {result['reach_of_the_paper']:,} tokens")
    print(f"rule             {result['rule_share']:.0%} of the trained window (advised: below 67%)")


def run_map(arguments: argparse.Namespace) -> dict[str, Any]:
    window, config, length = _mapped(arguments)
    is_difference = arguments.method == "difference"
    names = ["selfextend" if is_difference else arguments.method]
    numbers = {"group_size": config.group_size, "neighbor_window": config.neighbor_window}
    (method,) = parse_methods(names, Profile(window), **numbers)
    assert method.positions is not None
    found = position_map(
        window,
        length,
        method.positions,
        (arguments.query_from, arguments.query_to),
        (arguments.key_from, arguments.key_to),
        difference=is_difference,
        max_cells=arguments.cells,
    )
    return {
        "trained_window": window,
        **numbers,
        "length": length,
        "reach": method.reach(window),
        "method": arguments.method,
        "query": found.query.tolist(),
        "key": found.key.tolist(),
        "relative": found.relative.tolist(),
        "unseen": found.unseen.tolist(),
    }


def _mapped(arguments: argparse.Namespace) -> tuple[int, SelfExtendConfig, int]:
    """Trained window, settings and length as given; the paper's example where nothing is, else what follows."""
    window, length = arguments.trained_window, arguments.length
    group, neighbors = arguments.group_size, arguments.neighbor_window
    if window is None and length is None:
        window, length = PAPER_WINDOW, PAPER_LENGTH
        group = PAPER_GROUP_SIZE if group is None else group
        neighbors = PAPER_NEIGHBOR_WINDOW if neighbors is None else neighbors
    if window is None:
        raise ValueError("Give --trained-window too: the model has seen the positions below it.")
    length = 2 * window if length is None else length
    neighbors = usual_neighbor_window(window) if neighbors is None else neighbors
    if group is None:
        return window, suggest(window, length, neighbor_window=neighbors), length
    return window, SelfExtendConfig(group, neighbors), length


def show_map(result: dict[str, Any]) -> None:
    rows = [
        [_cell(*pair) for pair in zip(*both, strict=True)]
        for both in zip(result["relative"], result["unseen"], strict=True)
    ]
    width = max(len(cell) for row in [*rows, [str(key) for key in result["key"]]] for cell in row)
    margin = len(str(result["query"][-1]))
    print(" " * margin, *(f"{key:>{width}}" for key in result["key"]), sep="  ")
    for query, row in zip(result["query"], rows, strict=True):
        print(f"{query:>{margin}}", *(f"{cell:>{width}}" for cell in row), sep="  ")
    print("Rows: query position i. Columns: key position j. ! marks a position the model never saw.")


def _cell(relative: int, unseen: bool) -> str:
    return "." if relative < 0 else f"{relative}!" if unseen else str(relative)
