"""The page: header with meters, controls on the left, documents and chat in the middle, tabs on the right.

Puts the parts together and keeps what they share up to date. Knows no attention and no formula.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from operator import attrgetter
from typing import Any

import gradio as gr

from app.api import add_endpoints
from app.conversation import as_json, from_json, messages
from app.evidence import Citation, passage_test_steps
from app.meters import meters, refusal
from app.runtime import SAMPLE, Runtime
from app.session import Turn
from app.tabs.attention import build_attention_tab
from app.tabs.chat import MODEL_QUEUE, ChatPane, States, build_chat, complaint_html, examples_for, status_html
from app.tabs.compare import build_compare_tab
from app.tabs.controls import Choices, Controls, build_controls, slider_updates
from app.tabs.documents_panel import (
    NO_MODEL_WINDOW,
    DocumentsPane,
    build_documents_panel,
    documents_html,
    keep_document,
    view_of,
)
from app.tabs.evidence import build_evidence_tab
from app.tabs.lab import build_lab_tab
from app.tabs.learn import build_learn_tab
from app.tabs.model_panel import ModelPanel, build_model_panel, summary_html
from app.tabs.parameters import build_parameters_tab
from app.tabs.position_map import build_position_map_tab
from app.tabs.runs import build_runs_tab
from app.tabs.shared import LIVE, DocumentView, SharedInputs
from app.theme import ASSETS
from selfextend.config import suggest

TITLE = "SelfExtend explorer"
STORAGE_KEY = "selfextend-explorer-1"
STOP_AFTER_SECONDS = 3.0
HIDDEN: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


def build_page(runtime: Runtime) -> gr.Blocks:
    """The whole app as a gr.Blocks, ready to be launched."""
    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True) as page:
        empty = DocumentView(NO_MODEL_WINDOW, 4 * NO_MODEL_WINDOW)
        states = States(gr.State(""), gr.State([]), gr.State(None), gr.State(None), gr.State(empty))
        advised_window = gr.State(None)
        browser = gr.BrowserState(None, storage_key=STORAGE_KEY, secret=runtime.secret[:32])
        with gr.Row(elem_id="top"):
            gr.HTML(f"<h1>{TITLE}</h1>", elem_id="title")
            meter = gr.HTML(elem_id="meters")
        with gr.Tabs(elem_id="main-tabs"):
            with gr.Tab("Read", id="read"), gr.Row(elem_id="workspace", equal_height=False):
                with gr.Column(scale=3, min_width=270, elem_id="left"):
                    model = build_model_panel(runtime)
                    controls = build_controls(states.view, advised_window)
                    fit = gr.HTML(elem_id="fit")
                with gr.Column(scale=6, min_width=330, elem_id="middle"):
                    documents = build_documents_panel(runtime, states, controls.max_new_tokens)
                    chat = build_chat(runtime, controls, states)

                with gr.Column(scale=7, min_width=330, elem_id="right"), gr.Tabs(elem_id="right-tabs") as tabs:
                    shared = SharedInputs(controls.group_size, controls.neighbor_window, controls.method, states.view)
                    with gr.Tab("Evidence", id="evidence"):
                        evidence = build_evidence_tab(states.turn, _tester(runtime))
                    with gr.Tab("Position map", id="map"):
                        build_position_map_tab(shared)
                    with gr.Tab("Attention", id="attention"):
                        build_attention_tab(states.turn, attrgetter("token_texts"))
                    with gr.Tab("Parameters", id="parameters"):
                        build_parameters_tab(shared)
                    with gr.Tab("Compare", id="compare"):
                        compare = build_compare_tab(runtime, controls, states)
                    with gr.Tab("Runs", id="runs"):
                        build_runs_tab(states, attrgetter("token_texts"))
            with gr.Tab("Lab", id="lab"):
                build_lab_tab(runtime, states.visitor)
            with gr.Tab("Learn", id="learn"):
                build_learn_tab()
        states.view.change(
            lambda visitor: gr.update(examples=examples_for(runtime.sessions.get(visitor))),
            [states.visitor],
            chat.chatbot,
            **LIVE,
        )
        for answered in chat.answered:
            answered.then(*compare.measure, concurrency_limit=1, concurrency_id=MODEL_QUEUE, **HIDDEN)
        add_endpoints(runtime)
        links = gr.HTML(
            elem_id="page-links", js_on_load=(ASSETS / "page_links.js").read_text(encoding="utf-8"), visible="hidden"
        )
        links.passage(
            _opener(runtime), [states.visitor], [states.turn, evidence.wanted, tabs, chat.status], queue=False, **HIDDEN
        ).then(*evidence.refresh, **LIVE)
        _keep_meters(runtime, controls, states, meter, fit)
        _keep_in_browser(runtime, controls, states, browser)
        _start(runtime, page, browser, controls, states, chat, documents, model, advised_window)
    return page


def _tester(runtime: Runtime) -> Any:
    def test(turn: Turn, citation: Citation) -> Iterator[Any]:
        loaded = runtime.models.need()
        if loaded.label != turn.model_name:
            raise ValueError(f"{turn.model_name} gave this answer: load it again to test what it answered from.")
        return passage_test_steps(
            loaded.model,
            loaded.tokenizer,
            turn.prompt.ids,
            turn.answer,
            citation,
            trained_window=turn.trained_window,
            prefix=turn.prefix,
        )

    return test


def _opener(runtime: Runtime) -> Any:
    """Follows a page link: #passage-TURN-RANK."""

    def open_passage(event: gr.EventData, visitor: str) -> tuple[Any, ...]:
        parts = str(event._data.get("href", "") if isinstance(event._data, dict) else "").split("-")
        if len(parts) != 3 or not (parts[1].isdigit() and parts[2].isdigit()):
            return tuple(gr.skip() for _ in range(4))
        turn = runtime.sessions.get(visitor).turns.get(int(parts[1]))
        if turn is None:
            words = complaint_html("This answer's evidence is no longer in memory. Ask again to see it.")
            return gr.skip(), gr.skip(), gr.skip(), words
        return turn, int(parts[2]), gr.Tabs(selected="evidence"), gr.skip()

    return open_passage


