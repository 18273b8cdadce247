"""What commands that measure have in common: methods, a record file, progress, Ray."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfextend.commands.models import (
    METHODS_HELP,
    add_model_arguments,
    add_selfextend_arguments,
    end_progress,
    show_progress,
)

if TYPE_CHECKING:
    from selfextend.lab.grid import CellDone, Progress
    from selfextend.lab.ray_runner import Task
    from selfextend.lab.records import CellKey, Run
    from selfextend.lab.target import Target

    Steps = Callable[[Any, Any, set[CellKey]], Iterator[Progress | CellDone]]


def add_run_arguments(
    one: argparse.ArgumentParser, *, methods: str = "vanilla,recommended", ray: bool = True, figure: bool = False
) -> None:
    """Model, methods, seed, and where rows and picture go."""
    add_model_arguments(one)
    if methods:
        one.add_argument("--methods", default=methods, help=f"{METHODS_HELP} (default: {methods})")
        add_selfextend_arguments(one)
    group = one.add_argument_group("records")
    group.add_argument("--seed", type=int, default=0)
    group.add_argument("--out", type=Path, help="keep the rows in this file (JSON lines)")
    group.add_argument("--resume", action="store_true", help="go on with the file of a run that was interrupted")
    if figure:
        group.add_argument("--figure", type=Path, help="draw the run into this file (SVG)")
    if ray:
        group.add_argument("--ray", metavar="ADDRESS", help="on a Ray cluster: host:port, auto, or local")


def check_before_loading(arguments: argparse.Namespace) -> None:
    """Refuse files that cannot be written to and a Ray address where nothing listens."""
    from selfextend.lab.errors import RecordError
    from selfextend.lab.records import read_run

    out: Path | None = arguments.out
    if out is None:
        if arguments.resume:
            raise RecordError("--resume needs --out: the file of the run to go on with.")
    elif out.exists():
        if not arguments.resume:
            raise RecordError(f"{out} is there already. Go on with it (--resume), or name another file.")
        read_run(out)
    elif not out.parent.is_dir():
        raise RecordError(f"There is no folder {out.parent} to write {out.name} to.")
    if getattr(arguments, "figure", None) is not None:
        check_figure(arguments.figure)
    if getattr(arguments, "ray", None) is not None:
        from selfextend.lab.ray_runner import check_address

        check_address(arguments.ray)


def check_figure(path: Path) -> None:
    """Refuse a picture's file of another form, or in a folder that is not there."""
    from selfextend.lab.errors import LabError

    if path.suffix.lower() != ".svg":
        raise LabError(f"Pictures are SVG: give --figure a name that ends in .svg, not {path.name!r}.")
    if not path.parent.is_dir():
        raise LabError(f"There is no folder {path.parent} to draw {path.name} into.")


def write_figure(path: Path, run: Run) -> None:
    """Draw a run into a file. Errors as `as_svg`."""
    from selfextend.lab.pictures import as_svg

    path.write_text(as_svg(run), encoding="utf-8")


def recorded(
    arguments: argparse.Namespace,
    target: Target,
    probe: str,
    settings: dict[str, Any],
    steps: Steps,
    tasks: Callable[[], list[Task]] | None = None,
) -> Run:
    """Load the model and run to the end, with progress on standard error and every cell kept in the record file.

    The picture, where one is wanted, is drawn at the end.

    Args:
        steps: model, tokenizer and the cells that are there already -> the run.
        tasks: the same run in pieces, for a cluster.
    """
    address = getattr(arguments, "ray", None)
    with nullcontext() if address is None else _cluster(address):  # a cluster first: it may not be there
        return _recorded(arguments, target, probe, settings, steps, tasks)


def _cluster(address: str) -> AbstractContextManager[None]:
    from selfextend.lab.ray_runner import cluster

    return cluster(address)


def _recorded(
    arguments: argparse.Namespace,
    target: Target,
    probe: str,
    settings: dict[str, Any],
    steps: Steps,
    tasks: Callable[[], list[Task]] | None,
) -> Run:
    from selfextend.lab.grid import CellDone
    from selfextend.lab.records import Run, RunFile, complete_cells, header, read_run
    from selfextend.lab.target import describe_model, versions

    model, tokenizer = target.load()
    first = header(
        probe,
        describe_model(target.name, model, target.trained_window, target.quantization),
        versions(),
        settings,
        arguments.seed,
        datetime.now(UTC).isoformat(timespec="seconds"),
    )
    file, done = None, set()
    if arguments.out is not None and target.writes:
        file = RunFile(arguments.out, first, resume=arguments.resume)
        done = file.complete_cells()
    elif arguments.out is not None and arguments.out.exists():
        # The others that run the same model have to leave out the same cells.
        done = complete_cells(read_run(arguments.out).rows)
    run = Run(first) if file is None else file.run
    going: Iterator[Progress | CellDone]
    if tasks is not None and arguments.ray is not None:
        from selfextend.lab.ray_runner import run_on_ray

        del model, tokenizer  # the workers have theirs
        going = run_on_ray(arguments.ray, target, tasks(), done)
    else:
        going = steps(model, tokenizer, done)
    for step in going:
        if not isinstance(step, CellDone):
            if target.writes:
                show_progress(step)
        elif file is not None:
            if step.rows:
                file.add(step.rows)
        else:
            run.rows += step.rows
    end_progress()
    if getattr(arguments, "figure", None) is not None and target.writes:
        write_figure(arguments.figure, run)
    return run


def summary(run: Run) -> dict[str, Any]:
    """What every result begins with."""
    from selfextend.lab.tables import seconds_of

    return {
        "title": run.title(),
        **{key: run.header[key] for key in ("probe", "model", "versions", "settings", "seed", "started")},
        "seconds": seconds_of(run.rows),
    }
