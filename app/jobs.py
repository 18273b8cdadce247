"""What a person starts, follows and can stop: an answer, a measurement, the reading of a file, the load of a model."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from typing import Any, Generic, TypeVar

from selfextend.steps import EndNow, Progress, Running

S = TypeVar("S")
T = TypeVar("T")


class JobStopped(Exception):
    """The person stopped the job before its steps had anything to give."""


class Job:
    """One kind of work, with a stop flag of its own. Safe to use from several threads.

    Attributes:
        progress: the last one that its steps reported.
    """

    def __init__(self) -> None:
        self.progress = Progress("starting")
        self._begun = 0
        self._stopped = -1
        self._followed = 0
        self._lock = threading.Lock()

    def begin(self) -> None:
        """Start anew: a stop from before no longer counts. Work that waits in a queue can be stopped from here on."""
        self._begun += 1

    @property
    def number(self) -> int:
        """Tells what has begun last from what began before."""
        return self._begun

    @property
    def is_running(self) -> bool:
        """Whether anything of it is under way."""
        return self._followed > 0

    def stop(self, number: int | None = None) -> None:
        """End what has begun, at its next step or within a long one: all of it, or what had begun when `number` was
        read."""
        self._stopped = max(self._stopped, self._begun if number is None else number)

    def follow(self, steps: Generator[S, Any, T]) -> Generator[S, None, T]:
        """Yield the steps and return their result: of a stopped job what there is by then. Closing this closes them.

        Raises:
            JobStopped: the job was stopped, and there is nothing; the steps are closed by then.
        """
        number, told = self._begun, False

        def is_stopped() -> bool:
            return self._stopped >= number and not told

        with self._running(), Running(steps, is_stopped) as running:
            if is_stopped():
                raise JobStopped
            try:
                for step in running:
                    if isinstance(step, Progress):
                        self.progress = step
                    yield step
                    if is_stopped():
                        told = True
                        running.end()
            except EndNow:
                raise JobStopped from None
            return running.result

    @contextmanager
    def _running(self) -> Iterator[None]:
        with self._lock:
            self._followed += 1
        try:
            yield
        finally:
            with self._lock:
                self._followed -= 1


class InBackground(Generic[S]):
    """Steps that a thread of its own goes through, so that they go on while the page that follows them is reloaded.

    Args:
        steps: of `job`, which has begun.
        patience: seconds without anybody following after which the job is stopped, as if by hand: a page that was
            closed does not keep the model.
    """

    LOOK_SECONDS = 1.0
    """A follower is given the newest step that often even if it is not new: only then its page is seen to be gone."""

    def __init__(self, steps: Generator[S, None, None], job: Job, patience: float) -> None:
        self._steps, self._job, self._number, self._patience = steps, job, job.number, patience
        self._changed = threading.Condition()
        self._newest: list[S] = []
        self._count = 0
        self._error: BaseException | None = None
        self._ended = False
        self._followed = time.monotonic()
        threading.Thread(target=self._work, name="in-background", daemon=True).start()

    @property
    def is_wanted(self) -> bool:
        """Whether it goes on, or has ended and may still be looked at by who has followed it until a moment ago."""
        return not self._ended or time.monotonic() - self._followed <= self._patience

    def _work(self) -> None:
        try:
            with closing(self._steps) as steps:
                for step in steps:
                    with self._changed:
                        self._newest, self._count = [step], self._count + 1
                        self._changed.notify_all()
                    if time.monotonic() - self._followed > self._patience:
                        self._job.stop(self._number)
        except BaseException as error:  # whatever it was, it is for those who follow
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def follow(self) -> Iterator[S]:
        """The newest step, again and again, up to the last. Any number may follow, from any moment on.

        Raises:
            Exception: what the steps raised.
        """
        seen = 0
        while True:
            with self._changed:
                if not self._ended and self._count == seen:
                    self._changed.wait(self.LOOK_SECONDS)
                self._followed = time.monotonic()
                ended, newest, is_new = self._ended, self._newest, self._count > seen
                seen = self._count
            if newest and (is_new or not ended):
                yield newest[0]
            if ended:
                if self._error is not None:
                    raise self._error
                return


class Pace:
    """Says when it is time for another update of the page: a few times a second at most."""

    def __init__(self, seconds: float = 0.2) -> None:
        self.seconds = seconds
        self._last = -seconds

    def due(self) -> bool:
        """Whether `seconds` have passed since this was last True."""
        if time.monotonic() - self._last < self.seconds:
            return False
        self._last = time.monotonic()
        return True
