"""The engine: texts read in chunks under any method, what was read kept, answers, losses and log-probabilities.

The page, the lab, the command line and the benchmarks all read with it. Everything that takes long is a generator that
says how far it is and returns its result; closing it stops the work between two chunks, and what was read stays in the
`PrefixCache`. Which chunks are read depends on the texts alone, never on what was computed before, so that a run that
was interrupted gives what an uninterrupted one gives.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch
from transformers import Cache, PreTrainedModel, PreTrainedTokenizerBase

from selfextend.cache import SelfExtendCache, cache_nbytes
from selfextend.errors import OutOfMemoryError, is_out_of_memory
from selfextend.methods import Method
from selfextend.profile import Profile
from selfextend.reader import Reader
from selfextend.steps import Progress

S = TypeVar("S")
T = TypeVar("T")

CHUNK_TOKENS = 1024
"""Tokens read between two looks at whether to go on."""
LOSS_CHUNK_TOKENS = 512
"""The same where the logits of every token are needed, which are many more numbers."""
BATCH_TOKENS = 16_384
"""Tokens that the prompts answered together may have, so that their keys and values stay a bounded amount."""


@dataclass(frozen=True)
class TokensRead:
    """How many tokens were read since the last of these."""

    count: int


@dataclass(frozen=True)
class Waiting(Progress):
    """The model is busy with somebody else's work."""

    words: str = "waiting for the model, which answers somebody else"


@dataclass
class PrefixCache:
    """What one model has read of a text, to be read on from.

    Attributes:
        tokens: token ids whose keys are in the cache.
        cache: a transformers cache, or None while nothing was read.
        reads_as: the `Reader.reads_as` that it was read with.
        continued: while prompts that go on from here are answered, their keys and values.
        source: what the same model has read for everybody, to be copied where it is further.
    """

    tokens: list[int] = field(default_factory=list)
    cache: Cache | None = None
    reads_as: Any = None
    continued: Cache | None = None
    source: PrefixCache | None = None

    @property
    def nbytes(self) -> int:
        """Bytes that it holds."""
        return sum(cache_nbytes(cache) for cache in (self.cache, self.continued) if cache is not None)

    def clear(self) -> None:
        """Forget everything that was read."""
        self.tokens, self.cache, self.continued = [], None, None

    def rewind(self, reader: Reader, tokens: Sequence[int], length: int) -> int:
        """Keep what these tokens share with what was read, and return how many tokens that is.

        Args:
            length: tokens that the whole text will have.
        """
        if self.reads_as != reader.reads_as:
            self.clear()
            self.reads_as = reader.reads_as
        shared = self._copy_source(tokens, shared_prefix(self.tokens, tokens))
        excess = len(self.tokens) - shared
        if excess and self.cache is not None:
            try:
                self.cache.crop(-excess)
                del self.tokens[shared:]
            except (RuntimeError, ValueError):  # a sliding layer has let go of what would be needed again
                self.clear()
        if self.cache is None:
            self.cache = reader.new_cache(length)
        elif isinstance(self.cache, SelfExtendCache):
            self.cache.reserve(length)
        return len(self.tokens)

    def _copy_source(self, tokens: Sequence[int], shared: int) -> int:
        """Take over what `source` has read, if that is more than `shared` tokens. Returns what is shared then."""
        source = self.source
        if source is None or source.reads_as != self.reads_as:
            return shared
        further = shared_prefix(source.tokens, tokens)
        if further > shared:
            self.tokens, self.cache = list(source.tokens), copy.deepcopy(source.cache)
        return max(shared, further)

    def read(self, reader: Reader, tokens: Sequence[int], keep: int = 1) -> torch.Tensor:
        """Read tokens on, in one forward pass. Logits of the last `keep` of them, (keep, vocabulary)."""
        assert self.cache is not None
        held = len(self.tokens)
        try:
            logits = reader.forward(torch.tensor([list(tokens)], device=reader.device), self.cache, keep)[0]
        except BaseException:
            # Some layers may hold these tokens already; a cache whose layers disagree is not to be read on from.
            self.reads_as = None
            raise
        self.tokens = [*self.tokens[:held], *tokens]
        return logits

    def copied(self) -> PrefixCache:
        """Another one that has read the same, to be read on without changing this one."""
        return PrefixCache(list(self.tokens), copy.deepcopy(self.cache), self.reads_as)

    def forked(self, rows: int, length: int) -> Cache:
        """A copy of the cache, for `rows` continuations of up to `length` tokens each."""
        copied = copy.deepcopy(self.cache)
        assert copied is not None
        if rows > 1:
            copied.batch_repeat_interleave(rows)
        if isinstance(copied, SelfExtendCache):
            copied.reserve(length)
        return copied


