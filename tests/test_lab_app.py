"""The lab as the app has it: choices to runs, a run's rows to figures, tables and files."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest
from app_parts import tiny, tiny_folder, unpacked  # noqa: F401 (fixtures)

from app.figures.lab import as_html, figure, table_html
from app.model_shelf import LoadedModel
from app.tabs.lab import METHODS, PROBES, SIDE_BY_SIDE, SWEEP, choices_of, prepare
from app.tabs.lab import drawn as drawn_in_pane
from selfextend.errors import PastReachError
from selfextend.lab import planning
from selfextend.lab.choices import PROBE_NAMES, Choices, OwnText
from selfextend.lab.errors import LabError
from selfextend.lab.records import Run, as_csv, file_name
from selfextend.lab.run import CellDone, run_plan
from selfextend.lab.statistics import wilson_interval
from selfextend.lab.views import views
from selfextend.loading import hardware
from selfextend.methods import METHOD_NAMES

CHOICES = Choices("passkey", ("vanilla", "selfextend"), lengths="2x, 3x", depths="0,1", trials=2, seed=5)


def made(choices: Choices, loaded: LoadedModel) -> Run:
    plan, header = prepare(choices, loaded)
    steps = run_plan(loaded.model, loaded.tokenizer, plan, loaded.profile)
    return Run(header, [row for step in steps if isinstance(step, CellDone) for row in step.rows])


def names(run: Run) -> list[str]:
    return [view.name for view in views(run)]


def drawn(run: Run, name: str) -> go.Figure:
    (view,) = (view for view in views(run) if view.name == name)
    return figure(view)


@pytest.fixture(scope="module")
def grid(tiny: LoadedModel) -> Run:  # noqa: F811
    return made(CHOICES, tiny)


@pytest.fixture(scope="module")
def curves(tiny: LoadedModel) -> Run:  # noqa: F811
    return made(replace(CHOICES, probe="perplexity", lengths="3x", methods=("vanilla", "window", "yarn")), tiny)


@pytest.fixture(scope="module")
def sweep(tiny: LoadedModel) -> Run:  # noqa: F811
    return made(
        replace(CHOICES, sweep=True, lengths="3x", depths="1", trials=1, group_sizes="5,8", neighbor_windows="32,64"),
        tiny,
    )


def title(figure: Any) -> str:
    return figure.layout.title.text.replace("<br>", " ")


def test_every_probe_and_method_of_the_library_can_be_chosen() -> None:
    assert set(PROBE_NAMES) < set(PROBES.values())
    assert set(METHODS.values()) == set(METHOD_NAMES)


def test_the_same_choices_have_the_same_record_and_others_another(tiny: LoadedModel) -> None:  # noqa: F811
    name = file_name(prepare(CHOICES, tiny)[1])
    assert file_name(prepare(CHOICES, tiny)[1]) == name
    for changed in (replace(CHOICES, seed=6), replace(CHOICES, trials=3), replace(CHOICES, methods=("vanilla",))):
        assert file_name(prepare(changed, tiny)[1]) != name


def test_a_grid_draws_each_method_and_states_how_it_was_made(grid: Run, tiny: LoadedModel) -> None:  # noqa: F811
    assert names(grid) == ["Vanilla", "SelfExtend"]
    for label in names(grid):
        figure = drawn(grid, label)
        rows = [row for row in grid.rows if row["label"] == label]
        right = sum(row["score"] == 1 for row in rows)
        low, high = wilson_interval(right, len(rows))
        for part in (label, f"({low:.0%}–{high:.0%}), n=8", Path(tiny.name).name, "window 256", "seed 5", "n = 2"):
            assert part in title(figure)
        assert list(figure.data[0].x) == ["512", "768"]
        assert list(figure.data[0].y) == ["0%", "100%"]
    settings = [row["settings"]["group_size"] for row in grid.rows if row["label"] == "SelfExtend"]
    assert f"(G {min(settings)}, w 64 to G {max(settings)}, w 64)" in title(drawn(grid, "SelfExtend"))


def test_a_picture_of_a_run_says_the_rest_of_how_it_was_made(grid: Run, curves: Run) -> None:
    own = Run({**grid.header, "settings": {**grid.header["settings"], "filler": "my.pdf"}}, grid.rows)
    for run, words in ((own, ("Text: my.pdf", "Vanilla, SelfExtend")), (curves, ("Vanilla", "YaRN"))):
        layout = unpacked(drawn_in_pane(run, views(run)[0]))["layout"]
        for part in (*words, f"begun {run.header['started'][:10]}"):
            assert part in layout["meta"]["caption"]
        assert "title_height" in layout["meta"]


def test_a_grid_that_has_just_begun_is_drawn_empty(grid: Run) -> None:
    figure = drawn(Run(grid.header), "Vanilla")
    assert "seed 5" in title(figure)
    assert table_html(Run(grid.header)) == ""


def test_curves_name_each_methods_settings(curves: Run) -> None:
    (view,) = names(curves)
    figure = drawn(curves, view)
    assert [trace.name for trace in figure.data] == [
        "Vanilla", "Sliding window (window 256)", "YaRN (RoPE yarn, factor 3)",
    ]  # fmt: skip
    assert list(figure.data[0].y) == pytest.approx([row["loss"] for row in curves.rows if row["label"] == "Vanilla"])
    for part in ("768 tokens", "n = 1 text", "seed 5"):
        assert part in title(figure)


def test_a_sweep_draws_score_and_cost_and_says_what_to_take(sweep: Run) -> None:
    assert names(sweep) == ["sweep", "seconds", "memory"]
    for view, words in (("sweep", "accuracy"), ("seconds", "seconds"), ("memory", "peak memory")):
        figure = drawn(sweep, view)
        assert (list(figure.data[0].x), list(figure.data[0].y)) == (["5", "8"], ["32", "64"])
        assert all(part in title(figure) for part in (words, "768 tokens", "n = 1", "seed 5"))
    by_pair = {tuple(row["settings"].values())[:2]: row["seconds"] for row in sweep.rows}
    assert drawn(sweep, "seconds").data[0].z[1][0] == pytest.approx(by_pair[5, 64], rel=1e-5)
    assert re.search(r"<b>Take SelfExtend \(G=\d, w=\d+\)\.</b> Best: ", table_html(sweep))


def test_a_sweep_with_and_without_logn_draws_the_two_apart(sweep: Run) -> None:
    scaled = [
        row | {"score": 1.0, "settings": row["settings"] | {"query_scaling": "logn"}, "label": row["label"] + " log-n"}
        for row in sweep.rows
    ]
    both = Run(sweep.header, [*(row | {"score": 0.0} for row in sweep.rows), *scaled])
    assert names(both)[3:] == ["sweep, log-n", "seconds, log-n", "memory, log-n"]
    assert drawn(both, "sweep").data[0].z.max() == 0
    assert drawn(both, "sweep, log-n").data[0].z.min() == 1


def test_the_check_inside_the_window_draws_off_and_on(tiny: LoadedModel) -> None:  # noqa: F811
    run = made(replace(CHOICES, probe="short-context", lengths="8x", depths="1", trials=1), tiny)
    assert {row["length"] for row in run.rows} == {256}
    figure = drawn(run, "perplexity")
    off, on = (trace.name for trace in figure.data)
    assert off == "Vanilla"
    assert "(G " in on
    passkeys = [row for row in run.rows if row["probe"] == "passkey"]
    if passkeys:
        assert len(drawn(run, "passkey").data[0].z[0]) == 2


def test_the_visitors_own_document_is_what_things_are_hidden_in(tiny: LoadedModel) -> None:  # noqa: F811
    text = OwnText("my notes.txt", "One plain sentence follows another here. " * 60)
    own = replace(CHOICES, text=text, probe="needle-single", lengths="2x", trials=1)
    assert made(own, tiny).header["settings"]["filler"] == "my notes.txt"
    with pytest.raises(LabError, match="longer text"):
        prepare(replace(own, text=OwnText("short.txt", "Short.")), tiny)
    with pytest.raises(LabError, match="cannot be hidden"):
        prepare(replace(own, probe="key-value"), tiny)
    _, header = prepare(replace(own, probe="perplexity"), tiny)
    assert header["settings"]["text"] == "my notes.txt"


def form(**changes: Any) -> Sequence[Any]:
    """The values of the tab's form, as the browser sends them."""
    values = {
        "probe": "Passkey", "kind": SIDE_BY_SIDE, "methods": ["Vanilla", "SelfExtend"], "lengths": "2x, 3x",
        "depths": "0,1", "trials": 2, "seed": 5, "group_sizes": "", "windows": "", "own": False,
    }  # fmt: skip
    return list((values | changes).values())


