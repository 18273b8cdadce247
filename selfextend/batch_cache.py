"""The cache of several texts that go on from one beginning, each read on by one token in one forward pass.

The beginning's keys and values are held once. What each text goes on with stands beside it, a row for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from selfextend.attention.shared_prefix import BandSeen, bands_seen, shared_prefix_attention
from selfextend.cache import SelfExtendCache, SelfExtendLayer, current
from selfextend.observing import AttentionOptions, RotatedStates, TokenObserver, TokenStates

_MORE_TOKENS, _MORE_TEXTS = 64, 4
"""What there is more room for than is needed, so that states are not copied for every token and text."""


class _Rows:
    """Each text's own states: (texts, heads, room, head_dim), in a buffer with room for more texts and tokens."""

    def __init__(self, like: torch.Tensor) -> None:
        self.buffer = like.new_zeros(0, like.shape[1], 0, like.shape[3])

    def make_room(self, rows: int, length: int) -> None:
        held, heads, room, width = self.buffer.shape
        if rows > held or length > room:
            more_rows = held if rows <= held else rows - 1 + _MORE_TEXTS
            grown = self.buffer.new_zeros(more_rows, heads, room if length <= room else length + _MORE_TOKENS, width)
            grown[:held, :, :room] = self.buffer
            self.buffer = grown

    def put(self, row: int, states: torch.Tensor, length: int) -> None:
        """Have a row hold the states (1, heads, n, head_dim) of the last n of `length` tokens."""
        # What a text does not see has to be finite, whatever stood there before.
        self.buffer[row] = 0
        self.buffer[row, :, length - states.shape[2] : length] = states[0]


