"""The tabs on a page of their own, without a model, for the browser tests of the tabs alone.

`python tests/browser/demo.py PORT` serves it.
"""

import sys
import time
from itertools import count

import gradio as gr

from app.tabs.learn import build_learn_tab
from app.tabs.parameters import build_parameters_tab
from app.tabs.position_map import build_position_map_tab
from app.tabs.widgets import METHODS, DocumentView, SharedInputs, redraw_on
from app.theme import ASSETS, app_css, gradio_theme

LONG = DocumentView(
    4096, 100_000, lambda position: f" word{position}", model="Demo model", documents=("long.txt", "<b> & more.pdf")
)
SHORT = DocumentView(trained_window=7, length=10)


def build() -> gr.Blocks:
    with gr.Blocks(title="Tabs", analytics_enabled=False) as page:
        gr.HTML(js_on_load=(ASSETS / "selection.js").read_text(), visible="hidden")
        view = gr.State(LONG)
        group_size = gr.Slider(1, 64, value=32, step=1, label="Group size", elem_id="group-size")
        window = gr.Slider(1, 4096, value=1024, step=1, label="Neighbor window", elem_id="neighbor-window")
        method = gr.Radio(METHODS, value="SelfExtend", label="Method")
        with gr.Row():
            gr.Button("Short document").click(lambda: SHORT, outputs=view)
            gr.Button("Long document").click(lambda: LONG, outputs=view)
        shared = SharedInputs(group_size, window, method, view)
        with gr.Tab("Position map"):
            build_position_map_tab(shared)
        with gr.Tab("Parameters"):
            build_parameters_tab(shared)
        with gr.Tab("Learn"):
            build_learn_tab(shared=shared)
        with gr.Tabs():  # a row of its own: on a phone a fourth tab of the first would be folded away
            with gr.Tab("Nothing"):
                gr.HTML()
            with gr.Tab("Newest"):
                build_slow_tab()
    return page


def build_slow_tab() -> None:
    """Answers of which every other one takes long, each with its number; the first comes when the tab is opened."""
    calls = count()

    def answer(first: float, second: float) -> str:
        number = next(calls)
        if number % 2:
            time.sleep(1.5)
        return f"answer {number}: {first:g} and {second:g}"

    numbers = [gr.Number(0, label="First number"), gr.Number(0, label="Second number")]
    shown = gr.HTML(elem_id="newest")
    gr.Button("Set both").click(lambda: (7, 7), None, numbers)
    redraw_on("newest", [number.change for number in numbers], answer, numbers, [shown])


if __name__ == "__main__":
    build().launch(
        server_name="127.0.0.1",
        server_port=int(sys.argv[1]),
        theme=gradio_theme(),
        css=app_css(),
        run_history=None,
        quiet=True,
    )
