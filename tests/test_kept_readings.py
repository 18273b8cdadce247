"""What was read outlives the process, and is found again for the same visitor, documents, model and settings only."""

from __future__ import annotations

import logging
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import torch
from app_parts import load, stored, tiny, tiny_folder  # noqa: F401 (fixtures)
from tiny_models import save_folder, tiny_model

from app.asking import Question, answer_turn
from app.belongings import keep_document, remove_documents, remove_everything
from app.cache_store import CacheStore
from app.kept_readings import KeptReadings
from app.model_shelf import LoadedModel
from app.runtime import make_runtime
from app.session import Session, Turn
from app.settings import read_settings
from selfextend.generation import GenerationSettings
from selfextend.methods import ReRoPE, SelfExtend, Vanilla
from selfextend.steps import result_of

ADA, BOB = "ada" * 10, "bob" * 10
DOCUMENT = stored("handout.txt", pages=12)
QUESTION = Question(
    "Who jumps?", (DOCUMENT,), SelfExtend("none", 16, 64), "always", GenerationSettings(max_new_tokens=4)
)


class Process:
    """The app between two restarts, on one data folder."""

    def __init__(self, loaded: LoadedModel, folder: Path, limit: int = 10**9, *, share: bool = False) -> None:
        self.loaded, self.kept = loaded, KeptReadings(folder, limit)
        self.caches = CacheStore(10**9, self.kept, share=share)

    def ask(self, question: Question = QUESTION, visitor: str = "me") -> Turn:
        turn = result_of(answer_turn(self.loaded, self.caches, Session(visitor), question))
        self.kept.settle()
        return turn


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def test_a_document_read_before_is_answered_at_once_after_a_restart(tiny: LoadedModel, tmp_path: Path) -> None:  # noqa: F811
    first = Process(tiny, tmp_path).ask()
    assert first.answer.reused_tokens == 0
    again = Process(tiny, tmp_path).ask()
    assert again.answer.reused_tokens == len(again.prompt.beginning(1)) > 1_000
    assert again.answer.token_ids == first.answer.token_ids
    assert again.answer.log_probabilities == first.answer.log_probabilities
    (file,) = files(tmp_path)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    # What stands in it are keys and values, and checksums: no name and no word.
    assert b"handout" not in file.read_bytes()
    assert b"me" not in file.read_bytes()[:4096].partition(b'"owner": "')[2][:64]


@pytest.mark.parametrize(
    "other",
    [
        {"visitor": "you"},
        {"question": replace(QUESTION, method=Vanilla())},
        {"question": replace(QUESTION, method=SelfExtend("none", 17, 64))},
        {"question": replace(QUESTION, method=SelfExtend("logn", 16, 64))},
        {"question": replace(QUESTION, method=ReRoPE("none", 64))},
        {"question": replace(QUESTION, documents=(stored("handout.txt", pages=12, mark="x"),))},
        {
            "question": replace(
                QUESTION,
                documents=(
                    replace(
                        DOCUMENT,
                        document=replace(DOCUMENT.document, name="b"),
                    ),
                ),
            )
        },
        {"question": replace(QUESTION, documents=(stored("b.txt"), DOCUMENT))},
    ],
)
def test_anything_else_is_read_for_itself(tiny: LoadedModel, tmp_path: Path, other: dict[str, object]) -> None:  # noqa: F811
    Process(tiny, tmp_path).ask()
    assert Process(tiny, tmp_path).ask(**other).answer.reused_tokens == 0  # type: ignore[arg-type]


