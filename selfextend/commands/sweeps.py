"""`sweep`, `short-context`, `eval` and `runs`: many settings, the check inside the window, benchmarks, saved runs."""

from __future__ import annotations

import argparse
import csv
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfextend.commands.lab import grid_result, perplexity_result, show_grid, show_perplexity, text_tokens
from selfextend.commands.models import methods_of, target_of
from selfextend.commands.running import (
    add_run_arguments,
    check_before_loading,
    check_figure,
    recorded,
    summary,
    write_figure,
)

if TYPE_CHECKING:
    from selfextend.lab.records import Run


def add_commands(commands: Any) -> None:
    one = commands.add_parser("sweep", help="group sizes and neighbor windows for one probe, and which to take")
    add_run_arguments(one, methods="", figure=True)
    one.add_argument(
        "--probe",
        default="passkey",
        help="passkey, key-value, perplexity, or needle-single, needle-multi-key, ... (default: passkey)",
    )
    one.add_argument("--length", "-N", default="8x", help="tokens, or such as 8x the trained window (default: 8x)")
    one.add_argument("--group-sizes", "-G", help="comma-separated (default: around what `suggest` gives)")
    one.add_argument("--neighbor-windows", "-w", help="comma-separated (default: 1/8, 1/4 and 3/8 of the window)")
    one.add_argument(
        "--scaling", default="recommended", help="none, logn, both, or recommended for the model (default)"
    )
    one.add_argument("--depths", default="5", help="how many from 0 to 1, or a comma-separated list (default: 5)")
    one.add_argument("--trials", "-n", type=int, default=1, help="cases at each depth (default: 1)")
    one.add_argument("--text", type=Path, help="for perplexity: the text to read; generated prose unless given")
    one.set_defaults(run=run_sweep, show=show_sweep)

    one = commands.add_parser("short-context", help="what SelfExtend costs inside the trained window")
    add_run_arguments(one, methods="", ray=False)
    one.add_argument("--for-length", default="8x", help="what SelfExtend's settings are meant for (default: 8x)")
    one.add_argument("--depths", default="5")
    one.add_argument("--trials", "-n", type=int, default=4)
    one.set_defaults(run=run_short_context_command, show=show_short_context)

    one = commands.add_parser("eval", help="EleutherAI's lm-evaluation-harness: LongBench, RULER, and its other tasks")
    add_run_arguments(one, ray=False)
    one.add_argument("--tasks", required=True, help="comma-separated names or patterns of the harness's tasks")
    one.add_argument("--include-path", type=Path, help="a folder with task files of your own")
    one.add_argument("--length", "-N", default="8x", help="tokens a prompt may have (default: 8x the trained window)")
    one.add_argument("--limit", type=int, help="cases of each task")
    one.add_argument("--num-fewshot", type=int)
    one.set_defaults(run=run_eval_command, show=show_eval)

    one = commands.add_parser("runs", help="show saved runs again: one, or two side by side")
    one.add_argument("files", type=Path, nargs="+")
    one.add_argument("--csv", type=Path, help="write all rows to this file")
    one.add_argument("--figure", type=Path, help="draw the run, if it is one, into this file (SVG)")
    one.set_defaults(run=run_runs, show=show_runs)


def run_sweep(arguments: argparse.Namespace) -> dict[str, Any]:
    from selfextend.lab.choices import parse_depths, parse_length, parse_numbers, probe_named
    from selfextend.lab.errors import LabError
    from selfextend.lab.grid import GridPlan, run_grid
    from selfextend.lab.perplexity import PerplexityPlan, run_perplexity
    from selfextend.lab.sweep import default_grid, recommend, sweep_methods
    from selfextend.lab.tables import labels

    target = target_of(arguments)
    window = target.trained_window
    length = parse_length(arguments.length, window)
    groups, windows = default_grid(window, length)
    scalings: dict[str, list[str]] = {
        "none": ["none"],
        "logn": ["logn"],
        "both": ["none", "logn"],
        "recommended": [target.recommended_scaling],
    }
    if arguments.scaling not in scalings:
        raise LabError(f"--scaling must be none, logn, both or recommended, not {arguments.scaling!r}.")
    names = ["selfextend+logn" if scaling == "logn" else "selfextend" for scaling in scalings[arguments.scaling]]
    methods, left_out = sweep_methods(
        parse_numbers(arguments.group_sizes) if arguments.group_sizes else groups,
        parse_numbers(arguments.neighbor_windows) if arguments.neighbor_windows else windows,
        window,
        length,
        names,
    )
    check_before_loading(arguments)
    tokenizer = target.tokenizer()
    plan: GridPlan | PerplexityPlan
    if arguments.probe == "perplexity":
        source = "generated prose" if arguments.text is None else arguments.text.name
        plan = PerplexityPlan(tuple(methods), length, window, source, arguments.seed)
        tokens = text_tokens(tokenizer, arguments.text, length, arguments.seed)
        plan.check(window, tokens)
    else:
        probe = probe_named(arguments.probe)
        depths = parse_depths(arguments.depths)
        plan = GridPlan(probe, tuple(methods), (length,), depths, arguments.trials, arguments.seed)
        plan.check(window, tokenizer)

    def steps(model: Any, tokenizer: Any, done: Any) -> Any:
        if isinstance(plan, PerplexityPlan):
            return run_perplexity(model, tokens, plan, window, done)
        return run_grid(model, tokenizer, plan, window, done)

    def tasks() -> list[Any]:
        from selfextend.lab.ray_runner import grid_tasks, perplexity_tasks

        return perplexity_tasks(plan, tokens, window) if isinstance(plan, PerplexityPlan) else grid_tasks(plan, window)

    run = recorded(arguments, target, arguments.probe, {**plan.settings(), "sweep": True}, steps, tasks)
    table = perplexity_result(run) if isinstance(plan, PerplexityPlan) else grid_result(run)
    return {
        **table,
        "left_out": [method.label for method in left_out],
        "recommendation": asdict(recommend(run.rows, window, length)),
        "methods": labels(run.rows),
    }


