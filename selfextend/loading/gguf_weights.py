"""The weights of a GGUF file under transformers' names, each unpacked at the moment it is asked for.

transformers knows which tensor of a file is which weight, and how to undo what llama.cpp does to it. Its own loader
unpacks the whole file into main memory first, without saying how far it is; here it gets tensors that read themselves,
so that a load reports, stops, and can be quantized again on the way.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from math import prod
from pathlib import Path
from types import EllipsisType
from typing import Any, cast

import gguf
import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key
from transformers.integrations.gguf import GGUF_CONFIG_ARCHS, get_gguf_conversion_mapping, get_gguf_plan
from transformers.integrations.gguf import GgufHeader as ConvertedHeader
from transformers.integrations.gguf.reader import LazyGgufTensor, load_gguf_state_dict
from transformers.integrations.gguf.utils import add_gguf_load_ops
from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

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


class _Converted:
    """The same of an architecture whose conversions transformers keeps as operations."""

    def __init__(self, name: str, converter: WeightConverter, config: PreTrainedConfig) -> None:
        self._name = name
        self._converter = converter
        self._config = config
        self.parts: list[StoredTensor] = []
        self.sources: list[tuple[str, LazyGgufTensor]] = []

    def __getitem__(self, _: EllipsisType) -> torch.Tensor:
        converter = deepcopy(self._converter)  # it keeps what it is given
        for part, (pattern, tensor) in zip(self.parts, self.sources, strict=True):
            converter.add_tensor(self._name, part.name, pattern, cast(Any, tensor[...]))
        weight = converter.convert(self._name, config=self._config)[self._name]
        return weight[0] if isinstance(weight, list) else weight


def load_gguf(path: Path, config: PreTrainedConfig, **arguments: Any) -> tuple[PreTrainedModel, dict[str, Any]]:
    """transformers' `from_pretrained` for a GGUF file whose config was read: the same arguments, the model and what
    there is to say about its weights.

    Raises:
        UnsupportedModelError: the file holds weights that the model of this config has no place for.
    """
    header = read_header(path)
    model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    arguments = {"config": config, "output_loading_info": True, **arguments}
    skeleton = skeleton_of(config)
    weights: dict[str, Any]
    if header.architecture in GGUF_CONFIG_ARCHS:
        weights = dict(_converted_state_dict(header, config, skeleton, arguments["dtype"]))
    else:
        weights = dict(_state_dict(header, config, skeleton))
    _check_sizes(header, skeleton, weights)
    model, info = model_class.from_pretrained(None, state_dict=weights, **arguments)
    model.config.name_or_path = str(path)
    return model, info


def _state_dict(header: GgufHeader, config: PreTrainedConfig, skeleton: PreTrainedModel) -> dict[str, _Weight]:
    processor = TENSOR_PROCESSORS.get(header.architecture, TensorProcessor)(config=config.to_dict())
    with _name_map_made_once():
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
    return weights


@contextmanager
def _name_map_made_once() -> Iterator[None]:
    """transformers makes gguf's table of names, of all layers, once for each module of a model: seconds, which no stop
    button can cut short."""
    original = gguf.get_tensor_name_map
    gguf.get_tensor_name_map = functools.cache(original)
    try:
        yield
    finally:
        gguf.get_tensor_name_map = original


def _converted_state_dict(
    header: GgufHeader, config: PreTrainedConfig, skeleton: PreTrainedModel, dtype: torch.dtype
) -> dict[str, _Converted]:
    """Of an architecture that transformers' newer reader knows. That reader's own way to a model ends with all weights
    unpacked in main memory, before any is quantized again; here its conversions run weight by weight."""
    own_header = ConvertedHeader.from_file(str(header.path))
    mapping = get_gguf_conversion_mapping(header.architecture, config)
    packed, _, _ = get_gguf_plan(own_header, mapping)
    mapping = add_gguf_load_ops(mapping, packed, own_header, dtype)
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    by_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    places, lazy = skeleton.state_dict(), load_gguf_state_dict(own_header)
    weights: dict[str, _Converted] = {}
    for tensor in header.tensors:
        name, pattern = rename_source_key(tensor.name, renamings, converters, skeleton.base_model_prefix, places)
        if any(re.search(ignored, name) for ignored in skeleton._keys_to_ignore_on_load_unexpected or ()):
            continue  # Qwen3.5's prediction of several tokens at once, which transformers has no part for
        if name not in places or pattern is None:
            raise _without_a_place(header.path, config, tensor.name)
        weight = weights.setdefault(name, _Converted(name, by_pattern[pattern], config))
        weight.parts.append(tensor)
        weight.sources.append((pattern, lazy[tensor.name]))
    return weights


def _without_a_place(path: Path, config: PreTrainedConfig, name: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{path} holds {name}, for which transformers' {config.model_type} has no place when it reads GGUF: the model "
        "would not compute what it was made to. Get it in transformers' format."
    )


def _check_sizes(header: GgufHeader, skeleton: PreTrainedModel, weights: dict[str, _Weight | _Converted]) -> None:
    expected = {name: weight.numel() for name, weight in skeleton.state_dict().items()}
    for name, weight in weights.items():
        stored = sum(prod(part.shape) for part in weight.parts)
        if expected.get(name, stored) != stored:
            raise UnsupportedModelError(
                f"{header.path} has {stored:,} numbers for {name}, where the model that it describes has "
                f"{expected[name]:,}. Its numbers do not fit together: get another file of this model."
            )
