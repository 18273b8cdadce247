"""What people do with a model besides calling it: each is right with SelfExtend on, or refused in a sentence."""

import copy
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import transformers
from architectures import BY_NAME, TRAINED_WINDOW, build, initialise, token_ids
from helpers import (
    CONFIG,
    LENGTH,
    VANILLA,
    assert_same,
    extended,
    logits,
    naive,
    oracle_logits,
    plain_logits,
    plain_model,
)
from peft import LoraConfig, PrefixTuningConfig, get_peft_model
from reference import NaiveModel
from transformers import DynamicCache, StaticCache
from vision_models import SEVERAL_AXES, VISION_MODELS, build_vision, image_prompt, words

import selfextend
from selfextend import SelfExtendConfig, disable, enable, support
from selfextend.errors import UnsupportedArchitectureError


def test_the_version_is_told() -> None:
    assert selfextend.__version__.count(".") >= 1


# Attention implementations chosen while SelfExtend is on


def _by_method(model: Any, name: str) -> None:
    model.set_attn_implementation(name)


def _by_config(model: Any, name: str) -> None:
    model.config._attn_implementation = name


# transformers does not let Falcon's be set by the method.
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize(
    ("name", "choose"),
    [
        ("llama", _by_method),
        ("llama", _by_config),
        ("gemma3", _by_method),
        ("gemma3", _by_config),
        ("smollm3", _by_method),
        ("falcon-new", _by_config),
    ],
)
def test_another_attention_implementation_changes_only_what_is_kept(
    name: str, implementation: str, choose: Any
) -> None:
    with extended(model := build(name)):
        choose(model, implementation)
        assert_same(logits(model, token_ids(LENGTH)), oracle_logits(name, CONFIG))
    assert model.config._attn_implementation == implementation
    assert_same(logits(model, token_ids(LENGTH)), plain_logits(name, length=LENGTH))


def test_what_is_set_in_the_configuration_meanwhile_stays() -> None:
    model = build("llama")
    config = model.config
    with extended(model):
        model.config.use_cache = False
        model.config.mine = 3
    assert model.config is config
    assert (config.use_cache, config.mine) == (False, 3)


# Two threads, two models


def test_two_threads_with_one_model() -> None:
    """A thousand calls, equal in length and padded in other ways, with and without a cache."""
    with extended(model := build("llama-dynamic")):
        prompts = []
        for count in (0, 7, 19):
            ids, mask = token_ids(60), torch.ones(1, 60, dtype=torch.long)
            ids[:, :count], mask[:, :count] = 0, 0
            prompts.append((ids, mask, logits(model, ids, attention_mask=mask)[:, count:]))

        def call(number: int) -> bool:
            ids, mask, want = prompts[number % 3]
            got = logits(model, ids, attention_mask=mask, use_cache=bool(number % 2))
            return torch.allclose(got[:, -want.shape[1] :], want, atol=1e-4)

        with ThreadPoolExecutor(2) as pool:
            assert sum(pool.map(call, range(1000))) == 1000


def test_two_threads_generate_with_one_model() -> None:
    with extended(model := build("llama")):
        prompts = [token_ids(length, seed=length) for length in (40, 47, 55)]
        settings = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
        want = [model.generate(ids, **settings) for ids in prompts]
        with ThreadPoolExecutor(2) as pool:
            got = list(pool.map(lambda number: model.generate(prompts[number % 3], **settings), range(24)))
    assert all(torch.equal(ids, want[number % 3]) for number, ids in enumerate(got))


@pytest.mark.parametrize("name", ["llama", "mistral-sliding", "gemma3"])
def test_another_model_with_the_same_configuration_is_left_alone(name: str) -> None:
    model = build(name)
    other = copy.deepcopy(model)
    shared = model.config
    for module in other.modules():
        if "config" in vars(module):
            module.config = shared
    before = logits(other, token_ids(LENGTH))
    with extended(model):
        assert_same(logits(other, token_ids(LENGTH)), before, relative=0)
        with extended(other):
            assert_same(logits(other, token_ids(LENGTH)), oracle_logits(name, CONFIG))
        assert_same(logits(model, token_ids(LENGTH)), oracle_logits(name, CONFIG))
    assert_same(logits(other, token_ids(LENGTH)), before, relative=0)


