"""Draws attention as plotly figures.

Every figure says in its title what it shows, has units on its axes, suits a light and a dark background (a plot
pane switches between them in the browser) and is readable at 390 px: colour bars and legends are horizontal. Arrays
stay numpy, which plotly sends as packed bytes; lists would be ten times as long.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from ..theme import BLUE, ORANGE
from .style import finish, horizontal_colour_bar

Scale = Literal["row", "shared", "log"]
"""What the strongest colour stands for: each row's own largest share, the largest of all, or that, logarithmically."""

LOG_DECADES = 4
"""What a logarithmic scale shows below the largest value, in powers of ten."""
LABELLED_GROUPS = 12
"""Most groups of columns that stand apart, each with its label; more stand close, and every so many has one."""
MANY_FOLDED = 4
"""Labels of folded groups that fit into one line on a phone."""
TALL_ROW, SHORT_ROW, LABEL_ROW = 22, 6, 14
"""Pixels: a row where there are few, where there are many, and the least that a row's label needs."""
FULL_HEIGHT = 616
"""Pixels that rows may take before they get shorter."""
AROUND = 126
"""Pixels that title, axis and colour bar take above and below the rows."""
AXIS_ROOM = 48
"""Of those, what the axis takes with one line of labels."""


class Group(NamedTuple):
    """Neighboring columns that belong together, first to stop - 1.

    Attributes:
        folded: one column stands for several pages.
        page: it is a page or several, and not the question, say.
    """

    label: str
    first: int
    stop: int
    folded: bool = False
    page: bool = True


class Columns(NamedTuple):
    """The columns of a heatmap, from left to right.

    Attributes:
        starts, stops: (columns,) prompt tokens; column c covers starts[c] ... stops[c] - 1.
        groups: those that have a label, in order. Where there are none, the axis counts tokens.
        words: what stands in each column, for the pointer; may be empty.
        title: of the axis.
    """

    starts: npt.NDArray[np.int64]
    stops: npt.NDArray[np.int64]
    groups: tuple[Group, ...] = ()
    words: tuple[str, ...] = ()
    title: str = "token of the prompt"


class CellFacts(NamedTuple):
    """What a heatmap's cells tell the pointer and the page's scripts.

    Attributes:
        rows: the words of each row; its label unless given.
        keys: (rows, columns) the key token that stands for each cell; the middle of its column unless given.
        first_query: token index of the first row's query; None where nobody else knows these rows.
        chosen: row and key token of the cell to mark; the one that was chosen before unless given.
    """

    rows: Sequence[str] = ()
    keys: npt.NDArray[np.integer[Any]] | None = None
    first_query: int | None = None
    chosen: tuple[int, int] | None = None


def attention_heatmap(
    shares: npt.NDArray[np.floating[Any]],
    labels: Sequence[str],
    columns: Columns,
    *,
    title: str,
    unit: str,
    scale: Scale = "shared",
    largest: float | None = None,
    facts: CellFacts | None = None,
) -> go.Figure:
    """How much each token of an answer attended to each stretch of the prompt. Rows are read from top to bottom.

    Columns are equally wide, however many tokens they cover; a folded group is narrow. `meta.cells` tells a plot pane
    which tokens rows and columns stand for.

    Args:
        shares: (rows, columns), each 0 to 1.
        labels: one for each row.
        unit: what a share is, for the colour bar.
        largest: what the strongest colour stands for where all rows share a scale; the largest share unless given.

    Raises:
        ValueError: labels, columns or keys do not fit `shares`.
    """
    facts = facts or CellFacts()
    keys = _keys_of(shares, labels, columns, facts)
    edges, order = _laid_out(columns)
    gaps = order < 0
    values, colours = _coloured(shares, scale, unit, largest)
    hovered = np.stack([np.where(gaps, np.nan, shares[:, order]), np.where(gaps, np.nan, keys[:, order])], axis=-1)
    figure = go.Figure(
        go.Heatmap(
            z=np.where(gaps, np.nan, values[:, order]).astype(np.float32),
            x=edges,
            y=np.arange(len(labels) + 1) - 0.5,
            customdata=hovered.astype(np.float32),
            coloraxis="coloraxis",
            ygap=1,
            hoverongaps=False,
            hovertemplate="%{customdata[0]:.2%} at token %{customdata[1]:,}<extra></extra>",
        )
    )
    axis = _column_axis(columns, edges, order)
    further = LABEL_ROW * max((text.count("<br>") for text in axis["ticktext"]), default=0)
    figure.update_xaxes(
        **axis,
        # Above the rows, where it is in sight however long the answer is.
        side="top",
        title={"text": _plain(columns.title), "font": {"size": 12}, "standoff": 8},
        ticklabeloverflow="allow",
        range=[0, float(edges[-1])],
        showgrid=False,
        zeroline=False,
    )
    height = max(min(FULL_HEIGHT, TALL_ROW * len(labels)), SHORT_ROW * len(labels))
    figure.update_yaxes(_row_axis(labels, height))
    finish(figure, title, room=AXIS_ROOM + further)
    cells = _cells(labels, columns, edges, order, facts) | {"unit": unit}
    meta = {**figure.layout.meta, "cells": cells}
    return figure.update_layout(coloraxis=colours, height=height + AROUND + further, margin_r=24, meta=meta)


