"""The config and the tokenizer of a GGUF file, with transformers' own reader, and what that reader leaves out.

transformers takes a model's sizes from the file's metadata, but not everything that changes what the model computes:
RoPE scaling, partial rotation, soft-capping. That is added here, or the file is refused: a model that is loaded is the
one in the file.
"""

import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFWriter, dequantize
from gguf.constants import GGMLQuantizationType
from tokenizers import pre_tokenizers
from transformers import AutoConfig, PreTrainedConfig, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.integrations.gguf import GGUF_CONFIG_ARCHS, get_gguf_config
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS
from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES, load_gguf_checkpoint

from selfextend.errors import IncompleteModelError, UnsupportedModelError
from selfextend.loading.gguf_header import GgufHeader, StoredTensor, read_header

# Names of architectures in files that transformers spells otherwise.
_SPELLINGS = {"qwen2moe": "qwen2_moe", "qwen3moe": "qwen3_moe", "gpt-oss": "gpt_oss", "minimax-m2": "minimax_m2"}
_NO_ARCHITECTURES = {"general", "tokenizer"}
# Tensors that are no weights: they scale the rotary frequencies, and end up in the config.
ROPE_FACTORS, LONG_FACTORS, SHORT_FACTORS = "rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"
_STORED_TYPES = {
    GGMLQuantizationType.F32: torch.float32,
    GGMLQuantizationType.F16: torch.float16,
}
# What some files state and the config has a place for: llama.cpp's key, the config's.
_CONFIG_KEYS = {
    "attention.key_length": "head_dim",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
}
# What changes the computation and has no place in any config that transformers makes from a file.
_NOT_READ = (
    "attention.scale",
    "attention.clamp_kqv",
    "attention.max_alibi_bias",
    "embedding_scale",
    "residual_scale",
    "logit_scale",
    "rope.scaling.yarn_log_multiplier",
)
# llama.cpp knows the 27B models of Gemma-2 and -3 by their layers, since their files do not say that their queries are
# scaled by the width of the model, not by that of a head.
_LAYERS_OF_27B = {"gemma2": 46, "gemma3": 62}
# How text is split before byte-pair merging, where transformers has no entry for the name in a file. These are GPT-2's
# way, and GPT-2's way with every digit alone.
_SPLIT_AS_GPT2 = {"gpt-2", "gpt2", "phi-2", "roberta-bpe", "olmo", "mpt"}
_SPLIT_DIGITS = {"smollm", "starcoder", "refact", "command-r", "codeshell"}


def gguf_config(path: Path) -> PreTrainedConfig:
    """The config of the causal language model in a GGUF file. Its `dtype` is the one to compute in.

    Raises:
        IncompleteModelError: the file is damaged, or is a part of a model only.
        UnsupportedModelError: transformers cannot read this kind of model from GGUF, or not all that it computes.
    """
    header = read_header(path)
    _refuse_other_contents(header)
    try:
        settings = _settings(header)
        _add_rope(settings, header)
        config = AutoConfig.for_model(**settings)
        _check_read(config, header)
        _check_rotation(config, header)
    except (IncompleteModelError, UnsupportedModelError):
        raise
    except Exception as error:  # numbers that make no model fail in as many ways as there are configs
        words = " ".join(str(error).split())
        raise IncompleteModelError(
            f"The numbers in {path} describe no model ({type(error).__name__}: {words}). Copy or download it again."
        ) from error
    return config


