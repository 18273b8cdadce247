"""What attention is given in a layer, as those see it who look on. See `selfextend.recording`."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch


class AttentionObserver(Protocol):
    """Something that wants to see rotated states as attention gets them."""

    def observe(self, layer: int, states: RotatedStates, options: AttentionOptions, row: int) -> None: ...


class TokenObserver(Protocol):
    """The same for one text of a batch, a token at a time."""

    def observe_token(self, layer: int, token: TokenStates, options: AttentionOptions) -> None: ...


class RotatedStates(NamedTuple):
    """One layer's input to attention, shapes as in `selfextend.attention`."""

    queries: list[torch.Tensor]
    keys: list[torch.Tensor]
    value_states: torch.Tensor


class TokenStates(NamedTuple):
    """One layer's input to attention for one token of a text that is read in a batch.

    Attributes:
        place: of the token in its text, from 0.
        queries: for each band, (1, heads, 1, head_dim).
        keys: its own ones, for each band but the last, (1, kv_heads, 1, head_dim).
        nearer: makes, for each of these bands, the keys of all tokens in it, itself included, (1, kv_heads, n,
            head_dim).
    """

    place: int
    queries: list[torch.Tensor]
    keys: list[torch.Tensor]
    nearer: Callable[[], list[torch.Tensor]]


class AttentionOptions(NamedTuple):
    """How a layer's scores are made: see `selfextend.attention`."""

    ends: tuple[int, ...]
    scaling: float
    softcap: float | None
    sinks: torch.Tensor | None
