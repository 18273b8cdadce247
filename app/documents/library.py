"""Where documents are kept: each file under its own checksum in the data folder, with its text beside it.

So that a reload or a restart finds them again without reading them anew. Knows nothing about gradio or visitors.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
from collections.abc import Generator
from dataclasses import asdict, dataclass
from pathlib import Path

from app.documents.reader import Document, DocumentError, Limits, Page, Progress, read_document_steps

_CHECKSUM = re.compile(r"[0-9a-f]{64}")
_FORMAT = 1


@dataclass(frozen=True, eq=False)
class StoredDocument:
    """A document and the file it was read from."""

    document: Document
    path: Path


class Library:
    """The documents of one data folder."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        """Args:
        folder: the data folder; made where it is not there.
        limits: what reading one file may cost.
        """
        self.folder = folder / "documents"
        self.limits = limits
        self.folder.mkdir(parents=True, exist_ok=True)

    def add_steps(self, path: Path, name: str) -> Generator[Progress, None, StoredDocument]:
        """Read a file and keep it. Closing the generator stops the reading; nothing is kept then.

        Raises:
            DocumentError: with a sentence that names the file and says what to do.
        """
        steps = read_document_steps(path, self.limits, name=name)
        try:
            for step in steps:
                if isinstance(step, Document):
                    return self._keep(path, step)
                yield step
        finally:
            steps.close()
        raise AssertionError("the steps end with the document")

    def find(self, sha256: str, name: str) -> StoredDocument | None:
        """The document with this checksum, under this name; None where it is not kept (any more)."""
        if not _CHECKSUM.fullmatch(sha256):
            return None
        try:
            kept = json.loads((self.folder / f"{sha256}.json").read_text(encoding="utf-8"))
            if kept.pop("format") != _FORMAT:
                return None
            kept["pages"] = tuple(Page(**page) for page in kept["pages"])
            kept["notes"] = tuple(kept["notes"])
            document = Document(**(kept | {"name": name}))
        except (OSError, ValueError, TypeError, KeyError):
            return None
        path = self._path(document)
        return StoredDocument(document, path) if path.is_file() else None

    def forget(self, stored: StoredDocument) -> None:
        """Delete the file and its text."""
        for path in (stored.path, stored.path.with_suffix(".json")):
            path.unlink(missing_ok=True)

    def _path(self, document: Document) -> Path:
        return self.folder / f"{document.sha256}.{document.kind}"

    def _keep(self, path: Path, document: Document) -> StoredDocument:
        target = self._path(document)
        try:
            if not target.is_file():
                _write_whole(target, path)
            text = json.dumps({"format": _FORMAT, **asdict(document)}, ensure_ascii=False)
            partial = target.with_suffix(f".{secrets.token_hex(4)}.part")
            partial.write_text(text, encoding="utf-8")
            partial.replace(target.with_suffix(".json"))
        except OSError as error:
            raise DocumentError(
                f"{document.name} cannot be kept in {self.folder} ({error.strerror}): make room there, or choose "
                "another folder with --data-folder."
            ) from error
        return StoredDocument(document, target)


def _write_whole(target: Path, source: Path) -> None:
    """Copies so that a file under its final name is always complete."""
    partial = target.with_suffix(f".{secrets.token_hex(4)}.part")
    shutil.copyfile(source, partial)
    partial.replace(target)


def browser_secret(folder: Path) -> str:
    """The secret that what the browser keeps is encrypted with; made once for a data folder.

    With a new one at every start, what the browser kept would be lost at every start.
    """
    path = folder / "browser-secret"
    folder.mkdir(parents=True, exist_ok=True)
    if not path.is_file():
        partial = folder / f"browser-secret.{secrets.token_hex(4)}"
        partial.touch(mode=0o600)
        partial.write_text(secrets.token_hex(16), encoding="ascii")
        partial.replace(path)
    return path.read_text(encoding="ascii").strip()
