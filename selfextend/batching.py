"""Reading several texts that go on from one `Beginning` by a token each, in one forward pass.

A batch takes what the texts have read behind the beginning, and gives it back when they leave. Used by whoever has the
model (`selfextend.reading.exclusively`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from selfextend.batch_cache import BatchCache
from selfextend.beginning import Beginning, Continuation
from selfextend.cache import SelfExtendCache, SelfExtendLayer
from selfextend.observing import TokenObserver
from selfextend.plugin import active_extension
from selfextend.reader import Reader


class Batch:
    """Texts that are read by a token each at a time."""

    def __init__(self, beginning: Beginning, reader: Reader) -> None:
        """Args:
        beginning: what all of them begin with. See `can_be_batched`.
        """
        beginning.set_aside()
        assert isinstance(beginning.cache, SelfExtendCache)
        self._texts: list[Continuation] = []
        self._beginning, self._reader = beginning, reader
        self._cache = BatchCache(beginning.cache, beginning.read)

    def add(self, text: Continuation, observer: TokenObserver | None = None) -> bool:
        """Take a text in. Returns whether that could be done; if not, it has to be read alone.

        Args:
            observer: sees the text's rotated states; a `selfextend.recording.AttentionRecorder`, say.
        """
        own = len(text.tokens) - self._beginning.read
        states = text.lent()
        if states is None:
            return False
        if not all(_is_whole(held, own, layer) for held, layer in zip(states, self._cache.layers, strict=True)):
            text.take_back(states)
            return False
        self._cache.add(states, own, observer)
        self._texts.append(text)
        return True

    def remove(self, text: Continuation) -> None:
        """Let a text go, with all that was read of it."""
        row = self._texts.index(text)
        text.take_back(self._cache.take(row))
        self._texts[row] = self._texts[-1]  # as the cache has it
        self._texts.pop()

    def read(self, tokens: Mapping[Continuation, int]) -> dict[Continuation, torch.Tensor]:
        """Read every text on by a token. The logits of each, (1, vocabulary). Where that fails, no text was read on."""
        rows = torch.tensor([[tokens[text]] for text in self._texts], device=self._reader.device)
        logits = self._reader.forward(rows, self._cache)[:, 0]
        self._cache.grown()
        for text in self._texts:
            text.tokens = [*text.tokens, tokens[text]]
        return dict(zip(self._texts, logits.split(1), strict=True))


def can_be_batched(beginning: Beginning, reader: Reader) -> bool:
    """Whether texts that go on from this beginning can be read in a batch: all of the model's layers are extended ones
    that rotate keys when they are written, whatever a text's length is, on one device."""
    extension, cache = active_extension(reader.model), beginning.cache
    if extension is None or not isinstance(cache, SelfExtendCache) or not beginning.is_read:
        return False
    held: Any = cache.layers
    rotaries = [layer.rotary for layer in extension.anatomy.layers if layer.rotary is not None]
    if beginning.reads_as != reader.reads_as or any(rotary.follows_length for rotary in rotaries):
        return False
    return all(map(_fits, held)) and len({layer.keys.device for layer in held}) == 1


def _fits(layer: Any) -> bool:
    if not isinstance(layer, SelfExtendLayer) or layer.keys is None or layer.values is None:
        return False
    return layer.keys.shape[-1] == layer.values.shape[-1]


def _is_whole(states: Any, length: int, layer: Any) -> bool:
    """Whether these are a text's own states of so many tokens, with all nearer keys that are still to be seen."""
    if length < 1 or not isinstance(states, list) or len(states) != 2 + len(layer.ends):
        return False
    needed = [length, length, *(min(length, end - 1) for end in layer.ends)]
    return all(held.shape[2] >= count for held, count in zip(states, needed, strict=True))
