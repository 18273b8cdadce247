"""A tiny seeded model of every causal language model type of the installed transformers, built from its config.

    python -m benchmarks.tiny_models              # build each and run it once: which can be built, and why not
    python -m benchmarks.tiny_models llama gemma2

Nothing is downloaded. `SMALL` holds for all types, `EXTRAS` for what is particular to one.
"""

from __future__ import annotations

import copy
import sys
import traceback
import warnings
from typing import Any

import torch
import transformers
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

TRAINED_WINDOW = 64
VOCABULARY = 97
LOCAL_WINDOW = 12
LARGEST = 20_000_000
"""Parameters. A larger model is a mistake in the tables below."""

TYPES: tuple[str, ...] = tuple(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)

# The settings of a small model, by value. Each is used where the type's config has one of that name.
_BY_VALUE: list[tuple[Any, str]] = [
    (VOCABULARY, "vocab_size vocab_size_per_layer_input"),
    (TRAINED_WINDOW, "max_position_embeddings n_positions n_ctx max_seq_len model_max_length"),
    (64, "hidden_size n_embd d_model emb_dim embedding_size word_embed_proj_dim"),
    (96, "intermediate_size ffn_dim ffn_hidden_size encoder_ffn_dim decoder_ffn_dim"),
    (3, "num_hidden_layers n_layer n_layers num_layers"),
    (2, "encoder_layers decoder_layers"),  # both, since caches are made for as many layers as the encoder has
    (4, "num_attention_heads n_head n_heads num_heads encoder_attention_heads decoder_attention_heads"),
    (2, "num_key_value_heads"),
    (16, "head_dim"),
    (8, "rotary_dim hidden_size_per_layer_input"),
    (12, "query_pre_attn_scalar"),
    (0, "pad_token_id"),
    (1, "bos_token_id"),
    (2, "eos_token_id"),
    (True, "is_decoder"),
    # experts
    (4, "num_experts num_local_experts n_routed_experts moe_num_experts"),
    (2, "num_experts_per_tok num_experts_per_token moe_topk moe_k"),
    (1, "n_group topk_group num_expert_group n_shared_experts num_shared_experts zero_expert_num"),
    (1, "first_k_dense_replace num_dense_layers"),
    (32, "moe_intermediate_size shared_expert_intermediate_size expert_ffn_hidden_size"),
    # latent attention, and choosing keys, of which there are enough for all
    (16, "q_lora_rank kv_lora_rank"),
    (8, "qk_rope_head_dim qk_nope_head_dim v_head_dim"),
    (2, "index_n_heads"),
    (16, "index_head_dim"),
    (256, "index_topk"),
    # states
    (4, "mamba_n_heads mamba_num_heads linear_num_heads"),
    (2, "linear_num_key_heads linear_num_value_heads"),
    (16, "linear_key_head_dim linear_value_head_dim linear_head_dim"),
    (32, "mamba_d_head mamba_head_dim"),
    (8, "mamba_d_state state_size ssm_state_size"),
    (1, "mamba_n_groups n_groups"),
    (128, "mamba_d_ssm"),
]
SMALL: dict[str, Any] = {name: value for value, names in _BY_VALUE for name in names.split()}


def _drafter(model_type: str) -> dict[str, Any]:
    """Settings of a model all of whose layers take another model's keys."""
    no_extra_embeddings = {"hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 0}
    layers = {"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"]}
    return {
        "text_config": SMALL | no_extra_embeddings | layers | {"model_type": model_type},
        "backbone_hidden_size": 64,
    }


# By the model type of a config, which may be a part of another's.
EXTRAS: dict[str, dict[str, Any]] = {
    "dbrx": {"attn_config": {"rope_theta": 10000.0, "kv_n_heads": 2, "clip_qkv": 8}},
    "zaya": {"num_experts_per_tok": 1},
    "reformer": {"is_decoder": True, "axial_pos_embds_dim": [32, 32], "axial_pos_shape": [8, 8]},
    "xmod": {"default_language": "en_XX"},
    "bamba": {"attn_layer_indices": [1]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv"]},
    "lfm2": {"layer_types": ["conv", "full_attention", "conv"]},
    "zamba": {
        "num_hidden_layers": 4,
        "layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid"],
    },
    "mamba2": {"head_dim": 32},
    "xlstm": {"qk_dim_factor": 1.0},
    "blt": {"encoder_hash_byte_group_vocab": VOCABULARY, "num_hidden_layers": 3},
    "blt_local_encoder": {"hidden_size_global": 64},
    "blt_local_decoder": {"hidden_size_global": 64},
    "qwen4_exp_text": {
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 16,
        "indexer_budget": 256,
        "indexer_compress_ratio": 4,
    },
    "dots3_note_text": {
        "swa_num_attention_heads": 4,
        "swa_num_key_value_heads": 4,
        "swa_kv_lora_rank": 16,
        "swa_q_lora_rank": 16,
        "swa_qk_nope_head_dim": 8,
        "swa_v_head_dim": 8,
        "swa_head_dim": 16,
        "shared_experts_intermediate_size": 32,
    },
    "gemma4_assistant": _drafter("gemma4_text"),
    "gemma4_unified_assistant": _drafter("gemma4_unified_text"),
    "musicgen_decoder": {"num_codebooks": 1},
    "musicgen_melody_decoder": {"num_codebooks": 1},
    "smollm3": {
        "num_hidden_layers": 4,
        "layer_types": ["full_attention", "sliding_attention", "full_attention", "full_attention"],
        "no_rope_layers": [1, 1, 0, 1],
    },
    "granitemoehybrid": {
        "layer_types": ["linear_attention", "full_attention", "linear_attention"],
        "position_embedding_type": "rope",
    },
    "zamba2": {"use_mem_rope": True},
    "mllama_text_model": {"cross_attention_layers": [1]},
    "inkling_text": {"sliding_window_size": LOCAL_WINDOW},
    "inkling2_text": {"sliding_window_size": LOCAL_WINDOW},
    "llama4_text": {"no_rope_layers": [1, 0, 1], "attention_chunk_size": 16},
    "cohere_compass_text": {
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 10000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        },
    },
    "dots3_note_vision_encoder": {"adapter_in_dim": 64, "adapter_out_dim": 64},
    "dots3_note_audio_encoder": {"adapter_input_size": 64, "adapter_out_dim": 64},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]], "num_layers": 4, "window_size": LOCAL_WINDOW},
}
_DRAFTER = "A drafter: all its layers take another model's keys, which this transformers' own config check refuses."
UNBUILDABLE = {
    "gemma3n": "Its image tower needs timm; its language model is gemma3n_text.",
    "gemma4_assistant": _DRAFTER,
    "gemma4_unified_assistant": _DRAFTER,
}
"""Why, in words; transformers' own error says the rest."""

