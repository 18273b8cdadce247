"""A real browser, a served page, and the watch that every browser test stands under.

A page fixture from here fails its test, at the end, when the page asked any host but its server for anything, when
the console showed an error, or when a script threw.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from branches import served
from chat_parts import SENTENCE, app_command
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright
from tiny_models import save_endless

from benchmarks.serving import launched_chromium

ACTION_MILLISECONDS = 90_000
"""Generous, since a busy machine is no failure; what has to be fast is measured where it is claimed."""

expect.set_options(timeout=ACTION_MILLISECONDS)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """One Chromium for all tests of a worker."""
    with sync_playwright() as playwright:
        browser = launched_chromium(playwright)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("app")


@pytest.fixture(scope="session")
def model(folder: Path) -> Path:
    """A tiny random model with a trained window of 256 tokens, whose answers are as long as they may be."""
    return save_endless(folder / "model")


@pytest.fixture(scope="session")
def address(folder: Path, model: Path) -> Iterator[str]:
    """The whole app on the tiny model, for which the hub is out of reach on any machine."""
    with served(app_command(model, folder / "data")) as url:
        yield url


@pytest.fixture(scope="session")
def short(folder: Path) -> Path:
    """A text of four pages."""
    path = folder / "short.txt"
    path.write_text("\f".join(f"Page {n}. {SENTENCE * 3}" for n in range(1, 5)))
    return path


@pytest.fixture(scope="session")
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
