"""From a question to replies in the conversation, as a stream of what to show: progress, growing text, replies."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from selfextend.methods import Method
from selfextend.steps import Progress, Running

from .asking import Question, answer_turn
from .conversation import Reply, Source
from .evidence import Citation
from .jobs import JobStopped, Pace
from .model_shelf import LoadedModel
from .session import CacheStore, Session, Turn


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
        watched = _Watched(question, f"{question.method.title}: " if len(questions) > 1 else "")
        try:
            with Running(session.answering.follow(answer_turn(loaded, caches, session, question))) as answering:
                for event in answering:
                    if watched.sees(event):
                        yield Shown((*replies, watched.reply()), watched.progress, tuple(turns))
                turns.append(answering.result)
        except JobStopped:
            yield Shown((*replies, watched.stopped()), Progress("Stopped."), tuple(turns), True)
            return
        replies.append(_reply_of(turns[-1]))
    yield Shown(tuple(replies), Progress(""), tuple(turns), True)


@dataclass
class _Watched:
    """What can be said of an answer that is on its way."""

    question: Question
    prefix: str
    text: str = ""
    progress: Progress = field(default_factory=lambda: Progress("starting"))
    began: float = field(default_factory=time.perf_counter)
    tokens: int = 0
    _read: Any = None
    _first: float = 0.0
    _pace: Pace = field(default_factory=Pace)

    def sees(self, event: Any) -> bool:
        """Take in an event. Whether there is something to show again."""
        from selfextend.generation import NewToken, PrefillProgress

        now = time.perf_counter()
        if isinstance(event, NewToken):
            self.tokens, self.text = self.tokens + 1, event.text
            if self.tokens == 1:
                self._first, self._pace = now, Pace()
            speed = f", {(self.tokens - 1) / (now - self._first):.0f} tokens/s" if self.tokens > 1 else ""
            self.progress = Progress(f"{self.prefix}answering: {self.tokens} tokens{speed}")
        else:
            if isinstance(event, PrefillProgress):
                self._read = event
            self.progress = Progress(self.prefix + event.words, event.fraction, event.seconds_left)
        return self._pace.due()

    def reply(self, **more: Any) -> Reply:
        return reply_by(self.question.method, turn=0, text=self.text, **more)

    def stopped(self) -> Reply:
        read = self._read
        if self.tokens:
            words = f"Stopped after {self.tokens} tokens; a stopped answer cites nothing. Ask again for the rest."
        elif read is not None and read.done < read.total:
            words = (
                f"Stopped after reading {read.done:,} of {read.total:,} tokens. What was read is kept: "
                "the next question goes on from there."
            )
        else:
            words = "Stopped before the answer began."
        return self.reply(
            stopped=words,
            prompt_tokens=read.total if read else 0,
            new_tokens=self.tokens,
            seconds=time.perf_counter() - self.began,
        )


def reply_by(method: Method, **more: Any) -> Reply:
    """A reply with the method's name and numbers."""
    numbers = {key: value for key, value in method.settings().items() if key in ("group_size", "neighbor_window")}
    return Reply(method=method.kind, query_scaling=method.query_scaling, **numbers, **more)


def _reply_of(turn: Turn) -> Reply:
    answer = turn.answer
    return reply_by(
        turn.method,
        turn=turn.id,
        text=answer.text.strip(),
        sources=tuple(map(_source_of, turn.citations)),
        prompt_tokens=answer.prompt_tokens,
        reused_tokens=answer.reused_tokens,
        new_tokens=len(answer.token_ids),
        first_token_seconds=answer.prefill_seconds,
        seconds=answer.prefill_seconds + answer.decode_seconds,
        tokens_per_second=answer.tokens_per_second,
        cache_bytes=turn.prefix.nbytes,
    )


def _source_of(citation: Citation) -> Source:
    kept = {known.name: getattr(citation, known.name) for known in fields(Source) if known.name != "document"}
    return Source(document=citation.name, **kept)
