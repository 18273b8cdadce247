"""Keeps documents in the data folder: each file under its checksum, with its text, so that it is read only once, for as
long as anybody has it.

Several servers may share a data folder: whatever changes what is in it holds the folder's lock.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock

from selfextend.steps import Progress

from .document import Document, DocumentError, Limits, Page
from .holders import Holders, Named
from .private_files import private_folder, replacing
from .reader import read_document_steps

_CHECKSUM = re.compile(r"[0-9a-f]{64}")
_SECRET = re.compile(r"[0-9a-f]{32}")
_FORMAT = 1
_LOCK_SECONDS = 60.0
"""How long to wait for another server's change to the folder, which takes as long as copying a file."""


class DataFolderError(RuntimeError):
    """The data folder cannot be used; the message is a plain sentence that names it and says what to do."""


@dataclass(frozen=True, eq=False)
class StoredDocument:
    """A document and the file it was read from."""

    document: Document
    path: Path


class Held(NamedTuple):
    """What somebody has: the documents, in order, and of those that are no longer kept here checksum and name."""

    documents: list[StoredDocument]
    missing: list[Named]


class Library:
    """The documents of one data folder, made where it is not there.

    Attributes:
        limits: what reading one file may cost.
        deleted: called with the checksum of a document after its file was deleted, while the folder's lock is held:
            for whoever keeps more of it.

    Args:
        lasting: checksums of documents that are nobody's own, and stay when nobody has them.

    Raises:
        DataFolderError: the folder cannot be used.
    """

    def __init__(self, folder: Path, limits: Limits, lasting: Iterable[str] = ()) -> None:
        self.limits = limits
        self.deleted: list[Callable[[str], None]] = []
        self._data, self._lasting = folder, frozenset(lasting)
        with usable(folder), locked(folder):
            if (folder / "documents").is_dir():
                folder.chmod(0o700)  # made by an earlier version, or by hand; a folder with other things in it is left
            self.folder = private_folder(folder / "documents")
            if not (folder / "visitors").exists():
                for path in self.folder.iterdir():
                    path.touch()  # of an earlier version: nobody knows whose, so all count as just seen
            self._holders = Holders(folder / "visitors")
            # Written under the lock, so what is there now was left by a process that was killed.
            for place in (folder, self.folder, self._holders.folder):
                for part in place.glob("*.part"):
                    part.unlink()
                    if place == self.folder:
                        self._delete_unless_held({part.stem})

    def add_steps(self, path: Path, name: str, holder: str = "") -> Generator[Progress, None, StoredDocument]:
        """Read a file and keep it. Closing the generator stops the reading, and nothing is kept.

        Args:
            holder: who has it from then on, besides what they have; nobody where there is none.

        Raises:
            DocumentError: with a sentence that names the file and says what to do.
        """
        document = yield from read_document_steps(path, self.limits, name)
        with self._changing(name), self._unfinished(document):
            stored = self._keep(path, document)
            if holder:
                others = [named for named in self._holders.of(holder) or () if named[0] != document.sha256]
                self._holders.put(holder, [*others, (document.sha256, name)])
        return stored

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

    def held_by(self, holder: str) -> Held | None:
        """What somebody has; None where that was never written down."""
        named = self._holders.of(holder)
        return None if named is None else self.found(named)

    def claimed(self, named: list[Named]) -> Held:
        """Of documents that only a browser says somebody had, those that are nobody's now; the others count as missing.

        A checksum is no secret: whoever knows it is not given what somebody else has.
        """
        found = self.found(named)
        if not found.documents:
            return found
        with locked(self._data):  # so that whoever is adding one of them is known to have it
            held = self._holders.held() - self._lasting
        documents = [stored for stored in found.documents if stored.document.sha256 not in held]
        given = {stored.document.sha256 for stored in documents}
        return Held(documents, [pair for pair in named if pair[0] not in given])

    def hold(self, holder: str, documents: list[Named], missing: Sequence[Named] = ()) -> None:
        """Write down that somebody has these documents and no others. What nobody has any more is deleted.

        Args:
            missing: documents that are no longer kept. Those among them that this holder was known to have stay known,
                and are found again once somebody adds them.

        Raises:
            ValueError: nobody is called so.
            DocumentError: it cannot be written.
        """
        with self._changing("The list of your documents"):
            before = {sha256 for sha256, _ in self._holders.of(holder) or []}
            named = [*documents, *(pair for pair in missing if pair[0] in before)]
            self._holders.put(holder, named)
            self._delete_unless_held(before - {sha256 for sha256, _ in named})

    def forget(self, holder: str) -> None:
        """Nothing is written down of somebody any more, and what nobody else has is deleted."""
        with locked(self._data):
            before = self._holders.of(holder) or []
            self._holders.drop(holder)
            self._delete_unless_held({sha256 for sha256, _ in before})

    def seen(self, holder: str) -> None:
        """Write down that somebody was here now."""
        self._holders.seen(holder)

    def knows(self, holder: str) -> bool:
        """Whether anything is written down of somebody, be it that they have nothing."""
        return self._holders.of(holder) is not None

    def not_seen_for(self, seconds: float) -> list[str]:
        """Who was not here for so long."""
        return self._holders.not_seen_for(seconds)

    def delete_unheld(self, seconds: float) -> None:
        """Delete what nobody has and what was kept longer ago than this."""
        with locked(self._data):
            before = time.time() - seconds
            kept = {path.stem for path in self.folder.iterdir() if path.stat().st_mtime < before}
            self._delete_unless_held(kept)

    def found(self, named: Iterable[Named]) -> Held:
        """Which of these are kept here, and which are not."""
        found = [(pair, self.find(*pair)) for pair in named]
        return Held([stored for _, stored in found if stored], [pair for pair, stored in found if not stored])

    @contextmanager
    def _changing(self, what: str) -> Iterator[None]:
        try:
            with locked(self._data):
                yield
        except OSError as error:
            raise DocumentError(
                f"{what} cannot be kept in {self.folder} ({error.strerror or error}): make room there, or choose "
                "another folder with --data-folder."
            ) from error

    @contextmanager
    def _unfinished(self, document: Document) -> Iterator[None]:
        """While a document is kept and written down for who has it: of a process that is killed meanwhile, the next one
        finds a mark, and deletes what nobody has."""
        mark = self.folder / f"{document.sha256}.part"
        try:
            mark.touch(mode=0o600)
            yield
        finally:
            mark.unlink(missing_ok=True)

    def _delete_unless_held(self, checksums: set[str]) -> None:
        gone = checksums - self._lasting
        gone = gone - self._holders.held() if gone else gone
        for sha256 in filter(_CHECKSUM.fullmatch, gone):
            for path in self.folder.glob(f"{sha256}.*"):
                path.unlink(missing_ok=True)
            for tell in self.deleted:
                tell(sha256)

    def _path(self, document: Document) -> Path:
        return self.folder / f"{document.sha256}.{document.kind}"

    def _keep(self, path: Path, document: Document) -> StoredDocument:
        target = self._path(document)
        if not target.is_file():
            with replacing(target) as partial:
                shutil.copyfile(path, partial)
        with replacing(target.with_suffix(".json")) as partial:
            text = json.dumps({"format": _FORMAT, **asdict(document)}, ensure_ascii=False)
            partial.write_text(text, encoding="utf-8")
        return StoredDocument(document, target)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """While no other process or thread changes what is in a data folder.

    Raises:
        OSError: the lock cannot be made, or another process does not let go of it.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with FileLock(folder / "lock", timeout=_LOCK_SECONDS, mode=0o600):
        yield


@contextmanager
def usable(folder: Path) -> Iterator[None]:
    """While a data folder is set up.

    Raises:
        DataFolderError: what is tried here fails.
    """
    try:
        yield
    except (OSError, NotImplementedError) as error:  # the latter where a file system has no locks
        cause = getattr(error, "strerror", None) or error
        raise DataFolderError(
            f"The data folder {folder} cannot be used ({cause}): make it a folder that you may write to, choose "
            "another with --data-folder, or start with --no-persist."
        ) from error


def browser_secret(folder: Path) -> str:
    """The secret that encrypts what browsers keep. Made once for a data folder: with a new one they would lose it.

    Raises:
        DataFolderError: it is damaged, or the folder cannot be used.
    """
    path = folder / "browser-secret"
    with usable(folder), locked(folder):
        if not path.exists():
            with replacing(path) as partial:
                partial.write_text(secrets.token_hex(16), encoding="ascii")
        path.chmod(0o600)
        secret = path.read_bytes().strip().decode("ascii", "replace")
    if not _SECRET.fullmatch(secret):
        raise DataFolderError(
            f"{path} is damaged: bring it back from a backup, or delete it to have a new one made. With a new one, "
            "browsers lose the conversations that they keep."
        )
    return secret
