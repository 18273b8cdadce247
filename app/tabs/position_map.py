"""The position map: which relative position every query sees every key at, for the document at hand.

Drawn in the browser (assets/position_map.js), so that it follows a slider without a request; the server tells what is
read and gives the document's words.
"""

from __future__ import annotations

import json
from typing import Any

import gradio as gr

from selfextend.methods import POSITION_METHODS, SelfExtend

from ..theme import ASSETS
from .widgets import COMPARE, METHODS, QUEUED, DocumentView, Latest, SharedInputs, redraw_on, told

DIFFERENCE = "Difference"
SHOW = (*(name for name in METHODS if name != COMPARE), DIFFERENCE)
WORDS_AROUND = 4
"""Tokens of the text that are shown on both sides of a token."""
MOST_WORDS = 64
"""Most tokens whose words are given at once."""
_WORDS = "map-words"
_SHOW_FOR = f"(method) => method === {json.dumps(COMPARE)} ? {json.dumps(DIFFERENCE)} : method"
_SCRIPTS = ("positions.js", "pen.js", "map_drawing.js", "position_map.js")
_GLUE = """
const map = mountPositionMap(element.querySelector(".map-root"), {
  ...made,
  askForWords: (tokens) => window.selfextendLatest?.[made.words]?.want({ tokens }),
});
window.selfextendMap = map;
const showFacts = () => props.value && map.facts(JSON.parse(props.value));
watch("value", showFacts);
trigger("ready");
showFacts();
"""
_TELL_WORDS = "watch('value', () => props.value && window.selfextendMap?.words(JSON.parse(props.value)));"
_TELL_SETTINGS = "(...settings) => { window.selfextendMap?.settings(...settings); }"


def build_position_map_tab(shared: SharedInputs) -> None:
    """The tab's components and handlers, inside the open gr.Blocks or gr.Tab.

    Follows the sliders in the browser alone, `shared.view` when it gets a new DocumentView, and `shared.method`: each
    method shows its own map, Compare the difference that SelfExtend makes. Sets none of the shared components.
    """
    show = gr.Radio(list(SHOW), value=SelfExtend.heading, label="Show", elem_id="map-show")
    pane = gr.HTML(
        html_template='<div class="map-root"></div>',
        js_on_load=_script(),
        apply_default_css=False,
        elem_id="position-map",
    )
    words = gr.HTML(visible="hidden", js_on_load=_TELL_WORDS)
    settings: list[Any] = [show, shared.group_size, shared.neighbor_window]
    # With no function to call, these run in the browser alone.
    for event in (pane.ready, *(each.change for each in settings)):
        event(None, settings, None, js=_TELL_SETTINGS, **QUEUED)
    shared.method.change(None, [shared.method], [show], js=_SHOW_FOR, **QUEUED)
    redraw_on("map-facts", [shared.view.change], facts_of, [shared.view], [pane])
    Latest(_WORDS, words_for, [shared.view], [words], first=False)


def _script() -> str:
    methods = [{"kind": kind.kind, "heading": kind.heading, "symbols": kind.symbols} for kind in POSITION_METHODS]
    made = {"methods": methods, "difference": DIFFERENCE, "words": _WORDS}
    sources = [(ASSETS / name).read_text(encoding="utf-8") for name in _SCRIPTS]
    return "\n".join([f"const made = {json.dumps(made)};", *sources, _GLUE])


def facts_of(view: DocumentView) -> str:
    """What the map needs to know of the tokens at hand, as JSON. `id` tells this view from the one before it."""
    facts = {
        "id": id(view),
        "trained": view.trained_window,
        "length": view.length,
        "model": view.model,
        "documents": view.documents,
    }
    return json.dumps(facts)


def words_for(event: gr.EventData, view: DocumentView) -> Any:
    """The text of the tokens that were asked for, as JSON: for each what stands before it, its own, and what follows.

    Tokens that are not in the text, or whose words are unknown, are left out.
    """
    asked = told(event, "tokens")
    if not isinstance(asked, list):
        return gr.skip()
    found = {}
    for token in asked[:MOST_WORDS]:
        here = view.words_at(token) if type(token) is int else None
        if here is not None:
            before = "".join(view.words_at(n) or "" for n in range(token - WORDS_AROUND, token))
            after = "".join(view.words_at(n) or "" for n in range(token + 1, token + WORDS_AROUND + 1))
            found[token] = (before, here, after)
    return json.dumps({"id": id(view), "tokens": found})
