"""What there is to see of a run, as plain numbers and words: drawn by `selfextend.lab.svg` and by the app.

Made from the rows that are there, so that a run can be looked at while it goes on. Standard library only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from selfextend.lab.records import Row, Run
from selfextend.lab.tables import accuracy, by_length, grouped, labels, last_quarter, seconds_of, settings_words

SHORT_CONTEXT_PROBES = ("passkey", "needle-single", "key-value")


class Axis(NamedTuple):
    """What a grid's columns or rows stand for, in words and where there is little room."""

    name: str
    short: str


LENGTH, DEPTH = Axis("length (tokens)", "tokens"), Axis("depth of the hidden fact", "depth")
GROUP_SIZE, NEIGHBOR_WINDOW = Axis("group size G", "G"), Axis("neighbor window w (tokens)", "w")
UNNAMED = Axis("", "")


class Cell(NamedTuple):
    """One cell of a grid: its number, and its interval in words where there is one."""

    value: float
    interval: str = ""


@dataclass(frozen=True)
class GridView:
    """A number for each column and row: accuracies by length and depth, or a result by group size and neighbor window.

    Attributes:
        name: for menus.
        title: one sentence with method, model and seed.
        heading: lines for where model and seed stand already; none for what a run took in time and memory.
        columns, rows: names, in order. x, y: what they are.
        cells: (row, column) -> what was measured; others are empty.
        quantity: what the numbers are.
        percent: whether they are shares, 0 to 1. If not, less is better.
        under: lines under each column.
        inside: how many columns are texts that fit the trained window; None where columns are no lengths.
    """

    name: str
    title: str
    heading: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[str, ...]
    x: Axis
    y: Axis
    cells: dict[tuple[int, int], Cell]
    quantity: str
    percent: bool
    under: tuple[tuple[str, ...], ...] = ()
    inside: int | None = None


class Curve(NamedTuple):
    """One method's loss, in nats per token, at the middle of each bin of positions; its perplexity at the end."""

    name: str
    method: str
    positions: tuple[float, ...]
    losses: tuple[float, ...]
    last_quarter: float


@dataclass(frozen=True)
class CurveView:
    """Loss by position, one curve a method.

    Attributes:
        name, title: as of a `GridView`.
        length: tokens of the text; 0 before anything was read.
        trained_window: tokens.
    """

    name: str
    title: str
    curves: tuple[Curve, ...]
    length: int
    trained_window: int


View = GridView | CurveView


def is_sweep(run: Run) -> bool:
    """Whether its methods are SelfExtend with different settings."""
    return bool(run.header["settings"].get("sweep"))


def views(run: Run) -> list[View]:
    """Everything there is to see of a run, or will be once it has rows. Empty where its table says all."""
    if is_sweep(run):
        return [*_sweep_views(run)]
    if run.probe == "short-context":
        losses = [row for row in run.rows if row["probe"] == "perplexity"]
        inside = [_short_context_view(run, probe) for probe in SHORT_CONTEXT_PROBES]
        return [*inside, _curves(run, losses, "perplexity")]
    if run.probe == "perplexity":
        return [_curves(run, run.rows, "curves")]
    if run.probe == "eval" or "file" in run.header["settings"] or any("case" in row for row in run.rows):
        return []
    return [_grid(run, label) for label in run.header["settings"].get("methods") or labels(run.rows)]


def _where(run: Run) -> str:
    model = run.header["model"]
    return f"{run.probe}, {model['name']} (trained window {model['trained_window']:,}), seed {run.header['seed']}"


def _with_settings(label: str, rows: Sequence[Row]) -> str:
    """A method with its settings; with those for the shortest and the longest text where they change with it."""
    shortest, longest = (choose(rows, key=lambda row: row["length"])["settings"] for choose in (min, max))
    if not longest:
        return label
    # The settings hold the numbers that the label names because they were fixed by hand.
    return f"{label.partition(' (')[0]} ({' to '.join(dict.fromkeys(map(settings_words, (shortest, longest))))})"


def _grid(run: Run, label: str) -> GridView:
    """Accuracy of one method by length and depth; under each length its accuracy, interval and settings."""
    rows = [row for row in run.rows if row["label"] == label]
    planned, window = run.header["settings"], run.header["model"]["trained_window"]
    lengths = sorted({*planned.get("lengths", ()), *(row["length"] for row in rows)})
    depths = sorted({*planned.get("depths", ()), *(row["depth"] for row in rows)})
    found = grouped(rows, lambda row: (depths.index(row["depth"]), lengths.index(row["length"])))
    under = {entry["length"]: entry for entry in by_length(rows)}
    total = accuracy(rows).describe() if rows else ""
    in_all = f"{_with_settings(label, rows)}: {total} in all. " if rows else ""
    return GridView(
        name=label,
        title=f"{in_all}{_where(run)} (n = {planned.get('trials', 1):,} a cell)",
        heading=(f"{label}: {total}",),
        columns=tuple(f"{length:,}" for length in lengths),
        rows=tuple(f"{depth:.0%}" for depth in depths),
        x=LENGTH,
        y=DEPTH,
        cells={at: Cell(accuracy(cell).share) for at, cell in found.items()},
        quantity="accuracy",
        percent=True,
        under=tuple(_under(under[length]) if length in under else () for length in lengths),
        inside=sum(length <= window for length in lengths),
    )


