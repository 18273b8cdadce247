"""Looks through the values of a call before a handler sees them."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

from .asgi import Message, Receive, Refusal, at_most, limited

MAX_CALL_BYTES = 32_000_000
"""Of a call's values. Documents are uploaded; a conversation of thirty entries takes a hundredth of this."""
MAX_NUMBER = 2**53
"""JavaScript counts no further, and JSON with larger ones breaks the stream that carries an answer."""
MAX_VALUES = 1_000_000
_BETWEEN_VALUES = (b"[", b"{", b",")
"""What stands before every value but the first."""

_ELSEWHERE = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]+:/")


def is_elsewhere(path: str) -> bool:
    """Whether an address stands where the path of an uploaded file belongs; a drive of Windows has one letter."""
    return bool(_ELSEWHERE.match(path))


async def checked_values(receive: Receive) -> Receive:
    """The body of a call, looked through and handed on.

    Raises:
        Refusal: it is too large or no JSON, or names a file that was not uploaded, or a number that nothing can take.
    """
    receive_limited, parts, more = limited(receive, at_most(MAX_CALL_BYTES)), [], True
    while more:
        message = await receive_limited()
        if message["type"] != "http.request":
            raise Refusal(400, "The request broke off.")
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    body = b"".join(parts)
    if body:
        try:
            await asyncio.to_thread(_check, body)
        except (ValueError, RecursionError) as error:
            raise Refusal(400, "The request is no JSON, or is nested too deeply.") from error
    handed_on = False

    async def received() -> Message:
        nonlocal handed_on
        if handed_on:
            return await receive()
        handed_on = True
        return {"type": "http.request", "body": body, "more_body": False}

    return received


def _check(body: bytes) -> None:
    # Counted before they are made: a byte of JSON may become sixty in memory.
    if sum(map(body.count, _BETWEEN_VALUES)) > MAX_VALUES:
        raise Refusal(422, f"A call may carry {MAX_VALUES:,} values at most.")
    waiting: list[Any] = [json.loads(body, parse_constant=_no_number)]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            path = value.get("path")
            if isinstance(path, str) and is_elsewhere(path):
                raise Refusal(422, "A file has to be uploaded: nothing is fetched from an address.")
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, int | float) and not isinstance(value, bool) and not abs(value) <= MAX_NUMBER:
            raise Refusal(422, f"Numbers must lie between -{MAX_NUMBER:,} and {MAX_NUMBER:,}.")


def _no_number(name: str) -> Any:
    raise Refusal(422, f"{name} is not a number that JSON knows.")
