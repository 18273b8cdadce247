"""The Compare tab: the methods' times and memories, where each one's answer looked, and its loss over the documents."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from html import escape
from typing import Any

import gradio as gr
import plotly.graph_objects as go

from selfextend.config import SelfExtendConfig
from selfextend.lab.views import curve_view
from selfextend.line import Asked
from selfextend.methods import SelfExtend, Vanilla
from selfextend.steps import Progress, Running

from ..asking import check_memory
from ..columns import Picture, pages_to_keep, picture_of
from ..conversation import Entry, settings_words
from ..figures.lab import figure, table
from ..jobs import JobStopped
from ..model_shelf import LoadedModel
from ..places import shortened
from ..pooling import EVERYTHING
from ..prompting import build_prompt
from ..runtime import Runtime
from ..session import Session, Turn
from .controls import Choices, Controls
from .heatmap import SCALE_CHOICES, cell_html, heatmap_of, pooled_words
from .plot_pane import ONCE_DRAWN, packed, plot_pane
from .widgets import (
    ON_MODEL,
    States,
    buttons,
    caption_of,
    cell_of,
    complaint_html,
    hint_html,
    on,
    redraw_on,
    status_html,
    unchanged,
)

NOTHING_YET = hint_html(
    "Choose the method <b>Compare</b> and ask: both answers stand side by side in the chat, and here is what each "
    "took. The loss shows where a model loses the thread; a low loss alone does not prove that it reads far back."
)

MOST_COMPARED = 4
"""Answers to one question (see `Choices.read`)."""
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
    build_heatmaps(runtime.sessions.get, states.visitor, states.entries)
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
            config = Choices.read(values).config
            steps = _loss_steps(loaded, prompt.ids, config, visitor)
            with Running(session.measuring.follow(steps)) as running:
                for step in running:
                    if isinstance(step, Progress):
                        yield {status: status_html(step)}
                    else:
                        rows += step.rows
            names = ", ".join(stored.document.name for stored in session.documents)
            caption = f"{loaded.label}, {names}; SelfExtend with {SelfExtend.of(config).setting}."
            drawn = packed(figure(curve_view(rows, loaded.trained_window)), caption=caption)
            yield {**done, pane: drawn}
        except JobStopped:
            yield {**done, status: status_html("Measuring the loss was stopped.")}
        except (ValueError, RuntimeError) as error:
            yield {**done, status: complaint_html(error)}

    def measure_after_comparison(entries: list[Entry], visitor: str, *values: Any) -> Iterator[dict[Any, Any]]:
        if entries and len(entries[-1].replies) > 1 and not entries[-1].replies[-1].stopped:
            yield from measure(visitor, *values)
        else:
            yield unchanged(status)

    given, outputs = [states.visitor, *controls], [start, stop, status, pane]
    start.click(measure, given, outputs, **ON_MODEL)
    on(stop.click, lambda visitor: runtime.sessions.get(visitor).measuring.stop(), [states.visitor])
    on(states.entries.change, table_html, [states.entries], [table])
    for event in answered:
        event.then(measure_after_comparison, [states.entries, *given], outputs, **ON_MODEL)


def build_heatmaps(session_of: Callable[[str], Session], visitor: gr.State, entries: gr.State) -> None:
    """The compared answers' heatmaps, one above the other, with the same columns and colours.

    Args:
        session_of: a visitor's session, where the answers are.
        visitor: holds who this is. entries: holds the conversation.
    """
    looked = gr.HTML(elem_id="compare-looked", elem_classes=["status-line"])
    with gr.Column(elem_id="compare-heatmaps", elem_classes=[ONCE_DRAWN], min_width=0):
        with gr.Row(elem_classes=["heatmap-controls"]):
            scale = gr.Dropdown(SCALE_CHOICES, value="shared", label="Colours", elem_id="compare-scale", min_width=150)
            fold = gr.Checkbox(True, label="Only the pages that matter", elem_id="compare-fold", min_width=150)
        panes = []
        for number in range(1, MOST_COMPARED + 1):
            with gr.Column(elem_classes=[ONCE_DRAWN], min_width=0):
                name = f"compare-attention-{number}"
                panes.append(plot_pane(label=f"Answer {number} by document", height=300, elem_id=name, selects=name))
        readout = gr.HTML(elem_id="compare-readout", elem_classes=["readout"])

    def draw(entries: list[Entry], visitor: str, scale: Any, fold: bool) -> tuple[Any, ...]:
        turns, words = _compared_turns(session_of(visitor), entries)
        pictures = _pictures(turns, fold)
        figures = [packed(figure, caption=caption) for figure, caption in _heatmaps(turns, pictures, scale)]
        if turns:
            how = pooled_words(turns[0], EVERYTHING, folded=pictures[0].folded)
            words = f"<h2>Where each answer looked</h2>{hint_html(f'The same columns and colours for all. {how}')}"
        return words, "", *figures, *[None] * (MOST_COMPARED - len(figures))

    def describer(number: int) -> Callable[..., Any]:
        def describe(event: gr.EventData, entries: list[Entry], visitor: str, fold: bool) -> Any:
            turns, _ = _compared_turns(session_of(visitor), entries)
            try:
                turn, picture = turns[number], _pictures(turns, fold)[number]
                words = cell_html(turn, picture, EVERYTHING, *cell_of(event))
            except (ValueError, IndexError):  # no cell, or of a comparison before this one
                return gr.skip()
            return f'<p class="hint">{escape(turn.method.title)}</p>{words}'

        return describe

    drawing = [entries.change, scale.input, fold.input]
    redraw_on("compare-heatmaps", drawing, draw, [entries, visitor, scale, fold], [looked, readout, *panes])
    for number, pane in enumerate(panes):
        on(pane.pick, describer(number), [entries, visitor, fold], [readout])


def _compared_turns(session: Session, entries: list[Entry]) -> tuple[list[Turn], str]:
    """The answers of the last comparison whose attention is in memory; or none, and why."""
    compared = _last_comparison(entries)
    if compared is None:
        return [], ""
    turns = [session.turns.get(reply.turn) for reply in compared.replies]
    kept = [turn for turn in turns if turn is not None and turn.answer.attention is not None]
    if len(kept) < 2:
        gone = "was stopped" if any(reply.stopped for reply in compared.replies) else "is no longer in memory"
        return [], hint_html(f"Where both answers looked is not shown, since one of them {gone}: ask again to see it.")
    return kept, ""


def _pictures(turns: list[Turn], fold: bool) -> list[Picture]:
    """Every answer's attention on the pages that matter to any of them."""
    kept = pages_to_keep(turns, fold)
    return [picture_of(turn, EVERYTHING, kept) for turn in turns]


