"""What the browser keeps of a page, and what a page begins with: that, the model, the sample where there is nothing.

Also brings a page up to date with the model, which any visitor may change.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import gradio as gr

from selfextend.config import suggest
from selfextend.steps import result_of

from .belongings import keep_document, write_down
from .conversation import Entry, as_json, from_json, messages
from .documents.holders import Named, is_holder
from .links import SETTINGS, Link, read_link, what_is_missing
from .model_menu import local_choices
from .model_shelf import LoadedModel
from .prompting import can_switch_thinking
from .runtime import Runtime
from .sample import SAMPLE, only_the_sample, sample_checksum
from .server.accounts import may_load_models
from .session import Session
from .tabs.chat import WAITING, ChatPane, opening
from .tabs.controls import Choices, Controls, slider_updates
from .tabs.documents_panel import DocumentsPane, documents_html, view_of
from .tabs.model_panel import ModelPanel
from .tabs.offers_panel import OffersPane, ask_again_after
from .tabs.widgets import (
    QUEUED,
    STORAGE_KEY,
    DocumentView,
    Latest,
    States,
    buttons,
    complaint_html,
    status_html,
    unchanged,
)

READ = "read"
"""The id of the tab with documents and chat."""
MOST_DOCUMENTS, LONGEST_NAME = 100, 255
"""Documents that a page asks for as its browser kept them, and characters of a name."""
STOP_AFTER_SECONDS = 3.0
"""A load of a second or two needs no button that comes and goes."""


class Parts(NamedTuple):
    """The parts of the page that are kept or restored.

    Attributes:
        drawn_for: gr.State that tells the model that the page shows from others.
        meters: redraws the meters.
        tabs: of the page, and those on the right of its tab `READ`.
        link_status: says what of a link that was opened could not be set.
    """

    controls: Controls
    states: States
    chat: ChatPane
    documents: DocumentsPane
    offers: OffersPane
    model: ModelPanel
    drawn_for: gr.State
    meters: Latest
    tabs: Any = ()
    link_status: Any = None


def build_restore(runtime: Runtime, page: gr.Blocks, parts: Parts) -> None:
    """The handlers, inside the open gr.Blocks."""
    controls, states, model = parts.controls, parts.states, parts.model
    browser = gr.BrowserState(None, storage_key=STORAGE_KEY, secret=runtime.secret[:32])
    handlers = _Handlers(runtime, parts)
    if runtime.settings.persist:
        changes = [states.entries.change, states.view.change, *(control.change for control in controls)]
        kept = [states.visitor, states.entries, *controls]
        # Not before something changes: a page that keeps nothing yet is a new visitor's.
        Latest("kept", handlers.kept, kept, [browser], first=False).on(changes)
    chat = parts.chat
    restored = [
        states.visitor, states.entries, states.turn, states.pending, chat.chatbot, chat.send, chat.stop,
        parts.documents.listing, *controls,
    ]  # fmt: skip
    # The view last: when it changes, the page is drawn, and that with the settings that suit it.
    fitted = [
        model.summary, model.choice, model.other, model.facts, parts.drawn_for,
        parts.documents.listing, controls.group_size, controls.neighbor_window, controls.log_n,
        controls.remember, controls.max_new_tokens, controls.thinking, states.view,
    ]  # fmt: skip
    waited = [model.status, model.stop, model.change, parts.documents.status, chat.chatbot, states.turn]
    loaded = page.load(handlers.restore, [browser], restored, **QUEUED)
    fragment = gr.Textbox(visible="hidden")  # carries what the page is to open with from the browser to `ready`
    given = [states.visitor, browser, fragment, *controls.room]
    linked: list[Any] = [parts.link_status, *parts.tabs, controls.method]
    linked += [control for name in SETTINGS if (control := getattr(controls, name)) not in fitted]
    with_fragment = (
        "(visitor, kept, _, ...room) => [visitor, kept, window.selfextendPlace?.fragment ?? location.hash, ...room]"
    )
    ready = loaded.then(handlers.ready, given, [*waited, *linked, *fitted], js=with_fragment, **QUEUED)
    opened = [parts.documents.status, chat.chatbot, states.turn]
    chat.cleared.then(handlers.opened, [states.visitor], opened, **QUEUED)
    parts.meters.after(ready)  # what was read ahead meanwhile need not be waited for
    chat.go_on_after(loaded)
    seen = [parts.drawn_for, states.visitor, states.entries, *controls.room]
    for event in (model.expanded, *(after.then for after in (model.loaded, *parts.chat.answered))):
        event(handlers.follow_model, seen, [states.turn, *fitted], **QUEUED)
    fits = parts.offers.taken.then(handlers.follow_model, seen, [states.turn, *fitted], **QUEUED)
    ask_again_after(fits, parts.offers, states)


class _Handlers:
    """What is kept, restored and brought up to date, as updates of components."""

    def __init__(self, runtime: Runtime, parts: Parts) -> None:
        self.runtime, self.parts = runtime, parts

    def kept(self, visitor: str, entries: list[Entry], *values: Any) -> Any:
        """What the browser keeps."""
        if not visitor:
            return gr.skip()
        return {
            "visitor": visitor,
            "entries": as_json(entries),
            "documents": list(map(list, self.runtime.sessions.get(visitor).named)),
            "controls": list(values),
        }

    def restore(self, kept: Any) -> dict[Any, Any]:
        """The page as the browser kept it; what does not look like it is left out, since a browser can be edited."""
        parts, states, runtime = self.parts, self.parts.states, self.runtime
        kept = kept if isinstance(kept, dict) and runtime.settings.persist else {}
        visitor = kept.get("visitor")
        visitor = str(visitor) if is_holder(visitor) else secrets.token_urlsafe(24)
        runtime.library.seen(visitor)
        session = runtime.sessions.get(visitor)
        entries, pending = from_json(kept.get("entries")), session.pending
        if pending is not None and pending.kept is not None and from_json(as_json(pending.kept)) == entries:
            pending = None  # the browser has the answer
        entries = entries if pending is None else pending.before
        session.count_from(entries)
        if not session.named and not runtime.library.knows(visitor):
            # Of visitors who were not seen for long, or were last here before this was written down on the server.
            session.documents, session.missing = runtime.library.claimed(_named(kept.get("documents")))
            if session.named:
                write_down(runtime, session)
        return {
            states.visitor: visitor,
            states.entries: entries,
            states.turn: runtime.turn_to_show(session, entries),
            states.pending: pending,
            parts.chat.chatbot: messages(entries if pending is None else [*pending.entries, pending.entry], WAITING),
            **buttons(parts.chat.send, parts.chat.stop, busy=pending is not None),
            parts.documents.listing: documents_html(runtime, session),
            **_as_left(parts.controls, kept.get("controls")),
        }

    def ready(
        self, visitor: str, kept: Any, fragment: str, request: gr.Request, *room: Any
    ) -> Iterator[dict[Any, Any]]:
        """Waits for the model that the app was started with, then fits the page to the model that is loaded.

        What is to be shown is gathered until there is something to wait for: while a page is being made, the browser
        loses of two yields in one go what the second does not say again, the advised settings for one.

        Args:
            fragment: a link: the address's, or what this page showed when it was left.
        """
        parts, runtime, began = self.parts, self.runtime, time.monotonic()
        may_load = may_load_models(runtime.settings, request)
        shown: dict[Any, Any] = {} if may_load else {parts.model.change: gr.update(visible=False)}
        while not runtime.first_load.done.wait(0.3):
            long = may_load and time.monotonic() - began > STOP_AFTER_SECONDS
            shown[parts.model.status] = status_html(runtime.loading.progress)
            shown[parts.model.stop] = gr.update(visible=long)
            yield shown
        loaded, session = runtime.models.loaded, runtime.sessions.get(visitor)
        error = complaint_html(runtime.first_load.error) if loaded is None and runtime.first_load.error else ""
        shown |= {parts.model.status: error, parts.model.stop: gr.update(visible=False)}
        is_new = not (isinstance(kept, dict) and kept.get("controls"))
        link = read_link(fragment)
        takes_sample = SAMPLE.name in link.documents or (is_new and loaded is not None and loaded.is_bundled)
        if takes_sample and not session.documents and SAMPLE.is_file():
            sample = runtime.library.find(sample_checksum(), SAMPLE.name)  # every new visitor but the first finds it
            if sample is None:
                yield {**shown, parts.documents.status: status_html("reading the sample")}
                sample = result_of(runtime.library.add_steps(SAMPLE, SAMPLE.name, visitor))
            keep_document(runtime, session, sample)
        # What was set stays; only the sliders' ends follow the model.
        fitted = self._fitted(session, room, request, advise=is_new, said=values_said(parts.controls, link))
        shown |= {parts.documents.status: "", **fitted, **self._linked(link, session, fitted)}
        asked = bool(isinstance(kept, dict) and kept.get("entries"))
        yield from self._opened(session, shown, asked)

    def opened(self, visitor: str) -> Iterator[dict[Any, Any]]:
        """The page after the conversation was cleared: as it opens."""
        yield from self._opened(self.runtime.sessions.get(visitor), {}, asked=False)

    def _opened(self, session: Session, shown: dict[Any, Any], asked: bool) -> Iterator[dict[Any, Any]]:
        """Waits for the example that stands in an empty chat, then shows it.

        Args:
            shown: what is to be shown at once.
            asked: whether there is a conversation.
        """
        parts, runtime = self.parts, self.runtime
        # It is of interest until this visitor has asked, who by then has read the sample.
        while (progress := runtime.ahead.progress) and _has_only_the_sample(session):
            yield {**shown, parts.documents.status: status_html(progress)}
            shown = {}
            time.sleep(0.3)
        shown[parts.documents.status] = ""
        if only_the_sample(session.documents):
            shown[parts.chat.chatbot] = opening(runtime, session)
        if not asked and runtime.example_for(session) and _has_only_the_sample(session):
            shown[parts.states.turn] = runtime.turn_to_show(session, [])
        yield shown

    def follow_model(
        self, drawn_for: str, visitor: str, entries: list[Entry], request: gr.Request, *room: Any
    ) -> dict[Any, Any]:
        """Where another model is loaded than the page shows, whoever loaded it: shows that one, with its advice."""
        if _key(self.runtime.models.loaded) == drawn_for:
            return unchanged(self.parts.drawn_for)
        session = self.runtime.sessions.get(visitor)
        turn = self.runtime.turn_to_show(session, entries)
        return {self.parts.states.turn: turn, **self._fitted(session, room, request, advise=True)}

    def _linked(self, link: Link, session: Session, fitted: dict[Any, Any]) -> dict[Any, Any]:
        """What a link sets, over what the page would begin with, and a sentence on what it cannot set.

        Args:
            fitted: `_fitted`'s updates.
        """
        parts, view = self.parts, fitted[self.parts.states.view]
        names = [stored.document.name for stored in session.documents]
        missing = what_is_missing(link, self.runtime.models.label, names, view.trained_window)
        updates: dict[Any, Any] = {parts.link_status: "".join(map(complaint_html, missing))}
        if link.config is not None and link.config.neighbor_window < view.trained_window:
            group, window = slider_updates(link.config, view)
            updates |= {parts.controls.group_size: group, parts.controls.neighbor_window: window}
        if link.method:
            updates[parts.controls.method] = link.method
        outer, inner = parts.tabs
        for tabs in parts.tabs:
            for tab in tabs.children:
                if isinstance(tab, gr.Tab) and tab.label == link.tab:
                    updates[tabs] = gr.Tabs(selected=tab.id)
        if inner in updates:
            updates[outer] = gr.Tabs(selected=READ)
        return updates

    def _fitted(
        self,
        session: Session,
        room: tuple[Any, ...],
        request: gr.Request,
        *,
        advise: bool,
        said: Mapping[Any, Any] = MappingProxyType({}),
    ) -> dict[Any, Any]:
        """The page, fitted to the model that is loaded; with `advise` the controls too.

        Args:
            room: the values of `Controls.room`.
            request: of who looks at the page.
            said: values of controls that are to be so, whatever is advised.
        """
        parts, loaded = self.parts, self.runtime.models.loaded
        if loaded is not None and advise:
            room = (loaded.longest_answer, *room[1:])
        room = tuple(said.get(control, value) for control, value in zip(parts.controls.room, room, strict=True))
        view = view_of(self.runtime, session, *room)
        updates = {
            **parts.model.showing(loaded),
            parts.drawn_for: _key(loaded),
            parts.documents.listing: documents_html(self.runtime, session),
            parts.states.view: view,
        }
        settings = self.runtime.settings
        if may_load_models(settings, request):
            here = local_choices(settings, request, torch_is_here=loaded is not None)
            updates |= parts.model.choosing(settings.model if loaded is None else loaded.name, here)
        if loaded is not None:
            updates[parts.controls.thinking] = gr.update(visible=can_switch_thinking(loaded.tokenizer))
            if advise:
                updates |= _advised(parts.controls, loaded, view)
            else:
                updates[parts.controls.neighbor_window] = gr.update(maximum=max(2, view.trained_window - 1))
        for control, value in said.items():
            other = updates.get(control)
            updates[control] = {**other, "value": value} if isinstance(other, dict) else value
        return updates


def _named(documents: Any) -> list[Named]:
    """Checksums and names as a browser kept them; what does not look like it is left out."""
    records = documents if isinstance(documents, list) else []
    pairs = [record for record in records if isinstance(record, list) and len(record) == 2]
    return [(str(sha256)[:64], str(name)[:LONGEST_NAME]) for sha256, name in pairs[:MOST_DOCUMENTS]]


def _has_only_the_sample(session: Session) -> bool:
    """Whether this visitor has brought nothing and asked nothing."""
    return only_the_sample(session.documents) and not session.turns and session.pending is None


def _key(loaded: LoadedModel | None) -> str:
    """Tells a loaded model from others, and from itself loaded again."""
    return "" if loaded is None else f"{loaded.label} {id(loaded)}"


def _as_left(controls: Controls, values: Any) -> dict[Any, Any]:
    """The controls as they were left; no updates where that cannot be read."""
    try:
        Choices.read(values)
        return dict(zip(controls, map(_restored, controls, values), strict=True))
    except (ValueError, TypeError):
        return {}


def values_said(controls: Controls, link: Link) -> dict[Any, Any]:
    """The controls' values that a link says; what they cannot be is left out, since anybody may write a link."""
    asked = [(getattr(controls, name), text) for name, text in link.settings]
    values = {control: _value_of(control, text) for control, text in asked}
    return {control: value for control, value in values.items() if value is not None}


