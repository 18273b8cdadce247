"""The engine: texts read in chunks under any method, what was read kept, answers, losses and log-probabilities.

The page, the lab, the command line and the benchmarks all read with it. Everything that takes long is a generator that
says how far it is and returns its result; closing it stops the work between two chunks, an end that is wanted
(`selfextend.steps.wanted_end`) within one, and what was read stays in the `PrefixCache`. Which chunks are read depends
on the texts alone, never on what was computed before, so that a run that was interrupted gives what an uninterrupted
one gives.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import takewhile
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfextend.errors import OutOfMemoryError, is_out_of_memory
from selfextend.line import NOBODY, Asked, Visit, Waiting, line_of
from selfextend.methods import Method
from selfextend.prefix import PrefixCache, common_beginning, shared_prefix
from selfextend.profile import Profile
from selfextend.reader import Reader
from selfextend.steps import Progress, Running

__all__ = [
    "BATCH_TOKENS", "CHUNK_TOKENS", "LOSS_CHUNK_TOKENS", "PrefixCache", "TokensRead",
    "Waiting", "common_beginning", "end_tokens", "exclusively", "greedy_answers_steps", "in_turn",
    "log_probability_steps", "loss_steps", "read_steps", "reading", "shared_prefix",
]  # fmt: skip

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


def exclusively(
    model: PreTrainedModel,
    prefix: PrefixCache,
    opened: Callable[[], AbstractContextManager[Reader]],
    work: Callable[[Reader], Generator[S, None, T]],
    asked: Asked = NOBODY,
) -> Generator[Progress | S, None, T]:
    """Run a generator of work while nobody else uses the model, and speak plainly when memory runs out. Between two of
    its steps the model, as it was before, goes to short questions of others.

    Args:
        prefix: what the work reads into, and nobody else meanwhile; it is let go when memory runs out.
        opened: opens the model as the work reads with it, see `reading`; once for each turn.
        work: is given the reader of its first turn, which serves it in the others too.
        asked: for whom, and how long it takes.

    Raises:
        OutOfMemoryError: memory ran out.
        ClosedLineError: the model is about to go.
    """
    readers: list[Reader] = []

    def begun() -> Generator[S, None, T]:
        return (yield from work(readers[0]))

    with line_of(model).visit(asked) as visit, Running(begun()) as running:

        def turn() -> Generator[S, None, bool]:
            """Whether the work has ended."""
            with opened() as reader:
                readers.append(reader)
                for step in running:
                    yield step
                    if visit.give_way():
                        return False
            return True

        while not (yield from in_turn(visit, prefix, turn)):
            pass
        return running.result


def in_turn(
    visit: Visit, prefix: PrefixCache, work: Callable[[], Generator[S, None, T]]
) -> Generator[Progress | S, None, T]:
    """Run a generator of work in one turn of a visit.

    Raises:
        OutOfMemoryError, ClosedLineError: as `exclusively`.
    """
    yield from visit.turn()
    try:
        return (yield from work())
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        held = prefix.text_nbytes
        prefix.forget()
        raise OutOfMemoryError(
            f"Memory ran out after {held / 2**20:,.0f} MB of keys and values. What was read is forgotten, everything "
            "else is as before. Use fewer pages, a smaller model or a quantized one."
        ) from error
    finally:
        visit.leave()


def read_steps(
    reader: Reader, prefix: PrefixCache, tokens: Sequence[int], *, length: int = 0, chunk_tokens: int = CHUNK_TOKENS
) -> Generator[TokensRead, None, torch.Tensor | None]:
    """Read what of the tokens is not read yet. Returns the last token's logits, (1, vocabulary); None where there was
    nothing left to read.

    Args:
        length: tokens that the whole text will have, where that is more.
    """
    done, logits = prefix.rewind(reader, tokens, max(length, len(tokens))), None
    while done < len(tokens):
        chunk = prefix.chunk(tokens, done, chunk_tokens)
        logits = prefix.read(reader, chunk)
        done += len(chunk)
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
