"""The plane of settings, as a plotly figure. `app.tabs.parameters` works out what is drawn here."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from ..theme import BLUE, GREY, ORANGE, SKY
from .style import finish

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
    # So few that numbers of three digits stand apart on a phone too.
    figure.update_xaxes(title="group size G", type="category", showgrid=False, tickangle=0, nticks=6)
    figure.update_yaxes(title="neighbor window w (tokens)", type="category", showgrid=False)
    return finish(figure, f"What fits {length:,} tokens into a trained window of {trained_window:,}")


def _mark(x: Any, y: Any, name: str, symbol: str, size: int, colour: str, **more: Any) -> go.Scatter:
    marker = {"symbol": symbol, "size": size, "color": colour, "line": {"width": 2, "color": "#000000"}}
    return go.Scatter(x=[x], y=[y], mode="markers", marker=marker, name=name, hoverinfo="skip", **more)
