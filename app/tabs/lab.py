"""The Lab tab: probes of long-context reading on the model at hand, side by side, live, kept and opened again."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import gradio as gr

from selfextend.lab.choices import Choices, OwnText, parse_depths, parse_lengths
from selfextend.lab.errors import LabError
from selfextend.lab.records import Run, RunFile, as_csv, file_name, read_run
from selfextend.lab.views import View, is_sweep, views
from selfextend.line import Asked
from selfextend.methods import METHOD_NAMES, method_named
from selfextend.steps import Progress, Running

from ..asking import MAX_PROMPT_TOKENS, check_memory
from ..belongings import runs_folder
from ..figures.lab import as_html, figure, table_html
from ..jobs import JobStopped, Pace
from ..model_shelf import LoadedModel
from ..runtime import Runtime
from .plot_pane import ONCE_DRAWN, packed, plot_pane
from .widgets import (
    ON_MODEL,
    buttons,
    complaint_html,
    hint_html,
    on,
    save_on_click,
    skipped,
    status_html,
)

if TYPE_CHECKING:
    from selfextend.lab.plans import Plan
    from selfextend.lab.run import CellDone

PROBES = {
    "Passkey": "passkey",
    "Needle: one fact": "needle-single",
    "Needle: one of several facts": "needle-multi-key",
    "Needle: several values of one key": "needle-multi-value",
    "Needle: several questions": "needle-multi-query",
    "Needle: a chain of variables": "needle-tracking",
    "Key-value pairs": "key-value",
    "Perplexity by position": "perplexity",
    "Inside the trained window": "short-context",
}
METHODS = {method_named(name).title: name for name in METHOD_NAMES}
SIDE_BY_SIDE, SWEEP = "Methods side by side", "Sweep of G and w"

REDRAW_SECONDS = 1.0
"""Between two redraws of a running run's figures."""
MOST_BYTES = 50_000_000
"""Of a saved run that is opened."""
MOST_TOKENS = 20_000_000
"""Of the texts of one length, which are held together: each takes some forty bytes."""

INTRODUCTION = hint_html(
    "Does it read far back, and with which settings? A probe hides something in a text and asks for it, at several "
    "lengths and depths. Every method gets the same texts. A run that was stopped goes on where it was when it is "
    "started again with the same choices."
)


@dataclass(frozen=True, eq=False)
class OpenedRun:
    """A run that can be looked at, and where its record is. Compared by identity."""

    run: Run
    path: Path

    @property
    def label(self) -> str:
        """For menus."""
        sweep = "sweep, " if is_sweep(self.run) else ""
        started = str(self.run.header.get("started", ""))[:16].replace("T", " ")
        return f"{sweep}{self.run.title()} ({started}, {self.path.stem[-6:]})"


class Pane(NamedTuple):
    """One of the two places for a figure, and the menus that choose it."""

    run: gr.Dropdown
    view: gr.Dropdown
    plot: gr.HTML
    table: gr.HTML


class Parts(NamedTuple):
    """The tab's components that handlers set. `opened` holds label -> OpenedRun."""

    start: gr.Button
    stop: gr.Button
    status: gr.HTML
    opened: gr.State
    left: Pane
    right: Pane

    def show(self, going: OpenedRun, runs: dict[str, OpenedRun] | None = None) -> dict[Any, Any]:
        """A run on both sides: its first view on the left, its last on the right.

        Args:
            runs: all there are, where there is a new one among them.
        """
        there = views(going.run)
        menu: dict[str, Any] = {} if runs is None else {"choices": list(reversed(runs))}
        updates: dict[Any, Any] = {} if runs is None else {self.opened: runs}
        for pane, view in ((self.left, there[0]), (self.right, there[-1])):
            updates |= {
                pane.run: gr.update(value=going.label, **menu),
                pane.view: gr.update(choices=[view.name for view in there], value=view.name),
                pane.plot: drawn(going.run, view),
                pane.table: table_html(going.run, view.name),
            }
        return updates


