"""What one visitor has: documents, answered questions and the jobs under way; and all the visitors of a process."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakValueDictionary, ref

from .conversation import Entry
from .documents.holders import Named
from .documents.library import Held, StoredDocument
from .jobs import InBackground, Job
from .prompting import Prompt

if TYPE_CHECKING:
    from selfextend.generation import Answer, ExtendWhen, GenerationSettings
    from selfextend.methods import Method
    from selfextend.profile import Profile
    from selfextend.reading import PrefixCache

    from .evidence import Citation
    from .whatif import PassageTest

T = TypeVar("T")

MAX_TURNS = 40
"""Answers of one visitor whose prompt and attention are kept in memory."""
TOKEN_BYTES = 20
"""Of a prompt's index, a token."""
LONGEST_WAIT_SECONDS = 3600.0
"""How long a question that waits for its turn keeps its visitor in memory: a page that is closed leaves it waiting."""

PROVES_NOTHING = "The teaching model can read only texts like the sample, so where it looked here proves nothing."


@dataclass(frozen=True, eq=False)
class Turn:
    """A question and its answer, with everything needed to look into it. Compared by identity.

    Attributes:
        id: unique within the visitor's conversation; page links carry it.
        prompt: what the model read; `prompt.index` says where each token comes from.
        answer: what it said; `answer.attention` is the record that evidence is made from.
        method: asked for; `answer.method` is the one used.
        extend: when it was to extend, as in `app.asking.Question`.
        profile: of the model that answered.
        model_name: the label of that model.
        documents: the documents in the prompt, with their files, in the prompt's order.
        prefix: what was read, to be read on from (by a test of a passage, say).
        citations: the passages that the answer's tokens looked at most, the first first; none where `proves_nothing`.
        token_texts: the text of each of the answer's tokens, by the tokenizer of the model that gave it.
        proves_nothing: whether the teaching model answered about texts of another kind than it can read: where it
            looked is then no evidence, and `PROVES_NOTHING` says so.
        opens_at: rank of the passage that the tabs open at.
        generation: how it was answered; None: greedily.
        model_id: the identity of the model that answered.
        tests: what became of the answer without a passage, by the passage's rank, as far as that was tested.
    """

    id: int
    prompt: Prompt
    answer: Answer
    method: Method
    extend: ExtendWhen
    profile: Profile
    model_name: str
    documents: tuple[StoredDocument, ...]
    prefix: PrefixCache
    citations: tuple[Citation, ...]
    token_texts: tuple[str, ...] = ()
    proves_nothing: bool = False
    opens_at: int = 1
    generation: GenerationSettings | None = None
    model_id: str = ""
    tests: dict[int, PassageTest] = field(default_factory=dict)

    @property
    def question(self) -> str:
        """As it was asked."""
        return self.prompt.question

    @property
    def nbytes(self) -> int:
        """About the bytes that looking into it takes: its record and its prompt's index."""
        attention = self.answer.attention
        return (0 if attention is None else attention.nbytes) + TOKEN_BYTES * len(self.prompt)


@dataclass(eq=False)
class Pending:
    """A question that is being answered.

    Attributes:
        question: as it was typed.
        entries: the conversation that it goes on from.
        before: the conversation to go back to where there is no answer.
        begun: the turn whose answer is to go on, in the last entry of `before`, or None.
        notes: "busy" (another question came meanwhile), "cleared" (the conversation was).
        entry: the question with its replies so far.
        work: what answers it; None while it waits for its turn.
        kept: the conversation with the answer, once it is complete.
        asked: when, by `time.monotonic`.
    """

    question: str
    entries: list[Entry]
    before: list[Entry]
    entry: Entry
    begun: Turn | None = None
    notes: set[str] = field(default_factory=set)
    work: InBackground[Any] | None = None
    kept: list[Entry] | None = None
    asked: float = field(default_factory=time.monotonic)

    @property
    def is_open(self) -> bool:
        """Whether somebody still waits for the answer."""
        if self.kept is not None:
            return False
        if self.work is not None:
            return self.work.is_wanted
        return time.monotonic() - self.asked < LONGEST_WAIT_SECONDS


