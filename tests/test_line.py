"""Turns at the model: one at a time, in order, with short questions between the chunks of a long reading."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from itertools import takewhile
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from architectures import build, token_ids
from helpers import ready_model

from selfextend import generation
from selfextend import line as line_module
from selfextend.beginning import Beginning, Continuation
from selfextend.errors import OutOfMemoryError
from selfextend.generation import (
    Answer,
    GenerationSettings,
    NewToken,
    PrefillProgress,
    ReadingSettings,
    answer_steps,
)
from selfextend.line import Asked, ClosedLineError, Line, Visit, Waiting, Work, line_of
from selfextend.methods import LinearInterpolation, Method, SelfExtend, SlidingWindow, Vanilla
from selfextend.profile import Profile
from selfextend.reader import Reader
from selfextend.reading import (
    PrefixCache,
    TokensRead,
    exclusively,
    greedy_answers_steps,
    log_probability_steps,
    loss_steps,
    read_steps,
    reading,
)
from selfextend.recording import RecordingRequest
from selfextend.steps import Running, result_of


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_module, "LOOK_SECONDS", 0.005)


class _Short(Work):
    def __init__(self, is_short: Callable[[], bool], group: str | None = None) -> None:
        self._is_short, self._group = is_short, group
        self.along = False

    @property
    def group(self) -> str | None:
        return self._group

    def is_short(self) -> bool:
        return self._is_short()

    def can_be_served_along(self) -> bool:
        return self.along


class Crowd:
    """Visits of one line, by name, whose turns are taken step by step in one thread."""

    def __init__(self, stack: ExitStack) -> None:
        self.line, self.stack = Line(), stack
        self.visits: dict[str, Visit] = {}
        self.waiting: dict[str, Generator[Waiting, None, None]] = {}
        self.short: dict[str, bool] = {}
        self.leaving: dict[str, ExitStack] = {}

    def come(
        self,
        name: str,
        *,
        short: bool = False,
        who: str | None = None,
        seconds: float | None = None,
        group: str | None = None,
    ) -> None:
        self.short[name] = short
        self.leaving[name] = self.stack.enter_context(ExitStack())
        visit = self.line.visit(Asked(who, seconds), _Short(lambda: self.short[name], group))
        self.visits[name] = self.leaving[name].enter_context(visit)
        self.wait(name)

    def wait(self, name: str) -> None:
        self.waiting[name] = self.visits[name].turn()
        self.look(name)

    def look(self, name: str) -> Waiting | None:
        """What somebody who waits is told; None once the model is theirs."""
        try:
            return next(self.waiting[name])
        except StopIteration:
            del self.waiting[name]
            return None

    def on(self) -> str:
        """Who gets the model, once all who wait have looked."""
        for name in list(self.waiting):
            self.look(name)
        return ", ".join(name for name, visit in self.visits.items() if self.line._on is visit)

    def ends(self, name: str) -> str:
        self.visits[name].leave()
        self.leaving.pop(name).close()
        del self.visits[name]
        return self.on()

    def gives_way(self, name: str) -> str:
        assert self.visits[name].give_way()
        self.visits[name].leave()
        self.waiting[name] = self.visits[name].turn()
        return self.on()


@pytest.fixture
def crowd() -> Generator[Crowd, None, None]:
    with ExitStack() as stack:
        yield Crowd(stack)


def test_first_come_first_served(crowd: Crowd) -> None:
    for name in "abc":
        crowd.come(name)
    assert crowd.on() == "a"
    assert not crowd.visits["a"].give_way()
    assert crowd.ends("a") == "b"
    assert crowd.ends("b") == "c"


def test_a_long_reading_gives_way_to_one_short_question_between_two_chunks(crowd: Crowd) -> None:
    crowd.come("long")
    crowd.come("second long")
    crowd.come("short", short=True)
    crowd.come("other short", short=True)
    assert crowd.gives_way("long") == "short"
    assert crowd.ends("short") == "long"
    assert crowd.gives_way("long") == "other short"
    assert crowd.ends("other short") == "long"
    assert not crowd.visits["long"].give_way()
    assert crowd.ends("long") == "second long"


def test_of_the_short_ones_who_had_the_model_least_is_first(crowd: Crowd) -> None:
    crowd.come("long")
    crowd.come("long answer", short=True)
    assert crowd.gives_way("long") == "long answer"
    crowd.come("short", short=True)
    assert crowd.gives_way("long answer") == "long"
    assert crowd.gives_way("long") == "short"
    assert crowd.ends("short") == "long"
    assert crowd.gives_way("long") == "long answer"


def test_what_becomes_short_while_it_waits_is_short(crowd: Crowd) -> None:
    """Somebody else reads the same handout meanwhile."""
    crowd.come("long")
    crowd.come("other")
    crowd.come("same handout")
    assert not crowd.visits["long"].give_way()
    crowd.short["same handout"] = True
    assert crowd.gives_way("long") == "same handout"


def test_one_at_a_time_for_each_who_asks(crowd: Crowd) -> None:
    crowd.come("mine", who="me")
    crowd.come("mine too", who="me", short=True)
    crowd.come("mine as well", who="me")
    crowd.come("yours", who="you")
    assert not crowd.visits["mine"].give_way()
    assert crowd.ends("mine") == "mine too"
    assert crowd.ends("mine too") == "mine as well"
    assert crowd.ends("mine as well") == "yours"


def test_a_place_in_the_line_and_seconds_are_told(crowd: Crowd) -> None:
    crowd.come("a", seconds=100)
    crowd.come("b", seconds=20)
    crowd.come("c", seconds=3)
    crowd.come("short", seconds=1, short=True)
    crowd.come("other short", seconds=1, short=True)
    told = crowd.look("b")  # the short ones go before, between two chunks of the first
    assert told is not None
    assert told.ahead == 3
    assert told.words == "waiting for the model: 3 questions are ahead of this one"
    assert told.seconds_left == pytest.approx(102, abs=2)
    told = crowd.look("c")
    assert told is not None
    assert told.ahead == 4
    assert told.seconds_left == pytest.approx(122, abs=2)
    # It waits for a chunk and for the other short one.
    told = crowd.look("other short")
    assert told is not None
    assert told.seconds_left is not None
    assert told.seconds_left < 5
    crowd.come("of unknown length")
    crowd.come("last")
    told = crowd.look("last")
    assert told is not None
    assert told.seconds_left is None


def serve_along(crowd: Crowd, *names: str, along: bool = True) -> None:
    for name in names:
        work = crowd.visits[name].work
        assert isinstance(work, _Short)
        work.along = along


def test_those_of_a_group_are_served_along_and_told(crowd: Crowd) -> None:
    for name, group in {"a": "handout", "b": "handout", "c": "other", "d": "handout", "e": "handout"}.items():
        crowd.come(name, short=True, group=group)
    serve_along(crowd, "b", "c", "d", "e")
    assert crowd.on() == "a"
    released: list[Visit] = []

    def taken(*unwanted: str) -> str:
        visit = crowd.visits["a"].take_along(
            lambda other: other not in map(crowd.visits.get, unwanted), released.append
        )
        return next((name for name in crowd.visits if crowd.visits[name] is visit), "")

    assert [taken(), taken("d"), taken(), taken()] == ["b", "e", "d", ""]
    crowd.visits["a"].tell([(crowd.visits["b"], "news"), (crowd.visits["b"], "more")])
    assert [crowd.look("b"), crowd.look("b")] == ["news", "more"]
    told = crowd.look("d")
    assert isinstance(told, Waiting)
    assert told.ahead == 0
    # Who waits no longer is let go of before it does anything else.
    crowd.waiting.pop("d").close()
    assert released == [crowd.visits["d"]]
    for name in "bde":
        crowd.visits["a"].let_go(crowd.visits[name])
    assert crowd.ends("a") == "b"


def test_who_is_new_in_a_group_or_at_an_end_has_the_model_next(crowd: Crowd) -> None:
    """Strangers who came before are not passed over, and the long reading that is under way goes on when somebody has
    left."""
    crowd.come("long")
    assert crowd.on() == "long"
    crowd.come("a", short=True, group="handout")
    assert crowd.gives_way("long") == "a"
    assert not crowd.visits["a"].give_way_to_group()
    crowd.come("stranger", short=True)
    assert not crowd.visits["a"].give_way_to_group()
    crowd.come("b", short=True, group="handout")
    assert crowd.visits["a"].give_way_to_group()
    told = crowd.look("b")
    assert told is not None
    assert told.ahead == 2
    serve_along(crowd, "a")
    crowd.visits["a"].leave()
    crowd.wait("a")
    assert crowd.on() == "stranger"
    assert crowd.ends("stranger") == "long"
    assert crowd.gives_way("long") == "b"
    assert not crowd.visits["b"].give_way_to_group()
    assert crowd.visits["b"].take_along(lambda _: True, lambda _: None) is crowd.visits["a"]
    assert not crowd.visits["b"].give_way_to_group()
    crowd.visits["b"].let_go(crowd.visits["a"])
    serve_along(crowd, "a", along=False)  # its answer has ended
    assert crowd.visits["b"].give_way_to_group()
    assert crowd.ends("b") == "long"


def test_who_leaves_while_waiting_or_at_work_keeps_nobody(crowd: Crowd) -> None:
    for name in "abc":
        crowd.come(name)
    crowd.waiting.pop("b").close()
    crowd.leaving["b"].close()
    del crowd.visits["b"]
    crowd.leaving["a"].close()  # an error: it never says that its turn is over
    del crowd.visits["a"]
    assert crowd.on() == "c"


def test_a_closed_line_sends_everybody_away_until_it_is_opened(crowd: Crowd) -> None:
    crowd.come("loading")
    crowd.come("waiting", short=True)
    crowd.line.close("Another model is being loaded.")
    assert not crowd.visits["loading"].give_way()  # for it would not get the model back
    with pytest.raises(ClosedLineError, match="Another model"):
        crowd.look("waiting")
    with pytest.raises(ClosedLineError, match="Another model"):
        crowd.come("late")
    crowd.line.open()
    crowd.come("later")
    assert crowd.on() == "loading"


# With a model

MODEL = build("llama")
PROFILE = Profile(trained_window=64, neighbor_window=16, query_scaling="none")
TOKENS: list[int] = token_ids(900)[0].tolist()
METHOD = SelfExtend("none", 64, 16)
HOW = ReadingSettings(METHOD, chunk_tokens=40)


READY = ready_model(MODEL, PROFILE)


def ask(prefix: PrefixCache, prompt: list[int], who: str, tokens: int = 6) -> Running[Any, Answer]:
    settings = GenerationSettings(max_new_tokens=tokens)
    return Running(answer_steps(READY, prompt, settings, HOW, prefix=prefix, asked=Asked(who)))


def test_a_short_question_is_answered_while_a_long_text_is_read_and_both_are_right() -> None:
    expected_long = result_of(ask(PrefixCache(), TOKENS[:800], "alone")._steps)
    beginning = Beginning(TOKENS[100:300])
    place = Continuation(beginning)
    result_of(ask(place, [*TOKENS[100:300], 5, 6, 7], "reads it first")._steps)
    expected_short = result_of(ask(Continuation(Beginning(TOKENS[100:300])), [*TOKENS[100:300], 8, 9], "alone")._steps)

    long = ask(PrefixCache(), TOKENS[:800], "long")
    events: list[Any] = [next(long) for _ in range(4)]
    assert isinstance(events[-1], PrefillProgress)
    assert 0 < events[-1].done < 800
    answers: list[tuple[Answer, int]] = []

    def short() -> None:
        answer = result_of(ask(place, [*TOKENS[100:300], 8, 9], "short")._steps)
        answers.append((answer, max(event.done for event in events if isinstance(event, PrefillProgress))))

    thread = Thread(target=short)
    thread.start()
    while not line_of(MODEL)._visits[1:]:
        time.sleep(0.001)
    events.extend(long)
    thread.join()
    (answer, read_by_then) = answers[0]
    assert answer.token_ids == expected_short.token_ids
    assert answer.reused_tokens == 200
    assert read_by_then < 400  # it did not wait for the end
    assert any(isinstance(event, Waiting) for event in events) or read_by_then < 800
    assert long.result.token_ids == expected_long.token_ids
    assert long.result.log_probabilities == expected_long.log_probabilities
    assert long.result.prompt_tokens == 800
    assert long.result.reused_tokens == 0
    assert not line_of(MODEL).in_use


@pytest.fixture
def _short_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "TURN_SECONDS", 0.0)


@pytest.mark.usefixtures("_short_turns")
@pytest.mark.parametrize("recorded", [False, True], ids=["", "recorded"])
@pytest.mark.parametrize("said", [0, 5], ids=["anew", "gone on with"])
def test_a_long_answer_gives_way_and_nothing_of_it_changes(recorded: bool, said: int) -> None:
    prompt, settings = TOKENS[:200], GenerationSettings(max_new_tokens=20, temperature=1.0, repetition_penalty=1.2)
    how = replace(HOW, observed=recorded)
    record = RecordingRequest(range(199 + said, 219 + said), [0, 50, 100], top=3) if recorded else None

    def asked(beginning: Beginning, begun: Answer | None) -> Running[Any, Answer]:
        steps = answer_steps(
            READY,
            prompt,
            settings,
            how,
            prefix=Continuation(beginning),
            record=record,
            begun=begun,
            asked=Asked("long"),
        )
        return Running(steps)

    begun = None
    if said:
        first = replace(settings, max_new_tokens=said)
        begun = result_of(answer_steps(READY, prompt, first, HOW))
    expected = result_of(asked(Beginning(TOKENS[:100]), begun)._steps)
    beginning, turns = Beginning(TOKENS[:100]), 0
    with asked(beginning, begun) as running:
        while not isinstance(next(running), NewToken):
            pass
        while True:
            with wanting("short") as turn:
                steps = list(takewhile(lambda step: not isinstance(step, Waiting), running))
                if running._results:
                    break
                assert len([step for step in steps if isinstance(step, NewToken)]) <= 1
                result_of(turn)
                # The same handout, with something else behind it.
                with reading(MODEL, METHOD, PROFILE, 200, observed=recorded) as reader:
                    result_of(read_steps(reader, Continuation(beginning), [*TOKENS[:100], *TOKENS[300:360]]))
                turns += 1
    answer = running.result
    assert turns > 15
    assert answer.token_ids == expected.token_ids
    assert answer.log_probabilities == expected.log_probabilities
    assert (answer.text, answer.stopped_by, answer.reused_tokens) == (expected.text, "length", 0)
    assert not line_of(MODEL).in_use
    if recorded:
        assert answer.attention is not None
        assert expected.attention is not None
        for name in ("sums", "maxima", "top_weights"):  # keys of nearly the same weight may swap
            array = expected.attention.arrays_of_rows[name]
            np.testing.assert_allclose(answer.attention.arrays_of_rows[name], array, atol=1e-6)


@pytest.mark.usefixtures("_short_turns")
def test_a_long_answer_keeps_the_model_where_nobody_waits_or_not_for_long_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not any(isinstance(step, Waiting) for step in ask(PrefixCache(), TOKENS[:20], "long"))
    monkeypatch.setattr(generation, "TURN_SECONDS", 60.0)
    running = ask(PrefixCache(), TOKENS[:20], "long")
    next(running)
    with wanting("short"):
        assert not any(isinstance(step, Waiting) for step in running)


@pytest.mark.usefixtures("_short_turns")
@pytest.mark.parametrize("recorded", [False, True], ids=["", "recorded"])
@pytest.mark.parametrize("closed", [False, True], ids=["by hand", "since the model goes"])
def test_an_answer_that_is_stopped_while_another_has_the_model_is_kept(closed: bool, recorded: bool) -> None:
    record = RecordingRequest(range(19, 39), [0]) if recorded else None
    how, settings = replace(HOW, observed=recorded), GenerationSettings(max_new_tokens=20)
    with Running(answer_steps(READY, TOKENS[:20], settings, how, record=record, asked=Asked("long"))) as running:
        tokens = (step for step in running if isinstance(step, NewToken))
        said = [next(tokens), next(tokens)]
        with wanting("short") as turn:
            said += [
                step
                for step in takewhile(lambda step: not isinstance(step, Waiting), running)
                if isinstance(step, NewToken)
            ]
            result_of(turn)
            if closed:
                line_of(MODEL).close("Another model is being loaded.")
                assert not list(running)
                line_of(MODEL).open()
            else:
                running.end()
        answer = running.result
    assert answer.stopped_by == "interrupted"
    assert answer.token_ids == tuple(step.token_id for step in said)
    assert answer.text == said[-1].text


@pytest.mark.usefixtures("_short_turns")
def test_a_stop_while_an_answer_is_about_to_give_way_is_not_lost() -> None:
    record, settings = RecordingRequest(range(19, 39), [0]), GenerationSettings(max_new_tokens=20)
    how = replace(HOW, observed=True)
    with Running(answer_steps(READY, TOKENS[:20], settings, how, record=record, asked=Asked("long"))) as running:
        for _ in range(2):  # the first one's row is recorded with the prompt's
            assert any(isinstance(step, NewToken) for step in running)
        with wanting("short"):
            assert any("tracing" in getattr(step, "words", "") for step in running)
            running.end()
            for _ in running:
                pass
        assert running.result.stopped_by == "interrupted"
        assert len(running.result.token_ids) < 20


@contextmanager
def wanting(who: str) -> Iterator[Generator[Waiting, None, None]]:
    """Somebody short who waits for the model: the turn that follows, once this is followed to its end."""
    with line_of(MODEL).visit(Asked(who), _Short(lambda: True)) as visit:
        turn = visit.turn()
        next(turn)
        yield turn
        visit.leave()


def losses(reader: Reader, prefix: PrefixCache) -> Generator[TokensRead, None, Any]:
    return loss_steps(reader, TOKENS[:400], 40, prefix)


def scores(reader: Reader, prefix: PrefixCache) -> Generator[TokensRead, None, Any]:
    return log_probability_steps(reader, prefix, TOKENS[:400], TOKENS[400:420], 40)


def answers(reader: Reader, prefix: PrefixCache) -> Generator[TokensRead, None, Any]:
    prompts = [[*TOKENS[:390], *TOKENS[start : start + 10]] for start in (400, 410)]
    return greedy_answers_steps(reader, prefix, TOKENS[:390], prompts, 12, frozenset())


@pytest.mark.parametrize("work", [losses, scores, answers])
@pytest.mark.parametrize("method", [METHOD, Vanilla(), LinearInterpolation(), SlidingWindow()], ids=lambda m: m.kind)
def test_what_is_measured_gives_way_too_and_nothing_of_it_changes(method: Method, work: Any) -> None:
    opened = partial(reading, MODEL, method, PROFILE, 420)

    def measured() -> Running[Any, Any]:
        prefix = PrefixCache()
        return Running(exclusively(MODEL, prefix, opened, lambda reader: work(reader, prefix), Asked("measuring")))

    expected = result_of(measured()._steps)
    short = token_ids(30)
    alone = MODEL(short).logits
    with measured() as running:
        turns, _ = 0, next(running)
        while True:
            with wanting("short") as turn:
                step = next(running, None)
                while isinstance(step, TokensRead):
                    step = next(running, None)
                if step is None:
                    break
                assert isinstance(step, Waiting)
                result_of(turn)
                assert torch.equal(MODEL(short).logits, alone)  # as it was before
                turns += 1
        assert turns > 3
        np.testing.assert_array_equal(running.result, expected)
    assert not line_of(MODEL).in_use


def test_what_is_stopped_while_another_has_the_model_is_closed() -> None:
    prefix, closed = PrefixCache(), []

    def work(reader: Reader) -> Generator[TokensRead, None, None]:
        try:
            yield from losses(reader, prefix)
        finally:
            closed.append(True)

    running = Running(exclusively(MODEL, prefix, partial(reading, MODEL, METHOD, PROFILE, 400), work))
    next(running)
    with wanting("short") as turn:
        assert any(isinstance(step, Waiting) for step in running)
        result_of(turn)
        running.close()
        assert closed
    assert not line_of(MODEL).in_use


def test_an_interrupted_reading_leaves_the_line() -> None:
    long = ask(PrefixCache(), TOKENS[:800], "long")
    for _ in range(4):
        next(long)
    assert line_of(MODEL).in_use
    long.close()
    assert not line_of(MODEL).in_use
    assert ask(PrefixCache(), TOKENS[:50], "next").__next__()


def test_memory_that_runs_out_forgets_the_beginning_too() -> None:
    beginning = Beginning(TOKENS[:200])
    place = Continuation(beginning)
    result_of(ask(place, [*TOKENS[:200], 5], "first")._steps)
    assert beginning.is_read

    def fails(reader: Reader) -> Generator[int, None, None]:
        yield 1
        raise MemoryError("out of memory")

    with pytest.raises(OutOfMemoryError, match="Memory ran out"):
        result_of(exclusively(MODEL, place, partial(reading, MODEL, METHOD, PROFILE, 201), fails))
    assert beginning.nbytes == 0
    assert result_of(ask(place, [*TOKENS[:200], 5], "again")._steps).reused_tokens == 0
