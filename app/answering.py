"""From a question to replies in the conversation, as a stream of what to show: progress, growing text, replies."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from selfextend.methods import Method
from selfextend.steps import Progress, Running

from .asking import Question, answer_turn
from .cache_store import CacheStore
from .conversation import Reply, Source, speed_words
from .evidence import Citation, worth_a_look
from .jobs import JobStopped, Pace
from .model_shelf import LoadedModel
from .session import PROVES_NOTHING, Session, Turn

STOPPED = Progress("Stopped.")
WAITING_SECONDS = 2.0
"""Between two updates for somebody who waits for the model: thirty who wait are not to keep the computer busy."""
GROWING_SECONDS = 0.4
"""Between two updates of a growing answer: server and browser take what they need for one from the model."""


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
    loaded: LoadedModel,
    caches: CacheStore,
    session: Session,
    questions: Sequence[Question | None],
    begun: Sequence[Reply] = (),
) -> Generator[Shown, None, None]:
    """Ask the same question in each of the ways given, and yield what to show, a few times a second at most.

    Stopping `session.answering` ends it between two chunks or tokens: the last `Shown` then holds what there is, with
    a word about it. Closing the generator stops the work too.

    Args:
        questions: a question for each reply; None where the one in `begun` stays as it is.
        begun: the replies that there are already, where their answers go on.

    Raises:
        PastReachError, OutOfMemoryError, ValueError: as `app.asking.answer_turn`.
    """
    replies: list[Reply] = list(begun)
    turns: list[Turn] = []
    for place, question in enumerate(questions):
        if question is None:
            continue
        before, after = replies[:place], replies[place + 1 :]
        watched = _Watched(question, f"{question.method.title}: " if len(questions) > 1 else "")
        try:
            with Running(session.answering.follow(answer_turn(loaded, caches, session, question))) as answering:
                for event in answering:
                    if watched.sees(event):
                        yield Shown((*before, watched.reply(), *after), watched.progress, tuple(turns))
                turns.append(answering.result)
        except JobStopped:
            reply = replies[place] if question.begun else watched.stopped()
            yield Shown((*before, reply, *after), STOPPED, tuple(turns), True)
            return
        replies = [*before, reply_of(turns[-1]), *after]
        if turns[-1].answer.stopped_by == "interrupted":
            yield Shown(tuple(replies), STOPPED, tuple(turns), True)
            return
    yield Shown(tuple(replies), Progress(""), tuple(turns), True)


@dataclass
class _Watched:
    """What can be said of an answer that is on its way."""

    question: Question
    prefix: str
    progress: Progress = field(default_factory=lambda: Progress("starting"))
    tokens: int = 0
    _read: Any = None
    _first: float = 0.0
    _pace: Pace = field(default_factory=Pace)
    _began: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        answer = self.question.begun.answer if self.question.begun else None
        self.text, self._before = (answer.text, len(answer.token_ids)) if answer else ("", 0)

    def sees(self, event: Any) -> bool:
        """Take in an event. Whether there is something to show again."""
        from selfextend.generation import NewToken, PrefillProgress
        from selfextend.line import Waiting

        if isinstance(event, NewToken):
            self.tokens, self.text = self.tokens + 1, event.text
            self.progress = Progress(self.prefix + self._pace_words())
            self._pace.seconds = GROWING_SECONDS
        else:
            if isinstance(event, Waiting) and not event.ahead and self.tokens:
                return False  # it is being answered along with others: its last token says how far it is
            if isinstance(event, PrefillProgress):
                self._read = event
            self.progress = Progress(self.prefix + event.words, event.fraction, event.seconds_left)
            self._pace.seconds = WAITING_SECONDS if isinstance(event, Waiting) else Pace().seconds
        return self._pace.due()

    def _pace_words(self) -> str:
        now, words = time.perf_counter(), f"answering: {self._before + self.tokens:,} tokens"
        if self.tokens == 1:
            self._first, self._pace = now, Pace()
            return words
        rate = (self.tokens - 1) / max(now - self._first, 1e-6)
        # An answer ends where the model ends it, so this is all that can be said of the time left.
        left = (self.question.generation.max_new_tokens - self.tokens) / rate
        return f"{words}, {speed_words(rate)}" + (f", at most {math.ceil(left):,} s more" if left >= 1 else "")

    def reply(self, **more: Any) -> Reply:
        return reply_by(self.question.method, turn=0, text=self.text, **more)

    def stopped(self) -> Reply:
        """The reply where it was stopped before its first word."""
        read = self._read
        if read is not None and read.done < read.total:
            words = (
                f"Stopped after reading {read.done:,} of {read.total:,} tokens. What was read is kept: "
                "the next question goes on from there."
            )
        else:
            words = "Stopped before the answer began."
        seconds = time.perf_counter() - self._began
        return self.reply(stopped=words, prompt_tokens=read.total if read else 0, seconds=seconds)


def reply_by(method: Method, **more: Any) -> Reply:
    """A reply with the method's name and settings."""
    return Reply(method=method.name, settings=tuple(method.settings().items()), **more)


def reply_of(turn: Turn) -> Reply:
    """What the conversation keeps of an answer."""
    answer = turn.answer
    tokens = len(answer.token_ids)
    return reply_by(
        turn.method,
        turn=turn.id,
        text=answer.text.strip(),
        sources=tuple(map(_source_of, worth_a_look(turn.citations))),
        stopped=f"Stopped after {tokens:,} tokens." if answer.stopped_by == "interrupted" else "",
        unfinished=answer.unfinished,
        note=f"No page links. {PROVES_NOTHING}" if turn.proves_nothing else "",
        prompt_tokens=answer.prompt_tokens,
        reused_tokens=answer.reused_tokens,
        new_tokens=tokens,
        first_token_seconds=answer.prefill_seconds,
        seconds=answer.prefill_seconds + answer.decode_seconds,
        tokens_per_second=answer.tokens_per_second,
        cache_bytes=turn.prefix.text_nbytes,
    )


def _source_of(citation: Citation) -> Source:
    kept = {known.name: getattr(citation, known.name) for known in fields(Source) if known.name != "document"}
    return Source(document=citation.name, **kept)