def shared_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens both begin with."""
    for index, (ours, theirs) in enumerate(zip(first, second, strict=False)):
        if ours != theirs:
            return index
    return min(len(first), len(second))


def common_beginning(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts begin with. One token of each is left over, for its logits."""
    shared = shared_prefix(min(prompts, key=tuple), max(prompts, key=tuple))
    return min(shared, min(len(prompt) for prompt in prompts) - 1)


def reading(
    model: PreTrainedModel, method: Method, profile: Profile, length: int, *, observed: bool = False
) -> AbstractContextManager[Reader]:
    """The model as a method reads texts of up to `length` tokens. Afterwards it is as it was before.

    Args:
        method: its open numbers are settled for the model and the length.
        observed: have attention pass where `selfextend.recording` sees it.

    Raises:
        UnsupportedArchitectureError: the method does not fit this model, and why.
    """
    settled = method.at(profile, length)
    return settled.on(model, trained_window=profile.trained_window, length=length, observed=observed)


_locks: WeakKeyDictionary[PreTrainedModel, threading.Lock] = WeakKeyDictionary()


def exclusively(
    model: PreTrainedModel, prefix: PrefixCache, work: Callable[[], Generator[S, None, T]]
) -> Generator[Progress | S, None, T]:
    """Run a generator of work while nobody else uses the model, and speak plainly when memory runs out.

    Args:
        prefix: what the work reads into; it is let go when memory runs out.

    Raises:
        OutOfMemoryError: memory ran out.
    """
    lock = _locks.setdefault(model, threading.Lock())
    while not lock.acquire(timeout=0.5):
        yield Waiting()
    try:
        return (yield from work())
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        held = prefix.nbytes
        prefix.clear()
        raise OutOfMemoryError(
            f"Memory ran out after {held / 2**20:,.0f} MB of keys and values. What was read is forgotten, everything "
            "else is as before. Use fewer pages, a smaller model or a quantized one."
        ) from error
    finally:
        lock.release()


def read_steps(
    reader: Reader, prefix: PrefixCache, tokens: Sequence[int], *, length: int = 0, chunk_tokens: int = CHUNK_TOKENS
) -> Generator[TokensRead, None, torch.Tensor | None]:
    """Read what of the tokens is not read yet. Returns the last token's logits, (1, vocabulary); None where there was
    nothing left to read.

    Args:
        length: tokens that the whole text will have, where that is more.
    """
    done, logits = prefix.rewind(reader, tokens, max(length, len(tokens))), None
    for start in range(done, len(tokens), chunk_tokens):
        chunk = tokens[start : start + chunk_tokens]
        logits = prefix.read(reader, chunk)
        yield TokensRead(len(chunk))
    return logits


