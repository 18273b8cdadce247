"""Cutting the layers of a cache at a token, putting what stood behind it back, and filling them with what was kept."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from transformers import Cache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from selfextend.cache import SelfExtendCache, SelfExtendLayer
from selfextend.reader import Reader

States = Mapping[str, torch.Tensor]
"""A cache's tensors by name: the number of the layer, a point, and what it is."""


class LayerEnd:
    """What a layer needs besides its first `length` tokens to go back to them, and to be kept."""

    def __init__(self, layer: Any, length: int) -> None:
        self.length = length
        self._nearer: list[torch.Tensor] = []
        self._copy: Any = None
        if isinstance(layer, SelfExtendLayer):
            self._nearer = layer.nearer_keys() if layer.is_initialized else []
        elif type(layer) is not DynamicLayer:
            self._copy = copy.deepcopy(layer)

    @property
    def nbytes(self) -> int:
        return states_nbytes([self._nearer, self._copy])

    def restore(self, layer: Any) -> None:
        """Have the layer go back."""
        if self._copy is not None:
            vars(layer).update(vars(copy.deepcopy(self._copy)))
        elif layer.is_initialized and isinstance(layer, SelfExtendLayer):
            layer.cut(self.length, self._nearer)
        elif layer.is_initialized:
            layer.keys, layer.values = layer.keys[:, :, : self.length], layer.values[:, :, : self.length]

    def states(self, layer: Any) -> dict[str, torch.Tensor] | None:
        """The layer's tensors up to here; None for a kind that is not known to be complete with them."""
        kept = layer if self._copy is None else self._copy
        if type(kept) not in (SelfExtendLayer, DynamicLayer, DynamicSlidingWindowLayer):
            return None
        if not kept.is_initialized:
            return {}
        keys, values = kept.keys, kept.values
        assert keys is not None
        assert values is not None
        if type(kept) is not DynamicSlidingWindowLayer:
            keys, values = keys[:, :, : self.length], values[:, :, : self.length]
        nearer = {f"near{band}": keys for band, keys in enumerate(self._nearer)}
        return {"keys": keys, "values": values, **nearer}


def behind(layer: Any, start: int) -> Any:
    """A copy of what a layer holds from token `start` on: tensors, or the whole layer where it cannot be cut."""
    if isinstance(layer, SelfExtendLayer):
        return layer.states_from(start) if layer.is_initialized else []
    if type(layer) is DynamicLayer:
        states = [layer.keys, layer.values] if layer.is_initialized else []
        return [state[:, :, start:].clone() for state in states if state is not None]
    return copy.deepcopy(layer)


def put_behind(layer: Any, states: list[torch.Tensor]) -> None:
    """Give back what `behind` copied, to a layer that ends where that begins."""
    if not states:
        return
    if isinstance(layer, SelfExtendLayer):
        layer.put_back(states)
    else:
        layer.keys = torch.cat((layer.keys, states[0]), dim=2)
        layer.values = torch.cat((layer.values, states[1]), dim=2)


def filled(cache: Cache, states: States, length: int, reader: Reader) -> bool:
    """Put what `Beginning.states` gave into an empty cache. Whether it fits; if not, the cache is of no use."""
    by_layer: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in states.items():
        number, _, what = name.partition(".")
        by_layer.setdefault(int(number), {})[what] = tensor.to(reader.device)
    if not by_layer or max(by_layer) >= len(cache.layers):
        return False
    for place, layer in enumerate(cache.layers):
        held = by_layer.get(place)
        if held is not None and not _filled_layer(layer, held, length):
            return False
    if isinstance(cache, SelfExtendCache):
        cache.stands_for(cache.positions)
    return True


def _filled_layer(layer: Any, held: dict[str, torch.Tensor], length: int) -> bool:
    keys, values = held["keys"], held["values"]
    if isinstance(layer, SelfExtendLayer):
        near = [held[f"near{band}"] for band in range(len(layer.ends)) if f"near{band}" in held]
        if keys.shape[2] != length or len(near) != len(layer.ends):
            return False
        layer.fill(keys, values, near)
        return True
    if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer):
        return False
    sliding = type(layer) is DynamicSlidingWindowLayer
    if keys.shape[2] != (min(length, layer.sliding_window - 1) if sliding else length):
        return False
    layer.lazy_initialization(keys, values)
    layer.keys, layer.values = keys, values
    if sliding:
        layer.cumulative_length = length
    return True


def states_nbytes(held: Any) -> int:
    """Bytes of the tensors in nested lists, and of the layers among them."""
    if isinstance(held, torch.Tensor):
        return held.nbytes
    if isinstance(held, (list, tuple)):
        return sum(map(states_nbytes, held))
    return sum(states_nbytes(getattr(held, name, None)) for name in ("keys", "values") if held is not None)
