"""A run's picture against its rows: every accuracy, setting and interval stands in it, where it belongs."""

from __future__ import annotations

from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

import pytest

from selfextend.lab.errors import LabError
from selfextend.lab.records import Row, Run, header
from selfextend.lab.statistics import wilson_interval
from selfextend.lab.svg import as_svg

MODEL = {"name": "m<&>", "parameters": 2_000_000, "trained_window": 256, "dtype": "float32"}
SVG = "{http://www.w3.org/2000/svg}"


def run_of(rows: list[Row], probe: str = "passkey", **settings: Any) -> Run:
    return Run(header(probe, MODEL, {}, settings, 7, "2026-01-01T00:00:00+00:00"), rows)


def row(label: str, settings: dict[str, Any], length: int, depth: float, trial: int, score: float) -> Row:
    return {
        "probe": "passkey", "method": "selfextend", "label": label, "settings": settings, "length": length,
        "depth": depth, "cell_rows": 2, "trial": trial, "score": score, "seconds": 1.0, "peak_bytes": 1,
    }  # fmt: skip


def parsed(picture: str) -> ElementTree.Element:
    return ElementTree.fromstring(picture)  # noqa: S314 (our own)


def words_of(picture: str) -> list[tuple[float, float, str]]:
    """Where each text of an SVG stands inside its panel, and what it says. It also has to be XML."""
    return [
        (float(text.get("x", 0)), float(text.get("y", 0)), text.text or "")
        for text in parsed(picture).iter(f"{SVG}text")
    ]


def said(picture: str) -> str:
    return " ".join(words for _, _, words in words_of(picture))


def test_a_grid_says_each_cells_accuracy_in_its_column_and_row() -> None:
    rights = {(256, 0.0): 2, (256, 1.0): 1, (1024, 0.0): 0, (1024, 1.0): 2}
    settings = {256: {}, 1024: {"group_size": 8, "neighbor_window": 64, "query_scaling": "logn"}}
    rows = [
        row("SelfExtend", settings[length], length, depth, trial, float(trial < right))
        for (length, depth), right in rights.items()
        for trial in range(2)
    ]
    picture = as_svg(run_of(rows, trials=2))
    places = words_of(picture)
    columns = {length: next(x for x, _, words in places if words == f"{length:,}") for length in (256, 1024)}
    for (length, depth), right in rights.items():
        height = next(y for _, y, words in places if words == f"{depth:.0%}" and y < 100)
        assert (columns[length], height, f"{right / 2:.0%}") in places
    whole = said(picture)
    low, high = wilson_interval(5, 8)
    assert f"SelfExtend: {5 / 8:.0%} ({low:.0%}–{high:.0%}), n=8" in whole
    for part in ("m<&>", "trained window 256", "n = 2 per cell", "seed 7", "G 8", "w 64", "log-n"):
        assert part in whole
    low, high = wilson_interval(2, 4)
    assert (columns[1024], f"{low:.0%}–{high:.0%}") in [(x, words) for x, _, words in places]


def test_cells_darken_with_their_accuracy() -> None:
    rows = [row("A", {}, 512, depth, 0, score) for depth, score in ((0.0, 0.0), (0.5, 0.5), (1.0, 1.0))]
    # Half right is wrong; only whole answers count.
    boxes = [box.get("fill") for box in parsed(as_svg(run_of(rows, trials=1))).iter(f"{SVG}rect")][1:]
    assert boxes[0] == boxes[1] != boxes[2]
    assert sum(bytes.fromhex(boxes[2][1:])) < sum(bytes.fromhex(boxes[0][1:]))


def curve(label: str, losses: list[float], settings: dict[str, Any]) -> list[Row]:
    return [
        {
            "probe": "perplexity", "method": label, "label": label, "settings": settings, "length": 1000,
            "start": 1 + 250 * number, "end": 251 + 250 * number, "tokens": 250, "loss": loss, "cell_rows": 4,
            "seconds": 1.0, "peak_bytes": 1,
        }
        for number, loss in enumerate(losses)
    ]  # fmt: skip


def test_curves_run_through_their_losses() -> None:
    rows = [
        *curve("Vanilla", [1.0, 2.0, 3.0, 4.0], {}),
        *curve("YaRN", [1.0] * 4, {"rope_type": "yarn", "factor": 4.0}),
    ]
    picture = as_svg(run_of(rows, "perplexity", text="a novel"))
    lines = [line.get("points", "").split() for line in parsed(picture).iter(f"{SVG}polyline")]
    steep, flat = [[tuple(map(float, point.split(","))) for point in line] for line in lines if len(line) == 4]
    steps = [before[1] - after[1] for before, after in pairwise(steep)]
    assert steps == pytest.approx([steps[0]] * 3, abs=0.2)  # equal steps of loss, upwards
    assert steps[0] > 20
    assert {y for _, y in flat} == {steep[0][1]}
    whole = said(picture)
    for part in ("YaRN (RoPE yarn, factor 4)", "Vanilla: 54.6 over the last quarter", "n = 1 text (a novel)", "seed 7"):
        assert part in whole


def test_numbers_fixed_by_hand_are_said_once() -> None:
    settings = {"group_size": 8, "neighbor_window": 64, "query_scaling": "none"}
    whole = said(
        as_svg(run_of(curve("SelfExtend (G=8, w=64)", [1.0, 2.0, 3.0, 4.0], settings), "perplexity", text="a novel"))
    )
    assert "SelfExtend (G 8, w 64)" in whole
    assert "G=8" not in whole


@pytest.mark.parametrize("losses", [False, True])
def test_a_sweep_has_a_panel_for_each_query_scaling(losses: bool) -> None:
    rows: list[Row] = []
    for scaling in ("none", "logn"):
        for group, loss in ((4, 1.0), (8, 2.0)):
            settings = {"group_size": group, "neighbor_window": 64, "query_scaling": scaling}
            if losses:
                rows += curve(f"{scaling} {group}", [loss] * 4, settings)
            else:
                rows += [row(f"{scaling} {group}", settings, 1024, 0.5, trial, float(group == 8)) for trial in (0, 1)]
    picture = as_svg(run_of(rows, "perplexity" if losses else "passkey", sweep=True))
    whole = said(picture)
    assert "SelfExtend at" in whole
    assert "SelfExtend with log-n at" in whole
    low, high = wilson_interval(2, 2)
    expected = ("2.72", "7.39", "perplexity") if losses else ("0%", f"{low:.0%}–{high:.0%}", "n = 2 for each pair")
    assert all(whole.count(words) >= 2 for words in expected)


def test_what_has_no_picture_is_refused() -> None:
    with pytest.raises(LabError, match="no rows"):
        as_svg(run_of([]))
    for probe, rows in (
        ("eval", [{"task": "t"}]),
        ("short-context", [row("A", {}, 256, 0.5, 0, 1.0)]),
        ("passkey", [row("A", {}, 256, 0.5, 0, 1.0) | {"case": 0, "depth": None}]),
    ):
        with pytest.raises(LabError, match="no picture"):
            as_svg(run_of(rows, probe))
