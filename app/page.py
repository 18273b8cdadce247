"""The page: header with meters, controls on the left, documents and chat in the middle, tabs on the right."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import gradio as gr

from selfextend.errors import PastReachError
from selfextend.line import Asked
from selfextend.profile import Profile

from .api import add_endpoints
from .asking import chunk_tokens
from .belongings import remove_everything
from .conversation import Entry
from .evidence import Citation
from .links import SETTINGS
from .meters import meters
from .reading_places import seconds_to_read
from .restore import READ, Parts, build_restore
from .runtime import Runtime
from .server.calls import SafeBlocks
from .session import Turn
from .tabs.attention import build_attention_tab
from .tabs.chat import build_chat, opening
from .tabs.compare import build_compare_tab
from .tabs.controls import Choices, Controls, build_controls, next_question_html
from .tabs.documents_panel import NO_MODEL, build_documents_panel
from .tabs.evidence import build_evidence_tab, passage_news
from .tabs.lab import build_lab_tab
from .tabs.learn import build_learn_tab
from .tabs.leaving import build_leaving
from .tabs.model_panel import build_model_panel
from .tabs.offers_panel import build_offers_panel, connect_offers
from .tabs.parameters import build_parameters_tab
from .tabs.position_map import build_position_map_tab
from .tabs.reader import build_reader_tab
from .tabs.runs import build_runs_tab
from .tabs.widgets import (
    QUEUED,
    DocumentView,
    Latest,
    SharedInputs,
    States,
    complaint_html,
    on,
    redraw_on,
    told,
    unchanged,
)
from .theme import ASSETS
from .whatif import Answered, PassageTest, UnderTest, passage_tests_steps

TITLE = "SelfExtend explorer"
LEAD = "Ask documents far longer than a model was trained to read, and see where it looked for the answer."
COPY_LINK = '<button type="button" id="copy-link">Copy link</button><span id="copied" role="status"></span>'


def build_page(runtime: Runtime, delete_cache: tuple[int, int] | None = None) -> gr.Blocks:
    """The whole app as a gr.Blocks, ready to be launched.

    Args:
        delete_cache: how often to look through Gradio's temporary files, and how old they may get, in seconds.
    """
    with SafeBlocks(title=TITLE, analytics_enabled=False, fill_width=True, delete_cache=delete_cache) as page:
        # Where nothing is kept, a page that was closed for good does not come back for what it had.
        gone = None if runtime.settings.persist else partial(remove_everything, runtime)
        visitor = gr.State("", delete_callback=gone)
        states = States(visitor, gr.State([]), gr.State(None), gr.State(None), gr.State(NO_MODEL), gr.State())
        script = "\n".join((ASSETS / name).read_text(encoding="utf-8") for name in ("selection.js", "page.js"))
        links = gr.HTML(elem_id="page-links", js_on_load=script, visible="hidden")
        with gr.Row(elem_id="top"):
            gr.HTML(f"<h1>{TITLE}</h1><p>{LEAD}</p>", elem_id="title")
            meter = gr.HTML(elem_id="meters")
            link_status = gr.HTML(elem_id="link-status")
            gr.HTML(COPY_LINK, elem_id="share")
        with gr.Tabs(elem_id="main-tabs") as outer_tabs:
            with gr.Tab("Read", id=READ):
                parts, tabs = _reading(runtime, states, meter, links)
            parts = parts._replace(tabs=(outer_tabs, tabs), link_status=link_status)
            with _tab("Lab", "lab"):
                build_lab_tab(runtime, states.visitor)
            with gr.Tab("Learn", id="learn"):
                build_learn_tab(runtime, states.visitor, _shared(parts.controls, states))
        on(
            states.view.change,
            lambda visitor: opening(runtime, runtime.sessions.get(visitor)),
            [states.visitor],
            [parts.chat.chatbot],
        )
        # assets/page.js writes what is shown into the address.
        controls = parts.controls
        said = [getattr(controls, name) for name in SETTINGS]
        told_by = [controls.method, controls.group_size, controls.neighbor_window, *said]
        changes = [control.change for control in told_by]
        names = json.dumps(SETTINGS)
        gr.on(changes, None, said, js=f"(...values) => window.selfextendPlace?.tell({names}, values)", **QUEUED)
        states.view.change(None, said, js=f"(...values) => window.selfextendPlace?.open({names}, values)", **QUEUED)
        add_endpoints(runtime)
        opening_passage = _opener(runtime, states.turn, parts.chat.status)
        on(links.passage, opening_passage, [states.visitor], [states.turn, parts.chat.status])
        build_restore(runtime, page, parts)
    return page


def _reading(runtime: Runtime, states: States, meter: gr.HTML, links: gr.HTML) -> tuple[Parts, gr.Tabs]:
    """The three columns of the Read tab. Returns what is kept and restored of them, and the tabs on the right."""
    with gr.Row(elem_id="workspace", equal_height=False):
        with gr.Column(scale=3, min_width=270, elem_id="left"):
            model = build_model_panel(runtime)
            controls = build_controls(states.view)
            kept_meters = _keep_meters(runtime, controls, states, meter, gr.HTML(elem_id="fit"))
            build_leaving(runtime, states)
        with gr.Column(scale=6, min_width=330, elem_id="middle"):
            documents = build_documents_panel(runtime, states, controls)
            offers = build_offers_panel()
            chat = build_chat(runtime, controls, states, links)
            offers = connect_offers(runtime, offers, states, chat.question)
        with gr.Column(scale=7, min_width=330, elem_id="right"):
            news = passage_news()
            with gr.Tabs(elem_id="right-tabs") as tabs:
                _right_tabs(runtime, controls, states, chat.answered, news)
    drawn_for = gr.State("")
    return Parts(controls, states, chat, documents, offers, model, drawn_for, kept_meters), tabs


def _right_tabs(runtime: Runtime, controls: Controls, states: States, answered: list[Any], news: gr.HTML) -> None:
    shared = _shared(controls, states)
    with _tab("Document", "document"):
        pages = build_reader_tab(runtime, states)
    with _tab("Evidence", "evidence"):
        test = partial(_test_passages, runtime)
        build_evidence_tab(states.turn, states.visitor, test, runtime.sessions.get, news, [pages])
    with _tab("Position map", "map"):
        build_position_map_tab(shared)
    with _tab("Attention", "attention"):
        build_attention_tab(states.turn)
    with _tab("Parameters", "parameters"):
        build_parameters_tab(shared)
    with _tab("Compare", "compare"):
        build_compare_tab(runtime, controls, states, answered)
    with _tab("Runs", "runs"):
        build_runs_tab(runtime, states)


@contextmanager
def _tab(name: str, tab_id: str) -> Iterator[None]:
    """A tab with its heading, by which screen readers jump; who sees the tab's name needs no second one."""
    with gr.Tab(name, id=tab_id):
        gr.HTML(f"<h2>{name}</h2>", elem_classes=["unseen"], apply_default_css=False, padding=False)
        yield


