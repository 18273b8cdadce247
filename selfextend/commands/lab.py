"""`passkey`, `needle`, `key-value` and `perplexity`: arguments in, a plan, rows, a table out."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfextend.commands.models import methods_of, target_of
from selfextend.commands.running import (
    add_run_arguments,
    check_before_loading,
    recorded,
    summary,
)

if TYPE_CHECKING:
    from selfextend.lab.probes.cases import Probe
    from selfextend.lab.probes.haystack import Filler
    from selfextend.lab.records import Run


def add_commands(commands: Any) -> None:
    one = commands.add_parser("passkey", help="a number hidden in a long text, asked for at its end")
    _add_grid_arguments(one)
    one.add_argument("--digits", type=int, default=5, help="of each key (default: 5)")
    one.add_argument("--text", type=Path, help="hide the keys in this TXT, Markdown or PDF, not in the standard lines")
    one.add_argument("--file", type=Path, help="a test set in LongLM's form instead: JSON lines of input and target")
    one.set_defaults(run=run_passkey, show=show_grid)

    one = commands.add_parser("needle", help="facts planted in a long text, after RULER")
    _add_grid_arguments(one)
    one.add_argument(
        "--variant", default="single", help="single, multi-key, multi-value, multi-query, tracking (default: single)"
    )
    one.add_argument("--needles", type=int, default=4, help="how many, but for single (default: 4)")
    one.add_argument("--text", type=Path, help="plant them in this TXT, Markdown or PDF, not in generated prose")
    one.add_argument("--sentence", help="plant this sentence instead; with --question and --answer")
    one.add_argument("--question", help="asked at the end")
    one.add_argument("--answer", help="what the model's answer has to hold")
    one.set_defaults(run=run_needle, show=show_grid)

    one = commands.add_parser("key-value", help="one of many random identifiers in a JSON object")
    _add_grid_arguments(one)
    one.set_defaults(run=run_key_values, show=show_grid)

    one = commands.add_parser("perplexity", help="perplexity by position in a long text")
    add_run_arguments(one, figure=True)
    one.add_argument("--text", type=Path, help="the TXT, Markdown or PDF to read; generated prose unless given")
    one.add_argument("--length", "-N", default="16x", help="tokens, or such as 4x the trained window (default: 16x)")
    one.add_argument("--bin-tokens", type=int, help="width of a bin (default: the trained window)")
    one.set_defaults(run=run_perplexity_command, show=show_perplexity)


def _add_grid_arguments(one: argparse.ArgumentParser) -> None:
    add_run_arguments(one, figure=True)
    group = one.add_argument_group("grid")
    group.add_argument(
        "--lengths",
        default="1x,2x,4x,8x,16x",
        help="comma-separated tokens, or such as 4x the trained window (default: 1x,2x,4x,8x,16x)",
    )
    group.add_argument("--depths", default="11", help="how many from 0 to 1, or a comma-separated list (default: 11)")
    group.add_argument("--trials", "-n", type=int, default=1, help="cases in each cell (default: 1)")


def run_passkey(arguments: argparse.Namespace) -> dict[str, Any]:
    from selfextend.lab.probes.passkey import FILLER, Passkey

    if arguments.file is not None:
        return _run_test_set(arguments)
    return _run_grid(arguments, Passkey(arguments.digits, _filler(arguments.text, FILLER)))


def run_needle(arguments: argparse.Namespace) -> dict[str, Any]:
    from selfextend.lab.errors import LabError
    from selfextend.lab.probes.needle import GENERATED, Needle, OwnNeedle

    filler = _filler(arguments.text, GENERATED)
    own = (arguments.sentence, arguments.question, arguments.answer)
    if not any(own):
        return _run_grid(arguments, Needle(arguments.variant, arguments.needles, filler))
    if not all(own):
        raise LabError("A needle of your own takes all three: --sentence, --question and --answer.")
    return _run_grid(arguments, OwnNeedle(*own, filler))


def run_key_values(arguments: argparse.Namespace) -> dict[str, Any]:
    from selfextend.lab.probes.key_values import KeyValues

    return _run_grid(arguments, KeyValues())


def _filler(path: Path | None, otherwise: Filler) -> Filler:
    from selfextend.lab.probes.haystack import own_text
    from selfextend.lab.probes.texts import read_text

    return otherwise if path is None else own_text(read_text(path), path.name)


def _run_grid(arguments: argparse.Namespace, probe: Probe) -> dict[str, Any]:
    from selfextend.lab.choices import parse_depths, parse_lengths
    from selfextend.lab.grid import GridPlan, run_grid

    target = target_of(arguments)
    window = target.trained_window
    plan = GridPlan(
        probe,
        methods_of(arguments, target),
        parse_lengths(arguments.lengths, window),
        parse_depths(arguments.depths),
        arguments.trials,
        arguments.seed,
    )
    check_before_loading(arguments)
    plan.check(window, target.tokenizer())

    def tasks() -> list[Any]:
        from selfextend.lab.ray_runner import grid_tasks

        return grid_tasks(plan, window)

    run = recorded(
        arguments,
        target,
        probe.name,
        plan.settings(),
        lambda model, tokenizer, done: run_grid(model, tokenizer, plan, window, done),
        tasks,
    )
    return grid_result(run)


def grid_result(run: Run) -> dict[str, Any]:
    """The tables of a grid."""
    from selfextend.lab.tables import by_cell, by_length

    return {**summary(run), "by_length": by_length(run.rows), "cells": by_cell(run.rows)}


def _run_test_set(arguments: argparse.Namespace) -> dict[str, Any]:
    from selfextend.lab.errors import LabError
    from selfextend.lab.probes.passkey import read_test_set
    from selfextend.lab.tables import by_length
    from selfextend.lab.test_sets import TestSetPlan, run_test_set

    if arguments.ray is not None:
        raise LabError("A test set runs in this process: leave --ray out.")
    if arguments.figure is not None:
        raise LabError("A test set has no grid of lengths and depths to draw: leave --figure out.")
    rows = read_test_set(arguments.file)
    target = target_of(arguments)
    plan = TestSetPlan(rows, methods_of(arguments, target), arguments.file.name, arguments.seed)
    check_before_loading(arguments)
    plan.check(target.trained_window, target.tokenizer())
    run = recorded(
        arguments,
        target,
        "passkey",
        plan.settings(),
        lambda model, tokenizer, done: run_test_set(model, tokenizer, plan, target.trained_window, done),
    )
    return {**summary(run), "by_length": by_length(run.rows), "rows": run.rows}


def run_perplexity_command(arguments: argparse.Namespace) -> dict[str, Any]:
    from selfextend.lab.choices import parse_length
    from selfextend.lab.perplexity import PerplexityPlan, run_perplexity

    target = target_of(arguments)
    window = target.trained_window
    plan = PerplexityPlan(
        methods_of(arguments, target),
        parse_length(arguments.length, window),
        window if arguments.bin_tokens is None else arguments.bin_tokens,
        "generated prose" if arguments.text is None else arguments.text.name,
        arguments.seed,
    )
    check_before_loading(arguments)
    tokens = text_tokens(target.tokenizer(), arguments.text, plan.length, arguments.seed)
    plan.check(window, tokens)

    def tasks() -> list[Any]:
        from selfextend.lab.ray_runner import perplexity_tasks

        return perplexity_tasks(plan, tokens, window)

    run = recorded(
        arguments,
        target,
        plan.name,
        plan.settings(),
        lambda model, tokenizer, done: run_perplexity(model, tokens, plan, window, done),
        tasks,
    )
    return perplexity_result(run)


def text_tokens(tokenizer: Any, path: Path | None, length: int, seed: int) -> list[int]:
    """The tokens of a text file, or of enough generated prose."""
    from selfextend.lab.choices import prose_tokens
    from selfextend.lab.probes.haystack import encode
    from selfextend.lab.probes.texts import read_text

    return prose_tokens(tokenizer, length, seed) if path is None else encode(tokenizer, read_text(path))


def perplexity_result(run: Run) -> dict[str, Any]:
    """The curves, and each method's first bin and last quarter with its settings and what it cost."""
    from selfextend.lab.tables import curves, ends_of_curves

    costs = {row["label"]: {key: row[key] for key in ("seconds", "peak_bytes", "settings")} for row in run.rows}
    ends = {label: {**values, **costs[label]} for label, values in ends_of_curves(run.rows).items()}
    return {**summary(run), "curves": curves(run.rows), "ends": ends}


