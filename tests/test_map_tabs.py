"""What the map's and the plane's handlers accept and answer, without a browser."""

import json
from typing import Any

import gradio as gr
import pytest
import reference
from app_parts import unpacked
from hypothesis import given, settings
from hypothesis import strategies as st

from app.tabs.controls import suggested
from app.tabs.parameters import ABOVE_RULE, BELOW_BAND, IN_BAND, TOO_SHORT, _draw, parameter_plane, verdict_of
from app.tabs.position_map import facts_of, words_for
from app.tabs.widgets import DocumentView, cell_of, method_of, settings_of, tokens_in
from selfextend import SelfExtendConfig, max_length, suggest
from selfextend.config import rule_share, smallest_group_size
from selfextend.methods import SelfExtend


def sent(data: Any) -> gr.EventData:
    """An event of the browser's with these data."""
    return gr.EventData(None, data)


VIEW = DocumentView(trained_window=7, length=10, token_text=lambda n: f" w{n}")


@given(st.integers(1, 500), st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=2))
def test_any_zoom_lands_inside_the_document(length: int, edges: list[float]) -> None:
    start, stop = tokens_in(sent({"x": edges}), "x", length, 8) or (0, length)
    assert 0 <= start < stop <= length
    assert stop - start >= min(length, 8)


def test_zoom_takes_the_tokens_in_view() -> None:
    assert tokens_in(sent({"x": [100.2, 199.8]}), "x", 1000, 8) == (100, 200)
    assert tokens_in(sent({"x": [200, 100]}), "x", 1000, 8) == (100, 200)
    assert tokens_in(sent({"x": [-50, 50]}), "x", 1000, 8) == (0, 100)
    assert tokens_in(sent({}), "x", 1000, 8) is None


@pytest.mark.parametrize(
    "data",
    [{"x": "all"}, {"x": [1]}, {"x": [1, None]}, {"x": [float("nan"), 1.0]}, {"x": [0, 1e300]}, {"x": [True, 2]}],
)
def test_zoom_refuses_what_is_no_range(data: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="two numbers"):
        tokens_in(sent(data), "x", 100, 8)


@pytest.mark.parametrize("data", [None, [], "xy", 3, {}, {"x": 3}, {"x": "3", "y": 4}])
def test_pointer_refuses_what_is_no_cell(data: Any) -> None:
    with pytest.raises(ValueError, match="cell"):
        cell_of(sent(data))


def test_a_picture_of_the_plane_names_model_settings_and_document() -> None:
    view = DocumentView(512, 1_900, model="Bundled model", documents=("a.pdf", "b.txt"))
    caption = unpacked(_draw(8, 128, view)[0])["layout"]["meta"]["caption"]
    assert caption == (
        "Bundled model, SelfExtend (G = 8, w = 128), a.pdf, b.txt, 1,900 tokens, room for the answer included."
    )


def test_both_tabs_advise_the_neighbor_window_recommended_for_the_model() -> None:
    """Mistral-7B-Instruct: 1,024 of 8,192 tokens, not a quarter of them."""
    view = DocumentView(8192, 20_000, neighbor_window=1024)
    advised = suggest(8192, 20_000, neighbor_window=1024)
    group, window = suggested(view, view.room)
    assert (group["value"], window["value"]) == (advised.group_size, 1024)
    assert view.suggestion == advised
    _, advice = _draw(8, 128, view)
    assert f"<dt>Suggested</dt><dd>{SelfExtend.of(advised).setting}:" in advice
    assert DocumentView(8192, 20_000).suggestion == suggest(8192, 20_000)


def test_the_browser_hears_what_is_read() -> None:
    view = DocumentView(512, 1_900, model="Bundled model", documents=("a.pdf", "b.txt"))
    facts = json.loads(facts_of(view))
    assert facts.pop("id") == json.loads(facts_of(view))["id"] != json.loads(facts_of(VIEW))["id"]
    assert facts == {"trained": 512, "length": 1_900, "model": "Bundled model", "documents": ["a.pdf", "b.txt"]}


def test_words_come_with_their_neighbors() -> None:
    answer = json.loads(words_for(sent({"tokens": [0, 5]}), VIEW))
    assert answer["id"] == json.loads(facts_of(VIEW))["id"]
    assert answer["tokens"] == {
        "0": ["", " w0", " w1 w2 w3 w4"],
        "5": [" w1 w2 w3 w4", " w5", " w6 w7 w8 w9"],
    }


def test_words_may_be_missing() -> None:
    assert json.loads(words_for(sent({"tokens": [9, 0]}), DocumentView(7, 10)))["tokens"] == {}


@pytest.mark.parametrize("data", [None, [], "xy", 3, {}, {"tokens": 3}, {"tokens": "9"}, {"tokens": {"0": 1}}])
def test_words_for_nothing_sensible_are_none(data: Any) -> None:
    assert words_for(sent(data), VIEW) == gr.skip()


def test_words_leave_out_what_is_no_token_and_are_not_without_end() -> None:
    asked = [-1, 10, 1e9, True, None, "4", [4], float("nan"), 4]
    assert list(json.loads(words_for(sent({"tokens": asked}), VIEW))["tokens"]) == ["4"]
    many = DocumentView(7, 100_000, lambda n: f" w{n}")
    assert len(json.loads(words_for(sent({"tokens": list(range(10_000))}), many))["tokens"]) == 64


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
    group, window = suggested(DocumentView(256, 464, room=64), 4096)
    assert max_length(256, SelfExtendConfig(group["value"], window["value"])) >= 400 + 4096


def test_sliders_send_floats_or_nothing() -> None:
    assert settings_of(8.0, 64.0) == SelfExtendConfig(8, 64)
    with pytest.raises(ValueError, match="whole number"):
        settings_of(None, 64.0)  # type: ignore[arg-type]


def test_each_method_takes_the_sliders_that_it_has() -> None:
    assert method_of("Vanilla", 8, 64, "logn").settings() == {}
    assert method_of("SelfExtend", 8.0, 64.0, "logn") == SelfExtend("logn", 8, 64)
    assert method_of("ReRoPE", 8, 64).settings() == {"neighbor_window": 64, "query_scaling": "none"}
