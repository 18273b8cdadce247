"""Reading and answering step by step: progress, prefixes, cancelling, budget, stop strings, scores."""

import re
import threading
from collections.abc import Generator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from architectures import TRAINED_WINDOW, build, token_ids
from helpers import (
    CONFIG,
    DIVIDING,
    LENGTH,
    Words,
    assert_same_state,
    extended,
    full_state,
    logits,
    naive,
    oracle_logits,
)
from transformers import PreTrainedModel

from selfextend import SelfExtendConfig, enable, max_length
from selfextend.errors import OutOfMemoryError, PastReachError
from selfextend.generation import (
    Answer,
    GenerationSettings,
    NewToken,
    PrefillProgress,
    ReadingSettings,
    ReadyModel,
    answer_steps,
    method_in_use,
)
from selfextend.methods import Method, ReRoPE, SelfExtend, Vanilla
from selfextend.profile import Profile
from selfextend.reading import PrefixCache, Waiting, log_probability_steps, loss_steps, reading
from selfextend.recording import RecordingRequest, joined
from selfextend.steps import EndNow, Running, result_of
from selfextend.text_stream import TextStream

WORDS = Words()
PROMPT = token_ids(60)[0].tolist()
PROFILE = Profile(TRAINED_WINDOW)
EXTENDED, VANILLA = SelfExtend.of(CONFIG), Vanilla()
NAMES = ["llama", "gemma3", "gpt-neox", "falcon-new", "smollm3", "mistral-sliding"]


def steps(
    model: PreTrainedModel, prompt: Sequence[int] = PROMPT, new: int = 8, **kwargs: Any
) -> Generator[Any, None, Answer]:
    settings = kwargs.pop("settings", None) or GenerationSettings(max_new_tokens=new)
    given = {name: kwargs.pop(name) for name in ("prefix", "record", "begun") if name in kwargs}
    how = ReadingSettings(**({"method": EXTENDED, "chunk_tokens": 13} | kwargs))
    return answer_steps(ReadyModel(model, WORDS, PROFILE), prompt, settings, how, **given)


def answer(model: PreTrainedModel, prompt: Sequence[int] = PROMPT, new: int = 8, **kwargs: Any) -> Answer:
    return result_of(steps(model, prompt, new, **kwargs))


def followed(model: PreTrainedModel, **kwargs: Any) -> tuple[list[Any], Answer]:
    """All events of an answer, and the answer."""
    with Running(steps(model, **kwargs)) as work:
        return list(work), work.result


def greedy(model: PreTrainedModel, prompt: Sequence[int] = PROMPT, new: int = 8) -> list[int]:
    """What transformers' own loop answers; the model may be extended or not."""
    ids = torch.tensor([prompt])
    output = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False)
    return output[0, len(prompt) :].tolist()


