"""One prompt under several methods: each one's answer, and how likely each finds the answer that is expected.

Knows nothing about files.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfextend.generation import PrefixCache, exclusively
from selfextend.lab.grid import CellDone, Clock, Progress, end_tokens
from selfextend.lab.measuring import Cost
from selfextend.lab.methods import Method
from selfextend.lab.reading import SharedText, answer_steps, fractions
from selfextend.lab.records import Row
from selfextend.lab.running import fork, running


@dataclass(frozen=True)
class Question:
    """What is asked.

    Attributes:
        prompt: token ids, at least two.
        max_new_tokens: the answer's budget.
        expected: token ids of the answer expected, or empty where none is.
    """

    prompt: Sequence[int]
    max_new_tokens: int
    expected: Sequence[int] = ()

    @property
    def length(self) -> int:
        """Tokens in all."""
        return len(self.prompt) + max(self.max_new_tokens, len(self.expected))


def run_compare(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    question: Question,
    methods: Sequence[Method],
    trained_window: int,
) -> Generator[Progress | CellDone, None, None]:
    """One row a method: `answer`, and `log_probability` (natural logarithm) of the expected one or None.

    Raises:
        PastReachError, UnsupportedArchitectureError: see `running`.
    """
    for method in methods:
        method.check(trained_window, question.length)
    clock = Clock(len(methods))
    for method in methods:
        work = partial(_one, model, tokenizer, question, method, trained_window)
        for step in exclusively(model, PrefixCache(), work):
            if isinstance(step, CellDone):
                yield step
            else:
                yield clock.progress(method.label, step, 1)
        clock.cell(1)
        yield clock.progress(method.label, None, 1)


def _one(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    question: Question,
    method: Method,
    trained_window: int,
) -> Generator[float | CellDone, None, None]:
    prompt, expected = list(question.prompt), list(question.expected)
    likely = None
    with running(model, method, trained_window, question.length) as runner, Cost() as cost:
        shared = SharedText(question.length)
        steps = answer_steps(
            runner, shared, prompt[:-1], [prompt], question.max_new_tokens, end_tokens(model, tokenizer)
        )
        (answer,) = yield from fractions(steps, len(prompt) + question.max_new_tokens)
        if expected:
            assert shared.cache is not None
            tokens = torch.tensor([[prompt[-1], *expected[:-1]]], device=runner.device)
            logits = runner.forward(tokens, fork(shared.cache, 1, question.length), keep=len(expected))
            scores = torch.log_softmax(logits[0].float(), dim=-1).cpu()
            likely = float(scores[torch.arange(len(expected)), torch.tensor(expected)].sum())
    row: Row = {
        "method": method.name,
        "label": method.label,
        "settings": method.settings(trained_window, question.length),
        "length": question.length,
        "prompt_tokens": len(prompt),
        "answer": tokenizer.decode(answer, skip_special_tokens=True),
        "log_probability": None if likely is None else round(likely, 5),
        "seconds": round(cost.seconds, 3),
        "peak_bytes": cost.peak_bytes,
    }
    yield CellDone([row])
