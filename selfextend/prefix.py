"""What a model has read of a text, to be read on from.

All of it is used by whoever has the model (`selfextend.reading.exclusively`); only what says so may be called by others
meanwhile.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import Cache

from selfextend.cache import SelfExtendCache, cache_nbytes
from selfextend.midway import put_back
from selfextend.reader import Reader
from selfextend.steps import EndNow


@dataclass(eq=False)
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
        except EndNow:
            put_back(self.cache, held)
            raise
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
