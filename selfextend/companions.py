"""Answers that are gone on with together: who has the model reads a token of each in one pass.

The others wait in the line meanwhile, and are told their tokens as they come. Each of them is its owner's again the
moment it waits no longer.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch

from selfextend.batching import Batch, can_be_batched
from selfextend.beginning import Continuation
from selfextend.line import Visit, Work
from selfextend.observing import TokenObserver
from selfextend.prefix import PrefixCache
from selfextend.reader import Reader

MOST_TOGETHER = 16
"""Answers in a pass: it then takes about three times as long as a pass with a single answer."""


class Spoken(Work, ABC):
    """An answer that is being given. Those of one group go on from one beginning.

    Attributes:
        prefix: what was read of its text: all but the last token, where it can be served along.
    """

    prefix: PrefixCache

    @property
    @abstractmethod
    def observer(self) -> TokenObserver | None:
        """What sees the text's rotated states."""

    @property
    @abstractmethod
    def next_token(self) -> int:
        """The last of its text."""

    @abstractmethod
    def hear(self, logits: torch.Tensor, seconds: float) -> Any:
        """Go on by its logits (1, vocabulary), which took so long. What its owner is to be told, or None."""


class Companions:
    """An answer that has the model, and those that are gone on with along with it."""

    def __init__(self, visit: Visit, own: Spoken, reader: Reader, length: int) -> None:
        """Args:
        length: tokens that the own text will have.
        """
        prefix = own.prefix
        self.may_come = isinstance(prefix, Continuation) and can_be_batched(prefix.beginning, reader)
        self._visit, self._own, self._reader, self._length = visit, own, reader, length
        self._others: list[Visit] = []
        self._batch: Batch | None = None
        self._lock = threading.Lock()

    def read_on(self) -> torch.Tensor:
        """Read the next token of every answer. The logits of the own one, (1, vocabulary)."""
        with self._lock:
            if self.may_come:
                self._gather()
            if self._batch is None:
                return self._read_alone()
            answers = {other: _answer_of(other) for other in self._others}
            began = time.perf_counter()
            logits = self._batch.read({_text_of(a): a.next_token for a in (self._own, *answers.values())})
            seconds = time.perf_counter() - began
            news = [(other, self._heard(other, logits[_text_of(a)], seconds)) for other, a in answers.items()]
            self._visit.tell([(other, told) for other, told in news if told is not None])
            return logits[_text_of(self._own)]

    def _heard(self, other: Visit, logits: torch.Tensor, seconds: float) -> Any:
        """What another's owner is to be told."""
        answer, news = _answer_of(other), None
        # What is wrong with its answer is wrong once more when it has the model, and is said there.
        with suppress(Exception):
            news = answer.hear(logits, seconds)
        if not answer.can_be_served_along():
            self._leave(other)
        return news

    def _read_alone(self) -> torch.Tensor:
        prefix, done = self._own.prefix, len(self._own.prefix.tokens)
        text = [*prefix.tokens, self._own.next_token]
        if prefix.cache is None:  # it was in a batch
            done = prefix.rewind(self._reader, text[:-1], self._length)
        return prefix.read(self._reader, text[done:])

    def _gather(self) -> None:
        """Take in who has come meanwhile."""
        while self.may_come and (other := self._visit.take_along(self._has_room_for, self._release)):
            if self._joins(other):
                self._others.append(other)
            else:
                self.may_come = False  # one that cannot be taken in would come again with every token
                self._visit.let_go(other)
        if not self._others:
            self._end_batch()

    def _has_room_for(self, other: Visit) -> bool:
        """Whether one more may come. Each has as much room in the batch as the longest needs: all of it is to be no
        more than twice what they hold."""
        answers = (self._own, *map(_answer_of, (*self._others, other)))
        held = [text.tokens_read - text.beginning.read for text in map(_text_of, answers)]
        return len(held) <= MOST_TOGETHER and len(held) * max(held) <= 2 * sum(held)

    def _joins(self, other: Visit) -> bool:
        if self._batch is None:
            batch = Batch(_text_of(self._own).beginning, self._reader)
            if not _is_added(batch, self._own):
                return False
            self._batch = batch
        return _is_added(self._batch, _answer_of(other))

    def _release(self, other: Visit) -> None:
        """See `selfextend.line.Visit.take_along`."""
        with self._lock:
            if other in self._others:
                self._leave(other)

    def _leave(self, other: Visit) -> None:
        assert self._batch is not None
        self._batch.remove(_text_of(_answer_of(other)))
        self._others.remove(other)
        self._visit.let_go(other)

    def _end_batch(self) -> None:
        if self._batch is not None:
            self._batch.remove(_text_of(self._own))
            self._batch = None

    def close(self) -> None:
        """Leave everybody to themselves."""
        with self._lock:
            for other in list(self._others):
                self._leave(other)
            self._end_batch()


def _answer_of(visit: Visit) -> Spoken:
    assert isinstance(visit.work, Spoken)
    return visit.work


def _text_of(answer: Spoken) -> Continuation:
    assert isinstance(answer.prefix, Continuation)
    return answer.prefix


def _is_added(batch: Batch, answer: Spoken) -> bool:
    return batch.add(_text_of(answer), answer.observer)


@contextmanager
def companions_of(visit: Visit, own: Spoken, reader: Reader, length: int) -> Iterator[Companions]:
    """The companions of an answer that has the model, for the length of a `with` block. See `Companions`."""
    companions = Companions(visit, own, reader, length)
    try:
        yield companions
    finally:
        companions.close()
