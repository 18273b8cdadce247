"""Enabling is reversible, whatever happens in between, and leaves nothing behind."""

import copy
import pickle
import threading
from collections.abc import Callable

import pytest
import torch
from architectures import ARCHITECTURES, TRAINED_WINDOW, Architecture, build, token_ids
from helpers import (
    CONFIG,
    DIVIDING,
    LENGTH,
    assert_same,
    assert_same_state,
    extended,
    full_state,
    logits,
    oracle_logits,
)

from selfextend import SelfExtendConfig, disable, enable, self_extend, support
from selfextend.cache import SelfExtendCache
from selfextend.errors import PastReachError

every = pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
IDS = token_ids(LENGTH)


@every
def test_disabling_restores_everything(architecture: Architecture) -> None:
    model = build(architecture)
    vanilla = logits(model, IDS)
    before = full_state(model)
    enable(model, CONFIG, trained_window=TRAINED_WINDOW)
    assert not torch.equal(logits(model, IDS), vanilla)
    model.generate(IDS, max_new_tokens=2, do_sample=False)
    disable(model)
    assert_same_state(before, full_state(model))
    assert torch.equal(logits(model, IDS), vanilla)


@every
def test_support_and_enabling_alone_leave_nothing_behind(architecture: Architecture) -> None:
    model = build(architecture)
    before = full_state(model)
    assert support(model).supported
    assert_same_state(before, full_state(model))
    enable(model, CONFIG, trained_window=TRAINED_WINDOW)
    disable(model)
    assert_same_state(before, full_state(model))


@every
def test_an_exception_inside_the_context_restores_everything(architecture: Architecture) -> None:
    model = build(architecture)
    vanilla, before = logits(model, IDS), full_state(model)

    def fails() -> None:
        with extended(model):
            logits(model, IDS)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert_same_state(before, full_state(model))
    assert torch.equal(logits(model, IDS), vanilla)


@every
@pytest.mark.parametrize("exception", [RuntimeError, KeyboardInterrupt])
def test_an_exception_inside_a_forward_restores_everything(architecture: Architecture, exception: type) -> None:
    model = build(architecture)
    vanilla, before = logits(model, IDS), full_state(model)
    last = [module for module in model.modules() if type(module).__name__.endswith("Attention")][-1]

    def fail(*_: object) -> None:
        raise exception

    with extended(model):
        expected = logits(model, IDS)
        hook = last.register_forward_pre_hook(fail)
        with pytest.raises(exception):
            logits(model, IDS)
        hook.remove()
        assert torch.equal(logits(model, IDS), expected)
        hook = last.register_forward_hook(fail)
        with pytest.raises(exception):
            model.generate(IDS, max_new_tokens=3)
        hook.remove()
    assert_same_state(before, full_state(model))
    assert torch.equal(logits(model, IDS), vanilla)


def test_a_stopped_generation_leaves_nothing_behind() -> None:
    model = build("llama")
    before = full_state(model)

    class Stop(RuntimeError):
        pass

    def stop(*_: object) -> None:
        raise Stop

    with pytest.raises(Stop), extended(model):
        model.generate(IDS, max_new_tokens=5, logits_processor=[stop])
    assert_same_state(before, full_state(model))


def test_enabling_again_is_a_new_configuration() -> None:
    model = build("llama")
    vanilla, before = logits(model, IDS), full_state(model)
    enable(model, DIVIDING, trained_window=TRAINED_WINDOW)
    assert_same(logits(model, IDS), oracle_logits("llama", DIVIDING))
    enable(model, CONFIG, trained_window=TRAINED_WINDOW)
    assert_same(logits(model, IDS), oracle_logits("llama", CONFIG))
    disable(model)
    assert_same_state(before, full_state(model))
    assert torch.equal(logits(model, IDS), vanilla)


@pytest.mark.parametrize("name", ["llama", "mistral-sliding", "falcon-new", "gemma3"])
def test_contexts_nest(name: str) -> None:
    model = build(name)
    vanilla, before = logits(model, IDS), full_state(model)
    with extended(model, DIVIDING):
        with extended(model, CONFIG):
            assert_same(logits(model, IDS), oracle_logits(name, CONFIG))
        assert_same(logits(model, IDS), oracle_logits(name, DIVIDING))
    assert_same_state(before, full_state(model))
    assert torch.equal(logits(model, IDS), vanilla)


def test_disabling_a_plain_model_does_nothing() -> None:
    model = build("llama")
    before = full_state(model)
    disable(model)
    assert_same_state(before, full_state(model))
    enable(model, CONFIG, trained_window=TRAINED_WINDOW)
    disable(model)
    disable(model)
    assert_same_state(before, full_state(model))


