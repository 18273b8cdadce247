"""What was read of documents, kept in the data folder, so that the first question after a restart is answered at once.

A file belongs to one visitor, or to everybody where readings are shared. It is found again only for the same documents,
model, settings and tokens, and removed where it is damaged, where room is wanted, and where one of its documents goes.

What waits to be written has its file from the start, under a name of its own that ends in .part. Without that file it
is not written, so that it goes with its documents even where another process deletes them.
"""

from __future__ import annotations

import hashlib
import json
import os
import queue
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import psutil

from selfextend.kept_header import UnusableReadingError, about_reading

from .documents.private_files import private_folder
from .server.request_log import log

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from selfextend.beginning import Beginning
    from selfextend.layer_states import States

MIN_TOKENS = 256
"""Fewer are read again as fast."""
SUFFIX = ".safetensors"
_LOOK_SECONDS, _PATIENCE_SECONDS = 0.05, 60.0
_OLD_PART_SECONDS = 3600.0
"""After so long a process of the same number is not the one that began to write."""


@dataclass(frozen=True, eq=False)
class What:
    """What a reading is of.

    Attributes:
        model: that read it, `label` its name, and `configuration` the checksum of what it is set to.
        trained_window: what it counts with.
        owner: whose it is: a visitor, or "" for everybody.
        documents: their checksums, in the prompt's order.
    """

    model: PreTrainedModel
    label: str
    configuration: str
    trained_window: int
    owner: str
    documents: tuple[str, ...]

    def about(self, tokens: Sequence[int], reads_as: Any) -> dict[str, str]:
        """In words, as the file has it. No word of the text, and of the visitor only a checksum."""
        from selfextend.kept import fingerprint

        return {**self.told_of(tokens), "weights": fingerprint(self.model), "reads_as": repr(reads_as)}

    def told_of(self, tokens: Sequence[int]) -> dict[str, str]:
        """What of that is known at once, and whatever the method."""
        return {
            "model": self.label,
            "configuration": self.configuration,
            "trained_window": str(self.trained_window),
            "tokens": hashlib.sha256(json.dumps(list(tokens)).encode()).hexdigest(),
            "documents": ",".join(self.documents),
            "owner": _owner_name(self.owner),
        }


@dataclass(eq=False)
class _Writing:
    """A reading that waits to be written, to `part` at first. `unwanted`: one of its documents, or its owner, has gone
    meanwhile."""

    part: Path
    what: What
    tokens: list[int]
    reads_as: Any
    states: States
    busy: Callable[[], bool]
    unwanted: bool = False