def _keep_meters(runtime: Runtime, controls: Controls, states: States, meter: gr.HTML, fit: gr.HTML) -> None:
    def draw(view: DocumentView, entries: list[Any], *values: Any) -> tuple[str, str]:
        try:
            choices = Choices.read(values)
            reply = entries[-1].replies[-1] if entries and entries[-1].replies else None
            line = meters(
                view.trained_window,
                view.length,
                choices.config,
                choices.method,
                reply=reply,
                cache_bytes=runtime.caches.nbytes,
                gpu_bytes=_gpu_bytes(runtime),
            )
            words = None
            if choices.method != "Vanilla":
                words = refusal(view.trained_window, view.length, choices.config)
        except ValueError as error:
            return gr.skip(), complaint_html(error)
        return line, complaint_html(words) if words else ""

    changing: list[Any] = [controls.group_size, controls.neighbor_window, controls.method, states.view, states.entries]
    gr.on(
        [component.change for component in changing],
        draw,
        [states.view, states.entries, *controls],
        [meter, fit],
        **LIVE,
    )


def _gpu_bytes(runtime: Runtime) -> int | None:
    loaded = runtime.models.loaded
    if loaded is None or loaded.model.device.type != "cuda":
        return None
    import torch

    return int(torch.cuda.memory_allocated())


def _keep_in_browser(runtime: Runtime, controls: Controls, states: States, browser: gr.BrowserState) -> None:
    if not runtime.settings.persist:
        return

    def kept(visitor: str, entries: list[Any], *values: Any) -> Any:
        if not visitor:
            return gr.skip()
        documents = runtime.sessions.get(visitor).documents
        return {
            "visitor": visitor,
            "entries": as_json(entries),
            "documents": [[stored.document.sha256, stored.document.name] for stored in documents],
            "controls": list(values),
        }

    inputs = [states.visitor, states.entries, *controls]
    # A slider is kept when it is let go, not at every step on the way.
    moved = [
        event
        for control in controls
        for event in ([control.release] if isinstance(control, gr.Slider) else [control.input])
    ]
    gr.on([states.entries.change, states.view.change, *moved], kept, inputs, browser, queue=False, **HIDDEN)


