"""The Learn tab: numbers to choose, and the lesson itself, which runs in the browser (assets/lesson.js).

Saved as a web page, the lesson works without this app.
"""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import astuple
from typing import Any

import gradio as gr

from ..lesson import EXAMPLES, MAX_TOKENS, MIN_TOKENS, Example, lesson
from ..theme import ASSETS
from .widgets import Latest, complaint_html, redraw_on

_GLUE = """
const lessonView = mountLesson(element.querySelector(".lesson-root"), {
  css: props.lesson_css,
  source: props.lesson_source,
});
const showLesson = () => props.value && lessonView.show(props.value);
watch("value", showLesson);
showLesson();
"""


def build_learn_tab() -> None:
    """The tab's components and handlers, inside the open gr.Blocks or gr.Tab."""
    first = next(iter(EXAMPLES))
    source = (ASSETS / "lesson.js").read_text(encoding="utf-8")
    example = gr.Dropdown(list(EXAMPLES), value=first, label="Example", elem_id="lesson-example")
    with gr.Accordion("Choose your own numbers", open=False), gr.Row():
        tokens = _slider("Tokens N", MIN_TOKENS, MAX_TOKENS, EXAMPLES[first].length)
        trained_window = _slider("Trained window L", 3, 48, EXAMPLES[first].trained_window)
        group_size = _slider("Group size G", 1, 8, EXAMPLES[first].group_size)
        neighbor_window = _slider("Neighbor window w", 1, 32, EXAMPLES[first].neighbor_window)
    complaint = gr.HTML(elem_id="lesson-complaint")
    page = gr.HTML(
        pack(lesson(EXAMPLES[first])),
        html_template="<div class='lesson-root'></div>",
        js_on_load=source + _GLUE,
        apply_default_css=False,
        elem_id="lesson",
        lesson_css=(ASSETS / "lesson.css").read_text(encoding="utf-8"),
        lesson_source=source,
    )
    numbers = [trained_window, tokens, group_size, neighbor_window]  # in the order of `Example`
    choosing = Latest("lesson-example", lambda name: astuple(EXAMPLES[name]), [example], numbers, first=False)
    choosing.on([example.input])
    redraw_on("lesson", [number.change for number in numbers], _show, numbers, [page, complaint])


def _slider(label: str, minimum: int, maximum: int, value: int) -> gr.Slider:
    elem_id = "lesson-" + label.rsplit(" ", 1)[0].lower().replace(" ", "-")
    return gr.Slider(minimum, maximum, value=value, step=1, label=label, elem_id=elem_id, min_width=140)


def _show(*numbers: int) -> tuple[Any, Any]:
    try:
        return pack(lesson(Example(*numbers))), ""
    except ValueError as error:
        return gr.skip(), complaint_html(error)


def pack(contents: dict[str, Any]) -> str:
    """The lesson as lesson.js takes it: deflated JSON in base64, since the sums of 64 tokens repeat themselves."""
    return base64.b64encode(zlib.compress(json.dumps(contents, separators=(",", ":")).encode())).decode()
