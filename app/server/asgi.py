"""What the guard's parts share: a request as ASGI hands it on, reading it, and not letting it in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

API = "/gradio_api/"
"""What the paths of Gradio's routes begin with, but for those of the page."""


class Refusal(Exception):
    """A request that is not let through: its status, and a sentence about it."""

    def __init__(self, status: int, words: str, retry_after: int = 0) -> None:
        super().__init__(words)
        self.status, self.retry_after = status, retry_after


def headers_of(scope: Scope) -> dict[str, str]:
    """A request's headers, by their names in lower case."""
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


def header(name: str, value: str) -> tuple[bytes, bytes]:
    """A header as ASGI has it."""
    return name.encode("latin-1"), value.encode("latin-1")


def name_in(host: str) -> str:
    """The name in a Host header or the host of an address, without its port and brackets; "" where there is none."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower().rstrip(".")
    except ValueError:
        return ""


def limited(receive: Receive, count: Callable[[int], None]) -> Receive:
    """Receives, and has `count` judge the bytes that have come so far."""
    size = 0

    async def limited() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        count(size)
        return message

    return limited


def at_most(limit: int) -> Callable[[int], None]:
    """For `limited`: refuses a body of more bytes than this."""

    def count(size: int) -> None:
        if size > limit:
            raise Refusal(413, f"A request's values may take {limit / 1e6:g} MB at most. Documents are uploaded.")

    return count
