"""The Attention tab: what was recorded while the answer was made, pooled for the chosen layers and heads."""

from __future__ import annotations

from typing import Any, NamedTuple

import gradio as gr
import numpy as np

from ..columns import Picture, has_many_pages, pages_to_keep, picture_of
from ..pooling import CITED, MAX, SUM, Looked
from ..session import Turn
from ..traces import ALL
from .heatmap import SCALE_CHOICES, cell_html, heatmap_of, pooled_words
from .plot_pane import ONCE_DRAWN, packed, plot_pane
from .widgets import (
    NO_RECORD,
    QUEUED,
    Latest,
    answer_html,
    caption_of,
    cell_of,
    complaint_html,
    hint_html,
    tokens_in,
    told,
    wanted,
)

LOOKING = "attention-map"
_TELL_LOOKING = """(layer, head) => {
  document.dispatchEvent(new CustomEvent("selfextend-looking", { detail: { layer, head } }));
}"""
SMALLEST_VIEW = 4
NOTHING_YET = hint_html(
    "Ask a question: here each word of the answer gets a row that shows on which pages it looked, and how hard."
)
HINT = hint_html("Point at a cell for its text, click to choose it for the whole page, drag sideways to zoom in.")
POOL_CHOICES = [("as cited", CITED), ("largest weight", MAX), ("mean share", SUM)]


class _Choices(NamedTuple):
    """The values of the tab's controls, in their order."""

    layer: str
    head: str
    pooled: str
    scale: Any
    fold: bool
    sink: bool

    @property
    def looked(self) -> Looked:
        return Looked(self.layer, self.head, self.pooled, bool(self.sink))


def build_attention_tab(turn: gr.State) -> None:
    """The tab's components and handlers, inside the open gr.Blocks or gr.Tab. Redraws when the turn changes.

    Args:
        turn: holds the `app.session.Turn` to look into, or None.
    """
    span = gr.State(None)
    summary = gr.HTML(NOTHING_YET, elem_id="attention-summary", elem_classes=["status-line"])
    with gr.Column(elem_id="attention-found", elem_classes=[ONCE_DRAWN], min_width=0):
        with gr.Row(elem_classes=["heatmap-controls"]):
            layer = gr.Dropdown([ALL], value=ALL, label="Layer", elem_id="attention-layer", scale=2, min_width=80)
            head = gr.Dropdown([ALL], value=ALL, label="Head", elem_id="attention-head", scale=2, min_width=80)
            pooled = gr.Dropdown(
                POOL_CHOICES, value=CITED, label="A cell shows", elem_id="attention-pool", scale=3, min_width=130
            )
            scale = gr.Dropdown(
                SCALE_CHOICES, value="shared", label="Colours", elem_id="attention-scale", scale=3, min_width=130
            )
        with gr.Row(elem_classes=["heatmap-controls"]):
            fold = gr.Checkbox(True, label="Only the pages that matter", elem_id="attention-fold", min_width=150)
            sink = gr.Checkbox(False, label="What is on no page too", elem_id="attention-sink", min_width=150)
        pane = plot_pane(
            label="Answer by document", height=380, elem_id="attention-map", latest=LOOKING, selects="attention"
        )
        how = gr.HTML(elem_id="attention-how", elem_classes=["status-line"])
        readout = gr.HTML(elem_id="attention-readout", elem_classes=["readout"])
        number: dict[str, Any] = {"value": 0, "precision": 0, "minimum": 0, "min_width": 90}
        with gr.Accordion("Cell and view, as numbers", open=False), gr.Row():
            token = gr.Number(label="Answer token", elem_id="attention-token", **number)
            position = gr.Number(label="Prompt token", elem_id="attention-position", **number)
            whole = gr.Button("Show all", elem_id="attention-whole", min_width=90)

    choices: list[Any] = [layer, head, pooled, scale, fold, sink]
    cell = [token, position]
    outputs: dict[str, Any] = {
        "summary": summary, "layer": layer, "head": head, "pooled": pooled, "fold": fold, "sink": sink, "span": span,
        "pane": pane, "how": how, "readout": readout, "token": token, "position": position,
    }  # fmt: skip

    def answer(event: gr.EventData, *values: Any) -> Any:
        # Gradio takes no empty dictionary.
        return {outputs[name]: shown for name, shown in _answer(event, *values).items()} or gr.skip()

    looking = Latest(LOOKING, answer, [turn, *choices, span, *cell], list(outputs.values()))
    looking.on([turn.change], open=True)
    # The document's words are lit for the same layers and heads (assets/reader.js).
    gr.on([layer.change, head.change], None, [layer, head], js=_TELL_LOOKING, **QUEUED)
    looking.on([choice.input for choice in choices], draw=True, describe=True)
    looking.on([whole.click], zoom={})
    looking.on([event for box in cell for event in (box.submit, box.blur)], describe=True)


