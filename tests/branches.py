"""Servers for the tests that branch off a process in which torch, transformers and Gradio are imported already.

Imports are most of what starting the app costs, and the tests start it some twenty times.
What looks at starting and ending themselves, or sets what packages read when they are imported (`HF_…`), starts
programs: `benchmarks.serving.served`.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import runpy
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerContext
from multiprocessing.forkserver import ensure_running
from pathlib import Path

from benchmarks import serving
from benchmarks.serving import ROOT

NOWHERE = "http://127.0.0.1:9"
"""The hub's address in every branch, so that it is out of reach on any machine."""
IMPORTED = (
    "app.page", "app.server.guard", "app.theme", "app.tabs.model_panel", "selfextend.lab.perplexity", "torch._dynamo",
    "transformers.models.llama.modeling_llama",
)  # fmt: skip


class Branch:
    """A branch that runs a program, with as much of `subprocess.Popen` as a server needs."""

    def __init__(self, command: list[str], folder: Path, variables: dict[str, str]) -> None:
        self._process = _trunk().Process(target=_run, args=(command[1:], folder, variables), daemon=True)
        self._process.start()

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def terminate(self) -> None:
        self._process.terminate()

    def wait(self, timeout: float) -> None:
        self._process.join(timeout)
        if self._process.is_alive():
            self._process.kill()
            raise TimeoutError(f"The server did not end within {timeout} seconds.")


@functools.cache
def _trunk() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(IMPORTED))
    before = dict(os.environ)
    os.environ.update(PYTHONPATH=str(ROOT), HF_ENDPOINT=NOWHERE)
    try:
        ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)
    return context


def _run(arguments: list[str], folder: Path, variables: dict[str, str]) -> None:
    """`python` with these arguments: a file, or `-c` and code."""
    os.chdir(folder)
    os.environ.update(variables)
    first, *others = arguments
    if first == "-c":
        sys.argv = [first, *others[1:]]
        exec(others[0], {"__name__": "__main__"})
    else:
        sys.argv = arguments
        sys.path.insert(0, str((folder / first).parent))
        runpy.run_path(first, run_name="__main__")


@contextmanager
def served(
    command: Callable[[int], list[str]], environment: dict[str, str] | None = None, port: int = 0
) -> Iterator[str]:
    """`benchmarks.serving.served` by a branch."""
    assert not any(name.startswith("HF_") for name in environment or {}), "packages have read it already"
    with serving.served(command, environment, port, start=Branch) as address:
        yield address
