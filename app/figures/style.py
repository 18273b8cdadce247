"""What every figure has in common: ground, ink, colour bars, and numbers in few bytes.

Knows no torch, no gradio and nothing of what is drawn.
"""

from __future__ import annotations

import textwrap
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from app.theme import ACCENTS, BLUE, FONT_STACK, GREY, GRID, INK, PAPER
from selfextend.methods import METHODS

METHOD_NAMES = {kind.kind: kind.heading for kind in METHODS}
SEQUENTIAL = "Cividis"

OFFLINE = {"displaylogo": False, "showSendToCloud": False, "plotlyServerURL": ""}
"""plotly.js's settings for figures in files: no button that sends one to another host."""

LINE = 20
COLOUR_BAR_ROOM, COLOUR_BAR_LIFT = 58, 24
"""Pixels: a line of the title; what a lying colour bar takes, and by how much plotly lifts the title over one."""


@cache
def template(dark: bool) -> go.layout.Template:
    """Ink, grid and fonts for one ground. The ground itself is see-through, so that the page's shows."""
    tone = "dark" if dark else "light"
    axis = {
        "gridcolor": GRID[tone],
        "linecolor": GRID[tone],
        "zerolinecolor": GRID[tone],
        "ticks": "outside",
        "tickcolor": GRID[tone],
        "automargin": True,
        "title": {"standoff": 8},
        "tickformat": ",",
    }
    return go.layout.Template(
        layout={
            "font": {"family": FONT_STACK, "size": 13, "color": INK[tone]},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "colorway": ACCENTS,
            "title": {
                "font": {"size": 15},
                "x": 0,
                "pad": {"l": 8, "t": 6},
                "y": 1,
                "yref": "container",
                "yanchor": "top",
            },
            "margin": {"l": 8, "r": 12, "t": 40, "b": 8},
            "legend": {
                "orientation": "h",
                "yref": "container",
                "y": 0,
                "yanchor": "bottom",
                "x": 0,
                "itemsizing": "constant",
                "itemwidth": 44,  # two dashes of a dashed line
            },
            "hoverlabel": {
                "bgcolor": PAPER[tone],
                "bordercolor": GRID[tone],
                "font": {"family": FONT_STACK, "color": INK[tone]},
            },
            "xaxis": axis,
            "yaxis": axis,
            "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": GREY, "activecolor": BLUE},
        }
    )


def finish(figure: go.Figure, title: str, dark: bool, *, room: int = 12, colour_bar: bool = False) -> go.Figure:
    """The figure with its title and ground.

    The title is broken into lines that a narrow screen holds, since plotly breaks none. `meta.title_height` says how
    many pixels it takes, for whoever shows the title outside the plot.

    Args:
        room: pixels between title and plot, for what else stands there.
        colour_bar: there is one from `lying_colour_bar`, which brings its own room.
    """
    lines = textwrap.wrap(title, 46)
    height = 12 + LINE * len(lines)
    above = COLOUR_BAR_ROOM if colour_bar else room
    return figure.update_layout(
        template=template(dark),
        # Placed by its first line, counted up from the plot: plotly starts a title of several lines higher than one of
        # a single line, and lifts either when a colour bar lies across.
        title={
            "text": "<br>".join(lines),
            "x": 0,
            "y": 1,
            "yref": "paper",
            "yanchor": "bottom",
            "pad": {"l": 8, "b": above + LINE * len(lines) - 6 - (COLOUR_BAR_LIFT if colour_bar else 0)},
        },
        margin={"t": height + above},
        meta={"title_height": height},
    )


def lying_colour_bar(title: str) -> dict[str, Any]:
    """A colour bar above the plot, where a narrow screen has room for it."""
    return {
        "orientation": "h",
        "thickness": 10,
        "len": 1,
        "x": 0.5,
        "y": 1,
        "yanchor": "bottom",
        "ypad": 4,
        "outlinewidth": 0,
        "title": {"text": title, "side": "bottom", "font": {"size": 12}},
        "tickfont": {"size": 11},
        "tickformat": ",",
        "ticklabeloverflow": "hide past div",
    }


def compact(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Whole numbers in the fewest bytes that hold them."""
    return values.astype(np.min_scalar_type(int(values.max()))) if len(values) else values
