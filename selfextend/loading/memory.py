"""Estimates the memory that a model takes before it is loaded.

The model is built from its config on the `meta` device, where tensors have shapes and no data: the sizes are exact, for
any architecture, in a fraction of a second. What prefill needs besides weights and cache depends on the chunk size and
is not estimated; a tenth of the memory is left free for it.
"""

import copy
import os
from bisect import bisect
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.quantizers.base import get_keys_to_not_convert
from transformers.quantizers.quantizers_utils import should_convert_module

from selfextend.errors import ModelTooBigError, QuantizationUnavailableError, UnsupportedModelError
from selfextend.loading.gguf_header import packed_as
from selfextend.loading.hardware import (
    AskedQuantization,
    Quantization,
    available_bytes,
    check_quantization,
    has_fast_bfloat16,
    resolve_device,
)
from selfextend.loading.local import LocalModel
from selfextend.loading.quantization_methods import missing_packages
from selfextend.loading.quantized import check_own_quantization, own_quantization, stored_bytes
from selfextend.loading.sizes import readable
from selfextend.loading.sources import READING, Source, fetch_steps, header_steps, locate, read_config
from selfextend.steps import result_of

_HEADROOM = 0.1
_GROWTH = 1.125  # cache buffers grow by an eighth at a time
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_QUANTIZED_BYTES = {"nf4": 4.5 / 8, "int8": 1.0}  # a weight's, with its part of the scale
_SEARCH_LIMIT = 1 << 30
_BITSANDBYTES = "bitsandbytes"
# Which of its forms takes about as much as others with so many bits a weight.
_LIKE: dict[int, Quantization] = {2: "nf4", 3: "nf4", 4: "nf4", 8: "int8"}


@dataclass(frozen=True)
class LayerCache:
    """What one layer caches for each token.

    Attributes:
        key_bytes, value_bytes: of all heads.
        sliding_window: tokens kept at most, or None for all.
    """

    key_bytes: int
    value_bytes: int
    sliding_window: int | None


@dataclass(frozen=True)
class MemoryEstimate:
    """The memory a model takes on a device, and what that leaves for text.

    Attributes:
        weights_bytes: the weights in memory.
        layers: what each layer caches for each token (batch of one).
        available_bytes: free on the device at the time of the estimate.
        device: where the model would go; "cuda" means all CUDA devices together.
        dtype: of activations, cache and whatever is not quantized.
        quantization: "none", "int8" or "nf4".
        unpacked_from: the quantization that the weights have in their file and lose in memory; "" for none.
        kept_as: the quantization that they have in their file and keep; "" for none.
        missing: what to install for "auto" to quantize them to nf4 here; "" where nothing is missing.
    """

    weights_bytes: int
    layers: tuple[LayerCache, ...]
    available_bytes: int
    device: str
    dtype: str
    quantization: Quantization
    unpacked_from: str = ""
    kept_as: str = ""
    missing: str = ""

    @property
    def fits(self) -> bool:
        """Whether the weights fit into the memory that is free."""
        return self.weights_bytes <= self.available_bytes

    @property
    def number_formats(self) -> str:
        """What the weights are in memory, and what they are in their file: "bfloat16, unpacked from Q4_K_M"."""
        formats = [self.dtype]
        if self.quantization != "none":
            formats.append(self.quantization)
        if self.kept_as:
            formats.append(f"{self.kept_as}, as stored")
        if self.unpacked_from:
            formats.append(f"unpacked from {self.unpacked_from}")
        if self.missing:
            formats.append(f"for nf4: pip install {self.missing}")
        return ", ".join(formats)

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes that one more token adds to the unextended model's cache, before any sliding window is full."""
        return sum(layer.key_bytes + layer.value_bytes for layer in self.layers)

    def kv_bytes(self, length: int, neighbor_window: int | None = None) -> int:
        """Bytes of the cache after `length` tokens.

        Args:
            length: tokens in the cache.
            neighbor_window: None for the unextended model. SelfExtend caches the keys of the last `neighbor_window`
                tokens a second time, ignores a sliding window that all layers share, and its buffers have some slack.
        """
        if neighbor_window is None:
            return sum(
                (layer.key_bytes + layer.value_bytes) * min(length, layer.sliding_window or length)
                for layer in self.layers
            )
        all_local = all(layer.sliding_window for layer in self.layers)
        total = 0
        for layer in self.layers:
            kept = length if all_local or not layer.sliding_window else min(length, layer.sliding_window)
            total += (layer.key_bytes + layer.value_bytes) * kept
            if kept == length:
                total += layer.key_bytes * min(length, neighbor_window)
        return int(total * _GROWTH)

    def longest_length(self, neighbor_window: int | None = None) -> int:
        """The longest sequence, in tokens, whose cache fits beside the weights; 0 where the weights do not fit.

        A tenth of the free memory is left for the computation itself.

        Args:
            neighbor_window: see `kv_bytes`.
        """
        room = self.available_bytes * (1 - _HEADROOM) - self.weights_bytes
        lengths = range(1, _SEARCH_LIMIT + 1)
        return bisect(lengths, room, key=lambda length: self.kv_bytes(length, neighbor_window))

    def describe(self) -> str:
        """One sentence for people."""
        sizes = (
            f"{readable(self.weights_bytes)} of weights ({self.number_formats}) on {self.device}, "
            f"where {readable(self.available_bytes)} are free"
        )
        if not self.fits:
            return sizes + ": too big."
        return (
            f"{sizes}; each token takes {self.kv_bytes_per_token / 1024:,.1f} KiB more, "
            f"so about {self.longest_length():,} tokens fit."
        )