def _heatmaps(turns: list[Turn], pictures: list[Picture], scale: Any) -> Iterator[tuple[go.Figure, str]]:
    """Each answer's figure, headed by its method and its words, with its caption."""
    largest = max((float(picture.shares.max(initial=0)) for picture in pictures), default=0.0)
    for turn, picture in zip(turns, pictures, strict=True):
        title = f"{turn.method.title}: “{shortened(turn.answer.text, 80)}”"
        # The page's other panels look into the answer of the last method.
        last = turn is turns[-1]
        yield (
            heatmap_of(turn, picture, EVERYTHING, scale, title=title, largest=largest, selectable=last),
            caption_of(turn),
        )


def _loss_steps(
    loaded: LoadedModel, tokens: list[int], config: SelfExtendConfig, visitor: str
) -> Generator[Any, None, None]:
    """The lab's perplexity of vanilla and SelfExtend over the documents."""
    from selfextend.lab.perplexity import PerplexityPlan
    from selfextend.lab.run import run_plan

    methods = (Vanilla(), SelfExtend.of(config))
    for method in methods:
        check_memory(loaded, method, len(tokens))
    plan = PerplexityPlan(methods, tuple(tokens), len(tokens), -(-len(tokens) // BINS), "documents")
    asked = Asked(visitor, loaded.reading_time.seconds(len(tokens)))
    return run_plan(loaded.model, loaded.tokenizer, plan, loaded.profile, asked=asked)


def _last_comparison(entries: list[Entry]) -> Entry | None:
    return next((entry for entry in reversed(entries) if len(entry.replies) > 1), None)


def table_html(entries: list[Entry]) -> str:
    """The last comparison in numbers."""
    compared = _last_comparison(entries)
    if compared is None:
        return NOTHING_YET
    columns = [
        {
            "": reply.made_by.title.translate(UNBROKEN),
            "Answer": reply.text or "–",
            "First page cited": str(reply.sources[0].page) if reply.sources else "–",
            "Time in all": f"{reply.seconds:.1f} s",
            "First token after": f"{reply.first_token_seconds:.1f} s",
            "Read before": f"{reply.reused_tokens:,} of {reply.prompt_tokens:,} tokens",
            "Keys and values": f"{reply.cache_bytes / 1e6:,.0f} MB",
            "Settings": settings_words(reply).translate(UNBROKEN),
        }
        for reply in compared.replies
    ]
    head, *rows = ([name, *(column[name] for column in columns)] for name in columns[0])
    return hint_html(escape(compared.question)) + table(head, rows, "compare")
