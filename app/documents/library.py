"""Keeps documents in the data folder: each file under its checksum, with its text, so that it is read only once."""

from __future__ import annotations

import json
import re
import secrets
import shutil
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from selfextend.steps import Progress

from .document import Document, DocumentError, Limits, Page
from .reader import read_document_steps

_CHECKSUM = re.compile(r"[0-9a-f]{64}")
_FORMAT = 1


@dataclass(frozen=True, eq=False)
class StoredDocument:
    """A document and the file it was read from."""

    document: Document
    path: Path


class Library:
    """The documents of one data folder, made where it is not there. `limits`: what reading one file may cost."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.folder = folder / "documents"
        self.limits = limits
        self.folder.mkdir(parents=True, exist_ok=True)

    def add_steps(self, path: Path, name: str) -> Generator[Progress, None, StoredDocument]:
        """Read a file and keep it. Closing the generator stops the reading, and nothing is kept.

        Raises:
            DocumentError: with a sentence that names the file and says what to do.
        """
        return self._keep(path, (yield from read_document_steps(path, self.limits, name)))

    def find(self, sha256: str, name: str) -> StoredDocument | None:
        """The document with this checksum, under this name; None where it is not kept."""
        if not _CHECKSUM.fullmatch(sha256):
            return None
        try:
            kept = json.loads((self.folder / f"{sha256}.json").read_text(encoding="utf-8"))
            if kept.pop("format") != _FORMAT:
                return None
            kept["pages"] = tuple(Page.from_json(page) for page in kept["pages"])
            kept["notes"] = tuple(kept["notes"])
            document = Document(**(kept | {"name": name}))
        except (OSError, ValueError, TypeError, KeyError):
            return None
        path = self._path(document)
        return StoredDocument(document, path) if path.is_file() else None

    def _path(self, document: Document) -> Path:
        return self.folder / f"{document.sha256}.{document.kind}"

    def _keep(self, path: Path, document: Document) -> StoredDocument:
        target = self._path(document)
        try:
            if not target.is_file():
                with _replacing(target) as partial:
                    shutil.copyfile(path, partial)
            with _replacing(target.with_suffix(".json")) as partial:
                text = json.dumps({"format": _FORMAT, **asdict(document)}, ensure_ascii=False)
                partial.write_text(text, encoding="utf-8")
        except OSError as error:
            raise DocumentError(
                f"{document.name} cannot be kept in {self.folder} ({error.strerror}): make room there, or choose "
                "another folder with --data-folder."
            ) from error
        return StoredDocument(document, target)


@contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """A path to write to, which then takes the target's name: a file under its final name is always complete."""
    partial = target.with_suffix(f".{secrets.token_hex(4)}.part")
    yield partial
    partial.replace(target)


def browser_secret(folder: Path) -> str:
    """The secret that encrypts what browsers keep. Made once for a data folder: with a new one they would lose it."""
    path = folder / "browser-secret"
    folder.mkdir(parents=True, exist_ok=True)
    if not path.is_file():
        with _replacing(path) as partial:
            partial.touch(mode=0o600)
            partial.write_text(secrets.token_hex(16), encoding="ascii")
    return path.read_text(encoding="ascii").strip()
