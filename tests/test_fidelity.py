"""What people do with a model besides calling it: each is right with SelfExtend on, or refused in a sentence."""

import copy
import pickle
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
    recording,
)
from peft import LoraConfig, PrefixTuningConfig, get_peft_model
from reference import NaiveModel
from transformers import DynamicCache, StaticCache
from vision_models import SEVERAL_AXES, VISION_MODELS, build_vision, image_prompt, words

import selfextend
from selfextend import SelfExtendConfig, disable, enable, support
from selfextend.errors import UnsupportedArchitectureError
from selfextend.recording import RecordingRequest


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


# Positions that do not rise by one a token: distances are then counted by position


@pytest.mark.parametrize("make", [lambda model: None, lambda model: DynamicCache()])
@pytest.mark.parametrize("name", ["llama", "falcon-new", "deepseek-v3"])
def test_positions_that_jump_across_a_cache(name: str, make: Any) -> None:
    """Like a text in which the tokens between are hidden."""
    ids, positions = token_ids(LENGTH), torch.arange(LENGTH)[None]
    seen = torch.ones(1, LENGTH, dtype=torch.long)
    seen[:, 30:45] = 0
    with extended(model := build(name)), torch.no_grad():
        want = model(ids, attention_mask=seen, position_ids=positions).logits
        cache = model(ids[:, :30], past_key_values=make(model), use_cache=True).past_key_values
        for piece in (slice(45, 60), slice(60, 61), slice(61, LENGTH)):
            got = model(ids[:, piece], position_ids=positions[:, piece], past_key_values=cache, use_cache=True)
            assert_same(got.logits, want[:, piece])


@pytest.mark.parametrize(
    "make", [lambda model: None, lambda model: DynamicCache(), lambda m: StaticCache(m.config, 80)]
)
def test_a_prompt_padded_on_the_right_goes_on(make: Any) -> None:
    """Each row as if it were alone: the second's padding stands between its prompt and what follows."""
    ids, ends = token_ids(LENGTH, batch=2), (45, 30)
    seen = torch.ones(2, 45, dtype=torch.long)
    seen[1, 30:] = 0
    with extended(model := build("llama")), torch.no_grad():
        alone = [logits(model, row[None]) for row in ids]
        positions = (seen.cumsum(-1) - 1).clamp_min(0)
        options: dict[str, Any] = {"past_key_values": make(model), "use_cache": True}
        read = model(ids[:, :45], attention_mask=seen, position_ids=positions, **options)
        assert_same(read.logits[1:, :30], alone[1][:, :30])
        options["past_key_values"] = read.past_key_values
        for step in range(10):
            at = torch.tensor([[end + step] for end in ends])
            seen = torch.cat((seen, torch.ones(2, 1, dtype=torch.long)), dim=1)
            got = model(ids.gather(1, at), attention_mask=seen, position_ids=at, **options).logits
            for row in range(2):
                assert_same(got[row : row + 1], alone[row][:, at[row]])


@pytest.mark.parametrize("assistant", [None, "gemma2"])
def test_generation_from_prompts_padded_on_the_right(assistant: str | None) -> None:
    """What transformers warns of, and does."""
    ids = token_ids(40, batch=1 if assistant else 2)
    seen = torch.ones_like(ids)
    seen[-1, 32:] = 0
    options: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    if assistant:
        options["assistant_model"] = build(assistant)
    model = build("llama")
    want = model.generate(ids, attention_mask=seen, **options)
    with extended(model, VANILLA):
        assert torch.equal(model.generate(ids, attention_mask=seen, **options), want)
    with extended(model, SelfExtendConfig(3, 60)):
        assert torch.equal(model.generate(ids, attention_mask=seen, **options), want)


def _read_on(model: Any, passes: list[dict[str, Any]]) -> torch.Tensor:
    """The last pass' logits, on one cache."""
    cache = None
    for given in passes:
        with torch.no_grad():
            read = model(**given, past_key_values=cache, use_cache=True)
        cache = read.past_key_values
    return read.logits


def _from(start: int, stop: int, *, hidden: int = 0, **more: Any) -> dict[str, Any]:
    """Tokens start ... stop - 1 of a text, `hidden` hidden at its beginning."""
    seen = torch.ones(1, stop, dtype=torch.long)
    seen[:, :hidden] = 0
    return {"input_ids": token_ids(LENGTH)[:, start:stop], "attention_mask": seen, **more}