def too_big(name: str, estimate: MemoryEstimate, what_happened: str = "") -> ModelTooBigError:
    """The error for a model that does not fit, with everything that would make it fit."""
    advice = []
    if estimate.quantization != "nf4":
        install = f"pip install {missing} and " if (missing := missing_packages(_BITSANDBYTES)) else ""
        advice.append(f"{install}choose quantization 'nf4', which takes about a quarter of 16-bit weights")
    if estimate.dtype == "float32":
        advice.append("choose dtype 'bfloat16'")
    if estimate.device != "cpu":
        advice.append("choose device 'cpu' if there is more memory")
    advice.append("choose a smaller model, or close other programs")
    sentence = f"{what_happened}{name} takes {estimate.describe()} Either {', or '.join(advice)}."
    return ModelTooBigError(sentence, estimate)


def estimate_memory(
    model: str | os.PathLike[str] | PreTrainedConfig,
    quantization: AskedQuantization = "none",
    device: str = "auto",
    dtype: str = "auto",
    available: int | None = None,
) -> MemoryEstimate:
    """Estimates the memory a model would take, without loading or downloading its weights.

    Args:
        model: "bundled", a local folder or GGUF file, a hub id (its config is downloaded, a few kB; of a GGUF file its
            header, some MB), or a config.
        quantization, device, dtype: as for `load_model`.
        available: bytes to count as free instead of asking the device.

    Raises:
        ModelLoadError: the model cannot be found, or cannot be loaded on this machine.
        ValueError: an unknown quantization or dtype.
    """
    if isinstance(model, PreTrainedConfig):
        return _estimate(model, "none" if quantization == "auto" else quantization, device, dtype, available)
    source = locate(model)
    files = result_of(fetch_steps(source, weights=False))
    with READING:
        config, settled = read_settled(source, files, quantization, resolve_device(device))
    headers = result_of(header_steps(source, files, config))
    with READING:
        return estimate_files(headers, config, settled, device, dtype, available)


class Settled(NamedTuple):
    """The quantization to load a model with.

    Attributes:
        quantization: which.
        missing: what to install for "auto" to stand for nf4 here; "" where nothing is missing.
    """

    quantization: Quantization
    missing: str = ""


def read_settled(
    source: Source, files: Path, quantization: AskedQuantization, device: torch.device
) -> tuple[PreTrainedConfig, Settled]:
    """A model's config, and the quantization to load it with, which this machine was found to be able to.

    Args:
        files: with the config; the weights need not be there.

    Raises:
        ModelLoadError: a subclass that says what is wrong with the config, or what is missing for the quantization.
        ValueError: an unknown quantization.
    """
    config = read_config(files)
    settled = settled_quantization(quantization, source, config, device)
    own = own_quantization(config)
    if own is not None and settled.quantization != "none":
        raise QuantizationUnavailableError(
            f"The weights of {source.name} are quantized already ({own.method}). Load it with quantization 'auto' or "
            "'none', which keep them as they are."
        )
    check_own_quantization(source.name, config, device)
    check_quantization(settled.quantization, device)
    return config, settled


