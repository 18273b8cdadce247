"""How long reading will take: from how fast the loaded model was seen to compute on this machine."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_ROWS, _TRIES = 256, 3
_NEWEST = 0.3
"""The last answer's share of what answers are expected to take."""
_ENOUGH_TOKENS = 256
"""Readings of fewer tokens are mostly overhead."""


@dataclass
class ReadingTime:
    """Of one loaded model.

    Attributes:
        weights: numbers that each token is multiplied with, the output layer left out.
        attention_width: heads x head_dim, of all layers together.
        operations_per_second: of one of its own layers at first, then of the last reading; None while unknown.
        answer_seconds: from an answer's first token to its last, of the last few together; 0 before any.
    """

    weights: int
    attention_width: int
    operations_per_second: float | None
    answer_seconds: float = 0.0

    def seconds(self, tokens: int, read: int = 0) -> float | None:
        """Until a prompt of so many tokens is read, of which some were read before. None where that is not known."""
        rate = self.operations_per_second
        return None if rate is None else self._operations(tokens, min(read, tokens)) / rate

    def learn(self, tokens: int, read: int, seconds: float) -> None:
        """Take the rate from a reading that has ended."""
        if tokens - read >= _ENOUGH_TOKENS and seconds > 0:
            self.operations_per_second = self._operations(tokens, read) / seconds

    def learn_answer(self, seconds: float) -> None:
        """Take in how long an answer took, once it had begun."""
        self.answer_seconds += (seconds - self.answer_seconds) * (_NEWEST if self.answer_seconds else 1.0)

    def _operations(self, tokens: int, read: int) -> float:
        """Two for each weight and new token; four for each pair of tokens, of which every second one is causal."""
        return 2 * self.weights * (tokens - read) + 2 * self.attention_width * (tokens**2 - read**2)


def reading_time(model: Any, layers: int) -> ReadingTime:
    """What can be told before anything was read.

    Args:
        model: transformers' own, loaded.
        layers: how many attention layers it has.
    """
    config = model.config.get_text_config(decoder=True)
    heads = config.num_attention_heads
    width = heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
    outputs = model.get_output_embeddings()
    linears = [
        module
        for module in model.modules()
        if isinstance(getattr(module, "in_features", None), int) and module is not outputs
    ]
    weights = sum(module.in_features * module.out_features for module in linears)
    largest = max(linears, key=lambda module: module.in_features * module.out_features, default=None)
    return ReadingTime(weights, width * layers, None if largest is None else _rate(largest, model.dtype))


def _rate(linear: Any, dtype: torch.dtype) -> float | None:
    """Operations a second of one layer, the best of a few tries."""
    import torch

    device = next(linear.parameters()).device
    sample = torch.ones(_ROWS, linear.in_features, dtype=dtype, device=device)
    best = float("inf")
    try:
        with torch.inference_mode():
            for _ in range(_TRIES):
                began = time.perf_counter()
                float(linear(sample)[0, 0])  # fetching a number waits for a GPU
                best = min(best, time.perf_counter() - began)
    except (RuntimeError, ValueError, TypeError):  # a layer that is called in another way: the first reading tells
        return None
    return 2 * _ROWS * linear.in_features * linear.out_features / best


def in_words(seconds: float) -> str:
    """A duration as people say it."""
    return "at once" if seconds < 1.5 else f"about {duration(seconds)}"


def duration(seconds: float) -> str:
    """Seconds up to a minute and a half, then minutes."""
    return f"{max(1, round(seconds))} s" if seconds < 90 else f"{seconds / 60:,.0f} min"
