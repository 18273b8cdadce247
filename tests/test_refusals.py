"""What SelfExtend does not fit is refused with the reason, and is left as it was."""

from typing import Any

import pytest
import torch
import transformers
from architectures import TRAINED_WINDOW, UNSUPPORTED, VOCABULARY, Architecture, build, initialise, token_ids
from helpers import CONFIG, LENGTH, VANILLA, assert_same, assert_same_state, full_state, logits
from reference import NaiveModel

from selfextend import SelfExtendConfig, disable, enable, self_extend, support
from selfextend.errors import UnsupportedModelError

every = pytest.mark.parametrize("architecture", UNSUPPORTED, ids=str)


@every
def test_it_is_refused_with_the_reason(architecture: Architecture) -> None:
    model = build(architecture)
    report = support(model)
    assert not report.supported
    assert len(report.reason.split()) >= 5
    with pytest.raises(UnsupportedModelError) as error:
        enable(model, CONFIG, trained_window=TRAINED_WINDOW)
    assert isinstance(error.value, ValueError)
    assert report.reason in str(error.value)


@every
def test_nothing_is_changed_on_it(architecture: Architecture) -> None:
    model = build(architecture)
    before = full_state(model)
    support(model)
    with pytest.raises(UnsupportedModelError):
        enable(model, CONFIG, trained_window=TRAINED_WINDOW)
    with pytest.raises(UnsupportedModelError), self_extend(model, CONFIG, trained_window=TRAINED_WINDOW):
        pass
    disable(model)
    assert_same_state(before, full_state(model))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gpt2", "rotary"),
        ("bloom", "rotary|ALiBi"),
        ("mpt", "rotary|ALiBi"),
        ("opt", "rotary"),
        ("falcon-alibi", "rotary|ALiBi"),
        ("t5", "encoder-decoder"),
        ("bart", "encoder-decoder"),
    ],
)
def test_the_reason_is_the_right_one(name: str, words: str) -> None:
    with pytest.raises(UnsupportedModelError, match=words):
        enable(build(name), CONFIG, trained_window=TRAINED_WINDOW)


@pytest.mark.parametrize("thing", [torch.nn.Linear(2, 2), "a/name", None])
def test_what_is_no_model_is_refused(thing: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        enable(thing, CONFIG, trained_window=TRAINED_WINDOW)


@pytest.mark.parametrize("window", [0, 1, -3, 64.0, "64"])
def test_a_trained_window_is_a_whole_number(window: Any) -> None:
    model = build("llama")
    before = full_state(model)
    with pytest.raises(ValueError, match="trained_window"):
        enable(model, SelfExtendConfig(4, 16), trained_window=window)
    assert_same_state(before, full_state(model))


# Architectures that nobody promised: each must be refused, or right. Never quietly wrong.
_COMMON = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": TRAINED_WINDOW,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": None,
}  # fmt: skip
_MOE = {"num_experts": 2, "num_local_experts": 2, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
OTHERS: dict[str, dict[str, Any]] = {
    "Apertus": {},
    "Arcee": {},
    "BitNet": {},
    "Cohere2": {"sliding_window": 12},
    "DiffLlama": {},
    "Doge": {},
    "Ernie4_5": {},
    "Exaone4": {"sliding_window": 12},
    "Gemma4Text": {"sliding_window": 12, "hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": VOCABULARY},
    "Glm": {},
    "GptOss": {**_MOE, "sliding_window": 12},
    "Helium": {},
    "HunYuanDenseV1": {},
    "Jais2": {},
    "Lfm2": {"layer_types": ["conv", "full_attention", "conv"]},
    "Ministral": {"sliding_window": 12},
    "NanoChat": {},
    "Nemotron": {},
    "Olmo": {},
    "Olmo3": {"sliding_window": 12},
    "Persimmon": {},
    "Qwen2Moe": {**_MOE, "shared_expert_intermediate_size": 32, "mlp_only_layers": [0, 1, 2]},
    "Qwen3Moe": {**_MOE, "mlp_only_layers": [0, 1, 2]},
    "SeedOss": {},
    "VaultGemma": {"sliding_window": 12},
}


def other_model(prefix: str, mixed: bool) -> Any:
    config_class = getattr(transformers, f"{prefix}Config", None)
    model_class = getattr(transformers, f"{prefix.removesuffix('Text')}ForCausalLM", None)
    if config_class is None or model_class is None:
        pytest.skip(f"this version of transformers has no {prefix}")
    settings = _COMMON | OTHERS[prefix]
    if "sliding_window" in settings:
        kinds = ["full", "sliding", "full"] if mixed else ["sliding"] * 3
        settings["layer_types"] = [f"{kind}_attention" for kind in kinds]
    return initialise(model_class(config_class(**settings)), seed=0).eval()


ALL_SLIDING = {f"{prefix} all sliding": prefix for prefix in ("Cohere2", "Exaone4", "Ministral")}


@pytest.mark.parametrize("prefix", [*OTHERS, *ALL_SLIDING])
def test_other_architectures_are_refused_or_right(prefix: str) -> None:
    model = other_model(ALL_SLIDING.get(prefix, prefix), mixed=prefix not in ALL_SLIDING)
    before, ids = full_state(model), token_ids(LENGTH)
    report = support(model)
    if not report.supported:
        assert report.reason
        assert_same_state(before, full_state(model))
        return
    kinds = [layer.kind for layer in report.layers]
    assert "extended" in kinds
    untouched = {
        "local_layers": tuple(n for n, kind in enumerate(kinds) if kind == "local"),
        "no_rope_layers": tuple(n for n, kind in enumerate(kinds) if kind == "no_rope"),
    }
    if prefix not in ALL_SLIDING:
        vanilla = logits(model, ids[:, :TRAINED_WINDOW])
        with self_extend(model, VANILLA, trained_window=TRAINED_WINDOW):
            assert_same(logits(model, ids[:, :TRAINED_WINDOW]), vanilla)
    with self_extend(model, CONFIG, trained_window=TRAINED_WINDOW):
        actual = logits(model, ids)
        tokens = model.generate(ids, max_new_tokens=5, do_sample=False)
        again = model.generate(ids, max_new_tokens=5, do_sample=False, use_cache=False)
    assert torch.equal(tokens, again)
    assert_same_state(before, full_state(model))
    expected = NaiveModel(model, CONFIG.group_size, CONFIG.neighbor_window, **untouched).logits(ids)
    assert_same(actual, expected)
