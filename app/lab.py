"""The lab as the app has it: choices to a run, a run's rows to figures, tables and files.

What is measured, and how, is in `selfextend.lab`; the same code as on the command line. Knows no gradio.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from app.figures.answers import accuracy_grid, loss_curves, sweep_heatmap
from app.figures.style import OFFLINE
from app.model_shelf import LoadedModel
from selfextend.lab.errors import LabError
from selfextend.lab.methods import METHOD_NAMES, Method, parse_methods
from selfextend.lab.records import CellKey, Row, Run, header, identity
from selfextend.lab.sweep import default_grid, recommend, sweep_methods
from selfextend.lab.tables import accuracy, by_length, ends_of_curves, labels, last_quarter, settings_words

# What runs the probes brings torch and transformers, and the page is to be there before them.
if TYPE_CHECKING:
    from selfextend.lab.grid import CellDone, Progress
    from selfextend.lab.probes.haystack import Filler

PROBES = {
    "Passkey": "passkey",
    "Needle: one fact": "needle-single",
    "Needle: one of several facts": "needle-multi-key",
    "Needle: several values of one key": "needle-multi-value",
    "Needle: several questions": "needle-multi-query",
    "Needle: a chain of variables": "needle-tracking",
    "Key-value pairs": "key-value",
    "Perplexity by position": "perplexity",
    "Inside the trained window": "short-context",
}
METHODS = {Method(name).label: name for name in METHOD_NAMES}


@dataclass(frozen=True)
class LabChoices:
    """What was chosen in the tab, as it was typed.

    Attributes:
        probe: a value of `PROBES`.
        sweep: group sizes and neighbor windows instead of methods side by side.
        methods: names; not for a sweep or the check inside the window.
        lengths, depths: as `parse_lengths` and `parse_depths` take them.
        trials, seed: whole numbers.
        group_sizes, neighbor_windows: of a sweep; empty takes what `default_grid` gives.
        own_document: hide things in, or read, the visitor's own documents.
    """

    probe: str
    sweep: bool
    methods: tuple[str, ...]
    lengths: str
    depths: str
    trials: int
    seed: int
    group_sizes: str = ""
    neighbor_windows: str = ""
    own_document: bool = False


@dataclass(frozen=True)
class Prepared:
    """A run that is ready to go.

    Attributes:
        header: of its record.
        steps: cells that are there already -> the run.
    """

    header: dict[str, Any]
    steps: Callable[[set[CellKey]], Generator[Progress | CellDone, None, None]]

    @property
    def file_name(self) -> str:
        """The same for the same choices on the same model, so that a run that was stopped is gone on with."""
        told = json.dumps(identity(self.header), sort_keys=True).encode()
        return f"{self.header['probe']}-{hashlib.sha256(told).hexdigest()[:12]}.jsonl"


def prepare(choices: LabChoices, loaded: LoadedModel, documents: Sequence[tuple[str, str]]) -> Prepared:
    """Turn choices into a run, refusing what cannot be run.

    Args:
        documents: names and texts of the visitor's own.

    Raises:
        LabError, ValueError: with a sentence that says what to change.
    """
    from selfextend.lab.choices import (
        parse_depths,
        parse_length,
        parse_lengths,
        parse_numbers,
        probe_named,
        prose_tokens,
    )
    from selfextend.lab.grid import GridPlan, run_grid
    from selfextend.lab.perplexity import PerplexityPlan, run_perplexity
    from selfextend.lab.probes.haystack import encode, own_text

    window = loaded.trained_window
    source, text = _own(documents) if choices.own_document else ("", "")
    if not loaded.supported:
        raise LabError(loaded.activity)
    if choices.probe == "short-context":
        return _short_context(choices, loaded)
    if choices.sweep:
        length = parse_length(choices.lengths, window)
        groups, windows = default_grid(window, length)
        methods, _ = sweep_methods(
            parse_numbers(choices.group_sizes) if choices.group_sizes.strip() else groups,
            parse_numbers(choices.neighbor_windows) if choices.neighbor_windows.strip() else windows,
            window,
            length,
            [_extended(loaded)],
        )
    else:
        methods = parse_methods(choices.methods, recommended_scaling=loaded.query_scaling)
    if choices.probe == "perplexity":
        length = parse_length(choices.lengths, window)
        plan = PerplexityPlan(tuple(methods), length, window, source or "generated prose", choices.seed)
        tokens = encode(loaded.tokenizer, text) if text else prose_tokens(loaded.tokenizer, length, choices.seed)
        plan.check(window, tokens)
        return Prepared(
            _header(loaded, plan.name, plan.settings(), choices),
            lambda done: run_perplexity(loaded.model, tokens, plan, window, done),
        )
    filler: Filler | None = own_text(text, source) if text else None
    grid = GridPlan(
        probe_named(choices.probe, filler),
        tuple(methods),
        parse_lengths(choices.lengths, window),
        parse_depths(choices.depths),
        choices.trials,
        choices.seed,
    )
    grid.check(window, loaded.tokenizer)
    return Prepared(
        _header(loaded, grid.probe.name, grid.settings(), choices),
        lambda done: run_grid(loaded.model, loaded.tokenizer, grid, window, done),
    )


def _extended(loaded: LoadedModel) -> str:
    """The method that suits the model."""
    return "selfextend+logn" if loaded.query_scaling == "logn" else "selfextend"


def _own(documents: Sequence[tuple[str, str]]) -> tuple[str, str]:
    if not documents:
        raise LabError("There is no document of yours to use: add one on the Read tab, or use generated text.")
    return ", ".join(name for name, _ in documents), "\n\n".join(text for _, text in documents)


def _short_context(choices: LabChoices, loaded: LoadedModel) -> Prepared:
    from selfextend.lab.choices import parse_depths, parse_lengths
    from selfextend.lab.short_context import ShortContextPlan, run_short_context, settings_for

    window = loaded.trained_window
    method = settings_for(max(parse_lengths(choices.lengths, window)), window, _extended(loaded))
    plan = ShortContextPlan(window, method, parse_depths(choices.depths), choices.trials, choices.seed)
    plan.grids()  # refuses bad numbers
    return Prepared(
        _header(loaded, plan.name, plan.settings(), choices),
        lambda done: run_short_context(loaded.model, loaded.tokenizer, plan, done),
    )


def _header(loaded: LoadedModel, probe: str, settings: dict[str, Any], choices: LabChoices) -> dict[str, Any]:
    from selfextend.lab.target import describe_model, versions

    model = describe_model(loaded.name, loaded.model, loaded.trained_window)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return header(probe, model, versions(), {**settings, "sweep": choices.sweep}, choices.seed, now)


# Figures


_LOGN = ", log-n"
"""Ends the names of a sweep's figures with log-n, where it has them without, too."""