def show_sweep(result: dict[str, Any]) -> None:
    if "curves" in result:
        show_perplexity(result)
    else:
        show_grid(result)
    if result["left_out"]:
        print(f"Left out, since they do not reach: {', '.join(result['left_out'])}")
    print(f"Take {result['recommendation']['label']}. {result['recommendation']['reason']}")


def run_short_context_command(arguments: argparse.Namespace) -> dict[str, Any]:
    from selfextend.lab.choices import parse_depths, parse_length
    from selfextend.lab.short_context import ShortContextPlan, run_short_context, settings_for

    target = target_of(arguments)
    window = target.trained_window
    name = "selfextend+logn" if target.recommended_scaling == "logn" else "selfextend"
    method = settings_for(parse_length(arguments.for_length, window), window, name)
    plan = ShortContextPlan(window, method, parse_depths(arguments.depths), arguments.trials, arguments.seed)
    check_before_loading(arguments)
    grids = plan.grids()  # refuses bad numbers
    assert grids
    run = recorded(
        arguments,
        target,
        plan.name,
        plan.settings(),
        lambda model, tokenizer, done: run_short_context(model, tokenizer, plan, done),
    )
    return short_context_result(run)


def short_context_result(run: Run) -> dict[str, Any]:
    """For each probe the accuracy off and on, and the perplexity off and on."""
    from selfextend.lab.tables import by_length, ends_of_curves

    losses = [row for row in run.rows if row["probe"] == "perplexity"]
    names = list(dict.fromkeys(row["probe"] for row in run.rows if row["probe"] != "perplexity"))
    return {
        **summary(run),
        "probes": {name: by_length(row for row in run.rows if row["probe"] == name) for name in names},
        "perplexity": ends_of_curves(losses),
    }


def show_short_context(result: dict[str, Any]) -> None:
    print(result["title"])
    for name, entries in result["probes"].items():
        for entry in entries:
            print(
                f"{name:<14} {entry['label']:<34} {entry['accuracy']:>4.0%} ({entry['low']:.0%}–{entry['high']:.0%})  "
                f"n={entry['trials']}  {entry['seconds']:.1f} s"
            )
    for label, ends in result["perplexity"].items():
        print(f"{'perplexity':<14} {label:<34} {ends['last_quarter']:,.2f} over the last quarter of the window")


def run_eval_command(arguments: argparse.Namespace) -> dict[str, Any]:
    from selfextend.lab.choices import parse_length
    from selfextend.lab.harness import EvalPlan, run_eval

    target = target_of(arguments)
    plan = EvalPlan(
        tuple(task.strip() for task in arguments.tasks.split(",") if task.strip()),
        methods_of(arguments, target),
        parse_length(arguments.length, target.trained_window),
        arguments.include_path,
        arguments.limit,
        arguments.num_fewshot,
        arguments.seed,
    )
    check_before_loading(arguments)
    plan.check(target.trained_window)
    run = recorded(
        arguments,
        target,
        plan.name,
        plan.settings(),
        lambda model, tokenizer, done: run_eval(model, tokenizer, plan, target.trained_window, done),
    )
    return {**summary(run), "rows": run.rows}


def show_eval(result: dict[str, Any]) -> None:
    print(result["title"])
    for row in result["rows"]:
        error = "" if row["standard_error"] is None else f" ± {row['standard_error']:.4f}"
        print(f"{row['task']:<28} {row['label']:<24} {row['metric']} {row['value']:.4f}{error}  n={row['cases']}")


def run_runs(arguments: argparse.Namespace) -> dict[str, Any]:
    from selfextend.lab.errors import LabError
    from selfextend.lab.records import read_run

    runs = [read_run(path) for path in arguments.files]
    if arguments.figure is not None:
        if len(runs) > 1:
            raise LabError("--figure draws one run: name one file.")
        check_figure(arguments.figure)
        write_figure(arguments.figure, runs[0])
    if arguments.csv is not None:
        _write_csv(arguments.csv, arguments.files, runs)
    return {"runs": [{"file": str(path), **_result(run)} for path, run in zip(arguments.files, runs, strict=True)]}


def _result(run: Run) -> dict[str, Any]:
    if run.probe == "short-context":
        return short_context_result(run)
    if run.probe == "eval":
        return {**summary(run), "rows": run.rows}
    return perplexity_result(run) if run.probe == "perplexity" else grid_result(run)


def _write_csv(path: Path, files: list[Path], runs: list[Run]) -> None:
    rows = [
        {"file": file.name, "model": run.header["model"]["name"], "seed": run.header["seed"], **row}
        for file, run in zip(files, runs, strict=True)
        for row in run.rows
    ]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)


def show_runs(result: dict[str, Any]) -> None:
    for run in result["runs"]:
        print(f"== {run['file']}", file=sys.stderr)
        if "probes" in run:
            show_short_context(run)
        elif "curves" in run:
            show_perplexity(run)
        elif "by_length" in run:
            show_grid(run)
        else:
            show_eval(run)
