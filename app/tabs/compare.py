"""The compare tab: both methods' times and memories, and each one's loss over the documents.

The answers themselves stand side by side in the chat.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any, NamedTuple

import gradio as gr

from app.answering import Progress
from app.compare import Losses, loss_steps
from app.conversation import Entry, method_words, settings_words
from app.figures.answers import loss_curves
from app.prompting import build_prompt
from app.runtime import Runtime
from app.tabs.chat import MODEL_QUEUE, States, complaint_html, status_html
from app.tabs.controls import Choices, Controls
from app.tabs.plot_pane import ONCE_DRAWN, packed, plot_pane

NOTHING_YET = (
    "<p class='hint'>Choose the method <b>Compare</b> and ask: both answers stand side by side in the chat, and here "
    "is what each took. The loss shows where a model loses the thread; a low loss alone does not prove that it reads "
    "far back.</p>"
)

UNBROKEN = str.maketrans({"-": "\N{NON-BREAKING HYPHEN}"})
"""Keeps "log-n" on one line."""


class CompareTab(NamedTuple):
    """Attributes: the table, the figure, and the function with inputs and outputs that measures the losses."""

    table: gr.HTML
    pane: gr.HTML
    measure: tuple[Any, list[Any], list[Any]]


def build_compare_tab(runtime: Runtime, controls: Controls, states: States) -> CompareTab:
    """The tab's components and handlers, inside the open gr.Blocks or gr.Tab."""
    table = gr.HTML(NOTHING_YET, elem_id="compare-table")
    with gr.Row():
        start = gr.Button("Measure the loss over the documents", size="sm", elem_id="measure-loss")
        stop = gr.Button("Stop measuring", size="sm", variant="stop", visible=False, elem_id="stop-loss")
    status = gr.HTML(elem_id="loss-status")
    with gr.Column(elem_classes=[ONCE_DRAWN], min_width=0):
        pane = plot_pane(label="Loss by position", height=380, elem_id="loss-curves")

    def measure(visitor: str, *values: Any) -> Iterator[dict[Any, Any]]:
        session = runtime.sessions.get(visitor)
        session.stop.clear()
        yield {start: gr.update(visible=False), stop: gr.update(visible=True)}
        done: dict[Any, Any] = {start: gr.update(visible=True), stop: gr.update(visible=False), status: ""}
        try:
            loaded = runtime.models.need()
            config = Choices.read(values).config
            prompt = build_prompt(loaded.tokenizer, [stored.document for stored in session.documents], "")
            losses = None
            for step in loss_steps(loaded, session, prompt, config):
                if isinstance(step, Losses):
                    losses = step
                else:
                    yield {status: status_html(step)}
            if losses is None:
                yield {**done, status: status_html(Progress("Measuring the loss was stopped.", None))}
                return
            figure = loss_curves(losses.positions, losses.values, loaded.trained_window)
            yield {**done, pane: packed(figure)}
        except (ValueError, RuntimeError) as error:
            yield {**done, status: complaint_html(error)}

    def measure_after_comparison(entries: list[Entry], visitor: str, *values: Any) -> Iterator[dict[Any, Any]]:
        if entries and len(entries[-1].replies) > 1 and not entries[-1].replies[-1].stopped:
            yield from measure(visitor, *values)
        else:
            yield {status: gr.skip()}

    hidden: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    outputs = [start, stop, status, pane]
    start.click(
        measure,
        [states.visitor, *controls],
        outputs,
        concurrency_limit=1,
        concurrency_id=MODEL_QUEUE,
        **hidden,
    )
    stop.click(lambda visitor: runtime.sessions.get(visitor).stop.set(), [states.visitor], None, queue=False, **hidden)
    states.entries.change(table_html, [states.entries], [table], queue=False, **hidden)
    return CompareTab(table, pane, (measure_after_comparison, [states.entries, states.visitor, *controls], outputs))


def table_html(entries: list[Entry]) -> str:
    """The last comparison in numbers."""
    compared = next((entry for entry in reversed(entries) if len(entry.replies) > 1), None)
    if compared is None:
        return NOTHING_YET
    rows: list[tuple[str, list[str]]] = [
        ("Answer", [reply.text or "–" for reply in compared.replies]),
        ("First page cited", [str(reply.sources[0].page) if reply.sources else "–" for reply in compared.replies]),
        ("Time in all", [f"{reply.seconds:.1f} s" for reply in compared.replies]),
        ("First token after", [f"{reply.first_token_seconds:.1f} s" for reply in compared.replies]),
        ("Read before", [f"{reply.reused_tokens:,} of {reply.prompt_tokens:,}" for reply in compared.replies]),
        ("Keys and values", [f"{reply.cache_bytes / 1e6:,.0f} MB" for reply in compared.replies]),
        ("Settings", [settings_words(reply).translate(UNBROKEN) for reply in compared.replies]),
    ]
    methods = [method_words(reply.method, reply.query_scaling).translate(UNBROKEN) for reply in compared.replies]
    head = "".join(f"<th scope='col'>{name}</th>" for name in methods)
    body = "".join(
        f"<tr><th scope='row'>{name}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
        for name, cells in rows
    )
    return (
        f"<p class='hint'>{escape(compared.question)}</p>"
        f"<table class='compare'><thead><tr><td></td>{head}</tr></thead><tbody>{body}</tbody></table>"
    )
