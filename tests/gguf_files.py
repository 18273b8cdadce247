"""Tiny GGUF files, written as llama.cpp's converter writes them: names, permuted queries and keys, norms."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFWriter, quantize
from gguf.constants import GGMLQuantizationType
from tiny_models import save_tokenizer, tiny_model
from transformers import AutoTokenizer, PreTrainedModel

F32 = GGMLQuantizationType.F32
CHAT_TEMPLATE = "{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}"
# Rows of a multiple of 64 numbers: whole blocks, ggml's and bitsandbytes'.
SIZES = {"hidden_size": 64, "intermediate_size": 192}

_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
# Gemma has four norms a layer, one of which is called as Llama's second.
GEMMA_NAMES = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}


def llama_gguf(path: Path, kind: GGMLQuantizationType = F32, **facts: Any) -> PreTrainedModel:
    """Write a tiny Llama; the model it was made from. `facts` are metadata that replace or, with None, drop others."""
    model = tiny_model(**SIZES)
    write_gguf(path, model, "llama", kind=kind, facts=facts)
    return model


def write_gguf(
    path: Path,
    model: PreTrainedModel,
    architecture: str,
    *,
    kind: GGMLQuantizationType = F32,
    facts: Mapping[str, Any] | None = None,
    names: Mapping[str, str] | None = None,
    tensors: Mapping[str, np.ndarray[Any, Any]] | None = None,
    change: Callable[[str, np.ndarray[Any, Any]], np.ndarray[Any, Any]] | None = None,
    tokenizer: Callable[[GGUFWriter, Path], None] | None = None,
) -> Path:
    """Write a model.

    Args:
        architecture: llama.cpp's name.
        kind: the number format of what has two dimensions.
        facts: more metadata; below the architecture's name unless the key has a dot at its end ("general.type.").
        names: more of llama.cpp's names for modules.
        tensors: more tensors.
        change: what the converter does to a tensor, by llama.cpp's name.
        tokenizer: writes one; that of `tiny_models` unless given.
    """
    writer = GGUFWriter(path, architecture)
    for key, value in (_facts(model, architecture) | _spelled(architecture, facts or {})).items():
        if value is not None:
            _write(writer, key, value)
    (tokenizer or _write_tokenizer)(writer, path.parent)
    spelled = _NAMES | dict(names or {})
    tied = model.config.tie_word_embeddings
    for name, weight in model.state_dict().items():
        if tied and name == "lm_head.weight":
            continue
        stored = _gguf_name(name, spelled)
        values = weight.float().numpy()
        if architecture == "llama" and ("attn_q." in stored or "attn_k." in stored):
            values = _permuted(values, _heads(model, stored))
        if change is not None:
            values = change(stored, values)
        used = kind if values.ndim > 1 else F32
        writer.add_tensor(stored, quantize(values, used), raw_dtype=used)
    for name, values in (tensors or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_tensors(
    path: Path,
    architecture: str,
    facts: Mapping[str, Any],
    tensors: Callable[[GGUFWriter], None],
    *,
    data: bool = True,
) -> Path:
    """Write a file of an architecture whose tensors `tensors` adds; without `data` it ends after their table."""
    writer = GGUFWriter(path, architecture)
    for key, value in _spelled(architecture, facts).items():
        _write(writer, key, value)
    _write_tokenizer(writer, path.parent)
    tensors(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    if data:
        writer.write_tensors_to_file()
    else:
        writer.write_ti_data_to_file()
    writer.close()
    return path


def _facts(model: PreTrainedModel, architecture: str) -> dict[str, Any]:
    config = model.config
    rope = config.rope_parameters.get("full_attention") or config.rope_parameters
    facts = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.freq_base": float(rope["rope_theta"]),
    }
    named = {f"{architecture}.{key}": value for key, value in facts.items()}
    return named | {"general.name": "Tiny", "general.type": "model"}


def _spelled(architecture: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    known = ("general.", "split.", "tokenizer.")
    return {key if key.startswith(known) else f"{architecture}.{key}": value for key, value in facts.items()}


def _write(writer: GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, str):
        writer.add_string(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, list):
        writer.add_array(key, value)
    else:
        writer.add_uint32(key, value)


def _write_tokenizer(writer: GGUFWriter, folder: Path) -> None:
    made = folder / "made-from"
    save_tokenizer(made)
    kept = json.loads((made / "tokenizer.json").read_text())["model"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    tokens = sorted(kept["vocab"], key=kept["vocab"].get)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token == "<eos>" else 1 for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in kept["merges"]])
    writer.add_eos_token_id(tokens.index("<eos>"))
    writer.add_chat_template(CHAT_TEMPLATE)


def write_sentencepiece(writer: GGUFWriter, _: Path) -> None:
    """A vocabulary as older Llamas have it: bytes, a few pieces with scores, no merges."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens += ["▁", "a", "b", "▁a", "ab", "▁ab", "<|turn|>"]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * 259 + [-5.0, -6.0, -7.0, -1.0, -2.0, -3.0, 0.0])
    writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * 6 + [3])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)


def original_tokenizer(path: Path) -> Any:
    """The tokenizer that went into a file."""
    return AutoTokenizer.from_pretrained(path.parent / "made-from")


def _gguf_name(name: str, names: Mapping[str, str]) -> str:
    module, _, suffix = name.rpartition(".")
    if module in names:
        return f"{names[module]}.{suffix}"
    _, _, layer, rest = module.split(".", 3)
    return f"blk.{layer}.{names[rest]}.{suffix}"


def _heads(model: PreTrainedModel, name: str) -> int:
    config = model.config
    return int(config.num_attention_heads if "attn_q" in name else config.num_key_value_heads)


def _permuted(weight: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """llama.cpp rotates neighbors, transformers halves: each head's rows are interleaved."""
    half = weight.shape[0] // heads // 2
    return weight.reshape(heads, 2, half, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def llama3_factors(config: Any) -> np.ndarray[Any, Any]:
    """`rope_freqs.weight`, as llama.cpp's converter works it out for Llama-3.1's scaling."""
    rope = config.rope_parameters
    dimensions = config.hidden_size // config.num_attention_heads
    frequencies = 1.0 / rope["rope_theta"] ** (torch.arange(0, dimensions, 2, dtype=torch.float32) / dimensions)
    low = rope["original_max_position_embeddings"] / rope["low_freq_factor"]
    high = rope["original_max_position_embeddings"] / rope["high_freq_factor"]
    factors = []
    for frequency in frequencies:
        length = float(2 * torch.pi / frequency)
        if length < high:
            factors.append(1.0)
        elif length > low:
            factors.append(float(rope["factor"]))
        else:
            smooth = rope["original_max_position_embeddings"] / length - rope["low_freq_factor"]
            smooth /= rope["high_freq_factor"] - rope["low_freq_factor"]
            factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(factors, np.float32)
