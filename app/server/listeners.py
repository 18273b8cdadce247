"""Who waits for the answer to a call."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from urllib.parse import parse_qs

from .asgi import API, Scope

GRACE_SECONDS = 10.0
"""For who has called and does not listen for the answer yet."""


class Listeners:
    """Who listens for the answer to a call, by the key that Gradio gives it: work for nobody is to stop.

    Safe to use from several threads.
    """

    def __init__(self) -> None:
        self._open: dict[str, int] = {}
        self._left: OrderedDict[str, float] = OrderedDict()
        self._lock = threading.Lock()

    @contextmanager
    def listening(self, key: str) -> Iterator[None]:
        """While somebody listens under this key."""
        with self._lock:
            self._open[key] = self._open.get(key, 0) + 1
        try:
            yield
        finally:
            with self._lock:
                self._open[key] -= 1
                if not self._open[key]:
                    del self._open[key]
                    self._left[key] = time.monotonic()
                    self._left.move_to_end(key)
                    while len(self._left) > 1000:
                        self._left.popitem(last=False)

    def asking(self, scope: Scope) -> AbstractContextManager[None]:
        """While this request is answered: listening, where it asks for the stream of an answer."""
        path, key = str(scope["path"]).removeprefix(API), ""
        if scope["method"] == "GET" and path == "queue/data":
            key = next(iter(parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [])), "")
        elif scope["method"] == "GET" and path.startswith("call/"):
            key = path.rpartition("/")[2]
        return self.listening(key) if key else nullcontext()

    def gone(self, key: str, since: float) -> bool:
        """Whether nobody listens any more to what began at `since`, by `time.monotonic`, or nobody came to listen."""
        with self._lock:
            if key in self._open:
                return False
            return self._left.get(key, 0.0) > since or time.monotonic() - since > GRACE_SECONDS