def _start(
    runtime: Runtime,
    page: gr.Blocks,
    browser: gr.BrowserState,
    controls: Controls,
    states: States,
    chat: ChatPane,
    documents: DocumentsPane,
    model: ModelPanel,
    advised_window: gr.State,
) -> None:
    """Brings back what the browser kept, waits for the model, and reads the sample where there is nothing else."""

    def restore(kept: Any) -> dict[Any, Any]:
        kept = kept if isinstance(kept, dict) and runtime.settings.persist else {}
        visitor = kept.get("visitor")
        visitor = visitor if isinstance(visitor, str) and 20 <= len(visitor) <= 64 else secrets.token_urlsafe(24)
        session = runtime.sessions.get(visitor)
        entries = from_json(kept.get("entries"))
        session.last_id = max([session.last_id, *(reply.turn for entry in entries for reply in entry.replies)])
        if not session.documents:
            for record in kept.get("documents") or []:
                stored = runtime.library.find(*map(str, record)) if len(record) == 2 else None
                if stored is not None:
                    session.documents.append(stored)
        updates: dict[Any, Any] = {
            states.visitor: visitor,
            states.entries: entries,
            chat.chatbot: messages(entries),
            documents.listing: documents_html(runtime, session),
            states.turn: next(reversed(session.turns.values()), None),
        }
        values = kept.get("controls")
        if isinstance(values, list) and len(values) == len(controls):
            try:
                Choices.read(values)
                updates |= dict(zip(controls, map(_restored, controls, values), strict=True))
            except (ValueError, TypeError):
                pass
        return updates

    def ready(visitor: str, kept: Any, new_tokens: float) -> Iterator[dict[Any, Any]]:
        first = runtime.first_load
        began = time.monotonic()
        while not first.done.wait(0.3):
            # A load of a second or two needs no button that comes and goes.
            long = time.monotonic() - began > STOP_AFTER_SECONDS
            yield {model.status: status_html(first.progress), model.stop: gr.update(visible=long)}
        loaded = runtime.models.loaded
        session = runtime.sessions.get(visitor)
        is_new = not (isinstance(kept, dict) and kept.get("controls"))
        yield {
            model.status: complaint_html(first.error) if loaded is None and first.error else "",
            model.summary: summary_html(loaded),
            model.stop: gr.update(visible=False),
        }
        if is_new and not session.documents and SAMPLE.is_file() and loaded is not None and loaded.is_bundled:
            steps = runtime.library.add_steps(SAMPLE, SAMPLE.name)
            try:
                while True:
                    next(steps)
                    yield {documents.status: status_html(first.progress.__class__("reading the sample", None))}
            except StopIteration as finished:
                keep_document(session, finished.value)
        view = view_of(runtime, session, int(new_tokens))
        updates = {
            documents.listing: documents_html(runtime, session),
            documents.status: "",
            states.view: view,
        }
        if loaded is not None:
            updates[advised_window] = loaded.neighbor_window
            if is_new:
                updates |= _advised(controls, loaded, view)
            else:
                # What was set stays; only the sliders' ends follow the model.
                updates[controls.neighbor_window] = gr.update(maximum=max(2, view.trained_window - 1))
        yield updates

    def changed(visitor: str, new_tokens: float) -> dict[Any, Any]:
        loaded = runtime.models.loaded
        session = runtime.sessions.get(visitor)
        view = view_of(runtime, session, int(new_tokens))
        updates = {documents.listing: documents_html(runtime, session), states.view: view, states.turn: None}
        if loaded is not None:
            updates |= {advised_window: loaded.neighbor_window, **_advised(controls, loaded, view)}
        return updates

    restored = [
        states.visitor, states.entries, states.turn, chat.chatbot, documents.listing, *controls,
    ]  # fmt: skip
    # The view last: when it changes, the page is drawn, and that with the settings that suit it.
    started = [
        model.status, model.summary, model.stop, documents.listing, documents.status, advised_window,
        controls.group_size, controls.neighbor_window, controls.log_n, controls.remember, states.view,
    ]  # fmt: skip
    page.load(restore, [browser], restored, queue=False, **HIDDEN).then(
        ready, [states.visitor, browser, controls.max_new_tokens], started, **HIDDEN
    )
    model.loaded.success(
        changed,
        [states.visitor, controls.max_new_tokens],
        [documents.listing, states.turn, *started[5:]],
        queue=False,
        **HIDDEN,
    )


def _restored(control: Any, value: Any) -> Any:
    """A control as it was left. A slider's end may have been moved outward for it."""
    if isinstance(control, gr.Slider):
        return gr.update(value=value, maximum=max(control.maximum, value))
    return gr.update(value=value)


def _advised(controls: Controls, loaded: Any, view: DocumentView) -> dict[Any, Any]:
    """The controls set to what suits the model and the documents at hand."""
    try:
        config = loaded.advice(view.length)
    except ValueError:
        config = suggest(view.trained_window, view.length)
    group, window = slider_updates(config, view)
    return {
        controls.group_size: group,
        controls.neighbor_window: window,
        controls.log_n: loaded.query_scaling == "logn",
        controls.remember: not loaded.is_bundled,
    }
