"""Texts that go on from one beginning and are read in a batch become what they would have become one by one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from architectures import ARCHITECTURES, TRAINED_WINDOW, build, token_ids
from helpers import ready_model
from hypothesis import given, settings
from hypothesis import strategies as st

from selfextend import generation
from selfextend.batching import Batch, can_be_batched
from selfextend.beginning import Beginning, Continuation
from selfextend.errors import OutOfMemoryError
from selfextend.generation import Answer, GenerationSettings, NewToken, ReadingSettings, answer_steps
from selfextend.line import Asked, line_of
from selfextend.methods import Method, ReRoPE, SelfExtend, Vanilla
from selfextend.profile import Profile
from selfextend.reader import Reader
from selfextend.reading import PrefixCache, read_steps, reading
from selfextend.recording import RecordingRequest
from selfextend.sampling import Sampler
from selfextend.steps import Running, result_of

PROFILE = Profile(trained_window=TRAINED_WINDOW, neighbor_window=16, query_scaling="none")
TOKENS: list[int] = token_ids(600)[0].tolist()
METHODS: dict[str, Method] = {
    "selfextend": SelfExtend("none", 4, 16),
    "selfextend+logn": SelfExtend("logn", 3, 5),
    "rerope": ReRoPE("none", 16),
    "vanilla": Vanilla(),
}
LENGTH = 200


def read_alone(name: str, method: Method, texts: list[list[int]]) -> list[torch.Tensor]:
    found = []
    with reading(build(name), method, PROFILE, LENGTH, observed=True) as reader:
        for text in texts:
            prefix = PrefixCache()
            prefix.rewind(reader, [], LENGTH)
            found.append(prefix.read(reader, text)[0])
    return found


@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma", "glm4", "phi3", "granite"])
@settings(max_examples=5, deadline=None)
@given(
    beginning=st.integers(1, 60),
    own=st.lists(st.integers(1, 40), min_size=2, max_size=4),
    steps=st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=8),
)
def test_a_batch_reads_what_each_text_reads_alone(
    name: str, kind: str, beginning: int, own: list[int], steps: list[tuple[int, bool]]
) -> None:
    """Texts come and go between the steps, and read on alone where they are not in the batch."""
    method = METHODS[kind]
    start = Beginning(TOKENS[:beginning])
    texts = [Continuation(start) for _ in own]
    said = [[*start.tokens, *TOKENS[100 * n + 70 : 100 * n + 70 + count]] for n, count in enumerate(own)]
    logits = [torch.empty(0) for _ in own]

    def alone(place: int) -> None:
        texts[place].rewind(reader, said[place][:-1], LENGTH)
        while len(texts[place].tokens) < len(said[place]):
            chunk = texts[place].chunk(said[place], len(texts[place].tokens), 1024)
            logits[place] = texts[place].read(reader, chunk)[0]

    with reading(build(name), method, PROFILE, LENGTH, observed=True) as reader:
        for place in range(len(own)):
            alone(place)
        assert can_be_batched(start, reader)
        for number, (left_out, leaves) in enumerate(steps):
            batch = Batch(start, reader)
            rows = [place for place in range(len(own)) if place != left_out]
            assert all(batch.add(texts[place]) for place in rows)
            for step in range(3):
                new = {texts[place]: TOKENS[400 + 17 * number + 5 * step + place] for place in rows}
                found = batch.read(new)
                for place in rows:
                    said[place].append(new[texts[place]])
                    logits[place] = found[texts[place]][0]
                if leaves and len(rows) > 1:
                    batch.remove(texts[rows.pop(step % 2)])
            for place in rows:
                batch.remove(texts[place])
            if left_out < len(own):
                said[left_out].append(TOKENS[number])
                alone(left_out)
    for found, wanted in zip(logits, read_alone(name, method, said), strict=True):
        torch.testing.assert_close(found, wanted, atol=2e-5, rtol=1e-5)


MODEL = build("llama").double()  # so that what is drawn does not hang on a rounding
END_TOKEN = 3
READY = ready_model(MODEL, PROFILE, END_TOKEN)
START = TOKENS[:100]
HOW = ReadingSettings(METHODS["selfextend"], past_reach="allow", observed=True, chunk_tokens=64)
VISITORS = 5
LONG = 5
"""The number of one more visitor, with a document of his own."""
SETTINGS = [
    GenerationSettings(
        max_new_tokens=30 + 7 * number, temperature=float(number % 2), seed=number, repetition_penalty=1.1
    )
    for number in range(VISITORS + 1)
]


def prompt_of(number: int) -> list[int]:
    if number == LONG:
        return [*START, *TOKENS[150:500]]
    return [*START, *TOKENS[110 + 20 * number : 117 + 22 * number]]


def asked(
    number: int, beginning: Beginning, recorded: bool = True, begun: Answer | None = None
) -> Running[Any, Answer]:
    prompt, settings = prompt_of(number), SETTINGS[number]
    first = len(prompt) - 1 + (len(begun.token_ids) if begun else 0)
    rows = range(first, first + settings.max_new_tokens)
    record = RecordingRequest(rows, [0, 50, 100, 110], top=3) if recorded else None
    who = Asked(f"visitor {number}")
    text = Continuation(beginning)
    return Running(answer_steps(READY, prompt, settings, HOW, prefix=text, record=record, begun=begun, asked=who))


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many texts each pass over several had."""
    sizes: list[int] = []
    read = Batch.read

    def noted(self: Batch, tokens: Any) -> Any:
        sizes.append(len(tokens))
        own = [len(text.tokens) - len(START) for text in tokens]
        assert len(own) * max(own) <= 2 * sum(own)  # what the batch has room for
        return read(self, tokens)

    monkeypatch.setattr(Batch, "read", noted)
    yield sizes
    assert not line_of(MODEL).in_use


