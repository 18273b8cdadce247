"""The field's own benchmarks: EleutherAI's lm-evaluation-harness on a model under any of the lab's methods.

Needs the extra `selfextend[eval]`. The harness carries LongBench, RULER and the short tasks of the Open LLM
leaderboard; their data is downloaded by it. Prompts, scores and what is asked are the harness's own.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfextend.config import checked_integer
from selfextend.generation import PrefixCache, exclusively
from selfextend.lab.errors import LabError
from selfextend.lab.grid import CellDone, Clock, Progress
from selfextend.lab.measuring import Cost
from selfextend.lab.methods import Method
from selfextend.lab.records import CellKey, Row, cell_key
from selfextend.lab.running import running


@dataclass(frozen=True)
class EvalPlan:
    """What to evaluate.

    Attributes:
        tasks: names of the harness's tasks, or patterns of them such as "longbench_*".
        methods: side by side.
        length: tokens that a prompt and its answer may have; the harness cuts longer ones on the left.
        include_path: a folder with task files of one's own.
        limit: cases of each task; None is all.
        num_fewshot: examples in each prompt; None is what the task says.
        seed: of everything random in the harness.

    Raises:
        LabError: nothing to evaluate, a number out of range, or a method that the harness cannot run.
    """

    tasks: tuple[str, ...]
    methods: tuple[Method, ...]
    length: int
    include_path: Path | None = None
    limit: int | None = None
    num_fewshot: int | None = None
    seed: int = 0

    name = "eval"

    def __post_init__(self) -> None:
        if not (self.tasks and self.methods):
            raise LabError("Name at least one task and one method.")
        checked_integer("length", self.length, 2)
        for what, value, least in (("limit", self.limit, 1), ("num_fewshot", self.num_fewshot, 0)):
            if value is not None:
                checked_integer(what, value, least)
        if any(method.name == "window" for method in self.methods):
            raise LabError(
                "The harness calls the model itself and so cannot give it the mask of plain sliding-window attention. "
                "Leave the method 'window' out."
            )

    def check(self, trained_window: int) -> None:
        """Refuse what cannot be run, before anything is loaded.

        Raises:
            LabError: the harness is not installed, or does not know a task.
            PastReachError, ValueError: see `Method.check`.
        """
        for method in self.methods:
            method.check(trained_window, self.length)
        if find_spec("lm_eval") is None:
            raise LabError("lm-evaluation-harness is not installed: pip install selfextend[eval].")
        if self.include_path is not None and not self.include_path.is_dir():
            raise LabError(f"There is no folder {self.include_path} with task files.")
        manager = _task_manager(self.include_path)
        unknown = [task for task in self.tasks if not manager.match_tasks([task])]
        if unknown:
            raise LabError(
                f"The harness knows no task {', '.join(map(repr, unknown))}. `lm-eval ls tasks` lists them; for tasks "
                "of your own name their folder with --include-path."
            )

    def settings(self) -> dict[str, Any]:
        """For the record's header."""
        return {
            "tasks": list(self.tasks),
            "methods": [method.label for method in self.methods],
            "length": self.length,
            "limit": self.limit,
            "num_fewshot": self.num_fewshot,
        }


def _task_manager(include_path: Path | None) -> Any:
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=None if include_path is None else str(include_path))


def run_eval(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    plan: EvalPlan,
    trained_window: int,
    done: frozenset[CellKey] | set[CellKey] = frozenset(),
) -> Generator[Progress | CellDone, None, None]:
    """All tasks under one method after the other; can be stopped between methods.

    A row is one metric of one task: `task`, `metric`, `value`, `standard_error` (None where the harness gives none),
    `cases`.

    Raises:
        LabError: see `EvalPlan.check`; or the data of a task cannot be had.
    """
    plan.check(trained_window)
    clock = Clock(len(plan.methods))
    for method in plan.methods:
        row = {
            "probe": plan.name,
            "method": method.name,
            "label": method.label,
            "settings": method.settings(trained_window, plan.length),
            "length": plan.length,
            "depth": None,
        }
        message = f"{', '.join(plan.tasks)}, {method.label}"
        yield clock.progress(message, None, 1)
        if cell_key(row) not in done:
            work = partial(_evaluate, model, tokenizer, plan, method, row, trained_window)
            for step in exclusively(model, PrefixCache(), work):
                if isinstance(step, CellDone):
                    yield step
        clock.cell(1)
        yield clock.progress(message, None, 1)


def _evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    plan: EvalPlan,
    method: Method,
    row: Row,
    trained_window: int,
) -> Generator[CellDone, None, None]:
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    manager = _task_manager(plan.include_path)
    with running(model, method, trained_window, plan.length), Cost() as cost:
        harness = HFLM(pretrained=model, tokenizer=tokenizer, max_length=plan.length, batch_size=1)
        try:
            results = simple_evaluate(
                harness,
                tasks=manager.match_tasks(list(plan.tasks)),
                num_fewshot=plan.num_fewshot,
                limit=plan.limit,
                log_samples=False,
                task_manager=manager,
                random_seed=plan.seed,
                numpy_random_seed=plan.seed,
                torch_random_seed=plan.seed,
                fewshot_random_seed=plan.seed,
            )
        except (ConnectionError, FileNotFoundError) as error:
            raise LabError(f"The data of {', '.join(plan.tasks)} cannot be had: {error}") from error
    found = _metrics(results, plan.tasks)
    yield CellDone(
        [
            {
                **row,
                "cell_rows": len(found),
                **metric,
                "seconds": round(cost.seconds, 3),
                "peak_bytes": cost.peak_bytes,
            }
            for metric in found
        ]
    )


def _metrics(results: Any, tasks: Sequence[str]) -> list[dict[str, Any]]:
    """Every number in the harness's results."""
    if results is None:
        raise LabError(f"The harness gave no results for {', '.join(tasks)}.")
    found = []
    for task, metrics in sorted(results["results"].items()):
        cases = results.get("n-samples", {}).get(task, {}).get("effective")
        for key, value in metrics.items():
            metric, _, _ = key.partition(",")
            if isinstance(value, (int, float)) and not isinstance(value, bool) and "_stderr" not in key and "," in key:
                error = metrics.get(key.replace(metric, f"{metric}_stderr", 1))
                found.append(
                    {
                        "task": task,
                        "metric": metric,
                        "value": value,
                        "standard_error": error if isinstance(error, (int, float)) else None,
                        "cases": cases,
                    }
                )
    return found
