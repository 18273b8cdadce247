"""What stands on each answer of the server: what a page may load and run, and the number of its request."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Awaitable, Callable

from .asgi import Message, Refusal, Send, header

_SCRIPT = re.compile(rb"<script(?=[\s>])")


def content_security_policy(nonce: str = "") -> str:
    """What the page may load, run and send: from and to this server only.

    Args:
        nonce: of the scripts that stand in the page itself.
    """
    return "; ".join(
        (
            "default-src 'self'",
            # The nonce lets Gradio's own scripts in index.html run, and no script or on…= attribute that comes with a
            # text. 'unsafe-eval': gr.HTML compiles its js_on_load, and events their js=, from strings of this program.
            f"script-src 'self' 'unsafe-eval'{f' {chr(39)}nonce-{nonce}{chr(39)}' if nonce else ''}",
            # Svelte, plotly and Gradio's layout set style attributes and elements all the time.
            "style-src 'self' 'unsafe-inline'",
            # Page pictures are data:, and plotly makes its PNG of a blob:.
            "img-src 'self' data: blob:",
            # KaTeX's style sheet carries its fonts as data:.
            "font-src 'self' data:",
            "connect-src 'self'",
            "worker-src 'self' blob:",
            "media-src 'none'",
            "object-src 'none'",
            "frame-src 'none'",
            "base-uri 'self'",
            "form-action 'self'",
            "frame-ancestors 'self'",
        )
    )


class Answer:
    """Sends an answer with what belongs on each: policy and number, and in a page a nonce for its own scripts."""

    def __init__(self, send: Send, number: str) -> None:
        self._send, self._number = send, number
        self._page: tuple[Message, list[bytes]] | None = None
        self.status = 0
        self.judge: Callable[[int], Awaitable[None]] | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if self.judge:
                await self.judge(self.status)
            kinds = [value for name, value in message.get("headers", ()) if name.lower() == b"content-type"]
            if any(kind.startswith(b"text/html") for kind in kinds):
                self._page = message, []
                return
            await self._send({**message, "headers": self._with_policy(message, content_security_policy())})
        elif message["type"] == "http.response.body" and self._page is not None:
            start, parts = self._page
            parts.append(message.get("body", b""))
            if not message.get("more_body"):
                await self._send_page(start, b"".join(parts))
        else:
            await self._send(message)

    async def refuse(self, refusal: Refusal) -> None:
        """Says no. A call's refusal has the shape in which Gradio's own clients show its words.

        An answer that has begun can only be broken off: the server does so when it is not ended, and would write an
        error's words into its log if it were told of one.
        """
        if self.status:
            return
        told = [{"__type__": "validate", "is_valid": False, "message": str(refusal)}]
        body = json.dumps({"detail": told if refusal.status == 422 else str(refusal)}).encode()
        headers = [header("content-type", "application/json"), header("content-length", str(len(body)))]
        if refusal.retry_after:
            headers.append(header("retry-after", str(refusal.retry_after)))
        await self({"type": "http.response.start", "status": refusal.status, "headers": headers})
        await self({"type": "http.response.body", "body": body})

    async def _send_page(self, start: Message, page: bytes) -> None:
        nonce = secrets.token_urlsafe(16)
        page = _SCRIPT.sub(f'<script nonce="{nonce}"'.encode(), page)
        headers = [
            pair for pair in self._with_policy(start, content_security_policy(nonce)) if pair[0] != b"content-length"
        ]
        headers += [header("content-length", str(len(page))), header("cache-control", "no-store")]
        await self._send({**start, "headers": headers})
        await self._send({"type": "http.response.body", "body": page})

    def _with_policy(self, message: Message, policy: str) -> list[tuple[bytes, bytes]]:
        return [
            *((name.lower(), value) for name, value in message.get("headers", ())),
            header("content-security-policy", policy),
            header("x-content-type-options", "nosniff"),
            header("referrer-policy", "same-origin"),
            header("cross-origin-resource-policy", "same-origin"),
            header("x-request-id", self._number),
        ]