def test_disabling_inside_the_context_is_fine() -> None:
    model = build("llama")
    vanilla, before = logits(model, IDS), full_state(model)
    with extended(model):
        disable(model)
        assert torch.equal(logits(model, IDS), vanilla)
    assert_same_state(before, full_state(model))


@pytest.mark.parametrize("config", [SelfExtendConfig(4, TRAINED_WINDOW), SelfExtendConfig(2, 1000)])
def test_refused_settings_change_nothing(config: SelfExtendConfig) -> None:
    model = build("llama")
    before = full_state(model)
    with pytest.raises(ValueError, match="neighbor_window"):
        enable(model, config)
    with pytest.raises(ValueError, match="neighbor_window"), self_extend(model, config):
        pass
    assert_same_state(before, full_state(model))


def test_refused_settings_keep_the_settings_that_were_on() -> None:
    model = build("llama")
    enable(model, CONFIG, trained_window=TRAINED_WINDOW)
    with pytest.raises(ValueError):
        enable(model, SelfExtendConfig(4, 64))
    with pytest.raises(ValueError, match="on_overflow"):
        enable(model, DIVIDING, on_overflow="explode")  # type: ignore[arg-type]
    assert_same(logits(model, IDS), oracle_logits("llama", CONFIG))


def test_a_refused_length_restores_everything() -> None:
    model = build("llama")
    vanilla, before = logits(model, IDS), full_state(model)
    with pytest.raises(PastReachError), extended(model, SelfExtendConfig(2, 60)):
        logits(model, token_ids(200))
    assert_same_state(before, full_state(model))
    assert torch.equal(logits(model, IDS), vanilla)


def test_the_saved_config_is_the_models_own(tmp_path: object) -> None:
    """A model saved while enabled must load as what it is."""
    model = build("mistral-sliding")
    with extended(model):
        model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert loaded.config.sliding_window == 24
    assert torch.equal(logits(loaded, IDS), logits(model, IDS))


@pytest.mark.parametrize("copied", [copy.deepcopy, pickle.dumps])
def test_an_enabled_model_is_not_copied(copied: Callable[[object], object]) -> None:
    """The copy would go on calling the original's generate()."""
    model = build("llama")
    vanilla, before = logits(model, IDS), full_state(model)
    with extended(model), pytest.raises(TypeError, match=r"[Dd]isable"):
        copied(model)
    assert_same_state(before, full_state(model))
    assert torch.equal(logits(copy.deepcopy(model), IDS), vanilla)


def test_two_models_with_settings_of_their_own() -> None:
    first, second = build("llama"), build("llama")
    with extended(first, CONFIG), extended(second, DIVIDING):
        assert_same(logits(first, IDS), oracle_logits("llama", CONFIG))
        assert_same(logits(second, IDS), oracle_logits("llama", DIVIDING))
        assert_same(logits(first, IDS), oracle_logits("llama", CONFIG))


@pytest.mark.parametrize("name", ["llama", "falcon-new"])
def test_two_models_in_two_threads(name: str) -> None:
    """An app may run one visitor's model extended while another's is not."""
    first, second, plain = build(name), build(name), build(name)
    expected = [oracle_logits(name, CONFIG), oracle_logits(name, DIVIDING), logits(plain, IDS)]
    failures: list[str] = []

    def run(model: object, wanted: torch.Tensor) -> None:
        for _ in range(8):
            try:
                assert_same(logits(model, IDS), wanted)
            except Exception as error:
                failures.append(repr(error))

    with extended(first, CONFIG), extended(second, DIVIDING):
        threads = [
            threading.Thread(target=run, args=pair) for pair in zip((first, second, plain), expected, strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures


def test_the_model_can_be_used_from_another_thread_than_enabled_it() -> None:
    """As generation with a streamer does."""
    model = build("llama")
    results: list[torch.Tensor] = []
    with extended(model):
        thread = threading.Thread(target=lambda: results.append(logits(model, IDS)))
        thread.start()
        thread.join()
    assert_same(results[0], oracle_logits("llama", CONFIG))


def test_generate_gives_transformers_cache_again_after_disabling() -> None:
    model = build("llama")
    with extended(model):
        during = model.generate(IDS, max_new_tokens=2, return_dict_in_generate=True).past_key_values
    after = model.generate(IDS, max_new_tokens=2, return_dict_in_generate=True).past_key_values
    assert isinstance(during, SelfExtendCache)
    assert not isinstance(after, SelfExtendCache)


def test_the_parts_of_a_model_can_be_called_alone() -> None:
    """`model.model`, without the language model head."""
    model = build("llama")
    with torch.no_grad(), extended(model):
        hidden = model.model(IDS).last_hidden_state
        assert_same(model.lm_head(hidden), oracle_logits("llama", CONFIG))