def all_at_once(work: list[Any]) -> None:
    """Run each in a thread of its own, all of them in the model's line before the first begins; whatever fails, fails
    here."""
    failed: list[BaseException] = []

    def run(one: Any) -> None:
        try:
            one()
        except BaseException as error:
            failed.append(error)

    threads = [Thread(target=run, args=(one,)) for one in work]
    with line_of(MODEL).visit() as before:
        result_of(before.turn())
        for thread in threads:
            thread.start()
        while len(line_of(MODEL)._visits) <= len(work) and not failed:
            time.sleep(0.001)
        before.leave()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    if failed:
        raise failed[0]


def same(found: Answer, wanted: Answer) -> None:
    assert found.token_ids == wanted.token_ids
    assert (found.text, found.stopped_by) == (wanted.text, wanted.stopped_by)
    np.testing.assert_allclose(found.log_probabilities, wanted.log_probabilities, atol=1e-4)
    if wanted.attention is None:
        assert found.attention is None
        return
    assert found.attention is not None
    for name in ("sums", "maxima", "top_weights"):  # keys of nearly the same weight may swap
        arrays = (answer.attention.arrays_of_rows[name] for answer in (found, wanted))  # type: ignore[union-attr]
        np.testing.assert_allclose(*arrays, atol=1e-5)


def read_beginning() -> Beginning:
    beginning = Beginning(START)
    result_of(asked(0, beginning, False)._steps)
    return beginning


def answers_alone(*numbers: int, recorded: bool = True) -> dict[int, Answer]:
    return {number: result_of(asked(number, Beginning(START), recorded)._steps) for number in numbers}


def answers_at_once(ask: Callable[[int], Answer | None], *numbers: int) -> dict[int, Answer]:
    """What each was answered, but for those who have none."""
    found: dict[int, Answer | None] = {}

    def keep(number: int) -> None:
        found[number] = ask(number)

    all_at_once([partial(keep, number) for number in numbers])
    return {number: answer for number, answer in found.items() if answer is not None}


@pytest.mark.parametrize("recorded", [False, True], ids=["", "recorded"])
def test_visitors_who_ask_at_once_are_answered_together_as_if_alone(recorded: bool, batches: list[int]) -> None:
    alone = answers_alone(*range(VISITORS), recorded=recorded)
    assert not batches
    beginning = read_beginning()
    told: dict[int, list[Any]] = {}

    def ask(number: int) -> Answer:
        running = asked(number, beginning, recorded)
        told[number] = list(running)
        return running.result

    found = answers_at_once(ask, *range(VISITORS))
    assert max(batches) > 1
    for number, wanted in alone.items():
        same(found[number], wanted)
        tokens = [event.token_id for event in told[number] if isinstance(event, NewToken)]
        assert tokens == [token for token in wanted.token_ids if token != END_TOKEN]
        assert found[number].decode_seconds > 0


