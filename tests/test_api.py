"""The endpoints, through gradio_client against a server that `python app.py` started."""

from __future__ import annotations

import ast
import base64
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import anyio
import pytest
from app_parts import WORDS, tiny_folder  # noqa: F401 (fixture)
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from mcp import ClientSession
from mcp.client.streamable_http import streamablehttp_client

from selfextend.config import SelfExtendConfig, max_length, suggest
from selfextend.position_map import position_map
from selfextend.profile import LONGEST_ANSWER

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def address(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:  # noqa: F811
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data = tmp_path_factory.mktemp("data")
    command = [sys.executable, "app.py", "--no-browser", "--port", str(port), "--data-folder", str(data), "--mcp"]
    server = subprocess.Popen([*command, "--model", str(tiny_folder)], cwd=ROOT, env=os.environ)
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 240
    while True:
        assert server.poll() is None, "the server ended by itself"
        try:
            with urlopen(url, timeout=5):
                break
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.3)
    yield url
    server.terminate()
    server.wait(30)


@pytest.fixture(scope="module")
def client(address: str) -> Client:
    return Client(address, verbose=False)


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    path = tmp_path / "notes.txt"
    path.write_text("\f".join(f"Page {n}. " + WORDS * 6 for n in range(1, 7)))
    return path


def test_ask_answers_and_cites(client: Client, notes: Path) -> None:
    result = client.predict(
        question="Who jumps?",
        documents=[handle_file(str(notes))],
        group_size=32,
        neighbor_window=64,
        method="SelfExtend",
        max_new_tokens=6,
        api_name="/ask",
    )
    assert {"answer", "citations", "prompt_tokens", "trained_window", "reach", "seconds"} <= result.keys()
    assert result["trained_window"] == 256
    assert result["reach"] == max_length(256, SelfExtendConfig(32, 64))
    assert result["prompt_tokens"] > 256
    assert result["citations"]
    for citation in result["citations"]:
        assert citation.keys() == {"document", "page", "text", "share", "level", "relative_position"}
        assert citation["document"] == "notes.txt"
        assert 1 <= citation["page"] <= 6
        assert citation["relative_position"] < 256
    again = client.predict("Who jumps?", [handle_file(str(notes))], 32, 64, "SelfExtend", 6, api_name="/ask")
    assert again["answer"] == result["answer"]
    assert again["reused_tokens"] > 0.9 * again["prompt_tokens"]


def test_ask_suggests_where_nothing_is_given(client: Client, notes: Path) -> None:
    result = client.predict("Who?", [handle_file(str(notes))], 0, 0, "SelfExtend", 4, api_name="/ask")
    length = result["prompt_tokens"] + 4
    assert result["group_size"] == suggest(256, length, neighbor_window=result["neighbor_window"]).group_size
    assert result["reach"] >= length


def test_the_longest_answer_suits_the_model_unless_it_is_given(client: Client, notes: Path) -> None:
    asked = {"question": "Who jumps?", "documents": [handle_file(str(notes))], "api_name": "/ask"}
    by_itself, given = client.predict(**asked), client.predict(**asked, max_new_tokens=LONGEST_ANSWER)
    assert (by_itself["answer"], by_itself["new_tokens"]) == (given["answer"], given["new_tokens"])


