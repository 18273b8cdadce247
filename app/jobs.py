"""What a person starts, follows and can stop: an answer, a measurement, the reading of a file, the load of a model."""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any, TypeVar

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

    def begin(self) -> None:
        """Start anew: a stop from before no longer counts. Work that waits in a queue can be stopped from here on."""
        self._begun += 1

    def stop(self) -> None:
        """End what has begun, at its next step."""
        self._stopped = self._begun

    def follow(self, steps: Generator[S, Any, T]) -> Generator[S, None, T]:
        """Yield the steps and return their result: of a stopped job what there is by then. Closing this closes them.

        Raises:
            JobStopped: the job was stopped, and there is nothing; the steps are closed by then.
        """
        number, told = self._begun, False
        with Running(steps) as running:
            if self._stopped >= number:
                raise JobStopped
            for step in running:
                if isinstance(step, Progress):
                    self.progress = step
                yield step
                if self._stopped >= number and not told:
                    told = True
                    try:
                        running.end()
                    except EndNow:
                        raise JobStopped from None
            return running.result


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
