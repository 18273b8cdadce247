"""A real browser, a served page, and the watch that every browser test stands under.

A page fixture from here fails its test, at the end, when the page asked any host but its server for anything, when
the console showed an error, or when a script threw. Knows nothing about what is on the page.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
SERVER_SECONDS = 180
ACTION_MILLISECONDS = 90_000
"""Generous, since a busy machine is no failure; what has to be fast is measured where it is claimed."""

expect.set_options(timeout=ACTION_MILLISECONDS)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """One Chromium for all tests of a worker, with everything off that would call home by itself."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium") or "/usr/bin/chromium",
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"],
        )
        yield browser
        browser.close()


@contextmanager
def served(
    command: Callable[[int], list[str]], environment: dict[str, str] | None = None, port: int = 0
) -> Iterator[str]:
    """Runs `command(port)` in the project's root until the port answers; yields its address, then ends it.

    Args:
        port: 0 takes a free one.
    """
    if not port:
        with closing(socket.socket()) as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    variables = os.environ | {"PYTHONPATH": str(ROOT), "GRADIO_ANALYTICS_ENABLED": "False"} | (environment or {})
    process = subprocess.Popen(command(port), cwd=ROOT, env=variables)
    try:
        _wait_for(address, process)
        yield address
    finally:
        process.terminate()
        process.wait(timeout=30)


def _wait_for(address: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + SERVER_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"The server ended by itself with code {process.returncode}.")
        try:
            with urlopen(address, timeout=5):  # noqa: S310 (the address is our own)
                return
        except (URLError, ConnectionError, TimeoutError):
            time.sleep(0.3)
    raise TimeoutError(f"The server did not answer within {SERVER_SECONDS} seconds.")


@pytest.fixture(scope="module")
def tabs_address() -> Iterator[str]:
    """The address of tests/browser/demo.py: the tabs that need no model."""
    with served(lambda port: [sys.executable, "tests/browser/demo.py", str(port)]) as address:
        yield address


@pytest.fixture
def open_page(chromium: Browser) -> Iterator[Callable[..., Page]]:
    """`open_page(url, width=1280, theme="light")` -> a page under watch; as many as a test needs."""
    watches: list[Watch] = []

    def opened(url: str, width: int = 1280, height: int = 1000, theme: str = "light") -> Page:
        page = chromium.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(ACTION_MILLISECONDS)
        watches.append(Watch(page, url))
        page.goto(f"{url}/?__theme={theme}" if url.startswith("http") else url)
        return page

    yield opened
    for watch in watches:
        watch.page.close()
        assert not watch.foreign, f"asked other hosts: {watch.foreign}"
        assert not watch.errors, f"errors in the page: {watch.errors}"


class Watch:
    """Records what a page asks of other hosts and what goes wrong in it."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.foreign: list[str] = []
        self.errors: list[str] = []
        allowed = {urlsplit(url).netloc, ""}  # data:, blob: and file: have no host
        page.on("request", lambda request: self._host(request.url, allowed))
        page.on("websocket", lambda sock: self._host(sock.url, allowed))
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def _host(self, url: str, allowed: set[str]) -> None:
        if urlsplit(url).netloc not in allowed:
            self.foreign.append(url)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(message.text)
