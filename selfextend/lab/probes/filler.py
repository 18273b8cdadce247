"""Generated English prose to hide things in, as long as wanted; the same seed gives the same prose."""

from __future__ import annotations

import random

_SUBJECTS = (
    "the ferry", "a heron", "the old mill", "our neighbour", "the orchard", "a quiet lane", "the bakery", "the tide",
    "a grey cat", "the postman", "the long winter", "a paper boat", "the choir", "the harbour wall", "a field of oats",
    "the night train", "the schoolhouse", "a copper kettle", "the beekeeper", "the evening light", "a flock of geese",
    "the carpenter", "the narrow bridge", "a woollen coat", "the market square", "the lighthouse", "a row of poplars",
)  # fmt: skip
_VERBS = (
    "waits for", "turns towards", "remembers", "passes", "belongs to", "leans against", "outlasts", "looks like",
    "stands beside", "follows", "is older than", "keeps an eye on", "never quite reaches", "borrows from", "smells of",
    "makes room for", "is mistaken for", "sounds like",
)  # fmt: skip
_OBJECTS = (
    "the river", "fresh bread", "the last house", "a wooden gate", "the morning", "the first frost", "a stone well",
    "the far shore", "warm rain", "a folded map", "the hills", "an open window", "the harvest", "a brass bell",
    "the garden", "a broken fence", "the clouds", "a borrowed ladder", "the road to the sea", "a handful of plums",
)  # fmt: skip
_PLACES = (
    "in early spring", "behind the church", "after supper", "along the canal", "without a word", "most afternoons",
    "on the way home", "as the wind drops", "under a pale sky", "before anyone is up", "when the lamps are lit",
    "for no particular reason", "at the edge of the village", "once in a while", "as far as anyone can tell",
)  # fmt: skip
_JOINTS = ("and", "while", "because", "although", "so", "until", "just as")


def sentences(seed: int, count: int) -> list[str]:
    """`count` sentences; the first of a longer list are those of a shorter one."""
    rng = random.Random(f"filler {seed}")
    return [_sentence(rng) for _ in range(count)]


def _sentence(rng: random.Random) -> str:
    text = _clause(rng)
    if rng.random() < 0.35:
        text += f", {rng.choice(_JOINTS)} {_clause(rng)}"
    return text[0].upper() + text[1:] + "."


def _clause(rng: random.Random) -> str:
    text = f"{rng.choice(_SUBJECTS)} {rng.choice(_VERBS)} {rng.choice(_OBJECTS)}"
    return f"{text} {rng.choice(_PLACES)}" if rng.random() < 0.6 else text
