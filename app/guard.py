"""Stands before the whole server: who may ask it, from where, and with what.

A browser runs pages of strangers beside this one, and each of them may send requests to this machine. What reaches the
handlers comes from this page itself, from a program that was started on purpose, or from the machines that were let
in. SECURITY.md says against whom this protects.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import re
import secrets
import socket
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from .settings import Settings, is_this_machine

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

log = logging.getLogger("selfextend.app")
request_id: ContextVar[str] = ContextVar("request_id", default="-")
"""Of the request that is being answered: in the log, in the answer's headers, and in what is told of errors."""

MAX_CALL_BYTES = 32_000_000
"""Of a call's values. Documents are uploaded; a conversation of thirty entries takes a hundredth of this."""
MAX_NUMBER = 2**53
"""JavaScript counts no further, and JSON with larger ones breaks the stream that carries an answer."""
MAX_VALUES = 1_000_000
GRACE_SECONDS = 10.0
"""For who has called and does not listen for the answer yet."""
HOUR = 3600.0

_API = "/gradio_api/"
_UNUSED = (
    "proxy=", "deep_link", "dev/", "vibe-", "undo-vibe-edit", "process_recording", "stream/", "run-history", "runs",
    "profiling", "custom_component",
)  # fmt: skip
"""Gradio's own routes that this app has no use for: they fetch, edit the program, stream and count."""
_CLOSED = ("/monitoring", *(_API + name for name in _UNUSED))
_BEFORE_LOG_IN = re.compile(
    r"/|/(login|logout|theme\.css|robots\.txt|favicon\.ico|manifest\.json|pwa_icon|assets|static|svelte)(/.*)?"
    r"|/gradio_api/(user|token|login_check|app_id|startup-events|theme\.css)/?"
)
"""What shows the page for logging in. Some of Gradio's other routes ask for no log-in by themselves."""
_ELSEWHERE = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]+:/")
"""An address where the path of an uploaded file belongs; a drive of Windows has one letter."""
_SCRIPT = re.compile(rb"<script(?=[\s>])")
_FILES = (_API + "file=", _API + "file/")
_FORWARDED = {"forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip"}


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


@dataclass(frozen=True)
class Rules:
    """What is let through.

    Attributes:
        hosts: names that the server is known by, in lower case and without ports.
        origins: names whose pages may call, because a proxy in front of this server is called so.
        any_address: whether numeric addresses are too. Another site's name can be made to lead here (DNS rebinding); a
            number cannot be another site's.
        log_in: whether visitors log in.
        upload_bytes: what one visitor may upload in an hour.
    """

    hosts: frozenset[str]
    origins: frozenset[str] = frozenset()
    any_address: bool = False
    log_in: bool = False
    upload_bytes: int = 2_000_000_000

    @staticmethod
    def of(settings: Settings) -> Rules:
        """The rules for these settings."""
        own = {"localhost", "127.0.0.1", "::1", settings.host.strip("[]").lower()}
        if not settings.local_only:
            name = socket.gethostname().lower()
            own |= {name, name.partition(".")[0], f"{name.partition('.')[0]}.local"}
        return Rules(
            hosts=frozenset(own | settings.trusted_hosts),
            origins=settings.trusted_hosts,
            any_address=not settings.local_only,
            log_in=bool(settings.auth),
            upload_bytes=settings.upload_bytes,
        )


class Refusal(Exception):
    """A request that is not let through: its status, and a sentence about it."""

    def __init__(self, status: int, words: str, retry_after: int = 0) -> None:
        super().__init__(words)
        self.status, self.retry_after = status, retry_after


class Listeners:
    """Who listens for the answer to a call, by the key that Gradio gives it: work for nobody is to stop.

    Safe to use from several threads.
    """

    def __init__(self) -> None:
        self._open: dict[str, int] = {}
        self._left: OrderedDict[str, float] = OrderedDict()
        self._lock = threading.Lock()

    @contextmanager
    def listening(self, key: str) -> Iterator[None]:
        """While somebody listens under this key."""
        with self._lock:
            self._open[key] = self._open.get(key, 0) + 1
        try:
            yield
        finally:
            with self._lock:
                self._open[key] -= 1
                if not self._open[key]:
                    del self._open[key]
                    self._left[key] = time.monotonic()
                    self._left.move_to_end(key)
                    while len(self._left) > 1000:
                        self._left.popitem(last=False)

    def gone(self, key: str, since: float) -> bool:
        """Whether nobody listens any more to what began at `since`, by `time.monotonic`, or nobody came to listen."""
        with self._lock:
            if key in self._open:
                return False
            return self._left.get(key, 0.0) > since or time.monotonic() - since > GRACE_SECONDS


