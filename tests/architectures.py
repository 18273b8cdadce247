"""Tiny seeded models of every architecture that the tests look at, built from configs. Nothing is downloaded.

Knows what each architecture's layers are by reading its config, and nothing of how `selfextend` finds that out.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from benchmarks.tiny_models import initialise

TRAINED_WINDOW = 64
VOCABULARY = 97

_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": TRAINED_WINDOW,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}


@dataclass(frozen=True)
class Architecture:
    """One model.

    Attributes:
        prefix: of the transformers classes: `<prefix>Config` and `<prefix>ForCausalLM` unless `model_class` is given.
        settings: over the common tiny ones.
        local_layers: layers that attend to a window of their own by design, beside others that do not.
        no_rope_layers: layers without rotary embedding.
        other_layers: layers without attention.
        own_window: every layer has a sliding window, which SelfExtend switches off.
        windowless: the settings that take that window away.
        eager: the architecture has no SDPA version (soft-capped scores).
    """

    name: str
    prefix: str
    settings: dict[str, Any] = field(default_factory=dict)
    local_layers: tuple[int, ...] = ()
    no_rope_layers: tuple[int, ...] = ()
    other_layers: tuple[int, ...] = ()
    own_window: int | None = None
    windowless: dict[str, Any] = field(default_factory=lambda: {"sliding_window": None})
    eager: bool = False
    model_class: str | None = None
    common: bool = True

    @property
    def extended_layers(self) -> tuple[int, ...]:
        layers = self.config().num_hidden_layers
        others = (*self.local_layers, *self.no_rope_layers, *self.other_layers)
        return tuple(n for n in range(layers) if n not in others)

    def config(self) -> Any:
        settings = (_COMMON if self.common else {}) | self.settings
        config_class = getattr(transformers, f"{self.prefix}Config")
        return config_class(**copy.deepcopy(settings))

    def __str__(self) -> str:
        return self.name


def _rope(rope_type: str, **settings: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": rope_type, "rope_theta": 10000.0, **settings}}


_FALCON = {"intermediate_size": None, "alibi": False, "bias": True, "tie_word_embeddings": False}
_MLA = {
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "first_k_dense_replace": 2,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
}

ARCHITECTURES = [
    Architecture("llama", "Llama"),
    Architecture("mistral", "Mistral", {"sliding_window": None}),
    Architecture("mistral-sliding", "Mistral", {"sliding_window": 24}, own_window=24),
    Architecture("mixtral", "Mixtral", {"num_local_experts": 2, "num_experts_per_tok": 2, "sliding_window": None}),
    Architecture("qwen2", "Qwen2"),
    Architecture(
        "qwen2-sliding",
        "Qwen2",
        {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 0},
        own_window=24,
        windowless={"use_sliding_window": False},
    ),
    Architecture(
        "qwen2-mixed",
        "Qwen2",
        {"num_hidden_layers": 3, "use_sliding_window": True, "sliding_window": 12, "max_window_layers": 2},
        local_layers=(2,),
    ),
    Architecture("qwen3", "Qwen3", {"head_dim": 24}),
    Architecture("phi", "Phi", {"num_key_value_heads": None}),
    Architecture("phi-qk-layernorm", "Phi", {"qk_layernorm": True}),
    Architecture("phi3", "Phi3", {"original_max_position_embeddings": TRAINED_WINDOW, "sliding_window": None}),
    Architecture(
        "phi3-sliding",
        "Phi3",
        {"original_max_position_embeddings": TRAINED_WINDOW, "sliding_window": 20},
        own_window=20,
    ),
    Architecture("gemma", "Gemma", {"head_dim": 20}),
    Architecture(
        "gemma2",
        "Gemma2",
        {
            "num_hidden_layers": 3,
            "head_dim": 16,
            "query_pre_attn_scalar": 12,
            "sliding_window": 12,
            "layer_types": ["sliding_attention", "full_attention", "full_attention"],
            "attn_logit_softcapping": 2.0,
        },
        local_layers=(0,),
        eager=True,
    ),
    Architecture(
        "gemma3",
        "Gemma3Text",
        {
            "num_hidden_layers": 3,
            "head_dim": 16,
            "query_pre_attn_scalar": 12,
            "sliding_window": 12,
            "layer_types": ["sliding_attention", "full_attention", "full_attention"],
        },
        local_layers=(0,),
        model_class="Gemma3ForCausalLM",
    ),
    Architecture(  # the local layers' window is wider than the neighbor window: they keep what they do all the same
        "gemma3-wide",
        "Gemma3Text",
        {
            "num_hidden_layers": 3,
            "head_dim": 16,
            "query_pre_attn_scalar": 12,
            "sliding_window": 30,
            "layer_types": ["full_attention", "sliding_attention", "full_attention"],
        },
        local_layers=(1,),
        model_class="Gemma3ForCausalLM",
    ),
    Architecture("gpt-neox", "GPTNeoX", _rope("default", partial_rotary_factor=0.5)),
    Architecture("gpt-neox-serial", "GPTNeoX", {"use_parallel_residual": False}),
    Architecture("stablelm", "StableLm", {"qk_layernorm": True, "use_qkv_bias": True}),
    Architecture("olmo2", "Olmo2"),
    Architecture("granite", "Granite", {"attention_multiplier": 0.4, "residual_multiplier": 0.7}),
    Architecture("cohere", "Cohere", {"use_qk_norm": True, "logit_scale": 1.0}),
    Architecture("starcoder2", "Starcoder2", {"sliding_window": None}),
    Architecture("starcoder2-sliding", "Starcoder2", {"sliding_window": 24}, own_window=24),
    Architecture("smollm3", "SmolLM3", {"num_hidden_layers": 3, "no_rope_layers": [1, 0, 1]}, no_rope_layers=(1,)),
    Architecture("glm4", "Glm4", {"head_dim": 16}),
    Architecture("falcon-multi-query", "Falcon", {**_FALCON, "multi_query": True, "new_decoder_architecture": False}),
    Architecture("falcon-multi-head", "Falcon", {**_FALCON, "multi_query": False, "new_decoder_architecture": False}),
    Architecture("falcon-new", "Falcon", {**_FALCON, "num_kv_heads": 2, "new_decoder_architecture": True}),
    Architecture("deepseek-v3", "DeepseekV3", {**_MLA, "n_group": 2, "topk_group": 1}),
    Architecture("deepseek-v2", "DeepseekV2", _MLA),
    Architecture("jetmoe", "JetMoe", {"kv_channels": 16, "num_local_experts": 2, "num_experts_per_tok": 2}),
    Architecture(
        "gpt-oss",
        "GptOss",
        {
            "num_hidden_layers": 3,
            "head_dim": 16,
            "num_local_experts": 2,
            "num_experts_per_tok": 2,
            "sliding_window": 12,
            "layer_types": ["sliding_attention", "full_attention", "full_attention"],
            **_rope("default"),
        },
        local_layers=(0,),
        eager=True,
    ),
    Architecture(
        "gemma4",
        "Gemma4Text",
        {
            "num_hidden_layers": 3,
            "head_dim": 16,
            "global_head_dim": 16,
            "sliding_window": 12,
            "hidden_size_per_layer_input": 0,
            "vocab_size_per_layer_input": VOCABULARY,
            "layer_types": ["sliding_attention", "full_attention", "full_attention"],
        },
        local_layers=(0,),
        model_class="Gemma4ForCausalLM",
    ),
    Architecture(
        "lfm2",
        "Lfm2",
        {"layer_types": ["full_attention", "conv", "full_attention", "conv"], "num_hidden_layers": 4},
        other_layers=(1, 3),
    ),
    Architecture("llama-linear", "Llama", _rope("linear", factor=2.0)),
    Architecture("llama-dynamic", "Llama", _rope("dynamic", factor=2.0)),
    Architecture("llama-yarn", "Llama", _rope("yarn", factor=2.0, original_max_position_embeddings=32)),
    Architecture(
        "llama-llama3",
        "Llama",
        _rope("llama3", factor=2.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32),
    ),
    Architecture(
        "llama-longrope",
        "Llama",
        _rope(
            "longrope",
            factor=2.0,
            original_max_position_embeddings=32,
            short_factor=[1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7],
            long_factor=[1.5, 1.8, 2.1, 2.4, 2.7, 3.0, 3.3, 3.6],
        ),
    ),
    Architecture(
        "phi3-longrope",
        "Phi3",
        {
            "original_max_position_embeddings": 32,
            **_rope(
                "longrope",
                short_factor=[1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7],
                long_factor=[1.5, 1.8, 2.1, 2.4, 2.7, 3.0, 3.3, 3.6],
            ),
        },
    ),
]

BY_NAME = {architecture.name: architecture for architecture in ARCHITECTURES}

_TINY = {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": VOCABULARY}
_GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "vocab_size": VOCABULARY}
_T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}
_BART = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 64,
}


def _other(name: str, prefix: str, settings: dict[str, Any], model_class: str | None = None) -> Architecture:
    return Architecture(name, prefix, settings, model_class=model_class, common=False)


# Models that SelfExtend does not fit.
UNSUPPORTED = [
    _other("gpt2", "GPT2", _GPT, "GPT2LMHeadModel"),
    _other("bloom", "Bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": VOCABULARY}),
    _other("mpt", "Mpt", {"d_model": 32, "n_layers": 2, "n_heads": 4, "vocab_size": VOCABULARY}),
    Architecture("opt", "OPT", {"ffn_dim": 48, "word_embed_proj_dim": 64}),
    Architecture("falcon-alibi", "Falcon", {**_FALCON, "alibi": True}),
    _other("t5", "T5", {**_T5, "vocab_size": VOCABULARY}, "T5ForConditionalGeneration"),
    _other("bart", "Bart", _BART, "BartForConditionalGeneration"),
    _other("gptj", "GPTJ", {**_GPT, "rotary_dim": 8}),
    _other("codegen", "CodeGen", {**_GPT, "rotary_dim": 8, "n_ctx": 64}),
    _other("mamba", "Mamba", {**_TINY, "state_size": 4}),
    Architecture(
        "modernbert", "ModernBert", {"cls_token_id": 1, "sep_token_id": 2}, model_class="ModernBertForMaskedLM"
    ),
    Architecture("roformer", "RoFormer", {"is_decoder": True, "embedding_size": 32}),
]


@cache
def _pristine(architecture_name: str, dtype: torch.dtype, seed: int, windowless: bool) -> PreTrainedModel:
    architecture = _EVERY[architecture_name]
    if windowless:
        architecture = replace(architecture, settings=architecture.settings | architecture.windowless)
    class_name = architecture.model_class or f"{architecture.prefix}ForCausalLM"
    config = architecture.config()
    config.dtype = dtype
    model = getattr(transformers, class_name)._from_config(
        config, dtype=dtype, **({"attn_implementation": "eager"} if architecture.eager else {})
    )
    return initialise(model, seed).eval()


def build(
    architecture: Architecture | str, dtype: torch.dtype = torch.float32, seed: int = 0, *, windowless: bool = False
) -> PreTrainedModel:
    """A model of one's own to do anything with, with the same weights every time.

    Args:
        windowless: without the sliding window that holds for every layer: what vanilla means for SelfExtend.
    """
    architecture = _EVERY[architecture] if isinstance(architecture, str) else architecture
    return copy.deepcopy(_pristine(architecture.name, dtype, seed, windowless and architecture.own_window is not None))


def token_ids(length: int, batch: int = 1, seed: int = 1) -> torch.Tensor:
    """(batch, length) random tokens, none of them a special one."""
    return torch.randint(3, VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(seed))


_EVERY = {architecture.name: architecture for architecture in [*ARCHITECTURES, *UNSUPPORTED]}
