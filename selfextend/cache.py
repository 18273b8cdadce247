"""The key-value cache that makes SelfExtend cost what the vanilla model costs.

Each extended layer keeps its keys rotated at their grouped positions, for all tokens, and at their exact positions
for the last w_n tokens only: every key is rotated once, when it is written. Buffers grow by an eighth at a time.
Knows nothing about models: how to rotate is told by `selfextend.plugin` before each forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from selfextend.config import SelfExtendConfig

RotateKeys = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""New keys (batch, kv_heads, q, head_dim), unrotated -> the same at exact and at grouped positions."""

TurnToExact = Callable[[torch.Tensor, int], torch.Tensor]
"""Keys at grouped positions, and the index of the first -> the same keys at their exact positions."""


class GrowingStates:
    """States along dimension 2 of a buffer that is larger than it need be by at most an eighth."""

    def __init__(self) -> None:
        self._buffer: torch.Tensor | None = None
        self.length = 0

    @property
    def states(self) -> torch.Tensor:
        """(batch, heads, length, head_dim), a view."""
        assert self._buffer is not None
        return self._buffer[:, :, : self.length]

    @property
    def nbytes(self) -> int:
        return 0 if self._buffer is None else self._buffer.nbytes

    def append(self, states: torch.Tensor, reserve: int = 0) -> None:
        """Add states (batch, heads, q, head_dim); `reserve` is a length known to be coming."""
        needed = self.length + states.shape[2]
        if self._buffer is None or needed > self._buffer.shape[2]:
            capacity = max(needed, reserve, self.length + self.length // 8)
            grown = states.new_empty(*states.shape[:2], capacity, states.shape[3])
            if self._buffer is not None:
                grown[:, :, : self.length] = self.states
            self._buffer = grown
        self._buffer[:, :, self.length : needed] = states
        self.length = needed

    def keep(self, states: torch.Tensor) -> None:
        """Hold just these."""
        self._buffer, self.length = states, states.shape[2]


class SelfExtendLayer(CacheLayerMixin):
    """One extended layer: grouped keys and values of all tokens, exact keys of the last w_n.

    `keys`, (batch, kv_heads, t, head_dim), are rotated at grouped positions.
    """

    is_croppable = True
    is_sliding = False

    def __init__(self, neighbor_window: int) -> None:
        super().__init__()
        self.neighbor_window = neighbor_window
        self.reserved = 0
        self.rotate: RotateKeys | None = None
        self.turn_to_exact: TurnToExact | None = None
        self._clear()

    def _clear(self) -> None:
        self._grouped, self._values, self._exact = GrowingStates(), GrowingStates(), GrowingStates()
        self._recent: torch.Tensor | None = None
        self.keys = self.values = None
        self.is_initialized = False

    @property
    def nbytes(self) -> int:
        return self._grouped.nbytes + self._values.nbytes + self._exact.nbytes

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Rotate and keep new keys and their values, (batch, kv_heads, q, head_dim), unrotated.

        Returns:
            All keys at grouped positions and all values. The exact keys are waiting in `take_exact`.

        Raises:
            RuntimeError: called outside a forward pass of a model that SelfExtend is enabled on.
        """
        if self.rotate is None:
            raise RuntimeError(
                "This cache holds keys for SelfExtend; it works only inside a model that SelfExtend is enabled on. "
                "Enable it again with the settings the cache was made with, or start with a new cache."
            )
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        exact, grouped = self.rotate(key_states)
        past = self._exact_past()
        self._grouped.append(grouped, self.reserved)
        self._values.append(value_states, self.reserved)
        self._keep_exact(past, exact)
        self.keys, self.values = self._grouped.states, self._values.states
        return self.keys, self.values

    def take_exact(self) -> torch.Tensor:
        """The exact keys that the queries of the last update need: of the last min(t, w_n + q - 1) tokens or more.

        Handed out once, so that a long prefill's exact keys do not outlive its attention.
        """
        recent, self._recent = self._recent, None
        assert recent is not None
        return recent

    def _exact_past(self) -> torch.Tensor | None:
        """Exact keys of the last w_n - 1 tokens before this update, rebuilt where a crop took them away."""
        past, needed = self._grouped.length, min(self._grouped.length, self.neighbor_window - 1)
        missing = needed - self._exact.length
        if missing > 0:
            assert self.turn_to_exact is not None
            start = past - needed
            older = self.turn_to_exact(self._grouped.states[:, :, start : start + missing], start)
            held = [self._exact.states] if self._exact.length else []
            self._exact.keep(torch.cat([older, *held], dim=2))
        return self._exact.states if self._exact.length else None

    def _keep_exact(self, past: torch.Tensor | None, exact: torch.Tensor) -> None:
        window = self.neighbor_window
        if exact.shape[2] == 1:  # decoding: append in place, and start over at the front when the slack is used up
            if self._exact.length >= window + window // 8:
                self._exact.keep(self._exact.states[:, :, -window:].clone())
            self._exact.append(exact, reserve=min(window, self._exact.length) + window // 8)
            self._recent = self._exact.states[:, :, -window:]
            return
        self._recent = exact if past is None else torch.cat((past, exact), dim=2)
        self._exact.keep(self._recent[:, :, -window:].clone())

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        return self._grouped.length

    def get_max_length(self) -> int:
        return -1

    def crop(self, tokens_to_remove: int) -> None:
        """Drop the last tokens; as in transformers, their number is given as a negative integer."""
        if tokens_to_remove > 0:
            raise ValueError(f"Give the number of tokens to remove as a negative integer: {-tokens_to_remove}.")
        removed = min(-tokens_to_remove, self._grouped.length)
        if removed == 0:
            return
        for states in (self._grouped, self._values):
            states.length -= removed
        self._exact.length = max(0, self._exact.length - removed)
        self.keys, self.values = self._grouped.states, self._values.states

    def reset(self) -> None:
        self._clear()

    def offload(self) -> None:
        """Kept where it is: an offloaded run takes transformers' own cache."""

    def prefetch(self) -> None:
        """See `offload`."""

    def _select(self, choose: Callable[[torch.Tensor], torch.Tensor]) -> None:
        if not self.is_initialized:
            return
        for states in (self._grouped, self._values, self._exact):
            if states.length:
                states.keep(choose(states.states))
        self.keys, self.values = self._grouped.states, self._values.states

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        self._select(lambda states: states.index_select(0, beam_idx.to(states.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        self._select(lambda states: states.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        self._select(lambda states: states[indices])


class SelfExtendCache(Cache):
    """A transformers cache for a model with SelfExtend enabled. Made by the enabled model; rarely by hand.

    It belongs to one model, its tokens and one configuration: with another group size or window every layer above
    the first holds something else, so it cannot be carried over.

    Args:
        config: the settings that its keys are rotated for.
        layers: one cache layer for each layer of the model; extended ones are `SelfExtendLayer`.
    """

    def __init__(self, config: SelfExtendConfig, layers: Sequence[Any]) -> None:
        super().__init__(layers=list(layers))
        self.config = config
        self.reserved = 0

    @property
    def nbytes(self) -> int:
        """Bytes held, slack included."""
        return cache_nbytes(self)

    def reserve(self, length: int) -> None:
        """Say how many tokens are coming: chunked prefill then allocates once and without slack, and RoPE types whose
        frequencies depend on the length take those of the whole text from the first chunk on."""
        self.reserved = length
        for layer in self.layers:
            if isinstance(layer, SelfExtendLayer):
                layer.reserved = length


def cache_nbytes(cache: Cache) -> int:
    """Bytes that any transformers cache holds, slack included."""
    total = 0
    for layer in cache.layers:
        if isinstance(layer, SelfExtendLayer):
            total += layer.nbytes
        else:
            states = (getattr(layer, "keys", None), getattr(layer, "values", None))
            total += sum(tensor.nbytes for tensor in states if isinstance(tensor, torch.Tensor))
    return total