@dataclass
class _Attempts:
    """Wrong passwords from one address, and when the next may be tried, by `time.monotonic`."""

    wrong: int = 0
    next_at: float = 0.0


@dataclass
class _Upload:
    """When it began, by `time.monotonic`, and how many bytes have come."""

    at: float
    size: int = 0


@dataclass
class Guard:
    """The middleware. Refuses in a sentence, counts uploads, slows down guessing, and numbers requests for the log."""

    app: Application
    rules: Rules
    listeners: Listeners
    _uploads: dict[str, deque[_Upload]] = field(default_factory=dict)
    _attempts: OrderedDict[str, _Attempts] = field(default_factory=OrderedDict)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return  # the app has no other connections
        number = secrets.token_hex(4)
        scope["headers"] = [
            *(pair for pair in scope["headers"] if pair[0] != b"x-request-id"),
            _pair("x-request-id", number),
        ]
        request_id.set(number)
        began, answer = time.monotonic(), _Answer(send, number)
        try:
            receive = await self._admitted(scope, receive, answer)
            with _maybe(self.listeners, scope):
                await self.app(scope, receive, answer)
        except Refusal as refusal:
            log.warning("refused: %s", refusal)
            if answer.status:
                raise
            await answer.refuse(refusal)
        except Exception as error:
            if answer.status:
                raise
            log_unexpected(error, scope["path"])
            await answer.refuse(Refusal(500, f"Something unexpected went wrong (request {number})."))
        finally:
            took = 1000 * (time.monotonic() - began)
            log.info("%s %s %d in %.0f ms", scope["method"], _route(scope["path"]), answer.status, took)

    async def _admitted(self, scope: Scope, receive: Receive, answer: _Answer) -> Receive:
        """How to receive the body of a request that may come in.

        Raises:
            Refusal: it may not.
        """
        headers, path = _headers(scope), str(scope["path"])
        self._check_origin(scope["method"], path, headers)
        if path.startswith(_CLOSED) or (path.startswith(_FILES) and _ELSEWHERE.match(path[len(_FILES[0]) :])):
            raise Refusal(404, "There is nothing here.")
        user = _user(scope, headers)
        if self.rules.log_in and user is None and not _BEFORE_LOG_IN.fullmatch(path):
            raise Refusal(401, "Log in first.")
        if scope["method"] not in ("POST", "PUT", "PATCH"):
            return receive
        address = str((scope.get("client") or ("",))[0])
        if path.rstrip("/") == "/login":
            answer.judge = self._guesses(address)
            return _limited(receive, lambda size: _at_most(size, 10_000))
        if path.rstrip("/") == _API + "upload":
            return _limited(receive, self._quota(user or address))
        if headers.get("content-type", "").startswith("multipart/"):
            raise Refusal(415, "Files are uploaded under /gradio_api/upload.")
        return await _checked_values(receive)

    def _check_origin(self, method: str, path: str, headers: Mapping[str, str]) -> None:
        host = headers.get("host", "")
        if not self._known(_name_in(host)):
            words = (
                "This server is not known by that name: open it by its own address, or start it with --trusted-hosts."
            )
            raise Refusal(403, words)
        origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
        from_host = None if origin is None else origin.lower().partition("://")[2]
        if from_host not in (None, host.lower()) and _name_in(str(from_host)) not in self.rules.origins:
            raise Refusal(403, "Another site's page may not use this server.")
        opened = method in ("GET", "HEAD") and headers.get("sec-fetch-mode") == "navigate" and not path.startswith(_API)
        if site not in ("same-origin", "none") and not (opened and path.rstrip("/") != "/logout"):
            raise Refusal(403, "Another site's page may not use this server.")

    def _known(self, name: str) -> bool:
        return name in self.rules.hosts or (self.rules.any_address and _is_address(name))

    def _quota(self, visitor: str) -> Callable[[int], None]:
        upload = _Upload(time.monotonic())
        for other, earlier in list(self._uploads.items()):
            while earlier and earlier[0].at < upload.at - HOUR:
                earlier.popleft()
            if not earlier:
                del self._uploads[other]
        uploads = self._uploads.setdefault(visitor, deque())
        uploads.append(upload)

        def count(size: int) -> None:
            upload.size = size
            if sum(each.size for each in uploads) > self.rules.upload_bytes:
                raise Refusal(
                    413, f"More than {self.rules.upload_bytes / 1e6:,.0f} MB in an hour: wait, or start the app with a "
                    "larger --upload-mb.",
                )  # fmt: skip

        return count

    def _guesses(self, address: str) -> Callable[[int], Awaitable[None]]:
        """Refuses who has to wait after wrong passwords; returns what to do once it is known whether this one was."""
        attempts = self._attempts.setdefault(address, _Attempts())
        self._attempts.move_to_end(address)
        while len(self._attempts) > 10_000:
            self._attempts.popitem(last=False)
        wait = attempts.next_at - time.monotonic()
        if wait > 0:
            seconds = int(wait) + 1
            raise Refusal(429, f"Too many wrong passwords: try again in {seconds} s.", seconds)

        async def judge(status: int) -> None:
            if status != 400:
                if status == 200:
                    self._attempts.pop(address, None)
                return
            attempts.wrong += 1
            if attempts.wrong >= 3:
                attempts.next_at = time.monotonic() + min(300, 2 ** (attempts.wrong - 2))
            log.warning("wrong password from %s, %d in a row", address, attempts.wrong)
            await asyncio.sleep(0.5)

        return judge