def _keys_of(
    shares: npt.NDArray[np.floating[Any]], labels: Sequence[str], columns: Columns, facts: CellFacts
) -> npt.NDArray[np.integer[Any]]:
    """The key token that stands for each cell, (rows, columns).

    Raises:
        ValueError: labels, columns or keys do not fit `shares`.
    """
    middles = (columns.starts + columns.stops - 1) // 2
    keys = np.broadcast_to(middles, (shares.shape[0], len(middles))) if facts.keys is None else facts.keys
    if (len(labels), len(columns.starts)) != shares.shape or keys.shape != shares.shape:
        raise ValueError(
            f"shares of shape {shares.shape} need as many labels, columns and keys, not {len(labels)} labels, "
            f"{len(columns.starts)} columns and keys of shape {keys.shape}."
        )
    return keys


def _cells(
    labels: Sequence[str],
    columns: Columns,
    edges: npt.NDArray[np.float64],
    order: npt.NDArray[np.int64],
    facts: CellFacts,
) -> dict[str, Any]:
    """Which tokens rows and columns stand for, and their words, for the page's scripts (assets/plot_pane.js)."""
    gaps = order < 0
    words = np.append(np.asarray(columns.words or [""] * len(columns.starts), dtype=object), "")
    return {
        "first_query": facts.first_query,
        "edges": edges.tolist(),
        "starts": np.where(gaps, -1, columns.starts[order]).tolist(),
        "stops": np.where(gaps, -1, columns.stops[order]).tolist(),
        "words": words[order].tolist(),
        "rows": [*(facts.rows or labels)],
        "chosen": facts.chosen,
    }


