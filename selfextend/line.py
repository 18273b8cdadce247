"""Who has a model, and who waits for it: turns that are fair to long readings and to short questions.

Only one piece of work uses a model at a time. Those that come get it in that order, one for each who asks, with one
exception: a long reading gives way between two chunks to a piece of work that is short, and is next again after that. A
long answer gives way in the same manner; of those that are short, the one that had the model least often is first.

Who has the model may serve others who wait along with itself: those of its group, which want the same of the model.
They are told of what was done for them while they wait. Those of the group who cannot be served along, since they have
something of their own to do first or last, get the model next.

Standard library only.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from selfextend.steps import Progress

LOOK_SECONDS = 0.5
"""Who waits says so that often, and can be stopped."""


class ClosedLineError(RuntimeError):
    """Nobody gets this model any more; the message says what to do."""


@dataclass(frozen=True)
class Waiting(Progress):
    """The model is busy with somebody else's work.

    Attributes:
        ahead: how many pieces of work get it before; 0 too for who is served along.
    """

    words: str = "waiting for the model"
    ahead: int = 0


@dataclass(frozen=True)
class Asked:
    """Who asks for a model, and for how long.

    Attributes:
        who: one piece of work at a time for each; None counts as somebody else every time.
        seconds: how long it will take, as far as that is known.
    """

    who: Hashable = None
    seconds: float | None = None


NOBODY = Asked()
"""Somebody of whom nothing is known."""


class Work:
    """What the line has to know of a piece of work. May be asked by any thread."""

    @property
    def group(self) -> Hashable:
        """Work of one group can be served along with other work of it; None: with nobody."""
        return None

    def is_short(self) -> bool:
        """Whether it is over in a moment, as far as can be told now."""
        return False

    def can_be_served_along(self) -> bool:
        """Whether what it wants next is what somebody else of its group can do for it."""
        return False


class Visit:
    """A piece of work on its way through the line: from when it comes until it has ended, with one turn at the model or
    several.

    Attributes:
        turns: that it had, those counted in which it was served along.
    """

    def __init__(self, line: Line, asked: Asked, work: Work) -> None:
        self.asked = asked
        self.work = work
        self.waits = False
        self.turns = 0
        self.release: Callable[[Visit], None] | None = None
        """While it is served along: ends that. Called when it waits no longer."""
        self.news: deque[Any] = deque()
        self._line = line
        self._taken = 0.0
        self._spent = 0.0

    def turn(self) -> Generator[Any, None, None]:
        """Wait for a turn at the model. `leave` gives it back. Yields `Waiting`, and what it is told meanwhile.

        Raises:
            ClosedLineError: see `Line.close`.
        """
        yield from self._line.wait_for(self)
        self._taken, self.turns = time.monotonic(), self.turns + 1

    def leave(self) -> None:
        """The turn is over."""
        self._spent += time.monotonic() - self._taken
        self._line.leave(self)

    def give_way(self) -> bool:
        """Whether something short waits that should have the model before the next chunk is read."""
        return self._line.wanted_by_short(self)

    def give_way_to_group(self) -> bool:
        """Whether something of its group waits that should have the model before the next token is read."""
        return self._line.wanted_by_group(self)

    def take_along(self, accepts: Callable[[Visit], bool], release: Callable[[Visit], None]) -> Visit | None:
        """Another of the group who waits, can be served along and is accepted: it is from now on, until `let_go`. Of
        several the one that had the fewest turns; None where there is none.

        Args:
            release: called by it, in any thread, as soon as it waits no longer: ends when it is served no more.
        """
        return self._line.take_along(self, accepts, release)

    def let_go(self, other: Visit) -> None:
        """Serve one that was taken along no longer."""
        self._line.let_go(other)

    def tell(self, news: Iterable[tuple[Visit, Any]]) -> None:
        """Tell those who are taken along what was done for each."""
        self._line.tell(news)

    def seconds_left(self, on: bool) -> float | None:
        """Until this has ended. `on`: whether it has the model."""
        if self.asked.seconds is None:
            return None
        spent = self._spent + (time.monotonic() - self._taken if on else 0.0)
        return max(0.0, self.asked.seconds - spent)


class Line:
    """The line of one model. Safe to use from several threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._visits: list[Visit] = []
        self._on: Visit | None = None
        self._last: Visit | None = None
        self._closed = ""

    @contextmanager
    def visit(self, asked: Asked = NOBODY, work: Work | None = None) -> Iterator[Visit]:
        """Come to the line, and stay until the block ends."""
        visit = Visit(self, asked, Work() if work is None else work)
        with self._changed:
            self._visits.append(visit)
        try:
            yield visit
        finally:
            with self._changed:
                self._visits.remove(visit)
                if self._on is visit:
                    self._on = None
                if self._last is visit:
                    self._last = None  # with its work, which holds a text
                self._changed.notify_all()

    def close(self, words: str) -> None:
        """Send everybody away who waits, and whoever comes from now on, with these words."""
        with self._changed:
            self._closed = words
            self._changed.notify_all()

    def open(self) -> None:
        """Let everybody come again."""
        self._closed = ""

    @property
    def in_use(self) -> bool:
        """Whether somebody has the model, or waits for it."""
        return bool(self._visits)

    def wait_for(self, visit: Visit) -> Generator[Any, None, None]:
        """Until the visit has the model."""
        visit.waits = True
        try:
            while True:
                with self._changed:
                    # Each chunk that somebody reads wakes all who wait; they are not told of each.
                    changed = self._changed.wait_for(lambda: visit.news or self._takes(visit), LOOK_SECONDS)
                    if changed and not visit.news:
                        return
                    told = list(visit.news) or [self._told(visit)]
                    visit.news.clear()
                yield from told
        finally:
            with self._changed:
                visit.waits, release = False, visit.release
            if release is not None:
                release(visit)

    def leave(self, visit: Visit) -> None:
        """The visit's turn is over."""
        with self._changed:
            if self._on is visit:
                self._on, self._last = None, visit
                self._changed.notify_all()

    def wanted_by_short(self, visit: Visit) -> bool:
        """Whether somebody else waits who would have a short turn, and is not served along. Nobody does any more once
        this line is closed."""
        with self._changed:
            waiting = (other for other in self._eligible() if other.waits and other is not visit)
            return not self._closed and any(other.release is None and other.work.is_short() for other in waiting)

    def wanted_by_group(self, visit: Visit) -> bool:
        """Whether somebody of the visit's group waits who cannot be served along, and would have a short turn."""
        with self._changed:
            return not self._closed and any(_is_next_after(visit, other) for other in self._eligible())

    def take_along(
        self, visit: Visit, accepts: Callable[[Visit], bool], release: Callable[[Visit], None]
    ) -> Visit | None:
        """See `Visit.take_along`."""
        with self._changed:
            found = [
                other
                for other in self._eligible()
                if _may_follow(visit, other) and other.work.can_be_served_along() and accepts(other)
            ]
            other = min(found, key=lambda other: other.turns, default=None)
            if other is not None:
                other.release, other.turns = release, other.turns + 1
            return other

    def let_go(self, visit: Visit) -> None:
        """See `Visit.let_go`."""
        with self._changed:
            visit.release = None

    def tell(self, news: Iterable[tuple[Visit, Any]]) -> None:
        """See `Visit.tell`."""
        with self._changed:
            for visit, told in news:
                visit.news.append(told)
            self._changed.notify_all()

    def _takes(self, visit: Visit) -> bool:
        if self._closed:
            raise ClosedLineError(self._closed)
        if self._on is None and self._next() is visit:
            self._on = visit
            return True
        return False

    def _eligible(self) -> list[Visit]:
        """In the order in which they came, the first for each who asks."""
        seen, eligible = set[Hashable](), list[Visit]()
        for visit in self._visits:
            if visit.asked.who is None or visit.asked.who not in seen:
                eligible.append(visit)
                seen.add(visit.asked.who)
        return eligible

    def _in_order(self, last: Visit | None) -> list[Visit]:
        """Those who wait, in the order in which they get the model as things are.

        Args:
            last: who had it last, and gave way or will.
        """
        eligible = self._eligible()
        under_way = next((visit for visit in eligible if visit.turns), None)
        waiting = [visit for visit in eligible if visit.waits and visit is not under_way]
        if under_way is None:
            return waiting
        # One long reading at a time: a second one would only keep what it has read in memory for longer.
        short = sorted((visit for visit in waiting if visit.work.is_short()), key=lambda visit: visit.turns)
        long = [visit for visit in waiting if visit not in short]
        if last is not None and any(_is_next_after(last, visit) for visit in short):
            # Strangers who came before are not passed over; those who can be served along need no turn.
            along = [visit for visit in short if _may_follow(last, visit) and visit.work.can_be_served_along()]
            return [*(visit for visit in short if visit not in along), under_way, *along, *long]
        if last is under_way and short:
            return [short[0], under_way, *short[1:], *long]
        return [under_way, *short, *long]

    def _next(self) -> Visit | None:
        """Who gets the model now; None also where it is kept for who is about to ask for the next turn."""
        visit = next(iter(self._in_order(self._last)), None)
        return visit if visit is not None and visit.waits else None

    def _told(self, visit: Visit) -> Waiting:
        """How many come before a visit that waits, and how long they will take; of one that is served along, none."""
        if visit.release is not None:
            return Waiting("the model is answering")
        on = self._on
        order = self._in_order(self._last if on is None else on)
        before = order[: order.index(visit)] if visit in order else [other for other in self._visits if other.waits]
        before = [other for other in dict.fromkeys([on, *before]) if other is not None and other is not visit]
        gives_way = on is not None and (_is_next_after(on, visit) or (not on.work.is_short() and visit.work.is_short()))
        if gives_way:  # after its chunk or token
            before = [other for other in before if other is on or other.work.is_short()]
        left = [other.seconds_left(other is on) for other in before if not (gives_way and other is on)]
        known = [seconds for seconds in left if seconds is not None]
        count = len(before)
        words = f"waiting for the model: {count} {'question is' if count == 1 else 'questions are'} ahead of this one"
        return Waiting(words, None, sum(known) if len(known) == len(left) else None, count)


def _may_follow(visit: Visit, other: Visit) -> bool:
    """Whether another visit waits, of the same group as this one, and is not served along."""
    is_free = other is not visit and other.waits and other.release is None
    return is_free and visit.work.group is not None and visit.work.group == other.work.group


def _is_next_after(visit: Visit, other: Visit) -> bool:
    """Whether a visit that has the model gives way to another of its group, so as to serve it along afterwards, or no
    more."""
    return _may_follow(visit, other) and not other.work.can_be_served_along() and other.work.is_short()


_lines: WeakKeyDictionary[object, Line] = WeakKeyDictionary()
_making = threading.Lock()


def line_of(model: object) -> Line:
    """The line of a model."""
    with _making:
        return _lines.setdefault(model, Line())
