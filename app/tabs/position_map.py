"""The position map: which relative position every query sees every key at, for the document at hand.

Needs no model: the map is a closed formula, worked out anew for whatever is in view. Knows no attention.
"""

from __future__ import annotations

from html import escape
from typing import Any, NamedTuple

import gradio as gr

from app.figures.maps import position_curve_figure, position_map_figure
from app.tabs.plot_pane import packed, plot_pane
from app.tabs.widgets import (
    LIVE,
    DocumentView,
    Refresh,
    SharedInputs,
    cell_of,
    complaint_html,
    draw_on_load,
    is_finite,
    setting_words,
    settings_of,
    skipped,
    tokens_in,
)
from selfextend.config import SelfExtendConfig, check_window, max_length
from selfextend.position_map import VANILLA, MapMethod, position_curve, position_map
from selfextend.positions import explain, largest_relative_position, relative_position

SHOW: dict[str, MapMethod] = {"Vanilla": "vanilla", "SelfExtend": "selfextend", "Difference": "difference"}
SMALLEST_VIEW = 8
"""Tokens; zooming in further than this shows nothing new."""
WORDS_AROUND = 4


class PositionMapTab(NamedTuple):
    """Attributes: the two plots, what is said about the selected cell, and the redraw."""

    map_pane: gr.HTML
    curve_pane: gr.HTML
    readout: gr.HTML
    refresh: Refresh


def build_position_map_tab(shared: SharedInputs) -> PositionMapTab:
    """The tab's components and handlers, inside the open gr.Blocks or gr.Tab.

    Redraws by itself when a slider moves, when `shared.view` gets a new DocumentView and when `shared.method`
    changes (Vanilla, SelfExtend, Compare show the vanilla map, SelfExtend's and their difference). Sets none of
    the shared components.
    """
    show = gr.Radio(list(SHOW), value="SelfExtend", label="Show", elem_id="map-show")
    status = gr.HTML(elem_id="map-status", elem_classes=["status-line"])
    map_pane = plot_pane(label="Position map", hover=True, height=560, elem_id="position-map")
    readout = gr.HTML(elem_id="map-readout", elem_classes=["readout"])
    with gr.Accordion("View and selected cell, as numbers", open=False):
        with gr.Row():
            query_from = _number("Query from", "map-query-from")
            query_to = _number("Query to", "map-query-to")
            key_from = _number("Key from", "map-key-from")
            key_to = _number("Key to", "map-key-to")
        with gr.Row():
            query = _number("Selected query i", "map-query")
            key = _number("Selected key j", "map-key")
            whole = gr.Button("Show all", elem_id="map-whole")
        gr.HTML(
            "<p class='hint'>Drag a box in the map to zoom in, double-click to show all. With the keyboard: "
            "arrow keys move, <kbd>+</kbd> and <kbd>-</kbd> zoom, <kbd>0</kbd> shows all.</p>"
        )
    curve_pane = plot_pane(label="Distance to position", height=380, elem_id="position-curve")

    settings = [shared.group_size, shared.neighbor_window, shared.view]
    boxes = [query_from, query_to, key_from, key_to]
    cell = [query, key]
    everything = [show, *settings, *boxes, *cell]
    drawn = [map_pane, curve_pane, readout, status]
    drawn_length = gr.State(0)  # tokens of the document that the boxes were set for
    refresh = Refresh(_redraw, [drawn_length, *everything], [drawn_length, *boxes, *cell, *drawn])

    # One listener for all of them: of several, the one that saw half of a change might answer last.
    events = [event for box in boxes + cell for event in (box.submit, box.blur)]
    changes = [shared.view.change, shared.group_size.change, shared.neighbor_window.change, show.change]
    gr.on([*changes, *events], *refresh, **LIVE)
    whole.click(_draw_whole, [show, *settings, *cell], [*boxes, *cell, *drawn], **LIVE)
    shared.method.change(_show_for, [shared.method], [show], **LIVE)
    map_pane.zoom(_zoom, everything, [*boxes, *drawn], **LIVE)
    map_pane.pick(_pick, everything, [*cell, *drawn], **LIVE)
    map_pane.point(_point, settings, [readout], **LIVE)
    draw_on_load(refresh)
    return PositionMapTab(map_pane, curve_pane, readout, refresh)


def _number(label: str, elem_id: str) -> gr.Number:
    return gr.Number(value=0, label=label, precision=0, minimum=0, elem_id=elem_id, min_width=90)


def _show_for(method: str) -> str:
    return "Difference" if method == "Compare" else method


def _draw(
    show: str,
    group_size: float,
    neighbor_window: float,
    view: DocumentView,
    query_from: int,
    query_to: int,
    key_from: int,
    key_to: int,
    query: int,
    key: int,
) -> tuple[Any, Any, str, str]:
    """Both plots, the selected cell's sum and the line above the map; or, in that line, what is wrong."""
    try:
        config = settings_of(group_size, neighbor_window)
        check_window(view.trained_window, config)
        _check_cell(query, key, view.length)
        cells = position_map(
            view.trained_window, view.length, config, query_from, query_to, key_from, key_to, SHOW[show]
        )
    except (ValueError, KeyError) as error:
        return *skipped(3), complaint_html(error)
    words = setting_words(config)
    figure = position_map_figure(
        cells,
        view.trained_window,
        words,
        neighbor_window=config.neighbor_window,
        selected=(query, key),
        zoomed=(query_from, query_to, key_from, key_to) != (0, view.length, 0, view.length),
    )
    curve = position_curve_figure(position_curve(query, config), view.trained_window, words, key=key)
    return packed(figure), packed(curve), _sum_of(query, key, config, view), _state_of(config, view)


