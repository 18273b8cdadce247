"""The position map: which relative position every query sees every key at, for the document at hand."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from html import escape
from typing import Any

import gradio as gr

from selfextend.methods import Method, SelfExtend, Vanilla
from selfextend.position_map import position_curve, position_map
from selfextend.positions import EXACT, PositionMap, largest_relative_position, relative_position

from ..figures.maps import position_curve_figure, position_map_figure
from .plot_pane import packed, plot_pane
from .widgets import (
    COMPARE,
    METHODS,
    QUEUED,
    DocumentView,
    Latest,
    SharedInputs,
    cell_of,
    complaint_html,
    hint_html,
    is_finite,
    method_of,
    skipped,
    tokens_in,
    told,
    wanted,
)

DIFFERENCE = "Difference"
SHOW = (*(name for name in METHODS if name != COMPARE), DIFFERENCE)
SMALLEST_VIEW = 8
"""Tokens; zooming in further than this shows nothing new."""
WORDS_AROUND = 4
DRAWING = "position-map"
_SHOW_FOR = f"(method) => method === {json.dumps(COMPARE)} ? {json.dumps(DIFFERENCE)} : method"


def build_position_map_tab(shared: SharedInputs) -> None:
    """The tab's components and handlers, inside the open gr.Blocks or gr.Tab.

    Redraws by itself when a slider moves, when `shared.view` gets a new DocumentView and when `shared.method`
    changes (each method shows its own map, Compare the difference that SelfExtend makes). Sets none of the shared
    components.
    """
    show = gr.Radio(list(SHOW), value=SelfExtend.heading, label="Show", elem_id="map-show")
    status = gr.HTML(elem_id="map-status", elem_classes=["status-line"])
    map_pane = plot_pane(label="Position map", hover=True, height=560, elem_id="position-map", latest=DRAWING)
    readout = gr.HTML(elem_id="map-readout", elem_classes=["readout"])
    with gr.Accordion("View and selected cell, as numbers", open=False):
        with gr.Row():
            ends = ("Query from", "Query to", "Key from", "Key to")
            boxes = [_number(end, f"map-{end.lower().replace(' ', '-')}") for end in ends]
        with gr.Row():
            cell = [_number("Selected query i", "map-query"), _number("Selected key j", "map-key")]
            whole = gr.Button("Show all", elem_id="map-whole")
        gr.HTML(
            hint_html(
                "Drag a box in the map to zoom in, double-click to show all. With the keyboard: "
                "arrow keys move, <kbd>+</kbd> and <kbd>-</kbd> zoom, <kbd>0</kbd> shows all."
            )
        )
    curve_pane = plot_pane(label="Distance to position", height=380, elem_id="position-curve")

    everything = [show, shared.group_size, shared.neighbor_window, shared.view, *boxes, *cell]
    drawn = [map_pane, curve_pane, readout, status]
    drawn_length = gr.State(0)  # tokens of the document that the boxes were set for

    events = [event for box in boxes + cell for event in (box.submit, box.blur)]
    changes = [shared.view.change, shared.group_size.change, shared.neighbor_window.change, show.change]
    drawing = Latest(DRAWING, _draw, [drawn_length, *everything], [drawn_length, *boxes, *cell, *drawn])
    drawing.on([*changes, *events], redraw={})
    drawing.on([whole.click], zoom={}, whole=True)
    shared.method.change(None, [shared.method], [show], js=_SHOW_FOR, **QUEUED)


def _number(label: str, elem_id: str) -> gr.Number:
    return gr.Number(value=0, label=label, precision=0, minimum=0, elem_id=elem_id, min_width=90)


@dataclass(frozen=True)
class _Looked:
    """What is looked at.

    Attributes:
        method: settled, whose map it is; for a difference, the method that is compared with vanilla.
        beside: the method that the selected cell tells beside vanilla.
        difference: whether its difference from the vanilla model is shown.
        boxes: the viewport: first query and one past the last, first key and one past the last.
        cell: the selected query and key.
    """

    method: Method
    beside: Method
    difference: bool
    view: DocumentView
    boxes: tuple[int, int, int, int]
    cell: tuple[int, int]

    @staticmethod
    def read(
        show: str, group_size: float, neighbor_window: float, view: DocumentView,
        query_from: int, query_to: int, key_from: int, key_to: int, query: int, key: int,
    ) -> _Looked:  # fmt: skip
        """From the values of the components, in their order.

        Raises:
            ValueError: a number is missing or out of range.
        """
        extended = method_of(SelfExtend.heading, group_size, neighbor_window)
        method = extended if show == DIFFERENCE else method_of(show, group_size, neighbor_window)
        beside = extended if method == Vanilla() else method
        boxes = query_from, query_to, key_from, key_to
        return _Looked(method, beside, show == DIFFERENCE, view, boxes, (query, key))

    @property
    def positions(self) -> PositionMap:
        return self.method.positions or EXACT

    @property
    def whole(self) -> tuple[int, int, int, int]:
        """The viewport of the whole document."""
        return 0, self.view.length, 0, self.view.length

    def all(self) -> _Looked:
        """The whole document, with its last query and first key where the selected cell lies outside."""
        query, key = self.cell
        inside = 0 <= key <= query < self.view.length and query != 0
        return replace(self, boxes=self.whole, cell=self.cell if inside else (self.view.length - 1, 0))

    def drawn(self) -> tuple[Any, Any, str, str]:
        """Both plots, the selected cell's sum and the line above the map; or, in that line, what is wrong."""
        view, method = self.view, self.method
        try:
            _check_cell(*self.cell, view.length)
            spans = self.boxes[:2], self.boxes[2:]
            cells = position_map(view.trained_window, view.length, self.positions, *spans, difference=self.difference)
        except ValueError as error:
            return *skipped(3), complaint_html(error)
        figure = position_map_figure(
            cells, view.trained_window, method, selected=self.cell, zoomed=self.boxes != self.whole
        )
        query, key = self.cell
        curve = position_curve_figure(position_curve(query, self.positions), view.trained_window, method, key=key)
        return packed(figure), packed(curve), _sum_of(query, key, self.beside, view), _state_of(self.positions, view)


