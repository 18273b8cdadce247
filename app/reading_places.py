"""Where what was read of documents is held, for a visitor or for everybody, in memory and on disk."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from selfextend.methods import Method

from .cache_store import CacheStore
from .documents.library import StoredDocument
from .kept_readings import What
from .model_shelf import LoadedModel
from .prompting import PLAIN, Instructions, Prompt
from .session import Session

if TYPE_CHECKING:
    from selfextend.generation import ExtendWhen
    from selfextend.reading import PrefixCache

EVERYBODY = ""
"""Stands for the visitor where what was read is shared."""


class ReadingKey(NamedTuple):
    """What is held of some documents for a visitor or for `EVERYBODY`, by a method of a loaded model."""

    loaded: int
    owner: str
    documents: tuple[tuple[str, str], ...]
    method: Method
    instructions: Instructions


class ContinuationKey(NamedTuple):
    """What was read for a visitor, from a reading of his own or of `EVERYBODY` on."""

    visitor: str
    owner: str
    whole: ReadingKey


def forget_document(caches: CacheStore, sha256: str, visitor: str | None = None) -> None:
    """Let go of what was read of a document, in memory and on disk: of all of it, or of what was read for a visitor
    alone."""

    def unwanted(key: Hashable) -> bool:
        of_it = any(sha256 == checksum for checksum, _ in _whole(key).documents)
        return of_it and (visitor is None or _is_of(visitor, key))

    caches.let_go(unwanted)
    if caches.kept is not None:
        caches.kept.forget(sha256, visitor)


def forget_visitor(caches: CacheStore, visitor: str) -> None:
    """Let go of what was read for a visitor alone, in memory and on disk."""
    caches.let_go(partial(_is_of, visitor))
    if caches.kept is not None:
        caches.kept.forget_owner(visitor)


def _is_of(visitor: str, key: Hashable) -> bool:
    return visitor == (key.visitor if isinstance(key, ContinuationKey) else _whole(key).owner)


def _whole(key: Hashable) -> ReadingKey:
    whole = key.whole if isinstance(key, ContinuationKey) else key
    assert isinstance(whole, ReadingKey)
    return whole


class Reading(NamedTuple):
    """What was read for a visitor, and what its beginning is of, should it be kept."""

    prefix: PrefixCache
    what: What

    def keep(self, caches: CacheStore) -> None:
        """Have what was read of the documents outlive this process, where that is wanted."""
        from selfextend.beginning import Continuation
        from selfextend.line import line_of

        if caches.kept is not None and isinstance(self.prefix, Continuation):
            line = line_of(self.what.model)
            caches.kept.keep(self.what, self.prefix.beginning, lambda: line.in_use)


@dataclass(frozen=True)
class Place:
    """Where what was read of some documents by a method is held.

    It is held up to the end of the last document, or of an earlier one where that much is there already: then what
    comes after it is read, and held, besides.

    Attributes:
        loaded: the model.
        documents: each one's checksum and name, which is in the prompt too, in the prompt's order.
        method: settled.
        instructions: which may stand before the documents.
    """

    loaded: LoadedModel
    documents: tuple[tuple[str, str], ...]
    method: Method
    instructions: Instructions

    @staticmethod
    def of(
        loaded: LoadedModel,
        documents: Sequence[StoredDocument],
        method: Method,
        extend: ExtendWhen,
        length: int,
        instructions: Instructions = PLAIN,
    ) -> Place:
        """The place for a prompt and answer of `length` tokens."""
        from selfextend.generation import method_in_use

        named = tuple((stored.document.sha256, stored.document.name) for stored in documents)
        return Place(loaded, named, method_in_use(method, extend, length, loaded.profile), instructions)

    def reading(self, caches: CacheStore, visitor: str, prompt: Prompt) -> Reading:
        """What was read for this visitor of a prompt about the documents, here or before a restart."""
        owner, count = self._begins(caches, visitor, prompt)
        key, tokens = self._continuation_key(visitor, owner), prompt.beginning(count)
        what = self._what(owner, count)
        if not tokens:
            return Reading(caches.get(key), what)
        recall = None if caches.kept is None else partial(caches.kept.recall, what, tokens)
        return Reading(caches.continuation(key, caches.beginning(self._key(owner, count), tokens, recall)), what)

    def tokens_read(self, caches: CacheStore, visitor: str) -> int:
        """How many tokens of such a prompt need not be read, as far as that can be told without one."""
        owner, count = self._begins(caches, visitor, None)
        own = caches.held(self._continuation_key(visitor, owner))
        held = own or caches.held(self._key(owner, count))
        return 0 if held is None else held.tokens_read

    def _begins(self, caches: CacheStore, visitor: str, prompt: Prompt | None) -> tuple[str, int]:
        """Whose reading to go on from, the visitor's or everybody's, and how many of the documents it is of."""
        for count in range(len(self.documents), 0, -1):
            if caches.held(self._key(EVERYBODY, count)) is not None:
                return EVERYBODY, count
            held = caches.held(self._key(visitor, count))
            if held is not None and held.tokens_read:
                return visitor, count
            if caches.kept is not None and prompt is not None:
                tokens = prompt.beginning(count)
                for owner in (EVERYBODY,) if caches.share else (visitor,):
                    if caches.kept.holds(self._what(owner, count), tokens):
                        return owner, count
        # What visitors share is the first document: a class's handout, to which each may add files of his own.
        return (EVERYBODY, min(1, len(self.documents))) if caches.share else (visitor, len(self.documents))

    def _key(self, owner: str, count: int) -> ReadingKey:
        """Of what was read of the first documents for a visitor or for `EVERYBODY`."""
        return ReadingKey(id(self.loaded), owner, self.documents[:count], self.method, self.instructions)

    def _continuation_key(self, visitor: str, owner: str) -> ContinuationKey:
        return ContinuationKey(visitor, owner, self._key(visitor, len(self.documents)))

    def _what(self, owner: str, count: int) -> What:
        """As files are told what they are of."""
        loaded, checksums = self.loaded, tuple(checksum for checksum, _ in self.documents[:count])
        return What(loaded.model, loaded.label, loaded.configuration, loaded.trained_window, owner, checksums)


def seconds_to_read(
    loaded: LoadedModel,
    caches: CacheStore,
    session: Session,
    methods: Sequence[Method],
    extend: ExtendWhen,
    instructions: Instructions,
    tokens: int,
    room: int = 0,
) -> float | None:
    """How long this visitor waits until a prompt of so many tokens is read by each of the methods. None: unknown.

    What was read of the documents before does not count again.

    Args:
        room: tokens that the answer may have.
    """
    seconds = 0.0
    for method in methods:
        place = Place.of(loaded, session.documents, method, extend, tokens + room, instructions)
        one = loaded.reading_time.seconds(tokens, place.tokens_read(caches, session.visitor))
        if one is None:
            return None
        seconds += one
    return seconds


@contextmanager
def in_use(caches: CacheStore, prefix: PrefixCache) -> Iterator[None]:
    """Inside a `with` block nothing that is read into is let go of."""
    from selfextend.beginning import Continuation

    with caches.using(prefix, *([prefix.beginning] if isinstance(prefix, Continuation) else [])):
        yield