class BatchLayer(CacheLayerMixin):
    """One extended layer: the beginning as the layer that read it holds it, and each text's own states."""

    is_sliding = False

    def __init__(self, layer: SelfExtendLayer, lengths: list[int]) -> None:
        """Args:
        layer: ends with the beginning. It stays as it is, and has to, for as long as this is used.
        lengths: own tokens of each text, kept by the cache.
        """
        super().__init__()
        assert layer.keys is not None
        assert layer.values is not None
        self.ends, self.lengths = layer.ends, lengths
        self._keys, self._values = [*layer.nearer_keys(), layer.keys], layer.values
        # The last band's keys, the values, and each nearer band's keys.
        self._own = [_Rows(states) for states in (layer.keys, layer.values, *self._keys[:-1])]
        self.is_initialized = True

    @property
    def room(self) -> int:
        """Own tokens that a text has room for."""
        return self._own[0].buffer.shape[2]

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing: it begins with what the layer holds."""

    def add(self, states: Sequence[torch.Tensor]) -> None:
        """Add a text, from what `SelfExtendLayer.states_from` gave."""
        row, length = len(self.lengths), states[0].shape[2]
        for own, held in zip(self._own, states, strict=True):
            own.make_room(row + 1, length + 1)
            own.put(row, held, length)

    def take(self, row: int) -> list[torch.Tensor]:
        """Take a text out; the last one gets its row. What it holds, as `SelfExtendLayer.states_from` gives it."""
        length, last = self.lengths[row], len(self.lengths) - 1
        firsts = [0, 0, *(max(0, length - end) for end in self.ends)]
        taken = [
            own.buffer[row : row + 1, :, first:length].clone() for own, first in zip(self._own, firsts, strict=True)
        ]
        for own in self._own if row != last else []:
            own.buffer[row] = own.buffer[last]
        return taken

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Rotate and keep each text's new key and its value, (texts, kv_heads, 1, head_dim), unrotated.

        Returns:
            The new keys at the last band's positions and the new values: the rest is for `attention`.
        """
        under_way = current.get()
        writer = under_way.layer if under_way is not None else None
        assert writer is not None
        *near, far = writer.rotated_keys(key_states)
        rows, places = torch.arange(len(self.lengths)), torch.tensor(self.lengths)
        for own, new in zip(self._own, (far, value_states, *near), strict=True):
            own.make_room(len(self.lengths), max(self.lengths) + 1)
            own.buffer[rows, :, places] = new[:, :, 0].to(own.buffer.dtype)
        writer.near_keys = near
        return far, value_states

    def attention(self, queries: Sequence[torch.Tensor], seen: Sequence[BandSeen], **options: Any) -> torch.Tensor:
        """Attention of each text's new token, (texts, heads, 1, head_dim). `seen` and `options` are those of
        `selfextend.attention.shared_prefix.shared_prefix_attention`."""
        far, values, *near = (own.buffer[: len(self.lengths)] for own in self._own)
        return shared_prefix_attention(queries, self._keys, self._values, [*near, far], values, seen, **options)

    def nearer_keys(self, row: int) -> list[torch.Tensor]:
        """Each nearer band's keys as a text's next token sees them, (1, kv_heads, n, head_dim), copied."""
        length = self.lengths[row] + 1
        found = []
        for end, shared, own in zip(self.ends, self._keys, self._own[2:], strict=False):
            before = min(shared.shape[2], max(0, end - length))
            keys = own.buffer[row : row + 1, :, max(0, length - end) : length]
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
        lengths: for each text, its own tokens after them.
        observers: for each text, what sees its states, or None.
    """

    def __init__(self, cache: SelfExtendCache, beginning: int) -> None:
        """Args:
        cache: holds the beginning and no more, in extended layers alone.
        """
        self.beginning, self.lengths, self.observers = beginning, list[int](), list[TokenObserver | None]()
        layers: Any = cache.layers
        super().__init__(layers=[BatchLayer(layer, self.lengths) for layer in layers])
        self._seen: list[BandSeen] = []

    def add(self, states: Sequence[Sequence[torch.Tensor]], length: int, observer: TokenObserver | None) -> None:
        """Add a text of `length` own tokens: for each layer, what `SelfExtendLayer.states_from` gave."""
        for layer, held in zip(self._held, states, strict=True):
            layer.add(held)
        self.lengths.append(length)
        self.observers.append(observer)
        self._seen = []

    def take(self, row: int) -> list[list[torch.Tensor]]:
        """Take a text out; the last one gets its row. For each layer, what `SelfExtendLayer.states_from` would give."""
        states = [layer.take(row) for layer in self._held]
        self.lengths[row], self.observers[row] = self.lengths[-1], self.observers[-1]
        del self.lengths[-1], self.observers[-1]
        self._seen = []
        return states

    @property
    def _held(self) -> list[BatchLayer]:
        return cast(list[BatchLayer], self.layers)

    @property
    def next_positions(self) -> list[int]:
        """Where each text's next token stands."""
        return [self.beginning + length for length in self.lengths]

    def grown(self) -> None:
        """Each text's next token was read."""
        self.lengths[:] = [length + 1 for length in self.lengths]
        self._seen = []

    def observe(self, layer: int, states: RotatedStates, options: AttentionOptions) -> None:
        """Show each text's observer its next token."""
        for row, (observer, place) in enumerate(zip(self.observers, self.next_positions, strict=True)):
            if observer is not None:
                queries, keys = (
                    [s[row : row + 1] for s in all_rows] for all_rows in (states.queries, states.keys[:-1])
                )
                token = TokenStates(place, queries, keys, partial(self._held[layer].nearer_keys, row))
                observer.observe_token(layer, token, options)

    def attention(self, layer: int, queries: Sequence[torch.Tensor], **options: Any) -> torch.Tensor:
        """Attention of each text's next token in one layer, (texts, heads, 1, head_dim)."""
        held = self._held[layer]
        if not self._seen:
            lengths = [length + 1 for length in self.lengths]
            self._seen = bands_seen(self.beginning, lengths, held.room, held.ends, queries[0].device)
        return held.attention(queries, self._seen, **options)
