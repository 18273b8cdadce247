"""Draws a run's views as SVG, for pages without scripts. Standard library only.

The app draws the same views with plotly, where they can be zoomed and pointed at.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from math import exp, log, log10
from typing import NamedTuple
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from selfextend.lab.errors import LabError
from selfextend.lab.records import Run
from selfextend.lab.views import CurveView, GridView, views

_CELL, _LINE = 62, 17
_LEFT, _GAP, _MARGIN = 82, 34, 16
_CHART_WIDTH, _CHART_HEIGHT = 560, 250
_INK, _GREY, _EDGE = "#1b1f24", "#59636e", "#bf5b04"
# Okabe and Ito's colours, which people with any colour vision tell apart.
_CURVES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#7a7a7a")
_LOW, _HIGH = (247, 250, 253), (8, 81, 156)


def as_svg(run: Run) -> str:
    """A run's picture, with its model, settings, number of cases, seed and intervals.

    Raises:
        LabError: the run has no rows, or is of a kind that has no picture.
    """
    if not run.rows:
        raise LabError("This run has no rows yet, so there is nothing to draw.")
    shown = [] if run.probe == "short-context" else views(run)
    curves = [view for view in shown if isinstance(view, CurveView)]
    grids = [view for view in shown if isinstance(view, GridView) and view.heading and view.cells]
    if not (curves or grids):
        raise LabError(f"There is no picture of a run of {run.probe} without depths; its table says it all.")
    return _page(run.title(), [_grid_panel(view, grids) for view in grids] or [_curve_panel(view) for view in curves])


class _Panel(NamedTuple):
    width: int
    height: int
    drawn: Element


def _page(title: str, panels: Sequence[_Panel]) -> str:
    across = min(2, len(panels))
    wide, high = max(panel.width for panel in panels), max(panel.height for panel in panels)
    width = 2 * _MARGIN + across * wide + (across - 1) * _GAP
    lines = textwrap.wrap(title, max(40, width // 9))
    top = _MARGIN + len(lines) * (_LINE + 2) + 8
    height = top + -(-len(panels) // across) * (high + _GAP) - _GAP + _MARGIN
    size = {"viewBox": f"0 0 {width} {height}", "width": str(width), "height": str(height)}
    page = Element("svg", {"xmlns": "http://www.w3.org/2000/svg", **size, "role": "img"})
    page.attrib |= {"font-family": "system-ui, sans-serif", "font-size": "12", "fill": _INK}
    _add(page, "title").text = title
    _add(page, "rect", x=0, y=0, width=width, height=height, fill="#ffffff")
    for number, line in enumerate(lines):
        _text(page, _MARGIN, _MARGIN + 12 + number * (_LINE + 2), line, font_size=14, font_weight=600)
    for number, panel in enumerate(panels):
        place = _MARGIN + number % across * (wide + _GAP), top + number // across * (high + _GAP)
        panel.drawn.set("transform", f"translate({place[0]} {place[1]})")
        page.append(panel.drawn)
    indent(page)
    return tostring(page, encoding="unicode") + "\n"


def _grid_panel(view: GridView, beside: Sequence[GridView]) -> _Panel:
    """A table of shaded cells.

    Args:
        beside: all grids of the picture, which share their shades.
    """
    words = {
        at: [f"{cell.value:.0%}" if view.percent else f"{cell.value:,.3g}", *filter(None, [cell.interval])]
        for at, cell in view.cells.items()
    }
    columns = len(view.columns)
    edge = view.inside if view.inside is not None and 0 < view.inside < columns else None
    top = len(view.heading) * _LINE + 8
    cell_height = 10 + 12 * max(map(len, words.values()))
    bottom = top + len(view.rows) * cell_height
    height = bottom + (2 + max(map(len, view.under), default=0)) * _LINE + (_LINE if edge else 0)
    width = max(_LEFT + columns * _CELL, 7 * max(map(len, view.heading)))
    shade, panel = _shades(view, beside), Element("g")
    for number, line in enumerate(view.heading):
        _text(panel, 0, 12 + number * _LINE, line, font_weight=400 if number else 600)
    for row, name in enumerate(view.rows):
        _text(panel, _LEFT - 8, top + row * cell_height + 15, name, text_anchor="end")
    _text(panel, 0, top + 15, view.y.short, fill=_GREY)
    for column, name in enumerate(view.columns):
        middle = _LEFT + column * _CELL + _CELL // 2
        _text(panel, middle, bottom + _LINE, name, text_anchor="middle")
        for number, line in enumerate(view.under[column] if view.under else ()):
            _text(panel, middle, bottom + (2 + number) * _LINE, line, text_anchor="middle", font_size=10, fill=_GREY)
    _text(panel, 0, bottom + _LINE, view.x.short, fill=_GREY)
    for (row, column), cell in view.cells.items():
        x, y, share = _LEFT + column * _CELL, top + row * cell_height, shade(cell.value)
        _add(panel, "rect", x=x + 1, y=y + 1, width=_CELL - 2, height=cell_height - 2, fill=_colour(share))
        ink = "#ffffff" if share > 0.5 else _INK
        for number, line in enumerate(words[row, column]):
            _text(panel, x + _CELL // 2, y + 15 + 12 * number, line, text_anchor="middle", font_size=10, fill=ink)
    if edge:
        _line(panel, [(_LEFT + edge * _CELL, top - 3), (_LEFT + edge * _CELL, bottom + 3)], _EDGE, dashes="5 3")
        _text(panel, _LEFT, height - 3, "dashed: end of the trained window", font_size=10, fill=_GREY)
    return _Panel(width, height, panel)


def _shades(view: GridView, beside: Sequence[GridView]) -> Callable[[float], float]:
    """How dark a value is drawn, 0 to 1: a share as it is, else from the greatest value of the picture to the least."""
    if view.percent:
        return lambda value: value
    values = [cell.value for grid in beside for cell in grid.cells.values()]
    worst, best = max(values), min(values)
    return lambda value: (worst - value) / (worst - best) if worst > best else 1.0


def _curve_panel(view: CurveView) -> _Panel:
    """Perplexity by position, one line a method, on a logarithmic scale."""
    losses = [loss for curve in view.curves for loss in curve.losses]
    low, high = min(losses), max(max(losses), min(losses) + 0.1)
    pad = 0.05 * (high - low)
    low, high = low - pad, high + pad
    top, bottom = 26, 26 + _CHART_HEIGHT
    legend = bottom + 3 * _LINE

    def x_of(position: float) -> float:
        return _LEFT + position / view.length * _CHART_WIDTH

    def y_of(loss: float) -> float:
        return bottom - (loss - low) / (high - low) * _CHART_HEIGHT

    panel = Element("g")
    _text(panel, 0, 12, f"Perplexity by position over {view.length:,} tokens, logarithmic", font_weight=600)
    for value in _ticks(exp(low), exp(high)):
        y = y_of(log(value))
        _line(panel, [(_LEFT, y), (_LEFT + _CHART_WIDTH, y)], "#d8dee4", width=1)
        _text(panel, _LEFT - 8, y + 4, f"{value:,g}", text_anchor="end")
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        at = share * view.length
        _text(panel, x_of(at), bottom + _LINE, f"{at:,.0f}", text_anchor="middle")
    middle = _LEFT + _CHART_WIDTH / 2
    _text(panel, middle, bottom + 2 * _LINE, "position (tokens)", text_anchor="middle", fill=_GREY)
    if view.trained_window < view.length:
        end = x_of(view.trained_window)
        _line(panel, [(end, top), (end, bottom)], _EDGE, dashes="5 3")
        _text(panel, end + 5, top + 10, "trained window ends", font_size=10, fill=_EDGE)
    for number, curve in enumerate(view.curves):
        colour = _CURVES[number % len(_CURVES)]
        # Curves that lie on one another are told apart by their dashes.
        dashes = ("none", "7 4", "2 3")[number % 3]
        points = [(x_of(at), y_of(loss)) for at, loss in zip(curve.positions, curve.losses, strict=True)]
        _line(panel, points, colour, dashes=dashes)
        y = legend + (number + 1) * _LINE
        _line(panel, [(_LEFT, y - 4), (_LEFT + 26, y - 4)], colour, dashes=dashes)
        _text(panel, _LEFT + 34, y, f"{curve.name}: {_perplexity(curve.last_quarter)} over the last quarter")
    return _Panel(_LEFT + _CHART_WIDTH + 24, legend + (len(view.curves) + 1) * _LINE, panel)


def _ticks(low: float, high: float) -> list[float]:
    """Round values between the two: 1, 2 and 5 of each power of ten; only the powers where those are many."""
    powers = range(int(log10(low)) - 1, int(log10(high)) + 2)
    for steps in ((1, 2, 5), (1,)):
        found = [step * 10.0**power for power in powers for step in steps if low <= step * 10.0**power <= high]
        if len(found) <= 8:
            break
    return found or [round((low + high) / 2, 2)]


def _colour(share: float) -> str:
    mixed = (round(low + (high - low) * share) for low, high in zip(_LOW, _HIGH, strict=True))
    return "#" + "".join(f"{part:02x}" for part in mixed)


def _add(into: Element, tag: str, **attributes: str | float) -> Element:
    """A new element inside another. In the attributes' names an underscore stands for a hyphen."""
    written = {name: value if isinstance(value, str) else f"{value:g}" for name, value in attributes.items()}
    return SubElement(into, tag, {name.replace("_", "-"): value for name, value in written.items()})


def _line(
    into: Element, points: Sequence[tuple[float, float]], colour: str, *, width: float = 2, dashes: str = "none"
) -> None:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    _add(into, "polyline", points=path, fill="none", stroke=colour, stroke_width=width, stroke_dasharray=dashes)


def _perplexity(value: float) -> str:
    """Three digits, and no powers of ten for large ones."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _text(into: Element, x: float, y: float, words: str, **style: str | float) -> None:
    """Words at a place, in the page's style but for what is given."""
    _add(into, "text", x=x, y=y, **style).text = words