@pytest.mark.parametrize("seed", range(6))
def test_who_stops_or_leaves_has_what_was_said_and_keeps_nobody(seed: int, batches: list[int]) -> None:
    alone, beginning = answers_alone(*range(VISITORS)), read_beginning()

    def ask(number: int) -> Answer | None:
        running = asked(number, beginning)
        tokens, last = 0, 3 + (seed + 3 * number) % 11
        for event in running:
            tokens += isinstance(event, NewToken)
            if tokens == last and number % 2:
                if number == 3:
                    running.close()
                    return None
                running.end()
        return running.result

    found = answers_at_once(ask, *range(VISITORS))
    for number in (0, 2, 4):
        same(found[number], alone[number])
    stopped = found[1]
    count = len(stopped.token_ids)
    assert stopped.stopped_by == "interrupted"
    assert stopped.token_ids == alone[1].token_ids[:count]
    assert stopped.attention is not None
    assert alone[1].attention is not None
    rows = {name: array[:, :, :count] for name, array in stopped.attention.arrays_of_rows.items()}
    np.testing.assert_allclose(rows["sums"], alone[1].attention.sums[:, :, :count], atol=1e-5)
    # It is gone on with, and becomes what it would have been.
    rest = SETTINGS[1].max_new_tokens - count
    with_rest = replace(SETTINGS[1], max_new_tokens=rest)
    again = answer_steps(READY, prompt_of(1), with_rest, HOW, prefix=Continuation(beginning), begun=stopped)
    assert result_of(again).token_ids == alone[1].token_ids


