"""What the page's handlers do with its states, without a browser."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from app_parts import stored, tiny_folder  # noqa: F401 (fixture)

from app.answering import reply_by
from app.conversation import (
    Entry,
    Reply,
    as_json,
    as_text,
    from_json,
    measures,
    messages,
    placed_messages,
    same_thread,
    speed_words,
)
from app.jobs import InBackground, Job, JobStopped
from app.page import _test_passages, build_page
from app.runtime import Runtime, make_runtime
from app.session import Session, Turn
from app.settings import read_settings
from app.tabs.controls import ALWAYS, WHEN_NEEDED, Choices, Controls, next_question_html
from selfextend.loading import hardware
from selfextend.steps import Progress, result_of


@pytest.fixture
def runtime() -> Runtime:
    return make_runtime(read_settings(["--no-browser", "--no-persist"], {}))


def test_no_handler_outside_the_queue_sets_a_state_that_others_listen_to(runtime: Runtime) -> None:
    """`State.change` reaches the page through queued events only."""
    functions = build_page(runtime).fns.values()
    listened_to = {target for function in functions for target, event in function.targets if event == "change"}
    states = [
        (function, output)
        for function in functions
        for output in function.outputs
        if isinstance(output, gr.State) and output._id in listened_to
    ]
    assert states
    assert not [str(function.name) for function, _ in states if not function.queue]


def test_the_page_tells_nobody_the_settings_it_was_started_with(tmp_path: Path) -> None:
    """Gradio sends the words for whatever a component was given."""
    arguments = ["--no-persist", "--model", str(tmp_path / "model"), "--data-folder", str(tmp_path)]
    page = build_page(make_runtime(read_settings(arguments, {})))
    assert str(tmp_path) not in json.dumps(page.get_config_file(), default=str)


def test_what_changes_a_conversation_is_answered_in_the_order_of_the_clicks(runtime: Runtime) -> None:
    """A question that was sent right after Clear, on a busy machine, went on in the old conversation."""
    names = {"begin", "retry", "edit", "example", "go_on", "again", "undo", "clear"}
    found = {}
    for function in build_page(runtime).fns.values():
        if getattr(function.fn, "__self__", None).__class__.__module__ == "app.tabs.chat":
            found[function.fn.__name__] = (function.queue, function.concurrency_id, function.concurrency_limit)
    assert names <= set(found)
    assert {found[name] for name in names} == {(True, "conversation", 1)}


def counted() -> Generator[int, None, str]:
    yield 1
    yield 2
    return "done"


def test_a_job_is_followed_to_its_result() -> None:
    steps = Job().follow(counted())
    assert [next(steps), next(steps)] == [1, 2]
    with pytest.raises(StopIteration) as end:
        next(steps)
    assert end.value.value == "done"


@pytest.mark.parametrize("before", [True, False], ids=["before it starts", "between two steps"])
def test_a_stopped_job_closes_its_steps(before: bool) -> None:
    closed = []

    def steps() -> Iterator[int]:
        try:
            yield from range(5)
        finally:
            closed.append(True)

    job = Job()
    job.begin()
    if before:
        job.stop()
    followed = job.follow(steps())
    if not before:
        next(followed)
        job.stop()
    with pytest.raises(JobStopped):
        next(followed)
    assert closed == ([] if before else [True])
    job.begin()
    assert list(job.follow(steps())) == [0, 1, 2, 3, 4]


def test_a_stop_that_was_seen_too_late_stops_no_later_work() -> None:
    job = Job()
    job.begin()
    earlier = job.follow(counted())
    next(earlier)
    job.stop()
    job.begin()
    assert list(job.follow(counted())) == [1, 2]
    with pytest.raises(JobStopped):
        next(earlier)


def test_a_job_tells_its_progress() -> None:
    job = Job()
    list(job.follow(progress for progress in [Progress("reading", 0.5)]))
    assert job.progress == Progress("reading", 0.5)


def last_of(work: InBackground[int]) -> list[int]:
    """What somebody who looks on sees last."""
    return list(work.follow())[-1:]


def test_steps_in_the_background_go_on_while_nobody_follows() -> None:
    go_on, job = threading.Event(), Job()

    def steps() -> Generator[int, None, None]:
        yield 1
        go_on.wait(30)
        yield 2
        yield 3

    job.begin()
    work = InBackground(steps(), job, patience=60)
    assert next(iter(work.follow())) == 1  # and the page is gone
    go_on.set()
    assert last_of(work) == [3]
    assert last_of(work) == [3]  # as often as it is asked for


def test_an_error_in_the_background_is_for_those_who_follow() -> None:
    def steps() -> Generator[int, None, None]:
        yield 1
        raise ValueError("too long")

    work = InBackground(steps(), Job(), patience=60)
    for _ in range(2):
        with pytest.raises(ValueError, match="too long"):
            list(work.follow())


def test_what_nobody_follows_any_more_is_stopped_and_nothing_later_is() -> None:
    job = Job()

    def steps() -> Generator[int, None, None]:
        for number in range(1, 1000):
            time.sleep(0.01)
            yield number

    def followed() -> Generator[int, None, None]:
        try:
            yield from job.follow(steps())
        except JobStopped:
            yield -1

    job.begin()
    work = InBackground(followed(), job, patience=0.1)
    time.sleep(0.05)
    job.begin()
    later = job.follow(counted())
    assert next(later) == 1
    time.sleep(0.6)
    assert last_of(work) == [-1]
    assert next(later) == 2


def test_each_activity_of_a_visitor_has_a_stop_of_its_own() -> None:
    session = Session("v")
    jobs = [session.answering, session.measuring, session.testing, session.probing, session.reading]
    assert len(set(map(id, jobs))) == len(jobs)
    session.measuring.stop()
    assert list(session.answering.follow(counted())) == [1, 2]


def entry(question: str, model: str = "tiny", documents: tuple[str, ...] | None = ("a",), model_id: str = "") -> Entry:
    return Entry(question, (Reply(1, "vanilla", f"{question}!"),), model, documents, model_id)


def test_another_model_or_document_starts_a_thread_of_its_own() -> None:
    talk = [entry("1"), entry("2"), entry("3", "other"), entry("4", "other", ("a", "b")), entry("5", "other", ("a",))]
    assert same_thread(talk[:2], entry("?")) == talk[:2]
    assert same_thread(talk[:3], entry("?", "other")) == talk[2:3]
    assert same_thread(talk[:4], entry("?", "other")) == []
    assert same_thread(talk, entry("?")) == []
    dividers = [(place, message) for place, message in placed_messages(talk) if "divider" in message["content"]]
    assert [place for place, _ in dividers] == [2, 3, 4]
    assert "the model is other" in dividers[0][1]["content"]
    assert "the documents are others" in dividers[1][1]["content"]
    assert "*From here the model is other;" in as_text(talk, ())


def test_models_of_one_label_are_told_apart() -> None:
    """Two files of one name, or one file at first whole and then in nf4."""
    talk = [entry("1"), entry("2", model_id="a"), entry("3", model_id="b")]
    assert same_thread(talk[:2], entry("?", model_id="a")) == talk[:2]  # of the first only the label is known
    assert same_thread(talk, entry("?", model_id="b")) == talk[2:]
    assert same_thread(talk, entry("?", model_id="a")) == []
    ((place, divider),) = [each for each in placed_messages(talk) if "divider" in each[1]["content"]]
    assert place == 2
    assert "the model is another tiny, or quantized otherwise" in divider["content"]
    assert from_json(as_json(talk)) == talk


def test_passages_are_tested_on_the_model_that_answered_only() -> None:
    """To another of the same label the token ids of the prompt are other words."""
    models = SimpleNamespace(need=lambda: SimpleNamespace(label="tiny", identity="b"))
    turn = SimpleNamespace(model_name="tiny", model_id="a")
    with pytest.raises(ValueError, match="tiny gave this answer: load it again as it was"):
        _test_passages(SimpleNamespace(models=models), "visitor", turn, [])


def test_dividers_survive_the_browser_and_old_conversations_open() -> None:
    talk = [entry("1"), entry("2", "<b>"), entry("3", "<b>", ())]
    kept = as_json(talk)
    assert messages(from_json(kept)) == messages(talk)
    assert "<b>" not in str([message for message in messages(talk) if "divider" in message["content"]])
    for record in kept:
        del record["documents"], record["model_id"]
    old = from_json(kept)
    assert [entry.question for entry in old] == ["1", "2", "3"]
    assert same_thread(old, entry("?", "<b>")) == old[1:]  # what it was asked about is not known


def test_the_turn_in_view_is_the_newest_of_the_conversation_and_of_its_model() -> None:
    session = Session("v")
    for number in (1, 2):
        turn = object.__new__(Turn)
        for name, value in (("id", number), ("model_id", "tiny"), ("prompt", ())):
            object.__setattr__(turn, name, value)
        session.keep(turn)
    talk = [
        Entry("a", (Reply(1, "vanilla", ""),), "tiny"),
        Entry("b", (Reply(2, "vanilla", ""), Reply(0, "vanilla", ""))),
    ]
    assert session.last_turn(talk, "tiny") is session.turns[2]
    assert session.last_turn(talk[:1], "tiny") is session.turns[1]
    assert session.last_turn([], "tiny") is None
    assert session.last_turn(talk, "other") is None


def test_no_speed_is_told_of_an_answer_that_has_none() -> None:
    assert [speed_words(rate) for rate in (0, 0.0412, 3.456, 12.6, 1234.5)] == [
        "",
        "0.041 tokens/s",
        "3.5 tokens/s",
        "13 tokens/s",
        "1,234 tokens/s",
    ]
    assert "tokens/s" not in measures(Reply(1, "vanilla", "Yes", prompt_tokens=16963, seconds=1.0))
    assert "16,963 tokens read" in measures(Reply(1, "vanilla", "Yes", prompt_tokens=16963, seconds=1.0))


CHOSEN = {
    "method": "SelfExtend", "group_size": 8, "neighbor_window": 128, "log_n": False, "extend": ALWAYS,
    "max_new_tokens": 64, "temperature": 0.0, "top_p": 1.0, "top_k": 0, "repetition_penalty": 1.0, "seed": 0,
    "remember": False, "four": False, "system": "", "thinking": False,
}  # fmt: skip


def chosen(**other: Any) -> Choices:
    """What the controls say, by their names."""
    return Choices.read([(CHOSEN | other)[name] for name in Controls._fields])


def asked(choices: Choices) -> list[Entry]:
    replies = tuple(reply_by(method, turn=1, text="Yes") for method in choices.methods)
    return [Entry("Who?", replies, asked_with=choices.asked_with())]


@pytest.mark.parametrize(
    ("other", "name", "mark"),
    [
        ({"group_size": 9}, "group size", "group-size"),
        ({"log_n": True}, "log-n query scaling", "query-scaling"),
        ({"method": "Vanilla"}, "method", "method"),
        ({"method": "Compare"}, "method", "method"),
        ({"extend": WHEN_NEEDED}, "when SelfExtend is used", "extend"),
        ({"max_new_tokens": 65}, "longest answer", "max-new-tokens"),
        ({"temperature": 0.7}, "temperature", "temperature"),
        ({"repetition_penalty": 1.1}, "repetition penalty", "repetition-penalty"),
        ({"remember": True}, "whether earlier questions are in the prompt", "remember"),
        ({"system": "Be brief."}, "system prompt", "system"),
        ({"thinking": True}, "thinking", "thinking"),
    ],
)
def test_what_was_set_since_the_last_answer_is_told_until_it_is_asked_with(
    other: dict[str, Any], name: str, mark: str
) -> None:
    said = asked(chosen())
    assert next_question_html(chosen(), said) == ""
    told = next_question_html(chosen(**other), said)
    assert f"</b> {name}." in told
    assert f"changes-{mark}" in told
    assert ("The last answer is by SelfExtend (G = 8, w = 128)" in told) == (len(other.keys() & METHOD) > 0)
    assert next_question_html(chosen(**other), asked(chosen(**other))) == ""
    assert next_question_html(chosen(**other), from_json(json.loads(json.dumps(as_json(said))))) == told, (
        "as the browser keeps it"
    )


METHOD = {"method", "group_size", "neighbor_window", "log_n"}


def test_what_has_no_effect_is_no_change() -> None:
    assert next_question_html(chosen(seed=1, top_p=0.5, top_k=9), asked(chosen())) == "", "the most likely token is one"
    sampled = asked(chosen(temperature=0.7))
    assert "</b> top p, top k, seed." in next_question_html(
        chosen(temperature=0.7, seed=1, top_p=0.5, top_k=9), sampled
    )
    vanilla = {"method": "Vanilla"}
    assert next_question_html(chosen(**vanilla, extend=WHEN_NEEDED), asked(chosen(**vanilla))) == ""
    four = {"method": "Compare", "four": True}
    assert "</b> the columns that are compared." in next_question_html(chosen(**four), asked(chosen(method="Compare")))
    assert next_question_html(chosen(), []) == ""


def test_an_answer_that_goes_on_keeps_its_prompt() -> None:
    began, now = chosen(), chosen(system="Be brief.", max_new_tokens=32)
    went_on = [replace(asked(began)[0], asked_with=now.asked_with(began.asked_with()))]
    assert "</b> system prompt." in next_question_html(now, went_on)


def test_of_a_conversation_kept_before_it_was_written_down_only_the_methods_are_compared() -> None:
    said = [replace(asked(chosen())[0], asked_with=())]
    assert next_question_html(chosen(temperature=0.7), said) == ""
    assert "group size" in next_question_html(chosen(group_size=9), said)


def test_a_loss_that_does_not_fit_the_memory_is_not_measured(
    runtime: Runtime,
    tiny_folder: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    visitor = "ada-0123456789-0123456789"
    session = runtime.sessions.get(visitor)
    session.documents = [stored()]
    result_of(runtime.models.load_steps(str(tiny_folder)))
    monkeypatch.setattr(hardware, "available_bytes", lambda device: 1000)
    measure = next(function for function in build_page(runtime).fns.values() if function.name == "measure")
    values = [component.value for component in measure.inputs[1:]]
    *_, last = measure.fn(visitor, *values)
    assert any("of memory, and 1,000 bytes are free" in str(update) for update in last.values())
