"""The Runs tab: the answer in view as a run capsule, CSV or JSON; and a run capsule opened again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from .. import capsule
from ..capsule import Capsule, CapsuleError, Pooled
from ..conversation import Entry
from ..places import page_starts
from ..pooling import MAX, Looked, view_of
from ..runtime import Runtime
from ..session import Turn
from .plot_pane import ONCE_DRAWN, packed, plot_pane
from .widgets import QUEUED, States, answer_caption, complaint_html, hint_html, save_on_click

INTRODUCTION = hint_html(
    "A <b>run capsule</b> is one HTML file with the question, the answer, its citations, settings, versions and "
    "figures. It opens in any browser, without this app and without a network, and here. Each figure also has buttons "
    "that save it as PNG or SVG."
)


def build_runs_tab(runtime: Runtime, states: States) -> None:
    """The tab's components and handlers, inside the open gr.Blocks or gr.Tab."""
    gr.HTML(INTRODUCTION)
    with gr.Row():
        buttons = {
            name: gr.Button(label, size="sm", variant=variant, elem_id=f"save-{name}", min_width=130)
            for name, (label, variant, *_) in FILES.items()
        }
    status = gr.HTML(elem_id="runs-status")
    opened = gr.File(
        label="Open a run capsule", file_types=[".html"], height=96, elem_id="open-capsule", elem_classes=["drop-zone"]
    )
    body = gr.HTML(elem_id="capsule", elem_classes=["capsule"])
    with gr.Column(elem_classes=[ONCE_DRAWN], min_width=0):
        bars = plot_pane(label="Pages of the opened run", height=280, elem_id="capsule-pages")
        heat = plot_pane(label="Attention of the opened run", height=420, elem_id="capsule-attention")

    def open_capsule(path: str | None) -> dict[Any, Any]:
        closed = {status: "", body: "", bars: None, heat: None}
        if path is None:
            return closed
        try:
            if Path(path).stat().st_size > capsule.MAX_BYTES:
                raise CapsuleError(f"This file is larger than {capsule.MAX_BYTES / 1e6:.0f} MB: it is no run capsule.")
            read = capsule.read_capsule(Path(path).read_text(encoding="utf-8", errors="replace"))
            caption = _caption(read)
            figures = [packed(figure, caption=caption) for figure in capsule.figures_of(read)]
        except (CapsuleError, OSError, ValueError) as error:
            return {**closed, status: complaint_html(error)}
        opened_run = {**closed, body: capsule.body_html(read)}
        return opened_run if len(figures) != 2 else {**opened_run, bars: figures[0], heat: figures[1]}

    for name, button in buttons.items():
        given = [states.visitor, states.turn, states.entries]
        save_on_click(button, _saver(runtime, *FILES[name][2:]), given, status)
    opened.change(open_capsule, [opened], [status, body, bars, heat], **QUEUED)


def _caption(read: Capsule) -> str:
    names = [str(document["name"]) for document in read.documents]
    return answer_caption(read.entry.question, read.entry.model, read.reply.made_by, names, read.reply.prompt_tokens)


def _attention(made: Capsule) -> str:
    if made.pooled is None:
        raise CapsuleError("No attention was recorded for this answer.")
    return capsule.attention_csv(made.pooled)


def _everything(made: Capsule) -> str:
    return json.dumps(capsule.as_json(made), ensure_ascii=False, indent=1)


FILES: dict[str, tuple[str, Any, str, Callable[[Capsule], str]]] = {
    "capsule": ("Save run capsule", "primary", "run.html", capsule.as_html),
    "csv": ("Pages and passages (CSV)", "secondary", "pages.csv", capsule.as_csv),
    "attention": ("Attention (CSV)", "secondary", "attention.csv", _attention),
    "json": ("Everything (JSON)", "secondary", "run.json", _everything),
}
"""The files to save: each one's button and its variant, its name, and what writes it."""


def _saver(runtime: Runtime, name: str, write: Callable[[Capsule], str]) -> Callable[..., tuple[str | None, str]]:
    def save(visitor: str, turn: Turn | None, entries: list[Entry]) -> tuple[str | None, str]:
        try:
            return runtime.own.save(visitor, name, write(_capsule(turn, entries))), ""
        except CapsuleError as error:
            return None, complaint_html(error)

    return save


def _capsule(turn: Turn | None, entries: list[Entry]) -> Capsule:
    replies = [reply for entry in entries for reply in entry.replies if turn is not None and reply.turn == turn.id]
    if turn is None or not replies:
        raise CapsuleError("There is no answer to save yet: ask a question first, or click a page link of an answer.")
    pooled = None
    if turn.answer.attention is not None and turn.prompt.index.passages:
        view = view_of(turn, Looked(pooled=MAX))
        pooled = Pooled(
            turn.token_texts[: len(view.shares)], view.edges, view.shares.astype("float32"), page_starts(turn)
        )
    return capsule.capsule_of(turn, replies[-1], pooled)
