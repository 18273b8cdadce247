"""Where an answer's tokens looked, word by word: against full attention, and what a browser may ask for of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from app_parts import stored, tiny, tiny_folder  # noqa: F401 (fixtures)
from make_documents import good_pdf

from app.asking import Question, answer_turn
from app.cache_store import CacheStore
from app.documents.document import DocumentError, Limits, Page
from app.documents.library import StoredDocument
from app.documents.reader import read_document_steps
from app.model_shelf import LoadedModel
from app.pages import AT_ONCE, Pages, find_text
from app.runtime import make_runtime
from app.session import Session, Turn
from app.settings import read_settings
from app.tabs.reader import contents, server_functions
from app.traces import MOST_KEYS, trace_of
from selfextend import SelfExtendConfig, self_extend
from selfextend.generation import GenerationSettings
from selfextend.methods import SelfExtend
from selfextend.steps import result_of

METHOD = SelfExtend("none", 8, 64)


@pytest.fixture(scope="module")
def turn(tiny: LoadedModel) -> Turn:  # noqa: F811
    documents = (stored("first.txt"), stored("second.txt", mark="x"))
    question = Question("Who jumps?", documents, METHOD, "always", GenerationSettings(max_new_tokens=6))
    return result_of(answer_turn(tiny, CacheStore(10**9), Session("v"), question))


@pytest.fixture(scope="module")
def attention(tiny: LoadedModel, turn: Turn) -> np.ndarray:  # noqa: F811
    """(layers, heads, rows, keys) of the answer's tokens, by one pass over prompt and answer."""
    ids = torch.tensor([[*turn.prompt.ids, *turn.answer.token_ids]])
    config = SelfExtendConfig(METHOD.group_size, METHOD.neighbor_window)
    with torch.no_grad(), self_extend(tiny.model, config, trained_window=tiny.trained_window):
        maps = tiny.model(ids, output_attentions=True, use_cache=False).attentions
    first = len(turn.prompt.ids) - 1
    return torch.cat(maps).double().numpy()[:, :, first : first + len(turn.answer.token_ids)]


def test_a_heads_words_are_those_with_the_largest_weights(turn: Turn, attention: np.ndarray) -> None:
    trace = trace_of(turn, "1", "2")
    places = {key: place for key, *place in trace["keys"]}
    inside = np.flatnonzero(turn.prompt.index.document >= 0)
    assert len(trace["rows"]) == len(turn.answer.token_ids) == len(trace["tokens"])
    for row, looked in enumerate(trace["rows"]):
        weights = attention[1, 2, row]
        found = [trace["keys"][n][0] for n, _ in looked]
        assert found
        assert found[0] == inside[weights[inside].argmax()]
        relative = np.square(weights[found] / weights[found[0]])
        np.testing.assert_allclose([weight for _, weight in looked], relative, atol=2e-3)
        assert all(key in places for key in found)


def test_all_heads_together_count_by_the_square(turn: Turn, attention: np.ndarray) -> None:
    trace = trace_of(turn)
    squares = np.square(attention).sum(axis=(0, 1))
    inside = np.flatnonzero(turn.prompt.index.document >= 0)
    for row, looked in enumerate(trace["rows"]):
        assert 1 <= len(looked) <= MOST_KEYS
        (best, weight), *_ = looked
        assert weight == 1
        # A key that is among the largest of some heads only misses the others' little.
        assert squares[row, trace["keys"][best][0]] >= 0.8 * squares[row, inside].max()


def test_keys_name_their_characters(turn: Turn) -> None:
    index = turn.prompt.index
    for key, document, page, start, end in trace_of(turn)["keys"]:
        text = turn.documents[document].document.pages[page - 1].text
        first, last = index.chars[key]
        assert index.prompt[first:last].strip() == text[start:end].strip()
        assert index.token_at(document, page, start) == key


def test_pages_share_each_rows_attention(turn: Turn) -> None:
    trace = trace_of(turn)
    for row in trace["pages"]:
        assert sum(share for *_, share in row) == pytest.approx(1, abs=0.01)
        assert {(document, page) for document, page, _ in row} <= {(d, p) for d in (0, 1) for p in (1, 2, 3)}
    assert [rank for rank, *_ in trace["citations"]] == [citation.rank for citation in turn.citations]
    json.dumps(trace)  # plain numbers throughout


@pytest.mark.parametrize("choice", [("9", "all"), ("all", "x"), ("-1", "0")], ids=str)
def test_layers_and_heads_that_were_not_recorded_are_refused(turn: Turn, choice: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="There is no recorded"):
        trace_of(turn, *choice)


def test_pages_of_text_are_words_that_cover_it() -> None:
    notes = stored("notes.txt")
    (view,) = Pages().views(notes, [2])
    assert view["text"] == notes.document.pages[1].text
    assert [view["text"][start:end] for start, end in view["words"]] == view["text"].split()
    assert Pages().sizes(notes) == []
    with pytest.raises(ValueError, match="can be shown"):
        Pages().views(notes, [4])
    with pytest.raises(ValueError, match="can be shown"):
        Pages().views(stored("long.txt", pages=20), range(1, AT_ONCE + 2))


def test_a_page_is_drawn_once(tmp_path: Path) -> None:
    path = good_pdf(tmp_path / "book.pdf", 2)
    book = StoredDocument(result_of(read_document_steps(path, Limits(), path.name)), path)
    pages = Pages()
    (view,) = pages.views(book, [1])
    assert view["picture"]
    path.unlink()
    assert pages.views(book, [1, 1]) == [view]
    with pytest.raises(DocumentError):
        pages.views(book, [2])