def build_lab_tab(runtime: Runtime, visitor: gr.State) -> None:
    """The tab's components and handlers, inside the open gr.Blocks or gr.Tab.

    Args:
        visitor: the page's state with who this is; their documents are what "my documents" means.
    """
    gr.HTML(INTRODUCTION)
    opened = gr.State({})
    with gr.Row(equal_height=False, elem_id="lab"):
        with gr.Column(scale=3, min_width=270):
            form = _form()
            with gr.Row():
                start = gr.Button("Run", variant="primary", elem_id="lab-run", min_width=90)
                stop = gr.Button("Stop", variant="stop", visible=False, elem_id="lab-stop", min_width=90)
            status = gr.HTML(elem_id="lab-status")
            uploaded = gr.File(
                label="Open a saved run", file_types=[".jsonl"], height=96, elem_id="lab-open",
                elem_classes=["drop-zone"],
            )  # fmt: skip
        with gr.Column(scale=9, min_width=330, elem_id="lab-results", elem_classes=[ONCE_DRAWN]):
            with gr.Row(equal_height=False):
                left, right = _pane("left"), _pane("right")
            with gr.Row():
                saves = {
                    "jsonl": gr.Button("Save the run (JSON lines)", size="sm", min_width=130),
                    "csv": gr.Button("Rows (CSV)", size="sm", min_width=130),
                    "html": gr.Button("Figures and tables (HTML)", size="sm", min_width=130),
                }
            gr.HTML(hint_html("These save the left run. The buttons on a figure save it as PNG or SVG."))
    parts = Parts(start, stop, status, opened, left, right)
    handlers = _Handlers(runtime, parts)
    outputs = [start, stop, status, opened, *left, *right]
    start.click(handlers.run, [visitor, opened, *form], outputs, **ON_MODEL)
    on(stop.click, lambda who: runtime.sessions.get(who).probing.stop(), [visitor])
    on(uploaded.change, handlers.open, [uploaded, opened], outputs)
    for pane in (left, right):
        on(pane.run.input, _chosen_run, [opened, pane.run], [pane.view, pane.plot, pane.table], newest=True)
        on(pane.view.input, _chosen_view, [opened, pane.run, pane.view], [pane.plot, pane.table], newest=True)
    for ending, button in saves.items():
        save_on_click(button, _saver(runtime, ending), [visitor, opened, left.run], status)


def _form() -> list[Any]:
    """What a run is made of, in the order in which `choices_of` takes it."""
    probe = gr.Dropdown(list(PROBES), value="Passkey", label="Probe", elem_id="lab-probe")
    kind = gr.Radio([SIDE_BY_SIDE, SWEEP], value=SIDE_BY_SIDE, label="What varies")
    methods = gr.CheckboxGroup(
        list(METHODS), value=["Vanilla", "SelfExtend with log-n"], label="Methods", elem_id="lab-methods"
    )
    group_sizes = gr.Textbox("", label="Group sizes G", placeholder="about what is advised", max_lines=1, visible=False)
    windows = gr.Textbox(
        "", label="Neighbor windows w", placeholder="1/8, 1/4, 3/8 of the window", max_lines=1, visible=False
    )
    lengths = gr.Textbox(
        "1x, 2x, 4x, 8x", label="Lengths", info="Tokens, or multiples of the trained window", max_lines=1,
        elem_id="lab-lengths",
    )  # fmt: skip
    with gr.Row():
        depths = gr.Textbox("5", label="Depths", info="How many, or a list", max_lines=1, min_width=90)
        trials = gr.Number(1, label="Trials", info="In each cell", precision=0, minimum=1, min_width=90)
        seed = gr.Number(0, label="Seed", info="Of all texts", precision=0, min_width=90)
    own = gr.Checkbox(False, label="Hide it in my documents (for perplexity: read them)")
    fitting = [methods, group_sizes, windows, lengths, depths, trials]
    on([kind.change, probe.change], _fitting, [kind, probe], fitting)
    return [probe, kind, methods, lengths, depths, trials, seed, group_sizes, windows, own]


def _pane(side: str) -> Pane:
    with gr.Column(min_width=320):
        run = gr.Dropdown([], label="Run", elem_id=f"lab-run-{side}")
        view = gr.Dropdown([], label="Figure", elem_id=f"lab-view-{side}")
        plot = plot_pane(label=f"Figure of the {side} run", height=420, elem_id=f"lab-plot-{side}")
        table = gr.HTML(elem_id=f"lab-table-{side}")
    return Pane(run, view, plot, table)


