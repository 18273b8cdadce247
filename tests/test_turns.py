"""Several visitors and one model: each is told the place in the line, and a model that is replaced keeps nobody."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest
from app_parts import stored, tiny, tiny_folder  # noqa: F401 (fixtures)

from app.answering import Shown, reply_steps
from app.asking import Question, answer_turn, prompt_of
from app.cache_store import CacheStore
from app.model_shelf import LoadedModel, ModelShelf
from app.page import _test_passages
from app.runtime import make_runtime
from app.session import Session, Turn
from app.settings import read_settings
from app.tabs.compare import _loss_steps
from app.tabs.lab import _steps, prepare
from app.tabs.model_panel import told_load
from selfextend import line
from selfextend.batching import Batch
from selfextend.config import SelfExtendConfig
from selfextend.generation import GenerationSettings
from selfextend.lab.choices import Choices
from selfextend.lab.records import RunFile, file_name
from selfextend.line import ClosedLineError, line_of
from selfextend.methods import SelfExtend
from selfextend.steps import Running, result_of

LONG = Question(
    "Who jumps?",
    (stored("long.txt", pages=60, sentences=8),),
    SelfExtend("none", 100, 64),
    "always",
    GenerationSettings(max_new_tokens=4),
)
OTHER = replace(LONG, documents=(stored("other.txt", pages=60, sentences=8),))
SHORT = replace(LONG, documents=(stored("short.txt"),))


def shown_until(steps: Iterator[Shown], words: str) -> Shown:
    return next(shown for shown in steps if words in shown.progress.words)


def test_who_waits_is_told_the_place_and_the_seconds(tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr(line, "LOOK_SECONDS", 0.01)
    caches = CacheStore(10**9)
    mine = reply_steps(tiny, caches, Session("me"), [LONG])
    shown_until(mine, "reading")
    yours = reply_steps(tiny, caches, Session("you"), [OTHER])
    waiting = shown_until(yours, "waiting for the model: 1 question is ahead of this one")
    assert waiting.progress.seconds_left is not None
    mine.close()
    assert shown_until(yours, "answering")
    *_, last = yours
    assert last.turns


def test_a_short_question_need_not_wait_for_a_long_document(tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr(line, "LOOK_SECONDS", 0.01)
    caches = CacheStore(10**9)
    alone = [result_of(answer_turn(tiny, CacheStore(10**9), Session("x"), asked)).answer for asked in (LONG, SHORT)]
    long = Running(answer_turn(tiny, caches, Session("me"), LONG))
    while not line_of(tiny.model).in_use:
        next(long)
    ends: list[str] = []

    def ask() -> None:
        turn = result_of(answer_turn(tiny, caches, Session("you"), SHORT))
        assert turn.answer.token_ids == alone[1].token_ids
        ends.append("short")

    thread = Thread(target=ask)
    thread.start()
    while len(line_of(tiny.model)._visits) < 2:
        time.sleep(0.001)
    for _ in long:
        pass
    ends.append("long")
    thread.join()
    assert ends == ["short", "long"]
    assert long.result.answer.token_ids == alone[0].token_ids


def test_what_is_read_now_is_not_let_go_of_for_somebody_else(tiny: LoadedModel) -> None:  # noqa: F811
    """Far less room than both take: what a long reading has read stays while it gives way."""
    caches = CacheStore(1)
    long = Running(answer_turn(tiny, caches, Session("me"), LONG))
    for _ in range(3):
        next(long)
    caches.make_room(10**9)
    caches.clear()
    for _ in long:
        pass
    alone = result_of(answer_turn(tiny, CacheStore(10**9), Session("x"), LONG))
    assert long.result.answer.token_ids == alone.answer.token_ids
    assert long.result.answer.reused_tokens == 0


def test_visitors_of_one_handout_are_answered_along_and_have_answers_of_their_own(
    tiny: LoadedModel,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each with the passages behind it, as if nobody else had asked."""
    sizes: list[int] = []
    read = Batch.read

    def noted(self: Batch, tokens: Any) -> Any:
        sizes.append(len(tokens))
        return read(self, tokens)

    monkeypatch.setattr(Batch, "read", noted)
    generation = GenerationSettings(max_new_tokens=40)
    questions = [
        replace(LONG, text=f"{word} jumps?", generation=generation) for word in ("Who", "What", "Where", "Why")
    ]
    alone = [result_of(answer_turn(tiny, CacheStore(10**9), Session("x"), question)) for question in questions]
    assert not sizes
    caches = CacheStore(10**9, share=True)
    result_of(answer_turn(tiny, caches, Session("teacher"), questions[0]))
    found: dict[int, Turn] = {}

    def ask(number: int) -> None:
        found[number] = result_of(answer_turn(tiny, caches, Session(f"visitor {number}"), questions[number]))

    threads = [Thread(target=ask, args=(number,)) for number in range(len(questions))]
    with line_of(tiny.model).visit() as before:
        result_of(before.turn())
        for thread in threads:
            thread.start()
        while len(line_of(tiny.model)._visits) <= len(questions):
            time.sleep(0.001)
        before.leave()
    for thread in threads:
        thread.join(60)
    assert max(sizes) > 2
    for number, wanted in enumerate(alone):
        turn = found[number]
        assert turn.answer.token_ids == wanted.answer.token_ids
        assert [c.rank for c in turn.citations] == [c.rank for c in wanted.citations]
        assert [c.page for c in turn.citations] == [c.page for c in wanted.citations]
        assert turn.question == questions[number].text


