"""The Lab tab: the field's probes of long-context reading on the model at hand, side by side, live, kept and reopened.

Components and their handlers; what is measured is in `selfextend.lab`, what is drawn in `app.lab`.
"""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import gradio as gr

from app import lab
from app.runtime import Runtime
from app.tabs.plot_pane import ONCE_DRAWN, packed, plot_pane
from app.tabs.widgets import MODEL_QUEUE, complaint_html, save_on_click, status_html
from selfextend.lab.errors import LabError
from selfextend.lab.records import Run, RunFile, read_run
from selfextend.steps import Progress as Words

if TYPE_CHECKING:
    from selfextend.lab.grid import Progress

HIDDEN: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
REDRAW_SECONDS = 1.0
"""Between two redraws of a running run's figures."""
MOST_BYTES = 50_000_000
"""Of a saved run that is opened."""

INTRODUCTION = (
    "<p class='hint'>Does it read far back, and with which settings? A probe hides something in a text and asks for "
    "it, at several lengths and depths. Every method gets the same texts. A run that was stopped goes on where it was "
    "when it is started again with the same choices.</p>"
)
_VISITOR = re.compile(r"[\w-]{20,64}")


@dataclass(frozen=True, eq=False)
class OpenedRun:
    """A run that can be looked at, and where its record is. Compared by identity."""

    run: Run
    path: Path

    @property
    def label(self) -> str:
        """For menus."""
        sweep = "sweep, " if lab.is_sweep(self.run) else ""
        started = str(self.run.header.get("started", ""))[:16].replace("T", " ")
        return f"{sweep}{self.run.title()} ({started}, {self.path.stem[-6:]})"


class Pane(NamedTuple):
    """One of the two places for a figure, and the menus that choose it."""

    run: gr.Dropdown
    view: gr.Dropdown
    plot: gr.HTML
    table: gr.HTML


