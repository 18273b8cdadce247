"""A folder of this process alone: uploads before they are read, files to save, and without persistence all the rest."""

from __future__ import annotations

import atexit
import hashlib
import os
import secrets
import shutil
import tempfile
import time
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from .documents.library import DataFolderError
from .documents.private_files import private_folder

MOST_REMEMBERED = 1000
"""Uploads of which it is remembered what they were."""


class OwnFolder:
    """Made at once, and removed when the process ends or `remove` is called. What a killed process left in the same
    parent goes when the next one is made.

    Attributes:
        path: of the folder.
        uploads: for Gradio's temporary files; files to save are in there too, since Gradio copies others into it.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, parent: Path) -> None:
        private_folder(parent)
        with FileLock(parent / "lock", mode=0o600):
            for folder in filter(Path.is_dir, parent.iterdir()):
                _remove_if_left(folder)
            self.path = Path(tempfile.mkdtemp(dir=parent))
            self._alive = _lock_in(self.path)
            self._alive.acquire()
        self.uploads = self.path / "uploads"
        self.uploads.mkdir(mode=0o700)
        self._read: OrderedDict[Path, str] = OrderedDict()
        atexit.register(self.remove)

    def read(self, upload: Path, sha256: str = "") -> None:
        """Delete an upload, which was read, or could not be. What was not uploaded stays.

        Args:
            sha256: of what it was, where it was read. Gradio puts uploads of the same file and name in one place, so
                that of two visitors who upload it at once the second finds nothing there; `read_as` tells what it was.
        """
        if not upload.is_relative_to(self.uploads):
            return
        if sha256:
            self._read[upload] = sha256
            self._read.move_to_end(upload)
            while len(self._read) > MOST_REMEMBERED:
                self._read.popitem(last=False)
        upload.unlink(missing_ok=True)

    def read_as(self, upload: Path) -> str:
        """The checksum of an upload that was read and deleted; "" where none is known."""
        return "" if upload.exists() else self._read.get(upload, "")

    def sweep(self, seconds: float) -> None:
        """Delete the uploads and saved files that are older than this: some were refused, or broke off."""
        before = time.time() - seconds
        for path in filter(Path.is_file, self.uploads.rglob("*")):
            with suppress(FileNotFoundError):  # read or saved anew meanwhile
                if path.stat().st_mtime < before:
                    path.unlink()

    def save(self, owner: str, name: str, text: str) -> str:
        """The path of a new file of this name, which goes with what else its owner has here."""
        folder = self._of(owner) / secrets.token_urlsafe(16)
        for each in (folder.parent, folder):
            each.mkdir(mode=0o700, exist_ok=True)
        path = folder / name
        path.write_text(text, encoding="utf-8")
        return str(path)

    def forget(self, owner: str) -> None:
        """Delete the files that were saved for somebody."""
        shutil.rmtree(self._of(owner), ignore_errors=True)

    def remove(self) -> None:
        """Delete the folder with all that is in it."""
        self._alive.release()
        shutil.rmtree(self.path, ignore_errors=True)

    def _of(self, owner: str) -> Path:
        # The path stands in the page's requests, and so in logs; who the visitor is must not.
        return self.uploads / hashlib.sha256(owner.encode()).hexdigest()[:32]


def temporary_parent() -> Path:
    """Where the folders go of a process that keeps nothing: this user's own place among the temporary files.

    Raises:
        DataFolderError: somebody else has made it.
    """
    user = os.getuid() if hasattr(os, "getuid") else "user"
    parent = Path(tempfile.gettempdir()) / f"selfextend-explorer-{user}"
    try:
        parent.mkdir(mode=0o700, exist_ok=True)
        mine = not parent.is_symlink() and parent.stat().st_uid == user if isinstance(user, int) else True
    except OSError as error:
        raise DataFolderError(
            f"No folder for temporary files can be made at {parent} ({error.strerror}): set TMPDIR to a folder that "
            "you may write to."
        ) from error
    if not mine:
        raise DataFolderError(f"{parent} belongs to somebody else: delete it, or set TMPDIR to a folder of your own.")
    return parent


def _lock_in(folder: Path) -> FileLock:
    # Not by thread: the lock is held by the process, whichever thread made it and whichever lets go of it.
    return FileLock(folder / "lock", timeout=0, mode=0o600, thread_local=False)


def _remove_if_left(folder: Path) -> None:
    """Delete a folder that no living process holds."""
    lock = _lock_in(folder)
    try:
        lock.acquire()
    except Timeout:
        return
    lock.release()
    shutil.rmtree(folder, ignore_errors=True)
