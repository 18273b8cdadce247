"""What transformers calls while SelfExtend is on: the attention implementation "selfextend" and its masks."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, causal_mask_function
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from selfextend.forward import ForwardPass, LayerPass, current

IMPLEMENTATION = "selfextend"
ATTRIBUTE = "_selfextend"
"""The attribute of a decoder that holds what is on, and of an attention module that holds its `AttentionLayer`."""


def pass_under_way() -> ForwardPass:
    """The forward pass of this thread.

    Raises:
        RuntimeError: there is none.
    """
    step = current.get()
    if step is None:
        raise RuntimeError("A single layer of a model with SelfExtend on was called outside its model.")
    return step


def _layer_under_way() -> LayerPass:
    layer = pass_under_way().layer
    assert layer is not None
    return layer


class DirectAttention(TorchFunctionMode):
    """A mode for attention modules that call torch's attention function themselves (Falcon)."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not torch.nn.functional.scaled_dot_product_attention:
            return func(*args, **kwargs)
        query, key, value = args[:3]
        scaling = kwargs.get("scale") or query.shape[-1] ** -0.5
        dropout = kwargs.get("dropout_p", 0.0)
        return _layer_under_way().attention(query, key, value, scaling=scaling, dropout=dropout)[0]


def padding_mask(attention_mask: torch.Tensor | None = None, **_: Any) -> torch.Tensor | None:
    """The mask that generation makes ahead of a pass: the padding as it is, since the pass makes its own."""
    return attention_mask


def _attention_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What transformers calls as the attention implementation "selfextend". Its contract: see `AttentionInterface`."""
    step, layer = pass_under_way(), vars(module)[ATTRIBUTE]
    if scaling is None:
        scaling = query.shape[-1] ** -0.5
    if layer.kind != "extended":
        eager: Any = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
        original = ALL_ATTENTION_FUNCTIONS.get_interface(step.kept_implementation, eager)
        return original(module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs)
    output, weights = _layer_under_way().attention(
        query,
        key,
        value,
        scaling=scaling,
        softcap=kwargs.get("softcap"),
        dropout=dropout,
        want_weights=bool(kwargs.get("output_attentions")),
    )
    return output.transpose(1, 2).contiguous(), weights


def _attention_mask(*args: Any, **kwargs: Any) -> Any:
    """The mask for layers that keep their own attention. Extended layers take none: theirs is in `ForwardPass`."""
    step = current.get()
    if step is None:
        return None
    plain = kwargs.get("mask_function") is causal_mask_function
    if not step.kept or (plain and "no_rope" not in step.kept):
        return None
    original = ALL_MASK_ATTENTION_FUNCTIONS.get(step.kept_implementation)
    return None if original is None else original(*args, **kwargs)


AttentionInterface.register(IMPLEMENTATION, _attention_forward)
AttentionMaskInterface.register(IMPLEMENTATION, _attention_mask)
