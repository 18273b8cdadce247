"""What transformers calls while SelfExtend is on: the attention implementation "selfextend" and its masks."""

from __future__ import annotations

import sys
from typing import Any, cast

import torch
from torch.overrides import TorchFunctionMode
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from selfextend.cache import current
from selfextend.forward import ForwardPass, LayerPass
from selfextend.masks import DeferredMask, deferred_mask, padding_of

IMPLEMENTATION = "selfextend"
ATTRIBUTE = "_selfextend"
"""The attribute of a decoder that holds what is on, and of an attention module that holds its `AttentionLayer`."""
KEPT = "_selfextend_kept_implementation"
"""The attribute of a configuration that holds the attention implementation of layers that keep what they do."""


def pass_under_way() -> ForwardPass:
    """The forward pass of this thread.

    Raises:
        RuntimeError: there is none.
    """
    step = current.get()
    if step is None:
        raise RuntimeError("A single layer of a model with SelfExtend on was called outside its model.")
    return cast(ForwardPass, step)


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


def generation_masks(attention_mask: Any = None, **_: Any) -> Any:
    """The mask that generation makes ahead of a pass: the padding as it is, since the pass makes its own."""
    return padding_of(attention_mask)


def _attention_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What transformers calls as the attention implementation "selfextend". Its contract: see `AttentionInterface`."""
    layer = vars(module).get(ATTRIBUTE)
    if layer is None or layer.kind != "extended":
        return _kept_attention(module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs)
    output, weights = _layer_under_way().attention(
        query,
        key,
        value,
        scaling=query.shape[-1] ** -0.5 if scaling is None else scaling,
        softcap=kwargs.get("softcap"),
        sinks=kwargs.get("s_aux"),
        mask=attention_mask if isinstance(attention_mask, DeferredMask) and not attention_mask.is_causal else None,
        dropout=dropout,
        want_weights=_wants_weights(module, kwargs),
    )
    return output.transpose(1, 2).contiguous(), weights


def _wants_weights(module: Any, arguments: dict[str, Any]) -> bool:
    """Whether attention weights were asked for, in the call or in the configuration."""
    return bool(arguments.get("output_attentions") or getattr(module.config, "output_attentions", False))


def _kept_attention(module: Any, query: Any, key: Any, value: Any, mask: Any, **arguments: Any) -> Any:
    """The attention that a layer would have without SelfExtend; weights, where they are asked for."""
    implementation = vars(module.config)[KEPT]
    if _wants_weights(module, arguments):
        implementation = "eager"
    eager: Any = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    original = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager)
    if isinstance(mask, DeferredMask):
        mask = mask.made(implementation)
    return original(module, query, key, value, mask, **arguments)


AttentionInterface.register(IMPLEMENTATION, _attention_forward)
AttentionMaskInterface.register(IMPLEMENTATION, cast(Any, deferred_mask))
