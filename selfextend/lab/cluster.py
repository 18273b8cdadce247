"""Runs a plan on a Ray cluster: one worker a GPU (or a core), each with its own copy of the model.

Needs the extra `selfextend[ray]`. Each of the plan's parts is a task; a task that fails is tried again.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Generator, Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from selfextend.lab.errors import LabError
from selfextend.lab.plans import Plan
from selfextend.lab.records import CellKey, Row
from selfextend.lab.run import CellDone, run_plan
from selfextend.lab.target import Target
from selfextend.steps import Clock, Progress

_TRIES = 3
_LISTENING_SECONDS = 5.0


class RayUnavailableError(LabError):
    """Ray is not installed, or nothing answers at the address."""


def check_address(address: str) -> None:
    """Make sure that Ray is installed and, for "host:port" or "ray://host:port", that something listens there.

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
    address: str, target: Target, plan: Plan, done: AbstractSet[CellKey] = frozenset()
) -> Generator[Progress | CellDone, None, None]:
    """A run, spread over a cluster. Closing the generator cancels the tasks that run.

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
        remote = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=_TRIES - 1, retry_exceptions=True)(_cells_of_part)
        parts = plan.parts()
        waiting = {remote.remote(target, part, frozenset(done)): part for part in parts}
        clock, finished = Clock(plan.weight), 0
        try:
            while waiting:
                ready, _ = ray.wait(list(waiting), num_returns=1, timeout=0.5)
                for reference in ready:
                    part = waiting.pop(reference)
                    for rows in _result(ray, reference, part):
                        yield CellDone(rows)
                    finished += part.weight
                words = f"on Ray, {len(waiting)} of {len(parts)} tasks to go"
                yield Progress(words, finished / plan.weight, clock.seconds_left(finished))
        finally:
            # Not by force: Ray (2.60) aborts this process where a task ends in that very moment.
            for reference in waiting:
                ray.cancel(reference)


def _result(ray: Any, reference: Any, part: Plan) -> list[list[Row]]:
    try:
        rows: list[list[Row]] = ray.get(reference)
    except ray.exceptions.RayError as error:
        labels = ", ".join(method.label for method in part.methods)
        raise LabError(f"{part.name} with {labels} failed on Ray {_TRIES} times: {error}") from None
    return rows


def _cells_of_part(target: Target, part: Plan, done: frozenset[CellKey]) -> list[list[Row]]:
    """On a worker: the rows of each cell."""
    model, tokenizer = _loaded(target)
    steps = run_plan(model, tokenizer, part, target.profile, done)
    return [step.rows for step in steps if isinstance(step, CellDone)]


@lru_cache(maxsize=1)
def _loaded(target: Target) -> tuple[Any, Any]:
    """The model, once for each worker process."""
    return target.load()