def loss_steps(
    reader: Reader, tokens: Sequence[int], chunk_tokens: int = LOSS_CHUNK_TOKENS, prefix: PrefixCache | None = None
) -> Generator[TokensRead, None, npt.NDArray[np.float32]]:
    """Negative log-likelihood of each token but the first, teacher-forced, in nats. Returns (tokens - 1,).

    Args:
        tokens: at least two.
        prefix: what to read into; it is emptied first.
    """
    if len(tokens) < 2:
        raise ValueError("At least two tokens are needed for a loss.")
    prefix = PrefixCache() if prefix is None else prefix
    prefix.clear()
    prefix.rewind(reader, tokens, len(tokens))
    losses = []
    for start in range(0, len(tokens) - 1, chunk_tokens):
        chunk = tokens[start : min(start + chunk_tokens, len(tokens) - 1)]
        logits = prefix.read(reader, chunk, keep=len(chunk)).float()
        targets = torch.tensor(list(tokens[start + 1 : start + 1 + len(chunk)]), device=logits.device)
        losses.append(torch.nn.functional.cross_entropy(logits, targets, reduction="none").cpu().numpy())
        yield TokensRead(len(chunk))
    return np.concatenate(losses)


def log_probability_steps(
    reader: Reader,
    prefix: PrefixCache,
    prompt: Sequence[int],
    answer: Sequence[int],
    chunk_tokens: int = CHUNK_TOKENS,
) -> Generator[TokensRead, None, npt.NDArray[np.float32]]:
    """The log-probability, natural logarithm, that the model gives each token of a known answer. Returns (answer,).

    Args:
        prompt, answer: at least one token each.
        prefix: what was read before; it holds prompt and answer afterwards.
    """
    if len(prompt) == 0 or len(answer) == 0:
        raise ValueError("Prompt and answer must each have at least one token.")
    yield from read_steps(reader, prefix, prompt[:-1], length=len(prompt) + len(answer), chunk_tokens=chunk_tokens)
    logits = prefix.read(reader, [prompt[-1], *answer[:-1]], keep=len(answer))
    yield TokensRead(1)
    scores = torch.log_softmax(logits.float(), dim=-1)
    return scores[torch.arange(len(answer)), torch.tensor(list(answer), device=scores.device)].cpu().numpy()


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Tokens that end an answer."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    ends = configured if isinstance(configured, list) else [configured]
    return frozenset(token for token in (*ends, tokenizer.eos_token_id) if isinstance(token, int))


def greedy_answers_steps(
    reader: Reader,
    prefix: PrefixCache,
    common: Sequence[int],
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    ends: frozenset[int],
) -> Generator[TokensRead, None, list[list[int]]]:
    """Greedy answers to many prompts that begin alike.

    Args:
        prefix: what was read before of the text they begin with; it is read on to the end of `common`.
        common: what all prompts begin with; at least one token of each is left over, for its logits.

    Returns:
        For each prompt the tokens of its answer, without the end token and what came after it.
    """
    longest = max(len(prompt) for prompt in prompts) + max_new_tokens
    yield from read_steps(reader, prefix, common, length=longest)
    answers: list[list[int]] = [[] for _ in prompts]
    for indices in _batches(prompts, max_new_tokens):
        batch = [prompts[index] for index in indices]
        generated = yield from _answer_batch(reader, prefix, batch, max_new_tokens, ends)
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
    reader: Reader,
    prefix: PrefixCache,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    ends: frozenset[int],
) -> Generator[TokensRead, None, list[list[int]]]:
    start, length = len(prefix.tokens), len(prompts[0]) + max_new_tokens
    rest = torch.tensor([list(prompt[start:]) for prompt in prompts], device=reader.device)
    cache = prefix.continued = prefix.forked(len(prompts), length) if start else reader.new_cache(length)
    logits = None
    for chunk in rest.split(CHUNK_TOKENS, dim=1):
        logits = reader.forward(chunk, cache)
        yield TokensRead(chunk.numel())
    assert logits is not None
    chosen = [logits[:, -1].argmax(dim=-1)]
    while len(chosen) < max_new_tokens:
        if all(ends.intersection(row) for row in torch.stack(chosen, dim=1).tolist()):
            break
        logits = reader.forward(chosen[-1][:, None], cache)
        chosen.append(logits[:, -1].argmax(dim=-1))
        yield TokensRead(len(prompts))
    prefix.continued = None
    rows: list[list[int]] = torch.stack(chosen, dim=1).tolist()
    return [list(takewhile(lambda token: token not in ends, row)) for row in rows]
