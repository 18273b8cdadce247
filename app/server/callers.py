"""How many calls each program has under way, so that no one of them takes all the places that there are."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

MOST_UNDER_WAY = 3
"""Calls of one caller: one that is answered, and two that wait."""


class TooManyCallsError(RuntimeError):
    """A caller has as many calls under way as it may."""


class Callers:
    """Counts the calls that are under way. Safe to use from several threads."""

    def __init__(self) -> None:
        self._under_way: Counter[str] = Counter()
        self._lock = threading.Lock()

    @contextmanager
    def calling(self, caller: str) -> Iterator[None]:
        """While a call of this caller is under way.

        Raises:
            TooManyCallsError: there are too many others.
        """
        with self._lock:
            if self._under_way[caller] >= MOST_UNDER_WAY:
                raise TooManyCallsError(
                    f"{MOST_UNDER_WAY} of your calls are under way already: ask again once one of them is answered."
                )
            self._under_way[caller] += 1
        try:
            yield
        finally:
            with self._lock:
                self._under_way[caller] -= 1
                self._under_way += Counter()  # drops who has none
