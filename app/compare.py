"""What each method's loss is, token by token, over the documents: where vanilla breaks down and SelfExtend does not."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from app.asking import chunk_tokens
from app.conversation import METHOD_WORDS
from app.model_shelf import LoadedModel
from app.prompting import Prompt
from selfextend.config import SelfExtendConfig
from selfextend.steps import Progress

BINS = 64


@dataclass(frozen=True, eq=False)
class Losses:
    """Mean negative log-likelihood by position.

    Attributes:
        positions: (bins,) the middle of each bin, in tokens.
        values: method -> (bins,) nats per token.
        tokens: of the text.
    """

    positions: npt.NDArray[np.int64]
    values: dict[str, npt.NDArray[np.float64]]
    tokens: int


def loss_steps(loaded: LoadedModel, prompt: Prompt, config: SelfExtendConfig) -> Generator[Progress, None, Losses]:
    """Reads the prompt once with each method, and returns the losses. Closing the generator stops it.

    Raises:
        PastReachError: the prompt is past the settings' reach.
        OutOfMemoryError: memory ran out.
    """
    values = {}
    for method, settings in (("vanilla", None), ("selfextend", config)):
        values[method] = binned((yield from _losses(loaded, prompt, settings, METHOD_WORDS[method])))
    return Losses(bin_middles(len(prompt)), values, len(prompt))


def _losses(
    loaded: LoadedModel, prompt: Prompt, config: SelfExtendConfig | None, name: str
) -> Generator[Progress, None, npt.NDArray[Any]]:
    from selfextend.generation import PrefillProgress, token_loss_steps

    losses: npt.NDArray[Any] = np.empty(0)
    steps: Any = token_loss_steps(
        loaded.model,
        prompt.ids,
        config=config,
        trained_window=loaded.trained_window,
        chunk_tokens=min(512, chunk_tokens(loaded.model)),
    )
    with closing(steps):
        for step in steps:
            if isinstance(step, np.ndarray):
                losses = step
            elif isinstance(step, PrefillProgress):
                words = f"loss of {name}: {step.done:,} of {step.total:,} tokens"
                yield Progress(words, step.done / step.total)
            else:
                yield Progress("waiting for the model")
    return losses


def _edges(tokens: int) -> npt.NDArray[np.int64]:
    """Borders of at most BINS bins over the `tokens - 1` losses of a text."""
    return np.unique(np.linspace(0, tokens - 1, min(BINS, tokens - 1) + 1).astype(np.int64))


def binned(losses: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Means of the losses (tokens - 1,) over their bins."""
    edges = _edges(len(losses) + 1)
    sums = np.add.reduceat(losses.astype(np.float64), edges[:-1])
    return np.asarray(sums / np.diff(edges))


def bin_middles(tokens: int) -> npt.NDArray[np.int64]:
    """The token position in the middle of each bin of a text of `tokens` tokens; loss n is of token n + 1."""
    edges = _edges(tokens)
    return (edges[:-1] + edges[1:] + 1) // 2
