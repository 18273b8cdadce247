"""Checkpoints whose weights are quantized already: by what, whether this machine can read them, their bytes.

transformers keeps such weights as they are, or unpacks them where it has nothing to compute with. It reads a checkpoint
of a method that it does not know as if its weights were plain numbers; that is refused here.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig
from transformers.quantizers.auto import AutoHfQuantizer, get_hf_quantizer
from transformers.utils.quantization_config import CompressedTensorsConfig, FineGrainedFP8Config, Mxfp4Config

from selfextend.errors import QuantizationUnavailableError, UnsupportedModelError
from selfextend.loading.quantization_methods import is_unpacked, missing_packages
from selfextend.loading.safetensors_header import stored_weights, weight_files

# How each method that is unpacked is told to.
_UNPACKED: dict[str, Any] = {
    "fp8": FineGrainedFP8Config,
    "mxfp8": FineGrainedFP8Config,
    "mxfp4": Mxfp4Config,
    "compressed-tensors": CompressedTensorsConfig,
}
_PLAIN = {"F64", "F32", "F16", "BF16", "I64", "BOOL"}


@dataclass(frozen=True)
class OwnQuantization:
    """How a checkpoint's weights are quantized.

    Attributes:
        method: as its config names it ("gptq").
        bits: of a weight, or None where the config does not say.
        unpacked: whether this machine turns them into plain numbers when it loads them.
    """

    method: str
    bits: int | None
    unpacked: bool


def own_quantization(config: PreTrainedConfig) -> OwnQuantization | None:
    """How the weights that belong to a config are quantized, or None where they are plain numbers."""
    settings = _settings(config)
    if settings is None:
        return None
    method = str(settings.get("quant_method", "of an unnamed method"))
    bits = settings.get("bits") or settings.get("weight_bits")
    if settings.get("load_in_4bit") or settings.get("_load_in_4bit"):
        bits = 4
    elif settings.get("load_in_8bit") or settings.get("_load_in_8bit"):
        bits = 8
    return OwnQuantization(method, bits, is_unpacked(method))


def check_own_quantization(name: str, config: PreTrainedConfig, device: torch.device) -> None:
    """Checks that this machine can read a checkpoint that is quantized already. Nothing is loaded.

    Args:
        name: what to call the model.

    Raises:
        UnsupportedModelError: transformers does not know the method.
        QuantizationUnavailableError: a package is missing, or the device is not one that it runs on.
    """
    own, settings = own_quantization(config), _settings(config)
    if own is None or settings is None:
        return
    begin = f"The weights of {name} are quantized with {own.method}"
    named = settings.get("quant_method") or settings.get("load_in_4bit") or settings.get("load_in_8bit")
    if not named or not AutoHfQuantizer.supports_quant_method(settings):
        raise UnsupportedModelError(
            f"{begin}, which this transformers does not know: it would take them for plain numbers. Update "
            "transformers, or choose a checkpoint that is not quantized, or quantized with bitsandbytes, AWQ or GPTQ."
        )
    install = missing_packages(own.method)
    if install:
        raise QuantizationUnavailableError(
            f"{begin}, which needs a package that is not installed: pip install {install}. Or choose a checkpoint that "
            "is not quantized."
        )
    try:
        get_hf_quantizer(copy.deepcopy(config), None, {"": str(device)}, True, {})
    except Exception as error:  # a missing package, an old one, a device without the instructions
        words = " ".join(str(error).split()).rstrip(".")
        raise QuantizationUnavailableError(
            f"{begin}, and cannot be loaded on {device} here ({words}). Install what is missing, or choose a "
            "checkpoint that is not quantized."
        ) from error


def loading_arguments(config: PreTrainedConfig) -> dict[str, Any]:
    """What `from_pretrained` has to be told, so that weights are unpacked where `OwnQuantization.unpacked` says so."""
    own = own_quantization(config)
    if own is None or not own.unpacked:
        return {}
    return {"quantization_config": _UNPACKED[own.method](dequantize=True)}


def check_stored_weights(name: str, folder: Path, config: PreTrainedConfig) -> None:
    """Checks that weights which the config says nothing about are plain numbers.

    Raises:
        UnsupportedModelError: some are quantized, and would be read as if they were not.
    """
    if own_quantization(config) is not None:
        return
    for weight in stored_weights(folder):
        if weight.kind not in _PLAIN and not weight.name.endswith((".bias", "position_ids")):
            raise UnsupportedModelError(
                f"{name} has {weight.name} as {weight.kind}, and its config.json does not say how that is quantized: "
                "it would be taken for plain numbers. Get the config.json that belongs to these weights (with its "
                "quantization_config), or a checkpoint that is not quantized."
            )


def stored_bytes(folder: Path) -> int | None:
    """The bytes of all weights in a folder: from their headers, or from the list of files while those are not all here;
    None where there is nothing to count."""
    here = {path.name for path in weight_files(folder)}
    try:
        index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
        if not here or ("model.safetensors" not in here and not here.issuperset(index["weight_map"].values())):
            return int(index["metadata"]["total_size"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    return sum(weight.nbytes for weight in stored_weights(folder)) if here else None


def _settings(config: PreTrainedConfig) -> dict[str, Any] | None:
    found = getattr(config, "quantization_config", None) or getattr(
        config.get_text_config(decoder=True), "quantization_config", None
    )
    if not found:
        return None
    return dict(found) if isinstance(found, dict) else dict(found.to_dict())
