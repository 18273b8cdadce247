"""Asks the model a question about documents, step by step: what the chat, the comparison and the API all go through."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from selfextend.methods import Method

from .cache_store import CacheStore
from .documents.document import megabytes
from .documents.library import StoredDocument
from .evidence import further_request, passages_behind, recording_request, trimmed
from .model_shelf import LoadedModel
from .prompting import PLAIN, Exchange, Instructions, Prompt, build_prompt
from .reading_places import Place, in_use
from .sample import has_foreign_text
from .session import Session, Turn

if TYPE_CHECKING:
    from selfextend.generation import Answer, Event, ExtendWhen, GenerationSettings
    from selfextend.line import Asked
    from selfextend.reading import PrefixCache
    from selfextend.recording import RecordingRequest

    from .evidence import Citation

MAX_PROMPT_TOKENS = 1_000_000
"""Of documents and question together, and of a text of the lab."""
# The step at which Stop is looked at: on a processor a long chunk would make it seem dead.
CHUNK_TOKENS = {"cuda": 2048}
DEFAULT_CHUNK_TOKENS = 512


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
        ValueError: it is too long.
    """
    if question.begun is not None:
        return question.begun.prompt
    documents = [stored.document for stored in question.documents]
    prompt = build_prompt(loaded.tokenizer, documents, question.text, question.earlier, question.instructions)
    if len(prompt) > MAX_PROMPT_TOKENS:
        raise ValueError(f"The prompt has {len(prompt):,} tokens, and the limit is {MAX_PROMPT_TOKENS:,}.")
    return prompt


def place_of(loaded: LoadedModel, question: Question, prompt: Prompt) -> Place:
    """Where what is read for a question's prompt and its answer is held."""
    length = _most_tokens(question, prompt)
    return Place.of(loaded, question.documents, question.method, question.extend, length, question.instructions)


def _most_tokens(question: Question, prompt: Prompt) -> int:
    """Of the prompt and the longest answer, with what of it was said before."""
    said = len(question.begun.answer.token_ids) if question.begun else 0
    return len(prompt) + said + question.generation.max_new_tokens


def answer_turn(
    loaded: LoadedModel, caches: CacheStore, session: Session, question: Question, prompt: Prompt | None = None
) -> Generator[Event, None, Turn]:
    """Ask, and yield what `selfextend.generation.answer_steps` yields. Returns the turn, kept in the session.

    Closing the generator stops the work; what was read stays in the visitor's cache. `selfextend.steps.EndNow` ends an
    answer that has begun; the turn then holds what was said, with the passages behind it.

    Raises:
        PastReachError: prompt and answer do not fit the settings' reach; nothing was computed.
        OutOfMemoryError: memory ran out; the cache was let go.
        ValueError: the question is empty, too long, or too long for the memory; or the model takes no system prompt.
    """
    from selfextend.generation import ReadingSettings, answer_steps

    if not question.text.strip():
        raise ValueError("Type a question first.")
    prompt = prompt_of(loaded, question) if prompt is None else prompt
    question = replace(question, method=question.method.at(loaded.profile, _most_tokens(question, prompt)))
    settings = replace(question.generation, stop=(*question.generation.stop, *prompt.stop))
    begun = question.begun
    check_memory(loaded, question.method, _most_tokens(question, prompt), caches.nbytes)
    reading = place_of(loaded, question, prompt).reading(caches, session.visitor, prompt)
    prefix = reading.prefix
    try:
        with in_use(caches, prefix):
            caches.make_room(_cache_bytes(loaded, question.method, _most_tokens(question, prompt)))
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
        model_id=loaded.identity,
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


def check_memory(loaded: LoadedModel, method: Method, tokens: int, held_bytes: int = 0) -> None:
    """Refuse a text whose keys and values do not fit the memory that is free, where the system would end the process.
    A CUDA device's memory may run out without harm.

    Args:
        method: settled.
        tokens: of the text, with its answer.
        held_bytes: what can be let go of for it.

    Raises:
        ValueError: it does not fit.
    """
    from selfextend.loading.hardware import available_bytes

    device = loaded.model.device
    if device.type == "cuda":
        return
    needed, free = _cache_bytes(loaded, method, tokens), available_bytes(device) + held_bytes
    if needed > free:
        raise ValueError(
            f"What is kept of {tokens:,} tokens takes {megabytes(needed)} of memory, and {megabytes(free)} are free: "
            "use fewer pages, a smaller model or a quantized one."
        )


def _with_citations(answer: Answer, prompt: Prompt) -> tuple[Answer, tuple[Citation, ...]]:
    """The answer with its record cut to what was said, and the passages behind it."""
    positions = answer.method.positions
    if answer.attention is None or positions is None:
        return answer, ()
    tokens = len(answer.token_ids)
    attention = trimmed(answer.attention, tokens)
    citations = passages_behind(attention, prompt.index, tokens, positions) if prompt.index.passages else []
    return replace(answer, attention=attention), tuple(citations)
