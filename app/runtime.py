"""What all visitors of one process share: settings, model, documents on disk, sessions, caches."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .cache_store import CacheStore
from .conversation import Entry
from .documents import memo
from .documents.document import Limits, check_room
from .documents.library import Library, StoredDocument, browser_secret, usable
from .jobs import Job
from .kept_readings import KeptReadings
from .model_shelf import ModelShelf
from .own_folder import OwnFolder, temporary_parent
from .reading_ahead import Example, ReadingAhead
from .sample import is_sample, only_the_sample, sample_checksum
from .server.listeners import Listeners
from .server.request_log import log
from .session import Session, SessionStore, Turn
from .settings import Settings


@dataclass(eq=False)
class FirstLoad:
    """How the load of the model that the app was started with ended."""

    error: str | None = None
    done: threading.Event = field(default_factory=threading.Event)


# Gradio sends the words for a page's functions, and for what they are given, to every browser: no settings in them.
@dataclass(frozen=True, eq=False, repr=False)
class Runtime:
    """One process's shared parts. `secret` encrypts what browsers keep; `loading` is the load of a model,
    `listeners` who waits for the answer to a call; `folder` has what is kept, `own` what goes with the process.
    """

    settings: Settings
    library: Library
    secret: str
    folder: Path
    own: OwnFolder
    models: ModelShelf = field(default_factory=ModelShelf)
    sessions: SessionStore = field(default_factory=lambda: SessionStore(32))
    caches: CacheStore = field(default_factory=lambda: CacheStore(4_000_000_000))
    first_load: FirstLoad = field(default_factory=FirstLoad)
    loading: Job = field(default_factory=Job)
    ahead: ReadingAhead = field(default_factory=ReadingAhead)
    listeners: Listeners = field(default_factory=Listeners)

    def example_for(self, session: Session) -> Example | None:
        """The example to show to a visitor: while the sample is the only document and the model that answered it is
        loaded."""
        example = self.ahead.example
        shown = example is not None and only_the_sample(session.documents) and self.models.loaded is example.loaded
        return example if shown else None

    def turn_to_show(self, session: Session, entries: Sequence[Entry]) -> Turn | None:
        """The answer that the tabs show beside a conversation: its newest that is still in memory and by the model that
        is loaded; beside an empty one the example's."""
        if entries:
            return session.last_turn(entries, self.models.identity)
        example = self.example_for(session)
        return example.turn if example else None

    def turn_of(self, session: Session, number: int) -> Turn | None:
        """A visitor's turn, or the example's that the visitor is shown; None where it is not in memory."""
        example = self.example_for(session)
        return example.turn if example and number == example.turn.id else session.turns.get(number)

    def check_room(self, session: Session, stored: StoredDocument) -> None:
        """Raises DocumentError where a document does not go with those that this visitor, or everybody, has."""
        others = [other for other in session.documents if other.document.sha256 != stored.document.sha256]
        held = sum(other.document.characters for other in others if not is_sample(other))
        check_room(stored.document, held, self.sessions.characters, self.library.limits)


def make_runtime(settings: Settings) -> Runtime:
    """The shared parts for these settings. Without persistence all that is kept goes with the process.

    Raises:
        DataFolderError: nothing can be kept where it is to be.
    """
    parent = settings.data_folder / "temporary" if settings.persist else temporary_parent()
    limits = Limits(
        max_bytes=settings.max_file_bytes,
        max_pages=settings.max_pages,
        max_characters=settings.max_characters,
        seconds=settings.read_seconds,
        all_characters=settings.max_all_characters,
    )
    # Before the folder of this process, since it makes the data folder, and says best why that fails.
    library = Library(settings.data_folder, limits, [sample_checksum()]) if settings.persist else None
    with usable(parent):
        own = OwnFolder(parent)
    folder = settings.data_folder if settings.persist else own.path / "data"
    library = library or Library(folder, limits, [sample_checksum()])
    caches = CacheStore(settings.cache_bytes, _kept_readings(settings), share=settings.share_reading)
    library.deleted.append(memo.forget)
    if caches.kept is not None:
        library.deleted.append(caches.kept.forget)
    return Runtime(
        settings=settings,
        library=library,
        secret=browser_secret(folder) if settings.persist else secrets.token_hex(16),
        folder=folder,
        own=own,
        sessions=SessionStore(settings.max_visitors, library.held_by, settings.evidence_bytes),
        caches=caches,
    )


def _kept_readings(settings: Settings) -> KeptReadings | None:
    """Where what was read outlives the process; None where nothing is to, or nothing can be written."""
    if not (settings.persist and settings.reading_bytes):
        return None
    try:
        return KeptReadings(settings.data_folder / "readings", settings.reading_bytes)
    except OSError as error:
        log.warning("Readings are not kept: %s cannot be written to (%s).", settings.data_folder, error.strerror)
        return None
