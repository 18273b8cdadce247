"""Deletes everything that is kept of a visitor, here and in the browser, once it was asked for twice."""

from __future__ import annotations

import json
from typing import Any

import gradio as gr

from ..belongings import remove_everything
from ..runtime import Runtime
from .widgets import STORAGE_KEY, States, hint_html, on

_QUESTION = hint_html(
    "<b>Delete everything of yours?</b> Your documents, the conversation, the lab's runs and the settings go, here and "
    "in this browser. What is under way is stopped. This cannot be undone."
)
# A page loaded anew shows that nothing is left, and gets another name for its visitor.
_START_ANEW = """() => {{
  localStorage.removeItem({key});
  location.replace(location.pathname);
}}"""


def build_leaving(runtime: Runtime, states: States) -> None:
    """The button and its question, inside the open gr.Blocks."""
    ask = gr.Button("Delete everything of mine", size="sm", elem_id="delete-everything")
    with gr.Column(visible=False, elem_id="delete-everything-question") as question:
        gr.HTML(_QUESTION)
        with gr.Row():
            delete = gr.Button("Delete everything", variant="stop", size="sm", min_width=120)
            leave = gr.Button("Keep it", size="sm", min_width=90)

    def asked(wanted: bool) -> dict[Any, Any]:
        return {ask: gr.update(visible=not wanted), question: gr.update(visible=wanted)}

    def delete_everything(visitor: str) -> tuple[list[Any], None, None]:
        remove_everything(runtime, visitor)
        return [], None, None

    on(ask.click, lambda: asked(True), [], [ask, question])
    on(leave.click, lambda: asked(False), [], [ask, question])
    gone = on(delete.click, delete_everything, [states.visitor], [states.entries, states.turn, states.pending])
    gone.success(None, js=_START_ANEW.format(key=json.dumps(STORAGE_KEY)))
