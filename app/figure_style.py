"""What every figure has in common: ground, ink, colour bars, and numbers in few bytes.

Knows no torch, no gradio and nothing of what is drawn.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from app.theme import ACCENTS, BLUE, FONT_STACK, GREY, GRID, INK, PAPER

METHOD_NAMES = {"vanilla": "Vanilla", "selfextend": "SelfExtend"}
SEQUENTIAL = "Cividis"


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
            "title": {"font": {"size": 15}, "x": 0, "xref": "paper", "automargin": True},
            "margin": {"l": 8, "r": 12, "t": 40, "b": 8},
            "legend": {
                "orientation": "h",
                "yref": "container",
                "y": 0,
                "yanchor": "bottom",
                "x": 0,
                "itemsizing": "constant",
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


def finish(figure: go.Figure, title: str, dark: bool, *, top: int = 40) -> go.Figure:
    """The figure with its title and ground; `top` leaves room in pixels, 58 under a colour bar."""
    return figure.update_layout(template=template(dark), title={"text": title}, margin={"t": top})


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
        "title": {"text": title, "side": "top", "font": {"size": 12}},
        "tickfont": {"size": 11},
        "ticklabeloverflow": "hide past div",
    }


def compact(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Whole numbers in the fewest bytes that hold them."""
    return values.astype(np.min_scalar_type(int(values.max()))) if len(values) else values
