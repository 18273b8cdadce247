"""Tiny seeded models that take images beside text, and a prompt with one image for each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers
from architectures import TRAINED_WINDOW, VOCABULARY, initialise, token_ids
from transformers import PreTrainedModel

_TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": TRAINED_WINDOW,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}
_SIGLIP = {
    "model_type": "siglip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 7,
}
_PATCHES = {"depth": 1, "num_heads": 2, "patch_size": 7, "spatial_merge_size": 1, "hidden_size": 32}
_WIDE = {**_PATCHES, "out_hidden_size": 64, "intermediate_size": 48}
_AXES = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}}
_IDS = {"image_token_id": 90, "video_token_id": 91, "vision_start_token_id": 92, "vision_end_token_id": 93}


def _gemma3() -> Any:
    kinds = ["sliding_attention", "full_attention", "full_attention"]
    text = {**_TEXT, "sliding_window": 12, "layer_types": kinds, "query_pre_attn_scalar": 12}
    ids = {"image_token_index": 90, "boi_token_index": 91, "eoi_token_index": 92}
    config = transformers.Gemma3Config(text_config=text, vision_config=_SIGLIP, mm_tokens_per_image=4, **ids)
    return transformers.Gemma3ForConditionalGeneration(config)


def _paligemma() -> Any:
    vision = {**_SIGLIP, "projection_dim": 64, "vision_use_head": False}
    text = {**_TEXT, "model_type": "gemma"}
    sizes = {"projection_dim": 64, "hidden_size": 64, "image_token_index": 90}
    return transformers.PaliGemmaForConditionalGeneration(
        transformers.PaliGemmaConfig(text_config=text, vision_config=vision, **sizes)
    )


def _with_axes(prefix: str, vision: dict[str, Any]) -> Callable[[], Any]:
    def make() -> Any:
        config = getattr(transformers, f"{prefix}Config")(text_config=_TEXT | _AXES, vision_config=vision, **_IDS)
        return getattr(transformers, f"{prefix}ForConditionalGeneration")(config)

    return make


_BUILDERS = {
    "gemma3": _gemma3,
    "paligemma": _paligemma,
    "qwen2-vl": _with_axes("Qwen2VL", {**_PATCHES, "embed_dim": 32, "hidden_size": 64}),
    "qwen2.5-vl": _with_axes("Qwen2_5_VL", {**_WIDE, "fullatt_block_indexes": [0]}),
    "qwen3-vl": _with_axes("Qwen3VL", {**_WIDE, "deepstack_visual_indexes": [0]}),
    "glm-4v": _with_axes("Glm4v", {**_WIDE, "image_size": 28}),
}
VISION_MODELS = list(_BUILDERS)
SEVERAL_AXES = [name for name in VISION_MODELS if name not in ("gemma3", "paligemma")]


def build_vision(name: str) -> PreTrainedModel:
    return initialise(_BUILDERS[name](), seed=0).eval()


def words(length: int) -> torch.Tensor:
    """Random tokens, none of which stands for an image."""
    return token_ids(length).clamp_max(min(_IDS.values()) - 1)


def image_prompt(name: str, length: int) -> dict[str, Any]:
    """The arguments of a call with one image among `length` tokens, as the model's processor makes them."""
    ids = words(length)
    pixels = torch.randn(1, 3, 28, 28, generator=torch.Generator().manual_seed(2))
    if name == "gemma3":
        ids[0, 10:16] = torch.tensor([91, 90, 90, 90, 90, 92])
        return {"input_ids": ids, "pixel_values": pixels, "token_type_ids": (ids == 90).long()}
    if name == "paligemma":
        ids[0, :16] = 90
        kinds = (torch.arange(length) >= length // 2).long()[None]  # image and question, then the answer
        return {"input_ids": ids, "pixel_values": pixels, "token_type_ids": kinds}
    ids[0, 9], ids[0, 10:26], ids[0, 26] = 92, 90, 93
    patches = torch.randn(16, 3 * 2 * 7 * 7, generator=torch.Generator().manual_seed(2))
    return {
        "input_ids": ids,
        "pixel_values": patches,
        "image_grid_thw": torch.tensor([[1, 4, 4]]),
        "mm_token_type_ids": (ids == 90).long(),
    }