def _value_of(control: Any, text: str) -> Any:
    """What a control can be set to, from what JavaScript writes for it; None where that is nothing it can be."""
    if isinstance(control, gr.Checkbox):
        return {"true": True, "false": False}.get(text)
    if isinstance(control, gr.Radio):
        return text if text in [value for _, value in control.choices] else None
    if not re.fullmatch(r"\d{1,9}(\.\d{1,20})?", text, re.ASCII):
        return None
    value, low, high = float(text), control.minimum, control.maximum
    if (low is not None and value < low) or (high is not None and value > high):
        return None
    if control.step != 1:
        return value
    return int(text) if text.isdigit() else None


def _restored(control: Any, value: Any) -> Any:
    if isinstance(control, gr.Slider):  # its end may have been moved outward for this value
        return gr.update(value=value, maximum=max(control.maximum, value))
    return gr.update(value=value)


def _advised(controls: Controls, loaded: LoadedModel, view: DocumentView) -> dict[Any, Any]:
    """The controls set to what suits the model and the documents."""
    try:
        config = loaded.advice(view.length)
    except ValueError:
        config = suggest(view.trained_window, view.length)
    group, window = slider_updates(config, view)
    return {
        controls.group_size: group,
        controls.neighbor_window: window,
        controls.log_n: loaded.profile.query_scaling == "logn",
        controls.remember: not loaded.is_bundled,
        controls.max_new_tokens: loaded.longest_answer,
    }