def is_sweep(run: Run) -> bool:
    """Whether its methods are SelfExtend's settings."""
    return bool(run.header["settings"].get("sweep"))


def views(run: Run) -> list[str]:
    """What figures there are of a run: names to choose from."""
    if is_sweep(run):
        names = ["sweep", "seconds", "memory"]
        return names if len(_scalings(run)) < 2 else [*names, *(f"{name}{_LOGN}" for name in names)]
    if run.probe == "short-context":
        return ["passkey", "needle-single", "key-value", "perplexity"]
    return ["curves"] if run.probe == "perplexity" else labels(run.rows)


def _scalings(run: Run) -> list[str]:
    return sorted({row["settings"]["query_scaling"] for row in run.rows}, reverse=True)  # "none" first


def figure(run: Run, view: str) -> go.Figure:
    """One of a run's figures; an empty one where no row is there yet."""
    if is_sweep(run):
        return _sweep_figure(run, view)
    if run.probe == "short-context":
        rows = [row for row in run.rows if row["probe"] == view]
        return _curves(run, rows) if view == "perplexity" else _bars(run, rows, view)
    if run.probe == "perplexity":
        return _curves(run, run.rows)
    return _grid(run, [row for row in run.rows if row["label"] == view], view)


def _grid(run: Run, rows: list[Row], label: str) -> go.Figure:
    settings = run.header["settings"]
    lengths, depths = list(settings["lengths"]), sorted(settings["depths"])
    values = np.full((len(depths), len(lengths)), np.nan)
    cells: dict[tuple[int, float], list[Row]] = {}
    for row in rows:
        cells.setdefault((row["length"], row["depth"]), []).append(row)
    for (length, depth), found in cells.items():
        values[depths.index(depth), lengths.index(length)] = accuracy(found).share
    title = f"{_set(label, rows)}: {accuracy(rows).describe()} in all. {_where(run)}" if rows else _where(run)
    return accuracy_grid(
        lengths, depths, values, title, settings["trials"], trained_window=run.header["model"]["trained_window"]
    )


