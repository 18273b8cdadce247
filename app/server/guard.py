"""Stands before the whole server: who may ask it, from where, and with what.

A browser runs pages of strangers beside this one, and each of them may send requests to this machine. What reaches the
handlers comes from this page itself, from a program that was started on purpose, or from the machines that were let
in. SECURITY.md says against whom this protects.
"""

from __future__ import annotations

import ipaddress
import re
import secrets
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..settings import Settings
from .accounts import Passwords, user_of
from .asgi import API, Application, Receive, Refusal, Scope, Send, at_most, header, headers_of, limited, name_in
from .call_values import checked_values, is_elsewhere
from .content_policy import Answer
from .listeners import Listeners
from .request_log import log, log_request, log_unexpected, request_id, route
from .upload_quota import UploadQuota

_UNUSED = (
    "proxy=", "deep_link", "dev/", "vibe-", "undo-vibe-edit", "process_recording", "stream/", "run-history", "runs",
    "profiling", "custom_component",
)  # fmt: skip
"""Gradio's own routes that this app has no use for: they fetch, edit the program, stream and count."""
_CLOSED = ("/monitoring", *(API + name for name in _UNUSED))
_BEFORE_LOG_IN = re.compile(
    r"/|/(login|logout|theme\.css|robots\.txt|favicon\.ico|manifest\.json|pwa_icon|assets|static|svelte)(/.*)?"
    r"|/gradio_api/(user|token|login_check|app_id|startup-events|theme\.css)/?"
)
"""What shows the page for logging in. Some of Gradio's other routes ask for no log-in by themselves."""
_FILES = (API + "file=", API + "file/")


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
    origins: frozenset[str]
    any_address: bool
    log_in: bool
    upload_bytes: int

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


@dataclass
class Guard:
    """The middleware. Refuses in a sentence, counts uploads, slows down guessing, and numbers requests for the log."""

    app: Application
    rules: Rules
    listeners: Listeners
    _passwords: Passwords = field(init=False, default_factory=Passwords)
    _uploads: UploadQuota = field(init=False)

    def __post_init__(self) -> None:
        self._uploads = UploadQuota(self.rules.upload_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return  # the app has no other connections
        number = secrets.token_hex(4)
        scope["headers"] = [
            *(pair for pair in scope["headers"] if pair[0] != b"x-request-id"),
            header("x-request-id", number),
        ]
        request_id.set(number)
        began, answer = time.monotonic(), Answer(send, number)
        try:
            receive = await self._admitted(scope, receive, answer)
            with self.listeners.asking(scope):
                await self.app(scope, receive, answer)
        except Refusal as refusal:
            log.warning("refused: %s", refusal)
            await answer.refuse(refusal)
        except Exception as error:
            log_unexpected(error, route(scope["path"]))
            await answer.refuse(Refusal(500, f"Something unexpected went wrong (request {number})."))
        finally:
            log_request(scope["method"], scope["path"], answer.status, time.monotonic() - began)

    async def _admitted(self, scope: Scope, receive: Receive, answer: Answer) -> Receive:
        """How to receive the body of a request that may come in.

        Raises:
            Refusal: it may not.
        """
        headers, path = headers_of(scope), str(scope["path"])
        self._check_origin(scope["method"], path, headers)
        if path.startswith(_CLOSED) or (path.startswith(_FILES) and is_elsewhere(path[len(_FILES[0]) :])):
            raise Refusal(404, "There is nothing here.")
        user = user_of(scope, headers)
        if self.rules.log_in and user is None and not _BEFORE_LOG_IN.fullmatch(path):
            raise Refusal(401, "Log in first.")
        if scope["method"] not in ("POST", "PUT", "PATCH"):
            return receive
        address = str((scope.get("client") or ("",))[0])
        if path.rstrip("/") == "/login":
            answer.judge = self._passwords.guess(address)
            return limited(receive, at_most(10_000))
        if path.rstrip("/") == API + "upload":
            return limited(receive, self._uploads.of((user, address)))
        if headers.get("content-type", "").startswith("multipart/"):
            raise Refusal(415, "Files are uploaded under /gradio_api/upload.")
        return await checked_values(receive)

    def _check_origin(self, method: str, path: str, headers: Mapping[str, str]) -> None:
        host = headers.get("host", "")
        if not self._known(name_in(host)):
            raise Refusal(
                403, "This server is not known by that name: open it by its own address, or start it with "
                "--trusted-hosts.",
            )  # fmt: skip
        from_host = headers.get("origin", f"://{host}").lower().partition("://")[2]
        foreign = from_host != host.lower() and name_in(from_host) not in self.rules.origins
        opened = method in ("GET", "HEAD") and headers.get("sec-fetch-mode") == "navigate" and not path.startswith(API)
        if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
            foreign |= not opened or path.rstrip("/") == "/logout"
        if foreign:
            raise Refusal(403, "Another site's page may not use this server.")

    def _known(self, name: str) -> bool:
        return name in self.rules.hosts or (self.rules.any_address and _is_address(name))


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