def _redraw(
    drawn_length: int, show: str, group_size: float, neighbor_window: float, view: DocumentView, *boxes_and_cell: int
) -> tuple[Any, ...]:
    """What was in view, drawn anew; the whole document where it is another one than was drawn."""
    query, key = boxes_and_cell[4:]
    if drawn_length != view.length:
        if (query, key) == (drawn_length - 1, 0):  # nobody chose this cell
            query = 0
        return view.length, *_draw_whole(show, group_size, neighbor_window, view, query, key)
    return drawn_length, *boxes_and_cell, *_draw(show, group_size, neighbor_window, view, *boxes_and_cell)


def _draw_whole(
    show: str, group_size: float, neighbor_window: float, view: DocumentView, query: int, key: int
) -> tuple[Any, ...]:
    """Shows the whole document, and selects its last query and first key where the old selection lies outside."""
    boxes = (0, view.length, 0, view.length)
    if not 0 <= key <= query < view.length or query == 0:
        query, key = view.length - 1, 0
    return (*boxes, query, key, *_draw(show, group_size, neighbor_window, view, *boxes, query, key))


def _zoom(event: gr.EventData, *everything: Any) -> tuple[Any, ...]:
    show, group_size, neighbor_window, view, *_, query, key = everything
    try:
        boxes = (*_tokens_in(event, "y", view.length), *_tokens_in(event, "x", view.length))
    except ValueError as error:
        return (*skipped(7), complaint_html(error))
    return (*boxes, *_draw(show, group_size, neighbor_window, view, *boxes, query, key))


def _pick(event: gr.EventData, *everything: Any) -> tuple[Any, ...]:
    show, group_size, neighbor_window, view, query_from, query_to, key_from, key_to, *_ = everything
    boxes = (query_from, query_to, key_from, key_to)
    try:
        query, key = _cell_of(event, view.length)
    except ValueError as error:
        return (*skipped(5), complaint_html(error))
    return (query, key, *_draw(show, group_size, neighbor_window, view, *boxes, query, key))


def _point(event: gr.EventData, group_size: float, neighbor_window: float, view: DocumentView) -> Any:
    try:
        return _sum_of(*_cell_of(event, view.length), settings_of(group_size, neighbor_window), view)
    except ValueError:
        return gr.skip()


def _tokens_in(event: gr.EventData, axis: str, length: int) -> tuple[int, int]:
    """The tokens of the document that an axis is zoomed to. Raises ValueError where that is no range."""
    return tokens_in(event, axis, length, SMALLEST_VIEW, shift=0.5) or (0, length)


def _cell_of(event: gr.EventData, length: int) -> tuple[int, int]:
    """The (query, key) that a pointer event names.

    Raises:
        ValueError: it names none in the document.
    """
    query, key = cell_of(event)
    _check_cell(query, key, length)
    return query, key


def _check_cell(query: Any, key: Any, length: int) -> None:
    if not (is_finite(query) and is_finite(key) and 0 <= key <= query < length):
        raise ValueError(f"The selected cell needs 0 <= key <= query < {length:,}: causal attention looks back only.")


def _state_of(config: SelfExtendConfig, view: DocumentView) -> str:
    """What the settings come to for this document, in one line."""
    reach, largest = max_length(view.trained_window, config), largest_relative_position(view.length, config)
    fits = "fits" if view.length <= reach else f"is {view.length - reach:,} tokens too long"
    return (
        f"<p>Reach <b>{reach:,}</b> tokens: this document of <b>{view.length:,}</b> {fits}. Largest relative "
        f"position <b>{largest:,}</b>; training showed the model 0 … {view.trained_window - 1:,}.</p>"
    )


def _sum_of(query: int, key: int, config: SelfExtendConfig, view: DocumentView) -> str:
    """One cell in words: the pair, the sum with its numbers in, and what stands at both ends."""
    lines = [f"<p><b>Query i = {query:,}</b>, <b>key j = {key:,}</b>, distance {query - key:,}</p><dl>"]
    for name, settings in (("Vanilla", VANILLA), ("SelfExtend", config)):
        position = relative_position(query, key, settings)
        # The vanilla model has no groups to speak of: the plain difference is its whole formula.
        words = f"{query:,} - {key:,} = {position:,}" if settings is VANILLA else explain(query, key, settings)
        warning = " <mark>never seen in training</mark>" if position >= view.trained_window else ""
        lines.append(f"<dt>{name}</dt><dd><code>{escape(words)}</code>{warning}</dd>")
    for name, position in (("Words at i", query), ("Words at j", key)):
        if (here := view.words_at(position)) is not None:
            around = range(position - WORDS_AROUND, position + WORDS_AROUND + 1)
            before = "".join(view.words_at(n) or "" for n in around if n < position)
            after = "".join(view.words_at(n) or "" for n in around if n > position)
            lines.append(f"<dt>{name}</dt><dd>…{escape(before)}<b>{escape(here)}</b>{escape(after)}…</dd>")
    return "".join(lines) + "</dl>"
