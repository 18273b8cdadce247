"""Asks the model a question about documents, step by step: what the chat, the comparison and the API all go through."""

from __future__ import annotations

from collections.abc import Generator, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from selfextend.methods import Method

from .documents.library import StoredDocument
from .evidence import further_request, passages_behind, recording_request, trimmed
from .kept_readings import What
from .model_shelf import LoadedModel
from .prompting import PLAIN, Exchange, Instructions, Prompt, build_prompt
from .sample import has_foreign_text
from .session import CacheStore, Session, Turn

if TYPE_CHECKING:
    from selfextend.generation import Answer, Event, ExtendWhen, GenerationSettings
    from selfextend.line import Asked
    from selfextend.reading import PrefixCache
    from selfextend.recording import RecordingRequest

    from .evidence import Citation

# The step at which Stop is looked at: on a processor a long chunk would make it seem dead.
CHUNK_TOKENS = {"cuda": 2048}
DEFAULT_CHUNK_TOKENS = 512

EVERYBODY = ""
"""Stands for the visitor where what was read is shared."""


@dataclass(frozen=True, eq=False)
class Question:
    """What to ask, and how.

    Attributes:
        text: the question.
        documents: in the order in which they stand in the prompt.
        method: how to read.
        extend: "always", or "when_needed": only past the trained window.
        generation: how to answer. A plain prompt's stop strings are added.
        earlier: questions and answers that stay in the prompt.
        instructions: the system prompt, and whether to think.
        begun: the turn whose unfinished answer is to go on; its prompt is read, and the answer takes its place.
    """

    text: str
    documents: tuple[StoredDocument, ...]
    method: Method
    extend: ExtendWhen
    generation: GenerationSettings
    earlier: tuple[Exchange, ...] = ()
    instructions: Instructions = PLAIN
    begun: Turn | None = None

    @staticmethod
    def going_on(turn: Turn, generation: GenerationSettings) -> Question:
        """The question of a turn once more, for its answer to go on."""
        return Question(turn.question, turn.documents, turn.method, turn.extend, generation, begun=turn)


def chunk_tokens(model: Any) -> int:
    """Tokens to read between two looks at whether to go on, on this model's device."""
    return CHUNK_TOKENS.get(model.device.type, DEFAULT_CHUNK_TOKENS)


def prompt_of(loaded: LoadedModel, question: Question) -> Prompt:
    """What the model will read.

    Raises:
        SystemPromptError: the model takes no system prompt.
    """
    if question.begun is not None:
        return question.begun.prompt
    documents = [stored.document for stored in question.documents]
    return build_prompt(loaded.tokenizer, documents, question.text, question.earlier, question.instructions)


def answer_turn(
    loaded: LoadedModel, caches: CacheStore, session: Session, question: Question, prompt: Prompt | None = None
) -> Generator[Event, None, Turn]:
    """Ask, and yield what `selfextend.generation.answer_steps` yields. Returns the turn, kept in the session.

    Closing the generator stops the work; what was read stays in the visitor's cache. `selfextend.steps.EndNow` ends an
    answer that has begun; the turn then holds what was said, with the passages behind it.

    Raises:
        PastReachError: prompt and answer do not fit the settings' reach; nothing was computed.
        OutOfMemoryError: memory ran out; the cache was let go.
        ValueError: the question is empty, or the model takes no system prompt.
    """
    from selfextend.generation import ReadingSettings, answer_steps

    if not question.text.strip():
        raise ValueError("Type a question first.")
    prompt = prompt_of(loaded, question) if prompt is None else prompt
    settings = replace(question.generation, stop=(*question.generation.stop, *prompt.stop))
    reading, begun = (
        Place.of_question(loaded, question, prompt).reading(caches, session.visitor, prompt),
        question.begun,
    )
    prefix = reading.prefix
    said = len(begun.answer.token_ids) if begun else 0
    try:
        with in_use(caches, prefix):
            caches.make_room(_cache_bytes(loaded, question.method, len(prompt) + said + settings.max_new_tokens))
            answer = yield from answer_steps(
                loaded.ready,
                prompt.ids,
                settings,
                ReadingSettings(question.method, question.extend, chunk_tokens=chunk_tokens(loaded.model)),
                prefix=prefix,
                record=_recording(loaded, prompt, settings.max_new_tokens, begun),
                begun=begun.answer if begun else None,
                asked=_asked(loaded, session, prompt, prefix),
            )
            reading.keep(caches)
    finally:
        caches.make_room(0)
    if begun is None:
        loaded.reading_time.learn(answer.prompt_tokens, answer.reused_tokens, answer.prefill_seconds)
        loaded.reading_time.learn_answer(answer.decode_seconds)
    proves_nothing = loaded.is_bundled and has_foreign_text(question.documents)
    answer, citations = _with_citations(answer, prompt)
    turn = Turn(
        id=begun.id if begun else session.new_id(),
        prompt=prompt,
        answer=answer,
        method=question.method,
        extend=question.extend,
        profile=loaded.profile,
        model_name=loaded.label,
        documents=question.documents,
        prefix=prefix,
        citations=() if proves_nothing else citations,
        token_texts=tuple(loaded.tokenizer.decode([token]) for token in answer.token_ids),
        proves_nothing=proves_nothing,
        generation=settings,
    )
    session.keep(turn)
    return turn


def _asked(loaded: LoadedModel, session: Session, prompt: Prompt, prefix: PrefixCache) -> Asked:
    """For whom, and how long it will take. What is found on disk is found later, so this may be too much."""
    from selfextend.line import Asked

    read = loaded.reading_time.seconds(len(prompt), prefix.known(prompt.ids))
    return Asked(session.visitor, None if read is None else read + loaded.reading_time.answer_seconds)


def _recording(loaded: LoadedModel, prompt: Prompt, max_new_tokens: int, begun: Turn | None) -> RecordingRequest | None:
    """The attention to keep; None where the model hides it, or enough of the answer's is kept already."""
    if not loaded.supported:
        return None
    if begun is not None:
        record = begun.answer.attention
        return None if record is None else further_request(record, prompt.index, max_new_tokens)
    return recording_request(prompt.index, max_new_tokens, layers=loaded.extended_layers, heads=loaded.heads)


def _cache_bytes(loaded: LoadedModel, method: Method, tokens: int) -> int:
    """What keys and values of so many tokens will take."""
    bands = () if method.positions is None else method.positions.bands
    return loaded.estimate.kv_bytes(tokens, max((band.until for band in bands if band.until is not None), default=None))


def _with_citations(answer: Answer, prompt: Prompt) -> tuple[Answer, tuple[Citation, ...]]:
    """The answer with its record cut to what was said, and the passages behind it."""
    positions = answer.method.positions
    if answer.attention is None or positions is None:
        return answer, ()
    tokens = len(answer.token_ids)
    attention = trimmed(answer.attention, tokens)
    citations = passages_behind(attention, prompt.index, tokens, positions) if prompt.index.passages else []
    return replace(answer, attention=attention), tuple(citations)


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

    @staticmethod
    def of_question(loaded: LoadedModel, question: Question, prompt: Prompt) -> Place:
        """The place for a question's prompt and its answer."""
        said = len(question.begun.answer.token_ids) if question.begun else 0
        length = len(prompt) + said + question.generation.max_new_tokens
        return Place.of(loaded, question.documents, question.method, question.extend, length, question.instructions)

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
