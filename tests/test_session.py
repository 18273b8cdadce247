"""Sessions and caches: what a visitor has read is used again, separate for each, under one limit of bytes."""

from __future__ import annotations

import gc
from dataclasses import replace

import pytest
import torch
from app_parts import stored, tiny, tiny_folder  # noqa: F401 (fixtures)

from app import asking
from app.answering import Shown, reply_steps
from app.asking import Question, answer_turn, place_of, prompt_of
from app.cache_store import CacheStore
from app.conversation import Entry, as_json, from_json, messages
from app.evidence import MAX_ROWS
from app.model_shelf import LoadedModel
from app.session import MAX_TURNS, Session, SessionStore, Turn
from selfextend.beginning import Continuation
from selfextend.errors import OutOfMemoryError, PastReachError
from selfextend.generation import GenerationSettings, PrefillProgress
from selfextend.loading import hardware
from selfextend.methods import ReRoPE, SelfExtend, Vanilla
from selfextend.reading import PrefixCache
from selfextend.steps import Running, result_of

METHOD = SelfExtend("none", 8, 64)


def question(text: str = "Who jumps?", *documents: object, **changes: object) -> Question:
    base = Question(text, documents or (stored(),), METHOD, "always", GenerationSettings(max_new_tokens=4))  # type: ignore[arg-type]
    return replace(base, **changes)  # type: ignore[arg-type]


def run(
    loaded: LoadedModel, caches: CacheStore, session: Session, asked: Question
) -> tuple[Turn, list[PrefillProgress]]:
    running = Running(answer_turn(loaded, caches, session, asked))
    progress = [event for event in running if isinstance(event, PrefillProgress)]
    return running.result, progress


def test_the_second_question_reads_only_what_is_new(tiny: LoadedModel) -> None:  # noqa: F811
    caches, session = CacheStore(10**9), Session("v")
    first, _ = run(tiny, caches, session, question())
    second, _ = run(tiny, caches, session, question("Where is the old mill, and who is near it?"))
    assert first.answer.reused_tokens == 0
    document_tokens = int((first.prompt.index.document >= 0).sum())
    assert second.answer.reused_tokens >= document_tokens
    alone, _ = run(tiny, CacheStore(10**9), Session("w"), question("Where is the old mill, and who is near it?"))
    assert second.answer.token_ids == alone.answer.token_ids


def test_the_answer_cites_pages_of_its_documents(tiny: LoadedModel) -> None:  # noqa: F811
    session = Session("v")
    turn, _ = run(tiny, CacheStore(10**9), session, question("Who?", stored("a.txt"), stored("b.txt", mark="x")))
    assert turn.citations
    for citation in turn.citations:
        page = turn.documents[citation.document].document.pages[citation.page - 1]
        assert citation.text in page.text
        assert page.text[citation.char_start : citation.char_end].strip() == citation.text
    assert session.turns[turn.id] is turn