# Caches and positions


@torch.no_grad()
def _filled(model: Any, cache: Any) -> Any:
    model(token_ids(40), past_key_values=cache, use_cache=True)
    return cache


@pytest.mark.parametrize(
    "make", [lambda model: DynamicCache(), lambda model: StaticCache(config=model.config, max_cache_len=80)]
)
def test_a_cache_filled_without_selfextend_is_refused(make: Any) -> None:
    model = build("llama")
    cache = _filled(model, make(model))
    with extended(model), pytest.raises(ValueError, match="rotated already"):
        logits(model, token_ids(3), past_key_values=cache, use_cache=True)


@pytest.mark.parametrize(
    "make", [lambda model: None, lambda model: DynamicCache(), lambda model: StaticCache(model.config, 80)]
)
def test_a_cache_filled_with_other_settings_is_refused(make: Any) -> None:
    with extended(model := build("llama")), torch.no_grad():
        cache = model(token_ids(40), past_key_values=make(model), use_cache=True).past_key_values
    with extended(model, SelfExtendConfig(5, 16)), pytest.raises(ValueError, match="new cache"):
        logits(model, token_ids(3), past_key_values=cache, use_cache=True)
    with pytest.raises(RuntimeError, match="SelfExtend"):
        logits(model, token_ids(3), past_key_values=cache, use_cache=True)
    with extended(model):
        want = oracle_logits("llama", CONFIG)[:, 40:LENGTH]
        got = logits(model, token_ids(LENGTH)[:, 40:], past_key_values=cache, use_cache=True)
        assert got.shape == want.shape


def test_a_copied_cache_goes_on_by_itself() -> None:
    ids = token_ids(LENGTH)
    with extended(model := build("llama")), torch.no_grad():
        cache = model(ids[:, :40], past_key_values=DynamicCache(), use_cache=True).past_key_values
        twin = copy.deepcopy(cache)
        for held in (cache, twin):
            got = model(ids[:, 40:], past_key_values=held, use_cache=True).logits
            assert_same(got, oracle_logits("llama", CONFIG)[:, 40:])
            assert held.get_seq_length() == LENGTH


def test_positions_that_jump_across_a_cache_are_refused() -> None:
    with extended(model := build("llama")), torch.no_grad():
        cache = model(token_ids(40), use_cache=True).past_key_values
        with pytest.raises(ValueError, match="go on where the cache ends"):
            model(token_ids(2), past_key_values=cache, use_cache=True, position_ids=torch.tensor([[45, 46]]))


def test_a_token_after_right_padding_is_refused() -> None:
    mask = torch.ones(2, 40, dtype=torch.long)
    mask[1, 30:] = 0
    positions = (mask.cumsum(-1) - 1).clamp_min(0)
    with extended(model := build("llama")), torch.no_grad():
        cache = model(
            token_ids(40, batch=2), attention_mask=mask, position_ids=positions, use_cache=True
        ).past_key_values
        longer = torch.cat((mask, torch.ones(2, 1, dtype=torch.long)), dim=1)
        with pytest.raises(ValueError, match="left"):
            model(
                token_ids(1, batch=2),
                attention_mask=longer,
                position_ids=torch.tensor([[40], [30]]),
                past_key_values=cache,
                use_cache=True,
            )


def test_packed_texts_are_refused() -> None:
    positions = torch.cat((torch.arange(30), torch.arange(20)))[None]
    with extended(model := build("llama")), pytest.raises(ValueError, match="packed"):
        logits(model, token_ids(50), position_ids=positions)


def test_masks_by_layer_type_are_taken() -> None:
    with extended(model := build("gemma3")):
        mask = torch.ones(1, LENGTH, dtype=torch.long)
        mask[:, :9] = 0
        masks = model.create_masks_for_generate(
            config=model.config, inputs_embeds=model.get_input_embeddings()(token_ids(LENGTH)), attention_mask=mask
        )
        want = logits(model, token_ids(LENGTH), attention_mask=mask)
        assert_same(logits(model, token_ids(LENGTH), attention_mask=masks)[:, 9:], want[:, 9:])


