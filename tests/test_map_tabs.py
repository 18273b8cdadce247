"""What the map's and the plane's handlers accept, refuse and answer, without a browser."""

from typing import Any

import gradio as gr
import pytest
import reference
from app_parts import unpacked
from hypothesis import given, settings
from hypothesis import strategies as st

from app.tabs.controls import suggested
from app.tabs.parameters import ABOVE_RULE, BELOW_BAND, IN_BAND, TOO_SHORT, parameter_plane, verdict_of
from app.tabs.position_map import _cell_of, _draw, _sum_of, _tokens_in
from app.tabs.widgets import DocumentView, method_of, settings_of
from selfextend import SelfExtendConfig, max_length, suggest
from selfextend.config import rule_share, smallest_group_size
from selfextend.methods import SelfExtend


def sent(data: Any) -> gr.EventData:
    """An event of the browser's with these data."""
    return gr.EventData(None, data)


VIEW = DocumentView(trained_window=7, length=10, token_text=lambda n: f" w{n}")


@given(st.integers(1, 500), st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=2))
def test_any_zoom_lands_inside_the_document(length: int, edges: list[float]) -> None:
    start, stop = _tokens_in(sent({"x": edges}), "x", length)
    assert 0 <= start < stop <= length
    assert stop - start >= min(length, 8)


def test_zoom_takes_the_tokens_whose_cells_are_in_view() -> None:
    assert _tokens_in(sent({"x": [99.5, 199.5]}), "x", 1000) == (100, 200)
    assert _tokens_in(sent({"x": [199.5, 99.5]}), "x", 1000) == (100, 200)
    assert _tokens_in(sent({"x": [-50.5, 49.5]}), "x", 1000) == (0, 100)
    assert _tokens_in(sent({}), "x", 1000) == (0, 1000)


@pytest.mark.parametrize(
    "data",
    [{"x": "all"}, {"x": [1]}, {"x": [1, None]}, {"x": [float("nan"), 1.0]}, {"x": [0, 1e300]}, {"x": [True, 2]}],
)
def test_zoom_refuses_what_is_no_range(data: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="two numbers"):
        _tokens_in(sent(data), "x", 100)


@pytest.mark.parametrize(
    "data", [None, [], "xy", 3, {}, {"x": 3}, {"x": "3", "y": 4}, {"x": 4, "y": 3}, {"x": 0, "y": 10}]
)
def test_pointer_refuses_what_is_no_cell(data: Any) -> None:
    with pytest.raises(ValueError, match=r"cell"):
        _cell_of(sent(data), 10)


def test_map_answers_with_figures_the_sum_and_the_state() -> None:
    *boxes, figure, curve, readout, status = _draw(sent({}), 0, "SelfExtend", 2.0, 4.0, VIEW, 3, 4, 1, 2, 0, 0)[1:]
    assert boxes == [0, 10, 0, 10, 9, 0]
    assert unpacked(figure)["layout"]["title"]["text"].replace("<br>", " ").endswith("SelfExtend (G = 2, w = 4)")
    assert "query 9" in unpacked(curve)["layout"]["title"]["text"]
    assert "9//2 - 0//2 + 4 - 4//2 = 4 - 0 + 4 - 2 = 6" in readout
    assert "<b> w9</b>" in readout
    assert "never seen" in readout.split("SelfExtend")[0]
    assert "never seen" not in readout.split("SelfExtend")[1]
    assert "this document of <b>10</b> fits" in status


def test_another_document_is_shown_whole_and_the_same_one_where_it_was() -> None:
    in_view = (2, 6, 1, 5, 4, 2)
    # What is in the boxes is left alone: an answer that comes late must not undo what was typed meanwhile.
    assert all(kept == gr.skip() for kept in _draw(sent({}), 10, "SelfExtend", 2.0, 4.0, VIEW, *in_view)[:7])
    length, *numbers = _draw(sent({}), 2048, "SelfExtend", 2.0, 4.0, VIEW, 0, 2048, 0, 2048, 2047, 0)[:7]
    assert (length, *numbers) == (10, 0, 10, 0, 10, 9, 0)
    # A cell that was chosen stays chosen where it can; the corner that nobody chose moves along.
    assert _draw(sent({}), 8, "SelfExtend", 2.0, 4.0, VIEW, 0, 8, 0, 8, 6, 1)[5:7] == (6, 1)
    assert _draw(sent({}), 8, "SelfExtend", 2.0, 4.0, VIEW, 0, 8, 0, 8, 7, 0)[5:7] == (9, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("SelfExtend", 0, 4, VIEW, 0, 10, 0, 10, 9, 0), "group_size must be at least 1"),
        (("SelfExtend", 2, 7, VIEW, 0, 10, 0, 10, 9, 0), "must be smaller than the trained window"),
        (("SelfExtend", None, 4, VIEW, 0, 10, 0, 10, 9, 0), "both need a whole number"),
        (("SelfExtend", 2, 4, VIEW, 0, 11, 0, 10, 9, 0), "query_to must be at most"),
        (("SelfExtend", 2, 4, VIEW, 0, 10, 0, 10, 3, 4), "causal attention looks back only"),
        (("<b>", 2, 4, VIEW, 0, 10, 0, 10, 9, 0), "method is one of"),
    ],
)
def test_map_says_what_is_wrong_and_keeps_the_picture(arguments: tuple, message: str) -> None:
    figure, curve, readout, status = _draw(sent({}), 10, *arguments)[-4:]
    assert figure == curve == readout == gr.skip()
    assert message in status
    assert 'role="alert"' in status
    assert "<b>" not in status