def test_what_is_typed_are_the_choices() -> None:
    assert choices_of(form(), []) == CHOICES
    swept = choices_of(form(kind=SWEEP, group_sizes="5,8", windows="32"), [])
    assert (swept.sweep, swept.group_sizes, swept.neighbor_windows) == (True, "5,8", "32")
    assert not choices_of(form(kind=SWEEP, probe="Inside the trained window"), []).sweep
    assert choices_of(form(own=True), [("a.txt", "A."), ("b.txt", "B.")]).text == OwnText("a.txt, b.txt", "A.\n\nB.")
    with pytest.raises(LabError, match="no document"):
        choices_of(form(own=True), [])
    for changes, words in (
        ({"probe": None}, "Choose a probe"),
        ({"trials": None}, "whole number"),
        ({"seed": None}, "seed"),
    ):
        with pytest.raises(LabError, match=words):
            choices_of(form(**changes), [])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"trials": 0}, "trials"),
        ({"depths": "0,1.5"}, "0 … 1"),
        ({"depths": "deep"}, "no depths"),
        ({"lengths": "long"}, "no length"),
        ({"lengths": "100"}, "by itself"),
        ({"methods": ()}, "at least one method"),
        ({"sweep": True, "lengths": "64x", "group_sizes": "2"}, "None of these"),
        ({"sweep": True}, "one length"),
        ({"probe": "short-context", "lengths": "1x"}, "nothing would be grouped"),
        ({"lengths": "1000001"}, "at most 1,000,000 tokens here"),
        ({"lengths": "1000000000"}, "at most 10,000,000 tokens"),
        ({"lengths": "9e300x"}, "at most 10,000,000 tokens"),
        ({"probe": "perplexity", "lengths": "1000000000"}, "at most 10,000,000 tokens"),
        ({"lengths": "2x," * 100 + "2x"}, "at most 100 entries, not 101"),
        ({"depths": "101"}, "at most 100 depths, not 101"),
        ({"depths": "0.5," * 100 + "1"}, "at most 100 entries, not 101"),
        ({"trials": 10_001}, "at most 10,000 trials, not 10,001"),
        ({"lengths": "900000", "depths": "100"}, "200 texts of 900,000 tokens are more than the 20,000,000"),
        ({"sweep": True, "lengths": "3x", "group_sizes": "5," * 100 + "5"}, "at most 100 entries, not 101"),
    ],
)
def test_what_cannot_be_run_is_refused(tiny: LoadedModel, changes: dict[str, Any], words: str) -> None:  # noqa: F811
    with pytest.raises(ValueError, match=words):
        prepare(replace(CHOICES, **changes), tiny)


def test_a_text_that_does_not_fit_the_memory_is_refused(
    tiny: LoadedModel,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hardware, "available_bytes", lambda device: 1000)
    with pytest.raises(ValueError, match=r"768 tokens takes .* of memory, and 1,000 bytes are free"):
        prepare(CHOICES, tiny)


def test_no_text_is_written_for_a_length_that_is_refused(
    tiny: LoadedModel,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(planning, "prose_tokens", lambda *given: pytest.fail("a text was written"))
    far = replace(CHOICES, probe="perplexity", lengths="900000", group_size=4, neighbor_window=64)
    with pytest.raises(PastReachError):
        prepare(far, tiny)


def test_exports_hold_every_row_and_every_figure(grid: Run) -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv([grid]))))
    assert len(rows) == len(grid.rows)
    assert {(row["model"], row["seed"]) for row in rows} == {(grid.header["model"]["name"], "5")}
    assert [float(row["score"]) for row in rows] == [row["score"] for row in grid.rows]
    page = as_html(grid)
    assert page.count('class="plotly-graph-div"') == 2
    assert "95% interval" in page
    assert not re.search(r"<(script|link|img)[^>]*(src|href)=", page)