def _set(label: str, rows: Sequence[Row]) -> str:
    """A method with its settings; with those for the shortest and the longest text where they change with it."""
    shortest, longest = (choose(rows, key=lambda row: row["length"])["settings"] for choose in (min, max))
    if not longest:
        return label
    words = [settings_words(shortest), settings_words(longest)]
    return f"{label} ({' to '.join(dict.fromkeys(words))})"


def _where(run: Run) -> str:
    model = run.header["model"]
    return f"{run.probe}, {model['name']} (trained window {model['trained_window']:,}), seed {run.header['seed']}"


def _curves(run: Run, rows: list[Row]) -> go.Figure:
    positions, losses = {}, {}
    for label in labels(rows):
        found = [row for row in rows if row["label"] == label]
        name = _set(label, found)
        positions[name] = np.array([(row["start"] + row["end"]) / 2 for row in found])
        losses[name] = np.array([row["loss"] for row in found])
    title = f"Loss by position over {rows[0]['length']:,} tokens, n = 1 text. {_where(run)}" if rows else _where(run)
    return loss_curves(positions, losses, run.header["model"]["trained_window"], title=title)


def _bars(run: Run, rows: list[Row], view: str) -> go.Figure:
    """SelfExtend off and on as two columns of a grid."""
    found = {label: accuracy(row for row in rows if row["label"] == label) for label in labels(rows)}
    names, depths = [], sorted(run.header["settings"]["depths"])
    values = np.full((1, max(1, len(found))), np.nan)
    for column, (label, one) in enumerate(found.items()):
        values[0, column] = one.share
        names.append(f"{label}<br>{one.low:.0%} – {one.high:.0%}")
    title = f"{view} inside the window, off and on, {len(depths)} depths. {_where(run)}"
    made = accuracy_grid(
        list(range(len(names) or 1)), [0.5], values, title, len(depths) * run.header["settings"]["trials"]
    )
    made.update_xaxes(title="", tickvals=[str(column) for column in range(len(names))], ticktext=names)
    made.update_yaxes(title="", showticklabels=False)
    return made


def _sweep_figure(run: Run, view: str) -> go.Figure:
    scalings = _scalings(run)
    scaling = "logn" if view.endswith(_LOGN) else scalings[0] if scalings else "none"
    view = view.removesuffix(_LOGN)
    by_pair: dict[tuple[int, int], list[Row]] = {}
    for row in run.rows:
        if row["settings"]["query_scaling"] != scaling:
            continue
        pair = (row["settings"]["group_size"], row["settings"]["neighbor_window"])
        by_pair.setdefault(pair, []).append(row)
    groups = sorted({group for group, _ in by_pair}) or [1]
    windows = sorted({window for _, window in by_pair}) or [1]
    values = np.full((len(windows), len(groups)), np.nan)
    for (group, window), rows in by_pair.items():
        at = windows.index(window), groups.index(group)
        if view == "seconds":
            values[at] = sum({(row["length"], row["depth"]): row["seconds"] for row in rows}.values())
        elif view == "memory":
            values[at] = max(row["peak_bytes"] for row in rows) / 1e6
        else:
            values[at] = last_quarter(rows) if "loss" in rows[0] else accuracy(rows).share
    names = {"seconds": "seconds", "memory": "peak memory beyond the model (MB)"}
    percent = view == "sweep" and run.probe != "perplexity"
    name = names.get(view, "accuracy" if percent else "perplexity, last quarter")
    n = "" if run.probe == "perplexity" else f", n = {max((len(rows) for rows in by_pair.values()), default=0)}"
    length = run.rows[0]["length"] if run.rows else 0
    title = f"{name} at {length:,} tokens{_LOGN if scaling == 'logn' else ''}{n}. {_where(run)}"
    return sweep_heatmap(groups, windows, values, title, name, percent=percent)