class KeptReadings:
    """The readings of one data folder. Safe to use from several threads.

    Attributes:
        folder: made where it is not there.
        limit_bytes: of all files together; the least recently used go first.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder, self.limit_bytes = folder, limit_bytes
        self._seen: WeakSet[Beginning] = WeakSet()
        self._writings: list[_Writing] = []
        self._queue: queue.Queue[_Writing] = queue.Queue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        private_folder(folder)
        for part in self._parts():
            if _is_left_over(part):
                part.unlink(missing_ok=True)

    def recall(self, what: What, tokens: Sequence[int], reads_as: Any) -> States | None:
        """What was kept of these tokens, or None. A file that cannot be used is removed."""
        from selfextend.kept import read_reading

        if len(tokens) < MIN_TOKENS or not any(self._files()):  # so that no model is weighed for nothing
            return None
        about = what.about(tokens, reads_as)
        path = self._path(about)
        if not path.is_file():
            return None
        try:
            states = read_reading(path, about)
            os.utime(path)
        except (UnusableReadingError, OSError) as error:
            self._remove(path, str(error))
            return None
        return states

    def holds(self, what: What, tokens: Sequence[int]) -> bool:
        """Whether something was kept of these tokens, by whatever method. It may turn out not to be usable."""
        wanted = what.told_of(tokens)
        for path in self._files():
            try:
                about = about_reading(path)
            except UnusableReadingError as error:
                self._remove(path, str(error))
                continue
            if wanted.items() <= about.items():
                return True
        return False

    def keep(self, what: What, beginning: Beginning, busy: Callable[[], bool]) -> None:
        """Have a beginning written in the background, the first time it is seen here.

        Args:
            busy: whether somebody waits for what the computer computes; writing then waits, for a while.
        """
        if beginning in self._seen or len(beginning.tokens) < MIN_TOKENS:
            return
        states = beginning.states()
        if states is None:
            return
        self._seen.add(beginning)
        part = self.folder / f"{secrets.token_hex(8)}.{os.getpid()}.part"
        writing = _Writing(part, what, beginning.tokens, beginning.reads_as, states, busy)
        with self._lock:
            try:
                part.touch(mode=0o600)
            except OSError as error:
                self._told_of_failure(error)
                return
            self._writings.append(writing)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="kept-readings", daemon=True)
                self._thread.start()
        self._queue.put(writing)

    def forget(self, sha256: str, owner: str | None = None) -> None:
        """Remove every reading of a document: all of them, or those of one visitor."""
        name = None if owner is None else _owner_name(owner)
        self._forget(lambda documents, found: sha256 in documents and name in (None, found))

    def forget_owner(self, owner: str) -> None:
        """Remove every reading that is one visitor's own."""
        name = _owner_name(owner)
        self._forget(lambda _, found: found == name)

    def _forget(self, unwanted: Callable[[Sequence[str], str], bool]) -> None:
        """Remove what of these documents, and of this owner by name, is not wanted any more. Of what other processes
        are about to write nobody here can say what it is of, so all of that goes."""
        with self._lock:
            for writing in self._writings:
                writing.unwanted |= unwanted(writing.what.documents, _owner_name(writing.what.owner))
            wanted = {writing.part for writing in self._writings if not writing.unwanted}
            # Before the files: what is complete meanwhile is found among these.
            for part in set(self._parts()) - wanted:
                with suppress(PermissionError):  # Windows removes no file that is open; `_work` does then
                    part.unlink(missing_ok=True)
            for path in self._files():
                try:
                    about = about_reading(path)
                    remove = unwanted(about["documents"].split(","), about["owner"])
                except (UnusableReadingError, KeyError):
                    remove = True
                if remove:
                    path.unlink(missing_ok=True)

    def settle(self) -> None:
        """Wait until everything is written that was to be."""
        self._queue.join()

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return sum(map(_size, self._files()))

    def _work(self) -> None:
        while True:
            writing = self._queue.get()
            try:
                self._write(writing)
            except (OSError, ValueError, RuntimeError) as error:
                self._told_of_failure(error)
            finally:
                with self._lock:
                    self._writings.remove(writing)
                writing.part.unlink(missing_ok=True)
                del writing  # its states may be all that a cache was let go of for
                self._queue.task_done()

    def _write(self, writing: _Writing) -> None:
        from selfextend.kept import write_reading

        deadline = time.monotonic() + _PATIENCE_SECONDS

        def wait() -> None:
            while writing.busy() and time.monotonic() < deadline:
                time.sleep(_LOOK_SECONDS)

        wait()
        about = writing.what.about(writing.tokens, writing.reads_as)
        path, size = self._path(about), sum(tensor.nbytes for tensor in writing.states.values())
        if writing.unwanted or path.is_file() or size > self.limit_bytes:
            return
        self._make_room(size)
        with writing.part.open("r+b") as file:  # which is not made anew where somebody has removed it
            write_reading(file, writing.states, about, wait)
        with self._lock:
            if not writing.unwanted:
                writing.part.replace(path)

    def _told_of_failure(self, error: Exception) -> None:
        log.warning("A reading was not kept in %s: %s", self.folder, type(error).__name__)

    def _make_room(self, wanted: int) -> None:
        files = sorted(self._files(), key=_modified)
        held = sum(map(_size, files))
        for path in files:
            if held + wanted <= self.limit_bytes:
                return
            held -= _size(path)
            path.unlink(missing_ok=True)

    def _files(self) -> Iterator[Path]:
        return self.folder.glob(f"*{SUFFIX}")

    def _parts(self) -> Iterator[Path]:
        return self.folder.glob("*.part")

    def _path(self, about: dict[str, str]) -> Path:
        name = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
        return self.folder / f"{name}{SUFFIX}"

    def _remove(self, path: Path, reason: str) -> None:
        log.warning("The kept reading %s was removed: %s.", path.name, reason)
        path.unlink(missing_ok=True)


def _owner_name(owner: str) -> str:
    """An owner as files name him."""
    return hashlib.sha256(owner.encode()).hexdigest() if owner else ""


def _is_left_over(part: Path) -> bool:
    """Whether the process in its name, `<anything>.<number>.part`, does not write it any more. This one has only begun,
    and writes nothing yet."""
    number = part.suffixes[-2].removeprefix(".") if len(part.suffixes) > 1 else ""
    if not number.isdecimal() or int(number) == os.getpid() or not psutil.pid_exists(int(number)):
        return True
    return time.time() - _modified(part) > _OLD_PART_SECONDS


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
