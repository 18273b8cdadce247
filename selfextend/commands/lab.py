"""`passkey`, `perplexity` and the lab's other probes: arguments in, a plan, rows, a table out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfextend.commands.models import add_model_arguments, target_of

if TYPE_CHECKING:
    from selfextend.lab.grid import CellDone, Progress
    from selfextend.lab.records import Run
    from selfextend.lab.target import Target


def add_commands(commands: Any) -> None:
    one = commands.add_parser("passkey", help="a number hidden in a long text, asked for at its end")
    _add_grid_arguments(one)
    one.add_argument("--digits", type=int, default=5, help="of each key (default: 5)")
    one.add_argument("--text", type=Path, help="hide the keys in this text instead of the standard filler")
    one.add_argument("--file", type=Path, help="a test set in LongLM's form instead: JSON lines of input and target")
    one.set_defaults(run=run_passkey, show=show_grid)

    one = commands.add_parser("perplexity", help="perplexity by position in a long text")
    _add_run_arguments(one)
    one.add_argument("--text", type=Path, help="the text to read; generated filler unless given")
    one.add_argument("--length", "-N", default="16x", help="tokens, or such as 4x the trained window (default: 16x)")
    one.add_argument("--bin-tokens", type=int, help="width of a bin (default: the trained window)")
    one.set_defaults(run=run_perplexity_command, show=show_perplexity)


def _add_run_arguments(one: argparse.ArgumentParser) -> None:
    add_model_arguments(one)
    group = one.add_argument_group("methods and records")
    group.add_argument(
        "--methods",
        default="vanilla,recommended",
        help="comma-separated: vanilla, vanilla+logn, selfextend, selfextend+logn, window, linear, dynamic, yarn, "
        "recommended (SelfExtend as recommended for the model), all",
    )
    group.add_argument(
        "--group-size", "-G", type=int, help="of SelfExtend; what `suggest` gives for each length unless given"
    )
    group.add_argument(
        "--neighbor-window", "-w", type=int, help="of SelfExtend; a quarter of the trained window unless given"
    )
    group.add_argument("--seed", type=int, default=0)
    group.add_argument("--out", type=Path, help="keep the rows in this file (JSON lines)")
    group.add_argument("--resume", action="store_true", help="go on with the file of a run that was interrupted")


def _add_grid_arguments(one: argparse.ArgumentParser) -> None:
    _add_run_arguments(one)
    group = one.add_argument_group("grid")
    group.add_argument(
        "--lengths",
        default="1x,2x,4x,8x,16x",
        help="comma-separated tokens, or such as 4x the trained window (default: 1x,2x,4x,8x,16x)",
    )
    group.add_argument("--depths", default="11", help="how many from 0 to 1, or a comma-separated list (default: 11)")
    group.add_argument("--trials", "-n", type=int, default=1, help="cases in each cell (default: 1)")


def parse_lengths(text: str, trained_window: int) -> tuple[int, ...]:
    """Lengths in tokens from such as "512,4x".

    Raises:
        LabError: not a number, or below 2.
    """
    from selfextend.lab.errors import LabError

    lengths = []
    for part in text.split(","):
        try:
            wanted = part.strip().lower()
            length = round(float(wanted[:-1]) * trained_window) if wanted.endswith("x") else int(wanted)
        except (ValueError, OverflowError):
            raise LabError(
                f"{part!r} is no length. Give tokens (4096) or a multiple of the trained window (8x)."
            ) from None
        if length < 2:
            raise LabError(f"A length must be at least 2 tokens, not {length}.")
        lengths.append(length)
    return tuple(dict.fromkeys(lengths))


def parse_depths(text: str) -> tuple[float, ...]:
    """Depths from a number of them ("11") or a list ("0,0.5,1").

    Raises:
        LabError: not a number, or outside 0 … 1.
    """
    from selfextend.lab.errors import LabError
    from selfextend.lab.haystack import check_depth, even_depths

    try:
        if "," not in text and "." not in text:
            return tuple(even_depths(int(text)))
        return tuple(sorted({check_depth(float(part)) for part in text.split(",")}))
    except ValueError as error:
        raise LabError(f"{text!r} are no depths. Give how many (11) or a list in 0 … 1 (0,0.5,1). {error}") from None


def _methods(arguments: argparse.Namespace, target: Target) -> tuple[Any, ...]:
    from selfextend.lab.methods import parse_methods

    return tuple(
        parse_methods(
            [name.strip() for name in arguments.methods.split(",") if name.strip()],
            recommended_scaling=target.recommended_scaling,
            group_size=arguments.group_size,
            neighbor_window=arguments.neighbor_window,
        )
    )


def run_passkey(arguments: argparse.Namespace) -> dict[str, Any]:
    from selfextend.lab.passkey import Passkey

    if arguments.file is not None:
        return _run_test_set(arguments)
    text = _sentences(arguments.text)
    probe = Passkey(arguments.digits, text, arguments.text.name if text else "standard")
    return _run_grid(arguments, probe)


def _sentences(path: Path | None) -> tuple[str, ...] | None:
    from selfextend.lab.haystack import sentences_of

    return None if path is None else tuple(sentences_of(_read_text(path)))


def _read_text(path: Path) -> str:
    from selfextend.lab.errors import LabError

    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LabError(f"{path} cannot be read as a text: {error}.") from None


def _run_grid(arguments: argparse.Namespace, probe: Any) -> dict[str, Any]:
    from selfextend.lab.grid import GridPlan, run_grid
    from selfextend.lab.tables import by_cell, by_length

    target = target_of(arguments)
    plan = GridPlan(
        probe,
        _methods(arguments, target),
        parse_lengths(arguments.lengths, target.trained_window),
        parse_depths(arguments.depths),
        arguments.trials,
        arguments.seed,
    )
    plan.check(target.trained_window)
    _check_out(arguments)
    model, tokenizer = target.load()
    run = _recorded(
        arguments,
        target,
        model,
        probe.name,
        plan.settings(),
        plan.trials,
        lambda done: run_grid(model, tokenizer, plan, target.trained_window, done),
    )
    return {**_summary(run), "by_length": by_length(run.rows), "cells": by_cell(run.rows)}


def _run_test_set(arguments: argparse.Namespace) -> dict[str, Any]:
    from selfextend.lab.passkey import read_test_set
    from selfextend.lab.tables import by_length
    from selfextend.lab.test_sets import TestSetPlan, run_test_set

    rows = read_test_set(arguments.file)
    target = target_of(arguments)
    plan = TestSetPlan(rows, _methods(arguments, target), arguments.file.name, arguments.seed)
    _check_out(arguments)
    model, tokenizer = target.load()
    run = _recorded(
        arguments,
        target,
        model,
        "passkey",
        plan.settings(),
        1,
        lambda done: run_test_set(model, tokenizer, plan, target.trained_window, done),
    )
    return {**_summary(run), "by_length": by_length(run.rows), "rows": run.rows}


def run_perplexity_command(arguments: argparse.Namespace) -> dict[str, Any]:
    from selfextend.lab.errors import LabError
    from selfextend.lab.filler import sentences
    from selfextend.lab.haystack import encode
    from selfextend.lab.perplexity import PerplexityPlan, run_perplexity
    from selfextend.lab.tables import curves

    target = target_of(arguments)
    (length, *more) = parse_lengths(arguments.length, target.trained_window)
    if more:
        raise LabError("Give one length: a text is read once.")
    bins = arguments.bin_tokens if arguments.bin_tokens is not None else target.trained_window
    source = "generated filler" if arguments.text is None else arguments.text.name
    plan = PerplexityPlan(_methods(arguments, target), length, bins, source, arguments.seed)
    plan.check(target.trained_window)
    # A word is hardly ever less than a token.
    text = " ".join(sentences(arguments.seed, length // 4)) if arguments.text is None else _read_text(arguments.text)
    _check_out(arguments)
    model, tokenizer = target.load()
    tokens = encode(tokenizer, text)
    run = _recorded(
        arguments,
        target,
        model,
        "perplexity",
        plan.settings(),
        1,
        lambda done: run_perplexity(model, tokens, plan, target.trained_window, done),
    )
    return {**_summary(run), "curves": curves(run.rows)}


def _check_out(arguments: argparse.Namespace) -> None:
    """Refuse a record file that cannot be written to, before anything is loaded."""
    from selfextend.lab.errors import RecordError
    from selfextend.lab.records import read_run

    if arguments.out is None:
        if arguments.resume:
            raise RecordError("--resume needs --out: the file of the run to go on with.")
        return
    if arguments.out.exists():
        if not arguments.resume:
            raise RecordError(f"{arguments.out} is there already. Go on with it (--resume), or name another file.")
        read_run(arguments.out)
    elif not arguments.out.parent.is_dir():
        raise RecordError(f"There is no folder {arguments.out.parent} to write {arguments.out.name} to.")


def _recorded(
    arguments: argparse.Namespace,
    target: Target,
    model: Any,
    probe: str,
    settings: dict[str, Any],
    rows_per_cell: int,
    start: Any,
) -> Run:
    """Run to the end, with progress on standard error, and with every cell in the record file if there is one."""
    from selfextend.lab.grid import CellDone
    from selfextend.lab.records import Run, RunFile, header
    from selfextend.lab.target import describe_model, versions

    first = header(
        probe,
        describe_model(target.name, model, target.trained_window, target.quantization),
        versions(),
        settings,
        arguments.seed,
        datetime.now(UTC).isoformat(timespec="seconds"),
    )
    file = None if arguments.out is None else RunFile(arguments.out, first, resume=arguments.resume)
    run = Run(first) if file is None else file.run
    done = set() if file is None else file.complete_cells(rows_per_cell)
    steps: Iterator[Progress | CellDone] = start(done)
    for step in steps:
        if not isinstance(step, CellDone):
            _show_progress(step)
        elif file is not None:
            file.add(step.rows)
        else:
            run.rows += step.rows
    if sys.stderr.isatty():
        print(file=sys.stderr)
    return run


def _show_progress(step: Progress) -> None:
    if sys.stderr.isatty():
        left = "" if step.seconds_left is None else f", {step.seconds_left:,.0f} s left"
        print(f"\r\x1b[K{step.fraction:4.0%}  {step.message}{left}", end="", file=sys.stderr, flush=True)


def _summary(run: Run) -> dict[str, Any]:
    return {
        "title": run.title(),
        **{key: run.header[key] for key in ("probe", "model", "versions", "settings", "seed", "started")},
        "seconds": round(sum(row["seconds"] for row in run.rows), 1),
    }


def show_grid(result: dict[str, Any]) -> None:
    print(result["title"])
    if "rows" in result:
        for row in result["rows"]:
            mark = "right" if row["score"] == 1 else "wrong"
            print(f"{row['label']:<22} {row['length']:>7,} tokens  {row['expected'][0]!r} -> {row['answer']!r}  {mark}")
    for entry in result["by_length"]:
        settings = ", ".join(f"{key} {value}" for key, value in entry["settings"].items())
        print(
            f"{entry['label']:<22} {entry['length']:>7,} tokens  {entry['accuracy']:>4.0%} "
            f"({entry['low']:.0%}–{entry['high']:.0%})  n={entry['trials']}  {entry['seconds']:.1f} s  {settings}"
        )


def show_perplexity(result: dict[str, Any]) -> None:
    print(result["title"])
    for label, curve in result["curves"].items():
        values = "  ".join(f"{value:,.2f}" for value in curve["perplexity"])
        print(f"{label:<22} {values}")
    starts = next(iter(result["curves"].values()))
    print(f"Bins of {result['settings']['bin_tokens']:,} tokens, from {starts['start'][0]} to {starts['end'][-1]:,}.")