# Tables and files


def table_html(run: Run, view: str | None = None) -> str:
    """Each method at each length with its settings, n, Wilson interval, seconds and memory; or the curves' ends.

    Args:
        view: the figure it stands under: what that does not show is left out. None is everything.
    """
    groups: dict[str, list[Row]] = {}
    shown = [row for row in run.rows if view in (row["label"], row["probe"])]
    for row in shown or run.rows:
        groups.setdefault(row["probe"], []).append(row)
    parts = []
    for probe, rows in groups.items():
        head = f"<h4>{escape(probe)}</h4>" if len(groups) > 1 else ""
        parts.append(head + (_curve_table(rows) if "loss" in rows[0] else _accuracy_table(rows)))
    if is_sweep(run) and run.rows:
        model = run.header["model"]
        advice = recommend(run.rows, model["trained_window"], run.rows[0]["length"])
        parts.insert(0, f"<p><b>Take {escape(advice.label)}.</b> {escape(advice.reason)}</p>")
    return "".join(parts)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    columns = "".join(f"<th scope='col'>{escape(cell)}</th>" for cell in head)
    body = "".join(
        f"<tr><th scope='row'>{escape(first)}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in rest)}</tr>"
        for first, *rest in rows
    )
    return (
        f"<div class='lab-scroll' tabindex='0'><table class='lab'><thead><tr>{columns}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def _accuracy_table(rows: list[Row]) -> str:
    several = len(labels(rows)) > 1
    return _table(
        (
            *(["Method"] if several else []),
            "Tokens",
            "Right",
            "95% interval",
            "n",
            "Settings",
            "Seconds",
            "Peak MB",
        ),
        [
            (
                *([entry["label"]] if several else []),
                f"{entry['length']:,}",
                f"{entry['accuracy']:.0%}",
                f"{entry['low']:.0%} – {entry['high']:.0%}",
                str(entry["trials"]),
                settings_words(entry["settings"]),
                f"{entry['seconds']:.1f}",
                f"{entry['peak_bytes'] / 1e6:,.0f}",
            )
            for entry in by_length(rows)
        ],
    )


def _curve_table(rows: list[Row]) -> str:
    ends = ends_of_curves(rows)
    last = {row["label"]: row for row in rows}
    return _table(
        ("Method", "First bin", "Last quarter", "Ratio", "Settings", "Seconds", "Peak MB"),
        [
            (
                label,
                f"{one['first_bin']:,.2f}",
                f"{one['last_quarter']:,.2f}",
                f"{one['ratio']:.2f}",
                settings_words(last[label]["settings"]),
                f"{last[label]['seconds']:.1f}",
                f"{last[label]['peak_bytes'] / 1e6:,.0f}",
            )
            for label, one in ends.items()
        ],
    )


def as_csv(run: Run) -> str:
    """All rows, with the model and the seed in every one."""
    rows = [{"model": run.header["model"]["name"], "seed": run.header["seed"], **row} for row in run.rows]
    file = io.StringIO()
    writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def as_html(run: Run) -> str:
    """One page with all figures, the table and the header; it opens in any browser, without a network."""
    figures = [
        figure(run, view).to_html(full_html=False, include_plotlyjs=number == 0, config=OFFLINE)
        for number, view in enumerate(views(run))
    ]
    told = escape(json.dumps(run.header, indent=1, ensure_ascii=False))
    style = (
        "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
        "table{border-collapse:collapse}th,td{padding:.2rem .6rem;border-bottom:1px solid #ccc;text-align:left}"
    )
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{escape(run.title())}</title>"
        f"<style>{style}</style><h1>{escape(run.title())}</h1>{table_html(run)}{''.join(figures)}"
        f"<details><summary>How it was run</summary><pre>{told}</pre></details></html>"
    )