class _Answer:
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
        """Says no. A call's refusal has the shape in which Gradio's own clients show its words."""
        told = [{"__type__": "validate", "is_valid": False, "message": str(refusal)}]
        body = json.dumps({"detail": told if refusal.status == 422 else str(refusal)}).encode()
        headers = [_pair("content-type", "application/json"), _pair("content-length", str(len(body)))]
        if refusal.retry_after:
            headers.append(_pair("retry-after", str(refusal.retry_after)))
        await self({"type": "http.response.start", "status": refusal.status, "headers": headers})
        await self({"type": "http.response.body", "body": body})

    async def _send_page(self, start: Message, page: bytes) -> None:
        nonce = secrets.token_urlsafe(16)
        page = _SCRIPT.sub(f'<script nonce="{nonce}"'.encode(), page)
        headers = [
            pair for pair in self._with_policy(start, content_security_policy(nonce)) if pair[0] != b"content-length"
        ]
        headers += [_pair("content-length", str(len(page))), _pair("cache-control", "no-store")]
        await self._send({**start, "headers": headers})
        await self._send({"type": "http.response.body", "body": page})

    def _with_policy(self, message: Message, policy: str) -> list[tuple[bytes, bytes]]:
        return [
            *((name.lower(), value) for name, value in message.get("headers", ())),
            _pair("content-security-policy", policy),
            _pair("x-content-type-options", "nosniff"),
            _pair("referrer-policy", "same-origin"),
            _pair("cross-origin-resource-policy", "same-origin"),
            _pair("x-request-id", self._number),
        ]


def may_load_models(settings: Settings, request: Any) -> bool:
    """Whether who sent this gr.Request may load models: an account named for it, or who sits at this machine."""
    if request is None:
        return settings.local_only
    if getattr(request, "username", None) in settings.admins:
        return True
    headers = {str(name).lower(): str(value) for name, value in dict(request.headers).items()}
    client = request.client.host if request.client else ""
    here = is_this_machine(client) and is_this_machine(_name_in(headers.get("host", "")))
    return here and not _FORWARDED & headers.keys()


