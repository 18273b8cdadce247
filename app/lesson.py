"""The lesson: SelfExtend in six steps on a text short enough to read every cell of.

Works out every number and every sentence; assets/lesson.js only draws them, so that no formula is written twice.
Needs no model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from selfextend.config import SelfExtendConfig, check_window, checked_integer, explain_max_length, max_length
from selfextend.positions import (
    EXACT,
    grouped_key_positions,
    largest_relative_position,
    relative_position,
    relative_positions,
)

MIN_TOKENS, MAX_TOKENS = 8, 64
ROWS_PAST_REACH = 2

STORY = (
    "The old ship left the port at dawn and sailed west for nine days until a storm broke her mast . The crew cut "
    "the rope , saved the sail and rowed toward a small green island where they found water , fruit and one tall "
    "tree . From it they made a new mast before the second moon and went home with a tale to tell their children ."
)


@dataclass(frozen=True, slots=True)
class Example:
    """One set of numbers to begin with. All in tokens, but for `group_size`."""

    trained_window: int
    length: int
    group_size: int
    neighbor_window: int


EXAMPLES = {
    "First: 10 tokens, L 7, G 2, w 4": Example(7, 10, 2, 4),
    "Uneven: 16 tokens, L 9, G 3, w 4": Example(9, 16, 3, 4),
    "Longer: 24 tokens, L 12, G 3, w 6": Example(12, 24, 3, 6),
    "Too long: 24 tokens, L 8, G 2, w 4": Example(8, 24, 2, 4),
    "Longest: 64 tokens, L 24, G 4, w 8": Example(24, 64, 4, 8),
}

Sum = Callable[[int, int], tuple[int, str]]


def lesson(example: Example) -> dict[str, Any]:
    """Everything the lesson shows, as plain JSON.

    Returns:
        `numbers` (L, N, G, w, reach), `words` (one a token), `groups` (j // G), `near` (the neighbor window), `maps`
        (name -> rows of [position, the sum in words], row i for keys 0 ... i) and `steps` (title, sentences, which
        map, how many rows, which things to point out).

    Raises:
        ValueError: a number is out of range; the message says what to change.
    """
    config = SelfExtendConfig(example.group_size, example.neighbor_window)
    trained, length = example.trained_window, checked_integer("Tokens", example.length, MIN_TOKENS)
    if length > MAX_TOKENS:
        raise ValueError(f"The lesson shows at most {MAX_TOKENS} tokens, so that every cell can be read; not {length}.")
    check_window(trained, config)
    reach = max_length(trained, config)
    shown = max(length, min(reach + ROWS_PAST_REACH, MAX_TOKENS))
    sums: dict[str, Sum] = {
        "vanilla": _vanilla,
        "grouped": lambda i, j: _grouped(i, j, config),
        "unjoined": lambda i, j: _vanilla(i, j) if i - j < config.neighbor_window else _grouped(i, j, config),
        "selfextend": lambda i, j: (relative_position(i, j, config), config.explain(i, j)),
    }
    return {
        "numbers": {"L": trained, "N": length, "G": config.group_size, "w": config.neighbor_window, "reach": reach},
        "words": STORY.split()[:shown],
        "groups": grouped_key_positions(np.arange(shown), config.group_size).tolist(),
        "maps": {name: [[cell(i, j) for j in range(i + 1)] for i in range(shown)] for name, cell in sums.items()},
        "steps": _steps(trained, length, config, reach, shown),
    }


def _vanilla(query: int, key: int) -> tuple[int, str]:
    position = relative_position(query, key, EXACT)
    return position, f"{query} - {key} = {position}"


def _grouped(query: int, key: int, config: SelfExtendConfig) -> tuple[int, str]:
    """Both positions floored, without the shift: the step before SelfExtend."""
    group = config.group_size
    query_group, key_group = (grouped_key_positions(at, config.group_size) for at in (query, key))
    position = query_group - key_group
    return position, f"{query}//{group} - {key}//{group} = {query_group} - {key_group} = {position}"


def _steps(trained: int, length: int, config: SelfExtendConfig, reach: int, shown: int) -> list[dict[str, Any]]:
    group, window, shift, last = config.group_size, config.neighbor_window, config.position_shift, length - 1
    taught = [
        f"Add w - w//G = {window} - {window}//{group} = {shift} to every grouped number.",
        *_joined_text(length, config),
        "This is SelfExtend. Both kinds of cell go into one softmax. Nothing is trained anew.",
    ]
    floored = f"Floor division: {group} tokens share one number" if group > 1 else "Groups of one change nothing"
    inside = ["unseen", "groups", "near"]
    steps: list[tuple[str, str, int, list[str], list[str]]] = [
        ("Every token looks back", "vanilla", length, [], _distance_text(last)),
        (f"Training ended at {trained} tokens", "vanilla", length, ["unseen"], _trained_window_text(trained, length)),
        (floored, "grouped", length, ["unseen", "groups"], _grouping_text(length, config)),
        (f"The nearest {window} keep their exact place", "unjoined", length, inside, _neighbor_text(length, config)),
        (f"A shift of {shift} joins the two", "selfextend", length, inside, taught),
        (
            f"How far it reaches: {reach} tokens",
            "selfextend",
            shown,
            [*inside, "reach"],
            _reach_text(trained, length, config, reach, shown),
        ),
    ]
    names = ("title", "map", "rows", "points", "text")
    return [dict(zip(names, step, strict=True)) for step in steps]


def _distance_text(last: int) -> list[str]:
    return [
        "Each row is a query: the token that is reading. Each column is a key: a token it looks back at.",
        f"The number is the distance i - j. Query {last} sees key 0 at {last}.",
        "RoPE turns this number into an angle. The model reads it as the key's relative position.",
    ]


def _trained_window_text(trained: int, length: int) -> list[str]:
    positions = np.arange(length)
    unseen = int((relative_positions(positions, positions, EXACT) >= trained).sum())
    text = [
        f"No training text was longer than {trained} tokens: the model has only ever seen positions 0 … {trained - 1}."
    ]
    if unseen:
        return [
            *text,
            f"The {unseen} hatched cells hold {trained} or more. Nothing taught the model what those angles mean.",
            f"The first trouble is query {trained}, looking at key 0.",
        ]
    return [*text, f"These {length} tokens fit. Take more than {trained} to see what goes wrong."]


def _grouping_text(length: int, config: SelfExtendConfig) -> list[str]:
    group, last = config.group_size, length - 1
    if group == 1:
        return ["Dividing by 1 changes no number. Choose a group size of 2 or more."]
    largest, words = _grouped(last, 0, config)
    return [
        f"Divide every position by {group} and drop the remainder. Tokens 0 … {group - 1} become group 0.",
        f"Query {last} now sees key 0 at {words}. The largest number fell from {last} to {largest}.",
        f"The price: {group} keys in a row look alike. Query 1 sees key 0 at {_grouped(1, 0, config)[0]}, as itself.",
        "Nearby word order is lost.",
    ]


def _neighbor_text(length: int, config: SelfExtendConfig) -> list[str]:
    window, last = config.neighbor_window, length - 1
    text = [f"Word order matters most nearby. So distances 0 … {window - 1} keep their exact number."]
    if last < window:
        return [*text, f"With {length} tokens every key is that near: no cell is grouped. This is the vanilla model."]
    near, far = window - 1, _grouped(last, last - window, config)[0]
    text.append(
        f"Look along row {last}. Key {last - near} stands at {near}. "
        f"The next one back, key {last - window}, stands at {far}."
    )
    if far <= near:
        text.append("Farther away, yet the number does not grow: the two kinds of cell do not fit together yet.")
    return text


def _joined_text(length: int, config: SelfExtendConfig) -> list[str]:
    last, window = length - 1, config.neighbor_window
    if last < window:
        return [f"With {length} tokens no key lies {window} or more back, so there is nothing to shift."]
    edge = relative_position(last, last - window, config)
    row = " ".join(str(relative_position(last, key, config)) for key in range(length))
    return [
        f"Key {last - window} of row {last} now stands at {edge}, right after {window - 1}.",
        *([f"Row {last} reads {row}."] if length <= 16 else []),
    ]


def _reach_text(trained: int, length: int, config: SelfExtendConfig, reach: int, shown: int) -> list[str]:
    largest = largest_relative_position(length, config)
    verdict = "so every cell is one the model knows" if largest < trained else "so it does not fit"
    text = [
        f"With {length} tokens the largest number is {largest}. Training showed at most {trained - 1}, {verdict}.",
        f"The reach is G * (L - w + w//G) = {explain_max_length(trained, config)} tokens.",
    ]
    if shown > reach:
        past = largest_relative_position(reach + 1, config)
        text.append(f"Token number {reach + 1} is one too many: query {reach} would see key 0 at {past}.")
    else:
        text.append(f"That is more than the {shown} tokens shown here.")
    if config.group_size > 1 and length > config.neighbor_window:
        text.append(
            f"What it costs: far away, up to {config.group_size} keys share a number, "
            "and nothing says any more which of them comes first."
        )
    return text