# Text and images


@torch.no_grad()
def _answers(model: Any, prompt: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """The prompt's logits, and what generate() goes on with."""
    return model(**prompt).logits, model.generate(**prompt, max_new_tokens=5, do_sample=False)


def _text_prompt(name: str) -> dict[str, Any]:
    """PaliGemma's processor always says which tokens are the question; without that, vanilla's masks disagree."""
    kinds = {"token_type_ids": torch.ones(1, 56, dtype=torch.long)} if name == "paligemma" else {}
    return {"input_ids": words(56), **kinds}


@pytest.mark.parametrize("name", VISION_MODELS)
def test_text_in_a_model_with_images(name: str) -> None:
    model = build_vision(name)
    assert support(model).supported
    prompt = _text_prompt(name)
    plain, plain_answer = _answers(model, prompt)
    with extended(model, VANILLA):
        got, answer = _answers(model, prompt)
    assert_same(got, plain)
    assert torch.equal(answer, plain_answer)
    with extended(model):
        moved, _ = _answers(model, prompt)
    assert_same(moved[:, : CONFIG.neighbor_window], plain[:, : CONFIG.neighbor_window])
    assert (moved - plain).abs()[:, CONFIG.neighbor_window + 3 :].amax(-1).min() > 1e-2 * plain.std()


@pytest.mark.parametrize("name", ["gemma3", "paligemma"])
def test_images_whose_tokens_see_each_other(name: str) -> None:
    model, prompt = build_vision(name), image_prompt(name, 56)
    plain, plain_answer = _answers(model, prompt)
    for config in (VANILLA, SelfExtendConfig(3, 60)):
        with extended(model, config):
            got, answer = _answers(model, prompt)
        assert_same(got, plain)
        assert torch.equal(answer, plain_answer)
    with extended(model), torch.no_grad():
        moved, answer = _answers(model, prompt)
        assert (moved - plain).abs()[:, -20:].amax(-1).min() > 1e-2 * plain.std()
        # Token by token as in one pass: what generate() chose is the likeliest after each token.
        kinds = torch.cat((prompt["token_type_ids"], torch.full((1, 5), 0 if name == "gemma3" else 1)), dim=1)
        whole = model(**{**prompt, "input_ids": answer, "token_type_ids": kinds}).logits
    assert torch.equal(whole[:, 55:-1].argmax(-1), answer[:, 56:])


@pytest.mark.parametrize("name", SEVERAL_AXES)
def test_images_on_several_axes_are_refused(name: str) -> None:
    model = build_vision(name)
    with extended(model), pytest.raises(ValueError, match="text alone"):
        _answers(model, image_prompt(name, 56))


# Training


def _loss(model: Any, ids: torch.Tensor) -> torch.Tensor:
    loss: torch.Tensor = model(ids, labels=ids, use_cache=False).loss
    return loss


@pytest.mark.parametrize(
    ("name", "checkpointing"),
    [
        *((name, "none") for name in ("llama", "gemma2", "gpt-oss", "gpt-neox", "falcon-new", "deepseek-v3")),
        ("qwen2-mixed", "none"),
        ("llama", "reentrant"),
        ("llama", "not reentrant"),
        ("deepseek-v3", "not reentrant"),
    ],
)
def test_gradients_are_the_oracles(name: str, checkpointing: str) -> None:
    ids = token_ids(LENGTH)
    want, model = naive(name, CONFIG).gradients(ids), build(name)
    if checkpointing != "none":
        model.train()
        model.enable_input_require_grads()
        reentrant = {"use_reentrant": checkpointing == "reentrant"}
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=reentrant)
    with extended(model):
        _loss(model, ids).backward()
    got = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert got.keys() == want.keys()
    plain = plain_model(name)
    _loss(plain, ids).backward()
    yardstick = naive(name, VANILLA).gradients(ids)
    for key, gradient in want.items():
        plain_error = float((plain.get_parameter(key).grad.double() - yardstick[key]).abs().max())
        scale = max(float(gradient.abs().max()), 1e-4)
        assert float((got[key].double() - gradient).abs().max()) < 1e-4 * scale + 4 * plain_error, key


