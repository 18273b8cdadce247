"""Texts that begin alike: their `Beginning` is read, and held, once, and each goes on from it as a `Continuation`.

All of it is used by whoever has the model (`selfextend.reading.exclusively`); only what says so may be called by others
meanwhile.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import Cache

from selfextend.cache import SelfExtendCache, cache_nbytes
from selfextend.layer_states import LayerEnd, States, behind, filled, put_behind, states_nbytes
from selfextend.prefix import PrefixCache, shared_prefix
from selfextend.reader import Reader


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
        self._end: list[LayerEnd] = []

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
            self.set_aside()
            self._behind = continuation
            continuation.put_back(self.cache, self.tokens[: self.read])
        return self.cache

    def set_aside(self) -> None:
        """Have nothing stand behind this beginning."""
        if self._behind is not None:
            self._behind.set_aside(self.read)
        self.go_back()

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
            self._end = [LayerEnd(layer, self.read) for layer in self.cache.layers]

    def _recalled(self, reader: Reader, length: int) -> Cache:
        """A cache for texts of `length` tokens, with what was read once, where that was kept and still fits."""
        self.read, self._end = 0, []
        cache = reader.new_cache(length)
        # Of a model that is spread over several devices, each layer wants its states on its own.
        spread = len(getattr(reader.model, "hf_device_map", None) or {}) > 1
        states = None if self._recall is None or spread else self._recall(reader.reads_as)
        if states is None or not filled(cache, states, len(self.tokens), reader):
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
        return states_nbytes(self._aside or ())

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
            self._aside = [behind(layer, start) for layer in self.cache.layers]
        self.cache = None

    def lent(self) -> list[Any] | None:
        """What was read behind the beginning, layer by layer, and not held here any more until `take_back`; None where
        there is nothing, or it is no tensors."""
        if self.cache is not None:
            self.beginning.set_aside()
        states, self._aside = self._aside, None
        return states

    def take_back(self, states: list[Any]) -> None:
        """Hold again what was lent, and what was read on from it."""
        self._aside = states

    def put_back(self, cache: Cache, beginning: list[int]) -> None:
        """Read on from a cache that ends with the beginning: what was set aside goes behind it."""
        aside, self._aside, self.cache = self._aside, None, cache
        if aside is None or self.tokens[: len(beginning)] != beginning or not self.beginning.is_read:
            self.tokens = beginning
            return
        for layer, states in zip(cache.layers, aside, strict=True):
            if isinstance(states, list):
                put_behind(layer, states)
            else:
                vars(layer).update(vars(copy.deepcopy(states)))
