"""`model.generate` with SelfExtend on: every strategy, every cache, and the end of the reach."""

import threading
import warnings
from typing import Any

import pytest
import torch
from architectures import TRAINED_WINDOW, build, token_ids
from helpers import CONFIG, LENGTH, Words, assert_same, extended, logits, naive, oracle_logits
from transformers import (
    DynamicCache,
    GenerationConfig,
    PreTrainedModel,
    QuantizedCache,
    StaticCache,
    StoppingCriteria,
    TextIteratorStreamer,
)

from selfextend import SelfExtendConfig, max_length, self_extend
from selfextend.cache import SelfExtendCache
from selfextend.errors import PastReachError, PastReachWarning

NAMES = ["llama", "gemma3", "smollm3", "gpt-neox", "phi", "falcon-new", "mistral-sliding", "mixtral"]
PROMPT = token_ids(55)


def greedy(model: PreTrainedModel, ids: torch.Tensor = PROMPT, new: int = 10, **kwargs: Any) -> Any:
    kwargs = {"attention_mask": torch.ones_like(ids)} | kwargs  # an answer may hold what is the padding token elsewhere
    return model.generate(ids, max_new_tokens=new, do_sample=False, **kwargs)


@pytest.mark.parametrize("name", NAMES)
def test_beam_search_is_the_oracles(name: str) -> None:
    settings = {
        "num_beams": 3,
        "max_new_tokens": 7,
        "do_sample": False,
        "num_return_sequences": 2,
        "length_penalty": 0.5,
    }
    ids = token_ids(50, batch=2)
    with extended(model := build(name)):
        actual = model.generate(ids, **settings)
    assert torch.equal(actual, naive(name, CONFIG).generate(ids, **settings))


@pytest.mark.parametrize("name", NAMES)
def test_sampling_draws_the_same_with_and_without_a_cache(name: str) -> None:
    settings = {"do_sample": True, "temperature": 4.0, "top_k": 20, "max_new_tokens": 12, "num_return_sequences": 3}
    with extended(model := build(name)):
        torch.manual_seed(0)
        cached = model.generate(PROMPT, **settings)
        torch.manual_seed(0)
        recomputed = model.generate(PROMPT, use_cache=False, **settings)
    assert torch.equal(cached, recomputed)
    assert len({tuple(row) for row in cached.tolist()}) == 3  # it did draw


@pytest.mark.parametrize("implementation", [None, "dynamic", "static"])
@pytest.mark.parametrize("name", NAMES)
def test_a_left_padded_batch_gets_what_its_rows_get_alone(name: str, implementation: str | None) -> None:
    ids, padding = token_ids(55, batch=3), (0, 9, 30)
    mask = torch.ones_like(ids)
    for row, count in enumerate(padding):
        ids[row, :count], mask[row, :count] = 0, 0
    with extended(model := build(name)):
        together = greedy(model, ids, attention_mask=mask, cache_implementation=implementation)
        alone = [greedy(model, ids[row : row + 1, count:]) for row, count in enumerate(padding)]
    for row, tokens in enumerate(alone):
        assert together[row, 55:].tolist() == tokens[0, -10:].tolist()


def test_a_left_padded_beam_search_gets_what_its_rows_get_alone() -> None:
    ids = token_ids(55, batch=2)
    mask = torch.ones_like(ids)
    ids[0, :21], mask[0, :21] = 0, 0
    with extended(model := build("llama")):
        together = greedy(model, ids, 8, attention_mask=mask, num_beams=3)
        alone = greedy(model, ids[:1, 21:], 8, num_beams=3)
    assert together[0, 55:].tolist() == alone[0, -8:].tolist()


CACHES = {
    "dynamic": lambda model: DynamicCache(),
    "dynamic with the model's config": lambda model: DynamicCache(config=model.config),
    "static": lambda model: StaticCache(config=model.config, max_cache_len=80),
}


@pytest.mark.parametrize("make", CACHES.values(), ids=CACHES.keys())
@pytest.mark.parametrize("name", NAMES)
def test_any_cache_object(name: str, make: Any) -> None:
    with extended(model := build(name)):
        expected = greedy(model)
        cache = make(model)
        output = greedy(model, past_key_values=cache, return_dict_in_generate=True)
    assert output.past_key_values is cache
    assert torch.equal(output.sequences, expected)


@pytest.mark.parametrize("implementation", ["static", "dynamic"])
@pytest.mark.parametrize("name", NAMES)
def test_any_cache_implementation(name: str, implementation: str) -> None:
    with extended(model := build(name)):
        expected = greedy(model)
        output = greedy(model, cache_implementation=implementation, return_dict_in_generate=True)
    assert not isinstance(output.past_key_values, SelfExtendCache)
    assert torch.equal(output.sequences, expected)


