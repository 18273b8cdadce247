"""What every figure has in common: background, text, colour bars, and numbers in few bytes."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from ..theme import ACCENTS, BLUE, FONT_STACK, GREY, GRID, INK, PAPER

SEQUENTIAL = "Cividis"
"""Of grids whose every cell means something. Amounts that are mostly near nothing take `RAMPS`."""

RAMPS = {
    "light": ("#F1F4F8", "#C5DBEF", "#7DB1DD", "#2C7BBE", "#0B4A85", "#04213F"),
    "dark": ("#20262F", "#1F4167", "#2568A5", "#4C9EDD", "#9DCCF3", "#F4F9FE"),
}
"""From nothing to the most, on each ground: what is near nothing stays near the ground, so that the rest stands out."""

LINE = 20
COLOUR_BAR_ROOM, COLOUR_BAR_LIFT = 58, 24
"""Pixels: a line of the title; what a horizontal colour bar takes, and how far plotly raises the title above one."""


@cache
def template(dark: bool) -> go.layout.Template:
    """Text, grid and fonts for a light or a dark background. The background is transparent: the page's own shows."""
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
            "coloraxis": {"colorscale": [[n / 5, colour] for n, colour in enumerate(RAMPS[tone])]},
            "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": GREY, "activecolor": BLUE},
        }
    )


def finish(figure: go.Figure, title: str, *, room: int = 12, colour_bar: bool = False) -> go.Figure:
    """The figure with its title, for a light background.

    The title is broken into lines that fit a narrow screen, since plotly breaks none. `meta.title_height` is its height
    in pixels, for showing the title outside the plot.

    Args:
        room: pixels between title and plot.
        colour_bar: the figure has a `horizontal_colour_bar`, which brings its own room.
    """
    lines = textwrap.wrap(title, 46)
    height = 12 + LINE * len(lines)
    above = COLOUR_BAR_ROOM if colour_bar else room
    return figure.update_layout(
        template=template(dark=False),
        # Placed by its first line, counted up from the plot: plotly starts a title of several lines higher than one of
        # a single line, and raises both above a horizontal colour bar.
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


def horizontal_colour_bar(title: str, *, below: bool = False) -> dict[str, Any]:
    """A colour bar above the plot or below it, where a narrow screen has room for it."""
    return {
        "orientation": "h",
        "thickness": 10,
        "len": 1,
        "x": 0.5,
        "y": 0 if below else 1,
        "yanchor": "top" if below else "bottom",
        "ypad": 4,
        "outlinewidth": 0,
        "title": {"text": title, "side": "bottom", "font": {"size": 12}},
        "tickfont": {"size": 11},
        "tickformat": ",",
        "ticklabeloverflow": "hide past div",
    }


def offline_html(figures: Iterable[go.Figure]) -> str:
    """Figures for a file that needs no network: plotly.js comes with the first, and no button sends one to a host."""
    config = {"displaylogo": False, "showSendToCloud": False, "plotlyServerURL": ""}
    return "".join(
        figure.to_html(full_html=False, include_plotlyjs=number == 0, config=config)
        for number, figure in enumerate(figures)
    )


def compact(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Whole numbers in the fewest bytes that hold them."""
    return values.astype(np.min_scalar_type(int(values.max()))) if len(values) else values
