"""What is kept for a visitor, in memory and on disk, and how it goes."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from .documents.document import DocumentError
from .documents.holders import is_holder
from .documents.library import StoredDocument
from .documents.private_files import private_folder
from .reading_places import forget_document, forget_visitor
from .runtime import Runtime
from .sample import is_sample
from .session import Session

STILL_STARTING = "The page is still starting, or was left for long: try again in a moment, or reload it."
DAY = 24 * 3600.0


def keep_document(runtime: Runtime, session: Session, stored: StoredDocument) -> None:
    """Put a document into the session. A visitor's own takes the place of the sample, which was only there to try.

    Raises:
        DocumentError: it does not go with what is there already, or cannot be written down.
    """
    sha256 = stored.document.sha256
    try:
        runtime.check_room(session, stored)
    except DocumentError:
        write_down(runtime, session)  # without it: its file goes again
        raise
    others = [other for other in session.documents if other.document.sha256 != sha256]
    session.documents = [other for other in others if is_sample(stored) or not is_sample(other)] + [stored]
    session.missing = [named for named in session.missing if named[0] != sha256]
    write_down(runtime, session)


def remove_documents(runtime: Runtime, session: Session, sha256: str | None = None) -> None:
    """Take a document out of the session, or all of them. Its file is deleted unless somebody else has it.

    Raises:
        DocumentError: it cannot be written down.
    """
    kept = [stored for stored in session.documents if sha256 not in (None, stored.document.sha256)]
    for gone in [gone for gone, _ in session.named if sha256 in (None, gone)]:
        forget_document(runtime.caches, gone, session.visitor)  # though somebody else may have it
    removed = [stored for stored in session.documents if stored not in kept]
    session.documents, session.missing = kept, [named for named in session.missing if sha256 not in (None, named[0])]
    write_down(runtime, session)
    _forget_unheld(runtime, removed)


def _forget_unheld(runtime: Runtime, documents: list[StoredDocument]) -> None:
    """Let go of what is in memory of documents that nobody has any more. Not done for those that a program asks about:
    it sends a file with each question, and what was read of it is to be there at the next one."""
    for stored in documents:
        if runtime.library.find(stored.document.sha256, stored.document.name) is None:
            forget_document(runtime.caches, stored.document.sha256)


def write_down(runtime: Runtime, session: Session) -> None:
    """Keep the session, and on disk which documents it has.

    Raises:
        DocumentError: it cannot be written.
        ValueError: the page has not told yet who its visitor is.
    """
    if session.forgotten:
        runtime.library.forget(session.visitor)  # what was added while everything was deleted
        return
    runtime.sessions.keep(session)
    runtime.library.hold(session.visitor, session.kept, session.missing)


def remove_everything(runtime: Runtime, visitor: str) -> None:
    """Delete what is kept of a visitor, in memory and on disk. What is under way is stopped and keeps nothing.

    A page that has not told yet who its visitor is has nothing: its empty name is `EVERYBODY`'s.
    """
    if not is_holder(visitor):
        return
    held = runtime.library.held_by(visitor)
    runtime.library.forget(visitor)
    runtime.sessions.forget(visitor)
    forget_visitor(runtime.caches, visitor)
    _forget_unheld(runtime, held.documents if held else [])
    runtime.own.forget(visitor)
    shutil.rmtree(_runs(runtime) / visitor, ignore_errors=True)


def runs_folder(runtime: Runtime, visitor: str) -> Path:
    """Where a visitor's runs of the lab are kept.

    Raises:
        ValueError: the page has not told yet who its visitor is.
    """
    if not is_holder(visitor):
        raise ValueError(STILL_STARTING)
    private_folder(_runs(runtime))
    return private_folder(_runs(runtime) / visitor)


def remove_old(runtime: Runtime) -> None:
    """Delete what is kept of visitors who were not here for `Settings.keep_days`.

    Raises:
        OSError: something cannot be deleted.
    """
    if not runtime.settings.keep_days:
        return
    seconds = runtime.settings.keep_days * DAY
    for visitor in runtime.library.not_seen_for(seconds):
        if visitor in runtime.sessions:
            runtime.library.seen(visitor)  # a page that has been open all the time
        else:
            remove_everything(runtime, visitor)
    runtime.library.delete_unheld(seconds)
    before = time.time() - seconds
    for folder in _runs(runtime).glob("*"):
        # Whoever has a record of documents was looked at above.
        newest = max((path.stat().st_mtime for path in (folder, *folder.glob("*"))), default=0.0)
        if newest < before and folder.name not in runtime.sessions and not runtime.library.knows(folder.name):
            shutil.rmtree(folder, ignore_errors=True)


def _runs(runtime: Runtime) -> Path:
    return runtime.folder / "lab"
