"""Reading texts with a `Runner`: greedy answers to many prompts that begin alike, and the loss of each token.

Both are generators that say how far they are and may be closed at any point. What prompts have in common is read
once. Which chunks are read depends on the texts alone, never on what was computed before, so that a run that was
interrupted gives what one in a single go gives. Knows nothing about probes or scores.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from transformers import Cache

from selfextend.lab.running import Runner, fork

T = TypeVar("T")

CHUNK_TOKENS = 1024
"""Tokens read between two looks at whether to go on."""
BATCH_TOKENS = 16_384
"""Tokens that the prompts answered together may have, so that their keys and values stay a bounded amount."""


@dataclass(frozen=True)
class TokensRead:
    """How many tokens were read since the last of these."""

    count: int


def shared_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts begin with. One token of each is left over, for its logits."""
    shortest, longest = min(prompts, key=tuple), max(prompts, key=tuple)
    limit = min(len(prompt) for prompt in prompts) - 1
    for index in range(limit):
        if shortest[index] != longest[index]:
            return index
    return limit


class SharedText:
    """A text that grows, and is read once for all prompts that begin with it."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.tokens: list[int] = []
        self.cache: Cache | None = None

    def read_to(self, runner: Runner, tokens: Sequence[int]) -> Generator[TokensRead, None, None]:
        """Read on to the end of these tokens; from the start where they do not go on from what was read."""
        if self.cache is None or self.tokens != list(tokens[: len(self.tokens)]):
            self.tokens, self.cache = [], runner.new_cache(self.length)
        for start in range(len(self.tokens), len(tokens), CHUNK_TOKENS):
            chunk = list(tokens[start : start + CHUNK_TOKENS])
            runner.forward(torch.tensor([chunk], device=runner.device), self.cache)
            self.tokens += chunk
            yield TokensRead(len(chunk))


def fractions(steps: Generator[TokensRead, None, T], expected: int) -> Generator[float, None, T]:
    """The same work, telling how far it is, 0 … 1, of the tokens that are expected to be read."""
    read = 0
    while True:
        try:
            read += next(steps).count
        except StopIteration as finished:
            result: T = finished.value
            return result
        yield min(1.0, read / max(1, expected))


def answer_steps(
    runner: Runner,
    shared: SharedText,
    common: Sequence[int],
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    end_tokens: frozenset[int],
) -> Generator[TokensRead, None, list[list[int]]]:
    """Greedy answers to prompts.

    Args:
        shared: what was read before of the text they begin with; it is read on to the end of `common`.
        common: what all prompts begin with.

    Returns:
        For each prompt the tokens of its answer, without the end token and what came after it.
    """
    yield from shared.read_to(runner, common)
    answers: list[list[int]] = [[] for _ in prompts]
    for indices in _batches(prompts, max_new_tokens):
        generated = yield from _answer_batch(runner, shared, [prompts[i] for i in indices], max_new_tokens, end_tokens)
        for index, answer in zip(indices, generated, strict=True):
            answers[index] = answer
    return answers


def _batches(prompts: Sequence[Sequence[int]], max_new_tokens: int) -> Iterator[list[int]]:
    """Indices of prompts of one length each, so that no padding is needed."""
    by_length: dict[int, list[int]] = {}
    for index, prompt in enumerate(prompts):
        by_length.setdefault(len(prompt), []).append(index)
    for length, indices in by_length.items():
        size = max(1, BATCH_TOKENS // (length + max_new_tokens))
        for start in range(0, len(indices), size):
            yield indices[start : start + size]


def _answer_batch(
    runner: Runner,
    shared: SharedText,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    end_tokens: frozenset[int],
) -> Generator[TokensRead, None, list[list[int]]]:
    start, length = len(shared.tokens), len(prompts[0])
    rest = torch.tensor([list(prompt[start:]) for prompt in prompts], device=runner.device)
    if shared.cache is None or start == 0:
        cache = runner.new_cache(length + max_new_tokens)
    else:
        cache = fork(shared.cache, len(prompts), length + max_new_tokens)
    logits = None
    for chunk in rest.split(CHUNK_TOKENS, dim=1):
        logits = runner.forward(chunk, cache)
        yield TokensRead(chunk.numel())
    assert logits is not None
    chosen = [logits[:, -1].argmax(dim=-1)]
    while len(chosen) < max_new_tokens:
        so_far = torch.stack(chosen, dim=1).tolist()
        if all(end_tokens.intersection(row) for row in so_far):
            break
        logits = runner.forward(chosen[-1][:, None], cache)
        chosen.append(logits[:, -1].argmax(dim=-1))
        yield TokensRead(len(prompts))
    rows: list[list[int]] = torch.stack(chosen, dim=1).tolist()
    return [_until_end(row, end_tokens) for row in rows]


def _until_end(tokens: list[int], end_tokens: frozenset[int]) -> list[int]:
    for index, token in enumerate(tokens):
        if token in end_tokens:
            return tokens[:index]
    return tokens


def loss_steps(
    runner: Runner, tokens: Sequence[int], chunk_tokens: int = 512
) -> Generator[TokensRead, None, npt.NDArray[np.float32]]:
    """Negative log-likelihood of each token but the first, teacher-forced, in nats: (tokens - 1,), at the end."""
    cache = runner.new_cache(len(tokens))
    losses = []
    for start in range(0, len(tokens) - 1, chunk_tokens):
        chunk = list(tokens[start : min(start + chunk_tokens, len(tokens) - 1)])
        logits = runner.forward(torch.tensor([chunk], device=runner.device), cache, keep=len(chunk))[0].float()
        targets = torch.tensor(tokens[start + 1 : start + 1 + len(chunk)], device=logits.device)
        losses.append(torch.nn.functional.cross_entropy(logits, targets, reduction="none").cpu().numpy())
        yield TokensRead(len(chunk))
    return np.concatenate(losses)
