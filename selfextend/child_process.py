"""A child process that writes JSON messages, one a line, to the process that started it."""

import contextlib
import json
import queue
import subprocess
import threading
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

_RETRY = 0.2


class ChildProcess:
    """Used in a `with` block; the process is gone when the block is left.

    Its stdin stays open until then, so that the child can tell when its parent has gone.
    """

    def __init__(
        self, command: Sequence[str], *, environment: Mapping[str, str] | None = None, time_to_end: float = 0.0
    ) -> None:
        """Args:
        command: the program and its arguments.
        environment: instead of this process's own.
        time_to_end: seconds that the child has to end by itself once its stdin is closed; it is killed after that.
        """
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            encoding="utf-8",
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        self._time_to_end = time_to_end
        # Few messages wait here, so that a fast child does not fill the memory while the caller is busy.
        self._messages: queue.Queue[dict[str, Any] | None] = queue.Queue(maxsize=16)
        self._left = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, message: dict[str, Any]) -> None:
        """Write a message to the child's stdin; a child that has ended does not get it."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()

    def receive(self, timeout: float) -> dict[str, Any] | None:
        """The next message; an empty one where none comes in `timeout` seconds, None where the child has ended."""
        try:
            return self._messages.get(timeout=timeout)
        except queue.Empty:
            return {}

    def exit_code(self) -> int:
        """Waits for the child to end. Negative where a signal ended it."""
        return self._process.wait()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with contextlib.suppress(ValueError):  # a line cut off when the child was killed
                self._put(json.loads(line))
        self._put(None)

    def _put(self, message: dict[str, Any] | None) -> None:
        while not self._left.is_set():
            with contextlib.suppress(queue.Full):
                self._messages.put(message, timeout=_RETRY)
                return

    def __enter__(self) -> "ChildProcess":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._left.set()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(self._time_to_end)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        self._process.stdout.close()
