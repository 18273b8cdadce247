"""A long pass ends between two layers when its end is wanted, and what was read before it is as it was."""

from __future__ import annotations

from collections.abc import Callable, Generator
from threading import Event
from typing import Any

import pytest
import torch
from architectures import TRAINED_WINDOW, build, token_ids
from torch import nn
from transformers import PreTrainedModel

from app.api import CallerGoneError, _while_wanted
from app.jobs import Job, JobStopped
from selfextend.beginning import Beginning, Continuation
from selfextend.methods import Method, ReRoPE, SelfExtend, SlidingWindow, Vanilla
from selfextend.midway import MANY_TOKENS
from selfextend.profile import Profile
from selfextend.reading import PrefixCache, TokensRead, loss_steps, read_steps, reading

PROFILE = Profile(trained_window=TRAINED_WINDOW, neighbor_window=16, query_scaling="none")
EXTENDED = SelfExtend("none", 4, 16)
CHUNK = MANY_TOKENS + 6
LEAST = 30
"""Tokens of the shortest chunk. A model is examined with passes over fewer."""
TOKENS: list[int] = token_ids(3 * CHUNK)[0].tolist()
PUT_BACK = {
    "llama": ("llama", EXTENDED),
    "llama, vanilla": ("llama", Vanilla()),
    "llama, ReRoPE": ("llama", ReRoPE("none", 16)),
    "experts": ("jetmoe", EXTENDED),
    "latent attention": ("deepseek-v3", EXTENDED),
    "sliding layers, extended": ("mistral-sliding", EXTENDED),
}
LEFT_ALONE = {
    "sliding layers": ("mistral-sliding", Vanilla()),
    "layers of two kinds": ("gemma3-wide", Vanilla()),
    "a sliding window": ("llama", SlidingWindow()),
}


class Stopped:
    """Calls `stop` while the first layer reads the second chunk, and counts chunks and the layers that read the
    last."""

    def __init__(self, model: PreTrainedModel, stop: Callable[[], None]) -> None:
        self.passes = self.layers = 0
        self._stop = stop
        first, second, *_ = next(module for module in model.modules() if isinstance(module, nn.ModuleList))
        first.register_forward_hook(self._first)
        second.register_forward_hook(self._second)

    def _first(self, layer: nn.Module, args: Any, output: Any) -> None:
        if _tokens(output) >= LEAST:
            self.passes, self.layers = self.passes + 1, 1
            if self.passes == 2:
                self._stop()

    def _second(self, layer: nn.Module, args: Any, output: Any) -> None:
        self.layers += _tokens(output) >= LEAST


def _tokens(output: Any) -> int:
    states = output if isinstance(output, torch.Tensor) else output[0]
    return int(states.shape[1])


def chunks(
    model: PreTrainedModel, method: Method, prefix: PrefixCache
) -> Generator[TokensRead, None, torch.Tensor | None]:
    with reading(model, method, PROFILE, len(TOKENS)) as reader:
        return (yield from read_steps(reader, prefix, TOKENS, chunk_tokens=CHUNK))


def last_logits(name: str, method: Method) -> torch.Tensor:
    model, prefix = build(name), PrefixCache()
    return followed(Job(), chunks(model, method, prefix))


def followed(job: Job, steps: Generator[Any, Any, Any]) -> Any:
    job.begin()
    work = job.follow(steps)
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value


@pytest.mark.parametrize("beginning", [0, LEAST, 2 * CHUNK], ids=["alone", "behind a beginning", "in a beginning"])
@pytest.mark.parametrize("case", PUT_BACK)
def test_a_stop_ends_a_pass_between_two_layers_and_keeps_what_was_read(case: str, beginning: int) -> None:
    name, method = PUT_BACK[case]
    model, job = build(name), Job()
    prefix = Continuation(Beginning(TOKENS[:beginning])) if beginning else PrefixCache()
    stopped = Stopped(model, job.stop)
    with pytest.raises(JobStopped):
        followed(job, chunks(model, method, prefix))
    assert (stopped.passes, stopped.layers) == (2, 1)
    assert prefix.tokens == TOKENS[: LEAST if beginning == LEAST else CHUNK]
    logits = followed(job, chunks(model, method, prefix))
    torch.testing.assert_close(logits, last_logits(name, method), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("case", LEFT_ALONE)
def test_a_pass_that_could_not_be_put_back_comes_to_its_end(case: str) -> None:
    name, method = LEFT_ALONE[case]
    model, job, prefix = build(name), Job(), PrefixCache()
    stopped = Stopped(model, job.stop)
    with pytest.raises(JobStopped):
        followed(job, chunks(model, method, prefix))
    assert (stopped.passes, stopped.layers) == (2, 2)
    assert prefix.tokens == TOKENS[: 2 * CHUNK]
    logits = followed(job, chunks(model, method, prefix))
    torch.testing.assert_close(logits, last_logits(name, method), atol=1e-4, rtol=1e-4)


def test_a_measured_loss_ends_midway_too() -> None:
    model, job = build("llama"), Job()
    stopped = Stopped(model, job.stop)

    def losses() -> Generator[TokensRead, None, Any]:
        with reading(model, EXTENDED, PROFILE, len(TOKENS)) as reader:
            return (yield from loss_steps(reader, TOKENS, CHUNK))

    with pytest.raises(JobStopped):
        followed(job, losses())
    assert (stopped.passes, stopped.layers) == (2, 1)


def test_a_program_that_has_left_does_not_keep_the_model_for_a_chunk() -> None:
    model, prefix, left = build("llama"), PrefixCache(), Event()
    stopped = Stopped(model, left.set)
    with pytest.raises(CallerGoneError):
        _while_wanted(chunks(model, EXTENDED, prefix), left.is_set)
    assert (stopped.passes, stopped.layers) == (2, 1)
    assert prefix.tokens == TOKENS[:CHUNK]


def test_nobody_who_did_not_ask_is_ended_midway() -> None:
    model, job, prefix = build("llama"), Job(), PrefixCache()
    stopped = Stopped(model, job.stop)
    assert followed(Job(), chunks(model, EXTENDED, prefix)) is not None
    assert (stopped.passes, stopped.layers) == (3, 2)
    assert prefix.tokens == TOKENS
