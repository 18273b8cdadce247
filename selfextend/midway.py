"""Ending a forward pass between two of its layers, so that who stops a long one need not wait for its end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from selfextend.cache import SelfExtendLayer
from selfextend.steps import EndNow, wanted_end

MANY_TOKENS = 64
"""A pass over fewer is over in a moment."""


@contextmanager
def ends_on_request(model: PreTrainedModel, cache: Cache, tokens: int) -> Iterator[None]:
    """A block in which one pass over so many new tokens raises `EndNow` before its next layer, once the end is wanted.

    Nothing ends midway where its layers could not be put back by `put_back`.
    """
    is_wanted = wanted_end()
    if is_wanted is None or tokens < MANY_TOKENS or not all(map(_can_be_put_back, cache.layers)):
        yield
        return

    def look(*_: Any) -> None:
        if is_wanted():
            raise EndNow

    handles = [module.register_forward_pre_hook(look) for module in _layers(model)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _can_be_put_back(layer: Any) -> bool:
    # Exactly these: a sliding layer, or one with a state in the place of keys, has let go of what it held before.
    return type(layer) in (DynamicLayer, SelfExtendLayer)


def _layers(model: PreTrainedModel) -> Iterator[nn.Module]:
    for module in model.modules():
        if isinstance(module, nn.ModuleList):
            yield from module
    head = model.get_output_embeddings()
    if isinstance(head, nn.Module):
        yield head


def put_back(cache: Cache, length: int) -> None:
    """Let every layer go back to the first `length` tokens, after a pass that ended between two of them."""
    for layer in cache.layers:
        if isinstance(layer, (DynamicLayer, SelfExtendLayer)) and layer.is_initialized:
            layer.crop(-max(0, layer.get_seq_length() - length))
