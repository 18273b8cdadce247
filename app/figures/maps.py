"""The position map, its curve for one query, and the plane of settings, as plotly figures.

`selfextend.position_map` works out what is drawn here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from selfextend.methods import Method, Vanilla
from selfextend.position_map import MapCells, PositionCurve

from ..theme import BLUE, GREY, METHOD_LINES, ORANGE, PURPLE, SKY, VERMILLION
from .style import SEQUENTIAL, compact, finish, horizontal_colour_bar

LABELLED_CELLS = 32
"""Most rows and columns of a map whose cells carry their numbers."""


def position_map_figure(
    cells: MapCells,
    trained_window: int,
    method: Method,
    *,
    selected: tuple[int, int] | None = None,
    zoomed: bool = False,
) -> go.Figure:
    """The map of one viewport: colour is the relative position, hatching a position never seen in training.

    Colours run from 0 to `trained_window` - 1 for both methods, so that two maps compare at a glance. A few cells
    carry their numbers.

    Args:
        method: settled, whose map this is.
        selected: the (query, key) to mark.
        zoomed: spread the colours over what is in view instead, since neighboring cells differ by a position or none.
    """
    if cells.is_difference:
        title = f"How many positions nearer {_named(method)} puts each key"
        bar, top = "positions nearer than in the vanilla model", max(1, int(cells.relative.max()))
        hover = "query i = %{y:,}<br>key j = %{x:,}<br>%{z:,} positions nearer<extra></extra>"
    else:
        title = f"Relative position at which each query sees each key: {_named(method)}"
        bar, top = "relative position (tokens)", trained_window - 1
        hover = "query i = %{y:,}<br>key j = %{x:,}<br>relative position %{z:,}<extra></extra>"
    bottom, labelled = 0, max(cells.relative.shape) <= LABELLED_CELLS
    if zoomed and cells.visible.any():
        inside = cells.relative[cells.visible]
        bottom, top = int(inside.min()), max(int(inside.min()) + 1, min(int(inside.max()), top))
    figure = go.Figure(
        go.Heatmap(
            z=np.where(cells.visible, cells.relative, np.nan).astype(np.float32),
            x0=int(cells.key[0]),
            dx=cells.key_stride,
            y0=int(cells.query[0]),
            dy=cells.query_stride,
            zmin=bottom,
            zmax=top,
            texttemplate="%{z}" if labelled else None,
            colorscale="Viridis" if cells.is_difference else SEQUENTIAL,
            colorbar=horizontal_colour_bar(bar),
            hovertemplate=hover,
            hoverongaps=False,
        )
    )
    left, right = (edge - 0.5 for edge in cells.key_range)
    upper, lower = (edge - 0.5 for edge in cells.query_range)
    if cells.unseen.any():
        figure.add_trace(_unseen_region(cells, trained_window, opaque=not (cells.is_difference or labelled)))
    if cells.is_difference:
        figure.add_trace(_distance_line(trained_window, lower, "vanilla leaves its trained window", "dash"))
    for band in method.positions.bands if method.positions is not None else ():
        if band.until is not None:
            figure.add_trace(_distance_line(band.until, lower, "edge of the neighbor window", "dot"))
    if selected is not None:
        # A dot on the selected cell, or a ring around its number.
        size, colour = (26, "rgba(0,0,0,0)") if labelled else (10, "#FFFFFF")
        (query, key), hidden = selected, {"showlegend": False, "cliponaxis": False}
        figure.add_trace(_mark(key, query, f"selected: query {query:,}, key {key:,}", "circle", size, colour, **hidden))
    figure.update_xaxes(title="key position j (tokens)", range=[left, right], showgrid=False, zeroline=False)
    figure.update_yaxes(title="query position i (tokens)", range=[lower, upper], showgrid=False, zeroline=False)
    return finish(figure, title, colour_bar=True)


def _named(method: Method) -> str:
    return f"{method.heading} ({method.setting})" if method.setting else method.heading


def _unseen_region(cells: MapCells, trained_window: int, opaque: bool) -> go.Scatter:
    """The unseen cells as one hatched shape. In each row they are its first keys, so its edge is a staircase."""
    left, half_row = int(cells.key[0]) - cells.key_stride / 2, cells.query_stride / 2
    edges = left + cells.unseen.sum(axis=1) * cells.key_stride
    rows = np.flatnonzero(cells.unseen[:, 0])
    queries = cells.query[rows]
    stairs_x = np.repeat(edges[rows], 2)
    stairs_y = np.stack([queries - half_row, queries + half_row], axis=1).ravel()
    return _hatched(
        trained_window,
        0.25,
        opaque=opaque,
        x=np.concatenate([[left], stairs_x, [left]]),
        y=np.concatenate([stairs_y[:1], stairs_y, stairs_y[-1:]]),
        mode="lines",
        line={"width": 1, "color": VERMILLION},
    )


def _hatched(trained_window: int, solidity: float, *, opaque: bool = False, **shape: Any) -> go.Scatter:
    """A region of positions that training never showed."""
    pattern = {
        "shape": "/",
        "size": 7,
        "solidity": solidity,
        "bgcolor": VERMILLION if opaque else "rgba(0,0,0,0)",
        "fgcolor": "#3B1A00" if opaque else VERMILLION,
        "fillmode": "replace" if opaque else "overlay",
    }
    name = f"never seen in training (≥ {trained_window:,})"
    return go.Scatter(fill="toself", fillpattern=pattern, name=name, hoverinfo="skip", **shape)


def _distance_line(distance: int, last_query: float, name: str, dash: str) -> go.Scatter:
    return go.Scatter(
        x=[0, last_query - distance + 0.5],  # half a token before the distance, between the cells on both sides
        y=[distance - 0.5, last_query],
        mode="lines",
        line={"width": 1.5, "dash": dash, "color": "#FFFFFF" if dash == "dot" else ORANGE},
        name=f"{name} (distance {distance:,})",
        showlegend=dash != "dot",
        hoverinfo="skip",
    )


def _mark(x: Any, y: Any, name: str, symbol: str, size: int, colour: str, **more: Any) -> go.Scatter:
    marker = {"symbol": symbol, "size": size, "color": colour, "line": {"width": 2, "color": "#000000"}}
    return go.Scatter(x=[x], y=[y], mode="markers", marker=marker, name=name, hoverinfo="skip", **more)


def position_curve_figure(
    curve: PositionCurve, trained_window: int, method: Method, *, key: int | None = None
) -> go.Figure:
    """Distance -> relative position for one query, a method beside vanilla, with the unseen positions hatched.

    Args:
        method: settled, whose curve this is.
        key: the key position to mark on both curves.
    """
    figure = go.Figure()
    last = int(curve.distance[-1])
    # Vanilla may run far past the window: it leaves through the top, or the other curve would lie flat.
    highest, largest = int(curve.vanilla[-1]), int(curve.relative[-1])
    ceiling = max(1.0, min(highest * 1.04, max(trained_window * 1.5, largest * 1.1)))
    if highest >= trained_window:
        corners_y = [trained_window, trained_window, ceiling, ceiling]
        figure.add_trace(_hatched(trained_window, 0.2, x=[0, last, last, 0], y=corners_y, mode="none"))
    vanilla: Method = Vanilla()
    curves = [(vanilla, curve.vanilla)] + ([] if method.kind == vanilla.kind else [(method, curve.relative)])
    for shown, values in curves:
        figure.add_trace(
            go.Scatter(
                x=compact(curve.distance),
                y=compact(values),
                mode="lines",
                line={
                    **METHOD_LINES.get(shown.kind, {"color": PURPLE}),
                    "width": 2.5,
                    "shape": "linear" if shown is vanilla else "hv",
                },
                name=shown.heading,
                hovertemplate="distance %{x:,}<br>position %{y:,}<extra>" + shown.heading + "</extra>",
            )
        )
    if key is not None and 0 <= key <= curve.query:
        figure.add_vline(curve.query - key, line={"color": GREY, "dash": "dot", "width": 1.5})
    figure.update_xaxes(title="distance i - j (tokens)", range=[0, max(last, 1)])
    figure.update_yaxes(title="relative position (tokens)", range=[0, ceiling])
    return finish(figure, f"What query {curve.query:,} sees at each distance: {_named(method)}")


PLANE_LABELS = (
    "does not fit",
    "fits, fills more than 2/3 of the window",
    "advised: fills 1/2 to 2/3",
    "advised: fills less than 1/2",
)
PLANE_COLOURS = (GREY, ORANGE, BLUE, SKY)


def parameter_plane_figure(
    plane: tuple[npt.NDArray[np.int_], npt.NDArray[np.int_], npt.NDArray[np.uint8], npt.NDArray[np.int_]],
    *,
    length: int,
    trained_window: int,
    here: tuple[int, int],
    advised: tuple[int, int] | None = None,
) -> go.Figure:
    """The plane group size x neighbor window for one document.

    Args:
        plane: the group sizes (columns); the neighbor windows (rows); the index into PLANE_LABELS for each combination
            and the tokens that it reaches, both of shape (rows, columns).
        here, advised: (group size, neighbor window), each a cell of the plane, to mark as the present setting and as
            the suggestion.
    """
    group_sizes, neighbor_windows, verdict, reach = plane
    steps = [(n / 4 + side * 0.25, colour) for n, colour in enumerate(PLANE_COLOURS) for side in (0, 1)]
    words = np.asarray(PLANE_LABELS, dtype=object)[verdict]
    figure = go.Figure(
        go.Heatmap(
            z=verdict.astype(np.uint8),
            x=[f"{size:,}" for size in group_sizes],
            y=[f"{window:,}" for window in neighbor_windows],
            customdata=np.stack([reach.astype(object), words], axis=-1),
            zmin=-0.5,
            zmax=3.5,
            colorscale=steps,
            showscale=False,
            xgap=1,
            ygap=1,
            hovertemplate=(
                "group size %{x}, neighbor window %{y}<br>reaches %{customdata[0]:,} tokens"
                "<br>%{customdata[1]}<extra></extra>"
            ),
        )
    )
    for label, colour in zip(PLANE_LABELS, PLANE_COLOURS, strict=True):
        square = {"symbol": "square", "size": 12, "color": colour}
        figure.add_trace(go.Scatter(x=[None], y=[None], mode="markers", marker=square, name=label, hoverinfo="skip"))
    for name, point, symbol in (("suggested", advised, "star"), ("you are here", here, "circle")):
        if point is not None:
            size, window = (f"{number:,}" for number in point)
            figure.add_trace(_mark(size, window, f"{name}: G = {size}, w = {window}", symbol, 14, "#FFFFFF"))
    figure.update_xaxes(title="group size G", type="category", showgrid=False, tickangle=0)
    figure.update_yaxes(title="neighbor window w (tokens)", type="category", showgrid=False)
    return finish(figure, f"What fits {length:,} tokens into a trained window of {trained_window:,}")
