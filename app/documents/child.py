"""Runs the child process that opens files (`app.documents.worker`), within its limits of time and memory."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Generator
from pathlib import Path

import psutil

from selfextend.child_process import ChildProcess

from .document import DocumentError, Limits, megabytes
from .messages import Message

_HEARTBEAT_SECONDS = 0.2
_AT_ONCE = 2
"""Children of each kind at a time, each of which may take all the memory that it is allowed. Who looks at a page does
not wait for documents that are read."""
_reading, _drawing = threading.Semaphore(_AT_ONCE), threading.Semaphore(_AT_ONCE)
_SECRETS = {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "SELFEXTEND_AUTH"}
"""Variables that no program which opens strangers' files needs to know."""
_KERNEL_LIMITS_MEMORY = sys.platform == "linux"
_ROOT = Path(__file__).resolve().parents[2]


def answers(path: Path, name: str, request: Message, limits: Limits) -> Generator[Message, None, None]:
    """Runs one request in a child process and yields its messages; an empty one where 0.2 s pass without any.

    Waits before that, with empty messages too, while as many others run as may. The child is dead when the generator
    ends or is closed.

    Args:
        name: what to call the file in errors.
        request: as `app.documents.worker` takes it, without the path and the limits.

    Raises:
        DocumentError: the file was refused, or took more time or memory than it may.
    """
    places = _reading if request["task"] == "read" else _drawing
    while not places.acquire(timeout=_HEARTBEAT_SECONDS):
        yield {}
    try:
        yield from _answers(path, name, request, limits)
    finally:
        places.release()


def _answers(path: Path, name: str, request: Message, limits: Limits) -> Generator[Message, None, None]:
    """As `answers`, at once."""
    deadline = time.monotonic() + limits.seconds
    most_seconds, most_memory = limits.seconds, limits.memory_bytes
    memory_bytes = most_memory if _KERNEL_LIMITS_MEMORY else None
    search_path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", f"{__package__}.worker"]
    environment = {name: value for name, value in os.environ.items() if name not in _SECRETS}
    with ChildProcess(command, environment={**environment, "PYTHONPATH": search_path}) as child:
        child.send(
            {
                **request,
                "path": str(path.resolve()),
                "seconds": limits.seconds,
                "memory_bytes": memory_bytes,
                "scanned_page_seconds": limits.scanned_page_seconds,
                "scanned_memory_bytes": limits.scanned_memory_bytes,
            }
        )
        while True:
            message = child.receive(_HEARTBEAT_SECONDS)
            if message and "scanned" in message:
                deadline += limits.scanned_page_seconds
                most_seconds += limits.scanned_page_seconds
                most_memory = limits.memory_bytes + limits.scanned_memory_bytes
            if time.monotonic() > deadline:
                raise DocumentError(
                    f"{name} took longer than {most_seconds:,.0f} seconds to read and was stopped: "
                    "split it into smaller files, or raise the limit."
                )
            if message is None:
                raise DocumentError(_why_it_ended(name, child.exit_code(), most_memory))
            too_much = not _KERNEL_LIMITS_MEMORY and _resident_bytes(child.pid) > most_memory
            if too_much or "out_of_memory" in message:
                raise DocumentError(
                    f"{name} needs more than {megabytes(most_memory)} of memory to read and was stopped: "
                    "split it into smaller files, or raise the limit."
                )
            if "refused" in message:
                raise DocumentError(f"{name} {message['refused']}")
            if "done" in message:
                return
            yield message


def _resident_bytes(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def _why_it_ended(name: str, exit_code: int, memory_bytes: int) -> str:
    """The child ended without an answer: killed by a signal (a crash, its limits) or by an unforeseen error."""
    cause = "the reader crashed on it" if exit_code < 0 else "the reader failed on it"
    return (
        f"{name} cannot be read: {cause}. It is damaged, or needs more than "
        f"{megabytes(memory_bytes)} of memory. Open it in another program and save it anew."
    )
