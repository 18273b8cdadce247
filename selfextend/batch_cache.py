"""The cache of several texts that go on from one beginning, each read on by one token in one forward pass.

The beginning's keys and values are held once. What each text goes on with stands beside it, one row a text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from selfextend.attention.shared_prefix import BandSeen, bands_seen, shared_prefix_attention
from selfextend.cache import SelfExtendCache, SelfExtendLayer, current

_SLACK = 64
"""Tokens that rows may grow by before they are copied."""


class BatchLayer(CacheLayerMixin):
    """One extended layer: the beginning as the layer that read it holds it, and each row's own states."""

    is_sliding = False

    def __init__(self, layer: SelfExtendLayer, lengths: list[int]) -> None:
        """Args:
        layer: ends with the beginning. It stays as it is, and has to, for as long as this is used.
        lengths: own tokens of each row, kept by the cache.
        """
        super().__init__()
        assert layer.keys is not None
        assert layer.values is not None
        self.ends, self.lengths = layer.ends, lengths
        self._keys, self._values = [*layer.nearer_keys(), layer.keys], layer.values
        # Each (rows, kv_heads, room, head_dim): the last band's keys, the values, and each nearer band's keys.
        empty = layer.values.new_empty(0, layer.values.shape[1], 0, layer.values.shape[3])
        self._own = [empty for _ in range(2 + len(self.ends))]
        self.is_initialized = True

    @property
    def room(self) -> int:
        """Own tokens that a row has room for."""
        return self._own[0].shape[2]

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing: it begins with what the layer holds."""

    def add(self, states: Sequence[torch.Tensor]) -> None:
        """Add a row, from what `SelfExtendLayer.states_from` gave."""
        self._make_room(states[0].shape[2] + 1)
        self._own = [
            torch.cat((own, self._padded(new, states[0].shape[2]))) for own, new in zip(self._own, states, strict=True)
        ]

    def _padded(self, states: torch.Tensor, length: int) -> torch.Tensor:
        """The states of the last ones of `length` tokens, with zeros before and after them."""
        return torch.nn.functional.pad(states, (0, 0, length - states.shape[2], self.room - length))

    def _make_room(self, length: int) -> None:
        if self.room < length:
            more = length + _SLACK - self.room
            self._own = [torch.nn.functional.pad(states, (0, 0, 0, more)) for states in self._own]

    def take(self, row: int) -> list[torch.Tensor]:
        """Take a row out. What it holds, as `SelfExtendLayer.states_from` gives it."""
        length = self.lengths[row]
        firsts = [0, 0, *(max(0, length - end) for end in self.ends)]
        taken = [own[row : row + 1, :, first:length].clone() for own, first in zip(self._own, firsts, strict=True)]
        self._own = [torch.cat((own[:row], own[row + 1 :])) for own in self._own]
        return taken

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Rotate and keep each row's new key and its value, (rows, kv_heads, 1, head_dim), unrotated.

        Returns:
            The new keys at the last band's positions and the new values: the rest is for `attention`.
        """
        under_way = current.get()
        writer = under_way.layer if under_way is not None else None
        assert writer is not None
        *near, far = writer.rotated_keys(key_states)
        self._make_room(max(self.lengths) + 1)
        rows, places = torch.arange(len(self.lengths)), torch.tensor(self.lengths)
        for own, new in zip(self._own, (far, value_states, *near), strict=True):
            own[rows, :, places] = new[:, :, 0].to(own.dtype)
        writer.near_keys = near
        return far, value_states

    def attention(self, queries: Sequence[torch.Tensor], seen: Sequence[BandSeen], **options: Any) -> torch.Tensor:
        """Attention of each row's new token, (rows, heads, 1, head_dim). `seen` and `options` are those of
        `selfextend.attention.shared_prefix.shared_prefix_attention`."""
        far, values, *near = self._own
        return shared_prefix_attention(queries, self._keys, self._values, [*near, far], values, seen, **options)

    def nearer_keys(self, row: int) -> list[torch.Tensor]:
        """Each nearer band's keys as a row's next token sees them, (1, kv_heads, n, head_dim), copied."""
        length = self.lengths[row] + 1
        found = []
        for end, shared, own in zip(self.ends, self._keys, self._own[2:], strict=False):
            before = min(shared.shape[2], max(0, end - length))
            keys = own[row : row + 1, :, max(0, length - end) : length]
            found.append(torch.cat((shared[:, :, shared.shape[2] - before :], keys), dim=2))
        return found

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        return self._values.shape[2] + max(self.lengths, default=0)

    def get_max_length(self) -> int:
        return -1

    def offload(self) -> None:
        """Kept where it is."""

    def prefetch(self) -> None:
        """See `offload`."""


class BatchCache(Cache):
    """Made by `selfextend.batching.Batch`.

    Attributes:
        beginning: tokens that all texts begin with.
        lengths: for each row, its own tokens after them.
        observers: for each row, the `selfextend.forward.TokenObserver` that sees its states, or None.
    """

    def __init__(self, cache: SelfExtendCache, beginning: int) -> None:
        """Args:
        cache: holds the beginning and no more, in extended layers alone.
        """
        self.beginning, self.lengths, self.observers = beginning, list[int](), list[Any]()
        layers: Any = cache.layers
        super().__init__(layers=[BatchLayer(layer, self.lengths) for layer in layers])
        self._seen: list[BandSeen] = []

    def add(self, states: Sequence[Sequence[torch.Tensor]], length: int, observer: Any = None) -> None:
        """Add a row of `length` own tokens: for each layer, what `SelfExtendLayer.states_from` gave."""
        for layer, held in zip(self._held, states, strict=True):
            layer.add(held)
        self.lengths.append(length)
        self.observers.append(observer)
        self._seen = []

    def take(self, row: int) -> list[list[torch.Tensor]]:
        """Take a row out: for each layer, what `SelfExtendLayer.states_from` would give."""
        states = [layer.take(row) for layer in self._held]
        del self.lengths[row], self.observers[row]
        self._seen = []
        return states

    @property
    def _held(self) -> list[BatchLayer]:
        return cast(list[BatchLayer], self.layers)

    @property
    def next_positions(self) -> list[int]:
        """Where each row's next token stands."""
        return [self.beginning + length for length in self.lengths]

    def grown(self) -> None:
        """Each row's next token was read."""
        self.lengths[:] = [length + 1 for length in self.lengths]
        self._seen = []

    def nearer_keys(self, layer: int, row: int) -> list[torch.Tensor]:
        """Each nearer band's keys as a row's next token sees them, (1, kv_heads, n, head_dim), copied."""
        return self._held[layer].nearer_keys(row)

    def attention(self, layer: int, queries: Sequence[torch.Tensor], **options: Any) -> torch.Tensor:
        """Attention of each row's next token in one layer, (rows, heads, 1, head_dim)."""
        held = self._held[layer]
        if not self._seen:
            lengths = [length + 1 for length in self.lengths]
            self._seen = bands_seen(self.beginning, lengths, held.room, held.ends, queries[0].device)
        return held.attention(queries, self._seen, **options)
