"""The log: problems, and requests where asked. Each line has the number of its request, and no words of a visitor."""

from __future__ import annotations

import logging
from contextvars import ContextVar

from ..settings import Settings

log = logging.getLogger("selfextend.app")
request_id: ContextVar[str] = ContextVar("request_id", default="-")
"""Of the request that is being answered: in the log, in the answer's headers, and in what is told of errors."""


def set_up_log(settings: Settings) -> None:
    """Log to stderr with the number of the request on each line: refusals and errors, and requests where asked."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s [%(request)s] %(message)s"))
    handler.addFilter(_numbered)
    log.handlers, log.propagate = [handler], False
    log.setLevel({"problems": logging.WARNING, "requests": logging.INFO, "texts": logging.DEBUG}[settings.log])


def log_unexpected(error: BaseException, where: str) -> None:
    """Logs where an error came from. Its words may quote a document, so they are left out unless asked for.

    Args:
        where: what was being done, in words that are not a visitor's.
    """
    frames = []
    trace = error.__traceback__
    while trace is not None:
        frames.append(f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno} {trace.tb_frame.f_code.co_name}")
        trace = trace.tb_next
    words = f": {error}" if log.isEnabledFor(logging.DEBUG) else " (--log texts would say more)"
    log.error("%s in %s%s\n  %s", type(error).__name__, where, words, "\n  ".join(frames[-12:]))


def log_request(method: str, path: str, status: int, seconds: float) -> None:
    """Logs that a request was answered, where requests are logged."""
    log.info("%s %s %d in %.0f ms", method, route(path), status, 1000 * seconds)


def _numbered(record: logging.LogRecord) -> bool:
    record.request = request_id.get()
    return True


def route(path: str) -> str:
    """A path without what is a visitor's: file names, ids of sessions and events."""
    parts = path.partition("=")[0].split("/")
    return "/".join(parts[:4] if "call" in parts[:3] else parts[:3])