def test_a_generation_config_is_heeded_wherever_it_stands() -> None:
    with extended(model := build("llama")):
        wanted = GenerationConfig(use_cache=False, max_new_tokens=4, return_dict_in_generate=True)
        assert model.generate(token_ids(20), wanted).past_key_values is None
        assert model.generate(token_ids(20), generation_config=wanted).past_key_values is None


def fp8_cache(model: PreTrainedModel) -> Any:
    return QuantizedCache("fp8", model.config)


def test_a_quantized_cache_is_as_good_as_it_is_for_the_plain_model() -> None:
    """Keys are kept unrotated in a foreign cache, and rounded to eight bits: a small error, the same either way."""
    model, ids = build("llama"), token_ids(LENGTH)
    try:
        cache = fp8_cache(model)
        plain = rounded(model, ids, cache)
    except (ImportError, ValueError) as error:
        pytest.skip(f"no quantized cache here: {error}")
    plain_error = (plain - logits(model, ids)[:, 60:]).abs().max()
    with extended(model):
        error = (rounded(model, ids, fp8_cache(model)) - oracle_logits("llama", CONFIG)[:, 60:]).abs().max()
        tokens = greedy(model, past_key_values=fp8_cache(model))
    assert 0 < error <= 2 * plain_error
    assert tokens.shape == (1, 65)


@torch.no_grad()
def rounded(model: PreTrainedModel, ids: torch.Tensor, cache: Any) -> torch.Tensor:
    model(ids[:, :60], past_key_values=cache, use_cache=True)
    return model(ids[:, 60:], past_key_values=cache, use_cache=True).logits


def test_an_offloaded_cache() -> None:
    model = build("llama")
    try:
        greedy(model, cache_implementation="offloaded")
    except (RuntimeError, AssertionError) as error:
        pytest.skip(f"transformers cannot offload here: {error}")
    with extended(model):
        assert torch.equal(greedy(model, cache_implementation="offloaded"), greedy(model))


@pytest.mark.parametrize("name", NAMES)
def test_without_a_cache(name: str) -> None:
    with extended(model := build(name)):
        assert torch.equal(greedy(model, use_cache=False), greedy(model))


@pytest.mark.parametrize("name", NAMES)
def test_a_second_turn_through_generate(name: str) -> None:
    """The first answer's cache serves the next question: only new tokens are computed."""
    computed: list[int] = []
    with extended(model := build(name)):
        first = greedy(model, token_ids(40), 8, return_dict_in_generate=True)
        history = torch.cat([first.sequences, token_ids(15, seed=8)], dim=1)
        expected = greedy(model, history)
        hook = model.get_input_embeddings().register_forward_hook(lambda m, a, out: computed.append(out.shape[1]))
        actual = greedy(model, history, past_key_values=first.past_key_values)
        hook.remove()
    assert torch.equal(actual, expected)
    assert computed[0] == 16  # the last token of the answer has not been through the model yet
    assert set(computed[1:]) == {1}


@pytest.mark.parametrize("name", ["llama", "phi", "falcon-new"])
def test_speculation_by_prompt_lookup_is_greedy(name: str) -> None:
    """It crops the cache whenever a guess is wrong."""
    ids = token_ids(12).repeat(1, 5)
    with extended(model := build(name)):
        assert torch.equal(greedy(model, ids, 12, prompt_lookup_num_tokens=4), greedy(model, ids, 12))


def test_speculation_by_an_assistant_is_greedy() -> None:
    with extended(model := build("llama")):
        assistant = build("llama", seed=3)
        assert torch.equal(greedy(model, new=12, assistant_model=assistant), greedy(model, new=12))


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_prefill_in_chunks_by_generate(name: str) -> None:
    with extended(model := build(name)):
        assert torch.equal(greedy(model, prefill_chunk_size=13), greedy(model))


def test_a_generation_config_is_heeded() -> None:
    model = build("llama")
    model.generation_config.max_new_tokens = 4
    model.generation_config.use_cache = False
    with extended(model):
        output = model.generate(PROMPT, do_sample=False, return_dict_in_generate=True)
        assert output.sequences.shape[1] == 59
        assert output.past_key_values is None


