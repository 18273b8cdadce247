"""Who has which documents, on disk: a small file for each visitor, so that a file that several have goes with the last.

The caller holds the data folder's lock (see `app.documents.library`).
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

from .private_files import private_folder, replacing

Named = tuple[str, str]
"""A document's checksum, and the name that its holder gave it."""

_HOLDER = re.compile(r"[A-Za-z0-9_-]{20,64}")
_FORMAT = 1


def is_holder(name: object) -> bool:
    """Whether this may be the random text that names a holder."""
    return isinstance(name, str) and bool(_HOLDER.fullmatch(name))


class Holders:
    """The records in one folder, made where it is not there."""

    def __init__(self, folder: Path) -> None:
        self.folder = private_folder(folder)

    def of(self, holder: str) -> list[Named] | None:
        """What a holder has, in order; None where there is no record, or none that can be read."""
        if not is_holder(holder):
            return None
        try:
            kept = json.loads(self._path(holder).read_text(encoding="utf-8"))
            documents = [(str(sha256), str(name)) for sha256, name in kept["documents"]]
            return documents if kept["format"] == _FORMAT else None
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def put(self, holder: str, documents: list[Named]) -> None:
        """Write down that this is what a holder has.

        Raises:
            ValueError: nobody is called so.
            OSError: it cannot be written.
        """
        if not is_holder(holder):
            raise ValueError(f"{holder!r} names nobody.")
        if documents == self.of(holder):
            self.seen(holder)
            return
        with replacing(self._path(holder)) as partial:
            partial.write_text(json.dumps({"format": _FORMAT, "documents": documents}), encoding="utf-8")

    def drop(self, holder: str) -> None:
        """Forget a holder."""
        if is_holder(holder):
            self._path(holder).unlink(missing_ok=True)

    def seen(self, holder: str) -> None:
        """Write down that a holder was here now."""
        if is_holder(holder) and (path := self._path(holder)).is_file():
            os.utime(path)

    def held(self) -> set[str]:
        """The checksums of all that anybody has."""
        return {sha256 for holder in self for sha256, _ in self.of(holder) or ()}

    def not_seen_for(self, seconds: float) -> list[str]:
        """Who was not here for so long."""
        before = time.time() - seconds
        return [path.stem for path in self.folder.glob("*.json") if path.stat().st_mtime < before]

    def __iter__(self) -> Iterator[str]:
        return iter([path.stem for path in self.folder.glob("*.json")])

    def _path(self, holder: str) -> Path:
        return self.folder / f"{holder}.json"
