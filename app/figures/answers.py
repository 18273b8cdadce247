"""Draws attention as plotly figures.

Every figure says in its title what it shows, has units on its axes, suits a light and a dark background (a plot
pane switches between them in the browser) and is readable at 390 px: colour bars and legends are horizontal. Arrays
stay numpy, which plotly sends as packed bytes; lists would be ten times as long.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from ..theme import BLUE, ORANGE
from .style import SEQUENTIAL, finish, horizontal_colour_bar

PAGE_BORDER = ({"color": "rgba(0,0,0,0.45)", "width": 3}, {"color": "rgba(255,255,255,0.9)", "width": 1})
"""A bright line within a dark one, visible on dark and on bright colours."""


def attention_heatmap(
    shares: npt.NDArray[np.floating[Any]],
    token_labels: Sequence[str],
    bin_edges: Sequence[int] | npt.NDArray[np.int_],
    *,
    page_borders: Mapping[str, int] | None = None,
    scale: Literal["log", "linear"] = "log",
    pooled: str = "sum",
    what: str = "mean of all layers and heads",
) -> go.Figure:
    """How much each answer token attended to each stretch of the document.

    Args:
        shares: shape (answer tokens, bins), each 0 to 1.
        token_labels: one for each row.
        bin_edges: bins + 1 ascending token positions; bin b covers [bin_edges[b], bin_edges[b + 1]).
        page_borders: page label -> its first token position; drawn as thin lines.
        scale: "log" colours by log10, cut off six powers of ten below 1, since shares span that many.
        pooled: how the bins were made ("sum" or "max"), for the title.
        what: the layers and heads shown, for the title.

    Raises:
        ValueError: the labels or edges do not fit `shares`.
    """
    rows, bins = shares.shape
    edges = np.asarray(bin_edges, dtype=np.int64)
    if len(token_labels) != rows or len(edges) != bins + 1:
        raise ValueError(
            f"shares of shape {shares.shape} need {rows} token labels and {bins + 1} bin edges, "
            f"not {len(token_labels)} and {len(edges)}."
        )
    figure = go.Figure(
        go.Heatmap(
            **(_log_colours(shares) if scale == "log" else _linear_colours(shares)),
            x=edges,
            y=np.arange(rows + 1) - 0.5,
            customdata=shares.astype(np.float32),
            colorscale=SEQUENTIAL,
            hovertemplate=(
                "answer token %{y}<br>tokens around %{x:,}<br>%{customdata:.3%} of its attention<extra></extra>"
            ),
        )
    )
    for label, first in (page_borders or {}).items():
        for line in PAGE_BORDER:
            figure.add_vline(first, line=line, name=label)
    every = max(1, -(-rows // 24))
    figure.update_yaxes(
        title="answer token",
        range=[rows - 0.5, -0.5],
        tickvals=list(range(0, rows, every)),
        # Plotly reads tags in labels, and an end-of-sequence token looks like one.
        ticktext=[escape(_short(label)) for label in token_labels[::every]],
        showgrid=False,
        zeroline=False,
    )
    figure.update_xaxes(
        title="position in the prompt (tokens)", range=[int(edges[0]), int(edges[-1])], showgrid=False, zeroline=False
    )
    return finish(figure, f"Where each answer token looked ({pooled} per bin, {what})", colour_bar=True)


def _log_colours(shares: npt.NDArray[np.floating[Any]]) -> dict[str, Any]:
    labels = ["≤ 10⁻⁶", "10⁻⁵", "10⁻⁴", "10⁻³", "1%", "10%", "100%"]
    bar = horizontal_colour_bar("share of attention") | {"tickvals": list(range(-6, 1)), "ticktext": labels}
    return {"z": np.log10(np.maximum(shares, 1e-6)).astype(np.float32), "zmin": -6, "zmax": 0, "colorbar": bar}


def _linear_colours(shares: npt.NDArray[np.floating[Any]]) -> dict[str, Any]:
    bar = horizontal_colour_bar("share of attention") | {"tickformat": ".1%"}
    top = max(float(shares.max(initial=0.0)), 1e-9)
    return {"z": shares.astype(np.float32), "zmin": 0, "zmax": top, "colorbar": bar}


def page_bars(
    labels: Sequence[str],
    shares: Sequence[float] | npt.NDArray[np.floating[Any]],
    *,
    cited: Sequence[int] = (),
) -> go.Figure:
    """Attention per page, most first; `cited` are indices of the bars to set apart."""
    marked = set(cited)
    values = np.asarray(shares, dtype=np.float32)
    figure = go.Figure(
        go.Bar(
            x=list(labels),
            y=values,
            marker={"color": [ORANGE if n in marked else BLUE for n in range(len(values))]},
            text=["cited" if n in marked else "" for n in range(len(values))],
            textposition="outside",
            textangle=-90,  # upright, so that neighbours do not run into each other at 390 px
            constraintext="none",
            cliponaxis=False,
            hovertemplate="%{x}<br>%{y:.2%} of the attention<extra></extra>",
        )
    )
    figure.update_xaxes(title="page", type="category", showgrid=False)
    headroom = 1.25  # for the word above the highest bar
    highest = headroom * float(values.max(initial=0.01))
    figure.update_yaxes(title="share of attention", tickformat=".0%", range=[0, highest])
    return finish(figure, "Pages by the answer's attention, most first")


def _short(label: str, most: int = 14) -> str:
    text = label.replace("\n", "⏎")
    return text if len(text) <= most else text[: most - 1] + "…"