def test_ask_refuses_in_a_sentence_and_the_server_goes_on(client: Client, notes: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.pdf"
    empty.touch()
    for arguments, words in (
        (("Who?", [handle_file(str(notes))], 1, 64, "SelfExtend", 4), "smallest change"),
        (("Who jumps over it? " * 2000, [handle_file(str(notes))], 32, 64, "SelfExtend", 4), "smallest change"),
        (("Who?", [handle_file(str(empty))], 8, 64, "SelfExtend", 4), "empty"),
        (("", [handle_file(str(notes))], 32, 64, "SelfExtend", 4), "Type a question"),
        (("Who?", [handle_file(str(notes))], 32, 64, "Magic", 4), "method must be"),
        (("Who?", [handle_file(str(notes))], 32, 64, "SelfExtend", -1), "max_new_tokens"),
    ):
        with pytest.raises(AppError, match=words):
            client.predict(*arguments, api_name="/ask")
    assert client.predict(256, 1000, api_name="/suggest")["reach"] >= 1000


def test_position_map_is_exact(client: Client) -> None:
    cells = client.predict(4096, 100_000, 32, 1024, 90_000, 90_300, 0, 0, "selfextend", api_name="/position_map")
    expected = position_map(4096, 100_000, SelfExtendConfig(32, 1024), (90_000, 90_300))
    assert cells["query"] == expected.query.tolist()
    assert cells["key"] == expected.key.tolist()
    assert cells["relative"] == expected.relative.tolist()
    assert len(cells["query"]) <= 512
    assert len(cells["key"]) <= 512
    with pytest.raises(AppError, match="query_to must be at most"):
        client.predict(4096, 100, 4, 64, 0, 200, 0, 0, "selfextend", api_name="/position_map")


def test_only_the_endpoints_are_public(client: Client) -> None:
    named = client.view_api(return_format="dict")["named_endpoints"]
    assert set(named) == {"/ask", "/position_map", "/suggest"}
    names = {name: [p["parameter_name"] for p in named[name]["parameters"]] for name in named}
    assert names == {
        "/ask": ["question", "documents", "group_size", "neighbor_window", "method", "max_new_tokens"],
        "/position_map": [
            "trained_window", "length", "group_size", "neighbor_window", "query_from", "query_to", "key_from", "key_to",
            "method",
        ],
        "/suggest": ["trained_window", "length"],
    }  # fmt: skip


@pytest.mark.parametrize("given", [{"path": "/etc/passwd"}, "/etc/passwd", "README.md", {}, 7])
def test_no_file_is_read_that_was_not_uploaded(client: Client, given: Any) -> None:
    with pytest.raises(AppError, match="must be an uploaded file"):
        client.predict("Who jumps?", [given], api_name="/ask")


async def through_mcp(address: str, calls: list[tuple[str, dict[str, Any]]]) -> tuple[set[str], list[Any]]:
    """The names of the tools, without the app's name before them, and what each call answers."""
    url = f"{address}/gradio_api/mcp/"
    async with streamablehttp_client(url, timeout=300) as (read, write, _), ClientSession(read, write) as session:
        await session.initialize()
        tools = {tool.name for tool in (await session.list_tools()).tools}
        before = next(name for name in tools if name.endswith("ask")).removesuffix("ask")
        answers = [await session.call_tool(before + name, arguments) for name, arguments in calls]
        return {name.removeprefix(before) for name in tools}, answers


def test_mcp_does_the_same(client: Client, address: str, notes: Path) -> None:
    document = f"data:text/plain;base64,{base64.b64encode(notes.read_bytes()).decode()}"
    asked = {
        "question": "Who jumps?", "documents": [document], "group_size": 32, "neighbor_window": 64,
        "method": "SelfExtend", "max_new_tokens": 6,
    }  # fmt: skip
    viewport = {
        "trained_window": 4096, "length": 9000, "group_size": 32, "neighbor_window": 1024, "query_from": 8000,
        "query_to": 8009, "key_from": 10, "key_to": 20, "method": "selfextend",
    }  # fmt: skip
    size = {"trained_window": 4096, "length": 9000}
    calls = [("ask", asked), ("position_map", viewport), ("suggest", size), ("ask", {**asked, "group_size": 1})]
    # In a thread of its own: the browser tests leave an event loop running in this one.
    with ThreadPoolExecutor(1) as thread:
        tools, answers = thread.submit(anyio.run, through_mcp, address, calls).result()
    assert tools == {"ask", "position_map", "suggest"}
    ask, cells, advised, refused = answers
    assert refused.isError
    assert "smallest change" in refused.content[0].text
    # Gradio hands MCP clients the text of the Python value.
    found = ast.literal_eval(ask.content[0].text)
    same_name = notes.with_name("document.txt")  # names stand in the prompt, and a data: URL has none
    same_name.write_bytes(notes.read_bytes())
    through_client = client.predict(
        "Who jumps?", [handle_file(str(same_name))], 32, 64, "SelfExtend", 6, api_name="/ask"
    )
    assert found.keys() == through_client.keys()
    for name in ("answer", "prompt_tokens", "trained_window", "reach"):
        assert found[name] == through_client[name]
    assert found["citations"][0].keys() == through_client["citations"][0].keys()
    assert ast.literal_eval(cells.content[0].text) == client.predict(**viewport, api_name="/position_map")
    assert ast.literal_eval(advised.content[0].text) == client.predict(**size, api_name="/suggest")
