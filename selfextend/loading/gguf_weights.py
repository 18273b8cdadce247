"""The weights of a GGUF file under transformers' names, each unpacked at the moment it is asked for.

transformers knows which tensor of a file is which weight, and how to undo what llama.cpp does to it. Its own loader
unpacks the whole file into main memory first, without saying how far it is; here it gets tensors that read themselves,
so that a load reports, stops, and can be quantized again on the way.
"""

from __future__ import annotations

from math import prod
from pathlib import Path
from types import EllipsisType
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.integrations.gguf import GGUF_CONFIG_ARCHS
from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.utils.quantization_config import GgufConfig

from selfextend.errors import UnsupportedModelError
from selfextend.loading.gguf import LONG_FACTORS, ROPE_FACTORS, SHORT_FACTORS, stored_values
from selfextend.loading.gguf_header import GgufHeader, StoredTensor, read_header
from selfextend.loading.memory import skeleton_of

_IN_THE_CONFIG = {ROPE_FACTORS, LONG_FACTORS, SHORT_FACTORS}


class _Weight:
    """One weight of the model, made of one or several tensors of the file when it is indexed."""

    def __init__(self, path: Path, name: str, processor: TensorProcessor, names: dict[str, str]) -> None:
        self._path = path
        self._name = name
        self._processor = processor
        self._names = names
        self.parts: list[StoredTensor] = []

    def __getitem__(self, _: EllipsisType) -> torch.Tensor:
        # Experts are put together by the processor itself, in a dictionary of this form.
        parsed: dict[str, dict[str, torch.Tensor]] = {"tensors": {}}
        for part in self.parts:
            result = self._processor.process(
                stored_values(self._path, part),
                name=part.name,
                tensor_key_mapping=self._names,
                parsed_parameters=parsed,
            )
            if result.name is not None:
                parsed["tensors"][self._name] = torch.tensor(result.weights)
        return parsed["tensors"][self._name]


def load_gguf(path: Path, config: PreTrainedConfig, **arguments: Any) -> tuple[PreTrainedModel, dict[str, Any]]:
    """transformers' `from_pretrained` for a GGUF file whose config was read: the same arguments, the model and what
    there is to say about its weights.

    Raises:
        UnsupportedModelError: the file holds weights that the model of this config has no place for.
    """
    header = read_header(path)
    model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    arguments = {"config": config, "output_loading_info": True, **arguments}
    if header.architecture not in GGUF_CONFIG_ARCHS:
        weights: dict[str, Any] = dict(_state_dict(header, config))
    else:
        # transformers unpacks these tensor after tensor itself. `dequantize`: its packed layers run code from the hub.
        plain = {**arguments, "gguf_file": str(path), "quantization_config": GgufConfig(dequantize=True)}
        if "quantization_config" not in arguments:
            model, info = model_class.from_pretrained(path.parent, **plain)
            if info["unexpected_keys"]:
                raise _without_a_place(path, config, min(info["unexpected_keys"]))
            return model, info
        # It does not combine them with a quantization, so that is a second pass, from main memory.
        unpacked, _ = model_class.from_pretrained(path.parent, **plain | {"device_map": {"": "cpu"}})
        weights = unpacked.state_dict()
    model, info = model_class.from_pretrained(None, state_dict=weights, **arguments)
    model.config.name_or_path = str(path)
    return model, info


def _state_dict(header: GgufHeader, config: PreTrainedConfig) -> dict[str, _Weight]:
    processor = TENSOR_PROCESSORS.get(header.architecture, TensorProcessor)(config=config.to_dict())
    skeleton = skeleton_of(config)
    names: dict[str, str] = get_gguf_hf_weights_map(skeleton, processor)
    weights: dict[str, _Weight] = {}
    for tensor in header.tensors:
        if tensor.name in _IN_THE_CONFIG:
            continue
        # Several experts' tensors go into one weight, which has no suffix of its own.
        name = names.get(tensor.name) or names.get(tensor.name.removesuffix(".weight"))
        if name is None:
            raise _without_a_place(header.path, config, tensor.name)
        weights.setdefault(name, _Weight(header.path, name, processor, names)).parts.append(tensor)
    _check_sizes(header, skeleton, weights)
    return weights


def _without_a_place(path: Path, config: PreTrainedConfig, name: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{path} holds {name}, for which transformers' {config.model_type} has no place when it reads GGUF: the model "
        "would not compute what it was made to. Get it in transformers' format."
    )


def _check_sizes(header: GgufHeader, skeleton: PreTrainedModel, weights: dict[str, _Weight]) -> None:
    expected = {name: weight.numel() for name, weight in skeleton.state_dict().items()}
    for name, weight in weights.items():
        stored = sum(prod(part.shape) for part in weight.parts)
        if expected.get(name, stored) != stored:
            raise UnsupportedModelError(
                f"{header.path} has {stored:,} numbers for {name}, where the model that it describes has "
                f"{expected[name]:,}. Its numbers do not fit together: get another file of this model."
            )
