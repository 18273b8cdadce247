"""Every figure says what it shows, fits both grounds, sends packed arrays, and refuses what does not fit."""

import json
from collections.abc import Callable

import numpy as np
import plotly.graph_objects as go
import pytest
from app_parts import unpacked

from app.figures.answers import attention_heatmap, page_bars
from app.figures.lab import figure as lab_figure
from app.figures.maps import parameter_plane_figure, position_curve_figure, position_map_figure
from app.figures.style import template
from app.tabs.parameters import parameter_plane
from app.tabs.plot_pane import packed
from selfextend import SelfExtendConfig
from selfextend.lab.views import DEPTH, GROUP_SIZE, LENGTH, NEIGHBOR_WINDOW, Cell, Curve, CurveView, GridView
from selfextend.methods import Method, SelfExtend, Vanilla
from selfextend.position_map import position_curve, position_map

CONFIG = SelfExtendConfig(2, 4)
METHOD = SelfExtend.of(CONFIG)
RANDOM = np.random.default_rng(0)


def shares(rows: int, bins: int) -> np.ndarray:
    values = RANDOM.random((rows, bins))
    return values / values.sum(axis=1, keepdims=True)


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
    "map": lambda: position_map_figure(position_map(7, 60, CONFIG), 7, METHOD, selected=(59, 0)),
    "difference": lambda: position_map_figure(position_map(7, 60, CONFIG, difference=True), 7, METHOD, zoomed=True),
    "curve": lambda: position_curve_figure(position_curve(50, CONFIG), 7, METHOD, key=3),
    "plane": lambda: parameter_plane_figure(
        parameter_plane(64, 300, CONFIG), length=300, trained_window=64, here=(2, 4)
    ),
    "attention": lambda: attention_heatmap(shares(5, 64), list("abcde"), np.arange(65) * 8, page_borders={"p. 2": 100}),
    "linear attention": lambda: attention_heatmap(shares(5, 64), list("abcde"), np.arange(65) * 8, scale="linear"),
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


def polygon_holds(outline: go.Scatter, x: float, y: float) -> bool:
    """Whether a closed outline goes around a point: an odd number of its edges lie to the right."""
    corners = list(zip(outline.x, outline.y, strict=True))
    inside = False
    for (x1, y1), (x2, y2) in zip(corners, corners[1:] + corners[:1], strict=True):
        if (y1 > y) != (y2 > y) and x < x1 + (y - y1) * (x2 - x1) / (y2 - y1):
            inside = not inside
    return inside


@pytest.mark.parametrize("method", [Vanilla(), SelfExtend("none", 2, 4)], ids=str)
@pytest.mark.parametrize("max_cells", [5, 40])
def test_hatching_covers_exactly_the_unseen_cells(method: Method, max_cells: int) -> None:
    cells = position_map(7, 40, method.positions, (3, 40), (1, 30), max_cells=max_cells)
    figure = position_map_figure(cells, 7, method)
    (region,) = [trace for trace in figure.select_traces({"type": "scatter"}) if trace.fill]
    hatched = [[polygon_holds(region, key + 1e-3, query + 1e-3) for key in cells.key] for query in cells.query]
    assert hatched == cells.unseen.tolist()


def test_nothing_is_hatched_where_everything_was_seen() -> None:
    figure = position_map_figure(position_map(7, 10, CONFIG), 7, METHOD)
    assert not [trace for trace in figure.select_traces({"type": "scatter"}) if trace.fill]


def test_map_colours_only_what_a_query_can_see() -> None:
    (heatmap,) = [
        trace for trace in position_map_figure(position_map(7, 10, CONFIG), 7, METHOD).data if trace.type == "heatmap"
    ]
    assert np.isnan(heatmap.z).sum() == 45
    assert heatmap.z[9].tolist() == [6, 6, 5, 5, 4, 4, 3, 2, 1, 0]
    assert (heatmap.zmin, heatmap.zmax) == (0, 6)


def test_curve_keeps_selfextend_readable_beside_vanilla() -> None:
    curve = position_curve(100_000, SelfExtendConfig(32, 1024))
    top = position_curve_figure(curve, 4096, SelfExtend("none", 32, 1024)).layout.yaxis.range[1]
    assert curve.relative.max() <= top < 2 * 4096


def test_log_attention_keeps_true_shares_for_the_hover() -> None:
    values = np.array([[0.5, 0.5 - 1e-9, 1e-9]])
    (heatmap,) = attention_heatmap(values, ["a"], [0, 10, 20, 30]).data
    assert heatmap.z[0].tolist() == pytest.approx([np.log10(0.5), np.log10(0.5), -6], abs=1e-6)
    assert heatmap.customdata[0].tolist() == pytest.approx(values[0].tolist())


def test_page_borders_stand_where_the_pages_begin_in_light_on_dark() -> None:
    figure = attention_heatmap(shares(2, 3), ["a", "b"], [0, 10, 20, 30], page_borders={"1: 1": 3, "1: 2": 17})
    assert [(line.name, line.x0, line.line.width) for line in figure.layout.shapes] == [
        ("1: 1", 3, 3), ("1: 1", 3, 1), ("1: 2", 17, 3), ("1: 2", 17, 1),
    ]  # fmt: skip


def test_accuracy_grid_states_samples_and_marks_the_window() -> None:
    figure = FIGURES["accuracy"]()
    assert "n = 20" in figure.layout.title.text
    assert figure.layout.shapes[0].x0 == 1.5


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: attention_heatmap(shares(2, 3), ["a"], [0, 1, 2, 3]), "2 token labels and 4 bin edges"),
        (lambda: attention_heatmap(shares(2, 3), ["a", "b"], [0, 1, 2]), "not 2 and 3"),
    ],
)
def test_refuses_what_does_not_fit(draw: Callable[[], go.Figure], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw()