def show_grid(result: dict[str, Any]) -> None:
    from selfextend.lab.tables import settings_words

    print(result["title"])
    for row in result.get("rows", ()):
        mark = "right" if row["score"] == 1 else "wrong"
        print(f"{row['label']:<22} {row['length']:>7,} tokens  {row['expected'][0]!r} -> {row['answer']!r}  {mark}")
    for entry in result["by_length"]:
        print(
            f"{entry['label']:<22} {entry['length']:>7,} tokens  {entry['accuracy']:>4.0%} "
            f"({entry['low']:.0%}–{entry['high']:.0%})  n={entry['trials']}  {entry['seconds']:.1f} s  "
            f"{entry['peak_bytes'] / 1e6:,.0f} MB  {settings_words(entry['settings'])}"
        )


def show_perplexity(result: dict[str, Any]) -> None:
    from selfextend.lab.tables import settings_words

    print(result["title"])
    for label, curve in result["curves"].items():
        values = "  ".join(f"{value:,.2f}" for value in curve["perplexity"])
        ends = result["ends"][label]
        print(
            f"{label:<24} {values}   last quarter / first bin: {ends['ratio']:.2f}  {ends['seconds']:.1f} s  "
            f"{ends['peak_bytes'] / 1e6:,.0f} MB  {settings_words(ends['settings'])}"
        )
    starts = next(iter(result["curves"].values()))
    print(f"Bins of {result['settings']['bin_tokens']:,} tokens, from {starts['start'][0]} to {starts['end'][-1]:,}.")
