"""What the Attention and Compare tabs' handlers accept, refuse and answer, over real answers of a tiny model."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from app_parts import stored, tiny, tiny_folder, unpacked  # noqa: F401 (fixtures)

from app.answering import reply_by
from app.asking import Question, answer_turn
from app.cache_store import CacheStore
from app.columns import pages_that_matter
from app.conversation import Entry
from app.model_shelf import LoadedModel
from app.places import shortened
from app.session import Session, Turn
from app.tabs.attention import _answer
from app.tabs.compare import _compared_turns, _heatmaps, _pictures
from app.tabs.evidence import _draw as evidence_of
from app.tabs.heatmap import row_labels
from selfextend.generation import GenerationSettings
from selfextend.methods import SelfExtend, Vanilla
from selfextend.steps import result_of


def sent(data: Any) -> gr.EventData:
    """An event of the browser's with these data."""
    return gr.EventData(None, data)


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


def test_a_picture_of_the_pages_names_model_settings_and_document(turns: tuple[Turn, Turn]) -> None:
    turn = turns[1]
    caption = unpacked(evidence_of(turn)[2])["layout"]["meta"]["caption"]
    for words in ("Who jumps?", "SelfExtend (G = 8, w = 64)", "notes.txt", turn.model_name):
        assert words in caption


CHOICES = ("all", "all", "cited", "shared", True, False)


def looked_at(turn: Turn | None, asked: dict[str, Any], *given: Any) -> dict[str, Any]:
    """What the tab's handler sets, by name; what it leaves alone is left out."""
    choices, span, cell = given or (CHOICES, None, (0, 0))
    return _answer(sent(asked), turn, *choices, span, *cell)


def cells_of(figure: str) -> dict[str, Any]:
    cells: dict[str, Any] = unpacked(figure)["layout"]["meta"]["cells"]
    return cells


def test_an_answer_opens_at_its_strongest_cell_on_the_pages_that_matter(turns: tuple[Turn, Turn]) -> None:
    turn = turns[1]
    opened = looked_at(turn, {"open": True})
    assert "Who jumps?" in opened["summary"]
    assert opened["fold"]["value"] is opened["fold"]["interactive"] is True
    assert (opened["pooled"], opened["sink"], opened["span"]) == ("cited", False, None)
    cells, layout = cells_of(opened["pane"]), unpacked(opened["pane"])["layout"]
    assert cells["first_query"] == len(turn.prompt) - 1
    assert cells["chosen"] == [opened["token"], opened["position"]]
    assert len(cells["rows"]) == len(turn.answer.token_ids)
    labels = [text.replace("<br>", "") for text in layout["xaxis"]["ticktext"]]
    shown = [label for label in labels if label.startswith("<b>")]
    assert 1 <= len(shown) <= 5
    assert {f"<b>{page}</b>" for _, page in pages_that_matter([turn])} == set(shown)
    assert "root mean square of all 4 heads of each of the 2 recorded layers" in opened["how"]
    for words in ("Who jumps?", "SelfExtend (G = 8, w = 64)", "notes.txt", turn.model_name):
        assert words in layout["meta"]["caption"]
    assert f"(token {opened['token']} of the answer) looked at notes.txt, page" in opened["readout"]
    assert "Share of attention" in opened["readout"]
    assert "at its exact place" in opened["readout"] or "place known to ±8 tokens" in opened["readout"]


def test_short_documents_are_never_folded(tiny: LoadedModel, turns: tuple[Turn, Turn]) -> None:  # noqa: F811
    asked = question_of(turns[1], stored(pages=3))
    opened = looked_at(result_of(answer_turn(tiny, CacheStore(10**9), Session("w"), asked)), {"open": True})
    assert opened["fold"]["value"] is opened["fold"]["interactive"] is False
    assert unpacked(opened["pane"])["layout"]["xaxis"]["ticktext"] == ["<b>1</b>", "<b>2</b>", "<b>3</b>"]


def question_of(turn: Turn, document: Any) -> Question:
    return Question(turn.question, (document,), turn.method, turn.extend, GenerationSettings(max_new_tokens=6))


def test_choices_redraw_and_leave_the_rest_alone(turns: tuple[Turn, Turn]) -> None:
    loose = ("1", "2", "max", "log", False, True)
    drawn = looked_at(turns[1], {"draw": True}, loose, None, (0, 0))
    assert set(drawn) == {"pane", "how"}
    assert "largest weight" in drawn["how"]
    assert "the strongest of head 2 of layer 1" in drawn["how"]
    labels = unpacked(drawn["pane"])["layout"]["xaxis"]["ticktext"]
    assert len(labels) < 15, "start, twelve pages, question and answer: some of them labelled"
    assert cells_of(drawn["pane"])["starts"][0] == 0


def test_zoom_is_asked_for_in_tokens(turns: tuple[Turn, Turn]) -> None:
    turn = turns[1]
    start, stop = turn.prompt.index.page_tokens(0, 7)
    every = (*CHOICES[:4], False, False)
    zoomed = looked_at(turn, {"zoom": {"x": [start, stop]}}, every, None, (0, 0))
    assert zoomed["span"] == (start, stop)
    cells = cells_of(zoomed["pane"])
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
    assert (picked["token"], picked["position"]) == (2, start)
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


def test_what_is_left_out_of_a_text_is_marked() -> None:
    assert shortened(" two\n words ", 9) == "two words"
    assert shortened("two words", 8) == "two wor…"
    assert shortened(f"a{' ' * 40}b", 10) == "a…"


def test_a_question_without_documents_shows_the_prompt(tiny: LoadedModel, turns: tuple[Turn, Turn]) -> None:  # noqa: F811
    asked = replace(question_of(turns[1], stored()), documents=())
    opened = looked_at(result_of(answer_turn(tiny, CacheStore(10**9), Session("w"), asked)), {"open": True})
    layout = unpacked(opened["pane"])["layout"]
    assert layout["xaxis"]["title"]["text"].startswith("part of the prompt")
    assert cells_of(opened["pane"])["starts"][0] == 0
    assert "(token" in opened["readout"]


def test_nothing_is_shown_before_the_first_answer_or_without_a_record(turns: tuple[Turn, Turn]) -> None:
    assert "Ask a question" in looked_at(None, {"open": True})["summary"]
    bare = replace(turns[1], answer=replace(turns[1].answer, attention=None))
    opened = looked_at(bare, {"draw": True})
    assert "No attention was recorded" in opened["summary"]
    assert opened["pane"] is None


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
