"""The key-value cache that makes SelfExtend cost what the vanilla model costs.

Each extended layer keeps its keys rotated for the furthest band of distances, for all tokens, and for each nearer band
for as many tokens as lie in it: every key is rotated once a band, when it is written. Buffers grow by an eighth at a
time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from types import MethodType
from typing import Any, Protocol

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from selfextend.positions import PositionMap
from selfextend.rows import Content, ReadRow


class KeyWriter(Protocol):
    """The layer of a forward pass that is writing its keys. `near_keys` is where it finds the nearer bands' keys."""

    near_keys: list[torch.Tensor] | None

    def rotated_keys(self, key: torch.Tensor) -> list[torch.Tensor]:
        """New keys (batch, kv_heads, q, head_dim), unrotated -> the same as each band sees them, the last one last."""
        ...

    def moved_keys(self, key: torch.Tensor, start: int, band: int) -> torch.Tensor:
        """Keys as the last band sees them, the first of index `start` -> the same keys as `band` sees them."""
        ...


class Pass(Protocol):
    """A forward pass of a model that SelfExtend is on."""

    @property
    def layer(self) -> KeyWriter | None:
        """The extended layer under way."""
        ...


current: ContextVar[Pass | None] = ContextVar("current", default=None)
"""The forward pass under way. A thread or task has its own."""

