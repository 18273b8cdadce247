"""What the model has read for everybody, under one limit of bytes: the least recently used is let go of first."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from .kept_readings import KeptReadings

if TYPE_CHECKING:
    from selfextend.beginning import Beginning, Continuation
    from selfextend.layer_states import States
    from selfextend.reading import PrefixCache

T = TypeVar("T", bound="PrefixCache | Beginning")


class CacheStore:
    """Everybody's `PrefixCache`s, and the `Beginning`s that they go on from, by key, under a limit of bytes. Safe to
    use from several threads.

    Attributes:
        limit_bytes: what they may hold together.
        kept: where beginnings outlive the process, or None.
        share: whether visitors go on from the same beginning where they ask about the same documents in the same way.
    """

    def __init__(self, limit_bytes: int, kept: KeptReadings | None = None, *, share: bool = False) -> None:
        self.limit_bytes, self.kept, self.share = limit_bytes, kept, share
        self._caches: OrderedDict[Hashable, PrefixCache | Beginning] = OrderedDict()
        self._in_use: Counter[int] = Counter()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> PrefixCache:
        """The cache of this key, a new empty one the first time. It becomes the most recently used."""
        from selfextend.reading import PrefixCache

        with self._lock:
            return self._touched(key, PrefixCache, lambda found: isinstance(found, PrefixCache))

    def beginning(
        self, key: Hashable, tokens: Sequence[int], recall: Callable[[Any], States | None] | None
    ) -> Beginning:
        """The beginning of this key, a new one the first time and where it had other tokens. It becomes the most
        recently used.

        Args:
            recall: as a `Beginning` takes it.
        """
        from selfextend.beginning import Beginning

        def fits(found: object) -> bool:
            return isinstance(found, Beginning) and found.tokens == tokens

        with self._lock:
            return self._touched(key, lambda: Beginning(tokens, recall), fits)

    def continuation(self, key: Hashable, beginning: Beginning) -> Continuation:
        """What was read from the beginning on under this key. It becomes the most recently used."""
        from selfextend.beginning import Continuation

        def fits(found: object) -> bool:
            return isinstance(found, Continuation) and found.beginning is beginning

        with self._lock:
            return self._touched(key, lambda: Continuation(beginning), fits)

    def _touched(self, key: Hashable, new: Callable[[], T], fits: Callable[[object], bool]) -> T:
        """What is held under a key and fits, or something new in its place."""
        found: Any = self._caches.get(key)
        if found is None or not fits(found):
            if found is not None and not self._in_use[id(found)]:
                found.clear()
            found = self._caches[key] = new()
        self._caches.move_to_end(key)
        return found

    def held(self, key: Hashable) -> PrefixCache | Beginning | None:
        """What is held under this key, if anything is. It becomes the most recently used."""
        with self._lock:
            if key in self._caches:
                self._caches.move_to_end(key)
            return self._caches.get(key)

    def let_go(self, unwanted: Callable[[Hashable], bool]) -> None:
        """Let go of what is held under the keys that are not wanted any more. What is in use goes with who uses it."""
        with self._lock:
            for key in list(filter(unwanted, self._caches)):
                cache = self._caches.pop(key)
                if not self._in_use[id(cache)]:
                    cache.clear()

    @contextmanager
    def using(self, *used: PrefixCache | Beginning) -> Iterator[None]:
        """Sees to it that these are not let go of inside a `with` block."""
        with self._lock:
            self._in_use.update(map(id, used))
        try:
            yield
        finally:
            with self._lock:
                self._in_use.subtract(map(id, used))
                self._in_use += Counter()  # drops what is used no longer

    def make_room(self, wanted_bytes: int) -> None:
        """Let go of the least recently used until what is left and `wanted_bytes` fit the limit together.

        What is in use stays, and so does the one used last, whatever its size, since it is what the bytes are wanted
        for.
        """
        with self._lock:
            newest = next(reversed(self._caches.values()), None)
            needed = max(wanted_bytes - (newest.text_nbytes if newest else 0), 0)
            for key, cache in list(self._caches.items()):
                if self._held() + needed <= self.limit_bytes:
                    break
                if cache is not newest and not self._in_use[id(cache)]:
                    del self._caches[key]
                    cache.clear()

    def clear(self) -> None:
        """Let go of all of them: the model they were read with is gone."""
        self.let_go(lambda _: True)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        with self._lock:
            return self._held()

    def _held(self) -> int:
        return sum(cache.nbytes for cache in self._caches.values())