def _draw(event: gr.EventData, drawn_length: int, *values: Any) -> tuple[Any, ...]:
    """What the newest values show, in the order of the outputs.

    What is wanted: `zoom`, a view; `whole`, the selected cell too where it lies outside; `pick`, a cell; and `point`,
    a cell's sum, which alone draws no figure.
    """
    if (pointed := wanted(event, "point")) and not any(wanted(event, what) for what in ("redraw", "zoom", "pick")):
        return *skipped(9), _point(pointed, *values), gr.skip()
    try:
        looked = _Looked.read(*values)
        if drawn_length != looked.view.length:
            return _another(drawn_length, looked)
        before = looked
        if zoom := wanted(event, "zoom"):
            length = looked.view.length
            looked = replace(looked, boxes=(*_tokens_in(zoom, "y", length), *_tokens_in(zoom, "x", length)))
        if pick := wanted(event, "pick"):
            looked = replace(looked, cell=_cell_of(pick, looked.view.length))
        if told(event, "whole"):
            looked = looked.all()
    except ValueError as error:
        return drawn_length, *skipped(9), complaint_html(error)
    # Boxes that stay are left alone: somebody may be typing into the next one.
    boxes = skipped(4) if looked.boxes == before.boxes else looked.boxes
    cell = skipped(2) if looked.cell == before.cell else looked.cell
    return gr.skip(), *boxes, *cell, *looked.drawn()


def _another(drawn_length: int, looked: _Looked) -> tuple[Any, ...]:
    """The whole of another document than was drawn."""
    if looked.cell == (drawn_length - 1, 0):  # nobody chose this cell
        looked = replace(looked, cell=(0, 0))
    looked = looked.all()
    return looked.view.length, *looked.boxes, *looked.cell, *looked.drawn()


def _point(event: gr.EventData, *values: Any) -> Any:
    try:
        looked = _Looked.read(*values)
        return _sum_of(*_cell_of(event, looked.view.length), looked.beside, looked.view)
    except ValueError:
        return gr.skip()


def _tokens_in(event: gr.EventData, axis: str, length: int) -> tuple[int, int]:
    """The tokens of the document that an axis is zoomed to. Raises ValueError where that is no range."""
    return tokens_in(event, axis, length, SMALLEST_VIEW, shift=0.5) or (0, length)


def _cell_of(event: gr.EventData, length: int) -> tuple[int, int]:
    """The (query, key) that a pointer event names. Raises ValueError where it names none in the document."""
    query, key = cell_of(event)
    _check_cell(query, key, length)
    return query, key


def _check_cell(query: Any, key: Any, length: int) -> None:
    if not (is_finite(query) and is_finite(key) and 0 <= key <= query < length):
        raise ValueError(f"The selected cell needs 0 <= key <= query < {length:,}: causal attention looks back only.")


def _state_of(positions: PositionMap, view: DocumentView) -> str:
    """What the settings come to for this document, in one line."""
    reach, largest = positions.reach(view.trained_window), largest_relative_position(view.length, positions)
    fits = "fits" if reach is None or view.length <= reach else f"is {view.length - reach:,} tokens too long"
    words = "any number of" if reach is None else f"{reach:,}"
    return (
        f"<p>Reach <b>{words}</b> tokens: this document of <b>{view.length:,}</b> {fits}. Largest relative "
        f"position <b>{largest:,}</b>; training showed the model 0 … {view.trained_window - 1:,}.</p>"
    )


def _sum_of(query: int, key: int, method: Method, view: DocumentView) -> str:
    """One cell in words: the pair, the sum with its numbers in, and what stands at both ends."""
    lines = [f"<p><b>Query i = {query:,}</b>, <b>key j = {key:,}</b>, distance {query - key:,}</p><dl>"]
    for shown in (Vanilla(), method):
        positions = shown.positions or EXACT
        position = relative_position(query, key, positions)
        warning = " <mark>never seen in training</mark>" if position >= view.trained_window else ""
        words = escape(positions.explain(query, key))
        lines.append(f"<dt>{shown.heading}</dt><dd><code>{words}</code>{warning}</dd>")
    for name, position in (("Words at i", query), ("Words at j", key)):
        if (here := view.words_at(position)) is not None:
            around = range(position - WORDS_AROUND, position + WORDS_AROUND + 1)
            before = "".join(view.words_at(n) or "" for n in around if n < position)
            after = "".join(view.words_at(n) or "" for n in around if n > position)
            lines.append(f"<dt>{name}</dt><dd>…{escape(before)}<b>{escape(here)}</b>{escape(after)}…</dd>")
    return "".join(lines) + "</dl>"
