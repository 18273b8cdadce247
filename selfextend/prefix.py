"""What a model has read of a text, to be read on from: `PrefixCache`, and `Continuation` where several texts begin
alike and their `Beginning` is to be read, and held, once.

All of it is used by whoever has the model (`selfextend.reading.exclusively`); only what says so may be called by others
meanwhile.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import Cache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from selfextend.cache import SelfExtendCache, SelfExtendLayer, cache_nbytes
from selfextend.reader import Reader

States = Mapping[str, torch.Tensor]
"""A cache's tensors by name: the number of the layer, a point, and what it is."""


@dataclass
class PrefixCache:
    """What one model has read of a text, to be read on from.

    Attributes:
        tokens: token ids whose keys are in the cache.
        cache: a transformers cache, or None while nothing was read.
        reads_as: the `Reader.reads_as` that it was read with.
        continued: while prompts that go on from here are answered, their keys and values.
        source: what the same model has read of another text, to be copied where it is further; it stays as it is.
    """

    tokens: list[int] = field(default_factory=list)
    cache: Cache | None = None
    reads_as: Any = None
    continued: Cache | None = None
    source: PrefixCache | None = None

    @property
    def nbytes(self) -> int:
        """Bytes that it holds itself. May be called at any time."""
        return sum(cache_nbytes(cache) for cache in (self.cache, self.continued) if cache is not None)

    @property
    def text_nbytes(self) -> int:
        """Bytes of all that was read, what is shared with others too. May be called at any time."""
        return self.nbytes

    def known(self, tokens: Sequence[int]) -> int:
        """How many of a text's first tokens need not be read again. May be called at any time."""
        return shared_prefix(self.tokens, tokens)

    @property
    def tokens_read(self) -> int:
        """How many tokens are read. May be called at any time."""
        return len(self.tokens)

    def clear(self) -> None:
        """Forget what it holds itself."""
        self.tokens, self.cache, self.continued = [], None, None

    def forget(self) -> None:
        """Forget everything that was read."""
        self.clear()

    def chunk(self, tokens: Sequence[int], start: int, size: int) -> Sequence[int]:
        """The next tokens to `read`, from index `start` on: `size` of them at most."""
        return tokens[start : start + size]

    def rewind(self, reader: Reader, tokens: Sequence[int], length: int) -> int:
        """Keep what these tokens share with what was read, and return how many tokens that is.

        Args:
            length: tokens that the whole text will have.
        """
        if self.reads_as != reader.reads_as:
            self.clear()
            self.reads_as = reader.reads_as
        shared = self._copy_source(reader, tokens, length)
        excess = len(self.tokens) - shared
        if excess and self.cache is not None:
            try:
                self.cache.crop(-excess)
                del self.tokens[shared:]
            except (RuntimeError, ValueError):  # a sliding layer has let go of what would be needed again
                self.clear()
        if self.cache is None:
            self.cache = reader.new_cache(length)
        elif isinstance(self.cache, SelfExtendCache):
            self.cache.reserve(length)
        return len(self.tokens)

    def _copy_source(self, reader: Reader, tokens: Sequence[int], length: int) -> int:
        """Take over what `source` has read, if that is more than is shared already. Returns what is shared then."""
        shared, source = shared_prefix(self.tokens, tokens), self.source
        further = 0 if source is None else shared_prefix(source.tokens, tokens)
        if source is None or further <= shared:
            return shared
        whole = source.whole_cache(reader, length)
        if whole is None:
            return shared
        held = source.tokens
        copied = copy.deepcopy(whole)
        if source.tokens is not held or len(held) < further:  # somebody else let go of it meanwhile, to make room
            return shared
        self.tokens, self.cache = list(held), copied
        return shared_prefix(self.tokens, tokens)

    def whole_cache(self, reader: Reader, length: int) -> Cache | None:
        """The cache with all of `tokens` in it; None where this was not read as the reader reads."""
        return self.cache if self.reads_as == reader.reads_as else None

    def read(self, reader: Reader, tokens: Sequence[int], keep: int = 1) -> torch.Tensor:
        """Read tokens on, in one forward pass. Logits of the last `keep` of them, (keep, vocabulary)."""
        assert self.cache is not None
        held = len(self.tokens)
        try:
            logits = reader.forward(torch.tensor([list(tokens)], device=reader.device), self.cache, keep)[0]
        except BaseException:
            self._broken()
            raise
        self.tokens = [*self.tokens[:held], *tokens]
        return logits

    def _broken(self) -> None:
        # Some layers may hold these tokens already; a cache whose layers disagree is not to be read on from.
        self.reads_as = None

    def forked(self, rows: int, length: int) -> Cache:
        """A copy of the cache, for `rows` continuations of up to `length` tokens each."""
        copied = copy.deepcopy(self.cache)
        assert copied is not None
        if rows > 1:
            copied.batch_repeat_interleave(rows)
        if isinstance(copied, SelfExtendCache):
            copied.reserve(length)
        return copied


