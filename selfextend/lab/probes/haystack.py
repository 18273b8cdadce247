"""Texts of a wanted number of tokens with things planted in them: what passkeys, needles and key-value pairs share."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice, zip_longest

from selfextend.lab.errors import LabError
from selfextend.lab.probes.cases import Tokenizer

_SENTENCE_END = re.compile(r"((?<=[.!?])[\"'’”)\]]*\s+)")


def sentences_of(text: str) -> list[str]:
    """The sentences of a text, each with its full stop and without the white space between them.

    Raises:
        LabError: the text is empty.
    """
    parts = _SENTENCE_END.split(text)  # a sentence up to its stop, what closes it, the next sentence ...
    whole = [(words + end).strip() for words, end in zip_longest(parts[::2], parts[1::2], fillvalue="")]
    sentences = [sentence for sentence in whole if sentence]
    if not sentences:
        raise LabError("The text to plant something in is empty. Give a text with at least one sentence.")
    return sentences


def check_depth(depth: float) -> float:
    """`depth` if it lies between 0 and 1, else a LabError."""
    if isinstance(depth, bool) or not isinstance(depth, (int, float)) or not 0 <= depth <= 1:
        raise LabError(f"A depth must lie in 0 … 1 (0 is the beginning of the text, 1 its end), not {depth!r}.")
    return float(depth)


def even_depths(count: int) -> list[float]:
    """`count` depths from 0 to 1, evenly spaced; a single one is the middle."""
    if count < 1:
        raise LabError(f"The number of depths must be at least 1, not {count}.")
    return [0.5] if count == 1 else [round(index / (count - 1), 4) for index in range(count)]


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """Token ids of a prompt, with the special tokens that the tokenizer puts in front."""
    # No warning about texts longer than the tokenizer's own limit: they are the point here.
    ids: list[int] = tokenizer(text, verbose=False).input_ids
    return ids


@dataclass(frozen=True)
class Filler:
    """Pieces (sentences or lines) to fill a text with.

    Attributes:
        pieces: in order.
        repeats: whether to start over when they are used up; a user's own document does not.
        joint: what stands between two pieces.
        source: names the filler in the records.
    """

    pieces: tuple[str, ...]
    repeats: bool
    joint: str
    source: str

    def take(self, count: int) -> list[str]:
        return list(islice(cycle(self.pieces), count)) if self.repeats else list(self.pieces[:count])


def own_text(text: str, source: str) -> Filler:
    """A user's own document as filler: things are planted between its sentences. Errors as `sentences_of`."""
    return Filler(tuple(sentences_of(text)), repeats=False, joint=" ", source=source)


@dataclass(frozen=True)
class Planted:
    """Something to plant at a depth, 0 (start) to 1 (end)."""

    depth: float
    text: str


def plant(
    tokenizer: Tokenizer,
    filler: Filler,
    budget: int,
    *,
    header: str = "",
    planted: Sequence[Planted],
    question: str,
) -> tuple[int, ...]:
    """The longest text of at most `budget` tokens: header, filler with things planted in it, question. As tokens.

    Header and question stand on lines of their own; what is planted stands between two pieces of the filler.

    Raises:
        LabError: what is planted and asked is longer by itself, or the filler is too short and may not start over.
    """
    planted = sorted(planted, key=lambda thing: thing.depth)

    def build(pieces: list[str]) -> str:
        body, start = [], 0
        for thing in planted:
            at = round(thing.depth * len(pieces))
            body += [*pieces[start:at], thing.text]
            start = at
        return "\n".join(part for part in (header, filler.joint.join([*body, *pieces[start:]]), question) if part)

    return fill(tokenizer, filler, budget, build)


def fill(tokenizer: Tokenizer, filler: Filler, budget: int, build: Callable[[list[str]], str]) -> tuple[int, ...]:
    """The tokens of the longest `build(pieces)` that has at most `budget` tokens. Errors as `plant`."""

    def tokens_with(count: int) -> list[int]:
        return encode(tokenizer, build(filler.take(count)))

    shortest = tokens_with(0)
    if len(shortest) > budget:
        raise LabError(
            f"What is planted and asked takes {len(shortest):,} tokens by itself, more than the {budget:,} that the "
            "text may have. Choose a greater length."
        )
    sample = filler.take(64)
    per_piece = max(1.0, len(encode(tokenizer, filler.joint.join(sample))) / len(sample))
    most = 1 << 30 if filler.repeats else len(filler.pieces)
    # A guess, corrected by how many tokens it turns out to have. At the end `low` pieces fit and `high`, one more,
    # do not.
    low, longest, high = 0, shortest, most + 1
    guess = int((budget - len(shortest)) / per_piece)
    while high - low > 1:
        guess = min(max(guess, low + 1), high - 1)
        tokens = tokens_with(guess)
        if len(tokens) <= budget:
            low, longest = guess, tokens
            guess = low + max(1, int((budget - len(tokens)) / per_piece))
        else:
            high = guess
            guess = high - max(1, round((len(tokens) - budget) / per_piece))
    if low == most:
        raise LabError(
            f"The text ({filler.source}) with what is planted in it has only {len(longest):,} tokens, fewer than the "
            f"{budget:,} asked for. Choose a smaller length or a longer text."
        )
    return tuple(longest)
