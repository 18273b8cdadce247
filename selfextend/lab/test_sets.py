"""Running somebody's test set: prompts as they are, each at its own length, under every method."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfextend.generation import PrefixCache, exclusively
from selfextend.lab.errors import LabError
from selfextend.lab.grid import CellDone, Clock, Progress, end_tokens, rows_of
from selfextend.lab.measuring import Cost
from selfextend.lab.methods import Method
from selfextend.lab.probes.cases import Case
from selfextend.lab.probes.passkey import case_of_row
from selfextend.lab.reading import SharedText, answer_steps, fractions
from selfextend.lab.records import CellKey, Row, cell_key
from selfextend.lab.running import running


@dataclass(frozen=True)
class TestSetPlan:
    """A test set and the methods to run it under.

    Attributes:
        rows: as `read_test_set` gives them.
        source: names the file in the record.
    """

    __test__ = False  # not a test class, whatever pytest makes of its name

    rows: Sequence[dict[str, Any]]
    methods: tuple[Method, ...]
    source: str
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.methods:
            raise LabError("Name at least one method.")

    def check(self, trained_window: int, tokenizer: PreTrainedTokenizerBase) -> None:
        """Refuse cases that fixed SelfExtend settings do not reach. Errors as `Method.check`."""
        longest = max(length for _, length in self.cases_with_lengths(tokenizer))
        for method in self.methods:
            method.check(trained_window, longest)

    def cases_with_lengths(self, tokenizer: PreTrainedTokenizerBase) -> list[tuple[Case, int]]:
        """Each case, and its tokens with the answer's budget."""
        made = [case_of_row(tokenizer, row) for row in self.rows]
        return [(case, len(case.tokens) + case.max_new_tokens) for case in made]

    def settings(self) -> dict[str, Any]:
        """For the record's header."""
        return {"file": self.source, "cases": len(self.rows), "methods": [method.label for method in self.methods]}


def run_test_set(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    plan: TestSetPlan,
    trained_window: int,
    done: frozenset[CellKey] | set[CellKey] = frozenset(),
) -> Generator[Progress | CellDone, None, None]:
    """Each case under each method; a case is a cell. Close the generator to stop.

    Raises:
        PastReachError: a case is longer than fixed SelfExtend settings reach; nothing was computed.
    """
    plan.check(trained_window, tokenizer)
    cases = plan.cases_with_lengths(tokenizer)
    clock = Clock(sum(length for _, length in cases) * len(plan.methods))
    for method in plan.methods:
        for number, ((case, length), given) in enumerate(zip(cases, plan.rows, strict=True)):
            row = {
                "probe": "passkey",
                "method": method.name,
                "label": method.label,
                "settings": method.settings(trained_window, length),
                "length": length,
                "depth": None,
                "cell_rows": 1,
                "case": number,
                "passkey_position": given["passkey_position"],
            }
            message = f"{plan.source}, {method.label}, case {number + 1} of {len(cases)}"
            if cell_key(row) not in done:
                work = partial(_one, model, tokenizer, method, case, length, row, trained_window)
                for step in exclusively(model, PrefixCache(), work):
                    if isinstance(step, CellDone):
                        yield step
                    else:
                        yield clock.progress(message, step, length)
            clock.cell(length)
            yield clock.progress(message, None, length)


def _one(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    method: Method,
    case: Case,
    length: int,
    row: Row,
    trained_window: int,
) -> Iterator[float | CellDone]:
    with running(model, method, trained_window, length) as runner, Cost() as cost:
        ends = end_tokens(model, tokenizer)
        steps = answer_steps(runner, SharedText(length), [], [case.tokens], case.max_new_tokens, ends)
        answers = yield from fractions(steps, length)
    yield CellDone(rows_of(tokenizer, row, [case], answers, cost))