class Beginning:
    """The beginning of several texts, read and held once for all of them.

    What was read of it never changes. Behind it, in the same cache, stands what one `Continuation` has read; what the
    others have read is set aside meanwhile.

    Attributes:
        tokens: all of it.
        cache: a transformers cache, or None while nothing was read.
        reads_as: the `Reader.reads_as` that it was read with.
        read: how many of the tokens are in the cache.
    """

    def __init__(self, tokens: Sequence[int], recall: Callable[[Any], States | None] | None = None) -> None:
        """Args:
        recall: `Reader.reads_as` -> what `states` gave once, or None; asked where nothing is read yet.
        """
        self.tokens = list(tokens)
        self.cache: Cache | None = None
        self.reads_as: Any = None
        self.read = 0
        self._recall = recall
        self._behind: Continuation | None = None
        self._end: list[_LayerEnd] = []

    @property
    def is_read(self) -> bool:
        """Whether all of it was read. May be called at any time."""
        return self.read == len(self.tokens)

    @property
    def nbytes(self) -> int:
        """Bytes that it holds, and what stands behind it. May be called at any time."""
        cache = self.cache
        return (0 if cache is None else cache_nbytes(cache)) + sum(end.nbytes for end in self._end)

    @property
    def text_nbytes(self) -> int:
        """As a `PrefixCache` has it."""
        return self.nbytes

    @property
    def tokens_read(self) -> int:
        """As a `PrefixCache` has it."""
        return self.read

    def clear(self) -> None:
        """Forget everything that was read."""
        self.cache, self.read, self._end, self._behind = None, 0, [], None

    def hold(self, continuation: Continuation, reader: Reader, length: int) -> Cache:
        """The cache with this beginning, as far as it is read, and what the continuation has read behind it."""
        if self.reads_as != reader.reads_as:
            self.clear()
            self.reads_as = reader.reads_as
        if self.cache is None:
            self.cache = self._recalled(reader, length)
        elif isinstance(self.cache, SelfExtendCache):
            self.cache.reserve(length)
        if self._behind is not continuation:
            if self._behind is not None:
                self._behind.set_aside(self.read)
            self.go_back()
            self._behind = continuation
            continuation.put_back(self.cache, self.tokens[: self.read])
        return self.cache

    def release(self, continuation: Continuation) -> None:
        """What the continuation has read is not wanted any more. May be called at any time."""
        if self._behind is continuation:
            self._behind = None

    def go_back(self) -> None:
        """Let go of what stands behind this beginning."""
        self._behind = None
        if self.cache is not None:
            for layer, end in zip(self.cache.layers, self._end, strict=False):
                end.restore(layer)

    def grown(self, count: int) -> None:
        """So many tokens more were read into the cache."""
        self.read += count
        if self.is_read:
            assert self.cache is not None
            self._end = [_LayerEnd(layer, self.read) for layer in self.cache.layers]

    def _recalled(self, reader: Reader, length: int) -> Cache:
        """A cache for texts of `length` tokens, with what was read once, where that was kept and still fits."""
        self.read, self._end = 0, []
        cache = reader.new_cache(length)
        # Of a model that is spread over several devices, each layer wants its states on its own.
        spread = len(getattr(reader.model, "hf_device_map", None) or {}) > 1
        states = None if self._recall is None or spread else self._recall(reader.reads_as)
        if states is None or not _filled(cache, states, len(self.tokens), reader):
            return cache if states is None else reader.new_cache(length)
        self.cache = cache
        self.grown(len(self.tokens))
        return cache

    def states(self) -> dict[str, torch.Tensor] | None:
        """What is to be kept of this beginning: for each layer its keys and values, views that never change. None where
        it is not all read, or the cache has layers of another kind. May be called at any time."""
        cache, found = self.cache, dict[str, torch.Tensor]()
        if cache is None or not self.is_read or not self._end:
            return None
        for number, (layer, end) in enumerate(zip(cache.layers, self._end, strict=True)):
            states = end.states(layer)
            if states is None:
                return None
            found |= {f"{number}.{name}": tensor for name, tensor in states.items()}
        return found