def test_the_oldest_answers_of_anybody_go_where_all_hold_too_much(tiny: LoadedModel) -> None:  # noqa: F811
    caches = CacheStore(10**9)
    one = run(tiny, caches, Session("v"), question())[0].nbytes
    store = SessionStore(8, evidence_bytes=5 * one // 2)  # room for two
    ada, bob = (store.get(visitor) for visitor in ("ada", "bob"))
    first, second = (run(tiny, caches, session, question())[0] for session in (ada, bob))
    assert list(ada.turns.values()) == [first]
    third = run(tiny, caches, bob, question())[0]
    assert not ada.turns
    assert list(bob.turns.values()) == [second, third]
    # One that is larger than all may be is kept by itself, and who has gone takes up no room.
    tight = SessionStore(8, evidence_bytes=1)
    for visitor in ("ada", "bob"):
        only = tight.get(visitor)
        turn = run(tiny, caches, only, question())[0]
        assert list(only.turns.values()) == [turn]
        del only
        gc.collect()


def test_visitors_documents_and_settings_have_caches_of_their_own(tiny: LoadedModel) -> None:  # noqa: F811
    caches = CacheStore(10**9)
    mine, yours = Session("me"), Session("you")
    one, two = (stored("a.txt"),), (stored("b.txt", mark="x"),)

    def read(session: Session, asked: Question) -> PrefixCache:
        prompt = prompt_of(tiny, asked)
        return place_of(tiny, asked, prompt).reading(caches, session.visitor, prompt).prefix

    places = [
        read(mine, question("Who?", *one)),
        read(yours, question("Who?", *one)),
        read(mine, question("Who?", *two)),
        read(mine, question("Who?", *one, method=Vanilla())),
        read(mine, question("Who?", *one, method=SelfExtend("none", 9, 64))),
    ]
    assert len({id(place) for place in places}) == 5
    beginnings = [place.beginning for place in places if isinstance(place, Continuation)]
    assert len({id(beginning) for beginning in beginnings}) == 5
    assert read(mine, question("And who?", *one)) is places[0]


class Held(PrefixCache):
    """A cache that says it holds so many bytes."""

    size = 0

    @property
    def nbytes(self) -> int:
        return self.size

    def clear(self) -> None:
        self.size = 0


def test_the_least_recently_used_goes_first() -> None:
    caches = CacheStore(100)
    for name in "abc":
        held = Held()
        held.size = 40
        caches._caches[name] = held
    caches.get("a")
    caches.make_room(0)
    assert list(caches._caches) == ["c", "a"]
    assert caches.nbytes == 80


def test_room_is_made_before_it_is_needed_and_the_one_at_work_stays() -> None:
    caches = CacheStore(100)
    for name in "ab":
        held = Held()
        held.size = 40
        caches._caches[name] = held
    caches.make_room(90)
    assert list(caches._caches) == ["b"]
    caches.make_room(10_000)
    assert list(caches._caches) == ["b"]


def test_past_reach_is_refused_with_the_smallest_change_and_nothing_is_read(tiny: LoadedModel) -> None:  # noqa: F811
    caches, session = CacheStore(10**9), Session("v")
    asked = question("Who?", stored(pages=12, sentences=8), method=SelfExtend("none", 2, 64))
    needed = len(prompt_of(tiny, asked)) + 4
    with pytest.raises(PastReachError, match=f"{needed:,} tokens are past the reach.*group size"):
        run(tiny, caches, session, asked)
    assert not session.turns
    assert caches.nbytes == 0


def test_vanilla_answers_past_its_window(tiny: LoadedModel) -> None:  # noqa: F811
    asked = question("Who?", stored(pages=12), method=Vanilla())
    turn, _ = run(tiny, CacheStore(10**9), Session("v"), asked)
    assert turn.method == Vanilla()
    assert turn.answer.prompt_tokens > tiny.trained_window


def test_log_n_alone_answers_past_the_window_and_is_not_vanilla(tiny: LoadedModel) -> None:  # noqa: F811
    text = stored(pages=12)
    plain = question("Who?", text, method=Vanilla())
    alone = replace(plain, method=Vanilla("logn"))
    first, _ = run(tiny, CacheStore(10**9), Session("v"), plain)
    second, _ = run(tiny, CacheStore(10**9), Session("v"), alone)
    assert second.answer.method == alone.method
    assert second.answer.log_probabilities[0] != first.answer.log_probabilities[0]


def test_stop_in_prefill_keeps_what_was_read(tiny: LoadedModel) -> None:  # noqa: F811
    caches, session = CacheStore(10**9), Session("v")
    asked = question("Who?", stored(pages=30, sentences=12), method=SelfExtend("none", 64, 64))
    shown: list[Shown] = []
    for one in reply_steps(tiny, caches, session, [asked]):
        shown.append(one)
        if one.progress.fraction:
            session.answering.stop()
    assert shown[-1].done
    assert "Stopped after reading" in shown[-1].replies[0].stopped
    assert not shown[-1].turns
    read = caches.nbytes
    assert read > 0
    session.answering.begin()
    turn, _ = run(tiny, caches, session, asked)
    assert turn.answer.reused_tokens > 0


def test_stop_in_the_answer_keeps_its_words(tiny: LoadedModel) -> None:  # noqa: F811
    session = Session("v")
    asked = question(generation=GenerationSettings(max_new_tokens=400, temperature=1.0, seed=3))
    last = None
    for one in reply_steps(tiny, CacheStore(10**9), session, [asked]):
        last = one
        if "answering" in one.progress.words:
            session.answering.stop()
    assert last is not None
    (reply,), (turn,) = last.replies, last.turns
    assert reply.stopped == f"Stopped after {reply.new_tokens} tokens."
    assert 0 < reply.new_tokens < 400
    assert reply.unfinished
    # What was said so far is traced to its passages.
    assert reply.sources
    assert turn.answer.attention is not None
    assert len(turn.answer.attention.query_rows) == min(reply.new_tokens, MAX_ROWS)
    assert session.turns[reply.turn] is turn


def test_a_cut_answer_goes_on_in_its_place_and_nothing_is_read_again(tiny: LoadedModel) -> None:  # noqa: F811
    caches, session = CacheStore(10**9), Session("v")
    settings = GenerationSettings(max_new_tokens=6, temperature=1.0, seed=3)
    asked = [question(method=Vanilla(), generation=settings), question(generation=settings)]
    *_, cut = reply_steps(tiny, caches, session, asked)
    assert [reply.unfinished for reply in cut.replies] == [True, True]
    further = Question.going_on(cut.turns[1], replace(settings, max_new_tokens=8))
    shown = list(reply_steps(tiny, caches, session, [None, further], cut.replies))
    assert all(one.replies[0] == cut.replies[0] for one in shown)
    assert all(one.replies[1].text.startswith(cut.replies[1].text[:-1]) for one in shown)
    assert "answering: 7 tokens" in " ".join(one.progress.words for one in shown)
    reply, turn = shown[-1].replies[1], session.turns[cut.replies[1].turn]
    assert reply.turn == turn.id == cut.replies[1].turn
    assert reply.first_token_seconds == cut.replies[1].first_token_seconds
    whole, _ = run(
        tiny, CacheStore(10**9), Session("w"), replace(asked[1], generation=replace(settings, max_new_tokens=14))
    )
    assert turn.answer.token_ids == whole.answer.token_ids
    assert [citation.text for citation in turn.citations] == [citation.text for citation in whole.citations]


def test_stopped_before_it_goes_on_an_answer_stays_as_it_is(tiny: LoadedModel) -> None:  # noqa: F811
    caches, session = CacheStore(10**9), Session("v")
    *_, cut = reply_steps(tiny, caches, session, [question()])
    caches.clear()
    steps = reply_steps(tiny, caches, session, [Question.going_on(cut.turns[0], GenerationSettings())], cut.replies)
    next(steps)
    session.answering.stop()
    *_, last = steps
    assert last.done
    assert last.replies == cut.replies


def test_attention_is_recorded_up_to_its_limit_however_often_an_answer_goes_on(tiny: LoadedModel) -> None:  # noqa: F811
    caches, session = CacheStore(10**9), Session("v")
    settings = GenerationSettings(max_new_tokens=MAX_ROWS - 8)
    turn, _ = run(tiny, caches, session, question(generation=settings))
    for _ in range(2):
        turn, _ = run(tiny, caches, session, Question.going_on(turn, replace(settings, max_new_tokens=30)))
        assert turn.answer.attention is not None
        assert len(turn.answer.attention.query_rows) == MAX_ROWS
    assert turn.citations


@pytest.mark.parametrize("call", [2, 12], ids=["while reading", "while answering"])
def test_memory_that_runs_out_in_the_middle_costs_only_what_was_read(
    tiny: LoadedModel,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    call: int,
) -> None:
    caches, session = CacheStore(10**9), Session("v")
    first, _ = run(tiny, caches, session, question())
    asked = question(
        "And then?",
        stored(pages=30, sentences=12),
        method=SelfExtend("none", 64, 64),
        generation=GenerationSettings(max_new_tokens=400, temperature=1.0, seed=3),
    )
    forward, calls = tiny.model.forward, 0

    def full(*arguments: object, **named: object) -> object:
        nonlocal calls
        calls += 1
        if calls == call:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return forward(*arguments, **named)

    with monkeypatch.context() as patched:
        patched.setattr(tiny.model, "forward", full)
        with pytest.raises(OutOfMemoryError, match=r"Memory ran out .* Use fewer pages, a smaller model"):
            for _ in reply_steps(tiny, caches, session, [asked]):
                pass
    assert list(session.turns.values()) == [first]
    turn, _ = run(tiny, caches, session, question("Where is the mill?"))
    assert turn.answer.token_ids
    assert turn.answer.reused_tokens > 0


def test_a_question_longer_than_reach_is_refused(tiny: LoadedModel) -> None:  # noqa: F811
    session = Session("v")
    with pytest.raises(PastReachError, match="group size"):
        run(tiny, CacheStore(10**9), session, question("Who jumps over the lazy dog? " * 400))
    assert not session.turns


def test_what_does_not_fit_the_memory_is_refused_and_nothing_is_read(
    tiny: LoadedModel,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caches = CacheStore(10**9)
    monkeypatch.setattr(hardware, "available_bytes", lambda device: 1000)
    for method in (Vanilla(), SelfExtend("none", 8, 64)):
        with pytest.raises(ValueError, match="of memory, and 1,000 bytes are free: use fewer pages"):
            result_of(answer_turn(tiny, caches, Session("v"), question(method=method)))
    assert caches.nbytes == 0


def test_a_prompt_has_so_many_tokens_at_most(tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr(asking, "MAX_PROMPT_TOKENS", 10)
    with pytest.raises(ValueError, match="and the limit is 10"):
        prompt_of(tiny, question())


def test_compare_gives_both_replies_in_order(tiny: LoadedModel) -> None:  # noqa: F811
    asked = [question(method=Vanilla()), question(), question(method=ReRoPE("logn", neighbor_window=64))]
    *_, last = reply_steps(tiny, CacheStore(10**9), Session("v"), asked)
    assert [reply.method for reply in last.replies] == ["vanilla", "selfextend", "rerope+logn"]
    assert [reply.made_by for reply in last.replies] == [question.method for question in asked]
    assert all(reply.seconds > 0 and reply.cache_bytes > 0 for reply in last.replies)
    assert [turn.id for turn in last.turns] == [reply.turn for reply in last.replies]


def test_a_conversation_survives_the_browser(tiny: LoadedModel) -> None:  # noqa: F811
    *_, last = reply_steps(tiny, CacheStore(10**9), Session("v"), [question()])
    entries = [Entry("Who?", last.replies, "tiny")]
    assert from_json(as_json(entries)) == entries
    assert messages(from_json(as_json(entries))) == messages(entries)


@pytest.mark.parametrize(
    "kept",
    [None, 3, "x", [1], [{"question": "q"}], [{"question": "q", "model": "m", "replies": [{"turn": "one"}]}]],
)
def test_a_store_that_was_tampered_with_is_left_out(kept: object) -> None:
    assert from_json(kept) == []


def test_old_turns_go() -> None:
    session = Session("v")
    for _ in range(MAX_TURNS + 5):
        turn = object.__new__(Turn)
        object.__setattr__(turn, "id", session.new_id())
        session.keep(turn)
    assert len(session.turns) == MAX_TURNS
    assert min(session.turns) == 6
