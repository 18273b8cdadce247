"""The trained window: the number that everybody calls L, read from configs as they stand on the hub."""

import pytest
from transformers import (
    DynamicCache,
    FalconConfig,
    Gemma2Config,
    Gemma3Config,
    Gemma3TextConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    MptConfig,
    Phi3Config,
    PhiConfig,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
    Starcoder2Config,
)

from selfextend.presets import PRESETS, find_preset
from selfextend.windows import trained_window

_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 32.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
    "rope_theta": 500000.0,
}
_LONG_FACTORS = {"short_factor": [1.0] * 48, "long_factor": [2.0] * 48}


def _yarn(factor: float, original: int) -> dict[str, object]:
    return {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": original,
        "rope_theta": 1e6,
    }


@pytest.mark.parametrize(
    ("config", "window"),
    [
        (LlamaConfig(max_position_embeddings=4096), 4096),
        (PhiConfig(max_position_embeddings=2048), 2048),
        (GPTNeoXConfig(max_position_embeddings=2048), 2048),
        (FalconConfig(), 2048),
        (SmolLM3Config(max_position_embeddings=65536), 65536),
        (Qwen3Config(max_position_embeddings=40960), 40960),
        # Llama-3.2-1B-Instruct: factor x original would be 262,144, which it never saw.
        (LlamaConfig(max_position_embeddings=131072, rope_parameters=_LLAMA3), 131072),
        # Phi-3-mini-128k
        (
            Phi3Config(
                max_position_embeddings=131072,
                original_max_position_embeddings=4096,
                rope_parameters={"rope_type": "longrope", "rope_theta": 10000.0, **_LONG_FACTORS},
            ),
            131072,
        ),
        (
            LlamaConfig(
                max_position_embeddings=16384,
                rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 1e5},
            ),
            16384,
        ),
        (
            LlamaConfig(
                max_position_embeddings=4096,
                rope_parameters={"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4},
            ),
            4096,
        ),
        # YaRN as DeepSeek and gpt-oss write it, and as Qwen's model cards tell people to add it by hand.
        (LlamaConfig(max_position_embeddings=131072, rope_parameters=_yarn(32.0, 4096)), 131072),
        (Qwen2Config(max_position_embeddings=32768, rope_parameters=_yarn(4.0, 32768)), 131072),
        # Mistral-7B-v0.1 and StarCoder2: no query ever saw further than the sliding window.
        (MistralConfig(max_position_embeddings=32768, sliding_window=4096), 4096),
        (MistralConfig(max_position_embeddings=32768, sliding_window=None), 32768),
        (Starcoder2Config(max_position_embeddings=16384, sliding_window=4096), 4096),
        (Phi3Config(max_position_embeddings=131072, sliding_window=262144), 131072),
        # Sliding layers among full ones: the full ones decide.
        (Gemma2Config(max_position_embeddings=8192, sliding_window=4096), 8192),
        (Gemma3TextConfig(max_position_embeddings=32768, sliding_window=512), 32768),
        (Gemma3Config(text_config={"max_position_embeddings": 131072}), 131072),
        (Qwen2Config(max_position_embeddings=32768, use_sliding_window=False, sliding_window=4096), 32768),
        (
            Qwen2Config(
                max_position_embeddings=32768,
                use_sliding_window=True,
                sliding_window=4096,
                max_window_layers=0,
            ),
            4096,
        ),
    ],
    ids=lambda value: getattr(value, "model_type", str(value)),
)
def test_window_of_configs_as_published(config: object, window: int) -> None:
    assert trained_window(config) == window


@pytest.mark.parametrize(
    "config",
    [
        MistralConfig(sliding_window=24, num_hidden_layers=2),
        Gemma2Config(sliding_window=24, num_hidden_layers=2),
        Qwen2Config(num_hidden_layers=2),
        LlamaConfig(num_hidden_layers=2),
    ],
    ids=lambda config: config.model_type,
)
def test_a_window_is_cut_only_where_every_layer_forgets(config: LlamaConfig) -> None:
    """transformers' own cache says which layers forget."""
    layers = DynamicCache(config=config).layers
    all_slide = all(layer.is_sliding for layer in layers)
    assert (trained_window(config) == 24) == all_slide


def test_a_config_without_a_window_is_refused_with_advice() -> None:
    class Bare:
        model_type = "bare"

    with pytest.raises(ValueError, match=r"'bare'.*trained window yourself"):
        trained_window(Bare())


def test_other_names_of_the_same_number() -> None:
    assert trained_window(MptConfig(max_seq_len=2048)) == 2048


def test_presets_are_distinct_and_their_published_settings_are_possible() -> None:
    assert len({preset.repo_id for preset in PRESETS}) == len(PRESETS)
    for preset in PRESETS:
        assert find_preset(preset.repo_id) is preset
        for setting in preset.published:
            assert preset.trained_window is not None
            assert setting.neighbor_window < preset.trained_window
            reach = setting.group_size * (preset.trained_window - setting.neighbor_window)
            assert setting.length is None or setting.length <= reach + setting.neighbor_window


def test_presets_name_the_settings_of_method_and_paper() -> None:
    phi = find_preset("microsoft/phi-2")
    assert phi is not None
    settings = [(setting.length, setting.group_size, setting.neighbor_window) for setting in phi.published]
    assert settings == [(4096, 4, 512), (6144, 8, 512)]
    assert find_preset("nobody/nothing") is None
