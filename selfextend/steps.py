"""Long work as generators: they yield how far they are and return their result; closing one stops the work.

Standard library only.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, wait
from contextvars import ContextVar
from dataclasses import dataclass
from statistics import fmean, linear_regression
from typing import Any, Generic, TypeVar

S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True)
class Progress:
    """How far some work is.

    Attributes:
        words: what is going on.
        fraction: 0 to 1, or None where that cannot be told.
        seconds_left: estimated, or None where that cannot be told.
    """

    words: str
    fraction: float | None = None
    seconds_left: float | None = None


class EndNow(BaseException):
    """Thrown into a generator of work by `Running.end`: end here, with what there is.

    Work that can give less than all of its result catches it where it yields, and returns; all other work lets it
    through. Like GeneratorExit it is no Exception, so that nobody takes it for a failure of the work. A step that takes
    long may raise it itself, see `wanted_end`.
    """


_wanted_end: ContextVar[Callable[[], bool] | None] = ContextVar("wanted_end", default=None)


def wanted_end() -> Callable[[], bool] | None:
    """What tells a step that is under way whether it should raise `EndNow` rather than come to its end, as the
    `Running` that follows it was told; None where nobody will want that."""
    return _wanted_end.get()


class Running(Iterator[S], Generic[S, T]):
    """A generator of steps that is followed to its end: iterate over it, then read `result`.

    Used in a `with` block, leaving the block closes the generator, which stops the work.
    """

    def __init__(self, steps: Generator[S, Any, T], wanted_end: Callable[[], bool] | None = None) -> None:
        """Args:
        wanted_end: says whether a step should end in its middle, where it can. May be called at any time.
        """
        self._steps = steps
        self._wanted_end = wanted_end
        self._results: list[T] = []

    def __next__(self) -> S:
        told = None if self._wanted_end is None else _wanted_end.set(self._wanted_end)
        try:
            return next(self._steps)
        except StopIteration as end:
            self._results.append(end.value)
            raise StopIteration from None
        finally:
            if told is not None:
                _wanted_end.reset(told)

    @property
    def result(self) -> T:
        """What the generator returned.

        Raises:
            RuntimeError: it has not come to its end.
        """
        if not self._results:
            raise RuntimeError("The work has no result yet: it was not followed to its end.")
        return self._results[0]

    def end(self) -> None:
        """Have the work end with what there is: iterate on to its result. A step that it yields in reply is dropped.

        Raises:
            EndNow: it has nothing to give yet; it is closed by then.
        """
        try:
            self._steps.throw(EndNow())
        except StopIteration as end:
            self._results.append(end.value)

    def close(self) -> None:
        """Stop the work. Does nothing once it has ended."""
        self._steps.close()

    def __enter__(self) -> Running[S, T]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def result_of(steps: Generator[Any, Any, T]) -> T:
    """Follow a generator to its end, whatever it yields, and give back what it returns."""
    with Running(steps) as work:
        for _ in work:
            pass
        return work.result


POLL_SECONDS = 0.1


def in_thread(
    work: Callable[[], T], progress: Callable[[], S], stop: Callable[[], None] | None = None
) -> Generator[S, None, T]:
    """Follow work that is no generator, in a thread of its own, and return its result.

    Args:
        progress: what to yield, a few times a second and at the end.
        stop: ends the work soon. Closing this calls it and waits for that; without it the work is left to itself then,
            and what comes of it is dropped.
    """
    end: Future[T] = Future()

    def run() -> None:
        try:
            end.set_result(work())
        except BaseException as error:  # whatever it was, it is for who follows
            end.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        ended = False
        while not ended:
            ended = not wait([end], POLL_SECONDS).not_done
            yield progress()
    finally:
        if stop is not None:
            stop()
            wait([end])
    return end.result()


class Clock:
    """Estimates the time left from how long the work took so far.

    Each part of a long text takes longer than the part before it, so the rate is a straight line through the rates
    seen, never a falling one. At most a thousand rates are kept.
    """

    def __init__(self, total: float, start: float = 0) -> None:
        self.total, self.done = total, start
        self._last = time.perf_counter()
        self._middles: list[float] = []
        self._rates: list[float] = []

    def seconds_left(self, done: float) -> float | None:
        """The estimate once `done` of `total` is done; None while nothing was measured."""
        now = time.perf_counter()
        if done - self.done >= self.total / 1000:
            self._middles.append((self.done + done) / 2)
            self._rates.append((now - self._last) / (done - self.done))
            self.done, self._last = done, now
        if not self._rates:
            return None
        middle, rate = fmean(self._middles), fmean(self._rates)
        slope = max(0.0, linear_regression(self._middles, self._rates).slope) if len(self._rates) > 1 else 0.0
        return max(0.0, rate + slope * ((done + self.total) / 2 - middle)) * (self.total - done)