def _answer(event: gr.EventData, turn: Turn | None, *values: Any) -> dict[str, Any]:
    """What the newest values show, by the output's name; an output that is left out stays as it is.

    What is wanted: `zoom`, a view, in prompt tokens; `pick`, a cell, its key token as x; `draw`, the picture;
    `describe`, the cell in words. Otherwise the turn is opened.
    """
    *given, span, row, position = values
    choices = _Choices(*given)
    zoom, pick = wanted(event, "zoom"), wanted(event, "pick")
    draws, describes = zoom or told(event, "draw"), pick or told(event, "describe")
    if turn is None or turn.answer.attention is None or told(event, "open") or not (draws or describes):
        return _open(turn, choices.scale)
    shown: dict[str, Any] = {}
    try:
        if zoom:
            length = len(turn.prompt.index) + len(turn.answer.token_ids)
            shown["span"] = span = tokens_in(zoom, "x", length, SMALLEST_VIEW)
        if pick:
            shown["token"], shown["position"] = row, position = cell_of(pick)
        picture = _picture(turn, choices, span)
    except ValueError:  # no view, no cell, or a choice of the answer before this one
        return {}
    if draws:
        shown |= _drawn(turn, picture, choices)
    if describes:
        shown["readout"] = _described(turn, picture, choices, row, position)
    return shown


def _open(turn: Turn | None, scale: Any) -> dict[str, Any]:
    """A new answer: its question, every layer and head, the pages that matter, and what its strongest cell is."""
    record = None if turn is None else turn.answer.attention
    if turn is None or record is None:
        summary = NOTHING_YET if turn is None else answer_html(turn) + NO_RECORD
        return {"summary": summary, "span": None, "pane": None, "how": "", "readout": "", "token": 0, "position": 0}
    many = has_many_pages(turn)
    choices = _Choices(ALL, ALL, CITED, scale, many, False)
    picture = _picture(turn, choices, None)
    row, column = map(int, np.unravel_index(picture.shares.argmax(), picture.shares.shape))
    cell = row, int(picture.keys[row, column])
    return {
        "summary": answer_html(turn),
        "layer": gr.update(choices=[ALL, *map(str, record.layers)], value=ALL),
        "head": gr.update(choices=[ALL, *map(str, record.heads)], value=ALL),
        "pooled": CITED,
        "fold": gr.update(value=many, interactive=many),
        "sink": False,
        "span": None,
        **_drawn(turn, picture, choices, cell),
        "readout": _described(turn, picture, choices, *cell),
        "token": cell[0],
        "position": cell[1],
    }


def _picture(turn: Turn, choices: _Choices, span: tuple[int, int] | None) -> Picture:
    return picture_of(turn, choices.looked, pages_to_keep([turn], choices.fold), span)


def _drawn(turn: Turn, picture: Picture, choices: _Choices, chosen: tuple[int, int] | None = None) -> dict[str, Any]:
    """The figure for the pane, with a cell marked, and how its cells were made."""
    how = pooled_words(turn, choices.looked, folded=picture.folded)
    figure = heatmap_of(turn, picture, choices.looked, choices.scale, marked=chosen)
    return {"pane": packed(figure, caption=f"{caption_of(turn)} {how}"), "how": hint_html(how) + HINT}


def _described(turn: Turn, picture: Picture, choices: _Choices, row: Any, position: Any) -> str:
    try:
        return cell_html(turn, picture, choices.looked, int(row), int(position))
    except (ValueError, TypeError) as error:
        return complaint_html(error)
