"""The Compare tab: both methods' times and memories, and each one's loss over the documents."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from html import escape
from typing import Any

import gradio as gr

from selfextend.config import SelfExtendConfig
from selfextend.lab.views import curve_view
from selfextend.methods import SelfExtend, Vanilla
from selfextend.steps import Progress, Running

from ..conversation import Entry, settings_words
from ..figures.lab import figure, table
from ..jobs import JobStopped
from ..model_shelf import LoadedModel
from ..prompting import build_prompt
from ..runtime import Runtime
from .controls import Choices, Controls
from .plot_pane import ONCE_DRAWN, packed, plot_pane
from .widgets import ON_MODEL, States, buttons, complaint_html, hint_html, on, status_html

NOTHING_YET = hint_html(
    "Choose the method <b>Compare</b> and ask: both answers stand side by side in the chat, and here is what each "
    "took. The loss shows where a model loses the thread; a low loss alone does not prove that it reads far back."
)

BINS = 64
"""Of the curves of loss by position."""
UNBROKEN = str.maketrans({"-": "\N{NON-BREAKING HYPHEN}"})
"""Keeps "log-n" on one line."""


def build_compare_tab(runtime: Runtime, controls: Controls, states: States, answered: list[Any]) -> None:
    """The tab's components and handlers, inside the open gr.Blocks or gr.Tab.

    Args:
        answered: the events after which an answer is complete: the loss is measured after each comparison.
    """
    table = gr.HTML(NOTHING_YET, elem_id="compare-table")
    with gr.Row():
        start = gr.Button("Measure the loss over the documents", size="sm", elem_id="measure-loss")
        stop = gr.Button("Stop measuring", size="sm", variant="stop", visible=False, elem_id="stop-loss")
    status = gr.HTML(elem_id="loss-status")
    with gr.Column(elem_classes=[ONCE_DRAWN], min_width=0):
        pane = plot_pane(label="Loss by position", height=380, elem_id="loss-curves")

    def measure(visitor: str, *values: Any) -> Iterator[dict[Any, Any]]:
        session = runtime.sessions.get(visitor)
        session.measuring.begin()
        yield buttons(start, stop, busy=True)
        done = {**buttons(start, stop, busy=False), status: ""}
        try:
            loaded, rows = runtime.models.need(), []
            prompt = build_prompt(loaded.tokenizer, [stored.document for stored in session.documents], "")
            steps = _loss_steps(loaded, prompt.ids, Choices.read(values).config)
            with Running(session.measuring.follow(steps)) as running:
                for step in running:
                    if isinstance(step, Progress):
                        yield {status: status_html(step)}
                    else:
                        rows += step.rows
            yield {**done, pane: packed(figure(curve_view(rows, loaded.trained_window)))}
        except JobStopped:
            yield {**done, status: status_html("Measuring the loss was stopped.")}
        except (ValueError, RuntimeError) as error:
            yield {**done, status: complaint_html(error)}

    def measure_after_comparison(entries: list[Entry], visitor: str, *values: Any) -> Iterator[dict[Any, Any]]:
        if entries and len(entries[-1].replies) > 1 and not entries[-1].replies[-1].stopped:
            yield from measure(visitor, *values)
        else:
            yield {status: gr.skip()}

    given, outputs = [states.visitor, *controls], [start, stop, status, pane]
    start.click(measure, given, outputs, **ON_MODEL)
    on(stop.click, lambda visitor: runtime.sessions.get(visitor).measuring.stop(), [states.visitor])
    on(states.entries.change, table_html, [states.entries], [table])
    for event in answered:
        event.then(measure_after_comparison, [states.entries, *given], outputs, **ON_MODEL)


def _loss_steps(loaded: LoadedModel, tokens: list[int], config: SelfExtendConfig) -> Generator[Any, None, None]:
    """The lab's perplexity of vanilla and SelfExtend over the documents."""
    from selfextend.lab.perplexity import PerplexityPlan
    from selfextend.lab.run import run_plan

    methods = (Vanilla(), SelfExtend.of(config))
    plan = PerplexityPlan(methods, tuple(tokens), len(tokens), -(-len(tokens) // BINS), "documents")
    return run_plan(loaded.model, loaded.tokenizer, plan, loaded.profile)


def table_html(entries: list[Entry]) -> str:
    """The last comparison in numbers."""
    compared = next((entry for entry in reversed(entries) if len(entry.replies) > 1), None)
    if compared is None:
        return NOTHING_YET
    columns = [
        {
            "": reply.made_by.title.translate(UNBROKEN),
            "Answer": reply.text or "–",
            "First page cited": str(reply.sources[0].page) if reply.sources else "–",
            "Time in all": f"{reply.seconds:.1f} s",
            "First token after": f"{reply.first_token_seconds:.1f} s",
            "Read before": f"{reply.reused_tokens:,} of {reply.prompt_tokens:,}",
            "Keys and values": f"{reply.cache_bytes / 1e6:,.0f} MB",
            "Settings": settings_words(reply).translate(UNBROKEN),
        }
        for reply in compared.replies
    ]
    head, *rows = ([name, *(column[name] for column in columns)] for name in columns[0])
    return hint_html(escape(compared.question)) + table(head, rows, "compare")