def set_up_log(settings: Settings) -> None:
    """Log to stderr with the number of the request on each line: refusals and errors, and requests where asked."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s [%(request)s] %(message)s"))
    handler.addFilter(_numbered)
    log.handlers, log.propagate = [handler], False
    log.setLevel({"problems": logging.WARNING, "requests": logging.INFO, "texts": logging.DEBUG}[settings.log])


def log_unexpected(error: BaseException, where: str) -> None:
    """Logs where an error came from. Its words may quote a document, so they are left out unless asked for."""
    frames = []
    trace = error.__traceback__
    while trace is not None:
        frames.append(f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno} {trace.tb_frame.f_code.co_name}")
        trace = trace.tb_next
    words = f": {error}" if log.isEnabledFor(logging.DEBUG) else " (--log texts would say more)"
    log.error("%s in %s%s\n  %s", type(error).__name__, where, words, "\n  ".join(frames[-12:]))


def _numbered(record: logging.LogRecord) -> bool:
    record.request = request_id.get()
    return True


def _route(path: str) -> str:
    """A path without what is a visitor's: file names, ids of sessions and events."""
    parts = path.partition("=")[0].split("/")
    return "/".join(parts[:4] if "call" in parts[:3] else parts[:3])


@contextmanager
def _maybe(listeners: Listeners, scope: Scope) -> Iterator[None]:
    """Counts who asks for the stream of an answer as listening to it."""
    path = str(scope["path"]).removeprefix(_API)
    key = ""
    if scope["method"] == "GET" and path == "queue/data":
        key = next(iter(parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [])), "")
    elif scope["method"] == "GET" and path.startswith("call/"):
        key = path.rpartition("/")[2]
    if not key:
        yield
        return
    with listeners.listening(key):
        yield


def _limited(receive: Receive, count: Callable[[int], None]) -> Receive:
    """Receives, and has `count` judge the bytes that have come so far."""
    size = 0

    async def limited() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        count(size)
        return message

    return limited


def _at_most(size: int, limit: int) -> None:
    if size > limit:
        raise Refusal(413, f"A request's values may take {limit / 1e6:g} MB at most. Documents are uploaded.")


async def _checked_values(receive: Receive) -> Receive:
    """The body of a call, looked through and handed on.

    Raises:
        Refusal: it is too large or no JSON, or names a file that was not uploaded, or a number that nothing can take.
    """
    receive_limited, parts, more = _limited(receive, lambda size: _at_most(size, MAX_CALL_BYTES)), [], True
    while more:
        message = await receive_limited()
        if message["type"] != "http.request":
            raise Refusal(400, "The request broke off.")
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    body = b"".join(parts)
    if body:
        try:
            await asyncio.to_thread(lambda: _check(json.loads(body, parse_constant=_no_number)))
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


def _check(values: Any) -> None:
    waiting, seen = [values], 0
    while waiting:
        value = waiting.pop()
        seen += 1
        if seen > MAX_VALUES:
            raise Refusal(422, f"A call may carry {MAX_VALUES:,} values at most.")
        if isinstance(value, dict):
            path = value.get("path")
            if isinstance(path, str) and _ELSEWHERE.match(path):
                raise Refusal(422, "A file has to be uploaded: nothing is fetched from an address.")
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, int | float) and not isinstance(value, bool) and not abs(value) <= MAX_NUMBER:
            raise Refusal(422, f"Numbers must lie between -{MAX_NUMBER:,} and {MAX_NUMBER:,}.")


def _no_number(name: str) -> Any:
    raise Refusal(422, f"{name} is not a number that JSON knows.")


def _headers(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


def _pair(name: str, value: str) -> tuple[bytes, bytes]:
    return name.encode("latin-1"), value.encode("latin-1")


def _user(scope: Scope, headers: Mapping[str, str]) -> str | None:
    """Who is logged in, as Gradio's app knows it by its cookies."""
    app = scope.get("app")
    tokens, cookie_id = getattr(app, "tokens", {}), getattr(app, "cookie_id", "")
    for part in headers.get("cookie", "").split(";"):
        name, _, value = part.strip().partition("=")
        if name in (f"access-token-{cookie_id}", f"access-token-unsecure-{cookie_id}") and value in tokens:
            return str(tokens[value])
    return None


def _name_in(host: str) -> str:
    """The name in a Host header or the host of an address, without its port and brackets; "" where there is none."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower().rstrip(".")
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