class Counted:
    """How many tokens went through the whole model in each forward pass."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.passes: list[int] = []
        model.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, model: PreTrainedModel, args: Any, kwargs: dict[str, Any]) -> None:
        self.passes.append(kwargs["input_ids"].shape[1])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("chunk_tokens", [1, 13, 1000])
def test_the_answer_is_generates(name: str, chunk_tokens: int) -> None:
    model = build(name)
    with extended(model):
        expected = greedy(model)
    found = answer(model, chunk_tokens=chunk_tokens)
    assert list(found.token_ids) == expected
    assert found.text == WORDS.decode(expected)
    assert (found.prompt_tokens, found.reused_tokens, found.stopped_by) == (60, 0, "length")
    assert found.method == EXTENDED


def test_events_come_in_order_and_add_up() -> None:
    events, last = followed(build("llama"))
    kinds = [type(event) for event in events]
    assert kinds == [PrefillProgress] * 6 + [NewToken] * 8
    reading = events[:6]
    assert [event.done for event in reading] == [0, 13, 26, 39, 52, 60]
    assert all((event.total, event.reused) == (60, 0) for event in reading)
    assert reading[-1].seconds_left == 0
    assert all(event.seconds_left > 0 for event in reading[1:-1])
    assert [event.fraction for event in reading] == [event.done / 60 for event in reading]
    tokens = events[6:]
    assert tuple(event.token_id for event in tokens) == last.token_ids
    assert tuple(event.log_probability for event in tokens) == last.log_probabilities
    assert all(WORDS.decode(last.token_ids).startswith(event.text) for event in tokens)


def test_log_probabilities_are_the_oracles() -> None:
    found = answer(build("llama"), token_ids(LENGTH)[0, :60].tolist())
    ids = torch.tensor([[*token_ids(LENGTH)[0, :60].tolist(), *found.token_ids]])
    expected = naive("llama", CONFIG).logits(ids).log_softmax(-1)[0, 59:-1]
    expected = expected.gather(1, torch.tensor(found.token_ids)[:, None])[:, 0]
    np.testing.assert_allclose(found.log_probabilities, expected.numpy(), atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_a_read_document_is_not_read_again(name: str) -> None:
    model, prefix = build(name), PrefixCache()
    answer(model, PROMPT, 1, prefix=prefix)
    question = [*PROMPT, 5, 6, 7, 8]
    fresh = answer(model, question)
    counted = Counted(model)
    found = answer(model, question, prefix=prefix)
    assert found.token_ids == fresh.token_ids
    assert found.reused_tokens == 60
    assert counted.passes == [4, *[1] * 7]
    # The same question once more: all but its last token are there, the answer's tokens are let go.
    counted.passes.clear()
    again = answer(model, question, prefix=prefix)
    assert again.token_ids == fresh.token_ids
    if name not in ("gemma3",):  # its local layers have let go of what would be needed again
        assert again.reused_tokens == 63
        assert counted.passes == [1] * 8


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shared", [0, 1, 20, 45, 59])
def test_what_differs_is_read_anew(name: str, shared: int) -> None:
    model, prefix = build(name), PrefixCache()
    answer(model, PROMPT, 3, prefix=prefix)
    other = [*PROMPT[:shared], (PROMPT[shared] + 1) % 97, *token_ids(70 - shared, seed=3)[0].tolist()]
    found = answer(model, other, prefix=prefix)
    assert found.token_ids == answer(model, other).token_ids
    assert found.reused_tokens <= shared
    if name != "gemma3":
        assert found.reused_tokens == shared


def test_other_settings_do_not_use_what_was_read() -> None:
    model, prefix = build("llama"), PrefixCache()
    answer(model, prefix=prefix)
    for method in (SelfExtend.of(DIVIDING), VANILLA, ReRoPE(neighbor_window=16), EXTENDED):
        found = answer(model, prefix=prefix, method=method)
        assert found.reused_tokens == 0
        assert found.token_ids == answer(model, method=method).token_ids


def test_stopped_between_chunks_it_goes_on_where_it_was() -> None:
    model, prefix = build("llama"), PrefixCache()
    before = full_state(model)
    expected = answer(model).token_ids
    reading = steps(model, prefix=prefix)
    while next(reading).done < 26:
        pass
    reading.close()
    assert prefix.tokens == PROMPT[:26]
    assert_same_state(before, full_state(model))
    found = answer(model, prefix=prefix)
    assert found.reused_tokens == 26
    assert found.token_ids == expected


def test_stopped_between_tokens_it_leaves_a_prefix_of_use() -> None:
    model, prefix = build("llama"), PrefixCache()
    before = full_state(model)
    expected = answer(model).token_ids
    answering = steps(model, prefix=prefix)
    told = [event for event in (next(answering) for _ in range(9)) if isinstance(event, NewToken)]
    answering.close()
    assert len(told) == 3
    assert prefix.tokens == [*PROMPT, *expected[:2]]
    assert_same_state(before, full_state(model))
    assert answer(model, prefix=prefix).token_ids == expected


@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyboardInterrupt()])
def test_after_a_failure_the_model_and_the_prefix_are_sound(error: BaseException) -> None:
    model, prefix = build("llama"), PrefixCache()
    expected = answer(model).token_ids
    before = full_state(model)

    def fail(*_: object) -> None:
        raise error

    reading = steps(model, prefix=prefix)
    next(reading), next(reading)
    hook = model.model.layers[1].register_forward_pre_hook(fail)
    with pytest.raises(type(error)):
        next(reading)
    hook.remove()
    assert_same_state(before, full_state(model))
    assert answer(model, prefix=prefix).token_ids == expected


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: 9 bytes"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
        MemoryError(),
    ],
    ids=["cuda", "linux", "elsewhere", "python"],
)
def test_memory_running_out_is_said_plainly(error: Exception) -> None:
    """With what was held when it ran out, though nothing is held afterwards."""
    model, prefix = build("llama"), PrefixCache()
    long = token_ids(6000)[0].tolist()
    answer(model, long, 1, prefix=prefix, method=VANILLA, chunk_tokens=3000)
    held = f"{prefix.nbytes / 2**20:,.0f} MB"
    assert held != "0 MB"

    def fail(*_: object) -> None:
        raise error

    hook = model.model.layers[1].register_forward_pre_hook(fail)
    with pytest.raises(OutOfMemoryError, match=f"after {held} of keys and values.*fewer"):
        answer(model, [*long, 5], prefix=prefix, method=VANILLA)
    hook.remove()
    assert prefix.tokens == []
    assert answer(model, prefix=prefix).reused_tokens == 0


@pytest.mark.parametrize("length", [40, 4000])
def test_each_token_is_decoded_a_bounded_number_of_times(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoding the whole answer anew for every token would be quadratic."""
    decoded: list[int] = []
    original = Words.decode

    def counted(self: Words, ids: Sequence[int], **kwargs: Any) -> str:
        decoded.append(len(ids))
        return original(self, ids, **kwargs)

    monkeypatch.setattr(Words, "decode", counted)
    stream = TextStream(WORDS, ("never to come",))
    tokens = token_ids(length)[0].tolist()
    shown = [stream.add(token) for token in tokens]
    assert sum(decoded) <= 4 * length
    assert shown[-1] == original(WORDS, tokens) == stream.whole()
    assert all(later.startswith(earlier) for earlier, later in pairwise(shown))