def test_lora_learns_through_peft() -> None:
    model = build("llama").train()
    wrapped = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    ids = token_ids(LENGTH, batch=2)
    enable(wrapped, CONFIG, trained_window=TRAINED_WINDOW, on_overflow="ignore")
    assert support(wrapped).supported
    optimizer = torch.optim.AdamW([p for p in wrapped.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(8):
        loss = _loss(wrapped, ids)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.1
    wrapped.eval()
    merged = copy.deepcopy(_disabled(wrapped)).merge_and_unload()
    want = NaiveModel(merged, CONFIG.group_size, CONFIG.neighbor_window).logits(ids)
    with extended(merged):
        assert_same(logits(merged, ids), want)
    assert wrapped.generate(input_ids=ids, max_new_tokens=2, do_sample=False).shape[1] == LENGTH + 2


def _disabled(model: Any) -> Any:
    disable(model)
    return model


def test_a_learned_prefix_is_refused() -> None:
    model = get_peft_model(build("llama"), PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4))
    enable(model, CONFIG, trained_window=TRAINED_WINDOW, on_overflow="ignore")
    with pytest.raises(ValueError, match="learned prefix"):
        logits(model, token_ids(20))


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt-neox"])
def test_autocast(name: str) -> None:
    """As exact as the untouched model under autocast, read in one pass and token by token."""
    ids, model = token_ids(LENGTH), build(name)
    vanilla, want = oracle_logits(name, VANILLA), oracle_logits(name, CONFIG)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        plain_error = _spread(logits(model, ids), vanilla)
        with extended(model):
            assert _spread(logits(model, ids), want) <= 2 * plain_error
            cache = model(ids[:, :60], use_cache=True).past_key_values
            last = model(ids[:, 60:], past_key_values=cache, use_cache=True).logits
            assert _spread(last, want[:, 60:]) <= 2 * plain_error


def _spread(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual.double() - expected.double()).pow(2).mean().sqrt() / expected.double().std())


# Weights of attention


@pytest.mark.parametrize("name", ["gemma3", "smollm3", "qwen2-mixed", "gpt-oss", "llama"])
def test_attention_weights_come_one_a_layer(name: str) -> None:
    model = build(name)
    plain = copy.deepcopy(model)
    plain.set_attn_implementation("eager")
    with torch.no_grad(), extended(model, VANILLA):
        got = model(token_ids(50), output_attentions=True).attentions
        want = plain(token_ids(50), output_attentions=True).attentions
    assert len(got) == len(want) == model.config.num_hidden_layers
    for actual, expected in zip(got, want, strict=True):
        assert_same(actual, expected)


def test_attention_weights_asked_for_in_the_configuration() -> None:
    model = build("gemma3")
    model.set_attn_implementation("eager")
    model.config.output_attentions = True
    with torch.no_grad(), extended(model, VANILLA):
        assert len(model(token_ids(50)).attentions) == model.config.num_hidden_layers


# Refusals


def test_a_model_without_weights_is_refused() -> None:
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(BY_NAME["llama"].config())
    with pytest.raises(UnsupportedArchitectureError, match="meta"):
        enable(model, CONFIG, trained_window=TRAINED_WINDOW)


def test_export_is_refused() -> None:
    with extended(model := build("llama")), pytest.raises(ValueError, match="export"):
        torch.export.export(model, (token_ids(8),), strict=False)


@pytest.mark.parametrize(
    ("name", "words"),
    [("gptj", "inside its own attention"), ("codegen", "inside its own attention"), ("roformer", "inside its own")],
)
def test_rope_out_of_reach_is_called_that(name: str, words: str) -> None:
    assert words in support(build(name)).reason


def test_a_model_of_one_layer() -> None:
    config = BY_NAME["llama"].config()
    config.num_hidden_layers = 1
    model = initialise(transformers.LlamaForCausalLM(config), seed=0).eval()
    want = NaiveModel(model, CONFIG.group_size, CONFIG.neighbor_window).logits(token_ids(LENGTH))
    with extended(model):
        assert_same(logits(model, token_ids(LENGTH)), want)