class Continuation(PrefixCache):
    """What one model has read of a text that goes on from a `Beginning`.

    Attributes:
        beginning: the text's; every text that this reads begins with it.
    """

    def __init__(self, beginning: Beginning) -> None:
        super().__init__(tokens=beginning.tokens[: beginning.read])
        self.beginning = beginning
        self._aside: list[Any] | None = None

    @property
    def nbytes(self) -> int:
        return _nbytes(self._aside or ())

    @property
    def text_nbytes(self) -> int:
        return self.beginning.nbytes + self.nbytes

    def known(self, tokens: Sequence[int]) -> int:
        read = self.beginning.read
        own = self.tokens[read:] if self.beginning.is_read else []
        return read + shared_prefix(own, tokens[read : read + len(own)])

    @property
    def tokens_read(self) -> int:
        return max(len(self.tokens), self.beginning.read)

    def clear(self) -> None:
        self.tokens, self.cache, self._aside = self.beginning.tokens[: self.beginning.read], None, None
        self.beginning.release(self)

    def forget(self) -> None:
        self.beginning.clear()
        self.clear()

    def chunk(self, tokens: Sequence[int], start: int, size: int) -> Sequence[int]:
        end = len(self.beginning.tokens)  # so that what is read to there is the same whatever comes behind it
        return tokens[start : min(start + size, end) if start < end else start + size]

    def rewind(self, reader: Reader, tokens: Sequence[int], length: int) -> int:
        beginning = self.beginning
        if list(tokens[: len(beginning.tokens)]) != beginning.tokens:
            raise ValueError("This text does not begin as the texts do that this was made for.")
        self.cache = beginning.hold(self, reader, length)
        self.reads_as = reader.reads_as
        shared = shared_prefix(self.tokens, tokens)
        excess = len(self.tokens) - shared
        if excess and shared > beginning.read:
            try:
                self.cache.crop(-excess)
                del self.tokens[shared:]
                return shared
            except (RuntimeError, ValueError):  # a sliding layer has let go of what would be needed again
                pass
        if excess:
            self.tokens = self.tokens[: beginning.read]
            beginning.go_back()
            self.cache = beginning.hold(self, reader, length)
        return len(self.tokens)

    def read(self, reader: Reader, tokens: Sequence[int], keep: int = 1) -> torch.Tensor:
        logits = super().read(reader, tokens, keep)
        if not self.beginning.is_read:
            self.beginning.grown(len(tokens))
        return logits

    def whole_cache(self, reader: Reader, length: int) -> Cache | None:
        if self.beginning.reads_as != reader.reads_as:
            return None
        return self.beginning.hold(self, reader, length)

    def _broken(self) -> None:
        if self.beginning.is_read:  # what stands behind it goes; of the beginning itself nothing was touched
            self.beginning.go_back()
            self.clear()
        else:
            self.beginning.reads_as = None

    def set_aside(self, start: int) -> None:
        """Copy what was read behind the beginning's `start` tokens: something else is to stand there."""
        if self.cache is not None and len(self.tokens) > start and self.beginning.is_read:
            self._aside = [_behind(layer, start) for layer in self.cache.layers]
        self.cache = None

    def put_back(self, cache: Cache, beginning: list[int]) -> None:
        """Read on from a cache that ends with the beginning: what was set aside goes behind it."""
        aside, self._aside, self.cache = self._aside, None, cache
        if aside is None or self.tokens[: len(beginning)] != beginning or not self.beginning.is_read:
            self.tokens = beginning
            return
        for layer, states in zip(cache.layers, aside, strict=True):
            if isinstance(states, list):
                _put_behind(layer, states)
            else:
                vars(layer).update(vars(copy.deepcopy(states)))


class _LayerEnd:
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
        return _nbytes([self._nearer, self._copy])

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


def _behind(layer: Any, start: int) -> Any:
    """A copy of what a layer holds from token `start` on: tensors, or the whole layer where it cannot be cut."""
    if isinstance(layer, SelfExtendLayer):
        return layer.states_from(start) if layer.is_initialized else []
    if type(layer) is DynamicLayer:
        states = [layer.keys, layer.values] if layer.is_initialized else []
        return [state[:, :, start:].clone() for state in states if state is not None]
    return copy.deepcopy(layer)


def _put_behind(layer: Any, states: list[torch.Tensor]) -> None:
    """Give back what `_behind` copied, to a layer that ends where that begins."""
    if not states:
        return
    if isinstance(layer, SelfExtendLayer):
        layer.put_back(states)
    else:
        layer.keys = torch.cat((layer.keys, states[0]), dim=2)
        layer.values = torch.cat((layer.values, states[1]), dim=2)


def _filled(cache: Cache, states: States, length: int, reader: Reader) -> bool:
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


def _nbytes(held: Any) -> int:
    """Bytes of the tensors in nested lists, and of the layers among them."""
    if isinstance(held, torch.Tensor):
        return held.nbytes
    if isinstance(held, (list, tuple)):
        return sum(map(_nbytes, held))
    return sum(_nbytes(getattr(held, name, None)) for name in ("keys", "values") if held is not None)


def shared_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens both begin with."""
    for index, (ours, theirs) in enumerate(zip(first, second, strict=False)):
        if ours != theirs:
            return index
    return min(len(first), len(second))


def common_beginning(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts begin with. One token of each is left over, for its logits."""
    shared = shared_prefix(min(prompts, key=tuple), max(prompts, key=tuple))
    return min(shared, min(len(prompt) for prompt in prompts) - 1)