NEAR = SelfExtend(group_size=2, neighbor_window=50)
REACH = max_length(TRAINED_WINDOW, NEAR.positions)


def test_what_fits_exactly_is_answered() -> None:
    assert len(answer(build("llama"), new=REACH - 60, method=NEAR).token_ids) == REACH - 60


def test_what_does_not_fit_is_refused_before_anything_is_read() -> None:
    model = build("llama")
    counted = Counted(model)
    with pytest.raises(PastReachError) as error:
        list(steps(model, new=REACH - 59, method=NEAR))
    assert not counted.passes
    assert str(REACH) in str(error.value)
    assert str(REACH + 1) in str(error.value)


def test_the_advice_in_a_refusal_is_good() -> None:
    with pytest.raises(PastReachError) as error:
        list(steps(build("llama"), new=REACH, method=NEAR))
    (smallest,) = (int(number) for number in re.findall(r"fits is group size (\d+)", str(error.value)))
    total = 60 + REACH
    assert max_length(TRAINED_WINDOW, SelfExtendConfig(smallest, NEAR.neighbor_window)) >= total
    assert max_length(TRAINED_WINDOW, SelfExtendConfig(smallest - 1, NEAR.neighbor_window)) < total


def test_only_when_needed() -> None:
    model = build("llama")
    short, long = PROMPT[: TRAINED_WINDOW - 8], PROMPT[: TRAINED_WINDOW - 7]
    found = answer(model, short, 8, extend="when_needed")
    assert found.method == VANILLA
    assert list(found.token_ids) == greedy(model, short)
    found = answer(model, long, 8, extend="when_needed")
    assert found.method == EXTENDED
    with extended(model):
        assert list(found.token_ids) == greedy(model, long)


def test_the_vanilla_model_is_not_refused_past_its_window() -> None:
    model, prompt = build("llama"), token_ids(90)[0].tolist()
    assert list(answer(model, prompt, method=VANILLA).token_ids) == greedy(model, prompt)


def test_settings_that_were_on_come_back() -> None:
    model = build("llama")
    enable(model, DIVIDING, trained_window=TRAINED_WINDOW)
    extended_logits = logits(model, token_ids(LENGTH))
    for method in (EXTENDED, VANILLA, ReRoPE(neighbor_window=16)):
        answer(model, method=method)
        assert torch.equal(logits(model, token_ids(LENGTH)), extended_logits)


def test_an_end_token_ends() -> None:
    model = build("llama")
    tokens = answer(model).token_ids
    model.generation_config.eos_token_id = [tokens[3], 96]
    found = answer(model)
    first = tokens.index(tokens[3])
    assert found.token_ids == tokens[: first + 1]
    assert found.stopped_by == "end"
    assert found.text == WORDS.decode(list(tokens[:first]))


