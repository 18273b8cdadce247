"""A probe over lengths, depths, trials and methods, on one loaded model: cell by cell, cancellable, resumable.

A cell is one method at one length and depth; its trials are answered together. What the prompts of one length have
in common is read once for all depths. Knows nothing about files or clusters.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfextend.config import checked_integer
from selfextend.generation import PrefixCache, Waiting, exclusively
from selfextend.lab.errors import LabError
from selfextend.lab.measuring import Cost
from selfextend.lab.methods import Method
from selfextend.lab.probes.cases import Case, Probe, case_seed
from selfextend.lab.probes.haystack import check_depth
from selfextend.lab.reading import SharedText, answer_steps, fractions, shared_prefix
from selfextend.lab.records import CellKey, Row, cell_key
from selfextend.lab.running import running


@dataclass(frozen=True)
class GridPlan:
    """What to measure.

    Attributes:
        probe: makes the cases.
        methods: side by side, on the same cases.
        lengths: tokens of prompt and answer together.
        depths: 0 … 1, where in the text the planted thing lies.
        trials: cases in each cell.
        seed: of everything random.

    Raises:
        LabError: nothing to measure, or a number out of range.
    """

    probe: Probe
    methods: tuple[Method, ...]
    lengths: tuple[int, ...]
    depths: tuple[float, ...]
    trials: int
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.methods and self.lengths and self.depths):
            raise LabError("Name at least one method, one length and one depth.")
        try:
            checked_integer("The number of trials", self.trials, 1)
            for length in self.lengths:
                checked_integer("length", length, 2)
            for depth in self.depths:
                check_depth(depth)
            if self.trials > 1 and not self.probe.varies:
                raise LabError("Nothing in these cases is random, so one trial says it all: choose 1 trial.")
        except ValueError as error:
            raise LabError(str(error)) from None

    def check(self, trained_window: int, tokenizer: PreTrainedTokenizerBase | None = None) -> None:
        """Refuse what cannot be run on a model with this trained window and tokenizer.

        Raises:
            PastReachError, ValueError: see `Method.check`.
            LabError: what is planted does not fit the shortest length, or a text is shorter than the longest.
        """
        for method in self.methods:
            for length in self.lengths:
                method.check(trained_window, length)
        if tokenizer is not None:
            for length in {min(self.lengths), max(self.lengths)}:
                depth = self.depths[0]
                self.probe.case(tokenizer, length, depth, case_seed(self.seed, self.probe.name, length, depth, 0))

    def settings(self) -> dict[str, Any]:
        """For the record's header."""
        return {
            **self.probe.settings(),
            "methods": [method.label for method in self.methods],
            "lengths": list(self.lengths),
            "depths": list(self.depths),
            "trials": self.trials,
        }

    def groups(self) -> list[tuple[Method, int]]:
        """Method and length of the grid's rows, in the order they are run."""
        return [(method, length) for length in self.lengths for method in self.methods]


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        fraction: of the tokens to read, 0 … 1.
        message: what is being done.
        seconds, seconds_left: spent and estimated; seconds_left is None until something is known.
    """

    fraction: float
    message: str
    seconds: float
    seconds_left: float | None


@dataclass(frozen=True)
class CellDone:
    """One cell's rows."""

    rows: list[Row]


def run_grid(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    plan: GridPlan,
    trained_window: int,
    done: frozenset[CellKey] | set[CellKey] = frozenset(),
) -> Generator[Progress | CellDone, None, None]:
    """Run a plan; close the generator to stop between two chunks of tokens. Cells in `done` are left out.

    Raises:
        PastReachError, UnsupportedArchitectureError, ValueError: before anything is computed where that can be told.
    """
    plan.check(trained_window)
    clock = Clock(sum(length * len(plan.depths) for _, length in plan.groups()))
    cases: dict[int, list[list[Case]]] = {}
    for method, length in plan.groups():
        if length not in cases:
            cases = {length: cases_of(tokenizer, plan, length)}
        for step in run_group(model, tokenizer, plan, method, length, trained_window, cases[length], done):
            if isinstance(step, CellDone):
                yield step
                clock.cell(length)
            yield clock.progress(f"{plan.probe.name}, {method.label}, {length:,} tokens", step, length)