def _under(entry: Row) -> tuple[str, ...]:
    settings = settings_words(entry["settings"]).split(", ") if entry["settings"] else ()
    return f"all {entry['accuracy']:.0%}", f"{entry['low']:.0%}–{entry['high']:.0%}", *settings


def _short_context_view(run: Run, probe: str) -> GridView:
    """Accuracies with SelfExtend off and on, side by side."""
    by_label = grouped((row for row in run.rows if row["probe"] == probe), lambda row: row["label"])
    found = {label: accuracy(rows) for label, rows in by_label.items()}
    planned = run.header["settings"]
    depths = len(planned["depths"])
    title = f"{probe} inside the window, off and on, {depths} depths. {_where(run)}"
    return GridView(
        name=probe,
        title=f"{title} (n = {depths * planned['trials']:,} a cell)",
        heading=(),
        columns=tuple(f"{label}\n{total.low:.0%} – {total.high:.0%}" for label, total in found.items()) or ("",),
        rows=("all depths",),
        x=UNNAMED,
        y=UNNAMED,
        cells={(0, column): Cell(total.share) for column, total in enumerate(found.values())},
        quantity="accuracy",
        percent=True,
    )


def _curves(run: Run, rows: Sequence[Row], name: str) -> CurveView:
    return curve_view(rows, run.header["model"]["trained_window"], name, _where(run))


def curve_view(rows: Sequence[Row], trained_window: int, name: str = "curves", where: str = "") -> CurveView:
    """The curves of a `selfextend.lab.perplexity.PerplexityPlan`.

    Args:
        where: ends the title: model and seed.
    """
    curves = [
        Curve(
            _with_settings(label, found),
            found[0]["method"],
            tuple((row["start"] + row["end"]) / 2 for row in found),
            tuple(row["loss"] for row in found),
            last_quarter(found),
        )
        for label, found in grouped(rows, lambda row: row["label"]).items()
    ]
    length = rows[0]["length"] if rows else 0
    title = f"Loss by position over {length:,} tokens, n = 1 text. {where}".strip() if rows else where
    return CurveView(name, title, tuple(curves), length, trained_window)


def _sweep_views(run: Run) -> list[GridView]:
    """Score, seconds and memory by group size and neighbor window, for each query scaling."""
    scalings = grouped(run.rows, lambda row: row["settings"]["query_scaling"])
    return [
        _sweep_view(run, scaling, kind, kind + (", log-n" if scaling == "logn" and len(scalings) > 1 else ""))
        for scaling in sorted(scalings, reverse=True) or ["none"]  # "none" before "logn"
        for kind in ("sweep", "seconds", "memory")
    ]


def _sweep_view(run: Run, scaling: str, kind: str, name: str) -> GridView:
    """One number for each pair of settings: `kind` is "sweep" (the score), "seconds" or "memory"."""
    groups = sorted({row["settings"]["group_size"] for row in run.rows}) or [1]
    windows = sorted({row["settings"]["neighbor_window"] for row in run.rows}) or [1]

    def place(row: Row) -> tuple[int, int]:
        return windows.index(row["settings"]["neighbor_window"]), groups.index(row["settings"]["group_size"])

    found = grouped((row for row in run.rows if row["settings"]["query_scaling"] == scaling), place)
    score = "perplexity, last quarter" if run.probe == "perplexity" else "accuracy"
    quantity = {"seconds": "seconds", "memory": "peak memory beyond the model (MB)"}.get(kind, score)
    most = max(map(len, found.values()), default=0)
    n = "" if run.probe == "perplexity" else f", n = {most}"
    length = run.rows[0]["length"] if run.rows else 0
    logn = scaling == "logn"
    measured = score if run.probe == "perplexity" else f"accuracy with 95% interval, n = {most} for each pair"
    heading = (f"SelfExtend{' with log-n' if logn else ''} at {length:,} tokens", measured)
    return GridView(
        name=name,
        title=f"{quantity} at {length:,} tokens{', log-n' if logn else ''}{n}. {_where(run)}",
        heading=heading if kind == "sweep" else (),
        columns=tuple(f"{group:,}" for group in groups),
        rows=tuple(f"{window:,}" for window in windows),
        x=GROUP_SIZE,
        y=NEIGHBOR_WINDOW,
        cells={at: _sweep_cell(rows, kind) for at, rows in found.items()},
        quantity=quantity,
        percent=quantity == "accuracy",
    )


def _sweep_cell(rows: Sequence[Row], kind: str) -> Cell:
    if kind == "seconds":
        return Cell(seconds_of(rows))
    if kind == "memory":
        return Cell(max(row["peak_bytes"] for row in rows) / 1e6)
    if "loss" in rows[0]:
        return Cell(last_quarter(rows))
    total = accuracy(rows)
    return Cell(total.share, f"{total.low:.0%}–{total.high:.0%}")