def test_a_stop_string_is_never_shown() -> None:
    model = build("llama")
    words = answer(model).text.split()
    at = next(n for n in range(2, 8) if words[n] not in words[:n])
    stop = f"{words[at - 1]} {words[at]}"
    events, found = followed(model, settings=GenerationSettings(max_new_tokens=8, stop=("never", stop)))
    assert found.stopped_by == "stop"
    assert found.text.split() == words[: at - 1]
    for event in events:
        if isinstance(event, NewToken):
            assert found.text.startswith(event.text)


def test_sampling_follows_its_seed() -> None:
    model = build("llama")

    def sampled(seed: int) -> tuple[int, ...]:
        settings = GenerationSettings(max_new_tokens=8, temperature=3.0, top_p=0.95, top_k=50, seed=seed)
        return answer(model, settings=settings).token_ids

    assert sampled(1) == sampled(1)
    assert len({sampled(seed) for seed in range(4)}) > 1


def test_sampling_does_not_touch_torchs_own_generator() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    answer(build("llama"), settings=GenerationSettings(max_new_tokens=3, temperature=1.0))
    assert torch.equal(torch.rand(3), expected)


def test_a_repetition_penalty_keeps_from_repeating() -> None:
    model = build("llama")
    found = answer(model, new=12, settings=GenerationSettings(max_new_tokens=12, repetition_penalty=1e6))
    assert len(set(found.token_ids)) == 12
    assert not set(found.token_ids) & set(PROMPT)


@pytest.mark.parametrize(
    "settings",
    [{"max_new_tokens": 0}, {"temperature": -0.1}, {"top_p": 0.0}, {"top_p": 1.5}],
    ids=str,
)
def test_impossible_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        GenerationSettings(**settings)


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        answer(build("llama"), [])


def test_a_busy_model_says_so_and_serves_both() -> None:
    model = build("llama")
    expected = answer(model).token_ids
    dividing = SelfExtend.of(DIVIDING)
    first = Running(steps(model))
    next(first)
    second, second_events = Running(steps(model, method=dividing)), []
    thread = threading.Thread(target=lambda: second_events.extend(second))
    thread.start()
    while not second_events and thread.is_alive():
        pass
    assert isinstance(second_events[0], Waiting)
    for _ in first:
        pass
    thread.join(timeout=60)
    assert first.result.token_ids == expected
    assert second.result.token_ids == answer(model, method=dividing).token_ids


@pytest.mark.parametrize("name", NAMES)
def test_known_answers_are_scored_as_by_the_oracle(name: str) -> None:
    ids = token_ids(LENGTH)
    with reading(build(name), EXTENDED, PROFILE, LENGTH) as reader:
        prompt, known = ids[0, :60].tolist(), ids[0, 60:].tolist()
        scores = result_of(log_probability_steps(reader, PrefixCache(), prompt, known, chunk_tokens=25))
    expected = oracle_logits(name, CONFIG).log_softmax(-1)[0, 59:-1].gather(1, ids[0, 60:, None])[:, 0]
    np.testing.assert_allclose(scores, expected.numpy(), atol=2e-4)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("chunk_tokens", [11, 500])
def test_losses_are_the_oracles(name: str, chunk_tokens: int) -> None:
    ids = token_ids(LENGTH)
    with reading(build(name), EXTENDED, PROFILE, LENGTH) as reader:
        work = Running(loss_steps(reader, ids[0].tolist(), chunk_tokens))
        read = sum(step.count for step in work)
    expected = torch.nn.functional.cross_entropy(oracle_logits(name, CONFIG)[0, :-1], ids[0, 1:], reduction="none")
    assert work.result.shape == (LENGTH - 1,)
    np.testing.assert_allclose(work.result, expected.numpy(), atol=2e-4)
    assert read == LENGTH - 1