_OUTSIDE = (
    "This cache holds keys for SelfExtend; it works only inside a model that SelfExtend is enabled on. Enable it again "
    "with the settings the cache was made with, or start with a new cache."
)


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
    """One extended layer: the last band's keys and the values of all tokens, each nearer band's keys of the last ones.

    `keys`, (batch, kv_heads, t, head_dim), are rotated at the last band's positions.
    """

    is_croppable = True
    is_sliding = False

    def __init__(self, ends: Sequence[int]) -> None:
        """Args:
        ends: where each band but the last ends, in tokens of distance: SelfExtend's neighbor window.
        """
        super().__init__()
        self.ends = tuple(ends)
        self.reserved = 0
        self._clear()

    def _clear(self) -> None:
        self._far, self._values = GrowingStates(), GrowingStates()
        self._near = [GrowingStates() for _ in self.ends]
        self.keys = self.values = None
        self.is_initialized = False

    @property
    def _held(self) -> list[GrowingStates]:
        return [self._far, self._values, *self._near]

    @property
    def nbytes(self) -> int:
        return sum(states.nbytes for states in self._held)

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Rotate and keep new keys and their values, (batch, kv_heads, q, head_dim), unrotated.

        Returns:
            All keys at the last band's positions and all values. The nearer bands' keys go to the writer.

        Raises:
            RuntimeError: called outside a forward pass of a model that SelfExtend is enabled on.
        """
        under_way = current.get()
        writer = under_way.layer if under_way is not None else None
        if writer is None:
            raise RuntimeError(_OUTSIDE)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        *near, far = writer.rotated_keys(key_states)
        past = [self._past(band, writer) for band in range(len(self.ends))]
        self._far.append(far, self.reserved)
        self._values.append(value_states, self.reserved)
        writer.near_keys = [self._keep(band, past[band], keys) for band, keys in enumerate(near)]
        self.keys, self.values = self._far.states, self._values.states
        return self.keys, self.values

    def _past(self, band: int, writer: KeyWriter) -> torch.Tensor | None:
        """A nearer band's keys of the last tokens before this update, rebuilt where a crop took them away."""
        held, past = self._near[band], self._far.length
        needed = min(past, self.ends[band] - 1)
        missing = needed - held.length
        if missing > 0:
            start = past - needed
            older = writer.moved_keys(self._far.states[:, :, start : start + missing], start, band)
            held.keep(torch.cat([older, *([held.states] if held.length else [])], dim=2))
        return held.states if held.length else None

    def _keep(self, band: int, past: torch.Tensor | None, keys: torch.Tensor) -> torch.Tensor:
        """Keep a nearer band's new keys.

        Returns:
            The keys that the new queries need: of the last min(t, end + q - 1) tokens or more.
        """
        held, window = self._near[band], self.ends[band]
        if keys.shape[2] == 1:  # decoding: append in place, and start over at the front when the slack is used up
            if held.length >= window + window // 8:
                held.keep(held.states[:, :, -window:].clone())
            held.append(keys, reserve=min(window, held.length) + window // 8)
            return held.states[:, :, -window:]
        recent = keys if past is None else torch.cat((past, keys), dim=2)
        held.keep(recent[:, :, -window:].clone())
        return recent

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        return self._far.length

    def get_max_length(self) -> int:
        return -1

    def crop(self, tokens_to_remove: int) -> None:
        """Drop the last tokens; as in transformers, their number is given as a negative integer."""
        if tokens_to_remove > 0:
            raise ValueError(f"Give the number of tokens to remove as a negative integer: {-tokens_to_remove}.")
        removed = min(-tokens_to_remove, self._far.length)
        if removed == 0:
            return
        for states in self._held:
            states.length = max(0, states.length - removed)
        self.keys, self.values = self._far.states, self._values.states

    def reset(self) -> None:
        self._clear()

    def nearer_keys(self) -> list[torch.Tensor]:
        """Each nearer band's keys, (batch, kv_heads, n, head_dim) of the last n tokens, copied."""
        return [held.states[:, :, -end:].clone() for held, end in zip(self._near, self.ends, strict=True)]

    def states_from(self, start: int) -> list[torch.Tensor]:
        """What this layer holds of the tokens from index `start` on, copied: the last band's keys, the values, and each
        nearer band's keys, of fewer tokens where it holds fewer."""
        count = self._far.length - start
        return [
            *(held.states[:, :, start:].clone() for held in (self._far, self._values)),
            *(held.states[:, :, max(0, held.length - count) :].clone() for held in self._near),
        ]

    def cut(self, length: int, nearer_keys: Sequence[torch.Tensor]) -> None:
        """Go back to the first `length` tokens, after which `nearer_keys` was called."""
        self._far.length = self._values.length = length
        for held, keys in zip(self._near, nearer_keys, strict=True):
            held.keep(keys)
        self.keys, self.values = self._far.states, self._values.states

    def put_back(self, states: Sequence[torch.Tensor]) -> None:
        """Hold again what `states_from` gave, from where this layer ends now."""
        far, values, *near = states
        self._far.append(far)
        self._values.append(values)
        for held, end, keys in zip(self._near, self.ends, near, strict=True):
            # Keys that were cropped away leave a gap behind those of before, so these are kept alone.
            joined = torch.cat((held.states, keys), dim=2) if keys.shape[2] == far.shape[2] else keys
            held.keep(joined[:, :, -end:].clone())
        self.keys, self.values = self._far.states, self._values.states

    def fill(self, far: torch.Tensor, values: torch.Tensor, near: Sequence[torch.Tensor]) -> None:
        """Hold these states, (batch, kv_heads, n, head_dim), in the place of what it held."""
        self._clear()
        self.lazy_initialization(far, values)
        self._far.append(far, self.reserved)
        self._values.append(values, self.reserved)
        for held, keys in zip(self._near, near, strict=True):
            held.keep(keys)
        self.keys, self.values = self._far.states, self._values.states

    def offload(self) -> None:
        """Kept where it is: an offloaded run takes transformers' own cache."""

    def prefetch(self) -> None:
        """See `offload`."""

    def _select(self, choose: Callable[[torch.Tensor], torch.Tensor]) -> None:
        if not self.is_initialized:
            return
        for states in self._held:
            if states.length:
                states.keep(choose(states.states))
        self.keys, self.values = self._far.states, self._values.states

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        self._select(lambda states: states.index_select(0, beam_idx.to(states.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        self._select(lambda states: states.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        self._select(lambda states: states[indices])


_CHOOSE_ROWS = ("reorder_cache", "batch_repeat_interleave", "batch_select_indices")
"""The methods of a transformers cache by which its rows are chosen."""


def _with_content(name: str) -> Callable[..., None]:
    """A method that chooses rows of a cache, of ours or of another class, with what the cache stands for following."""

    def method(self: Cache, *args: Any, **kwargs: Any) -> None:
        getattr(Cache if isinstance(self, SelfExtendCache) else type(self), name)(self, *args, **kwargs)
        content: Content | None = vars(self).get("_content")
        if content is not None:
            (chosen,) = (*args, *kwargs.values())
            rows = torch.arange(len(content.rows))
            if name == "batch_repeat_interleave":
                rows = rows.repeat_interleave(chosen)
            else:
                rows = rows[chosen.cpu() if isinstance(chosen, torch.Tensor) else chosen]
            vars(self)["_content"] = content.of_rows(rows.tolist())

    return method


class SelfExtendCache(Cache):
    """A transformers cache for a model with SelfExtend enabled. Made by the enabled model; rarely by hand.

    It belongs to one model, its tokens and one position map: with another group size or window every layer above the
    first holds something else, so it cannot be carried over.

    Args:
        positions: what its keys are rotated for.
        layers: one cache layer for each layer of the model; extended ones are `SelfExtendLayer`, or keep unrotated
            keys where the model changes them behind its cache.
    """

    def __init__(self, positions: PositionMap, layers: Sequence[Any]) -> None:
        super().__init__(layers=list(layers))
        self.positions = positions
        self.reserved = 0

    reorder_cache, batch_repeat_interleave, batch_select_indices = map(_with_content, _CHOOSE_ROWS)

    def stands_for(self, positions: PositionMap) -> None:
        """Take what was put into the layers for one row of text from its beginning, read with these positions."""
        vars(self)["_content"] = Content(positions, [ReadRow(0, 0, 0)])

    def reserve(self, length: int) -> None:
        """Say how many tokens are coming: chunked prefill then allocates once and without slack, and RoPE types whose
        frequencies depend on the length take those of the whole text from the first chunk on."""
        self.reserved = length
        for layer in self.layers:
            if isinstance(layer, SelfExtendLayer):
                layer.reserved = length


def content_of(cache: Cache, past: int, positions: PositionMap) -> Content | None:
    """What the cache's `past` tokens stand for, None where it is empty, to go on from with these positions.

    Raises:
        ValueError: the cache was filled with other settings, or without SelfExtend.
    """
    held: Content | None = vars(cache).get("_content")
    filled_with = getattr(cache, "positions", None) if held is None or past == 0 else held.positions
    if filled_with is not None and filled_with != positions:
        raise ValueError(
            f"This cache was filled with {filled_with}, but the model now runs with {positions}. Start with a new "
            "cache: with other settings every layer above the first computes something else."
        )
    if past and held is None:
        raise ValueError(
            f"This cache holds {past} tokens that were not read with SelfExtend on (a cache filled before, or a "
            "learned prefix): their keys are rotated already, so far ones cannot be moved. Start with a new cache."
        )
    return held if past else None


def keep_content(cache: Cache, content: Content) -> None:
    """Remember what a cache stands for."""
    vars(cache)["_content"] = content
    if not isinstance(cache, SelfExtendCache):
        vars(cache)["update"] = MethodType(_update_inside_a_pass, cache)
        for name in _CHOOSE_ROWS:
            vars(cache)[name] = MethodType(getattr(SelfExtendCache, name), cache)


def _update_inside_a_pass(self: Cache, *args: Any, **kwargs: Any) -> Any:
    """`update` of a cache that holds unrotated keys, which mean nothing to the model without SelfExtend."""
    if current.get() is None:
        raise RuntimeError(_OUTSIDE)
    return type(self).update(self, *args, **kwargs)


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
