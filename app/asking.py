"""Asks the model a question about documents, step by step: what the chat, the comparison and the API all go through.

Knows nothing about gradio.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from app.documents.library import StoredDocument
from app.evidence import passages_behind, recording_request, trimmed
from app.model_shelf import LoadedModel
from app.prompting import Exchange, Prompt, build_prompt
from app.session import CacheStore, Method, Session, Turn
from selfextend.config import SelfExtendConfig

if TYPE_CHECKING:
    from app.evidence import Citation
    from selfextend.generation import Answer, Event, ExtendWhen, GenerationSettings, PrefixCache

# The step at which Stop is looked at: on a processor a long chunk would make it seem dead.
CHUNK_TOKENS = {"cuda": 2048}
DEFAULT_CHUNK_TOKENS = 512


@dataclass(frozen=True, eq=False)
class Question:
    """What to ask, and how.

    Attributes:
        text: the question.
        documents: in the order in which they stand in the prompt.
        config: SelfExtend's settings. None is the untouched model; group_size 1 is vanilla with its query scaling.
        method: "vanilla", which answers past its reach too, or "selfextend".
        extend: "always", or "when_needed": only past the trained window.
        generation: how to answer. A plain prompt's stop strings are added.
        earlier: questions and answers that stay in the prompt.
    """

    text: str
    documents: tuple[StoredDocument, ...]
    config: SelfExtendConfig | None
    method: Method
    extend: ExtendWhen
    generation: GenerationSettings
    earlier: tuple[Exchange, ...] = ()


def chunk_tokens(model: Any) -> int:
    """Tokens to read between two looks at whether to go on, on this model's device."""
    return CHUNK_TOKENS.get(model.device.type, DEFAULT_CHUNK_TOKENS)


def prompt_of(loaded: LoadedModel, question: Question) -> Prompt:
    """What the model will read."""
    documents = [stored.document for stored in question.documents]
    return build_prompt(loaded.tokenizer, documents, question.text, question.earlier)


def answer_turn(
    loaded: LoadedModel, caches: CacheStore, session: Session, question: Question, prompt: Prompt | None = None
) -> Generator[Event, None, Turn]:
    """Ask, and yield what `selfextend.generation.answer_steps` yields. Returns the turn, kept in the session.

    Closing the generator stops the work; what was read stays in the visitor's cache.

    Raises:
        PastReachError: prompt and answer do not fit the settings' reach; nothing was computed.
        OutOfMemoryError: memory ran out; the cache was let go.
        ValueError: the question is empty.
    """
    from selfextend.generation import Answer, answer_steps

    if not question.text.strip():
        raise ValueError("Type a question first.")
    prompt = prompt_of(loaded, question) if prompt is None else prompt
    config = question.config
    settings = replace(question.generation, stop=(*question.generation.stop, *prompt.stop))
    prefix = reading_place(loaded, caches, session, question.documents, config)
    neighbor_window = config.neighbor_window if config else None
    expected = loaded.estimate.kv_bytes(len(prompt) + settings.max_new_tokens, neighbor_window)
    caches.make_room(expected)
    recording = None
    if loaded.supported:
        recording = recording_request(
            prompt.index, settings.max_new_tokens, layers=loaded.extended_layers, heads=loaded.heads
        )
    steps: Any = answer_steps(
        loaded.model,
        loaded.tokenizer,
        prompt.ids,
        settings,
        config=config,
        extend=question.extend,
        prefix=prefix,
        trained_window=loaded.trained_window,
        record=recording,
        chunk_tokens=chunk_tokens(loaded.model),
        past_reach="allow" if question.method == "vanilla" else "refuse",
    )
    try:
        for event in steps:
            yield event
            if isinstance(event, Answer):
                event, citations = _with_citations(event, prompt)
                turn = Turn(
                    id=session.new_id(),
                    prompt=prompt,
                    answer=event,
                    config=config,
                    method=question.method,
                    trained_window=loaded.trained_window,
                    model_name=loaded.label,
                    documents=question.documents,
                    prefix=prefix,
                    citations=citations,
                    token_texts=tuple(loaded.tokenizer.decode([token]) for token in event.token_ids),
                )
                session.keep(turn)
                return turn
    finally:
        steps.close()
        caches.make_room(0)
    raise AssertionError("the steps end with the answer")


def _with_citations(answer: Answer, prompt: Prompt) -> tuple[Answer, tuple[Citation, ...]]:
    """The answer with its record cut to what was said, and the passages behind it."""
    if answer.attention is None or not prompt.index.passages:
        return answer, ()
    tokens = len(answer.token_ids)
    answer = replace(answer, attention=trimmed(answer.attention, tokens))
    assert answer.attention is not None
    settings = answer.config or SelfExtendConfig(1, 1)
    return answer, tuple(passages_behind(answer.attention, prompt.index, tokens, settings))


def reading_place(
    loaded: LoadedModel,
    caches: CacheStore,
    session: Session,
    documents: tuple[StoredDocument, ...],
    config: SelfExtendConfig | None,
) -> PrefixCache:
    """What this visitor's model has read of these documents with these settings."""
    contents = tuple(stored.document.sha256 for stored in documents)
    return caches.get((loaded.name, id(loaded), session.visitor, contents, config))
