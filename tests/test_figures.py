"""Every figure says what it shows, fits both grounds, sends packed arrays, and refuses what does not fit."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from app_parts import unpacked

from app.figures.answers import AROUND, CellFacts, Columns, Group, attention_heatmap, page_bars
from app.figures.lab import figure as lab_figure
from app.figures.plane import parameter_plane_figure
from app.figures.style import template
from app.tabs.parameters import parameter_plane
from app.tabs.plot_pane import packed
from selfextend import SelfExtendConfig
from selfextend.lab.views import DEPTH, GROUP_SIZE, LENGTH, NEIGHBOR_WINDOW, Cell, Curve, CurveView, GridView

CONFIG = SelfExtendConfig(2, 4)
RANDOM = np.random.default_rng(0)


def shares(rows: int, bins: int) -> np.ndarray:
    values = RANDOM.random((rows, bins))
    return values / values.sum(axis=1, keepdims=True)


def columns(bins: int, *groups: Group) -> Columns:
    """Columns of ten tokens each."""
    edges = np.arange(bins + 1) * 10
    return Columns(edges[:-1], edges[1:], groups)


def attention(rows: int, bins: int, *groups: Group, **more: Any) -> go.Figure:
    labels = [f"word {n}" for n in range(rows)]
    given = {"shares": shares(rows, bins), "labels": labels, "columns": columns(bins, *groups), **more}
    return attention_heatmap(**given, title="Where each word of the answer looked", unit="share of attention")


def curve(name: str, method: str) -> Curve:
    return Curve(name, method, tuple(range(0, 6400, 64)), tuple(RANDOM.random(100)), 2.0)


def cells(rows: int, columns: int) -> dict[tuple[int, int], Cell]:
    return {(row, column): Cell(RANDOM.random()) for row in range(rows) for column in range(columns)}


LOSSES = CurveView(
    "curves",
    "Loss by position over 6,400 tokens",
    (curve("Vanilla", "vanilla"), curve("SelfExtend", "selfextend")),
    6400,
    512,
)
ACCURACY = GridView(
    "SelfExtend", "Passkey, G = 8 (n = 20 a cell)", (), ("256", "512", "1,024"), ("0%", "50%", "100%"),
    LENGTH, DEPTH, cells(3, 3), "accuracy", percent=True, inside=2,
)  # fmt: skip
SWEEP = GridView(
    "sweep", "Loss at 4,096 tokens", (), ("2", "4"), ("16", "32", "64"), GROUP_SIZE, NEIGHBOR_WINDOW, cells(3, 2),
    "nats", percent=False,
)  # fmt: skip
Draw = Callable[[], go.Figure]
FIGURES: dict[str, Draw] = {
    "plane": lambda: parameter_plane_figure(
        parameter_plane(64, 300, CONFIG), length=300, trained_window=64, here=(2, 4)
    ),
    "attention": lambda: attention(5, 64, Group("1", 0, 30), Group("2–4", 30, 31, True), Group("5", 31, 64)),
    "shared attention": lambda: attention(5, 64, scale="shared"),
    "log attention": lambda: attention(5, 64, *(Group(f"{n}", n, n + 1) for n in range(64)), scale="log"),
    "pages": lambda: page_bars([f"{n}" for n in range(1, 31)], shares(1, 30)[0], cited=[3]),
    "losses": lambda: lab_figure(LOSSES),
    "accuracy": lambda: lab_figure(ACCURACY),
    "sweep": lambda: lab_figure(SWEEP),
}


def lists_in(part: object) -> list[list]:
    if isinstance(part, dict):
        return [found for value in part.values() for found in lists_in(value)]
    if isinstance(part, list):
        return [part, *(found for value in part for found in lists_in(value))]
    return []


@pytest.mark.parametrize("name", FIGURES)
def test_states_what_it_shows(name: str) -> None:
    figure = FIGURES[name]()
    assert len(figure.layout.title.text) > 10
    assert figure.layout.xaxis.title.text
    assert figure.layout.yaxis.title.text
    assert figure.layout.template == template(dark=False)


def test_both_backgrounds_are_transparent_and_have_a_text_colour_of_their_own() -> None:
    light, dark = template(dark=False).layout, template(dark=True).layout
    assert light.font.color != dark.font.color
    for layout in (light, dark):
        assert layout.paper_bgcolor == "rgba(0,0,0,0)"
        assert layout.legend.orientation == "h"


@pytest.mark.parametrize("name", FIGURES)
def test_travels_as_packed_arrays(name: str) -> None:
    figure = FIGURES[name]()
    sent = unpacked(packed(figure))
    assert sent == json.loads(figure.to_json())
    # Words have to be lists; long runs of numbers must not.
    numbers = [found for found in lists_in(sent["data"]) if found and all(isinstance(n, float) for n in found)]
    assert max(map(len, numbers), default=0) <= 8


def test_the_word_above_the_highest_bar_has_room() -> None:
    figure = page_bars(["1", "2"], [0.2, 0.8], cited=[1])
    assert figure.data[0].text == ("", "cited")
    assert figure.layout.yaxis.range[0] == 0
    assert figure.layout.yaxis.range[1] >= 1.2 * 0.8


def heat(figure: go.Figure) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Colours, shares and key tokens of a heatmap's strips."""
    (trace,) = figure.data
    return trace.z, trace.customdata[..., 0], trace.customdata[..., 1]