def build_lab_tab(runtime: Runtime, visitor: gr.State) -> None:
    """The tab's components and handlers, inside the open gr.Blocks or gr.Tab.

    Args:
        visitor: the page's state with who this is; their documents are what "my documents" means.
    """
    gr.HTML(INTRODUCTION)
    opened = gr.State({})  # label -> OpenedRun
    with gr.Row(equal_height=False, elem_id="lab"):
        with gr.Column(scale=3, min_width=270):
            probe = gr.Dropdown(list(lab.PROBES), value="Passkey", label="Probe", elem_id="lab-probe")
            kind = gr.Radio(
                ["Methods side by side", "Sweep of G and w"], value="Methods side by side", label="What varies"
            )
            methods = gr.CheckboxGroup(
                list(lab.METHODS), value=["Vanilla", "SelfExtend with log-n"], label="Methods", elem_id="lab-methods"
            )
            group_sizes = gr.Textbox(
                "", label="Group sizes G", placeholder="about what is advised", max_lines=1, visible=False
            )
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
            with gr.Row():
                start = gr.Button("Run", variant="primary", elem_id="lab-run", min_width=90)
                stop = gr.Button("Stop", variant="stop", visible=False, elem_id="lab-stop", min_width=90)
            status = gr.HTML(elem_id="lab-status")
            uploaded = gr.File(
                label="Open a saved run",
                file_types=[".jsonl"],
                height=96,
                elem_id="lab-open",
                elem_classes=["drop-zone"],
            )
        with gr.Column(scale=9, min_width=330, elem_id="lab-results", elem_classes=[ONCE_DRAWN]):
            with gr.Row(equal_height=False):
                left, right = _pane("left"), _pane("right")
            with gr.Row():
                saves = {
                    "jsonl": gr.Button("Save the run (JSON lines)", size="sm", min_width=130),
                    "csv": gr.Button("Rows (CSV)", size="sm", min_width=130),
                    "html": gr.Button("Figures and tables (HTML)", size="sm", min_width=130),
                }
            gr.HTML("<p class='hint'>These save the left run. The camera on a figure saves it as PNG.</p>")

    shown = [left.run, left.view, left.plot, left.table, right.run, right.view, right.plot, right.table]
    choices = [probe, kind, methods, lengths, depths, trials, seed, group_sizes, windows, own]

    def run(who: str, runs: dict[str, OpenedRun], *values: Any) -> Iterator[dict[Any, Any]]:
        from selfextend.lab.grid import CellDone

        yield {
            start: gr.update(visible=False),
            stop: gr.update(visible=True),
            status: status_html(Words("starting", None)),
        }
        idle = {start: gr.update(visible=True), stop: gr.update(visible=False)}
        began = time.perf_counter()
        try:
            loaded = runtime.models.need()
            documents = [(one.document.name, one.document.text) for one in runtime.sessions.get(who).documents]
            prepared = lab.prepare(_choices(values), loaded, documents)
            path = _folder(runtime, who) / prepared.file_name
            file = RunFile(path, prepared.header, resume=True)
            going = OpenedRun(file.run, path)
            runs = {**runs, going.label: going}
            yield {opened: runs, **_show(runs, going.label, left, right)}
            drawn = time.perf_counter()
            with contextlib.closing(prepared.steps(file.complete_cells())) as steps:
                for step in steps:
                    if isinstance(step, CellDone):
                        if step.rows:
                            file.add(step.rows)
                        if step.rows and time.perf_counter() - drawn > REDRAW_SECONDS:
                            drawn = time.perf_counter()
                            yield _redraw(going, left, right)
                    else:
                        yield {status: status_html(_words(step))}
            words = Words(f"Done in {time.perf_counter() - began:.1f} s. The run is kept.", None)
            yield {**idle, status: status_html(words), **_redraw(going, left, right)}
        except (ValueError, RuntimeError) as error:
            yield {**idle, status: complaint_html(error)}

    def stopped(runs: dict[str, OpenedRun], at: str | None) -> dict[Any, Any]:
        words = "Stopped. What was measured is kept; Run goes on from here."
        updates = {
            start: gr.update(visible=True),
            stop: gr.update(visible=False),
            status: status_html(Words(words, None)),
        }
        if at in runs:
            updates |= _redraw(runs[at], left, right)
        return updates

    def open_run(path: str | None, runs: dict[str, OpenedRun]) -> dict[Any, Any]:
        if path is None:
            return {status: ""}
        try:
            if Path(path).stat().st_size > MOST_BYTES:
                raise LabError(f"This file is larger than {MOST_BYTES / 1e6:.0f} MB: it is no run of the lab.")
            found = OpenedRun(read_run(Path(path)), Path(path))
            if not found.run.rows:
                raise LabError("This run has no rows yet.")
            runs = {**runs, found.label: found}
            return {opened: runs, status: "", **_show(runs, found.label, left, right)}
        except (ValueError, KeyError, TypeError, IndexError, OSError) as error:
            words = (
                error if isinstance(error, ValueError) else "This file is a damaged run: its rows lack what they need."
            )
            return {status: complaint_html(words)}

    running = start.click(
        run, [visitor, opened, *choices], [start, stop, status, opened, *shown],
        concurrency_limit=1, concurrency_id=MODEL_QUEUE, **HIDDEN,
    )  # fmt: skip
    stop.click(stopped, [opened, left.run], [start, stop, status, *shown], cancels=[running], queue=False, **HIDDEN)
    uploaded.change(open_run, [uploaded, opened], [opened, status, *shown], queue=False, **HIDDEN)
    gr.on(
        [kind.change, probe.change],
        _fitting,
        [kind, probe],
        [methods, group_sizes, windows, lengths, depths, trials],
        queue=False,
        **HIDDEN,
    )
    for pane in (left, right):
        pane.run.input(_chosen_run, [opened, pane.run], [pane.view, pane.plot, pane.table], queue=False, **HIDDEN)
        pane.view.input(_chosen_view, [opened, pane.run, pane.view], [pane.plot, pane.table], queue=False, **HIDDEN)
    for form, button in saves.items():
        save_on_click(button, _saver(form), [opened, left.run], status)


def _pane(side: str) -> Pane:
    with gr.Column(min_width=320):
        run = gr.Dropdown([], label="Run", elem_id=f"lab-run-{side}")
        view = gr.Dropdown([], label="Figure", elem_id=f"lab-view-{side}")
        plot = plot_pane(label=f"Figure of the {side} run", height=420, elem_id=f"lab-plot-{side}")
        table = gr.HTML(elem_id=f"lab-table-{side}")
    return Pane(run, view, plot, table)


