"""Choosing and loading the model: this machine's, presets, a file or hub id; how; its memory before it is loaded."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

import gradio as gr

from selfextend.loading.sizes import readable
from selfextend.presets import PRESETS, find_preset
from selfextend.profile import LONGEST_ANSWER
from selfextend.steps import Progress, Running, result_of

from .. import imports
from ..jobs import JobStopped, Pace
from ..model_shelf import LoadedModel
from ..runtime import Runtime
from ..sample import SAMPLE, sample_questions
from ..server.accounts import may_load_models
from ..settings import QUANTIZATIONS
from .widgets import ON_MODEL, QUEUED, buttons, complaint_html, hint_html, on, status_html

if TYPE_CHECKING:
    from selfextend.loading.hardware import AskedQuantization

OTHER = "Another: folder, GGUF file or hub id"
STOPPED = "Loading was stopped. What was downloaded is kept."
NOT_YOURS = "Only who runs this app can load another model, or an account that --admins names: ask them."


class ModelPanel(NamedTuple):
    """The panel's components, `change` around those that choose a model. `expanded` and `loaded` are events after which
    it should say which model is loaded.
    """

    summary: gr.HTML
    choice: gr.Dropdown
    other: gr.Textbox
    facts: gr.HTML
    quantization: gr.Dropdown
    device: gr.Dropdown
    estimate: gr.HTML
    ask: gr.Button
    load: gr.Button
    status: gr.HTML
    stop: gr.Button
    change: gr.Accordion
    expanded: Any
    loaded: Any = None

    def showing(self, loaded: LoadedModel | None) -> dict[Any, Any]:
        """The updates after which the panel says which model is loaded, and how: all that every visitor may know."""
        return {self.summary: summary_html(loaded)}

    def choosing(self, name: str, here: list[tuple[str, str]]) -> dict[Any, Any]:
        """The updates after which the panel offers the models of this machine too. Names may be paths: only for who may
        load models.

        Args:
            name: of the model that is chosen.
            here: what to call each model of this machine, and its name.
        """
        choices = _choices(here)
        known = name in [each for _, each in choices]
        return {
            self.choice: gr.update(choices=choices, value=name if known else OTHER),
            self.other: gr.update(value="" if known else name, visible=not known),
            self.facts: facts_html(name),
        }


def build_model_panel(runtime: Runtime) -> ModelPanel:
    """The components and handlers, inside the open gr.Blocks."""
    panel = _components(runtime)

    def chosen(choice: str, other: str) -> tuple[Any, ...]:
        name = _name(choice, other)
        return gr.update(visible=choice == OTHER), facts_html(name), ""

    # What comes from the dropdown is one of its choices: Gradio refuses anything else.
    def estimated(choice: str, other: str, quantization: Any, device: str, request: gr.Request) -> Iterator[str]:
        if not may_load_models(runtime.settings, request):
            yield complaint_html(NOT_YOURS)
            return
        yield status_html("reading the config")
        runtime.first_load.done.wait()  # two threads that import transformers at once break each other's import
        yield estimate_html(_name(choice, other), quantization, device)

    def load(choice: str, other: str, quantization: Any, device: str, request: gr.Request) -> Iterator[dict[Any, Any]]:
        if not may_load_models(runtime.settings, request):
            yield {panel.status: complaint_html(NOT_YOURS)}
            return
        yield {**buttons(panel.load, panel.stop, busy=True), panel.status: ""}
        with Running(told_load(runtime, _name(choice, other), quantization, device)) as loading:
            for line in loading:
                yield {panel.status: line}
        yield {**buttons(panel.load, panel.stop, busy=False), panel.status: loading.result, panel.estimate: ""}

    inputs = [panel.choice, panel.other, panel.quantization, panel.device]
    chooses = [panel.other, panel.facts, panel.estimate]
    on([panel.choice.input, panel.other.blur], chosen, inputs[:2], chooses, newest=True)
    panel.ask.click(estimated, inputs, [panel.estimate], **QUEUED)
    outputs = [panel.status, panel.estimate, panel.load, panel.stop]
    on(panel.stop.click, stopper(runtime))
    return panel._replace(loaded=panel.load.click(load, inputs, outputs, **ON_MODEL))


def stopper(runtime: Runtime) -> Callable[..., None]:
    """Stops the load under way, for who may load."""

    def stop(request: gr.Request) -> None:
        if may_load_models(runtime.settings, request):
            runtime.loading.stop()

    return stop


def _components(runtime: Runtime) -> ModelPanel:
    start = runtime.settings
    summary = gr.HTML(elem_id="model-summary", elem_classes=["model-summary"])
    with gr.Accordion("Change the model", open=False, elem_id="change-model") as change:
        known = find_preset(start.model)
        choice = gr.Dropdown(
            _choices([]),
            value=start.model if known else OTHER,
            label="Model",
            elem_id="model-choice",
        )
        other = gr.Textbox(
            value="", label="Folder, GGUF file or hub id",
            placeholder="/models/my-llama.gguf, owner/name or owner/name:Q4_K_M",
            visible=known is None, elem_id="model-other",
        )  # fmt: skip
        facts = gr.HTML(facts_html(start.model), elem_id="model-facts")
        with gr.Row():
            quantization = gr.Dropdown(
                QUANTIZATIONS, value=start.quantization, label="Quantization", min_width=110, elem_id="quantization",
            )  # fmt: skip
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
    parts = (summary, choice, other, facts, quantization, device, estimate, ask, load, status, stop)
    return ModelPanel(*parts, change=change, expanded=change.expand)


def _load_steps(
    runtime: Runtime, name: str, quantization: AskedQuantization, device: str
) -> Generator[Progress, None, LoadedModel]:
    """Load a model as the process's one job of that kind."""
    runtime.loading.begin()
    return runtime.loading.follow(_alone(runtime, runtime.models.load_steps(name, quantization, device)))