def test_another_model_of_the_same_name_is_told_apart_by_its_weights(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    model = tiny_model()
    one = load(str(save_folder(tmp_path / "a" / "model", model)))
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[3, 5] += 1e-6
    other = load(str(save_folder(tmp_path / "b" / "model", model)))
    assert one.label == other.label
    Process(one, kept).ask()
    assert Process(other, kept).ask().answer.reused_tokens == 0
    assert Process(load(str(tmp_path / "a" / "model")), kept).ask().answer.reused_tokens > 1_000


def test_visitors_share_where_that_is_asked_for(tiny: LoadedModel, tmp_path: Path) -> None:  # noqa: F811
    process = Process(tiny, tmp_path, share=True)
    first = process.ask(visitor="a")
    second = process.ask(visitor="b")
    assert second.answer.reused_tokens == len(second.prompt.beginning(1)) > 1_000
    assert second.answer.token_ids == first.answer.token_ids
    assert Process(tiny, tmp_path, share=True).ask(visitor="c").answer.reused_tokens > 1_000
    assert Process(tiny, tmp_path).ask(visitor="a").answer.reused_tokens == 0


def test_visitors_do_not_share_otherwise(tiny: LoadedModel, tmp_path: Path) -> None:  # noqa: F811
    process = Process(tiny, tmp_path)
    process.ask(visitor="a")
    assert process.ask(visitor="b").answer.reused_tokens == 0
    assert len(files(tmp_path)) == 2


def test_a_shared_handout_is_read_once_whatever_each_adds_to_it(tiny: LoadedModel, tmp_path: Path) -> None:  # noqa: F811
    process = Process(tiny, tmp_path, share=True)
    own = {who: stored(f"{who}.txt", mark=f"of {who} alone") for who in "abc"}
    asked = {who: replace(QUESTION, documents=(DOCUMENT, document)) for who, document in own.items()}
    first = {who: process.ask(question, who) for who, question in asked.items()}
    handout = len(first["a"].prompt.beginning(1))
    assert [turn.answer.reused_tokens for turn in first.values()] == [0, handout, handout]
    again = {who: process.ask(question, who) for who, question in asked.items()}
    for who, turn in again.items():
        assert turn.answer.reused_tokens == len(turn.prompt) - 1  # what was set aside is there again
        assert turn.answer.token_ids == first[who].answer.token_ids
        alone = Process(tiny, tmp_path / who).ask(asked[who], who)
        assert turn.answer.token_ids == alone.answer.token_ids
    one = first["a"].prefix.text_nbytes
    assert process.caches.nbytes < 1.6 * one


def test_a_document_that_is_added_leaves_what_was_read_of_the_first(tiny: LoadedModel, tmp_path: Path) -> None:  # noqa: F811
    process, both = Process(tiny, tmp_path), replace(QUESTION, documents=(DOCUMENT, stored("b.txt")))
    first = process.ask()
    assert process.ask(both).answer.reused_tokens == len(first.prompt.beginning(1))
    assert Process(tiny, tmp_path).ask(both).answer.reused_tokens == len(first.prompt.beginning(1))


def flipped(data: bytes) -> bytes:
    return data[:-1000] + bytes([data[-1000] ^ 1]) + data[-999:]


@pytest.mark.parametrize(
    "damage",
    [
        flipped,
        lambda data: data[: len(data) // 2],
        lambda data: data[:100],
        lambda data: b"",
        lambda data: b"\xff" * 5000,
        lambda data: data + b"more",
        lambda data: data.replace(b'"selfextend-reading-', b'"selfextend-writing-'),
        lambda data: data.replace(b'"reads_as": "', b'"reads_as": "x'[:14]),
    ],
    ids=["a bit", "half", "its head", "empty", "foreign", "more", "another format", "other settings"],
)
def test_a_damaged_file_is_removed_and_logged_and_costs_nothing_else(
    tiny: LoadedModel,  # noqa: F811
    tmp_path: Path,
    damage: Callable[[bytes], bytes],
    caplog: pytest.LogCaptureFixture,
) -> None:
    first = Process(tiny, tmp_path).ask()
    (file,) = files(tmp_path)
    file.write_bytes(damage(file.read_bytes()))
    logging.getLogger("selfextend.app").propagate = True
    with caplog.at_level(logging.WARNING):
        again = Process(tiny, tmp_path).ask()
    assert again.answer.reused_tokens == 0
    assert again.answer.token_ids == first.answer.token_ids
    assert "was removed" in caplog.text
    assert "handout" not in caplog.text
    assert Process(tiny, tmp_path).ask().answer.reused_tokens > 1_000  # written anew


def test_the_least_recently_used_go_first(tiny: LoadedModel, tmp_path: Path) -> None:  # noqa: F811
    documents = [stored(f"{mark}.txt", pages=12, mark=mark) for mark in "abc"]
    asked = [replace(QUESTION, documents=(document,)) for document in documents]
    Process(tiny, tmp_path).ask(asked[0])
    size = KeptReadings(tmp_path, 0).nbytes
    process = Process(tiny, tmp_path, int(2.5 * size))
    process.ask(asked[1])
    assert Process(tiny, tmp_path, int(2.5 * size)).ask(asked[0]).answer.reused_tokens > 1_000  # used again
    process.ask(asked[2])
    assert len(files(tmp_path)) == 2
    assert process.kept.nbytes <= 2.5 * size
    reused = [Process(tiny, tmp_path).ask(one).answer.reused_tokens > 0 for one in asked]
    assert reused == [True, False, True]


def test_what_is_larger_than_the_limit_is_not_written(tiny: LoadedModel, tmp_path: Path) -> None:  # noqa: F811
    Process(tiny, tmp_path, 10_000).ask()
    assert not files(tmp_path)


def test_a_document_that_goes_takes_its_readings_along(tiny: LoadedModel, tmp_path: Path) -> None:  # noqa: F811
    other = stored("b.txt", pages=12, mark="b")
    process = Process(tiny, tmp_path)
    process.ask()
    process.ask(replace(QUESTION, documents=(other, DOCUMENT)))
    process.ask(replace(QUESTION, documents=(other,)))
    process.kept.forget(DOCUMENT.document.sha256)
    assert len(files(tmp_path)) == 1
    assert Process(tiny, tmp_path).ask(replace(QUESTION, documents=(other,))).answer.reused_tokens > 1_000


def test_who_gives_up_a_document_takes_their_own_readings_along(tiny: LoadedModel, tmp_path: Path) -> None:  # noqa: F811
    process = Process(tiny, tmp_path)
    process.ask(visitor="me")
    process.ask(visitor="you")
    process.kept.forget(DOCUMENT.document.sha256, "me")
    assert len(files(tmp_path)) == 1
    assert Process(tiny, tmp_path).ask(visitor="you").answer.reused_tokens > 1_000


def test_a_deleted_document_has_no_readings(tiny: LoadedModel, tmp_path: Path) -> None:  # noqa: F811
    runtime = make_runtime(read_settings(["--data-folder", str(tmp_path / "data")], {}))
    path = tmp_path / "handout.txt"
    path.write_text("The fox jumps over the lazy dog near the old mill. " * 60)
    kept, visitors = runtime.caches.kept, ["ada-0123456789-0123456789", "bob-0123456789-0123456789"]
    assert kept is not None
    for visitor in visitors:
        stored_here = result_of(runtime.library.add_steps(path, path.name, visitor))
        session = runtime.sessions.get(visitor)
        keep_document(runtime, session, stored_here)
        result_of(answer_turn(tiny, runtime.caches, session, replace(QUESTION, documents=(stored_here,))))
        kept.settle()
    assert len(files(kept.folder)) == 2
    remove_documents(runtime, runtime.sessions.get(visitors[0]), stored_here.document.sha256)
    assert len(files(kept.folder)) == 1
    remove_everything(runtime, visitors[1])
    assert files(kept.folder) == []


@pytest.mark.parametrize("moment", [1, 3], ids=["while it waits", "while it is written"])
@pytest.mark.parametrize("other", [False, True], ids=["here", "by another server on the folder"])
def test_what_is_not_written_yet_goes_with_its_document_too(
    tiny: LoadedModel,  # noqa: F811
    tmp_path: Path,
    other: bool,
    moment: int,
) -> None:
    process = Process(tiny, tmp_path)
    remover = KeptReadings(tmp_path, 10**9) if other else process.kept
    left = during_writing(process, moment, lambda: remover.forget(DOCUMENT.document.sha256))
    assert left == [[]]  # at once, not only when it is written
    assert not files(tmp_path)


def test_what_is_not_written_yet_stays_where_another_goes(tiny: LoadedModel, tmp_path: Path) -> None:  # noqa: F811
    process = Process(tiny, tmp_path)
    during_writing(process, 3, lambda: process.kept.forget_owner("you"))
    assert Process(tiny, tmp_path).ask().answer.reused_tokens > 1_000


def during_writing(process: Process, moment: int, act: Callable[[], None]) -> list[list[Path]]:
    """Ask, and act at this look at whether the writing should wait; what is in the folder right after that."""
    keep, looks, left = process.kept.keep, count(1), list[list[Path]]()

    def busy() -> bool:
        if next(looks) == moment:
            act()
            left.append(files(process.kept.folder))
        return False

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process.kept, "keep", lambda what, beginning, _: keep(what, beginning, busy))
        process.ask()
    return left


def test_what_a_dead_process_was_writing_is_removed_at_the_start(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        pass
    at_work, of_its_number = tmp_path / f"a.{os.getppid()}.part", tmp_path / f"b.{os.getppid()}.part"
    for part in (tmp_path / f"a.{dead.pid}.part", tmp_path / f"a.{os.getpid()}.part", at_work, of_its_number):
        part.write_bytes(b"half of it")
    os.utime(of_its_number, (0, 0))
    KeptReadings(tmp_path, 10**9)
    assert files(tmp_path) == [at_work]


def test_nothing_is_kept_without_persistence(tmp_path: Path) -> None:
    folder = ["--data-folder", str(tmp_path)]
    assert make_runtime(read_settings([*folder, "--no-persist"], {})).caches.kept is None
    assert make_runtime(read_settings([*folder, "--reading-mb", "0"], {})).caches.kept is None
    kept = make_runtime(read_settings(folder, {})).caches.kept
    assert kept is not None
    assert stat.S_IMODE(kept.folder.stat().st_mode) == 0o700


def test_what_was_read_goes_with_the_document_or_the_visitor(tiny: LoadedModel, tmp_path: Path) -> None:  # noqa: F811
    """In memory and on disk, and nobody else's does."""
    runtime = make_runtime(read_settings(["--data-folder", str(tmp_path / "data")], {}))
    caches, both = runtime.caches, tmp_path / "handout.txt"
    assert caches.kept is not None
    both.write_text("The fox jumps over the lazy dog. " * 200)

    def ask(visitor: str, path: Path) -> None:
        session = runtime.sessions.get(visitor)
        document = result_of(runtime.library.add_steps(path, path.name, visitor))
        keep_document(runtime, session, document)
        result_of(answer_turn(tiny, caches, session, replace(QUESTION, documents=(document,))))
        assert caches.kept is not None
        caches.kept.settle()

    ask(ADA, both)
    ask(BOB, both)
    assert len(files(caches.kept.folder)) == 2
    held = caches.nbytes
    remove_everything(runtime, ADA)
    assert len(files(caches.kept.folder)) == 1
    assert caches.nbytes == held // 2
    remove_documents(runtime, runtime.sessions.get(BOB))
    assert not files(caches.kept.folder)
    assert caches.nbytes == 0


def test_what_is_shared_stays_until_nobody_has_the_file(tiny: LoadedModel, tmp_path: Path) -> None:  # noqa: F811
    runtime = make_runtime(read_settings(["--data-folder", str(tmp_path), "--share-reading"], {}))
    file = tmp_path / "handout.txt"
    file.write_text(DOCUMENT.document.text, encoding="utf-8")
    ada, bob = (runtime.sessions.get(f"{who}-0123456789-0123456789") for who in ("ada", "bob"))
    for session in (ada, bob):
        keep_document(runtime, session, result_of(runtime.library.add_steps(file, file.name, session.visitor)))
    question = replace(QUESTION, documents=tuple(ada.documents))
    result_of(answer_turn(tiny, runtime.caches, ada, question))
    kept = runtime.caches.kept
    assert kept is not None
    kept.settle()
    remove_everything(runtime, ada.visitor)
    assert len(files(kept.folder)) == 1
    assert result_of(answer_turn(tiny, runtime.caches, bob, question)).answer.reused_tokens > 1_000
    remove_documents(runtime, bob)
    assert not files(kept.folder)
    assert runtime.caches.nbytes == 0