def _refuse_other_contents(header: GgufHeader) -> None:
    path, kind = header.path, header.metadata.get("general.type", "model")
    architecture = header.architecture
    if architecture == "clip" or kind == "mmproj":
        raise UnsupportedModelError(
            f"{path} is the vision projector (mmproj) of a model, not a model. Give the model's own GGUF file, which "
            "lies beside it; images are not read from GGUF."
        )
    if kind == "adapter":
        raise UnsupportedModelError(
            f"{path} is a LoRA adapter. Merge it into its model with llama.cpp's llama-export-lora and load the result."
        )
    parts = header.metadata.get("split.count", 0)
    if isinstance(parts, int) and parts > 1:
        raise UnsupportedModelError(
            f"{path} is one of {parts} parts of a model, and transformers reads whole files only. Join them with "
            "llama.cpp's llama-gguf-split --merge, and load the result."
        )
    known = {*GGUF_SUPPORTED_ARCHITECTURES, *GGUF_CONFIG_ARCHS} - _NO_ARCHITECTURES
    if _SPELLINGS.get(architecture, architecture) not in known:
        raise UnsupportedModelError(
            f"{path} holds a model of architecture {architecture!r}, which transformers cannot read from GGUF. Get it "
            "in transformers' format (config.json, *.safetensors) from the hub."
        )
    if not header.tensors:
        raise IncompleteModelError(f"{path} has a vocabulary and no weights. Get the file that holds the model.")


def _settings(header: GgufHeader) -> dict[str, Any]:
    """The config's settings: what transformers makes of the metadata, and what it has no line for."""
    architecture = header.architecture
    shapes = {tensor.name: tensor.shape for tensor in header.tensors}
    vocabulary, width = shapes["token_embd.weight"]
    blocks = {name.split(".")[1] for name in shapes if name.startswith("blk.")}
    # Before a model of any such size is built, even without data.
    for key, words, number in (("block_count", "layers", len(blocks)), ("embedding_length", "channels", width)):
        stated = header.of_architecture(key)
        if stated != number:
            raise IncompleteModelError(
                f"{header.path} states {stated} {words} and has {number}. Copy or download it again."
            )
    if architecture in GGUF_CONFIG_ARCHS:
        settings = get_gguf_config(dict(header.metadata), tuple(shapes))
    else:
        settings = _read_by_transformers(header)
    settings |= {"vocab_size": vocabulary, "dtype": _computing_type(header)}
    config = AutoConfig.for_model(**settings)
    for key, attribute in _CONFIG_KEYS.items():
        value = header.of_architecture(key)
        if value is not None and attribute not in settings and hasattr(config, attribute):
            settings[attribute] = value
    # Not the class's own numbers, which are those of another vocabulary.
    settings = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id")) | settings
    # Chat models end a turn with another token than a text, and files name both.
    stated = settings.get("eos_token_id")
    ends = [*(stated if isinstance(stated, list) else [stated]), header.metadata.get("tokenizer.ggml.eot_token_id")]
    settings["eos_token_id"] = list(dict.fromkeys(end for end in ends if end is not None)) or None
    if header.of_architecture("block_count") == _LAYERS_OF_27B.get(architecture):
        settings["query_pre_attn_scalar"] = width // header.of_architecture("attention.head_count")
    return settings