def settled_quantization(
    quantization: AskedQuantization, source: Source, config: PreTrainedConfig, device: torch.device
) -> Settled:
    """What "auto" stands for: nf4 on CUDA for a model from the hub or from GGUF, where it is not quantized already."""
    if quantization != "auto":
        return Settled(quantization)
    from_elsewhere = source.files is None or source.files.is_file()
    return _automatic_quantization(device, takes_nf4=from_elsewhere and own_quantization(config) is None)


def _automatic_quantization(device: torch.device, *, takes_nf4: bool) -> Settled:
    """nf4 on CUDA for who takes it. Without the package that quantizes, the weights stay as they are."""
    if not (takes_nf4 and device.type == "cuda"):
        return Settled("none")
    missing = missing_packages(_BITSANDBYTES)
    return Settled("none", missing) if missing else Settled("nf4")


def estimate_files(
    files: Path,
    config: PreTrainedConfig,
    settled: Settled,
    device: str = "auto",
    dtype: str = "auto",
    available: int | None = None,
) -> MemoryEstimate:
    """`estimate_memory` for files that are here, or their headers, whose config was read."""
    plain = _estimate(config, settled.quantization, device, dtype, available)
    estimate = replace(plain, missing=settled.missing)
    if files.is_file():
        return replace(estimate, unpacked_from=packed_as(files))
    own = own_quantization(config)
    stored = stored_bytes(files) if own is not None and not own.unpacked else None
    return estimate if stored is None else replace(estimate, weights_bytes=stored)


def _estimate(
    config: PreTrainedConfig, quantization: Quantization, device: str, dtype: str, available: int | None
) -> MemoryEstimate:
    target = resolve_device(device)
    free = available_bytes(target) if available is None else available
    skeleton = skeleton_of(config)
    own = own_quantization(config)
    # Only guessed at: what is here to be counted is counted by `estimate_files`.
    sized: Quantization = quantization if own is None or own.unpacked else _LIKE.get(own.bits or 4, "none")
    resolved = _resolve_dtype(dtype, config, skeleton, sized, target, free)
    return MemoryEstimate(
        weights_bytes=_weights_bytes(skeleton, sized, resolved),
        layers=_layer_caches(skeleton, resolved),
        available_bytes=free,
        device=str(target),
        dtype=str(resolved).removeprefix("torch."),
        quantization=quantization,
        unpacked_from=own.method if own is not None and own.unpacked else "",
        kept_as=own.method if own is not None and not own.unpacked else "",
    )


def skeleton_of(config: PreTrainedConfig) -> PreTrainedModel:
    """The model of a config on the `meta` device: shapes, no data.

    Raises:
        UnsupportedModelError: transformers cannot build it.
    """
    # Building a model writes into its config. bfloat16, since some expert layers know no other type.
    config = copy.deepcopy(config)
    for part in (config, config.get_text_config(decoder=True)):
        if hasattr(part, "quantization_config"):
            del part.quantization_config
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    except (ValueError, KeyError, ImportError) as error:
        raise UnsupportedModelError(f"transformers cannot build this {config.model_type!r} model: {error}") from error


def _resolve_dtype(
    dtype: str,
    config: PreTrainedConfig,
    skeleton: PreTrainedModel,
    quantization: Quantization,
    device: torch.device,
    free: int,
) -> torch.dtype:
    """The type to compute in, as it was asked for; "auto" as `_automatic_dtype` says."""
    if dtype != "auto":
        if dtype not in _DTYPES:
            raise ValueError(f"dtype must be 'auto', {', '.join(map(repr, _DTYPES))}; not {dtype!r}.")
        return _DTYPES[dtype]
    declared = getattr(config.get_text_config(decoder=True), "dtype", None) or config.dtype
    stored = declared if isinstance(declared, torch.dtype) else torch.float32
    return _automatic_dtype(stored, device, _weights_bytes(skeleton, quantization, torch.float32), free)


