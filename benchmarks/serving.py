"""A program of the project that serves a page, and a Chromium to open it: for the browser tests and the benchmarks."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Protocol
from urllib.error import URLError
from urllib.request import urlopen

from playwright.sync_api import Browser, Playwright

ROOT = Path(__file__).resolve().parent.parent
SERVER_SECONDS = 180


def launched_chromium(playwright: Playwright) -> Browser:
    """Debian's Chromium, with everything off that would call home by itself.

    Its headless shell where there is one: the whole browser draws its own tabs and menus too, unseen, and a page that
    is opened takes it 2.9 s of processor time against 1.5.
    """
    return playwright.chromium.launch(
        executable_path=shutil.which("chromium-headless-shell") or shutil.which("chromium") or "/usr/bin/chromium",
        args=["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"],
    )


class Program(Protocol):
    """As much of `subprocess.Popen` as a server needs."""

    @property
    def returncode(self) -> int | None: ...

    def poll(self) -> int | None: ...

    def terminate(self) -> None: ...

    def wait(self, timeout: float) -> object: ...


def _started(command: list[str], folder: Path, variables: dict[str, str]) -> Program:
    return subprocess.Popen(command, cwd=folder, env=variables)


@contextmanager
def served(
    command: Callable[[int], list[str]],
    environment: dict[str, str] | None = None,
    port: int = 0,
    folder: Path = ROOT,
    start: Callable[[list[str], Path, dict[str, str]], Program] = _started,
) -> Iterator[str]:
    """Runs `command(port)` until the port answers; yields its address, then ends it.

    Args:
        environment: variables beside those of this process. The project's root is on `PYTHONPATH` unless named here.
        port: 0 takes a free one.
        folder: in which it runs.
        start: starts a command in a folder with environment variables; a program of its own unless given.
    """
    if not port:
        with closing(socket.socket()) as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    variables = os.environ | {"PYTHONPATH": str(ROOT), "GRADIO_ANALYTICS_ENABLED": "False"} | (environment or {})
    process = start(command(port), folder, variables)
    try:
        _wait_for(address, process)
        yield address
    finally:
        process.terminate()
        process.wait(timeout=30)


def _wait_for(address: str, process: Program) -> None:
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