class _Handlers:
    """What runs and opens runs."""

    def __init__(self, runtime: Runtime, parts: Parts) -> None:
        self.runtime = runtime
        self.parts = parts

    def run(self, visitor: str, runs: dict[str, OpenedRun], *values: Any) -> Iterator[dict[Any, Any]]:
        """Start a run, or go on with it, and show it as it goes."""
        parts, session = self.parts, self.runtime.sessions.get(visitor)
        session.probing.begin()
        yield {**buttons(parts.start, parts.stop, busy=True), parts.status: status_html("starting")}
        idle = buttons(parts.start, parts.stop, busy=False)
        began, going = time.perf_counter(), None
        try:
            loaded = self.runtime.models.need()
            documents = [(stored.document.name, stored.document.text) for stored in session.documents]
            plan, header = prepare(choices_of(values, documents), loaded)
            path = runs_folder(self.runtime, visitor) / file_name(header)
            file = RunFile(path, header, resume=True)
            going = OpenedRun(file.run, path)
            yield parts.show(going, {**runs, going.label: going})
            with Running(session.probing.follow(_steps(loaded, plan, file, visitor))) as steps:
                pace = Pace(REDRAW_SECONDS)
                for step in steps:
                    if isinstance(step, Progress):
                        yield {parts.status: status_html(step)}
                    elif pace.due():
                        yield parts.show(going)
            words = f"Done in {time.perf_counter() - began:.1f} s. The run is kept."
            yield {**idle, parts.status: status_html(words), **parts.show(going)}
        except JobStopped:
            words = "Stopped. What was measured is kept; Run goes on from here."
            yield {**idle, parts.status: status_html(words), **(parts.show(going) if going else {})}
        except (ValueError, RuntimeError) as error:
            yield {**idle, parts.status: complaint_html(error)}

    def open(self, path: str | None, runs: dict[str, OpenedRun]) -> dict[Any, Any]:
        """Show a saved run."""
        parts = self.parts
        if path is None:
            return {parts.status: ""}
        try:
            if Path(path).stat().st_size > MOST_BYTES:
                raise LabError(f"This file is larger than {MOST_BYTES / 1e6:.0f} MB: it is no run of the lab.")
            found = OpenedRun(read_run(Path(path)), Path(path))
            if not found.run.rows:
                raise LabError("This run has no rows yet.")
            if not views(found.run):
                raise LabError("There is no figure of such a run. `python -m selfextend runs` prints its table.")
            return {parts.status: "", **parts.show(found, {**runs, found.label: found})}
        except (ValueError, OSError) as error:
            return {parts.status: complaint_html(error)}
        except (KeyError, TypeError, IndexError):
            return {parts.status: complaint_html("This file is a damaged run: its rows lack what they need.")}


def choices_of(values: Sequence[Any], documents: Sequence[tuple[str, str]]) -> Choices:
    """The form's values, in its order, as choices.

    Args:
        documents: names and texts of the visitor's own.

    Raises:
        LabError: something is missing.
    """
    label, kind, methods, lengths, depths, trials, seed, group_sizes, windows, own = values
    if label not in PROBES:
        raise LabError("Choose a probe.")
    if trials is None or seed is None:
        raise LabError("Trials and seed both need a whole number.")
    return Choices(
        probe=PROBES[label],
        sweep=kind == SWEEP and PROBES[label] != "short-context",
        methods=tuple(METHODS[title] for title in methods if title in METHODS),
        lengths=str(lengths),
        depths=str(depths),
        trials=int(trials),
        seed=int(seed),
        group_sizes=str(group_sizes or ""),
        neighbor_windows=str(windows or ""),
        text=_own_text(documents) if own else None,
    )


def _own_text(documents: Sequence[tuple[str, str]]) -> OwnText:
    if not documents:
        raise LabError("There is no document of yours to use: add one on the Read tab, or use generated text.")
    return OwnText(", ".join(name for name, _ in documents), "\n\n".join(text for _, text in documents))