def test_each_scale_colours_the_same_shares() -> None:
    values = np.array([[0.5, 0.5 - 1e-9, 1e-9], [0.2, 0.1, 0.0]])
    by_scale = {scale: attention(2, 3, shares=values, scale=scale) for scale in ("row", "shared", "log")}
    np.testing.assert_allclose(heat(by_scale["row"])[0], [[1, 1, 0], [1, 0.5, 0]], atol=1e-6)
    np.testing.assert_allclose(heat(by_scale["shared"])[0], values, atol=1e-6)
    low = np.log10(0.5) - 4
    np.testing.assert_allclose(
        heat(by_scale["log"])[0], [[np.log10(0.5)] * 2 + [low], [np.log10(0.2), -1, low]], atol=1e-6
    )
    for scale, words in (("row", "row's largest"), ("shared", "one scale for all rows"), ("log", "logarithmic")):
        np.testing.assert_allclose(heat(by_scale[scale])[1], values, atol=1e-6)
        assert words in by_scale[scale].layout.coloraxis.colorbar.title.text
    assert by_scale["shared"].layout.coloraxis.cmax == 0.5
    assert attention(2, 3, shares=values, scale="shared", largest=0.9).layout.coloraxis.cmax == 0.9


def test_a_row_that_looked_nowhere_has_no_colour() -> None:
    assert heat(attention(1, 3, shares=np.zeros((1, 3)), scale="row"))[0].tolist() == [[0, 0, 0]]


def test_pages_stand_apart_with_their_numbers_outside() -> None:
    figure = attention(2, 5, Group("1", 0, 2), Group("2–9", 2, 3, True), Group("10", 3, 5))
    colours, _, keys = heat(figure)
    cells = figure.layout.meta["cells"]
    assert np.isnan(colours[0]).tolist() == [False, False, True, False, True, False, False]
    assert cells["starts"] == [0, 10, -1, 20, -1, 30, 40]
    assert cells["stops"] == [10, 20, -1, 30, -1, 40, 50]
    assert keys[0][[0, 1, 3, 5, 6]].tolist() == [4, 14, 24, 34, 44]
    widths = np.diff(figure.data[0].x)
    assert widths[[0, 1, 5, 6]] == pytest.approx(1)
    assert (widths[[2, 3, 4]] < 1).all()
    axis = figure.layout.xaxis
    assert axis.ticktext == ("<br><b>1</b>", "2–9<br>", "<br><b>10</b>")
    assert axis.side == "top", "in sight, however long the answer is"
    assert axis.tickvals == pytest.approx([1, (cells["edges"][3] + cells["edges"][4]) / 2, cells["edges"][-1] - 1])
    assert not figure.layout.shapes, "no line stands inside the plot"


