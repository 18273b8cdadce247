"""Choosing and loading the model: presets, a folder, any hub id; quantization; device; memory before loading.

Knows nothing about documents and questions.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from app.answering import Progress
from app.model_shelf import BUNDLED, LoadedModel
from app.runtime import Runtime
from app.tabs.chat import complaint_html, status_html
from app.tabs.shared import Refresh, draw_on_load
from selfextend.presets import PRESETS, find_preset

OTHER = "Another: folder or hub id"
STOPPED = "Loading was stopped. What was downloaded is kept."
QUANTIZATIONS = ["none", "int8", "nf4"]


class ModelPanel(NamedTuple):
    """Attributes: the lines about the model and what is going on, the stop button, and the event of a finished load."""

    summary: gr.HTML
    status: gr.HTML
    stop: gr.Button
    loaded: Any


def build_model_panel(runtime: Runtime) -> ModelPanel:
    """The components and handlers, inside the open gr.Blocks."""
    start = runtime.settings
    summary = gr.HTML(elem_id="model-summary", elem_classes=["model-summary"])
    with gr.Accordion("Change the model", open=False, elem_id="change-model"):
        known = find_preset(start.model)
        choice = gr.Dropdown(
            [*((preset.label, preset.repo_id) for preset in PRESETS), (OTHER, OTHER)],
            value=start.model if known else OTHER,
            label="Model",
            elem_id="model-choice",
        )
        other = gr.Textbox(
            value="" if known else start.model,
            label="Folder or hub id",
            placeholder="/models/my-llama or owner/name",
            visible=known is None,
            elem_id="model-other",
        )
        facts = gr.HTML(facts_html(start.model), elem_id="model-facts")
        with gr.Row():
            quantization = gr.Dropdown(
                QUANTIZATIONS,
                value=_named(start.quantization),
                label="Quantization",
                min_width=110,
                elem_id="quantization",
            )
            device = gr.Dropdown(
                ["auto", "cpu", "cuda", "mps"], value=start.device, label="Device", min_width=110,
                allow_custom_value=True, elem_id="device",
            )  # fmt: skip
        estimate = gr.HTML(elem_id="model-estimate")
        with gr.Row():
            ask = gr.Button("Estimate memory", size="sm", min_width=110, elem_id="estimate")
            load = gr.Button("Load", size="sm", variant="primary", min_width=80, elem_id="load")
    status = gr.HTML(elem_id="model-status")
    stop = gr.Button("Stop loading", size="sm", variant="stop", visible=False, min_width=80, elem_id="stop-loading")
    hidden: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}

    def chosen(choice: str, other: str) -> tuple[Any, ...]:
        name = _name(choice, other)
        return gr.update(visible=choice == OTHER), facts_html(name), _advised_quantization(name), ""

    def estimated(choice: str, other: str, quantization: str, device: str) -> Iterator[str]:
        yield status_html(Progress("reading the config", None))
        runtime.first_load.done.wait()  # two threads that import transformers at once break each other's import
        yield estimate_html(_name(choice, other), quantization, device)

    def run(choice: str, other: str, quantization: str, device: str) -> Iterator[dict[Any, Any]]:
        runtime.stop_loading.clear()
        steps = runtime.models.load_steps(_name(choice, other), quantization, device)
        yield {stop: gr.update(visible=True), load: gr.update(visible=False), status: ""}
        done: dict[Any, Any] = {stop: gr.update(visible=False), load: gr.update(visible=True)}
        last = 0.0
        try:
            while True:
                step = next(steps)
                if runtime.stop_loading.is_set():
                    steps.close()
                    yield {status: complaint_html(STOPPED), **done}
                    return
                if time.monotonic() - last > 0.2:
                    last = time.monotonic()
                    yield {status: status_html(Progress(step.words, step.fraction))}
        except StopIteration as finished:
            runtime.caches.clear()
            yield {status: "", summary: summary_html(finished.value), estimate: "", **done}
        except (ValueError, RuntimeError) as error:
            yield {status: complaint_html(error), summary: summary_html(runtime.models.loaded), **done}

    inputs = [choice, other, quantization, device]
    gr.on(
        [choice.input, other.blur],
        chosen,
        [choice, other],
        [other, facts, quantization, estimate],
        queue=False,
        **hidden,
    )
    ask.click(estimated, inputs, estimate, **hidden)
    loaded = load.click(
        run, inputs, [status, summary, estimate, load, stop], concurrency_limit=1, concurrency_id="model", **hidden
    )
    stop.click(lambda: runtime.stop_loading.set(), None, None, queue=False, **hidden)
    if start.quantization == "auto":
        draw_on_load(Refresh(lambda: _advised_quantization(start.model), [], [quantization]))
    return ModelPanel(summary, status, stop, loaded)


def load_in_background(runtime: Runtime) -> threading.Thread:
    """Loads the model that the app was started with, while the page is being built and served."""

    def load() -> None:
        settings, first = runtime.settings, runtime.first_load
        try:
            quantization = settings.quantization
            if quantization == "auto":
                quantization = _advised_quantization(settings.model)
            with closing(runtime.models.load_steps(settings.model, quantization, settings.device)) as steps:
                for step in steps:
                    first.progress = Progress(step.words, step.fraction)
                    if runtime.stop_loading.is_set():
                        first.error = STOPPED
                        return
        except Exception as error:  # whatever it was, the page waits for this thread's word
            first.error = str(error) or type(error).__name__
        finally:
            first.done.set()

    thread = threading.Thread(target=load, name="first-load", daemon=True)
    thread.start()
    return thread


def _name(choice: str, other: str) -> str:
    return other.strip() if choice == OTHER else choice


def _named(quantization: str) -> str:
    return "none" if quantization == "auto" else quantization


def _advised_quantization(name: str) -> str:
    """nf4 for what comes from the hub onto a GPU; none elsewhere."""
    if not name or name == BUNDLED or Path(name).expanduser().is_dir():
        return "none"
    import torch

    return "nf4" if torch.cuda.is_available() else "none"


def facts_html(name: str) -> str:
    """What is known of a model before anything of it is looked at."""
    preset = find_preset(name)
    if preset is None:
        return ""
    window = "from its config" if preset.trained_window is None else f"{preset.trained_window:,} tokens"
    lines = [f"Trained window: {window} · {preset.licence}"]
    if preset.gated:
        lines.append("Gated: needs a Hugging Face account that has accepted the licence.")
    for one in preset.published:
        length = f" for {one.length:,} tokens" if one.length else ""
        lines.append(f"Published: G = {one.group_size}, w = {one.neighbor_window:,}{length} ({one.source})")
    return "".join(f'<p class="hint">{escape(line)}</p>' for line in lines)


def estimate_html(name: str, quantization: str, device: str) -> str:
    """The memory a model would take, or why that cannot be told."""
    from selfextend.loading.models import estimate_memory

    if not name:
        return complaint_html("Name a folder or a hub id first.")
    try:
        estimate = estimate_memory(name, quantization, device)  # type: ignore[arg-type]
    except (ValueError, RuntimeError) as error:
        return complaint_html(error)
    words = escape(estimate.describe())
    return f'<p class="{"hint" if estimate.fits else "complaint"}">{words}</p>'


def summary_html(loaded: LoadedModel | None) -> str:
    """The loaded model in a few lines."""
    if loaded is None:
        return '<p class="name">No model</p><p class="hint">Choose one below and press Load.</p>'
    weights = loaded.estimate.weights_bytes
    size = f"{weights / 1e9:.1f} GB" if weights >= 1e8 else f"{weights / 1e6:.0f} MB"
    quantized = "" if loaded.estimate.quantization == "none" else f", {loaded.estimate.quantization}"
    return (
        f'<p class="name">{escape(loaded.label)}</p>'
        f'<p class="facts">trained on {loaded.trained_window:,} tokens · {size} ({loaded.estimate.dtype}{quantized}) '
        f"on {escape(str(loaded.estimate.device))}</p>"
        f'<p class="activity {"on" if loaded.supported else "off"}">{escape(loaded.activity)}</p>'
    )