# Settings without which a config of the type cannot even be made.
NEEDED = ("text_config",)


def tiny_config(config_class: type[PreTrainedConfig]) -> PreTrainedConfig:
    """A small config with every kind of layer that the type's default has, each part of it small too."""
    extras = EXTRAS.get(config_class.model_type, {})
    default = config_class(**{name: extras[name] for name in NEEDED if name in extras})
    known = default.to_dict()
    settings = {
        name: value for name, value in SMALL.items() if name in known and name not in config_class.attribute_map
    }
    if known.get("q_lora_rank", 0) is None:
        del settings["q_lora_rank"]
    if "kv_lora_rank" in known:  # latent attention: as many key heads as heads, of which a part is rotated
        settings |= {"num_key_value_heads": 4} if "num_key_value_heads" in known else {}
        settings |= {"head_dim": 8} if known.get("head_dim") == known.get("qk_rope_head_dim") else {}
    settings |= _layers(known)
    for name, part in vars(default).items():
        if isinstance(part, PreTrainedConfig) and name not in extras:
            settings[name] = tiny_config(type(part)).to_dict()
    return config_class(**settings | extras)


def _layers(known: dict[str, Any]) -> dict[str, Any]:
    """Layer types, as many layers, and the window of those that are local."""
    name = next((name for name in ("layer_types", "layers_block_type") if isinstance(known.get(name), list)), None)
    settings: dict[str, Any] = {}
    pattern = [""] * 3
    if name is not None:
        kinds = list(dict.fromkeys(known[name]))
        has_window = known.get("sliding_window") is not None or "use_sliding_window" in known
        if has_window and len(kinds) == 1 and kinds[0] in ("sliding_attention", "full_attention"):
            kinds = ["sliding_attention", "full_attention"]
        pattern = (kinds * 3)[: max(3, len(kinds))]
        if known.get("num_kv_shared_layers"):
            pattern, settings["num_kv_shared_layers"] = kinds * 2, len(kinds)
        settings |= {name: pattern} | {n: len(pattern) for n in ("num_hidden_layers", "n_layers") if n in known}
        if "use_sliding_window" in known:
            settings["use_sliding_window"] = True
    if known.get("sliding_window") is not None or "use_sliding_window" in settings:
        # A window on every layer is wider than any text here, and so changes nothing but the way through the code.
        settings["sliding_window"] = 4096 if name is None else LOCAL_WINDOW
    if isinstance(known.get("mlp_layer_types"), list):
        settings["mlp_layer_types"] = (list(dict.fromkeys(known["mlp_layer_types"])) * len(pattern))[: len(pattern)]
    return settings


def tiny_model(model_type: str, seed: int = 0) -> PreTrainedModel:
    """A model of that type in float32, with the same weights for the same seed.

    Raises:
        Exception: whatever transformers raises where it cannot be built.
    """
    config = tiny_config(CONFIG_MAPPING[model_type])
    model_class = getattr(transformers, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type])
    if not isinstance(config, model_class.config_class):
        parts = [part for part in vars(config).values() if isinstance(part, model_class.config_class)]
        config = parts[0] if parts else config
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in model_class._from_config(copy.deepcopy(config)).parameters())
    if size > LARGEST:
        raise ValueError(f"its tiny config makes a model of {size / 1e6:.0f} million parameters")
    torch.manual_seed(seed)
    return initialise(model_class._from_config(config, dtype=torch.float32), seed).eval()


def initialise(model: PreTrainedModel, seed: int) -> PreTrainedModel:
    """Weights so large that attention is far from uniform: each layer moves the logits, and so does each position."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
            if parameter.dim() < 2:
                parameter.add_(0.2 * noise)
            elif "embed" in name or "wte" in name:
                parameter.copy_(0.5 * noise)
            else:
                parameter.copy_(1.5 * parameter.shape[-1] ** -0.5 * noise)
    return model


def main() -> None:
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    failed = 0
    for model_type in sys.argv[1:] or TYPES:
        try:
            model = tiny_model(model_type)
            with torch.no_grad():
                logits = model(torch.arange(3, 20)[None]).logits
            assert logits.isfinite().all(), "its logits are not finite"
            size = sum(parameter.numel() for parameter in model.parameters())
            print(f"{model_type:26s} {size / 1e6:5.2f} M  {type(model).__name__}", flush=True)
        except Exception as error:
            failed += 1
            print(f"{model_type:26s} {type(error).__name__}: {error}", flush=True)
            if len(sys.argv) > 1:
                traceback.print_exc()
    print(f"{failed} cannot be built")


if __name__ == "__main__":
    main()
