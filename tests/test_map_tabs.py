"""What the handlers of the map, the plane and the heatmap accept, refuse and answer, without a browser."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
import reference
from app_parts import stored, tiny, tiny_folder, unpacked  # noqa: F401 (fixtures)
from hypothesis import given, settings
from hypothesis import strategies as st

from app.answering import reply_by
from app.asking import Question, answer_turn
from app.conversation import Entry
from app.model_shelf import LoadedModel
from app.session import CacheStore, Session, Turn
from app.tabs.attention import _answer
from app.tabs.compare import _compared_turns, _heatmaps, _pictures
from app.tabs.controls import suggested
from app.tabs.heatmap import pages_that_matter, row_labels
from app.tabs.parameters import ABOVE_RULE, BELOW_BAND, IN_BAND, TOO_SHORT, parameter_plane, verdict_of
from app.tabs.position_map import _cell_of, _draw, _sum_of, _tokens_in
from app.tabs.widgets import DocumentView, method_of, settings_of
from selfextend import SelfExtendConfig, max_length, suggest
from selfextend.config import rule_share, smallest_group_size
from selfextend.generation import GenerationSettings
from selfextend.methods import SelfExtend, Vanilla
from selfextend.steps import result_of


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


# The attention's heatmap


@pytest.fixture(scope="module")
def turns(tiny: LoadedModel) -> tuple[Turn, Turn]:  # noqa: F811
    """Two methods' answers over twelve pages."""
    asked = [
        Question("Who jumps?", (stored(pages=12),), method, "always", GenerationSettings(max_new_tokens=6))
        for method in (Vanilla(), SelfExtend("none", 8, 64))
    ]
    caches, session = CacheStore(10**9), Session("v")
    vanilla, extended = (result_of(answer_turn(tiny, caches, session, question)) for question in asked)
    return vanilla, extended


CHOICES = ("all", "all", "cited", "shared", True, False)
OUTPUTS = (
    "summary",
    "layer",
    "head",
    "pooled",
    "scale",
    "fold",
    "sink",
    "span",
    "figure",
    "how",
    "readout",
    "row",
    "key",
)


def looked_at(turn: Turn | None, asked: dict[str, Any], *given: Any) -> dict[str, Any]:
    """What the tab's handler sets, by name; what it leaves alone is left out."""
    choices, span, cell = given or (CHOICES, None, (0, 0))
    answers = _answer(sent(asked), turn, *choices, span, *cell)
    return {name: value for name, value in zip(OUTPUTS, answers, strict=True) if value != gr.skip()}


def cells_of(figure: str) -> dict[str, Any]:
    cells: dict[str, Any] = unpacked(figure)["layout"]["meta"]["cells"]
    return cells


def test_an_answer_opens_at_its_strongest_cell_on_the_pages_that_matter(turns: tuple[Turn, Turn]) -> None:
    turn = turns[1]
    opened = looked_at(turn, {"open": True})
    assert "Who jumps?" in opened["summary"]
    assert opened["fold"]["value"] is opened["fold"]["interactive"] is True
    assert (opened["pooled"], opened["sink"], opened["span"]) == ("cited", False, None)
    cells, layout = cells_of(opened["figure"]), unpacked(opened["figure"])["layout"]
    assert cells["first_query"] == len(turn.prompt) - 1
    assert cells["chosen"] == [opened["row"], opened["key"]]
    assert len(cells["rows"]) == len(turn.answer.token_ids)
    shown = [text.replace("<br>", "") for text in layout["xaxis"]["ticktext"] if text.startswith("<b>")]
    assert 1 <= len(shown) <= 5
    assert {f"<b>{page}</b>" for _, page in pages_that_matter([turn])} == set(shown)
    assert "root mean square of all 4 heads of each of the 2 recorded layers" in opened["how"]
    for words in ("Who jumps?", "SelfExtend (G = 8, w = 64)", "notes.txt", turn.model_name):
        assert words in layout["meta"]["caption"]
    assert f"(token {opened['row']} of the answer) looked at notes.txt, page" in opened["readout"]
    assert "Share of attention" in opened["readout"]
    assert "at its exact place" in opened["readout"] or "place known to ±8 tokens" in opened["readout"]


def test_short_documents_are_never_folded(tiny: LoadedModel, turns: tuple[Turn, Turn]) -> None:  # noqa: F811
    asked = replace_question(turns[1], stored(pages=3))
    opened = looked_at(result_of(answer_turn(tiny, CacheStore(10**9), Session("w"), asked)), {"open": True})
    assert opened["fold"]["value"] is opened["fold"]["interactive"] is False
    assert unpacked(opened["figure"])["layout"]["xaxis"]["ticktext"] == ["<b>1</b>", "<b>2</b>", "<b>3</b>"]


def replace_question(turn: Turn, document: Any) -> Question:
    return Question(turn.question, (document,), turn.method, turn.extend, GenerationSettings(max_new_tokens=6))