def _automatic_dtype(stored: torch.dtype, device: torch.device, float32_bytes: int, free: int) -> torch.dtype:
    """The checkpoint's own type, except where the device is slow with it.

    A CPU with bfloat16 instructions computes in bfloat16 what is stored in 16 bits: in float32 it takes twice the
    memory and almost twice the time. A float16 checkpoint is rounded then, by up to one part in 512 a weight. A CPU
    without such instructions gets float32, or bfloat16 where only half the bytes fit.

    Args:
        stored: the checkpoint's type.
        float32_bytes: of the weights in float32.
        free: bytes on the device.
    """
    if device.type == "cuda":
        lacks_bfloat16 = stored == torch.bfloat16 and not has_fast_bfloat16(device)
        return torch.float16 if lacks_bfloat16 else stored
    if device.type != "cpu":
        return torch.float16 if stored != torch.float32 else stored
    if stored == torch.float32 or not (has_fast_bfloat16(device) or float32_bytes > free * (1 - _HEADROOM)):
        return torch.float32
    return torch.bfloat16


def local_bytes(model: LocalModel, device: torch.device, free: int, quantization: AskedQuantization = "auto") -> int:
    """About what the weights of a model on this machine take, from its files' beginnings alone.

    Args:
        free: bytes on the device.
        quantization: as for `load_model`.
    """
    if model.numbers is None:
        return model.file_bytes
    return rough_bytes(model.numbers, model.dtype, device, free, quantization, takes_nf4=model.takes_nf4)


def rough_bytes(
    numbers: int,
    dtype: str,
    device: torch.device,
    free: int,
    quantization: AskedQuantization = "auto",
    *,
    takes_nf4: bool,
) -> int:
    """About what so many weights take in memory.

    Args:
        dtype: as they are stored: "bfloat16".
        free: bytes on the device.
        quantization: as for `load_model`.
        takes_nf4: whether "auto" quantizes them to nf4 on CUDA.
    """
    if quantization == "auto":
        quantization = _automatic_quantization(device, takes_nf4=takes_nf4).quantization
    quantized = _QUANTIZED_BYTES.get(quantization)
    if quantized is not None:
        return int(numbers * quantized)
    stored = _DTYPES.get(dtype, torch.bfloat16)
    return numbers * _automatic_dtype(stored, device, 4 * numbers, free).itemsize


def _weights_bytes(skeleton: PreTrainedModel, quantization: Quantization, dtype: torch.dtype) -> int:
    total = sum(parameter.numel() for parameter in skeleton.parameters()) * dtype.itemsize
    for buffer in skeleton.buffers():
        follows = buffer.dtype == skeleton.dtype  # the others, rotary frequencies say, have a type of their own
        total += buffer.numel() * (dtype.itemsize if follows else buffer.element_size())
    if quantization == "none":
        return total
    for weight in _quantized_weights(skeleton):
        total -= weight.numel() * dtype.itemsize
        if quantization == "int8":
            total += weight.numel() + 4 * weight.shape[0]  # one float32 scale a row
        else:
            # Two weights a byte, one float32 scale per block of 64, and the table of the 16 levels.
            total += -(-weight.numel() // 2) + 4 * -(-weight.numel() // 64) + 16 * 4
    return total


def _quantized_weights(skeleton: PreTrainedModel) -> Iterator[torch.Tensor]:
    """The weights that bitsandbytes will quantize: every plain linear layer but the output embedding."""
    kept = get_keys_to_not_convert(skeleton)
    for name, module in skeleton.named_modules():
        if type(module) is torch.nn.Linear and should_convert_module(name, kept):
            yield module.weight


def _layer_caches(skeleton: PreTrainedModel, dtype: torch.dtype) -> tuple[LayerCache, ...]:
    """Runs one token through the model of shapes and reads the sizes from its cache: right for any architecture."""
    try:
        with torch.no_grad():
            cache = skeleton(torch.zeros(1, 1, dtype=torch.long, device="meta"), use_cache=True).past_key_values
        return tuple(
            LayerCache(
                key_bytes=layer.keys.numel() * dtype.itemsize,
                value_bytes=layer.values.numel() * dtype.itemsize,
                sliding_window=getattr(layer, "sliding_window", None),
            )
            for layer in cache.layers
            if getattr(layer, "keys", None) is not None
        )
    except (RuntimeError, NotImplementedError, AttributeError):
        # A forward pass that looks at its data cannot run on the meta device: the config's numbers are used instead.
        config = skeleton.config.get_text_config(decoder=True)
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        per_token = heads * head_dim * dtype.itemsize
        return (LayerCache(per_token, per_token, None),) * config.num_hidden_layers