def _choices(values: tuple[Any, ...]) -> lab.LabChoices:
    probe, kind, methods, lengths, depths, trials, seed, group_sizes, windows, own = values
    if probe not in lab.PROBES:
        raise LabError("Choose a probe.")
    if trials is None or seed is None:
        raise LabError("Trials and seed both need a whole number.")
    return lab.LabChoices(
        probe=lab.PROBES[probe],
        sweep=kind != "Methods side by side" and lab.PROBES[probe] != "short-context",
        methods=tuple(lab.METHODS[label] for label in methods if label in lab.METHODS),
        lengths=str(lengths),
        depths=str(depths),
        trials=int(trials),
        seed=int(seed),
        group_sizes=str(group_sizes or ""),
        neighbor_windows=str(windows or ""),
        own_document=bool(own),
    )


def _fitting(kind: str, probe: str) -> tuple[Any, ...]:
    """Which settings the kind of run takes."""
    name = lab.PROBES.get(probe, "")
    inside = name == "short-context"
    sweep = kind != "Methods side by side" and not inside
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


def _folder(runtime: Runtime, visitor: str) -> Path:
    """Where a visitor's runs are kept."""
    if not _VISITOR.fullmatch(visitor):
        raise LabError("The page is still starting. Try again in a moment.")
    folder = runtime.library.folder.parent / "lab" / visitor
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _words(step: Progress) -> Words:
    left = "" if step.seconds_left is None else f", about {step.seconds_left:.0f} s left"
    return Words(f"{step.message}{left}", step.fraction)


def _show(runs: dict[str, OpenedRun], label: str, left: Pane, right: Pane) -> dict[Any, Any]:
    """A run on both sides: its first figure on the left and, where there are several, its last on the right."""
    names, views = list(reversed(runs)), lab.views(runs[label].run)
    wanted = list(_planned_views(runs[label].run, views))
    updates: dict[Any, Any] = {}
    for pane, view in ((left, wanted[0]), (right, wanted[-1])):
        updates |= {
            pane.run: gr.update(choices=names, value=label),
            pane.view: gr.update(choices=wanted, value=view),
            **_drawn(pane, runs[label].run, view),
        }
    return updates


def _planned_views(run: Run, views: list[str]) -> list[str]:
    """The figures there are or will be: a run that has just begun has no rows to tell its methods from."""
    planned = run.header["settings"].get("methods", [])
    if lab.is_sweep(run) or run.probe in ("perplexity", "short-context"):
        return views
    return planned or views


def _drawn(pane: Pane, run: Run, view: str) -> dict[Any, Any]:
    return {pane.plot: packed(lab.figure(run, view)), pane.table: lab.table_html(run, view)}


def _redraw(going: OpenedRun, left: Pane, right: Pane) -> dict[Any, Any]:
    views = _planned_views(going.run, lab.views(going.run))
    updates: dict[Any, Any] = {}
    for pane, view in ((left, views[0]), (right, views[-1])):
        updates |= {pane.run: going.label, pane.view: view, **_drawn(pane, going.run, view)}
    return updates


def _chosen_run(runs: dict[str, OpenedRun], label: str | None) -> tuple[Any, Any, Any]:
    if label not in runs:
        return gr.skip(), gr.skip(), gr.skip()
    run = runs[label].run
    views = _planned_views(run, lab.views(run))
    return gr.update(choices=views, value=views[0]), packed(lab.figure(run, views[0])), lab.table_html(run, views[0])


def _chosen_view(runs: dict[str, OpenedRun], label: str | None, view: str | None) -> tuple[Any, Any]:
    if label not in runs or view not in _planned_views(runs[label].run, lab.views(runs[label].run)):
        return gr.skip(), gr.skip()
    return packed(lab.figure(runs[label].run, str(view))), lab.table_html(runs[label].run, view)


def _saver(form: str) -> Callable[..., tuple[str | None, str]]:
    def save(runs: dict[str, OpenedRun], label: str | None) -> tuple[str | None, str]:
        if label not in runs:
            return None, complaint_html("There is no run to save yet: press Run, or open a saved one.")
        run = runs[label].run
        if form == "jsonl":
            text = "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in (run.header, *run.rows))
        else:
            text = lab.as_csv(run) if form == "csv" else lab.as_html(run)
        path = Path(tempfile.mkdtemp(prefix="selfextend-")) / f"{run.probe}.{form}"
        path.write_text(text, encoding="utf-8")
        return str(path), ""

    return save
