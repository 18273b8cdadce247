"""A text of a wanted number of tokens with something planted at a depth: what passkey and needle have in common.

Knows tokenizers; knows nothing about models, scores or what is planted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import cycle, islice

from transformers import PreTrainedTokenizerBase

_SENTENCE_END = re.compile(r"(?<=[.!?])[\"'’”)\]]*\s+")


def sentences_of(text: str) -> list[str]:
    """The sentences of a text, each with its full stop, white space between them left out.

    Raises:
        ValueError: the text is empty.
    """
    sentences, start = [], 0
    for end in _SENTENCE_END.finditer(text):
        sentences.append(text[start : end.end()].strip())
        start = end.end()
    sentences.append(text[start:].strip())
    sentences = [sentence for sentence in sentences if sentence]
    if not sentences:
        raise ValueError("The text to plant something in is empty. Give a text with at least one sentence.")
    return sentences


def check_depth(depth: float) -> float:
    """`depth` if it lies in 0 ... 1, else a ValueError."""
    if isinstance(depth, bool) or not isinstance(depth, (int, float)) or not 0 <= depth <= 1:
        raise ValueError(f"A depth must lie in 0 … 1 (0 is the beginning of the text, 1 its end), not {depth!r}.")
    return float(depth)


def even_depths(count: int) -> list[float]:
    """`count` depths from 0 to 1, evenly spaced; a single one is the middle."""
    if count < 1:
        raise ValueError(f"The number of depths must be at least 1, not {count}.")
    return [0.5] if count == 1 else [round(index / (count - 1), 4) for index in range(count)]


def token_count(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    return len(encode(tokenizer, text))


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a prompt, with the special tokens that the tokenizer puts in front."""
    # A text longer than the tokenizer's own limit is what the lab is about: no warning.
    ids: list[int] = tokenizer(text, verbose=False).input_ids
    return ids


class Filler:
    """Pieces (sentences or lines) to fill a text with.

    Attributes:
        pieces: in order.
        repeats: whether to start over when they are used up. Somebody's own document is read once.
    """

    def __init__(self, pieces: Sequence[str], *, repeats: bool) -> None:
        self.pieces = list(pieces)
        self.repeats = repeats

    def take(self, count: int) -> list[str]:
        return list(islice(cycle(self.pieces), count)) if self.repeats else self.pieces[:count]


def fill(
    tokenizer: PreTrainedTokenizerBase, filler: Filler, budget: int, build: Callable[[list[str]], str]
) -> list[int]:
    """The tokens of the longest `build(pieces)` that has at most `budget` tokens.

    Raises:
        ValueError: there is no room even for what `build([])` makes.
    """

    def tokens_with(count: int) -> list[int]:
        return encode(tokenizer, build(filler.take(count)))

    smallest = len(tokens_with(0))
    if smallest > budget:
        raise ValueError(
            f"What is planted and asked takes {smallest:,} tokens by itself, more than the {budget:,} that the text "
            "may have. Choose a greater length."
        )
    sample = " ".join(filler.take(64))
    per_piece = max(1.0, token_count(tokenizer, sample) / len(filler.take(64)))
    most = 1 << 30 if filler.repeats else len(filler.pieces)
    # A guess, put right by what its tokens turn out to be; `low` fits and `low + 1` does not when it ends.
    low, low_tokens, high = 0, None, most + 1
    guess = min(most, int((budget - smallest) / per_piece))
    while high - low > 1:
        guess = min(max(guess, low + 1), high - 1)
        tokens = tokens_with(guess)
        if len(tokens) <= budget:
            low, low_tokens = guess, tokens
            guess = low + max(1, int((budget - len(tokens)) / per_piece))
        else:
            high = guess
            guess = high - max(1, round((len(tokens) - budget) / per_piece))
    return tokens_with(0) if low_tokens is None else low_tokens
