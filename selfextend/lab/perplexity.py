"""Perplexity by position: how well each token of one long text is foretold, in bins of position, one curve a method.

Teacher-forced and read in chunks. Plain sliding-window attention stays flat as well: a flat curve shows that the text
is still read fluently, not that anything far back is. Knows nothing about files or figures.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from selfextend.config import checked_integer
from selfextend.generation import PrefixCache, exclusively
from selfextend.lab.errors import LabError
from selfextend.lab.grid import CellDone, Clock, Progress
from selfextend.lab.measuring import Cost
from selfextend.lab.methods import Method
from selfextend.lab.reading import fractions, loss_steps
from selfextend.lab.records import CellKey, Row, cell_key
from selfextend.lab.running import running


@dataclass(frozen=True)
class PerplexityPlan:
    """What to measure.

    Attributes:
        methods: one curve each.
        length: tokens of the text to read.
        bin_tokens: width of a bin.
        source: names the text in the record.

    Raises:
        LabError: no method, or a number out of range.
    """

    methods: tuple[Method, ...]
    length: int
    bin_tokens: int
    source: str
    seed: int = 0

    name = "perplexity"

    def __post_init__(self) -> None:
        if not self.methods:
            raise LabError("Name at least one method.")
        try:
            checked_integer("length", self.length, 2)
            checked_integer("bin_tokens", self.bin_tokens, 1)
        except ValueError as error:
            raise LabError(str(error)) from None

    def check(self, trained_window: int, tokens: Sequence[int]) -> None:
        """Refuse what cannot be run on a model with this trained window, or a text that is too short.

        Raises:
            PastReachError, ValueError: see `Method.check`.
            LabError: `tokens` are fewer than `length`.
        """
        for method in self.methods:
            method.check(trained_window, self.length)
        if len(tokens) < self.length:
            raise LabError(
                f"The text has {len(tokens):,} tokens, fewer than the {self.length:,} asked for. Give a longer text "
                "or a smaller length."
            )

    def settings(self) -> dict[str, Any]:
        """For the record's header."""
        return {
            "text": self.source,
            "methods": [method.label for method in self.methods],
            "length": self.length,
            "bin_tokens": self.bin_tokens,
        }


def run_perplexity(
    model: PreTrainedModel,
    tokens: Sequence[int],
    plan: PerplexityPlan,
    trained_window: int,
    done: frozenset[CellKey] | set[CellKey] = frozenset(),
) -> Generator[Progress | CellDone, None, None]:
    """One curve after the other; close the generator to stop. Methods in `done` are left out.

    Args:
        tokens: of the text, at least `plan.length`.

    Raises:
        LabError, PastReachError: see `PerplexityPlan.check`. UnsupportedArchitectureError: see `running`.
    """
    plan.check(trained_window, tokens)
    clock = Clock(len(plan.methods))
    for method in plan.methods:
        row = {
            "probe": plan.name,
            "method": method.name,
            "label": method.label,
            "settings": method.settings(trained_window, plan.length),
            "length": plan.length,
            "depth": None,
            "cell_rows": -(-(plan.length - 1) // plan.bin_tokens),
        }
        message = f"perplexity, {method.label}, {plan.length:,} tokens"
        if cell_key(row) not in done:
            work = partial(_curve, model, method, tokens, plan, row, trained_window)
            for step in exclusively(model, PrefixCache(), work):
                if isinstance(step, CellDone):
                    yield step
                else:
                    yield clock.progress(message, step, 1)
        clock.cell(1)
        yield clock.progress(message, None, 1)


def _curve(
    model: PreTrainedModel, method: Method, tokens: Sequence[int], plan: PerplexityPlan, row: Row, trained_window: int
) -> Generator[float | CellDone, None, None]:
    with running(model, method, trained_window, plan.length) as runner, Cost() as cost:
        losses = yield from fractions(loss_steps(runner, tokens[: plan.length]), plan.length)
    rows = []
    for start in range(0, len(losses), plan.bin_tokens):
        part = losses[start : start + plan.bin_tokens]
        # The loss at index t is that of token t + 1.
        rows.append(
            {
                **row,
                "start": start + 1,
                "end": start + 1 + len(part),
                "tokens": len(part),
                "loss": round(float(np.mean(part, dtype=np.float64)), 6),
                "seconds": round(cost.seconds, 4),
                "peak_bytes": cost.peak_bytes,
            }
        )
    yield CellDone(rows)