class EvidenceRoom:
    """Bounds what everybody's turns hold together: the oldest go first, the newest stays whatever its size. Safe to use
    from several threads.

    Args:
        limit_bytes: of all turns.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._held: OrderedDict[tuple[int, int], tuple[ref[Session], int]] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, session: Session, turn: Turn) -> None:
        """A session has this turn now; others have to go where they are too many."""
        with self._lock:
            self._held[id(session), turn.id] = ref(session), turn.nbytes
            self._held.move_to_end((id(session), turn.id))
            for key, (holder, _) in list(self._held.items()):
                other = holder()
                if other is None or key[1] not in other.turns:
                    del self._held[key]
            total = sum(nbytes for _, nbytes in self._held.values())
            while total > self.limit_bytes and len(self._held) > 1:
                (_, number), (holder, nbytes) = self._held.popitem(last=False)
                total -= nbytes
                if (other := holder()) is not None:
                    other.turns.pop(number, None)


@dataclass(eq=False)
class Session:
    """One visitor's documents and answers, and a job for each thing that can be stopped. Compared by identity.

    Attributes:
        missing: of documents that this visitor had and that are no longer kept, checksum and name.
        pending: the question that is being answered, or was answered last: a page that is reloaded before its browser
            has kept the answer goes on with it.
        answering: questions that are asked in the chat.
        measuring: the loss over the documents.
        testing: whether a passage mattered.
        probing: a run of the lab.
        learning: a cell of the lesson.
        reading: files that are being added.
        forgotten: everything of this visitor was deleted; what is still under way is to keep nothing.
        room: what the turns share with those of others; None for a session of its own.
    """

    visitor: str
    documents: list[StoredDocument] = field(default_factory=list)
    missing: list[Named] = field(default_factory=list)
    turns: OrderedDict[int, Turn] = field(default_factory=OrderedDict)
    last_id: int = 0
    pending: Pending | None = None
    answering: Job = field(default_factory=Job)
    measuring: Job = field(default_factory=Job)
    testing: Job = field(default_factory=Job)
    probing: Job = field(default_factory=Job)
    learning: Job = field(default_factory=Job)
    reading: Job = field(default_factory=Job)
    forgotten: bool = False
    room: EvidenceRoom | None = None

    @property
    def jobs(self) -> tuple[Job, ...]:
        """All that can be under way."""
        return self.answering, self.measuring, self.testing, self.probing, self.learning, self.reading

    @property
    def is_busy(self) -> bool:
        """Whether something is under way or asked."""
        return any(job.is_running for job in self.jobs) or (self.pending is not None and self.pending.is_open)

    @property
    def kept(self) -> list[Named]:
        """Checksums and names of the documents."""
        return [(stored.document.sha256, stored.document.name) for stored in self.documents]

    @property
    def named(self) -> list[Named]:
        """Checksums and names of the documents, and of those that are no longer kept."""
        return self.kept + self.missing

    @property
    def contents(self) -> tuple[str, ...]:
        """The checksums of the documents, in their order."""
        return tuple(stored.document.sha256 for stored in self.documents)

    @property
    def characters(self) -> int:
        """Of the documents' text."""
        return sum(stored.document.characters for stored in self.documents)

    def new_id(self) -> int:
        """A number that no turn of this visitor has had."""
        self.last_id += 1
        return self.last_id

    def count_from(self, entries: Iterable[Entry]) -> None:
        """Give no number again that a turn of this conversation has, though the turn itself is no longer in memory."""
        self.last_id = max([self.last_id, *(reply.turn for entry in entries for reply in entry.replies)])

    def keep(self, turn: Turn) -> None:
        """Remember a turn, and forget the oldest where there are too many."""
        self.turns[turn.id] = turn
        while len(self.turns) > MAX_TURNS:
            self.turns.popitem(last=False)
        if self.room is not None:
            self.room.add(self, turn)

    def last_turn(self, entries: Sequence[Entry], model_id: str) -> Turn | None:
        """The newest answer in a conversation that is still in memory, unless a model of another identity gave it."""
        ids = [reply.turn for entry in entries for reply in entry.replies]
        turn = next((self.turns[turn] for turn in reversed(ids) if turn in self.turns), None)
        return turn if turn is not None and turn.model_id == model_id else None


