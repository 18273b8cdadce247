"""What the page says when a document comes that the teaching model cannot answer about: which models could."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from html import escape
from typing import Any, NamedTuple

import gradio as gr

from selfextend.loading.sizes import readable
from selfextend.steps import Running

from ..conversation import Entry
from ..offers import Offer, offers_for
from ..runtime import Runtime
from ..sample import has_foreign_text, is_sample
from ..server.accounts import may_load_models
from ..session import Session
from .model_panel import NOT_YOURS, stopper, told_load
from .widgets import ON_MODEL, QUEUED, States, on, redraw_on, status_html, told, unchanged

AT_FIRST = 3
"""Offers in sight; the others are folded up."""

_TAKE = """
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-name]");
  if (button) trigger("take", { name: button.dataset.name });
});
"""


class Again(NamedTuple):
    """A question that the page asks by itself. `at` tells it from the same question asked by itself before."""

    question: str
    at: float


class OffersPane(NamedTuple):
    """The list of offers, the line about the load, its stop; `wanted` holds the question to ask after the load, and
    `taken` is the event after which a load has ended."""

    listing: gr.HTML
    status: gr.HTML
    stop: gr.Button
    wanted: gr.State
    taken: Any = None


def build_offers_panel() -> OffersPane:
    """The components, inside the open gr.Blocks. `connect_offers` brings them to life."""
    listing = gr.HTML(elem_id="offers", js_on_load=_TAKE, apply_default_css=False)
    status = gr.HTML(elem_id="offers-status")
    stop = gr.Button("Stop loading", size="sm", variant="stop", visible=False, elem_id="stop-offer")
    return OffersPane(listing, status, stop, gr.State(""))


def connect_offers(runtime: Runtime, pane: OffersPane, states: States, question: gr.Textbox) -> OffersPane:
    """The handlers, inside the open gr.Blocks."""

    def drawn(visitor: str, entries: list[Entry], text: str | None, request: gr.Request) -> str:
        session, may_load = runtime.sessions.get(visitor), may_load_models(runtime.settings, request)
        asked = _asked(runtime, session, entries, text)
        return offers_html(offers_of(runtime, session, request), session, question=asked, may_load=may_load)

    def take(
        event: gr.EventData, visitor: str, entries: list[Entry], text: str | None, request: gr.Request
    ) -> Iterator[dict[Any, Any]]:
        session, settings, name = runtime.sessions.get(visitor), runtime.settings, told(event, "name")
        offered = [offer.name for offer in offers_of(runtime, session, request) or ()]
        if name not in offered or not may_load_models(settings, request):
            yield unchanged(pane.status)
            return
        asked = _asked(runtime, session, entries, text)
        yield {pane.listing: "", pane.stop: gr.update(visible=True), pane.status: status_html(f"loading {name}")}
        with Running(told_load(runtime, name, settings.quantization, settings.device)) as loading:
            for line in loading:
                yield {pane.status: line}
        yield {
            pane.listing: drawn(visitor, entries, text, request),
            pane.stop: gr.update(visible=False),
            pane.status: loading.result,
            pane.wanted: "" if loading.result else asked,
        }

    given = [states.visitor, states.entries, question]
    redraw_on("offers", [states.view.change, states.entries.change], drawn, given, [pane.listing])
    on(pane.stop.click, stopper(runtime))
    return pane._replace(taken=pane.listing.take(take, given, list(pane)[:4], **ON_MODEL))


def ask_again_after(event: Any, pane: OffersPane, states: States) -> None:
    """After this event, once the page fits the new model, the question that the teaching model could not answer."""

    def again(question: str) -> Any:
        return Again(question, time.monotonic()) if question else gr.skip()

    event.then(again, [pane.wanted], [states.again], **QUEUED)


def offers_of(runtime: Runtime, session: Session, request: gr.Request) -> list[Offer] | None:
    """The models to offer to who sent this request: None while the loaded one suits the documents."""
    loaded = runtime.models.loaded
    if loaded is None or not loaded.is_bundled or not has_foreign_text(session.documents):
        return None
    # Not before a model is loaded: two threads that import torch at once break each other's import.
    from selfextend.loading.hardware import available_bytes

    device = loaded.model.device
    return offers_for(runtime.settings, request, device, available_bytes(device))


def _asked(runtime: Runtime, session: Session, entries: Sequence[Entry], text: str | None) -> str:
    """The question to ask again: the one in the box, else the last one about these documents."""
    if text and text.strip():
        return text.strip()
    last = entries[-1] if entries else None
    models = runtime.models
    if last is None or last.documents != session.contents or not last.is_to(models.label, models.identity):
        return ""
    return last.question


def offers_html(offers: Sequence[Offer] | None, session: Session, *, question: str = "", may_load: bool = True) -> str:
    """What the page says of them; "" where there is nothing to say.

    Args:
        question: that will be asked again; "" where none was.
        may_load: whether this visitor may load models.
    """
    if offers is None:
        return ""
    name = next(stored.document.name for stored in session.documents if not is_sample(stored))
    words = (
        "<p><b>The teaching model cannot answer about this document.</b> It can read only texts like the sample; about "
        f"{escape(name)} it makes things up."
    )
    if not may_load:
        return f'<div class="offers">{words} {NOT_YOURS}</p></div>'
    if not offers:
        return f'<div class="offers">{words} Load another under <b>Change the model</b>; nothing listed fits.</p></div>'
    after = " and have your question asked again" if question else ""
    rows = [_row(offer) for offer in offers]
    more = "".join(rows[AT_FIRST:])
    folded = f"<details><summary>{len(rows) - AT_FIRST} more</summary><ul>{more}</ul></details>" if more else ""
    shown = f"<ul>{''.join(rows[:AT_FIRST])}</ul>{folded}"
    return f'<div class="offers">{words} Load a model that can{after}:</p>{shown}</div>'


def _row(offer: Offer) -> str:
    size = readable(offer.file_bytes)
    facts = [f"{size} on this machine" if offer.here else f"{size} to download"]
    if offer.trained_window:
        facts.append(f"window {offer.trained_window:,}")
    if offer.licence:
        facts.append(offer.licence)
    if offer.gated:
        facts.append("needs a Hugging Face account")
    label, name = escape(offer.label, quote=True), escape(offer.name, quote=True)
    return (
        f'<li><div><p class="name">{label}</p><p class="facts">{escape(" · ".join(facts))}</p></div>'
        f'<button type="button" data-name="{name}" aria-label="Load {label}">Load</button></li>'
    )