def test_labels_of_many_folded_stretches_take_turns() -> None:
    groups = [Group(f"{n}", n, n + 1, folded=n % 2 == 0) for n in range(11)]
    lines = [text.split("<br>") for text in attention(1, 11, *groups).layout.xaxis.ticktext]
    at = [next(n for n, words in enumerate(reversed(text)) if words) for text in lines]
    assert at == [1, 0, 2, 0, 1, 0, 2, 0, 1, 0, 2]
    assert {len(text) for text in lines} == {3}


def test_labels_of_what_is_no_page_stand_above_the_pages() -> None:
    others = [Group(label, n, n + 1, page=False) for n, label in ((0, "start"), (2, "question"), (3, "answer"))]
    figure = attention(2, 4, others[0], Group("1", 1, 2), *others[1:])
    assert figure.layout.xaxis.ticktext == (
        "<br>start<br><br>", "<br><br><br><b>1</b>", "<br>question<br><br>", "answer<br><br><br>",
    )  # fmt: skip


def test_many_pages_stand_close_with_every_so_many_labelled() -> None:
    figure = attention(1, 60, *(Group(f"{n + 1}", n, n + 1) for n in range(60)))
    assert figure.layout.xaxis.ticktext == ("1", *(str(n) for n in range(5, 61, 5)))
    assert figure.layout.xaxis.minor.tickvals == tuple(range(60))
    assert not np.isnan(heat(figure)[0]).any()


@pytest.mark.parametrize("rows", [1, 12, 60, 128])
def test_rows_are_all_in_view_and_their_labels_do_not_touch(rows: int) -> None:
    figure = attention(rows, 3)
    labelled = figure.layout.yaxis.tickvals
    height = figure.layout.height - AROUND
    assert height <= 768
    assert height / rows * (labelled[1] - labelled[0] if len(labelled) > 1 else 1) >= 14
    assert figure.layout.yaxis.range == (rows - 0.5, -0.5), "read from top to bottom"


def test_tags_in_words_are_words() -> None:
    figure = attention(1, 1, Group("<b>", 0, 1), labels=["</s>"])
    assert figure.layout.yaxis.ticktext == ("&lt;/s&gt;",)
    assert figure.layout.xaxis.ticktext == ("<b>&lt;b&gt;</b>",)


def test_weak_attention_stays_near_the_ground_in_light_and_dark() -> None:
    def brightness(colour: str) -> float:
        return sum(int(colour[at : at + 2], 16) for at in (1, 3, 5)) / 3

    for dark in (False, True):
        ramp = [brightness(colour) for _, colour in template(dark).layout.coloraxis.colorscale]
        assert ramp == sorted(ramp, reverse=not dark)
        assert abs(ramp[0] - ramp[-1]) > 180


def test_a_loss_curve_ends_where_the_text_does() -> None:
    figure = lab_figure(LOSSES)
    assert figure.layout.xaxis.range == (0, 6400)
    assert [line.x0 for line in figure.layout.shapes] == [512]
    assert "," not in figure.data[0].hovertemplate.replace(":,.0f", "")
    inside = lab_figure(replace(LOSSES, trained_window=8192))
    assert inside.layout.xaxis.range == (0, 6400)
    assert not inside.layout.shapes, "no line where there is no text"


def test_accuracy_grid_states_samples_and_marks_the_window() -> None:
    figure = FIGURES["accuracy"]()
    assert "n = 20" in figure.layout.title.text
    assert figure.layout.shapes[0].x0 == 1.5


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: attention(2, 3, labels=["a"]), r"shape \(2, 3\) need .*, not 1 labels"),
        (lambda: attention(2, 3, columns=columns(4)), "4 columns"),
        (lambda: attention(2, 3, facts=CellFacts(keys=np.zeros((2, 4), dtype=int))), r"keys of shape \(2, 4\)"),
    ],
)
def test_refuses_what_does_not_fit(draw: Callable[[], go.Figure], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw()