def _alone(runtime: Runtime, steps: Generator[Progress, None, LoadedModel]) -> Generator[Progress, None, LoadedModel]:
    """Load while nobody uses the model that is loaded. Whoever waits for it is sent away, or it could not be let go."""
    from selfextend.line import line_of

    if runtime.models.loaded is None:
        return (yield from steps)
    line = line_of(runtime.models.loaded.model)
    with line.visit() as visit:
        yield from visit.turn()
        line.close("Another model is being loaded. Ask again when it is ready.")
        try:
            return (yield from steps)
        except BaseException:  # stopped or failed: the model that was there is there
            line.open()
            raise


def told_load(runtime: Runtime, name: str, quantization: AskedQuantization, device: str) -> Generator[str, None, str]:
    """Load a model, and yield how far it is, as HTML, a few times a second. Returns what went wrong, or ""."""
    pace = Pace()
    try:
        with Running(_load_steps(runtime, name, quantization, device)) as running:
            for progress in running:
                if pace.due():
                    yield status_html(progress)
        runtime.caches.clear()
    except JobStopped:
        return complaint_html(STOPPED)
    except (ValueError, RuntimeError) as error:
        return complaint_html(error)
    return ""


def _reads_ahead(runtime: Runtime) -> bool:
    loaded = runtime.models.loaded
    return loaded is not None and loaded.is_bundled and SAMPLE.is_file() and runtime.settings.read_ahead


def load_in_background(runtime: Runtime) -> threading.Thread:
    """Loads the model that the app was started with, while the page is being built and served."""

    def load() -> None:
        settings, first = runtime.settings, runtime.first_load
        try:
            imports.finish()
            result_of(_load_steps(runtime, settings.model, settings.quantization, settings.device))
        except JobStopped:
            first.error = STOPPED
        except Exception as error:  # whatever it was, the page waits for this thread's word
            first.error = str(error) or type(error).__name__
        reads_ahead = _reads_ahead(runtime)
        if reads_ahead:  # before the page, which waits for the model, asks
            runtime.ahead.progress = Progress("reading the sample ahead")
        first.done.set()
        if reads_ahead:
            asked = sample_questions()
            question = asked[-1].question if asked else ""
            runtime.ahead.read(SAMPLE, runtime.models, runtime.caches, runtime.library, LONGEST_ANSWER, question)

    thread = threading.Thread(target=load, name="first-load", daemon=True)
    thread.start()
    return thread


def _name(choice: str, other: str) -> str:
    return other.strip() if choice == OTHER else choice


def _choices(here: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The menu: what is on this machine, the presets, and what is to be typed."""
    taken = {name for _, name in here}
    presets = [(preset.label, preset.repo_id) for preset in PRESETS if preset.repo_id not in taken]
    return [*here, *presets, (OTHER, OTHER)]


def facts_html(name: str) -> str:
    """What is known of a model before anything of it is looked at."""
    preset = find_preset(name)
    if preset is None:
        return ""
    window = "from its config" if preset.trained_window is None else f"{preset.trained_window:,} tokens"
    lines = [f"Trained window: {window} · {preset.licence}"]
    if preset.gated:
        lines.append("Gated: needs a Hugging Face account that has accepted the licence.")
    for setting in preset.published:
        length = f" for {setting.length:,} tokens" if setting.length else ""
        lines.append(f"Published: G = {setting.group_size}, w = {setting.neighbor_window:,}{length} ({setting.source})")
    return "".join(hint_html(escape(line)) for line in lines)


def estimate_html(name: str, quantization: AskedQuantization, device: str) -> str:
    """The memory a model would take, or why that cannot be told."""
    from selfextend.loading.models import estimate_memory

    if not name:
        return complaint_html("Name a folder, a GGUF file or a hub id first.")
    try:
        estimate = estimate_memory(name, quantization, device)
    except (ValueError, RuntimeError) as error:
        return complaint_html(error)
    words = escape(estimate.describe())
    return f'<p class="{"hint" if estimate.fits else "complaint"}">{words}</p>'


def summary_html(loaded: LoadedModel | None) -> str:
    """The loaded model in a few lines."""
    if loaded is None:
        return '<p class="name">No model</p>' + hint_html("Choose one below and press Load.")
    size = readable(loaded.estimate.weights_bytes)
    return (
        f'<p class="name">{escape(loaded.label)}</p>'
        f'<p class="facts">trained on {loaded.trained_window:,} tokens · {size} ({loaded.estimate.number_formats}) '
        f"on {escape(str(loaded.estimate.device))}</p>"
        f'<p class="activity {"on" if loaded.supported else "off"}">{escape(loaded.activity)}</p>'
    )