def _ids(*positions: int) -> dict[str, torch.Tensor]:
    return {"position_ids": torch.tensor([positions])}


@pytest.mark.parametrize(
    "passes",
    [
        [_from(0, 40), _from(40, 60, hidden=5)],
        [_from(0, 40), _from(40, 60, hidden=5, **_ids(*range(40, 60)))],
        [_from(0, 30, hidden=3, **_ids(0, 0, 0, *range(27))), _from(30, 31, hidden=3, **_ids(30))],
        [
            _from(0, 30, hidden=3, **_ids(0, 0, 0, *range(27))),
            _from(30, 31, hidden=3, **_ids(28)),
            _from(31, 32, hidden=3, **_ids(31)),
        ],
        [_from(0, 30, hidden=3), _from(30, 53, hidden=3, **_ids(*range(37, 60)))],
        [_from(0, 30, hidden=3, **_ids(*range(30))), _from(30, 53, hidden=3, **_ids(*range(37, 60)))],
        [_from(0, 30, **_ids(*range(10, 40))), _from(30, 50, **_ids(*range(40, 60)))],
    ],
    ids=["hidden later", "hidden later with ids", "onto its place", "in two jumps", "no ids, then a jump",
         "by place, then a jump", "from ten on"],
)  # fmt: skip
def test_passes_on_one_cache_are_numbered_as_without_selfextend(passes: list[dict[str, Any]]) -> None:
    model = build("llama")
    want = _read_on(model, passes)
    for config in (VANILLA, SelfExtendConfig(1, 4), SelfExtendConfig(3, 60)):
        with extended(model, config):
            assert_same(_read_on(model, passes), want)


@pytest.mark.parametrize("later", [{"attention_mask": None}, _from(30, 40, hidden=2)])
def test_padding_that_is_seen_later_is_refused(later: dict[str, Any]) -> None:
    with extended(model := build("llama")), pytest.raises(ValueError, match="hidden before is seen now"):
        _read_on(model, [_from(0, 30, hidden=3), _from(30, 40) | later])


def test_rows_that_begin_behind_a_whole_pass_of_padding() -> None:
    ids, seen = token_ids(LENGTH, batch=2), torch.ones(2, LENGTH, dtype=torch.long)
    seen[1, :20] = 0
    with extended(model := build("llama")), torch.no_grad():
        cache = model(ids[:, :12], attention_mask=seen[:, :12], use_cache=True).past_key_values
        model(ids[:, 12:40], attention_mask=seen[:, :40], past_key_values=cache)
        got = model(ids[:, 40:], attention_mask=seen, past_key_values=cache).logits
        assert_same(got[1:], logits(model, ids[1:, 20:])[:, 20:])


@pytest.mark.parametrize(
    "choose",
    [
        lambda cache: cache.batch_select_indices(torch.tensor([1, 0, 0])),
        lambda cache: cache.batch_select_indices(indices=[1, 0, 0]),
        lambda cache: (cache.batch_repeat_interleave(repeats=2), cache.reorder_cache(beam_idx=torch.tensor([2, 1, 0]))),
    ],
)
@pytest.mark.parametrize("make", [lambda model: None, lambda model: DynamicCache()])
def test_rows_chosen_from_a_cache_keep_their_positions(make: Any, choose: Any) -> None:
    ids, seen = token_ids(LENGTH, batch=2), torch.ones(2, 45, dtype=torch.long)
    seen[0, 35:] = 0
    next_one = torch.tensor([[35], [45]])
    longer = torch.cat((seen, torch.ones(2, 1, dtype=torch.long)), dim=1)
    chosen = torch.tensor([1, 0, 0])
    with extended(model := build("llama")), torch.no_grad():
        cache = model(ids[:, :45], attention_mask=seen, past_key_values=make(model), use_cache=True).past_key_values
        options: dict[str, Any] = {"past_key_values": cache, "use_cache": True}
        want = model(ids.gather(1, next_one), attention_mask=longer, position_ids=next_one, **options).logits
        cache.crop(-1)
        choose(cache)
        options |= {"attention_mask": longer[chosen], "position_ids": next_one[chosen]}
        assert_same(model(ids.gather(1, next_one)[chosen], **options).logits, want[chosen])