def test_choices_redraw_and_leave_the_rest_alone(turns: tuple[Turn, Turn]) -> None:
    loose = ("1", "2", "max", "log", False, True)
    drawn = looked_at(turns[1], {"draw": True}, loose, None, (0, 0))
    assert set(drawn) == {"figure", "how"}
    assert "largest weight" in drawn["how"]
    assert "the strongest of head 2 of layer 1" in drawn["how"]
    labels = unpacked(drawn["figure"])["layout"]["xaxis"]["ticktext"]
    assert len(labels) < 15, "start, twelve pages, question and answer: some of them labelled"
    assert cells_of(drawn["figure"])["starts"][0] == 0


def test_zoom_is_asked_for_in_tokens(turns: tuple[Turn, Turn]) -> None:
    turn = turns[1]
    start, stop = turn.prompt.index.page_tokens(0, 7)
    every = (*CHOICES[:4], False, False)
    zoomed = looked_at(turn, {"zoom": {"x": [start, stop]}}, every, None, (0, 0))
    assert zoomed["span"] == (start, stop)
    cells = cells_of(zoomed["figure"])
    assert (min(cells["starts"]), max(cells["stops"])) == (start, stop)
    whole = looked_at(turn, {"zoom": {}}, every, (start, stop), (0, 0))
    assert whole["span"] is None
    for refused in ({"zoom": {"x": [1, None]}}, {"pick": {"x": "a", "y": 0}}):
        assert looked_at(turn, refused, every, None, (0, 0)) == {}


def test_a_picked_cell_is_told_in_words(turns: tuple[Turn, Turn]) -> None:
    turn = turns[1]
    start, _ = turn.prompt.index.page_tokens(0, 7)
    every = (*CHOICES[:4], False, False)
    picked = looked_at(turn, {"pick": {"x": start, "y": 2}}, every, None, (0, 0))
    assert (picked["row"], picked["key"]) == (2, start)
    assert "(token 2 of the answer) looked at notes.txt, page 7 (tokens" in picked["readout"]
    assert "Page 7" in picked["readout"]
    for cell, words in (((99, start), "tokens 0 to 5"), ((0, 10**6), "not in the picture"), ((None, 3), "alert")):
        assert words in looked_at(turn, {"describe": True}, every, None, cell)["readout"]


def test_rows_are_words_in_reading_order() -> None:
    text = " The Coldstream dome is 99434."
    pieces = ("The", " Cold", "stream", " dome", " is", " 99", "434", ".", "</s>")
    answer = SimpleNamespace(text=text, token_ids=tuple(range(9)), stopped_by="end")
    labels = row_labels(SimpleNamespace(answer=answer, token_texts=pieces), 9)  # type: ignore[arg-type]
    assert [label for label, _ in labels] == ["The", "Cold", "·stream", "dome", "is", "99", "·434", ".", "(end)"]
    assert labels[2][1] == "Coldstream"
    assert labels[6][1] == "99434"


def test_nothing_is_shown_before_the_first_answer_or_without_a_record(turns: tuple[Turn, Turn]) -> None:
    assert "Ask a question" in looked_at(None, {"open": True})["summary"]
    bare = replace(turns[1], answer=replace(turns[1].answer, attention=None))
    opened = looked_at(bare, {"draw": True})
    assert "No attention was recorded" in opened["summary"]
    assert opened["figure"] is None


def entry_of(turns: tuple[Turn, ...], **changes: Any) -> Entry:
    return Entry("Who jumps?", tuple(reply_by(turn.method, turn=turn.id, text="", **changes) for turn in turns), "tiny")


def test_compared_answers_have_the_same_columns_and_colours(turns: tuple[Turn, Turn]) -> None:
    session = Session("v")
    for turn in turns:
        session.keep(turn)
    compared, words = _compared_turns(session, [entry_of(turns), entry_of(turns[:1])])
    assert (compared, words) == ([*turns], "")
    vanilla, extended = (figure for figure, _ in _heatmaps(compared, _pictures(compared, True), "shared"))
    assert vanilla.layout.title.text.startswith("Vanilla: “")
    assert extended.layout.title.text.startswith("SelfExtend: “")
    for same in ("starts", "stops", "edges", "words"):
        assert vanilla.layout.meta["cells"][same] == extended.layout.meta["cells"][same]
    assert vanilla.layout.coloraxis.cmax == extended.layout.coloraxis.cmax
    assert vanilla.layout.meta["cells"]["first_query"] is None, "the page's panels look into the last answer"
    assert extended.layout.meta["cells"]["first_query"] == len(turns[1].prompt) - 1


def test_a_comparison_that_is_gone_says_so(turns: tuple[Turn, Turn]) -> None:
    assert _compared_turns(Session("v"), [entry_of(turns[:1])]) == ([], "")
    for changes, words in (({}, "no longer in memory"), ({"stopped": "Stopped."}, "was stopped")):
        compared, said = _compared_turns(Session("v"), [entry_of(turns, **changes)])
        assert compared == []
        assert words in said
