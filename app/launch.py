"""From settings to a running server."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from selfextend.freed_memory import give_back_freed_memory

from . import imports
from .settings import PREFIX, read_settings

if TYPE_CHECKING:
    from .runtime import Runtime

CACHE_SECONDS = (600, 3600)
"""How often Gradio's temporary files are looked through, and how old they may get: uploads never read, say. Of those
that were refused or broke off Gradio knows nothing."""

COMPRESSION = 5
"""Of what is sent, 1 to 9. Of the page's 912 kB this leaves 183 in 12 ms, and 9 leaves 179 in 25."""

FREE_THREADS = 40
"""For everything that is not a question to the model."""


def main(arguments: Sequence[str] | None = None, program: str = "python app.py") -> None:
    """Read the settings and serve until stopped, which ends the process: with 0 after Ctrl-C, SIGTERM or SIGHUP, with 2
    and a sentence where the data folder cannot be used.

    Args:
        arguments: without the program's name; those of this process unless given.
        program: what `--help` calls it.
    """
    give_back_freed_memory()
    imports.begin()
    # No request leaves this machine unless somebody asks for a model from the hub. Both packages look when imported.
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP, and under nohup it is ignored
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)  # as Ctrl-C: what is not to be kept goes
    settings = read_settings(arguments, program=program)
    os.environ.pop(f"{PREFIX}AUTH", None)  # the processes that open strangers' files are to know no password
    if settings.offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    from .documents.library import DataFolderError
    from .runtime import make_runtime

    runtime = None
    try:
        runtime = make_runtime(settings)
        serve(runtime)
        _stay(runtime)
    except DataFolderError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from error
    except KeyboardInterrupt:
        _end(runtime)


def _stay(runtime: Runtime) -> NoReturn:
    """Wait for a signal, and delete once an hour what is too old."""
    from .belongings import remove_old
    from .server.request_log import log_unexpected

    _, oldest = CACHE_SECONDS
    while True:
        try:
            remove_old(runtime)
            runtime.own.sweep(oldest)
        except OSError as error:
            log_unexpected(error, "deleting what is old")
        time.sleep(oldest)


def _end(runtime: Runtime | None) -> NoReturn:
    """End at once, whatever is under way, and delete what is not to be kept.

    Leaving by `sys.exit` would wait for the model's threads, and abort where one of them computes at that moment.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    if runtime is not None:
        runtime.own.remove()
    sys.stdout.flush()
    os._exit(0)


def serve(runtime: Runtime) -> str:
    """Start the server and the loading of the model.

    Returns:
        The address to open.

    Raises:
        SystemExit: nothing can listen there.
    """
    settings = runtime.settings
    # Where Gradio puts uploads, if it is told before the page is built.
    os.environ["GRADIO_TEMP_DIR"] = str(runtime.own.uploads)
    # After each event Gradio would sum up all those before it, for a page of figures that the guard keeps closed.
    os.environ["GRADIO_ANALYTICS_CACHE_FREQUENCY"] = str(sys.maxsize)
    os.environ["GRADIO_ANALYTICS_MAX_EVENTS"] = "1"
    from starlette.middleware import Middleware
    from starlette.middleware.gzip import GZipMiddleware

    from .page import build_page
    from .server.guard import Guard, Rules
    from .server.request_log import set_up_log
    from .tabs.model_panel import load_in_background
    from .tabs.widgets import MAX_ANSWERS, MAX_CALLS
    from .theme import ASSETS, app_css, gradio_theme

    set_up_log(settings)
    page = build_page(runtime, CACHE_SECONDS)
    page.queue(default_concurrency_limit=8, api_open=False)  # what is to wait in the queue cannot go around it
    try:
        _, url, _ = page.launch(
            server_name=settings.host,
            server_port=settings.port or None,
            auth=list(settings.auth) or None,
            inbrowser=settings.browser,
            share=False,
            # A question that waits for the model keeps a thread waiting with it.
            max_threads=FREE_THREADS + MAX_ANSWERS + MAX_CALLS,
            max_file_size=settings.max_file_bytes,
            mcp_server=settings.mcp,
            app_kwargs={
                "middleware": [
                    # Around the guard, which changes the page. Gradio packs its scripts by itself.
                    Middleware(GZipMiddleware, compresslevel=COMPRESSION),
                    Middleware(Guard, rules=Rules.of(settings), listeners=runtime.listeners),
                ]
            },
            # MCP clients are told what went wrong only with this; the page and the API are told anyway.
            show_error=settings.mcp,
            pwa=True,
            run_history=None,
            theme=gradio_theme(),
            css=app_css() + (ASSETS / "page.css").read_text(encoding="utf-8"),
            footer_links=["api", "settings"],
            prevent_thread_lock=True,
            quiet=True,
        )
    except OSError as error:
        raise SystemExit(f"Nothing can listen on {settings.host}, port {settings.port or 'any'}: {error}") from error
    # After the launch, which gives up where its own server does not answer within three seconds.
    load_in_background(runtime)
    print(f"SelfExtend explorer: {url}", flush=True)
    return str(url)