def test_rows_chosen_behind_a_caches_back_are_refused() -> None:
    with extended(model := build("llama")), torch.no_grad():
        cache = model(token_ids(40, batch=2), use_cache=True).past_key_values
        for layer in cache.layers:
            layer.batch_select_indices(torch.tensor([0, 0, 1]))
        with pytest.raises(ValueError, match="2 rows of text, and 3"):
            model(token_ids(2, batch=3), past_key_values=cache)


def test_a_cache_can_be_pickled() -> None:
    ids = token_ids(LENGTH)
    with extended(model := build("llama")), torch.no_grad():
        cache = model(ids[:, :40], use_cache=True).past_key_values
        again = pickle.loads(pickle.dumps(cache))  # noqa: S301 (made here)
        assert_same(logits(model, ids[:, 40:], past_key_values=again), oracle_logits("llama", CONFIG)[:, 40:])


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
def test_a_mask_for_each_query_says_all_that_it_sees(dtype: torch.dtype) -> None:
    """A prefix of which every token sees every other."""
    seen = torch.ones(1, 1, 60, 60, dtype=torch.bool).tril()
    seen[..., :20, :20] = True
    mask = seen if dtype == torch.bool else torch.where(seen, 0.0, torch.finfo(dtype).min)
    model = build("llama")
    want = logits(model, token_ids(60), attention_mask=mask)
    for config in (VANILLA, SelfExtendConfig(3, 60)):
        with extended(model, config):
            assert_same(logits(model, token_ids(60), attention_mask=mask), want)


def test_a_mask_that_weighs_keys_is_refused() -> None:
    mask = torch.zeros(1, 1, LENGTH, LENGTH).masked_fill(torch.ones(LENGTH, LENGTH).triu(1).bool(), -torch.inf)
    mask[..., 3] -= 2
    with extended(model := build("llama")), pytest.raises(ValueError, match="holds others"):
        logits(model, token_ids(LENGTH), attention_mask=mask)


def test_packed_texts_are_each_as_if_alone() -> None:
    ids = token_ids(LENGTH)
    positions = torch.cat((torch.arange(40), torch.arange(LENGTH - 40)))[None]
    with extended(model := build("llama")):
        got = logits(model, ids, position_ids=positions, use_cache=False)
        assert_same(got[:, :40], logits(model, ids[:, :40]))
        assert_same(got[:, 40:], logits(model, ids[:, 40:]))


def test_packed_texts_are_trained_on_as_if_alone() -> None:
    ids = token_ids(LENGTH)
    positions = torch.cat((torch.arange(40), torch.arange(LENGTH - 40)))[None]

    def gradient(*texts: dict[str, Any]) -> torch.Tensor:
        model.zero_grad()
        sum(model(**text, use_cache=False).logits.square().sum() for text in texts).backward()
        return model.get_input_embeddings().weight.grad.clone()

    with extended(model := build("llama")):
        packed = gradient({"input_ids": ids, "position_ids": positions})
        assert_same(packed, gradient({"input_ids": ids[:, :40]}, {"input_ids": ids[:, 40:]}))


def test_recording_wants_positions_without_jumps() -> None:
    request = RecordingRequest(range(10, 20), [0])
    with (
        extended(model := build("llama")),
        recording(model, request),
        pytest.raises(ValueError, match="Pad on the left"),
    ):
        logits(model, token_ids(20), position_ids=torch.arange(0, 40, 2)[None])


def test_one_row_of_positions_for_a_batch_with_a_mask() -> None:
    ids = token_ids(20, batch=2)
    with extended(model := build("llama")):
        got = logits(model, ids, attention_mask=torch.ones_like(ids), position_ids=torch.arange(20)[None])
        assert_same(got, logits(model, ids))


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


def test_attention_weights_beside_a_static_cache_are_as_wide_as_it() -> None:
    model = build("llama")
    plain = copy.deepcopy(model)
    plain.set_attn_implementation("eager")
    with torch.no_grad(), extended(model, VANILLA):
        got, want = (
            each(token_ids(50), past_key_values=StaticCache(each.config, 60), output_attentions=True).attentions
            for each in (model, plain)
        )
    for actual, expected in zip(got, want, strict=True):
        assert actual.shape == expected.shape == (1, model.config.num_attention_heads, 50, 60)
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