class Clock:
    """Turns tokens read into progress. Cells count by their length."""

    def __init__(self, total: int) -> None:
        self.total, self.done = total, 0
        self.within = 0.0
        self.began = time.perf_counter()

    def cell(self, weight: int) -> None:
        """One cell is over."""
        self.done += weight
        self.within = 0.0

    def progress(self, message: str, step: object, weight: int) -> Progress:
        if isinstance(step, float):
            self.within = step
        elif isinstance(step, Waiting):
            message += " (waiting: the model is busy)"
        fraction = min(1.0, (self.done + self.within * weight) / self.total) if self.total else 1.0
        seconds = time.perf_counter() - self.began
        return Progress(fraction, message, seconds, seconds / fraction - seconds if fraction > 0.01 else None)


def cases_of(tokenizer: PreTrainedTokenizerBase, plan: GridPlan, length: int) -> list[list[Case]]:
    """For each depth, in ascending order, its trials."""
    return [
        [
            plan.probe.case(tokenizer, length, depth, case_seed(plan.seed, plan.probe.name, length, depth, trial))
            for trial in range(plan.trials)
        ]
        for depth in sorted(plan.depths)
    ]


def run_group(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    plan: GridPlan,
    method: Method,
    length: int,
    trained_window: int,
    cases: Sequence[Sequence[Case]],
    done: frozenset[CellKey] | set[CellKey] = frozenset(),
) -> Iterator[float | Waiting | CellDone]:
    """All depths of one method and length. Yields how far the cell at hand is, 0 … 1, and each cell's rows."""
    settings = method.settings(trained_window, length)
    blank = [
        {
            "probe": plan.probe.name,
            "method": method.name,
            "label": method.label,
            "settings": settings,
            "length": length,
            "depth": depth,
            "cell_rows": plan.trials,
        }
        for depth in sorted(plan.depths)
    ]
    missing = [index for index, row in enumerate(blank) if cell_key(row) not in done]
    if not missing:
        for _ in blank:
            yield CellDone([])
        return
    shared = SharedText(length)
    for index, row in enumerate(blank):
        if index > missing[-1]:
            yield CellDone([])
            continue
        here = [case.tokens for case in cases[index]]
        following = [case.tokens for case in cases[min(index + 1, len(cases) - 1)]]
        # Read up to the same places whichever cells are missing, so that their rows do not depend on it.
        common = here[0][: shared_prefix([*here, *following])]
        work = partial(
            _cell,
            model,
            tokenizer,
            method,
            trained_window,
            shared,
            common,
            row,
            cases[index] if index in missing else [],
        )
        yield from exclusively(model, PrefixCache(), work)


def _cell(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    method: Method,
    trained_window: int,
    shared: SharedText,
    common: Sequence[int],
    row: Row,
    cases: Sequence[Case],
) -> Iterator[float | CellDone]:
    """Read on to the end of `common` and answer the cases, if there are any."""
    rest = sum(len(case.tokens) - len(common) for case in cases)
    with running(model, method, trained_window, row["length"]) as runner, Cost() as cost:
        if not cases:
            yield from fractions(shared.read_to(runner, common), len(common))
            answers = []
        else:
            new_tokens = max(case.max_new_tokens for case in cases)
            ends = end_tokens(model, tokenizer)
            steps = answer_steps(runner, shared, common, [case.tokens for case in cases], new_tokens, ends)
            answers = yield from fractions(steps, len(common) - len(shared.tokens) + rest)
    yield CellDone(rows_of(tokenizer, row, cases, answers, cost))


def rows_of(
    tokenizer: PreTrainedTokenizerBase, row: Row, cell: Sequence[Case], answers: list[list[int]], cost: Cost
) -> list[Row]:
    rows = []
    for trial, (case, answer) in enumerate(zip(cell, answers, strict=True)):
        text = tokenizer.decode(answer[: case.max_new_tokens], skip_special_tokens=True)
        assert isinstance(text, str)
        rows.append(
            {
                **row,
                "trial": trial,
                "prompt_tokens": len(case.tokens),
                "expected": list(case.expected),
                "answer": text,
                "score": case.score(text),
                # The cell's own, since its trials are answered together.
                "seconds": round(cost.seconds, 4),
                "peak_bytes": cost.peak_bytes,
            }
        )
    return rows


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Tokens that end an answer."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    ends = configured if isinstance(configured, list) else [configured]
    return frozenset(token for token in (*ends, tokenizer.eos_token_id) if isinstance(token, int))