def _read_by_transformers(header: GgufHeader) -> dict[str, Any]:
    """The settings as transformers' reader takes them from a file.

    It reads from a copy without the vocabulary and with one number in each tensor: of the file itself it would make
    several Python objects for each token, which takes seconds to minutes, each time.
    """
    with tempfile.TemporaryDirectory(prefix="selfextend-") as folder:
        copy = Path(folder) / "header.gguf"
        writer = GGUFWriter(copy, header.architecture)
        for key, value in header.metadata.items():
            if key != "general.architecture" and (not key.startswith("tokenizer.") or key.endswith("_token_id")):
                _write(writer, key, value)
        writer.add_token_list(["."])  # its length is taken from the weights instead
        for tensor in header.tensors:
            writer.add_tensor(tensor.name, np.zeros(1, np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return dict(load_gguf_checkpoint(str(copy))["config"])


def _write(writer: GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        (writer.add_uint64 if value >= 0 else writer.add_int64)(key, value)
    elif isinstance(value, float):
        writer.add_float64(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif value:
        writer.add_array(key, value)


def _computing_type(header: GgufHeader) -> torch.dtype:
    """The type of the stored numbers, or bfloat16, which models are trained in, where they are quantized."""
    kinds = {tensor.kind for tensor in header.tensors if len(tensor.shape) > 1}
    return _STORED_TYPES.get(next(iter(kinds)), torch.bfloat16) if len(kinds) == 1 else torch.bfloat16


def _add_rope(settings: dict[str, Any], header: GgufHeader) -> None:
    """The rotary base and its scaling, which transformers reads from no file or from some."""
    if header.architecture in GGUF_CONFIG_ARCHS:
        return
    settings.pop("rope_theta", None)
    settings.pop("rope_scaling", None)
    config = AutoConfig.for_model(**settings)
    usual = getattr(config, "rope_parameters", None)
    if not usual:
        return
    rope: dict[str, Any] = {}
    base = header.of_architecture("rope.freq_base")
    if base is not None:
        rope["rope_theta"] = base
    rotated = header.of_architecture("rope.dimension_count")
    if rotated is not None and "partial_rotary_factor" in usual:
        rope["partial_rotary_factor"] = rotated / _head_width(config)
    rope |= _scaling(header)
    if hasattr(config, "original_max_position_embeddings") and "original_max_position_embeddings" in rope:
        # Phi-3's config has a place of its own for it, which counts.
        settings["original_max_position_embeddings"] = rope["original_max_position_embeddings"]
    if "full_attention" in usual:  # one set a layer type; a file's is that of the layers that see everything
        local = header.of_architecture("rope.freq_base_swa")
        settings["rope_parameters"] = usual | {"full_attention": usual["full_attention"] | rope}
        if local is not None:
            settings["rope_parameters"]["sliding_attention"] = usual["sliding_attention"] | {"rope_theta": local}
    else:
        settings["rope_parameters"] = usual | rope


def _scaling(header: GgufHeader) -> dict[str, Any]:
    """RoPE scaling as transformers writes it; {} for none."""
    tensors = {tensor.name: tensor for tensor in header.tensors}
    kind = header.of_architecture("rope.scaling.type") or "none"
    original = header.of_architecture("rope.scaling.original_context_length")
    factor = header.of_architecture("rope.scaling.factor") or header.of_architecture("rope.scale_linear") or 1.0
    window = header.of_architecture("context_length")
    if ROPE_FACTORS in tensors:
        # Llama-3.1's scaling, given as a factor for each frequency: LongRoPE's form, with one set for all lengths.
        factors = _numbers(header.path, tensors[ROPE_FACTORS])
        return _longrope(factors, factors, window, 1.0)
    if LONG_FACTORS in tensors and SHORT_FACTORS in tensors:
        long, short = (_numbers(header.path, tensors[name]) for name in (LONG_FACTORS, SHORT_FACTORS))
        return _longrope(long, short, original or window, header.of_architecture("rope.scaling.attn_factor"))
    if kind == "none" or factor == 1.0:
        return {}
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind == "yarn":
        return _yarn(header, {"factor": factor, "original_max_position_embeddings": original or window})
    raise _unread(header, "rope.scaling.type")


def _yarn(header: GgufHeader, scaling: dict[str, Any]) -> dict[str, Any]:
    for key in ("rope.scaling.attn_factor", "rope.scaling.yarn_attn_factor", "rope.scaling.yarn_ext_factor"):
        if header.of_architecture(key) not in (None, 1.0):
            raise _unread(header, key)
    betas = {name: header.of_architecture(f"rope.scaling.yarn_{name}") for name in ("beta_fast", "beta_slow")}
    return {"rope_type": "yarn", **scaling, **{name: beta for name, beta in betas.items() if beta is not None}}


def _longrope(long: list[float], short: list[float], window: int, attention_factor: float | None) -> dict[str, Any]:
    scaling = {
        "rope_type": "longrope",
        "long_factor": long,
        "short_factor": short,
        "original_max_position_embeddings": window,
    }
    return scaling if attention_factor is None else scaling | {"attention_factor": attention_factor}


def _numbers(path: Path, tensor: StoredTensor) -> list[float]:
    values: list[float] = stored_values(path, tensor).tolist()
    return values


def stored_values(path: Path, tensor: StoredTensor) -> np.ndarray[Any, Any]:
    """A tensor's numbers as float32, unpacked from its blocks. Reads that part of the file."""
    with path.open("rb") as file:
        file.seek(tensor.start)
        data = np.frombuffer(file.read(tensor.nbytes), np.uint8)
    if tensor.kind == GGMLQuantizationType.F32:
        return data.view(np.float32).reshape(tensor.shape)
    if tensor.kind == GGMLQuantizationType.F16:
        return data.view(np.float16).astype(np.float32).reshape(tensor.shape)
    rows = math.prod(tensor.shape[:-1])
    return dequantize(data.reshape(rows, -1), tensor.kind).reshape(tensor.shape)


def _check_read(config: PreTrainedConfig, header: GgufHeader) -> None:
    """That what the file states of the computation stands in the config."""
    for key, attribute in _CONFIG_KEYS.items():
        value = header.of_architecture(key)
        known = [getattr(config, attribute, None)]
        if attribute == "head_dim":
            # Not every config has a place for it, and Gemma-4 has two.
            known += [config.hidden_size // config.num_attention_heads, getattr(config, "global_head_dim", None)]
        if value and value not in known:
            raise _unread(header, key)
    for key in _NOT_READ:
        if header.of_architecture(key) not in (None, 0, 1):
            raise _unread(header, key)


def _check_rotation(config: PreTrainedConfig, header: GgufHeader) -> None:
    """That the config rotates as much of each head as the file says."""
    rotated = header.of_architecture("rope.dimension_count")
    known = getattr(config, "rope_parameters", None)
    if rotated is None or header.architecture in GGUF_CONFIG_ARCHS or not known:
        return
    rope: Mapping[str, Any] = known.get("full_attention") or known
    stated = getattr(config, "rotary_dim", None) or int(_head_width(config) * rope.get("partial_rotary_factor", 1.0))
    # Gemma-4 rotates all of a head, most of it by nothing.
    if rope.get("rope_type") != "proportional" and stated != rotated:
        raise _unread(header, "rope.dimension_count")


def _head_width(config: PreTrainedConfig) -> int:
    width = getattr(config, "global_head_dim", None) or getattr(config, "head_dim", None)
    return int(width or config.hidden_size // config.num_attention_heads)


def _unread(header: GgufHeader, key: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{header.path} states {header.architecture}.{key} = {header.of_architecture(key)}, which transformers does "
        "not read from GGUF: the model would not compute what it was made to. Get it in transformers' format."
    )


def gguf_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a GGUF file, with its chat template.

    Raises:
        IncompleteModelError: it has none, or it cannot be built.
        UnsupportedModelError: it splits text in a way that is not known here.
    """
    metadata = read_header(path).metadata
    splitting = metadata.get("tokenizer.ggml.pre")
    if "tokenizer.ggml.tokens" not in metadata:
        raise IncompleteModelError(f"{path} has no tokenizer. Get a GGUF file that was made with one.")
    by_bytes = metadata.get("tokenizer.ggml.model") == "gpt2"
    if by_bytes and splitting not in {*GGUF_PRE_TOKENIZER_SPLITS, *_SPLIT_AS_GPT2, *_SPLIT_DIGITS}:
        raise UnsupportedModelError(
            f"The tokenizer in {path} splits text as {splitting!r} does, which transformers does not know for GGUF "
            "files. Get the model in transformers' format from the hub."
        )
    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(path.parent, gguf_file=path.name)
    except Exception as error:  # each tokenizer has its own ways to fail
        raise IncompleteModelError(f"The tokenizer in {path} cannot be read: {error}") from error
    if by_bytes and splitting in _SPLIT_DIGITS:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    return tokenizer
