"""Asks the model a question about documents, step by step: what the chat, the comparison and the API all go through."""

from __future__ import annotations

from collections.abc import Generator, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from selfextend.methods import Method

from .documents.library import StoredDocument
from .evidence import further_request, passages_behind, recording_request, trimmed
from .model_shelf import LoadedModel
from .prompting import PLAIN, Exchange, Instructions, Prompt, build_prompt
from .sample import has_foreign_text
from .session import CacheStore, Session, Turn

if TYPE_CHECKING:
    from selfextend.generation import Answer, Event, ExtendWhen, GenerationSettings
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
    prefix, begun = reading_place(loaded, caches, session, question), question.begun
    said = len(begun.answer.token_ids) if begun else 0
    caches.make_room(_cache_bytes(loaded, question.method, len(prompt) + said + settings.max_new_tokens))
    try:
        answer = yield from answer_steps(
            loaded.ready,
            prompt.ids,
            settings,
            ReadingSettings(question.method, question.extend, chunk_tokens=chunk_tokens(loaded.model)),
            prefix=prefix,
            record=_recording(loaded, prompt, settings.max_new_tokens, begun),
            begun=begun.answer if begun else None,
        )
    finally:
        caches.make_room(0)
    if begun is None:
        loaded.reading_time.learn(answer.prompt_tokens, answer.reused_tokens, answer.prefill_seconds)
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


def reading_place(loaded: LoadedModel, caches: CacheStore, session: Session, question: Question) -> PrefixCache:
    """What this visitor's model has read of these documents by this method."""
    source = caches.held(_place(loaded, EVERYBODY, question.documents, question.method))
    prefix = caches.get(_place(loaded, session.visitor, question.documents, question.method))
    prefix.source = source
    return prefix


def seconds_to_read(
    loaded: LoadedModel, caches: CacheStore, session: Session, methods: Sequence[Method], tokens: int
) -> float | None:
    """How long this visitor waits until a prompt of so many tokens is read by each of the methods. None: unknown.

    What was read of the documents before does not count again.
    """
    seconds = 0.0
    for method in methods:
        places = (_place(loaded, visitor, session.documents, method) for visitor in (session.visitor, EVERYBODY))
        held = [len(prefix.tokens) for prefix in map(caches.held, places) if prefix is not None]
        one = loaded.reading_time.seconds(tokens, max(held, default=0))
        if one is None:
            return None
        seconds += one
    return seconds


def shared_place(
    loaded: LoadedModel, caches: CacheStore, documents: Sequence[StoredDocument], method: Method
) -> PrefixCache:
    """What the model has read of these documents for everybody: of the sample, which is nobody's own."""
    return caches.get(_place(loaded, EVERYBODY, documents, method))


def _place(loaded: LoadedModel, visitor: str, documents: Sequence[StoredDocument], method: Method) -> Hashable:
    contents = tuple(stored.document.sha256 for stored in documents)
    return loaded.name, id(loaded), visitor, contents, method
