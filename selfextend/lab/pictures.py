"""Pictures of a run as SVG, for pages where no script runs: grids, sweeps and perplexity curves.

Standard library only; the app's figures, which answer to a pointer, are plotly's. Knows rows; knows nothing about
models or files.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp, log, log10
from typing import Any
from xml.etree import ElementTree

from selfextend.lab.errors import LabError
from selfextend.lab.records import Row, Run
from selfextend.lab.tables import accuracy, by_length, labels, last_quarter, settings_words

_CELL, _LINE = 62, 17
_LEFT, _GAP, _MARGIN = 82, 34, 16
_CHART_WIDTH, _CHART_HEIGHT = 560, 250
_INK, _GREY, _EDGE = "#1b1f24", "#59636e", "#bf5b04"
# Okabe and Ito's colours, which people with any colour vision tell apart.
_CURVES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#7a7a7a")
_LOW, _HIGH = (247, 250, 253), (8, 81, 156)


def as_svg(run: Run) -> str:
    """A run's picture with model, settings, number of cases, seed and intervals in it.

    Raises:
        LabError: the run has no rows, or is of a kind that has no picture.
    """
    if not run.rows:
        raise LabError("This run has no rows yet, so there is nothing to draw.")
    if run.probe in ("eval", "short-context") or "case" in run.rows[0]:
        raise LabError(f"There is no picture of a run of {run.probe} without depths; its table says it all.")
    if run.header["settings"].get("sweep"):
        return _page(run, _sweep_panels(run))
    if run.probe == "perplexity":
        return _page(run, [_curves(run.rows, run.header["model"]["trained_window"])])
    return _page(run, [_grid_panel(run, label) for label in labels(run.rows)])


@dataclass(frozen=True)
class _Panel:
    """A drawing of a known size; `draw` puts it into an element."""

    width: int
    height: int
    draw: Callable[[ElementTree.Element], None]


def _page(run: Run, panels: Sequence[_Panel]) -> str:
    across = min(2, len(panels))
    wide, high = max(panel.width for panel in panels), max(panel.height for panel in panels)
    width = 2 * _MARGIN + across * wide + (across - 1) * _GAP
    title = textwrap.wrap(run.title(), max(40, width // 9))
    top = _MARGIN + len(title) * (_LINE + 2) + 8
    height = top + -(-len(panels) // across) * (high + _GAP) - _GAP + _MARGIN
    page = ElementTree.Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "viewBox": f"0 0 {width} {height}",
            "width": str(width),
            "height": str(height),
            "font-family": "system-ui, sans-serif",
            "font-size": "12",
            "fill": _INK,
            "role": "img",
        },
    )
    ElementTree.SubElement(page, "title").text = run.title()
    _box(page, 0, 0, width, height, "#ffffff")
    for number, line in enumerate(title):
        _text(page, _MARGIN, _MARGIN + 12 + number * (_LINE + 2), line, size=14, weight="600")
    for number, panel in enumerate(panels):
        place = _MARGIN + number % across * (wide + _GAP), top + number // across * (high + _GAP)
        panel.draw(ElementTree.SubElement(page, "g", {"transform": f"translate({place[0]} {place[1]})"}))
    ElementTree.indent(page)
    return ElementTree.tostring(page, encoding="unicode") + "\n"


def _grid_panel(run: Run, label: str) -> _Panel:
    """Accuracy of one method by length and depth; under each length its accuracy, interval and settings."""
    rows = [row for row in run.rows if row["label"] == label]
    lengths = sorted({row["length"] for row in rows})
    depths = sorted({row["depth"] for row in rows})
    cells: dict[tuple[int, int], list[Row]] = {}
    for row in rows:
        cells.setdefault((depths.index(row["depth"]), lengths.index(row["length"])), []).append(row)
    under = {entry["length"]: _below(entry) for entry in by_length(rows)}
    shares = {at: accuracy(found).share for at, found in cells.items()}
    return _heat(
        head=[f"{label}: {accuracy(rows).describe()}"],
        columns=[f"{length:,}" for length in lengths],
        rows=[f"{depth:.0%}" for depth in depths],
        shades=shares,
        words={at: [f"{share:.0%}"] for at, share in shares.items()},
        axes=("tokens", "depth"),
        under=[under[length] for length in lengths],
        edge=sum(length <= run.header["model"]["trained_window"] for length in lengths),
    )


def _below(entry: dict[str, Any]) -> list[str]:
    settings = settings_words(entry["settings"])
    lines = [f"all {entry['accuracy']:.0%}", f"{entry['low']:.0%}–{entry['high']:.0%}"]
    return lines + (settings.split(", ") if entry["settings"] else [])


def _sweep_panels(run: Run) -> list[_Panel]:
    """For each query scaling the score by group size and neighbor window, with its interval."""
    by_scaling: dict[str, dict[tuple[int, int], list[Row]]] = {}
    for row in run.rows:
        settings = row["settings"]
        pair = settings["neighbor_window"], settings["group_size"]
        by_scaling.setdefault(settings["query_scaling"], {}).setdefault(pair, []).append(row)
    windows = sorted({window for pairs in by_scaling.values() for window, _ in pairs})
    groups = sorted({group for pairs in by_scaling.values() for _, group in pairs})
    perplexities = {
        id(rows): last_quarter(rows) for p in by_scaling.values() for rows in p.values() if "loss" in rows[0]
    }
    worst, best = max(perplexities.values(), default=1.0), min(perplexities.values(), default=1.0)
    panels = []
    for scaling, pairs in by_scaling.items():
        shades, words = {}, {}
        for (window, group), rows in pairs.items():
            at = windows.index(window), groups.index(group)
            if id(rows) in perplexities:
                value = perplexities[id(rows)]
                shades[at] = (worst - value) / (worst - best) if worst > best else 1.0
                words[at] = [f"{value:,.3g}"]
            else:
                found = accuracy(rows)
                shades[at] = found.share
                words[at] = [f"{found.share:.0%}", f"{found.low:.0%}–{found.high:.0%}"]
        counts = {len(rows) for rows in pairs.values()}
        what = (
            "perplexity, last quarter"
            if perplexities
            else f"accuracy with 95% interval, n = {max(counts)} for each pair"
        )
        name = "SelfExtend with log-n" if scaling == "logn" else "SelfExtend"
        panels.append(
            _heat(
                head=[f"{name} at {run.rows[0]['length']:,} tokens", what],
                columns=[str(group) for group in groups],
                rows=[str(window) for window in windows],
                shades=shades,
                words=words,
                axes=("G", "w"),
            )
        )
    return panels


def _heat(
    *,
    head: Sequence[str],
    columns: Sequence[str],
    rows: Sequence[str],
    shades: dict[tuple[int, int], float],
    words: dict[tuple[int, int], list[str]],
    axes: tuple[str, str],
    under: Sequence[Sequence[str]] = (),
    edge: int = 0,
) -> _Panel:
    """A table of shaded cells.

    Args:
        shades, words: (row, column) -> 0 … 1, and the lines the cell says; a cell that is not there stays empty.
        axes: names of the columns and of the rows.
        under: lines under each column.
        edge: after how many columns the trained window ends; 0 is nowhere.
    """
    top = len(head) * _LINE + 8
    cell = 10 + 12 * max(map(len, words.values()))
    bottom = top + len(rows) * cell
    lines = max(map(len, under), default=0)
    height = bottom + (2 + lines) * _LINE + (_LINE if 0 < edge < len(columns) else 0)
    width = max(_LEFT + len(columns) * _CELL, 7 * max(map(len, head)))

    def draw(into: ElementTree.Element) -> None:
        for number, line in enumerate(head):
            _text(into, 0, 12 + number * _LINE, line, weight="400" if number else "600")
        for row, name in enumerate(rows):
            _text(into, _LEFT - 8, top + row * cell + 15, name, anchor="end")
        _text(into, 0, top + 15, axes[1], colour=_GREY)
        for column, name in enumerate(columns):
            middle = _LEFT + column * _CELL + _CELL // 2
            _text(into, middle, bottom + _LINE, name, anchor="middle")
            for number, line in enumerate(under[column] if under else ()):
                _text(into, middle, bottom + (2 + number) * _LINE, line, anchor="middle", size=10, colour=_GREY)
        _text(into, 0, bottom + _LINE, axes[0], colour=_GREY)
        for (row, column), share in shades.items():
            x, y = _LEFT + column * _CELL, top + row * cell
            _box(into, x + 1, y + 1, _CELL - 2, cell - 2, _shade(share))
            ink = "#ffffff" if share > 0.5 else _INK
            for number, line in enumerate(words[row, column]):
                _text(into, x + _CELL // 2, y + 15 + 12 * number, line, anchor="middle", size=10, colour=ink)
        if 0 < edge < len(columns):
            _line(into, [(_LEFT + edge * _CELL, top - 3), (_LEFT + edge * _CELL, bottom + 3)], _EDGE, dashes="5 3")
            _text(into, _LEFT, height - 3, "dashed: end of the trained window", size=10, colour=_GREY)

    return _Panel(width, height, draw)


def _curves(rows: Sequence[Row], trained_window: int) -> _Panel:
    """Perplexity by position, one line a method, on a logarithmic scale."""
    names = labels(rows)
    points = {
        name: [((row["start"] + row["end"]) / 2, row["loss"]) for row in rows if row["label"] == name] for name in names
    }
    length = rows[0]["length"]
    losses = [loss for curve in points.values() for _, loss in curve]
    low, high = min(losses), max(max(losses), min(losses) + 0.1)
    pad = 0.05 * (high - low)
    low, high = low - pad, high + pad
    top, bottom = 26, 26 + _CHART_HEIGHT
    legend = bottom + 3 * _LINE

    def x_of(position: float) -> float:
        return _LEFT + position / length * _CHART_WIDTH

    def y_of(loss: float) -> float:
        return bottom - (loss - low) / (high - low) * _CHART_HEIGHT

    def draw(into: ElementTree.Element) -> None:
        _text(into, 0, 12, f"Perplexity by position over {length:,} tokens, logarithmic", weight="600")
        for value in _ticks(exp(low), exp(high)):
            y = y_of(log(value))
            _line(into, [(_LEFT, y), (_LEFT + _CHART_WIDTH, y)], "#d8dee4", width=1)
            _text(into, _LEFT - 8, y + 4, f"{value:,g}", anchor="end")
        for share in (0.0, 0.25, 0.5, 0.75, 1.0):
            _text(into, x_of(share * length), bottom + _LINE, f"{share * length:,.0f}", anchor="middle")
        _text(into, _LEFT + _CHART_WIDTH / 2, bottom + 2 * _LINE, "position (tokens)", anchor="middle", colour=_GREY)
        if trained_window < length:
            _line(into, [(x_of(trained_window), top), (x_of(trained_window), bottom)], _EDGE, dashes="5 3")
            _text(into, x_of(trained_window) + 5, top + 10, "trained window ends", size=10, colour=_EDGE)
        for number, name in enumerate(names):
            colour = _CURVES[number % len(_CURVES)]
            # Curves that lie on one another are told apart by their dashes.
            dashes = ("", "7 4", "2 3")[number % 3]
            _line(into, [(x_of(at), y_of(loss)) for at, loss in points[name]], colour, dashes=dashes)
            y = legend + (number + 1) * _LINE
            own = [row for row in rows if row["label"] == name]
            numbers = f" ({settings_words(own[0]['settings'])})" if own[0]["settings"] else ""
            _line(into, [(_LEFT, y - 4), (_LEFT + 26, y - 4)], colour, dashes=dashes)
            _text(
                into, _LEFT + 34, y,
                f"{name}{numbers}: {last_quarter(own):,.3g} over the last quarter",
            )  # fmt: skip

    return _Panel(_LEFT + _CHART_WIDTH + 24, legend + (len(names) + 1) * _LINE, draw)


def _ticks(low: float, high: float) -> list[float]:
    """Round values between the two: 1, 2 and 5 of each power of ten; only the powers where those are many."""
    powers = range(int(log10(low)) - 1, int(log10(high)) + 2)
    for steps in ((1, 2, 5), (1,)):
        found = [step * 10.0**power for power in powers for step in steps if low <= step * 10.0**power <= high]
        if len(found) <= 8:
            break
    return found or [round((low + high) / 2, 2)]


def _shade(share: float) -> str:
    mixed = (round(low + (high - low) * share) for low, high in zip(_LOW, _HIGH, strict=True))
    return "#" + "".join(f"{part:02x}" for part in mixed)


def _box(into: ElementTree.Element, x: float, y: float, width: float, height: float, colour: str) -> None:
    numbers = {"x": x, "y": y, "width": width, "height": height}
    ElementTree.SubElement(into, "rect", {**{key: f"{value:g}" for key, value in numbers.items()}, "fill": colour})


def _line(
    into: ElementTree.Element,
    points: Sequence[tuple[float, float]],
    colour: str,
    *,
    width: float = 2,
    dashes: str = "",
) -> None:
    drawn: dict[str, Any] = {"fill": "none", "stroke": colour, "stroke-width": f"{width:g}"}
    if dashes:
        drawn["stroke-dasharray"] = dashes
    ElementTree.SubElement(into, "polyline", {"points": " ".join(f"{x:.1f},{y:.1f}" for x, y in points), **drawn})


def _text(
    into: ElementTree.Element,
    x: float,
    y: float,
    words: str,
    *,
    anchor: str = "start",
    size: int = 12,
    weight: str = "400",
    colour: str = _INK,
) -> None:
    drawn = {"x": f"{x:g}", "y": f"{y:g}", "text-anchor": anchor, "font-size": str(size), "fill": colour}
    ElementTree.SubElement(into, "text", {**drawn, "font-weight": weight}).text = words
