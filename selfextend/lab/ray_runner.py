"""A run on a Ray cluster: one worker a GPU (or a core), each with the model loaded once, the rows the same.

Needs the extra `selfextend[ray]`. One method at one length is a task; a task that fails is tried again. Knows
nothing about files or figures.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

from selfextend.lab.errors import LabError
from selfextend.lab.grid import CellDone, Clock, GridPlan, Progress, run_grid
from selfextend.lab.perplexity import PerplexityPlan, run_perplexity
from selfextend.lab.records import CellKey, Row
from selfextend.lab.target import Target

_TRIES = 3
_LISTENING_SECONDS = 5.0


class RayUnavailableError(LabError):
    """Ray is not installed, or nothing answers at the address."""


def check_address(address: str) -> None:
    """Make sure that Ray is installed and, for "host:port" or "ray://host:port", that somebody listens there.

    Raises:
        RayUnavailableError: what is wrong and what to do.
    """
    try:
        import ray  # noqa: F401
    except ImportError:
        raise RayUnavailableError("Ray is not installed: pip install selfextend[ray].") from None
    if address in ("local", "auto"):
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise RayUnavailableError(
            f"{address!r} is no Ray address. Give host:port, ray://host:port, auto (this machine's cluster) or local."
        )
    try:
        socket.create_connection((host, int(port)), timeout=_LISTENING_SECONDS).close()
    except OSError as error:
        raise RayUnavailableError(
            f"Nothing answers at {address} ({error}). Start a cluster with `ray start --head`, or leave --ray out."
        ) from None


@dataclass(frozen=True)
class Task:
    """Some cells of a run, to be computed by one worker.

    Attributes:
        label: names it in errors.
        weight: how long it takes, beside the others.
        run: model, tokenizer, cells that are there already -> the steps of a run.
    """

    label: str
    weight: int
    run: Callable[[Any, Any, frozenset[CellKey]], Iterator[Any]]


def grid_tasks(plan: GridPlan, trained_window: int) -> list[Task]:
    """A task for each method at each length."""
    return [
        Task(
            f"{method.label} at {length:,} tokens",
            length,
            partial(_grid_row, replace(plan, methods=(method,), lengths=(length,)), trained_window),
        )
        for method, length in plan.groups()
    ]


def _grid_row(
    plan: GridPlan, trained_window: int, model: Any, tokenizer: Any, done: frozenset[CellKey]
) -> Iterator[Any]:
    return run_grid(model, tokenizer, plan, trained_window, done)


def perplexity_tasks(plan: PerplexityPlan, tokens: Sequence[int], trained_window: int) -> list[Task]:
    """A task for each method."""
    return [
        Task(method.label, 1, partial(_curve, replace(plan, methods=(method,)), tuple(tokens), trained_window))
        for method in plan.methods
    ]


def _curve(
    plan: PerplexityPlan,
    tokens: tuple[int, ...],
    trained_window: int,
    model: Any,
    tokenizer: Any,
    done: frozenset[CellKey],
) -> Iterator[Any]:
    return run_perplexity(model, tokens, plan, trained_window, done)


@contextmanager
def cluster(address: str) -> Iterator[None]:
    """A connection to a cluster, for as long as the `with` block lasts; the one there is, where there is one.

    Args:
        address: see `check_address`; "local" starts a cluster of this machine's own.

    Raises:
        RayUnavailableError: see `check_address`; or what listens there is no Ray cluster.
    """
    check_address(address)
    import ray

    if ray.is_initialized():
        yield
        return
    try:
        ray.init(address=None if address == "local" else address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        ray.shutdown()
        raise RayUnavailableError(
            f"There is no Ray cluster at {address} ({error}). Start one with `ray start --head`, or leave --ray out."
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def run_on_ray(
    address: str, target: Target, tasks: Sequence[Task], done: frozenset[CellKey] | set[CellKey] = frozenset()
) -> Generator[Progress | CellDone, None, None]:
    """A run, spread over a cluster. Close the generator to stop: tasks that run are cancelled.

    Args:
        address: see `cluster`.
        target: the workers load it themselves, so a folder has to be there on every machine.

    Raises:
        RayUnavailableError: see `cluster`.
        LabError: a task failed on every try; its error is in the message.
    """
    with cluster(address):
        import ray

        gpus = 1 if ray.cluster_resources().get("GPU", 0) >= 1 else 0
        remote = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=_TRIES - 1, retry_exceptions=True)(_rows_of_task)
        waiting = {remote.remote(target, task, frozenset(done)): task for task in tasks}
        clock = Clock(sum(task.weight for task in tasks))
        try:
            while waiting:
                ready, _ = ray.wait(list(waiting), num_returns=1, timeout=0.5)
                for reference in ready:
                    task = waiting.pop(reference)
                    for rows in _result(ray, reference, task):
                        yield CellDone(rows)
                    clock.cell(task.weight)
                yield clock.progress(f"on Ray, {len(waiting)} of {len(tasks)} tasks to go", None, 0)
        finally:
            for reference in waiting:
                ray.cancel(reference, force=True)


def _result(ray: Any, reference: Any, task: Task) -> list[list[Row]]:
    try:
        rows: list[list[Row]] = ray.get(reference)
    except ray.exceptions.RayError as error:
        raise LabError(f"{task.label} failed on Ray {_TRIES} times: {error}") from None
    return rows


def _rows_of_task(target: Target, task: Task, done: frozenset[CellKey]) -> list[list[Row]]:
    """On a worker: the rows of each cell."""
    model, tokenizer = _loaded(target)
    return [step.rows for step in task.run(model, tokenizer, done) if isinstance(step, CellDone) and step.rows]


@lru_cache(maxsize=1)
def _loaded(target: Target) -> tuple[Any, Any]:
    """The model, once for each worker process."""
    return target.load()
