"""EleutherAI's lm-evaluation-harness on a model under any of the lab's methods.

Needs the extra `selfextend[eval]`. The harness brings LongBench, RULER and the short tasks of the Open LLM
leaderboard, and downloads their data. Prompts and scores are its own.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from selfextend.config import checked_integer
from selfextend.lab.errors import LabError
from selfextend.lab.plans import Cell, Plan, blank_row, check_methods
from selfextend.lab.records import CellKey, Row, cell_key
from selfextend.methods import Method
from selfextend.profile import Profile
from selfextend.reader import Reader
from selfextend.reading import TokensRead


@dataclass(frozen=True)
class EvalPlan(Plan):
    """What to evaluate. All tasks under one method are a cell.

    A row is one metric of one task: `task`, `metric`, `value`, `standard_error` (None where the harness gives none),
    `cases`.

    Attributes:
        tasks: names of the harness's tasks, or patterns of them such as "longbench_*".
        methods: to be compared.
        length: tokens that a prompt and its answer may have; the harness cuts longer ones on the left.
        include_path: a folder with the user's own task files.
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
        if any(method.kind == "window" for method in self.methods):
            raise LabError(
                "The harness calls the model itself and so cannot give it the mask of plain sliding-window attention. "
                "Leave the method 'window' out."
            )

    @property
    def weight(self) -> int:
        return len(self.methods)

    def check(self, profile: Profile, tokenizer: PreTrainedTokenizerBase) -> None:
        """See `Plan.check`.

        Raises:
            LabError: the harness is not installed, or does not know a task.
        """
        check_methods(self.methods, profile, [self.length])
        if find_spec("lm_eval") is None:
            raise LabError("lm-evaluation-harness is not installed: pip install selfextend[eval].")
        if self.include_path is not None and not self.include_path.is_dir():
            raise LabError(f"There is no folder {self.include_path} with task files.")
        manager = self._task_manager
        unknown = [task for task in self.tasks if not manager.match_tasks([task])]
        if unknown:
            raise LabError(
                f"The harness knows no task {', '.join(map(repr, unknown))}. `lm-eval ls tasks` lists them; for tasks "
                "of your own name their folder with --include-path."
            )

    def settings(self) -> dict[str, Any]:
        amounts = {"length": self.length, "limit": self.limit, "num_fewshot": self.num_fewshot}
        return {"tasks": list(self.tasks), **amounts}

    def cells(self, tokenizer: PreTrainedTokenizerBase, profile: Profile, done: AbstractSet[CellKey]) -> Iterator[Cell]:
        for method in self.methods:
            row = blank_row(self.name, method, profile, self.length)
            work = None if cell_key(row) in done else partial(self._evaluate, tokenizer)
            yield Cell(method, row, f"{', '.join(self.tasks)}, {method.label}", 1, work=work)

    @cached_property
    def _task_manager(self) -> Any:
        """Made once for a plan: the harness reads its thirteen thousand task files for it, which takes ten seconds."""
        from lm_eval.tasks import TaskManager

        return TaskManager(include_path=None if self.include_path is None else str(self.include_path))

    def _evaluate(self, tokenizer: PreTrainedTokenizerBase, reader: Reader) -> Generator[TokensRead, None, list[Row]]:
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM

        yield TokensRead(0)  # so that it is said what is going on; the harness itself says nothing
        manager = self._task_manager
        harness = HFLM(pretrained=reader.model, tokenizer=tokenizer, max_length=self.length, batch_size=1)
        try:
            results = simple_evaluate(
                harness,
                tasks=manager.match_tasks(list(self.tasks)),
                num_fewshot=self.num_fewshot,
                limit=self.limit,
                log_samples=False,
                task_manager=manager,
                **{f"{what}random_seed": self.seed for what in ("", "numpy_", "torch_", "fewshot_")},
            )
        except (ConnectionError, FileNotFoundError) as error:
            raise LabError(f"The data of {', '.join(self.tasks)} cannot be had: {error}") from error
        found = _metrics(results, self.tasks)
        return [{"cell_rows": len(found), **metric} for metric in found]


def _metrics(results: Any, tasks: Sequence[str]) -> list[dict[str, Any]]:
    if results is None:
        raise LabError(f"The harness gave no results for {', '.join(tasks)}.")
    found = []
    for task, metrics in sorted(results["results"].items()):
        cases = results.get("n-samples", {}).get(task, {}).get("effective")
        for key, value in metrics.items():
            metric, _, _ = key.partition(",")
            if isinstance(value, (int, float)) and not isinstance(value, bool) and "_stderr" not in key and "," in key:
                error = metrics.get(key.replace(metric, f"{metric}_stderr", 1))
                error = error if isinstance(error, (int, float)) else None
                row = {"task": task, "metric": metric, "value": value, "standard_error": error, "cases": cases}
                found.append(row)
    return found