def test_words_are_escaped() -> None:
    view = DocumentView(7, 10, lambda position: "<img src=x>")
    assert "<img" not in _sum_of(9, 0, SelfExtend("none", 2, 4), view)


def test_words_may_be_missing() -> None:
    assert "Words" not in _sum_of(9, 0, SelfExtend("none", 2, 4), DocumentView(7, 10))


@settings(max_examples=25)
@given(st.integers(3, 200), st.integers(1, 3000))
def test_plane_tells_what_fits_and_what_the_rule_advises(trained_window: int, length: int) -> None:
    plane = parameter_plane(trained_window, length, SelfExtendConfig(3, trained_window - 1))
    assert plane.verdict.shape == plane.reach.shape == (len(plane.neighbor_windows), len(plane.group_sizes))
    assert 3 in plane.group_sizes
    assert plane.neighbor_windows.max() == trained_window - 1
    for row, window in list(enumerate(plane.neighbor_windows.tolist()))[::5]:
        for column, size in list(enumerate(plane.group_sizes.tolist()))[::5]:
            fits = reference.relative_position(length - 1, 0, size, window) < trained_window
            share = rule_share(trained_window, length, SelfExtendConfig(size, window))
            verdict = plane.verdict[row, column]
            assert (verdict != TOO_SHORT) == fits == (length <= plane.reach[row, column])
            if fits:
                assert verdict == (BELOW_BAND if share < 1 / 2 else IN_BAND if share < 2 / 3 else ABOVE_RULE)


@given(st.integers(8, 5000), st.data())
def test_suggestion_stands_in_an_advised_cell(trained_window: int, data: st.DataObject) -> None:
    length = data.draw(st.integers(trained_window + 1, 40 * trained_window))
    config = suggest(trained_window, length)
    assert verdict_of(trained_window, length, config) in (IN_BAND, BELOW_BAND)
    assert rule_share(trained_window, length, config) < 2 / 3


@given(st.integers(3, 60), st.integers(1, 400), st.data())
def test_smallest_group_size_is_the_smallest_that_fits(trained_window: int, length: int, data: st.DataObject) -> None:
    window = data.draw(st.integers(1, trained_window - 1))
    sizes = (
        size for size in range(1, 1000) if reference.relative_position(length - 1, 0, size, window) < trained_window
    )
    assert smallest_group_size(trained_window, length, window) == next(sizes)


def test_rule_share_in_the_papers_own_numbers() -> None:
    assert rule_share(2048, 4096, SelfExtendConfig(4, 512)) == (512 + (4096 - 512) / 4) / 2048
    assert rule_share(2048, 300, SelfExtendConfig(4, 512)) == 300 / 2048


def test_suggest_counts_the_longest_answer_that_is_set_now() -> None:
    """The view still has room for 64 tokens where 4,096 were set the moment before."""
    group, window = suggested(DocumentView(256, 464, room=64), None, 4096)
    assert max_length(256, SelfExtendConfig(group["value"], window["value"])) >= 400 + 4096


def test_sliders_send_floats_or_nothing() -> None:
    assert settings_of(8.0, 64.0) == SelfExtendConfig(8, 64)
    with pytest.raises(ValueError, match="whole number"):
        settings_of(None, 64.0)  # type: ignore[arg-type]


def test_each_method_takes_the_sliders_that_it_has() -> None:
    assert method_of("Vanilla", 8, 64, "logn").settings() == {}
    assert method_of("SelfExtend", 8.0, 64.0, "logn") == SelfExtend("logn", 8, 64)
    assert method_of("ReRoPE", 8, 64).settings() == {"neighbor_window": 64, "query_scaling": "none"}


def test_rerope_has_a_map_of_its_own() -> None:
    *_, figure, _, readout, status = _draw(sent({}), 10, "ReRoPE", 2, 4, VIEW, 0, 10, 0, 10, 9, 0)
    assert unpacked(figure)["layout"]["title"]["text"].replace("<br>", " ").endswith("ReRoPE (w = 4)")
    assert "min(9 - 0, 4) = 4" in readout
    assert "any number of" in status
