"""Rotating query and key states at any positions, with the model's own rotary embedding.

RoPE scaling, interleaving and partial rotation all stay the model's: its tables come from its own rotary module
and its own `apply_rotary_pos_emb` turns the states.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

Tables = tuple[torch.Tensor, torch.Tensor]
"""cos and sin, each (batch or 1, length, rotary_dim)."""

_TOKENS_AT_ONCE = 512
"""Tokens that `rotate` turns at a time: few enough that its temporaries stay in a processor's cache."""

ApplyRotary = Callable[..., tuple[torch.Tensor, torch.Tensor]]


def rotate(states: torch.Tensor, tables: Tables, apply_rotary_pos_emb: ApplyRotary) -> torch.Tensor:
    """Rotate states at the positions that the tables were made for.

    Args:
        states: (batch, heads, length, head_dim), unrotated. Only the first rotary_dim of head_dim turn.
        tables: see `Tables`, on the states' device.
        apply_rotary_pos_emb: the function of that name in the model's own modeling file.
    """
    output = torch.empty_like(states)
    cos, sin = tables
    rotary_dim = cos.shape[-1]
    for start in range(0, states.shape[2], _TOKENS_AT_ONCE):
        tokens = slice(start, start + _TOKENS_AT_ONCE)
        turning = states[:, :, tokens, :rotary_dim]
        # The function turns a query and a key together; an empty key costs nothing.
        turned = apply_rotary_pos_emb(turning, turning[:, :0], cos[:, tokens], sin[:, tokens])[0]
        output[:, :, tokens, :rotary_dim] = turned
    if rotary_dim < states.shape[-1]:
        output[..., rotary_dim:] = states[..., rotary_dim:]
    return output


def unrotated(tables: Tables) -> Tables:
    """Tables that leave every state as it is: cos 1, sin 0."""
    cos, sin = tables
    return torch.ones_like(cos), torch.zeros_like(sin)


@dataclass(frozen=True)
class RotaryEmbedding:
    """One rotary embedding of a model, to be evaluated at positions of our choosing.

    Attributes:
        module: a private copy of the model's rotary module, so that dynamic RoPE types keep their state apart.
        layer_type: which of its embeddings, for models that keep one per layer type (Gemma-3), else None.
    """

    module: nn.Module
    layer_type: str | None = None

    def tables(self, like: torch.Tensor, position_ids: torch.Tensor, context_length: int) -> Tables:
        """cos and sin at `position_ids`, in the dtype and on the device of `like`.

        Args:
            position_ids: (batch or 1, length) integers.
            context_length: one more than the largest relative position in use. RoPE types whose frequencies depend
                on the length (dynamic, longrope) choose them by it: what counts is how far the model has to look,
                not how far the grouped text runs.
        """
        self._evaluate(type(self.module).forward, like, position_ids.new_tensor([[context_length - 1]]))
        # Below the decorator that updates the frequencies: they have just been chosen.
        return self._evaluate(inspect.unwrap(type(self.module).forward), like, position_ids)

    @torch.no_grad()
    def _evaluate(self, forward: Callable[..., Tables], like: torch.Tensor, position_ids: torch.Tensor) -> Tables:
        if self.layer_type is None:
            return forward(self.module, like, position_ids)
        return forward(self.module, like, position_ids, self.layer_type)


class RotaryForLength(nn.Module):
    """A rotary module whose frequencies are those for one length, however the text is cut into chunks."""

    def __init__(self, module: nn.Module, length: int) -> None:
        super().__init__()
        self.module = module
        self.length = length

    def forward(self, x: torch.Tensor, position_ids: torch.Tensor, layer_type: str | None = None) -> Tables:
        return RotaryEmbedding(self.module, layer_type).tables(x, position_ids, self.length)


def takes_positions(module: nn.Module) -> bool:
    """Whether this module is a rotary embedding: it turns position_ids and inverse frequencies into tables."""
    parameters = inspect.signature(type(module).forward).parameters
    has_frequencies = any(name.endswith("inv_freq") for name, _ in module.named_buffers(recurse=False))
    return "position_ids" in parameters and has_frequencies


@contextmanager
def kept_state(model: nn.Module) -> Iterator[None]:
    """Put back, afterwards, what a model's rotary embeddings remember: dynamic types keep the longest length seen."""
    saved = [
        (module, _remembered(module), {k: v.clone() for k, v in module._buffers.items() if v is not None})
        for module in model.modules()
        if takes_positions(module)
    ]
    try:
        yield
    finally:
        for module, attributes, buffers in saved:
            for name in _remembered(module).keys() - attributes.keys():
                delattr(module, name)
            vars(module).update(attributes)
            # Not copied into the buffers that are there: the module may have made two of them one.
            for name, buffer in buffers.items():
                module._buffers[name] = buffer.to(module.get_buffer(name))


def _remembered(module: nn.Module) -> dict[str, Any]:
    plain = {name: value for name, value in vars(module).items() if name != "training" and not name.startswith("_")}
    return {name: value for name, value in plain.items() if isinstance(value, (int, float, torch.Tensor))}
