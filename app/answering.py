"""From a question to replies in the conversation, as a stream of what to show: progress, growing text, replies.

Runs one method, or several one after another for comparison. Knows nothing about gradio.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from app.asking import Question, answer_turn
from app.conversation import Reply, Source, method_words
from app.jobs import JobStopped
from app.model_shelf import LoadedModel
from app.session import CacheStore, Session, Turn
from selfextend.steps import Progress, Running

UPDATE_SECONDS = 0.2
"""Least time between two updates of the chat."""


@dataclass(frozen=True)
class Shown:
    """What to show now.

    Attributes:
        replies: so far, the growing one last.
        progress: what is going on.
        turns: finished ones, in the order of `replies`.
        done: whether this is the last.
    """

    replies: tuple[Reply, ...]
    progress: Progress
    turns: tuple[Turn, ...] = ()
    done: bool = False


def reply_steps(
    loaded: LoadedModel, caches: CacheStore, session: Session, questions: Sequence[Question]
) -> Generator[Shown, None, None]:
    """Ask the same question in each of the ways given, and yield what to show, a few times a second at most.

    Stopping `session.answering` ends it between two chunks or tokens: the last `Shown` then holds what there is, with
    a word about it. Closing the generator stops the work too.

    Raises:
        PastReachError, OutOfMemoryError, ValueError: as `app.asking.answer_turn`.
    """
    replies: list[Reply] = []
    turns: list[Turn] = []
    for question in questions:
        name = method_words(question.method, _scaling(question))
        for shown in _one(loaded, caches, session, question, f"{name}: " if len(questions) > 1 else ""):
            if isinstance(shown, Turn):
                turns.append(shown)
                replies.append(_reply_of(shown))
            elif isinstance(shown, Reply):  # it was stopped
                replies.append(shown)
                yield Shown(tuple(replies), Progress("Stopped.", None), tuple(turns), True)
                return
            else:
                yield Shown((*replies, *shown.replies), shown.progress, tuple(turns))
    yield Shown(tuple(replies), Progress("", None), tuple(turns), True)


def _one(
    loaded: LoadedModel, caches: CacheStore, session: Session, question: Question, prefix: str
) -> Generator[Shown | Turn | Reply, None, None]:
    """One method: what to show, then its turn; or a reply that was stopped."""
    from selfextend.generation import NewToken, PrefillProgress

    text, read, began, last = "", None, time.perf_counter(), 0.0
    tokens, first = 0, 0.0
    try:
        with Running(session.answering.follow(answer_turn(loaded, caches, session, question))) as running:
            for event in running:
                now = time.perf_counter()
                if isinstance(event, PrefillProgress):
                    read = event
                    progress = Progress(prefix + _reading(event), event.done / event.total)
                elif isinstance(event, NewToken):
                    tokens += 1
                    if tokens == 1:
                        first, last = now, 0.0
                    text = event.text
                    speed = f", {(tokens - 1) / (now - first):.0f} tokens/s" if tokens > 1 else ""
                    progress = Progress(f"{prefix}answering: {tokens} tokens{speed}", None)
                else:
                    progress = Progress(prefix + "waiting for the model, which answers somebody else", None)
                if now - last >= UPDATE_SECONDS:
                    last = now
                    yield Shown((Reply(0, question.method, text, query_scaling=_scaling(question)),), progress)
            yield running.result
    except JobStopped:
        yield _stopped(question, text, read, tokens, first, time.perf_counter() - began)


def _scaling(question: Question) -> str:
    return "none" if question.config is None else question.config.query_scaling


def _reading(event: Any) -> str:
    words = f"reading: {event.done:,} of {event.total:,} tokens"
    if event.reused:
        words += f", {event.reused:,} of them read before"
    if math.isfinite(event.seconds_left) and event.done < event.total:
        words += f", about {max(1, math.ceil(event.seconds_left))} s left"
    return words


def _stopped(question: Question, text: str, read: Any, tokens: int, first: float, seconds: float) -> Reply:
    if tokens:
        words = f"Stopped after {tokens} tokens; a stopped answer cites nothing. Ask again for the rest."
    elif read is not None and read.done < read.total:
        words = (
            f"Stopped after reading {read.done:,} of {read.total:,} tokens. What was read is kept: "
            "the next question goes on from there."
        )
    else:
        words = "Stopped before the answer began."
    return Reply(
        0,
        question.method,
        text,
        stopped=words,
        query_scaling=_scaling(question),
        prompt_tokens=read.total if read else 0,
        new_tokens=tokens,
        seconds=seconds,
    )


def _reply_of(turn: Turn) -> Reply:
    answer = turn.answer
    config = turn.config
    return Reply(
        turn=turn.id,
        method=turn.method,
        text=answer.text.strip(),
        sources=tuple(
            Source(
                rank=citation.rank,
                document=citation.name,
                page=citation.page,
                page_word=citation.page_word,
                text=citation.text,
                share=citation.share,
                level=citation.level,
                relative_position=citation.relative_position,
                plus_minus=citation.plus_minus,
            )
            for citation in turn.citations
        ),
        **({} if config is None else asdict(config)),
        prompt_tokens=answer.prompt_tokens,
        reused_tokens=answer.reused_tokens,
        new_tokens=len(answer.token_ids),
        first_token_seconds=answer.prefill_seconds,
        seconds=answer.prefill_seconds + answer.decode_seconds,
        tokens_per_second=answer.tokens_per_second,
        cache_bytes=turn.prefix.nbytes,
    )
