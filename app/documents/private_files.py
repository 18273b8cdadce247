"""Files and folders that only the user who runs the app can open, and that are never there in part."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def private_folder(folder: Path) -> Path:
    """The folder, made where it is not there; what is in it, folders apart, is for this user alone too.

    Raises:
        OSError: it cannot be made.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Of files that belong to another user the mode cannot be changed; that user keeps them private or does not.
    with contextlib.suppress(PermissionError):
        folder.chmod(0o700)
        for path in folder.iterdir():
            if path.is_file() and not path.is_symlink():
                path.chmod(0o600)
    return folder


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A path to write to, which then takes the target's name: a file under its final name is always complete."""
    partial = target.with_suffix(f".{secrets.token_hex(4)}.part")
    try:
        partial.touch(mode=0o600)
        yield partial
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