def test_a_streamer_yields_what_is_returned() -> None:
    tokenizer = Words()
    model = build("llama")
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=60)
    with extended(model):
        expected = greedy(model)[0, 55:]
        thread = threading.Thread(target=greedy, args=(model,), kwargs={"streamer": streamer})
        thread.start()
        pieces = list(streamer)
        thread.join()
    assert "".join(pieces).split() == [f"w{n}" for n in expected.tolist()]
    assert len(pieces) > 5


class StopAfter(StoppingCriteria):
    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        return torch.full((input_ids.shape[0],), input_ids.shape[1] >= self.tokens)


def test_a_stopped_generation_can_be_taken_up_again() -> None:
    with extended(model := build("llama")):
        whole = greedy(model, new=12)
        stopped = greedy(model, new=12, stopping_criteria=[StopAfter(60)], return_dict_in_generate=True)
        assert stopped.sequences.shape[1] == 60
        rest = greedy(model, stopped.sequences, 7, past_key_values=stopped.past_key_values)
    assert torch.equal(rest, whole)


# The end of the reach. Small settings, so that it is near: G * (L - w + w // G).
NEAR = SelfExtendConfig(2, 50)
REACH = max_length(TRAINED_WINDOW, NEAR)
assert REACH == 78


def past_reach(record: list[warnings.WarningMessage]) -> list[str]:
    return [str(w.message) for w in record if issubclass(w.category, PastReachWarning)]


def test_up_to_the_reach_nothing_is_said() -> None:
    with warnings.catch_warnings(), self_extend(model := build("llama"), NEAR, on_overflow="error"):
        warnings.simplefilter("error", PastReachWarning)
        logits(model, token_ids(REACH))
        assert greedy(model, token_ids(REACH - 5), 6).shape[1] == REACH + 1  # the last token is not read again


@pytest.mark.filterwarnings("ignore::selfextend.errors.PastReachWarning")
def test_one_token_past_the_reach_is_warned_about_once() -> None:
    with warnings.catch_warnings(record=True) as record, self_extend(model := build("llama"), NEAR):
        warnings.simplefilter("always")
        logits(model, token_ids(REACH + 1))
        greedy(model, token_ids(REACH), 8)
    (message,) = past_reach(record)
    assert str(REACH) in message
    assert str(REACH + 1) in message
    assert_the_suggestion_reaches(message, REACH + 1)


def assert_the_suggestion_reaches(message: str, length: int) -> None:
    """Whatever group size and window the message names after the current ones, they are enough."""
    numbers = [int(word.strip(".,")) for word in message.split() if word.strip(".,").isdigit()]
    suggested = SelfExtendConfig(numbers[-2], numbers[-1])
    assert max_length(TRAINED_WINDOW, suggested) >= length


def test_an_error_can_be_asked_for() -> None:
    with self_extend(model := build("llama"), NEAR, on_overflow="error"):
        with pytest.raises(PastReachError, match=str(REACH)):
            logits(model, token_ids(REACH + 1))
        with pytest.raises(PastReachError, match=str(REACH)):
            greedy(model, token_ids(REACH - 3), 10)
        assert logits(model, token_ids(REACH)).isfinite().all()  # and the model goes on working


def test_an_error_comes_before_anything_is_computed() -> None:
    computed: list[int] = []
    with self_extend(model := build("llama"), NEAR, on_overflow="error"):
        model.model.layers[0].register_forward_hook(lambda *_: computed.append(1))
        with pytest.raises(PastReachError):
            logits(model, token_ids(REACH + 1))
    assert not computed


def test_silence_can_be_asked_for() -> None:
    with (
        warnings.catch_warnings(record=True) as record,
        self_extend(model := build("llama"), NEAR, on_overflow="ignore"),
    ):
        warnings.simplefilter("always")
        assert logits(model, token_ids(REACH + 20)).isfinite().all()
    assert not past_reach(record)


def test_padding_does_not_count_against_the_reach() -> None:
    ids = token_ids(REACH + 10, batch=1)
    mask = torch.ones_like(ids)
    mask[:, :10] = 0
    with self_extend(model := build("llama"), NEAR, on_overflow="error"):
        padded = logits(model, ids, attention_mask=mask)[:, 10:]
        assert_same(padded, logits(model, ids[:, 10:]))


def test_the_trained_window_can_be_given() -> None:
    with self_extend(model := build("llama"), NEAR, trained_window=80, on_overflow="error"):
        assert logits(model, token_ids(REACH + 1)).isfinite().all()
    smaller = self_extend(model, SelfExtendConfig(2, 20), trained_window=30, on_overflow="error")
    with smaller, pytest.raises(PastReachError, match="40"):
        logits(model, token_ids(41))