def test_a_page_drawn_for_one_visitor_is_drawn_anew_for_another_unless_they_share(tmp_path: Path) -> None:
    path = good_pdf(tmp_path / "book.pdf", 1)
    hers = StoredDocument(result_of(read_document_steps(path, Limits(), path.name)), path)
    his, alone, shared = replace(hers), Pages(), Pages(share=True)
    for pages in (alone, shared):
        pages.views(hers, [1])
    path.unlink()
    assert shared.views(his, [1]) == alone.views(hers, [1])
    with pytest.raises(DocumentError):
        alone.views(his, [1])
    for pages in (alone, shared):
        pages.forget(hers.document.sha256)
        with pytest.raises(DocumentError):
            pages.views(hers, [1])


def test_text_is_found_whatever_its_case_and_line_ends() -> None:
    notes = stored("notes.txt", sentences=2)
    hits = find_text(notes, "  QUICK   brown ")
    assert [page for page, *_ in hits] == [1, 1, 2, 2, 3, 3]
    for page, start, end in hits:
        assert notes.document.pages[page - 1].text[start:end] == "quick brown"
    text = "Der Fuß\nder İnsel, der FUSS der Insel."
    page = replace(notes.document, pages=(Page(1, text),))
    assert [text[start:end] for _, start, end in find_text(replace(notes, document=page), "fuß DER")] == ["Fuß\nder"]
    assert [text[start:end] for _, start, end in find_text(replace(notes, document=page), "insel.")] == ["Insel."]
    assert find_text(notes, "   ") == []
    assert find_text(notes, "nowhere") == []


@pytest.fixture
def asking(tmp_path: Any, turn: Turn) -> Any:
    """What a browser may ask, by name, and the visitor it may ask as."""
    runtime = make_runtime(read_settings(["--data-folder", str(tmp_path), "--no-browser"]))
    session = runtime.sessions.get("a-visitors-own-random-text")
    session.documents = list(turn.documents)
    session.keep(turn)
    functions = {function.__name__: function for function in server_functions(runtime, Pages())}

    def ask(name: str, **asked: Any) -> Any:
        return functions[name]({"visitor": session.visitor, **asked})

    ask.functions, ask.session = functions, session  # type: ignore[attr-defined]
    return ask


def test_a_browser_is_given_what_it_asks_for(asking: Any, turn: Turn) -> None:
    sha256 = turn.documents[1].document.sha256
    assert asking("sizes", document=sha256) == {"sizes": []}
    assert [view["number"] for view in asking("views", document=sha256, pages=[3, 1])["views"]] == [3, 1]
    assert len(asking("find", document=sha256, text="lazy dog")["hits"]) == 12
    assert asking("trace", turn=turn.id) == trace_of(turn)
    token = asking("token", turn=turn.id, document=sha256, page=2, char=0)["token"]
    assert turn.prompt.index.place(token)[:3] == (1, 2, 0)  # type: ignore[index]
    shown = contents(asking.session, turn)
    assert [each["name"] for each in shown["documents"]] == ["first.txt", "second.txt"]
    # An answer's documents are named though they were removed since. Their pages went with their files.
    asking.session.documents = []
    assert len(contents(asking.session, turn)["documents"]) == 2
    assert asking("views", document=sha256, pages=[1]) == {"error": "This document was removed."}
    assert contents(asking.session, None)["documents"] == []


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("views", {"document": "0" * 64, "pages": [1]}),
        ("views", {"document": None, "pages": None}),
        ("sizes", {}),
        ("find", {"text": "x" * 10_000}),
        ("find", {"text": 5}),
        ("trace", {"turn": 10**30}),
        ("trace", {"turn": "1"}),
        ("trace", {"turn": [1], "layer": {}}),
        ("token", {"turn": None}),
    ],
)
def test_whatever_else_is_asked_for_is_answered_with_a_sentence(asking: Any, name: str, asked: dict[str, Any]) -> None:
    assert set(asking(name, **asked)) == {"error"}
    assert asking(name, **asked)["error"].endswith((".", "it."))


def test_odd_pages_layers_and_words_are_answered_with_a_sentence(asking: Any, turn: Turn) -> None:
    sha256 = turn.documents[0].document.sha256
    for pages in ([0], [4], list(range(1, 4)) * 10 + [True], [1.5], "1", [10**30]):
        assert "error" in asking("views", document=sha256, pages=pages), pages
    for layer in ("9", 5, None, [], "all "):
        assert "error" in asking("trace", turn=turn.id, layer=layer), layer
    for page, char in ((1, 10**9), (1, -1), (9, 0), ("1", 0), (1, None)):
        assert "error" in asking("token", turn=turn.id, document=sha256, page=page, char=char)


@pytest.mark.parametrize("asked", [None, [], "x", 5, {}, {"visitor": 5}, {"visitor": "somebody else"}], ids=repr)
def test_nobody_else_is_told_anything(asking: Any, asked: Any, turn: Turn) -> None:
    if isinstance(asked, dict):
        asked = asked | {"document": turn.documents[0].document.sha256, "pages": [1], "turn": turn.id, "text": "dog"}
    before = len(asking.session.turns)
    for function in asking.functions.values():
        assert set(function(asked)) == {"error"}
    assert len(asking.session.turns) == before


def test_a_file_that_is_gone_is_told(tmp_path: Any) -> None:
    gone = replace(stored("gone.txt"), path=tmp_path / "gone.pdf")
    gone = replace(gone, document=replace(gone.document, kind="pdf"))
    with pytest.raises(DocumentError):
        Pages().views(gone, [1])