def passage_tests(loaded: LoadedModel, folder: Path) -> Iterator[Any]:
    turn = result_of(answer_turn(loaded, CacheStore(10**9), Session("me"), SHORT))
    runtime: Any = SimpleNamespace(models=SimpleNamespace(need=lambda: loaded))
    return _test_passages(runtime, "me", turn, turn.citations)


def losses(loaded: LoadedModel, folder: Path) -> Iterator[Any]:
    tokens = prompt_of(loaded, SHORT).ids
    return _loss_steps(loaded, tokens, SelfExtendConfig(100, 64), "me")


def lab(loaded: LoadedModel, folder: Path) -> Iterator[Any]:
    plan, header = prepare(Choices("passkey", ("vanilla",), lengths="2x", depths="1", trials=1, seed=1), loaded)
    return _steps(loaded, plan, RunFile(folder / file_name(header), header, resume=True), "me")


@pytest.mark.parametrize("job", [passage_tests, losses, lab])
def test_whatever_a_visitor_has_the_model_do_counts_as_their_turn(
    tiny: LoadedModel,  # noqa: F811
    tmp_path: Path,
    job: Callable[[LoadedModel, Path], Iterator[Any]],
) -> None:
    for _ in job(tiny, tmp_path):
        assert {visit.asked.who for visit in line_of(tiny.model)._visits} <= {"me"}
        if line_of(tiny.model).in_use:
            break
    else:
        pytest.fail("the model was never used")


def test_a_model_is_replaced_when_nobody_uses_it_and_those_who_wait_are_told(
    tiny_folder: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(line, "LOOK_SECONDS", 0.01)
    runtime = make_runtime(read_settings(["--data-folder", str(tmp_path)], {}))
    loaded = result_of(runtime.models.load_steps(str(tiny_folder)))
    first = Running(answer_turn(loaded, runtime.caches, Session("me"), LONG))
    next(first)
    load = Running(told_load(runtime, str(tiny_folder), "none", "cpu"))
    assert "1 question is ahead" in next(load)
    waiting = Running(answer_turn(loaded, runtime.caches, Session("you"), OTHER))
    next(waiting)
    for _ in first:
        pass
    assert first.result.answer.token_ids
    assert runtime.models.loaded is loaded
    for _ in load:
        pass
    assert load.result == ""
    assert runtime.models.loaded is not loaded
    with pytest.raises(ClosedLineError, match="Another model is being loaded"):
        for _ in waiting:
            pass
    assert runtime.models.loaded is not None
    assert result_of(answer_turn(runtime.models.loaded, runtime.caches, Session("you"), SHORT)).answer.token_ids


def test_a_load_that_is_stopped_keeps_nobody_from_the_model(tiny_folder: Path) -> None:  # noqa: F811
    models = ModelShelf()
    loaded = result_of(models.load_steps(str(tiny_folder)))
    line_of(loaded.model).close("closed")
    with pytest.raises(ClosedLineError):
        result_of(answer_turn(loaded, CacheStore(10**9), Session("you"), SHORT))
    line_of(loaded.model).open()
    assert result_of(answer_turn(loaded, CacheStore(10**9), Session("you"), SHORT)).answer.token_ids
