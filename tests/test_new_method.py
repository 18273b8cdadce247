"""A method with a number that no other has: what asks methods for their numbers takes it as it is."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Self

import pytest
from app_parts import stored, tiny, tiny_folder  # noqa: F401 (fixtures)

from app.answering import reply_by, reply_steps
from app.api import _method as method_of_the_api
from app.asking import Question
from app.cache_store import CacheStore
from app.capsule import as_html, capsule_of, read_capsule
from app.conversation import Entry, Reply, as_json, from_json, settings_words
from app.model_shelf import LoadedModel
from app.session import Session
from app.tabs import widgets
from app.tabs.compare import table_html
from app.tabs.controls import Choices, next_question_html
from selfextend import methods
from selfextend.generation import GenerationSettings
from selfextend.lab.tables import settings_words as words_in_tables
from selfextend.methods import Method, ReRoPE, SelfExtend, Vanilla, parse_methods
from selfextend.methods.rerope import ReRoPEPositions
from selfextend.profile import Profile


@dataclass(frozen=True)
class Chunked(Method):
    """ReRoPE with another name for its number."""

    chunk_size: int | None = None

    kind = "chunked"
    heading = "Chunked"
    symbols = (("chunk_size", "c"),)

    def at(self, profile: Profile, length: int) -> Self:
        return replace(self, chunk_size=64) if self.chunk_size is None else self

    @property
    def positions(self) -> ReRoPEPositions:
        assert self.chunk_size is not None
        return ReRoPEPositions(self.chunk_size, self.query_scaling)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "METHODS", (*methods.METHODS, Chunked))
    monkeypatch.setattr("selfextend.lab.tables.METHODS", methods.METHODS)
    monkeypatch.setattr(methods, "POSITION_METHODS", (*methods.POSITION_METHODS, Chunked))
    for method in (Chunked(), Chunked("logn")):
        monkeypatch.setitem(methods._BY_NAME, method.name, method)


def kept(*replies: Reply) -> list[Entry]:
    """A conversation as it comes back from a browser."""
    return from_json(json.loads(json.dumps(as_json([Entry("Who?", replies, "tiny")]))))


def test_an_answer_keeps_its_number() -> None:
    reply = reply_by(Chunked("logn", 4096), turn=1, text="A fox.")
    (entry,) = kept(reply)
    assert entry == Entry("Who?", (reply,), "tiny")
    assert entry.replies[0].made_by == Chunked("logn", 4096)
    assert hash(entry) != hash(Entry("Who?", (reply_by(Chunked("logn", 1), turn=1, text="A fox."),), "tiny"))
    assert settings_words(reply) == "c = 4,096, log-n"
    assert words_in_tables(Chunked("logn", 4096).settings()) == "c 4,096, log-n"
    assert "c = 4,096" in table_html([Entry("Who?", (reply_by(Vanilla(), turn=2, text="A dog."), reply), "tiny")])


@pytest.mark.parametrize(
    "settings", [[["chunk_size", 0]], [["group_size", 8]], [["chunk_size", [8]]], [[[], 8]], [8], 8, None], ids=str
)
def test_settings_that_make_no_sense_are_left_out_with_their_entry(settings: object) -> None:
    entry = asdict(Entry("Who?", (reply_by(Chunked("none", 8), turn=1, text="A fox."),), "tiny"))
    entry["replies"][0]["settings"] = settings
    assert from_json([entry]) == []


@pytest.mark.parametrize(
    ("method", "earlier"),
    [
        (SelfExtend("logn", 8, 64), {"method": "selfextend", "query_scaling": "logn"}),
        (ReRoPE("none", 64), {"method": "rerope", "query_scaling": "none"}),
        (Vanilla(), {"method": "vanilla", "query_scaling": "none"}),
    ],
    ids=["selfextend", "rerope", "vanilla"],
)
def test_conversations_from_before_open(method: Method, earlier: dict[str, str]) -> None:
    entry = Entry("Who?", (reply_by(method, turn=1, text="A fox."),), "tiny")
    record = json.loads(json.dumps(as_json([entry])))
    del record[0]["replies"][0]["settings"]
    record[0]["replies"][0] |= {"group_size": 8, "neighbor_window": 64, **earlier}
    assert from_json(record) == [entry]


def test_its_number_stays_open_where_only_the_others_are_given() -> None:
    assert method_of_the_api("Chunked", 8, 64) == Chunked()
    assert widgets.method_of("Chunked", 8, 64, "logn") == Chunked("logn")
    assert parse_methods(["chunked", "rerope"], Profile(256), group_size=8, neighbor_window=64) == [
        Chunked(), ReRoPE("none", 64),
    ]  # fmt: skip


def test_what_it_was_settled_at_is_no_change_of_the_controls() -> None:
    said = [Entry("Who?", (reply_by(Chunked("none", 64), turn=1, text="A fox."),), "tiny")]
    values = ["Chunked", 8, 128, False, "Always", 64, 0.0, 1.0, 0, 1.0, 0, False, False, "", False]
    assert next_question_html(Choices.read(values), said) == ""
    values[3] = True
    assert "changes-query-scaling" in next_question_html(Choices.read(values), said)


def test_it_answers_and_its_capsule_opens(tiny: LoadedModel) -> None:  # noqa: F811
    asked = Question("Who jumps?", (stored(),), Chunked(), "always", GenerationSettings(max_new_tokens=3))
    *_, last = reply_steps(tiny, CacheStore(10**9), Session("v"), [asked])
    assert last.replies[0].made_by == Chunked("none", 64)
    capsule = read_capsule(as_html(capsule_of(last.turns[0], last.replies[0], None)))
    assert capsule.reply == last.replies[0]