def _row_axis(labels: Sequence[str], height: int) -> dict[str, Any]:
    """Labels beside the rows, as many as there is room for in `height` pixels."""
    every = -(-LABEL_ROW * len(labels) // height) if len(labels) else 1
    return {
        "title": {"text": "the answer, from top to bottom", "font": {"size": 12}},
        "range": [len(labels) - 0.5, -0.5],
        "tickvals": list(range(0, len(labels), every)),
        # Plotly reads tags in labels, and an end-of-sequence token looks like one.
        "ticktext": [_plain(_short(label)) for label in labels[::every]],
        "ticks": "",
        "showgrid": False,
        "zeroline": False,
        "fixedrange": True,  # all rows are always in view
    }


def _laid_out(columns: Columns) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Where each strip of the picture ends on the axis, after 0, and its column, -1 for a gap between two groups."""
    count = len(columns.starts)
    groups = columns.groups or (Group("", 0, count),)
    apart = len(groups) <= LABELLED_GROUPS
    broad = sum(group.stop - group.first for group in groups if not group.folded)
    narrow, gap = max(0.6, broad / 45), max(0.15, broad / 90)
    widths: list[float] = []
    order: list[int] = []
    for number, group in enumerate(groups):
        if apart and number:
            widths.append(gap)
            order.append(-1)
        inside = range(group.first, group.stop)
        widths += [narrow if group.folded else 1.0] * len(inside)
        order += inside
    return np.append(0.0, np.cumsum(widths)), np.asarray(order, dtype=np.int64)


def _column_axis(columns: Columns, edges: npt.NDArray[np.float64], order: npt.NDArray[np.int64]) -> dict[str, Any]:
    """Ticks above the plot: a page's number over its columns, those of folded pages in a line above."""
    if not columns.groups:
        some = np.unique(np.linspace(0, len(order) - 1, 6).astype(int))
        return {"tickvals": edges[some].tolist(), "ticktext": [f"{columns.starts[order[place]]:,}" for place in some]}
    place = {int(column): strip for strip, column in enumerate(order) if column >= 0}
    spans = [(edges[place[group.first]], edges[place[group.stop - 1] + 1]) for group in columns.groups]
    if len(columns.groups) <= LABELLED_GROUPS:
        centers = [float(sum(span)) / 2 for span in spans]
        return {"tickvals": centers, "ticktext": _tick_texts(columns.groups), "ticks": "", "tickangle": 0}
    pages = [(float(span[0]), group.label) for span, group in zip(spans, columns.groups, strict=True) if group.page]
    steps = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
    every = next((step for step in steps if len(pages) <= step * LABELLED_GROUPS), len(pages))
    labelled = pages[every - 1 :: every] if every < 5 else [pages[0], *pages[every - 1 :: every]]
    return {
        "tickvals": [start for start, _ in labelled],
        "ticktext": [_plain(label) for _, label in labelled],
        "ticklen": 7,
        "tickangle": 0,
        "minor": {"tickvals": [start for start, _ in pages], "ticks": "outside", "ticklen": 3},
    }


def _tick_texts(groups: Sequence[Group]) -> list[str]:
    """The groups' labels: pages in the line next to the rows, folded ones in the second, the others above, no two side
    by side.

    All have as many lines, so that the axis' title stands above them. Many folded ones take two lines: "101–148" is
    wider than what stands between two of them on a phone.
    """
    lines: list[int] = []
    folded = 0
    deep = 2 if sum(group.folded for group in groups) > MANY_FOLDED else 1
    for number, group in enumerate(groups):
        if group.folded:
            lines.append(1 + folded % deep)
            folded += 1
        elif group.page:
            lines.append(0)
        else:
            beside = number > 0 and not groups[number - 1].page
            lines.append(deep + (2 if beside else 1))
    deepest = max(lines)
    return [
        "<br>" * (deepest - line)
        + (f"<b>{_plain(group.label)}</b>" if line == 0 else _plain(group.label))
        + "<br>" * line
        for line, group in zip(lines, groups, strict=True)
    ]


def _coloured(
    shares: npt.NDArray[np.floating[Any]], scale: Scale, unit: str, largest: float | None
) -> tuple[npt.NDArray[np.floating[Any]], dict[str, Any]]:
    """The values to colour, and the colour axis for them."""

    def bar_below(how: str) -> dict[str, Any]:
        return horizontal_colour_bar(f"{unit}, {how}", below=True)

    if scale == "row":
        tops = shares.max(axis=1, keepdims=True, initial=0.0)
        values = np.divide(shares, tops, out=np.zeros(shares.shape), where=tops > 0)
        bar = bar_below("as part of the row's largest") | {"tickformat": ".0%"}
        return values, {"cmin": 0, "cmax": 1, "colorbar": bar}
    top = max(float(shares.max(initial=0.0)) if largest is None else largest, 1e-9)
    if scale == "shared":
        bar = bar_below("one scale for all rows") | {"tickformat": ".0%" if top > 0.08 else ".1%"}
        return shares, {"cmin": 0, "cmax": top, "colorbar": bar}
    high = float(np.log10(top))
    ticks = list(range(int(np.ceil(high)) - LOG_DECADES, int(np.floor(high)) + 1))
    bar = bar_below("one logarithmic scale") | {
        "tickvals": ticks,
        "ticktext": [f"{100 * 10.0**power:g}%" for power in ticks],
    }
    low = high - LOG_DECADES
    return np.log10(np.maximum(shares, 10**low)), {"cmin": low, "cmax": high, "colorbar": bar}


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


def _plain(words: str) -> str:
    """Words for a label: plotly reads tags and the escapes of these signs, but not those of quotes."""
    return escape(words, quote=False)


def _short(label: str, most: int = 14) -> str:
    text = label.replace("\n", "⏎")
    return text if len(text) <= most else text[: most - 1] + "…"
