"""From settings to a running server."""

from __future__ import annotations

import os
from collections.abc import Sequence

from .settings import PREFIX, Settings, read_settings


def main(arguments: Sequence[str] | None = None, program: str = "python app.py") -> None:
    """Read the settings and serve until stopped.

    Args:
        arguments: without the program's name; those of this process unless given.
        program: what `--help` calls it.
    """
    # No request leaves this machine unless somebody asks for a model from the hub. Both packages look when imported.
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    settings = read_settings(arguments, program=program)
    os.environ.pop(f"{PREFIX}AUTH", None)  # the processes that open strangers' files are to know no password
    if settings.offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    serve(settings)


def serve(settings: Settings, *, block: bool = True) -> str:
    """Start the server and the loading of the model.

    Args:
        block: wait until the server is stopped.

    Returns:
        The address to open.
    """
    from .runtime import make_runtime

    runtime = make_runtime(settings)
    from starlette.middleware import Middleware

    from .guard import Guard, Rules
    from .page import build_page
    from .request_log import set_up_log
    from .tabs.model_panel import load_in_background
    from .theme import ASSETS, app_css, gradio_theme

    set_up_log(settings)
    page = build_page(runtime)
    page.queue(default_concurrency_limit=8, api_open=False)  # what is to wait in the queue cannot go around it
    try:
        _, url, _ = page.launch(
            server_name=settings.host,
            server_port=settings.port or None,
            auth=list(settings.auth) or None,
            inbrowser=settings.browser,
            share=False,
            max_file_size=settings.max_file_bytes,
            mcp_server=settings.mcp,
            app_kwargs={"middleware": [Middleware(Guard, rules=Rules.of(settings), listeners=runtime.listeners)]},
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
    if block:
        page.block_thread()
    return str(url)