class SessionStore:
    """The visitors of this process. Safe to use from several threads.

    Looking at a visitor makes nobody else go: only `keep` does, and never who is busy. Whoever has gone has lost the
    evidence of their answers, and finds their documents again. There is one Session of a visitor at a time: while
    anybody holds it, everybody gets that one, so that a stop reaches what is running.

    Args:
        max_visitors: kept in memory, unless more are busy.
        held_by: what is kept of a visitor's documents; None where nothing is known of them.
        evidence_bytes: what everybody's answers may hold together, see `EvidenceRoom`.
    """

    def __init__(
        self,
        max_visitors: int,
        held_by: Callable[[str], Held | None] = lambda visitor: None,
        evidence_bytes: int = 10**9,
    ) -> None:
        self.max_visitors = max_visitors
        self._room = EvidenceRoom(evidence_bytes)
        self._held_by = held_by
        self._kept: OrderedDict[str, Session] = OrderedDict()
        self._alive: WeakValueDictionary[str, Session] = WeakValueDictionary()
        self._guests: set[Session] = set()
        self._lock = threading.Lock()

    def get(self, visitor: str) -> Session:
        """The visitor's session: the one that there is, or one with the documents that are kept of this visitor."""
        with self._lock:
            session = self._alive.get(visitor)
            if session is not None:
                if visitor in self._kept:
                    self._kept.move_to_end(visitor)
                return session
        held = self._held_by(visitor)  # not under the lock: it takes a while to read long documents
        documents, missing = ([], []) if held is None else held
        found = Session(visitor, documents, missing, room=self._room)
        with self._lock:
            session = self._alive.setdefault(visitor, found)
        if held is not None:
            self.keep(session)
        return session

    def keep(self, session: Session) -> None:
        """Keep this one in memory, as the most recently used, and let go of others where there are too many.

        Who has no answers goes before who has, since nothing is lost of them; else the least recently used does.
        """
        with self._lock:
            if session.forgotten:
                return
            self._kept[session.visitor] = session
            self._kept.move_to_end(session.visitor)
            too_many = len(self._kept) - self.max_visitors
            if too_many > 0:
                idle = [other for other in self._kept.values() if other is not session and not other.is_busy]
                for other in sorted(idle, key=lambda other: bool(other.turns))[:too_many]:
                    del self._kept[other.visitor]

    @contextmanager
    def guest(self, session: Session) -> Iterator[None]:
        """Inside a `with` block the documents of a session that is nobody's count as everybody's do."""
        with self._lock:
            self._guests.add(session)
        try:
            yield
        finally:
            with self._lock:
                self._guests.discard(session)

    def forget(self, visitor: str) -> Session:
        """Let go of everything of a visitor, and stop what is under way. Returns what the session was."""
        with self._lock:
            session = self._alive.pop(visitor, None) or Session(visitor)
            self._kept.pop(visitor, None)
            session.forgotten = True
        for job in session.jobs:
            job.stop()
        if session.pending is not None:
            session.pending.notes.add("cleared")
        session.pending = None
        session.turns.clear()
        session.documents, session.missing = [], []
        return session

    def __contains__(self, visitor: object) -> bool:
        with self._lock:
            return visitor in self._alive

    def __len__(self) -> int:
        """How many are kept in memory."""
        with self._lock:
            return len(self._kept)

    @property
    def characters(self) -> int:
        """Of the text of everybody's documents."""
        with self._lock:
            return sum(session.characters for session in (*self._kept.values(), *self._guests))