def prepare(choices: Choices, loaded: LoadedModel) -> tuple[Plan, dict[str, Any]]:
    """The plan of a run and the header of its record, refusing what cannot be run.

    Raises:
        LabError, ValueError: with a sentence that says what to change.
    """
    # These bring torch and transformers, and the page is to be there before them.
    from selfextend.lab.planning import plan_of
    from selfextend.lab.target import header_of

    if not loaded.supported:
        raise LabError(loaded.activity)
    longest = _checked_length(choices, loaded.trained_window)
    plan = plan_of(choices, loaded.profile, loaded.tokenizer)
    for method in plan.methods:
        check_memory(loaded, method.at(loaded.profile, longest), longest)
    return plan, header_of(plan, loaded.name, loaded.model, loaded.profile, loaded.estimate.quantization)


def _checked_length(choices: Choices, trained_window: int) -> int:
    """Tokens of the longest text of a run.

    Raises:
        LabError: that long, or that many of them, are not written for a visitor.
    """
    inside = choices.probe == "short-context"
    longest = trained_window if inside else max(parse_lengths(choices.lengths, trained_window))
    if longest > MAX_PROMPT_TOKENS:
        raise LabError(f"A text may have at most {MAX_PROMPT_TOKENS:,} tokens here, not {longest:,}.")
    texts = 1 if choices.probe == "perplexity" else len(parse_depths(choices.depths)) * choices.trials
    if texts * longest > MOST_TOKENS:
        raise LabError(
            f"{texts:,} texts of {longest:,} tokens are more than the {MOST_TOKENS:,} tokens that are held at a time: "
            "choose fewer depths or trials, or a smaller length."
        )
    return longest


def _steps(loaded: LoadedModel, plan: Plan, file: RunFile, visitor: str) -> Generator[Progress | CellDone, None, None]:
    """Run a plan for a visitor, and record each cell before it is yielded."""
    from selfextend.lab import run

    done, asked = file.complete_cells(), Asked(visitor)
    for step in run.run_plan(loaded.model, loaded.tokenizer, plan, loaded.profile, done, asked):
        if isinstance(step, run.CellDone):
            file.add(step.rows)
        yield step


def _fitting(kind: str, probe: str) -> tuple[Any, ...]:
    """Which settings the kind of run takes."""
    name = PROBES.get(probe, "")
    inside = name == "short-context"
    sweep = kind == SWEEP and not inside
    one_length = sweep or inside or name == "perplexity"
    return (
        gr.update(visible=not (sweep or inside)),
        gr.update(visible=sweep),
        gr.update(visible=sweep),
        gr.update(
            value="8x" if one_length else "1x, 2x, 4x, 8x",
            label="Length that SelfExtend is set for" if inside else "Length" if one_length else "Lengths",
        ),
        gr.update(visible=name != "perplexity"),
        gr.update(visible=name != "perplexity"),
    )


def drawn(run: Run, view: View) -> str:
    """A figure for a pane. A picture of it says the rest of how the run was made, which its title leaves out."""
    settings = run.header["settings"]
    said = [
        f"Text: {settings['filler']}" if "filler" in settings else "",
        f"all of this run: {', '.join(settings['methods'])}" if "methods" in settings else "",
        f"begun {run.header['started'][:10]}" if "started" in run.header else "",
    ]
    return packed(figure(view), caption=" · ".join(filter(None, said)))


def _chosen_run(runs: dict[str, OpenedRun], label: str | None) -> tuple[Any, ...]:
    if label not in runs:
        return skipped(3)
    there = views(runs[label].run)
    menu = gr.update(choices=[view.name for view in there], value=there[0].name)
    return menu, drawn(runs[label].run, there[0]), table_html(runs[label].run, there[0].name)


def _chosen_view(runs: dict[str, OpenedRun], label: str | None, name: str | None) -> tuple[Any, ...]:
    there = {view.name: view for view in views(runs[label].run)} if label in runs else {}
    if label is None or name not in there:
        return skipped(2)
    return drawn(runs[label].run, there[name]), table_html(runs[label].run, name)


def _saver(runtime: Runtime, ending: str) -> Callable[..., tuple[str | None, str]]:
    def save(visitor: str, runs: dict[str, OpenedRun], label: str | None) -> tuple[str | None, str]:
        if label not in runs:
            return None, complaint_html("There is no run to save yet: press Run, or open a saved one.")
        run = runs[label].run
        if ending == "jsonl":
            text = "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in (run.header, *run.rows))
        else:
            text = as_csv([run]) if ending == "csv" else as_html(run)
        return runtime.own.save(visitor, f"{run.probe}.{ending}", text), ""

    return save