@pytest.mark.parametrize("method", [EXTENDED, VANILLA, Vanilla("logn"), ReRoPE(neighbor_window=16)], ids=str)
def test_attention_comes_with_the_answer(method: Method) -> None:
    """Rows of the question and of the answer; the vanilla model is recorded as well."""
    request = RecordingRequest(query_rows=range(58, 64), bin_starts=[0, 10, 40])
    found = answer(build("llama"), method=method, record=request)
    assert found.attention is not None
    np.testing.assert_allclose(found.attention.sums.sum(-1), 1.0, atol=1e-5)
    assert found.token_ids == answer(build("llama"), method=method).token_ids


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_new_tokens": 0}, {"max_new_tokens": 2.5}, {"temperature": -1}, {"temperature": float("nan")},
        {"top_p": 0}, {"top_k": -1}, {"repetition_penalty": 0}, {"stop": "abc"}, {"stop": ("",)},
    ],
)  # fmt: skip
def test_settings_that_could_not_end_well_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError), match=next(iter(wrong))):
        GenerationSettings(**wrong)


def test_an_unknown_choice_of_when_to_extend_is_refused() -> None:
    with pytest.raises(ValueError, match="when_needed"):
        method_in_use(SelfExtend(group_size=2, neighbor_window=4), "sometimes", 10, Profile(100))  # type: ignore[arg-type]


def interrupted(model: PreTrainedModel, after: int, **kwargs: Any) -> Answer:
    """An answer that is asked to end after so many tokens."""
    said = 0
    with Running(steps(model, new=30, **kwargs)) as work:
        for event in work:
            said += isinstance(event, NewToken)
            if said == after:
                work.end()
        return work.result


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_that_was_cut_off_goes_on_as_if_it_had_not_been(name: str) -> None:
    model, prefix = build(name), PrefixCache()
    first = answer(model, new=5, prefix=prefix)
    assert first.unfinished
    with Running(steps(model, new=7, prefix=prefix, begun=first)) as work:
        read = [event for event in work if isinstance(event, PrefillProgress)]
    assert read[0].total - read[0].reused == 1
    assert first.stopped_by == "length"
    whole = answer(model, new=12)
    assert work.result.token_ids == whole.token_ids
    assert work.result.text == whole.text
    assert work.result.prompt_tokens == whole.prompt_tokens
    assert work.result.prefill_seconds == first.prefill_seconds
    np.testing.assert_allclose(work.result.log_probabilities, whole.log_probabilities, atol=1e-5)


def test_an_interrupted_answer_is_what_there_was_and_goes_on() -> None:
    model, prefix = build("llama"), PrefixCache()
    settings = GenerationSettings(max_new_tokens=30, temperature=1.0, top_k=20, repetition_penalty=1.2, seed=5)
    first = interrupted(model, 9, settings=settings, prefix=prefix)
    assert (first.stopped_by, len(first.token_ids)) == ("interrupted", 9)
    rest = answer(model, settings=replace(settings, max_new_tokens=21), prefix=prefix, begun=first)
    assert rest.token_ids == answer(model, settings=settings).token_ids


def test_the_attention_of_both_parts_of_an_answer_is_kept() -> None:
    model, prefix, start = build("llama"), PrefixCache(), len(PROMPT) - 1
    whole = answer(model, new=12, record=RecordingRequest(range(start, start + 12), [0, 20, 60]))
    first = interrupted(model, 5, record=RecordingRequest(range(start, start + 5), [0, 20, 60]), prefix=prefix)
    rest = answer(
        model, new=7, record=RecordingRequest(range(start + 5, start + 12), [0, 20, 60]), prefix=prefix, begun=first
    )
    assert rest.attention is not None
    assert whole.attention is not None
    assert rest.attention.query_rows == whole.attention.query_rows
    np.testing.assert_allclose(rest.attention.sums, whole.attention.sums, atol=1e-5)
    np.testing.assert_allclose(rest.attention.maxima, whole.attention.maxima, atol=1e-5)
    with pytest.raises(ValueError, match="rows that follow one another"):
        joined(whole.attention, whole.attention)


def test_what_is_read_cannot_be_interrupted_halfway_and_an_ended_answer_not_gone_on_with() -> None:
    model = build("llama")
    with Running(steps(model)) as work:
        assert isinstance(next(work), PrefillProgress)
        with pytest.raises(EndNow):
            work.end()
    ended = replace(answer(model), stopped_by="end")
    with pytest.raises(ValueError, match="nothing to go on with"):
        answer(model, begun=ended)
    with pytest.raises(PastReachError):
        answer(model, new=400, begun=answer(model))
