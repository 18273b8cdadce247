"""Who asks, whether they may load models, and who tries passwords."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..settings import Settings, is_this_machine
from .asgi import Refusal, Scope, name_in
from .request_log import log

if TYPE_CHECKING:
    from gradio import Request

_FORWARDED = {"forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip"}


def user_of(scope: Scope, headers: Mapping[str, str]) -> str | None:
    """Who is logged in, as Gradio's app knows it by its cookies."""
    app = scope.get("app")
    tokens, cookie_id = getattr(app, "tokens", {}), getattr(app, "cookie_id", "")
    for part in headers.get("cookie", "").split(";"):
        name, _, value = part.strip().partition("=")
        if name in (f"access-token-{cookie_id}", f"access-token-unsecure-{cookie_id}") and value in tokens:
            return str(tokens[value])
    return None


def may_load_models(settings: Settings, request: Request) -> bool:
    """Whether who sent this request may load models: an account named for it, or who sits at this machine."""
    if request.username in settings.admins:
        return True
    headers = {str(name).lower(): str(value) for name, value in dict(request.headers).items()}
    client = request.client.host if request.client else ""
    here = is_this_machine(client) and is_this_machine(name_in(headers.get("host", "")))
    return here and not _FORWARDED & headers.keys()


@dataclass
class _Attempts:
    """Passwords from one address that were not right, and when the next may be tried, by `time.monotonic`."""

    made: int = 0
    next_at: float = 0.0


@dataclass
class Passwords:
    """Slows down who guesses passwords: after three wrong ones an address waits, twice as long each time."""

    _attempts: OrderedDict[str, _Attempts] = field(default_factory=OrderedDict)

    def guess(self, address: str) -> Callable[[int], Awaitable[None]]:
        """Refuses who has to wait after wrong passwords; returns what to do once it is known whether this one was.

        Each counts as wrong until it is known to be right, since many may be tried at once.
        """
        attempts = self._attempts.setdefault(address, _Attempts())
        self._attempts.move_to_end(address)
        while len(self._attempts) > 10_000:
            self._attempts.popitem(last=False)
        wait = attempts.next_at - time.monotonic()
        if wait > 0:
            seconds = int(wait) + 1
            raise Refusal(429, f"Too many wrong passwords: try again in {seconds} s.", seconds)
        attempts.made += 1
        if attempts.made >= 3:
            attempts.next_at = time.monotonic() + min(300, 2 ** (attempts.made - 2))

        async def judge(status: int) -> None:
            if status == 200:
                self._attempts.pop(address, None)
            elif status == 400:
                log.warning("wrong password from %s, %d in a row", address, attempts.made)
                await asyncio.sleep(0.5)

        return judge