def _shared(controls: Controls, states: States) -> SharedInputs:
    return SharedInputs(controls.group_size, controls.neighbor_window, controls.method, states.view)


def _test_passages(
    runtime: Runtime, visitor: str, turn: Turn, citations: Sequence[Citation]
) -> Generator[UnderTest | PassageTest, None, None]:
    loaded = runtime.models.need()
    if loaded.identity != turn.model_id:
        raise ValueError(f"{turn.model_name} gave this answer: load it again as it was, to test what it answered from.")
    answered = Answered(
        loaded.ready,
        turn.prompt.ids,
        turn.answer,
        turn.generation,
        turn.prefix,
        chunk_tokens(loaded.model),
        Asked(visitor),
    )
    return passage_tests_steps(answered, citations)


def _opener(runtime: Runtime, turn_state: gr.State, status: gr.HTML) -> Callable[..., dict[Any, Any]]:
    """Follows a page link, #passage-TURN-RANK: sets the turn and the chat's status. assets/page.js shows the page."""

    def open_passage(event: gr.EventData, visitor: str) -> dict[Any, Any]:
        parts = str(told(event, "href")).split("-")
        if len(parts) != 3 or not (parts[1].isdecimal() and parts[2].isdecimal()):
            return unchanged(status)
        turn = runtime.turn_of(runtime.sessions.get(visitor), int(parts[1]))
        if turn is None:
            return {status: complaint_html("This answer's evidence is no longer in memory. Ask again to see it.")}
        return {turn_state: replace(turn, opens_at=int(parts[2])), status: ""}

    return open_passage


def _keep_meters(runtime: Runtime, controls: Controls, states: States, meter: gr.HTML, fit: gr.HTML) -> Latest:
    def draw(visitor: str, view: DocumentView, entries: list[Entry], *values: Any) -> tuple[Any, str]:
        try:
            choices = Choices.read(values)
            reply = entries[-1].replies[-1] if entries and entries[-1].replies else None
            line = meters(
                view.trained_window,
                view.length,
                choices.method.at(Profile(view.trained_window), view.length),
                reply=reply,
                wait_seconds=_wait_seconds(runtime, visitor, choices, view),
                cache_bytes=runtime.caches.nbytes,
                gpu_bytes=_gpu_bytes(runtime),
            )
            choices.method.check(Profile(view.trained_window, view.neighbor_window), view.length)
        except PastReachError as error:
            return line, complaint_html(f"{error} Nothing was cut.")
        except ValueError as error:
            return gr.skip(), complaint_html(error)
        return line, next_question_html(choices, entries)

    changes = [component.change for component in (*controls, states.view, states.entries)]
    return redraw_on("meters", changes, draw, [states.visitor, states.view, states.entries, *controls], [meter, fit])


def _wait_seconds(runtime: Runtime, visitor: str, choices: Choices, view: DocumentView) -> float | None:
    loaded = runtime.models.loaded
    if loaded is None or not visitor:
        return None
    session = runtime.sessions.get(visitor)
    tokens, ways = max(0, view.length - view.room), (choices.methods, choices.extend, choices.instructions)
    return seconds_to_read(loaded, runtime.caches, session, *ways, tokens, view.room)


def _gpu_bytes(runtime: Runtime) -> int | None:
    loaded = runtime.models.loaded
    if loaded is None or loaded.model.device.type != "cuda":
        return None
    import torch

    return int(torch.cuda.memory_allocated())
