"""Runs a plan on a loaded model, cell by cell. Can be stopped at any time, and resumed from the cells it gave."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfextend.lab.measuring import Cost
from selfextend.lab.plans import Cell, Plan
from selfextend.lab.records import CellKey, Row
from selfextend.line import NOBODY, Asked
from selfextend.profile import Profile
from selfextend.reader import Reader
from selfextend.reading import TokensRead, exclusively, reading
from selfextend.steps import Clock, Progress, Running


@dataclass(frozen=True)
class CellDone:
    """One cell's rows."""

    rows: list[Row]


def run_plan(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    plan: Plan,
    profile: Profile,
    done: AbstractSet[CellKey] = frozenset(),
    asked: Asked = NOBODY,
) -> Generator[Progress | CellDone, None, None]:
    """Run a plan. Closing the generator stops it between two chunks of tokens.

    Args:
        done: cells that are recorded already. The rows of the others do not depend on which these are.
        asked: for whom. Between two chunks of tokens the model goes to short questions of others.

    Raises:
        PastReachError, UnsupportedArchitectureError, ValueError: before anything is computed, where that can be told.
        OutOfMemoryError: memory ran out.
    """
    plan.check(profile, tokenizer)
    clock, finished = Clock(plan.weight), 0

    def progress(words: str, weight: float) -> Progress:
        return Progress(words, weight / plan.weight, clock.seconds_left(weight))

    for cell in plan.cells(tokenizer, profile, done):
        if cell.work is None:
            finished += cell.weight
            clock.done = finished  # it took no time, which says nothing about the others
            continue
        read, cost = 0, Cost()
        opened = partial(_measured, model, cell, profile, cost)
        with Running(exclusively(model, cell.prefix, opened, cell.work, asked)) as steps:
            for step in steps:
                words = cell.words
                if isinstance(step, TokensRead):
                    read += step.count
                else:
                    words += " (waiting: the model is busy)"
                yield progress(words, finished + cell.weight * min(1.0, read / max(1, cell.tokens)))
            spent = {"seconds": round(cost.seconds, 4), "peak_bytes": cost.peak_bytes}
            if steps.result:
                yield CellDone([{**cell.row, **row, **spent} for row in steps.result])
        finished += cell.weight
        yield progress(cell.words, finished)


@contextmanager
def _measured(model: PreTrainedModel, cell: Cell, profile: Profile, cost: Cost) -> Iterator[Reader]:
    """The model as a cell is read, while it is measured what that costs."""
    with reading(model, cell.method, profile, cell.row["length"]) as reader, cost:
        yield reader
