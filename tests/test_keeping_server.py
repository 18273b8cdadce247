"""A real server: what many visitors lose (nothing), and what is on its disk after deleting and after its end."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psutil
import pytest
from tiny_models import save_endless

from benchmarks.serving import ROOT, SERVER_SECONDS
from selfextend.kept import read_reading

VISITORS, PAGE_LOADS = 33, 300
SECRET = "Zanzibar"
"""A word of the documents, which must not be left anywhere."""


@dataclass
class Page:
    """What a browser has of a page, without the browser. Values of gr.States stay on the server."""

    client: httpx.Client
    config: dict[str, Any]
    session: str = field(default_factory=lambda: uuid4().hex)

    def steps(self, name: str, values: dict[int, Any] | None = None, event: Any = None) -> Iterator[str]:
        """Calls a handler with the page's values; yields what the server says of it, the answer last.

        Args:
            name: of the handler.
            values: instead of those that a new page has, by the place among the handler's inputs.
        """
        function = next(each for each in self.config["dependencies"] if each["api_name"] == name)
        usual = {component["id"]: component["props"].get("value") for component in self.config["components"]}
        data = [(values or {}).get(place, usual[number]) for place, number in enumerate(function["inputs"])]
        body = {"fn_index": function["id"], "data": data, "session_hash": self.session, "event_data": event}
        self.client.post("/gradio_api/queue/join", json=body | {"trigger_id": None}).raise_for_status()
        with self.client.stream("GET", "/gradio_api/queue/data", params={"session_hash": self.session}) as stream:
            for line in stream.iter_lines():
                if line.startswith("data:"):
                    yield line[5:]
                if '"process_completed"' in line:
                    return
        raise AssertionError("the stream broke off")

    def called(self, name: str, values: dict[int, Any] | None = None, event: Any = None) -> list[Any]:
        """What a handler sets last."""
        *_, last = map(json.loads, self.steps(name, values, event))
        assert last["success"], last
        return list(last["output"]["data"])

    def load(self, kept: Any = None) -> Page:
        self.called("restore", {0: kept})
        return self

    def upload(self, name: str, text: str) -> str:
        answer = self.client.post("/gradio_api/upload", files={"files": (name, text.encode())}).raise_for_status()
        return str(answer.json()[0])

    def add(self, name: str, text: str) -> Page:
        path = self.upload(name, text)
        self.called("add", {0: [{"path": path, "orig_name": name, "meta": {"_type": "gradio.FileData"}}]})
        return self

    def kept(self) -> dict[str, Any]:
        """What the browser is given to keep, by a handler that only looks."""
        return dict(self.called("kept")[0])

    def names(self) -> list[str]:
        return [name for _, name in self.kept()["documents"]]


@dataclass
class Server:
    """A running app, its process, its data folder and the folder for temporary files."""

    client: httpx.Client
    process: subprocess.Popen[str]
    data: Path
    temporary: Path

    def page(self) -> Page:
        return Page(self.client, self.config)

    @cached_property
    def config(self) -> dict[str, Any]:
        """Of any page: it is the same for all, and takes longest to ask for."""
        return dict(self.client.get("/config").json())

    def texts(self) -> list[Path]:
        """The files with the secret word in them."""
        files = [path for folder in (self.data, self.temporary) for path in folder.rglob("*") if path.is_file()]
        return [path for path in files if SECRET.encode() in path.read_bytes()]

    def ended_by(self, number: int, within: float) -> str:
        """Sends a signal; what the process says before it ends with 0."""
        began = time.monotonic()
        self.process.send_signal(number)
        out, error = self.process.communicate(timeout=30)
        assert (self.process.returncode, error.strip()) == (0, "")
        assert time.monotonic() - began < within
        return out


@contextmanager
def running(model: Path, folder: Path, *options: str) -> Iterator[Server]:
    temporary, data = folder / "tmp", folder / "data"
    temporary.mkdir(parents=True, exist_ok=True)
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "app.py", "--no-browser", "--model", str(model), "--data-folder", str(data)]
    process = subprocess.Popen(
        [*command, "--port", str(port), *options],
        cwd=ROOT, env=os.environ | {"TMPDIR": str(temporary)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # Whatever runs in the background of a shell ignores Ctrl-C, and what it starts does too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
            deadline = time.monotonic() + SERVER_SECONDS
            while time.monotonic() < deadline and process.poll() is None:
                try:
                    client.get("/").raise_for_status()
                    break
                except httpx.TransportError:
                    time.sleep(0.2)
            yield Server(client, process, data, temporary)
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_endless(tmp_path_factory.mktemp("keeping") / "model")


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(model, tmp_path_factory.mktemp("keeping") / "server") as started:
        yield started


@pytest.mark.slow
def test_thirty_three_visitors_and_three_hundred_page_loads_lose_nothing(server: Server) -> None:
    pages = [server.page().load() for _ in range(VISITORS)]
    for number, page in enumerate(pages):
        page.add(f"{number}.txt", f"Text number {number}.")
    for _ in range(PAGE_LOADS):
        server.page().load()
    # Neither the pages that stayed open nor those that are loaded again miss anything.
    assert [page.names() for page in pages] == [[f"{number}.txt"] for number in range(VISITORS)]
    again = [server.page().load(page.kept()) for page in pages]
    assert [page.names() for page in again] == [[f"{number}.txt"] for number in range(VISITORS)]


def test_what_is_deleted_is_gone(server: Server) -> None:
    ada, bob = server.page().load(), server.page().load()
    ada.add("a.txt", f"{SECRET} of Ada.")
    bob.add("a.txt", f"{SECRET} of both.")
    ada.add("b.txt", f"{SECRET} of both.")
    assert len(server.texts()) == 4  # two documents, each a file and its text: the uploads are gone
    shared = [path for path in server.texts() if "of both" in path.read_text()]
    for sha256, _ in ada.kept()["documents"]:
        ada.called("remove", event={"sha256": sha256})
    assert ada.names() == []
    assert server.texts() == shared
    bob.called("delete_everything")
    assert server.texts() == []
    assert bob.names() == []


def test_the_same_file_of_two_at_once_is_read_by_both(server: Server) -> None:
    pages = [server.page().load() for _ in range(2)]
    paths = {page.upload("handout.txt", "For the class.") for page in pages}
    assert len(paths) == 1
    file = {"path": paths.pop(), "orig_name": "handout.txt", "meta": {"_type": "gradio.FileData"}}
    for page in pages:
        page.called("add", {0: [file]})
    assert [page.names() for page in pages] == [["handout.txt"]] * 2


def test_an_answer_of_the_api_keeps_no_document(server: Server) -> None:
    page = server.page().load()
    path = page.upload("a.txt", f"{SECRET}.")
    assert page.called("ask", {0: "Who?", 1: [{"path": path}], 5: 1})[0]["answer"]
    assert server.texts() == [Path(path)]  # for an hour, to be asked about again
    Path(path).unlink()


def test_a_question_that_is_too_long_is_refused(server: Server) -> None:
    page = server.page().load()
    said = json.dumps(page.called("begin", {0: "a" * 100_001}))
    assert "at most 100,000 characters" in said
    assert "aaaa" not in said


def test_a_checksum_gives_nobody_what_another_has(server: Server) -> None:
    ada = server.page().load().add("hers.txt", "Of Ada.")
    ((sha256, _),) = ada.kept()["documents"]
    claim = {"visitor": "thief-0123456789-0123456789", "documents": [[sha256, "mine.txt"]]}
    thief = server.page()
    shown = "".join(map(str, thief.called("restore", {0: claim})))
    assert "mine.txt" in shown
    assert "no longer kept here" in shown
    assert f'data-open="{sha256}"' not in shown
    assert server.page().load(ada.kept()).names() == ["hers.txt"]


def test_a_server_that_is_killed_while_it_stores_loses_nothing_and_leaves_nothing_behind(
    model: Path, tmp_path: Path
) -> None:
    tried, told = list[str](), list[str]()

    def add_without_end(page: Page) -> None:
        with suppress(httpx.HTTPError):
            for number in count():
                tried.append(f"{number}.txt")
                page.add(tried[-1], f"{SECRET} of text number {number}. " * 400)
                told.append(tried[-1])

    def ask(page: Page) -> None:
        with suppress(httpx.HTTPError):
            page.called("answer", {2: "Vanilla", 7: 4})

    with running(model, tmp_path) as server:
        adding, asking = server.page().load(), server.page().load()
        asking.called("ready")
        asking.add("asked.txt", f"{SECRET} jumps over the lazy dog near the old mill. " * 40)
        asking.called("begin", {0: "Who jumps?"})
        kept = [adding.kept(), asking.kept()]
        with ThreadPoolExecutor(2) as threads:
            added, answered = threads.submit(add_without_end, adding), threads.submit(ask, asking)
            while not (added.done() or (told and (answered.done() or any((server.data / "readings").glob("*.part"))))):
                time.sleep(0.001)
            children = psutil.Process(server.process.pid).children(recursive=True)
            server.process.kill()
            added.result()
            answered.result()
    assert not psutil.wait_procs(children, timeout=5)[1]
    with running(model, tmp_path) as server:
        pages = [server.page().load(browser) for browser in kept]
        shown = pages[0].names()
        assert told
        assert shown in (told, tried)
        assert pages[1].names() == ["asked.txt"]
        checksums = {sha256 for page in pages for sha256, _ in page.kept()["documents"]}
        documents = server.data / "documents"
        stored = {documents / f"{sha256}.{end}" for sha256 in checksums for end in ("txt", "json")}
        assert set(server.texts()) == stored
        for sha256 in checksums:
            assert hashlib.sha256((documents / f"{sha256}.txt").read_bytes()).hexdigest() == sha256
            assert SECRET in json.loads((documents / f"{sha256}.json").read_text())["pages"][0]["text"]
        for reading in (server.data / "readings").glob("*.safetensors"):
            assert read_reading(reading, {})
        assert not list(server.data.rglob("*.part"))


@pytest.mark.parametrize(
    ("number", "options", "left"),
    [(signal.SIGTERM, (), {"documents"}), (signal.SIGINT, ("--no-persist",), set())],
    ids=["SIGTERM", "Ctrl-C where nothing is kept"],
)
def test_the_end_deletes_what_is_not_to_be_kept(
    model: Path, tmp_path: Path, number: int, options: tuple[str, ...], left: set[str]
) -> None:
    with running(model, tmp_path, *options) as server:
        page = server.page().load().add("a.txt", f"{SECRET}.")
        page.upload("b.txt", f"{SECRET} that was never read.")
        assert len(server.texts()) == 3
        server.ended_by(number, within=5)
        assert {path.parent.name for path in server.texts()} == left


def test_ctrl_c_while_the_model_reads_ends_it_at_once_and_quietly(model: Path, tmp_path: Path) -> None:
    with running(model, tmp_path) as server:
        page = server.page().load()
        page.called("ready")
        page.add("long.txt", "The quick brown fox jumps over the lazy dog near the old mill. " * 10_000)
        page.called("begin", {0: "Who jumps?"})
        vanilla = {2: "Vanilla"}
        assert any(" tokens" in step and "eading" in step for step in page.steps("answer", vanilla))
        said = server.ended_by(signal.SIGINT, within=2)
        assert "SelfExtend explorer: http" in said
        assert len(said.splitlines()) == 1
