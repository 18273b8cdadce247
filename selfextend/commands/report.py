"""A run's tables: as plain data for `--json`, and as text."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from selfextend.lab.records import Run
from selfextend.lab.sweep import recommend
from selfextend.lab.tables import by_cell, by_length, curves, ends_of_curves, labels, seconds_of, settings_words
from selfextend.lab.views import is_sweep


def report(run: Run) -> dict[str, Any]:
    """What a run's record says and its tables."""
    told = {
        "title": run.title(),
        **{key: run.header[key] for key in ("probe", "model", "versions", "settings", "seed", "started")},
        "seconds": seconds_of(run.rows),
    }
    if run.probe == "short-context":
        losses = [row for row in run.rows if row["probe"] == "perplexity"]
        names = dict.fromkeys(row["probe"] for row in run.rows if row["probe"] != "perplexity")
        probes = {name: by_length(row for row in run.rows if row["probe"] == name) for name in names}
        return {**told, "probes": probes, "perplexity": ends_of_curves(losses)}
    if run.probe == "eval":
        return {**told, "rows": run.rows}
    if "file" in run.header["settings"]:
        return {**told, "by_length": by_length(run.rows), "rows": run.rows}
    if run.probe == "perplexity":
        told |= {"curves": curves(run.rows), "ends": ends_of_curves(run.rows)}
    else:
        told |= {"by_length": by_length(run.rows), "cells": by_cell(run.rows)}
    if is_sweep(run) and run.rows:
        advice = recommend(run.rows, run.header["model"]["trained_window"], run.rows[0]["length"])
        told |= {"recommendation": asdict(advice), "methods": labels(run.rows)}
    return told


def show_report(told: dict[str, Any]) -> None:
    """Print a report."""
    print(told["title"])
    if "probes" in told:
        _show_short_context(told)
    elif "curves" in told:
        _show_curves(told)
    elif "by_length" in told:
        _show_accuracies(told)
    else:
        _show_metrics(told)
    if told.get("left_out"):
        print(f"Left out, since they do not reach: {', '.join(told['left_out'])}")
    if "recommendation" in told:
        print(f"Take {told['recommendation']['label']}. {told['recommendation']['reason']}")


def _cost(entry: dict[str, Any]) -> str:
    return f"{entry['seconds']:.1f} s  {entry['peak_bytes'] / 1e6:,.0f} MB  {settings_words(entry['settings'])}"


def _show_accuracies(told: dict[str, Any]) -> None:
    for row in told.get("rows", ()):
        mark = "right" if row["score"] == 1 else "wrong"
        print(f"{row['label']:<22} {row['length']:>7,} tokens  {row['expected'][0]!r} -> {row['answer']!r}  {mark}")
    for entry in told["by_length"]:
        print(
            f"{entry['label']:<22} {entry['length']:>7,} tokens  {entry['accuracy']:>4.0%} "
            f"({entry['low']:.0%}–{entry['high']:.0%})  n={entry['trials']}  {_cost(entry)}"
        )


def _show_curves(told: dict[str, Any]) -> None:
    for label, curve in told["curves"].items():
        values = "  ".join(f"{value:,.2f}" for value in curve["perplexity"])
        ends = told["ends"][label]
        print(f"{label:<24} {values}   last quarter / first bin: {ends['ratio']:.2f}  {_cost(ends)}")
    starts = next(iter(told["curves"].values()))
    print(f"Bins of {told['settings']['bin_tokens']:,} tokens, from {starts['start'][0]} to {starts['end'][-1]:,}.")


def _show_short_context(told: dict[str, Any]) -> None:
    for name, entries in told["probes"].items():
        for entry in entries:
            print(
                f"{name:<14} {entry['label']:<34} {entry['accuracy']:>4.0%} ({entry['low']:.0%}–{entry['high']:.0%})  "
                f"n={entry['trials']}  {entry['seconds']:.1f} s"
            )
    for label, ends in told["perplexity"].items():
        print(f"{'perplexity':<14} {label:<34} {ends['last_quarter']:,.2f} over the last quarter of the window")


def _show_metrics(told: dict[str, Any]) -> None:
    for row in told["rows"]:
        error = "" if row["standard_error"] is None else f" ± {row['standard_error']:.4f}"
        print(f"{row['task']:<28} {row['label']:<24} {row['metric']} {row['value']:.4f}{error}  n={row['cases']}")