def test_memory_that_runs_out_in_a_batch_costs_only_who_has_the_model_an_answer(
    batches: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others read again what was let go of."""
    alone, beginning = answers_alone(*range(VISITORS)), read_beginning()
    forward, failures = Reader.forward, [MemoryError("out of memory")]

    def fails(self: Reader, tokens: torch.Tensor, cache: Any, keep: int = 1) -> torch.Tensor:
        if len(tokens) > 2 and failures and max(cache.lengths) > 12:
            raise failures.pop()
        return forward(self, tokens, cache, keep)

    monkeypatch.setattr(Reader, "forward", fails)
    failed: list[int] = []

    def ask(number: int) -> Answer | None:
        try:
            return result_of(asked(number, beginning)._steps)
        except OutOfMemoryError:
            failed.append(number)
            return None

    found = answers_at_once(ask, *range(VISITORS))
    assert max(batches) > 2
    assert len(failed) == 1
    assert not failures
    for number, answer in found.items():
        same(answer, alone[number])


def test_a_model_that_goes_lets_those_who_are_answered_along_go(batches: list[int]) -> None:
    """Who has it answers on; the others have what was said."""
    alone, beginning = answers_alone(*range(VISITORS)), read_beginning()

    def ask(number: int) -> Answer:
        running = asked(number, beginning)
        for _ in running:
            if len(batches) > 4:
                line_of(MODEL).close("Another model is being loaded.")
        return running.result

    try:
        found = answers_at_once(ask, *range(VISITORS))
    finally:
        line_of(MODEL).open()
    assert {answer.stopped_by for answer in found.values()} <= {"interrupted", "length", "end"}
    assert any(answer.stopped_by == "interrupted" for answer in found.values())
    for number, answer in found.items():
        assert answer.token_ids == alone[number].token_ids[: len(answer.token_ids)]
        for array in answer.attention.arrays_of_rows.values() if answer.attention is not None else []:
            assert not np.isnan(array[:, :, : len(answer.token_ids)]).any()


NOT_BATCHED = {
    "qwen2-mixed", "gemma2", "gemma3", "gemma3-wide", "smollm3", "deepseek-v3", "deepseek-v2", "jetmoe", "gpt-oss",
    "gemma4", "lfm2", "llama-dynamic", "llama-longrope", "phi3-longrope",
}  # fmt: skip
"""Models with layers of another kind or with states of two widths, or whose frequencies follow the length."""


@pytest.mark.parametrize("name", [architecture.name for architecture in ARCHITECTURES])
def test_every_model_is_read_right_in_a_batch_or_in_none(name: str) -> None:
    method, start = METHODS["selfextend"], Beginning(TOKENS[:40])
    texts = {own: Continuation(start) for own in (3, 30)}
    with reading(build(name), method, PROFILE, LENGTH) as reader:
        for own, text in texts.items():
            result_of(read_steps(reader, text, TOKENS[: 40 + own], length=LENGTH))
        assert can_be_batched(start, reader) == (name not in NOT_BATCHED)
        if name in NOT_BATCHED:
            return
        batch = Batch(start, reader)
        assert all(map(batch.add, texts.values()))
        for token in (7, 8, 9):
            found = batch.read({text: token + number for number, text in enumerate(texts.values())})
    alone = read_alone(name, method, [[*TOKENS[:43], 7, 8, 9], [*TOKENS[:70], 8, 9, 10]])
    torch.testing.assert_close(
        torch.cat([found[text] for text in texts.values()]), torch.stack(alone), atol=2e-5, rtol=1e-5
    )


def test_who_has_read_much_more_than_the_others_is_not_answered_with_all_of_them(batches: list[int]) -> None:
    numbers = [LONG, *range(VISITORS)]
    alone, beginning = answers_alone(*numbers), read_beginning()
    found = answers_at_once(lambda number: result_of(asked(number, beginning)._steps), *numbers)
    assert max(batches) > 2
    for number in numbers:
        same(found[number], alone[number])


def test_two_who_ask_the_same_are_two(batches: list[int]) -> None:
    alone, beginning = answers_alone(1)[1], read_beginning()

    def ask(who: int) -> Answer:
        settings, text = replace(SETTINGS[1], max_new_tokens=37 - who), Continuation(beginning)
        asks = Asked(f"visitor {who}")
        return result_of(answer_steps(READY, prompt_of(1), settings, HOW, prefix=text, asked=asks))

    found = answers_at_once(ask, 0, 1, 2)
    assert max(batches) > 1
    assert [len(found[who].token_ids) for who in range(3)] == [37, 36, 35]
    for answer in found.values():
        assert answer.token_ids == alone.token_ids[: len(answer.token_ids)]


def test_what_is_wrong_with_one_answer_is_told_to_its_own_visitor(
    batches: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, beginning = answers_alone(*range(VISITORS)), read_beginning()
    choose = Sampler.choose

    def fails(self: Sampler, logits: torch.Tensor, prompt: Any, said: Any) -> Any:
        if self.settings.seed == 3 and len(said) > 8:
            raise RuntimeError("probabilities that are none")
        return choose(self, logits, prompt, said)

    monkeypatch.setattr(Sampler, "choose", fails)

    def ask(number: int) -> Answer | None:
        if number != 3:
            return result_of(asked(number, beginning)._steps)
        with pytest.raises(RuntimeError, match="probabilities that are none"):
            result_of(asked(number, beginning)._steps)
        return None

    found = answers_at_once(ask, *range(VISITORS))
    assert max(batches) > 2
    for number, answer in found.items():
        same(answer, alone[number])


def test_what_is_let_go_of_before_an_answer_is_traced_is_read_again(
    batches: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose answer ended in another's turn has the passages behind it all the same."""
    alone, beginning = answers_alone(*range(VISITORS)), read_beginning()
    steps, let_go = generation._Answering.steps, list[int]()

    def forgetful(self: Any, visit: Any) -> Any:
        if self._stopped_by is not None:
            self.prefix.forget()
            let_go.append(1)
        return steps(self, visit)

    monkeypatch.setattr(generation._Answering, "steps", forgetful)
    found = answers_at_once(lambda number: result_of(asked(number, beginning)._steps), *range(VISITORS))
    assert let_go
    for number, answer in found.items():
        same(answer, alone[number])
