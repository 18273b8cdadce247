"""The whole server against those who should not get far: foreign pages, wild values, guessers, callers who leave."""

from __future__ import annotations

import base64
import json
import os
import re
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from branches import served
from gradio_client import Client, handle_file
from tiny_models import save_endless

from benchmarks import serving

USER, PASSWORD = "ada", "correct horse"
SECRET = "Zanzibar"
"""A word that must not come into the log."""
WILD: dict[str, Any] = {
    "huge": 9 * 10**15, "minus": -5, "none": None, "dict": {"a": 1}, "list": [[None], {}], "text": SECRET,
    "small": 1e-9, "true": True, "file": {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}},
}  # fmt: skip
EVENTS: list[Any] = [None, "text", {"href": "#passage-99999999999-3", "x": 9e15, "y": "b", "index": -9, "value": {}}]
REFUSED = "This did not work"
Serve = Callable[..., AbstractContextManager[str]]


@dataclass(frozen=True)
class Server:
    """A running app, and the file that it logs to."""

    url: str
    log: Path

    def client(self, **more: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, **more)


@contextmanager
def running(model: Path, folder: Path, *options: str, serve: Serve = served, **environment: str) -> Iterator[Server]:
    folder.mkdir()
    log = folder / "log.txt"
    given = ["--no-browser", "--model", str(model), "--data-folder", str(folder / "data"), *options]
    to_log = "import os, sys; os.dup2(os.open(sys.argv.pop(1), os.O_CREAT | os.O_WRONLY), 2)"

    def command(port: int) -> list[str]:
        return [
            sys.executable,
            "-c",
            f"{to_log}; from app.launch import main; main()",
            str(log),
            *given,
            "--port",
            str(port),
        ]

    with serve(command, environment) as url:
        yield Server(url, log)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("security")


@pytest.fixture(scope="module")
def model(folder: Path) -> Path:
    return save_endless(folder / "model")


@pytest.fixture(scope="module")
def server(model: Path, folder: Path) -> Iterator[Server]:
    """As anybody starts it."""
    with running(model, folder / "open") as started:
        yield started


@pytest.fixture(scope="module")
def closed(model: Path, folder: Path) -> Iterator[Server]:
    """For other machines too, with an account and small quotas; a program, whose arguments anybody here can see."""
    account = {"SELFEXTEND_AUTH": f"{USER}:{PASSWORD}"}
    options = ("--host", "0.0.0.0", "--upload-mb", "1")
    with running(model, folder / "closed", *options, serve=serving.served, **account) as started:
        yield started


def called(
    client: httpx.Client, function: int, data: list[Any], event: Any = None, session: str = ""
) -> tuple[bool, str]:
    """Calls a handler as the page does, a new one unless `session` names it. Returns whether it succeeded, and what it
    said of an error."""
    session = session or uuid.uuid4().hex
    body = {"fn_index": function, "data": data, "session_hash": session, "event_data": event, "trigger_id": None}
    answer = client.post("/gradio_api/queue/join", json=body)
    if answer.status_code != 200:
        assert answer.status_code < 500
        return False, answer.text
    with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as stream:
        for line in stream.iter_lines():
            message = json.loads(line[5:]) if line.startswith("data:") else {}
            assert message.get("msg") != "unexpected_error", message
            if message.get("msg") == "process_completed":
                return message["success"], str(message["output"].get("error"))
    raise AssertionError("the stream broke off")


def handlers(client: httpx.Client) -> list[tuple[dict[str, Any], list[Any]]]:
    """All of the page's handlers, with the values that they get on a new page, and /ask with a short text."""
    config = client.get("/config").json()
    components = {component["id"]: component for component in config["components"]}
    text = f"data:text/plain;base64,{base64.b64encode(b'The fox jumps over the dog.').decode()}"
    found = {}
    for function in config["dependencies"]:
        if function["backend_fn"]:
            usual = [components[number]["props"].get("value") for number in function["inputs"]]
            usual = [usual[0], [text], *usual[2:]] if function["api_name"] == "ask" else usual
            # Where several events have one handler, Gradio numbers its names.
            found.setdefault((re.sub(r"_\d+$", "", str(function["api_name"])), len(usual)), (function, usual))
    return list(found.values())


@pytest.mark.slow
def test_no_handler_breaks_on_wild_values(server: Server) -> None:
    """Each ends in its answer or in a sentence, whatever all of its values, or one of them, or its event are."""
    with server.client() as client:
        for place, (function, usual) in enumerate(handlers(client)):
            calls = [([wild] * len(usual), event) for wild in WILD.values() for event in EVENTS[: 1 + place % 3]]
            # One wild value among usual ones, another each time, so that the suite ends: all pairs are 2,000 calls.
            kinds = list(WILD.values())
            calls += [([*usual[:n], kinds[(n + place) % len(kinds)], *usual[n + 1 :]], None) for n in range(len(usual))]
            page = uuid.uuid4().hex  # a page for each call would cost the server ten times what the call does
            for data, event in calls:
                success, words = called(client, function["id"], data, event, page)
                assert success or words not in ("None", ""), (function["api_name"], data)
        assert client.get("/").status_code == 200
    assert SECRET not in server.log.read_text()
    assert "Traceback" not in server.log.read_text()


def test_no_function_of_a_component_breaks_on_wild_values(server: Server) -> None:
    """They are asked without Gradio's events, and answer an error of their own in a sentence."""
    with server.client() as client:
        asked = 0
        for component in client.get("/config").json()["components"]:
            for name in component["props"].get("server_fns") or ():
                for wild in (*WILD.values(), {"visitor": "x" * 40, "document": [], "pages": {}, "turn": 9e15}):
                    body = {"component_id": component["id"], "session_hash": "a", "fn_name": name, "data": wild}
                    answer = client.post("/gradio_api/component_server", json=body)
                    assert answer.status_code == 422 or "load it again" in answer.json()["error"], (name, wild)
                    asked += 1
        assert asked
        for body in ({}, [], {"component_id": -1, "session_hash": "a", "fn_name": "__init__", "data": 1}):
            answer = client.post("/gradio_api/component_server", json=body)
            assert answer.status_code in (400, 404, 500)
            assert answer.json()["detail"]


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("suggest", [10**30, 10**60], "Numbers must lie between"),
        ("suggest", [2**40, 10], "trained_window must be a whole number from 0 to 2,147,483,647"),
        ("suggest", [None, 100], "trained_window must be at least 2"),
        ("suggest", [[1], 100], "trained_window must be a whole number"),
        ("position_map", [4096, 100, 2**40, 64, 0, 0, 0, 0, "selfextend"], "group_size must be a whole number"),
        ("position_map", [4096, 100, 4, 64, 0, 0, 0, 0, None], "method must be"),
        ("ask", [None, None, 0, 0, "SelfExtend", 8], "question must be a text"),
        ("ask", ["a" * 100_001, None, 0, 0, "SelfExtend", 8], "at most 100,000 characters"),
        ("ask", ["Who?", None, 0, 0, "SelfExtend", 4097], "max_new_tokens must be a whole number from 0 to 4,096"),
        ("ask", ["Who?", [{}] * 21, 0, 0, "SelfExtend", 8], "at most 20 files"),
        ("ask", ["Who?", {"a": 1}, 0, 0, "SelfExtend", 8], "must be a list"),
        ("ask", ["Who?", ["data:text/plain;base64,a"], 0, 0, "SelfExtend", 8], "cut off or damaged"),
        ("ask", ["Who?", [], 2**31, 0, "SelfExtend", 8], "group_size must be a whole number"),
    ],
)  # fmt: skip
def test_endpoints_say_what_they_take(server: Server, name: str, values: list[Any], words: str) -> None:
    with server.client() as client:
        answer = client.post(f"/gradio_api/call/{name}", json={"data": values})
        if answer.status_code == 200:
            answer = client.get(f"/gradio_api/call/{name}/{answer.json()['event_id']}")
            assert "event: error" in answer.text
        assert words in answer.text


def test_one_program_cannot_take_all_places(server: Server) -> None:
    text = f"data:text/plain;base64,{base64.b64encode(b'The fox jumps over the dog.').decode()}"

    def joined(tokens: int) -> str:
        data = ["Who jumps?", [text], 64, 64, "SelfExtend", tokens]
        return f"/gradio_api/call/ask/{client.post('/gradio_api/call/ask', json={'data': data}).json()['event_id']}"

    with server.client() as client, ThreadPoolExecutor(4) as threads:
        assert "event: complete" in client.get(joined(1)).text  # the first one waits for the model
        asked = [joined(200) for _ in range(4)]
        answers = [answer.text for answer in threads.map(client.get, asked)]
    assert [("event: complete" in answer) for answer in answers].count(True) == 3
    (refused,) = (answer for answer in answers if "event: error" in answer)
    assert "3 of your calls are under way already" in refused


def test_the_work_stops_when_the_caller_leaves(server: Server) -> None:
    text = f"data:text/plain;base64,{base64.b64encode(b'The fox jumps over the dog.').decode()}"

    def joined(tokens: int) -> str:
        data = ["Who jumps?", [text], 64, 64, "SelfExtend", tokens]
        return f"/gradio_api/call/ask/{client.post('/gradio_api/call/ask', json={'data': data}).json()['event_id']}"

    def seconds_for_a_token() -> float:
        began = time.monotonic()
        assert "event: complete" in client.get(joined(1)).text
        return time.monotonic() - began

    with server.client() as client:
        seconds_for_a_token()  # the first one waits for the model
        with client.stream("GET", joined(4096)):
            time.sleep(2)
        # There is one model: the next question is answered once the work has stopped.
        waited = seconds_for_a_token()
        assert waited - min(seconds_for_a_token() for _ in range(3)) < 1


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/", {"Host": "rebound.example:7860"}, 403),
        ("GET", "/config", {"Host": "rebound.example"}, 403),
        ("GET", "/", {"Host": "192.168.1.2"}, 403),
        ("POST", "/gradio_api/upload", {"Origin": "http://other.example"}, 403),
        ("POST", "/gradio_api/queue/join", {"Origin": "null"}, 403),
        ("POST", "/gradio_api/queue/join", {"Origin": "http://localhost:8888"}, 403),
        ("POST", "/gradio_api/queue/join", {"Sec-Fetch-Site": "same-site"}, 403),
        ("GET", "/gradio_api/info", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, 403),
        ("GET", "/logout", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 403),
        ("GET", "/", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 200),
        ("GET", "/", {"Sec-Fetch-Site": "none"}, 200),
        ("GET", "/gradio_api/file=http://dns.google/resolve", {}, 404),
        ("GET", "/gradio_api/file/https://dns.google/resolve", {}, 404),
        ("GET", "/gradio_api/proxy=https://a.hf.space/", {}, 404),
        ("GET", "/gradio_api/file=/etc/passwd", {}, 403),
        ("GET", "/gradio_api/file=/etc/no-such-file", {}, 403),
        ("GET", "/monitoring", {}, 404),
    ],
)  # fmt: skip
def test_who_may_ask_for_what(server: Server, method: str, path: str, headers: dict[str, str], status: int) -> None:
    with server.client() as client:
        answer = client.request(method, path, headers=headers)
        assert answer.status_code == status
        assert answer.headers["x-request-id"]
        assert "default-src 'self'" in answer.headers["content-security-policy"]


def test_what_was_not_found_and_what_is_forbidden_look_alike(server: Server) -> None:
    with server.client() as client:
        there, missing = (client.get(f"/gradio_api/file={path}") for path in ("/etc/passwd", "/etc/no-such-file"))
        assert there.text.replace("passwd", "no-such-file") == missing.text


class _Counting(BaseHTTPRequestHandler):
    asked: list[str] = []  # noqa: RUF012 (of the class on purpose: the server makes one object a request)

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(200)
        self.end_headers()

    do_HEAD = do_GET


@pytest.fixture
def elsewhere() -> Iterator[str]:
    """Another server, which must not be asked for anything."""
    other = ThreadingHTTPServer(("127.0.0.1", 0), _Counting)
    threading.Thread(target=other.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{other.server_port}"
    other.shutdown()
    other.server_close()
    assert _Counting.asked == []


def test_no_address_is_fetched_in_place_of_a_file(server: Server, elsewhere: str) -> None:
    with server.client() as client:
        uploads = [(function, usual) for function, usual in handlers(client) if any(
            target[1] in ("upload", "change") for target in function["targets"])]  # fmt: skip
        assert uploads
        for address in (f"{elsewhere}/a.pdf", "https://dns.google/a.pdf", "HTTP://dns.google/a", " ftp://a.example/b"):
            file = {"path": address, "url": address, "orig_name": "a.pdf", "meta": {"_type": "gradio.FileData"}}
            for function, usual in uploads:
                for value in (file, [file], {"deep": [{"er": file}]}):
                    success, words = called(client, function["id"], [value, *usual[1:]])
                    assert not success
                    assert "nothing is fetched from an address" in words
            answer = client.post("/gradio_api/call/ask", json={"data": ["Who?", [file], 0, 0, "SelfExtend", 8]})
            assert answer.status_code == 422
            client.get(f"/gradio_api/file={address}")


def test_a_foreign_file_is_not_moved_or_told_of(server: Server) -> None:
    with server.client() as client:
        said = set()
        for path in ("/etc/passwd", "/etc/no-such-file", str(Path.cwd() / "README.md")):
            data = {"data": ["Who?", [{"path": path}], 0, 0, "SelfExtend", 8]}
            event = client.post("/gradio_api/call/ask", json=data).json()["event_id"]
            said.add(client.get(f"/gradio_api/call/ask/{event}").text)
        assert len(said) == 1


@pytest.mark.parametrize("body", ["{", "[" * 100_000, '{"data": NaN}', '{"data": 1e400}', "\xff", "null"])
def test_what_is_no_call_is_refused(server: Server, body: str) -> None:
    with server.client() as client:
        answer = client.post(
            "/gradio_api/queue/join", content=body.encode("latin-1"), headers={"Content-Type": "application/json"}
        )
        assert answer.status_code in (400, 422)
        assert answer.json()["detail"]


def test_large_calls_and_unknown_ones_are_refused(server: Server) -> None:
    with server.client() as client:
        large = client.post("/gradio_api/call/ask", content=b'{"data": ["' + b"a" * 33_000_000 + b'"]}')
        assert large.status_code == 413
        nobody = client.post("/gradio_api/queue/join", json={"fn_index": 10**6, "data": [], "session_hash": "a"})
        assert nobody.status_code in (404, 500)
        assert "request" in nobody.text or nobody.status_code == 404
        around = client.post("/gradio_api/run/ask", json={"data": ["Who?", None, 0, 0, "SelfExtend", 8]})
        assert around.status_code == 404
        assert client.post("/gradio_api/component_server", files={"a": b"b"}).status_code == 415


def test_the_page_runs_no_script_but_its_own(server: Server) -> None:
    with server.client() as client:
        first, second = client.get("/"), client.get("/")
        policy = first.headers["content-security-policy"]
        assert "script-src 'self' 'unsafe-eval' 'nonce-" in policy
        assert "'unsafe-inline'" not in policy.partition("style-src")[0]
        assert policy != second.headers["content-security-policy"]
        nonce = policy.partition("'nonce-")[2].partition("'")[0]
        assert first.text.count("<script") == first.text.count(f'<script nonce="{nonce}"') > 0


def test_what_is_sent_is_packed_but_the_stream_of_a_call_is_not_held_back(server: Server) -> None:
    with server.client() as client:
        page, plain = client.get("/"), client.get("/", headers={"accept-encoding": "identity"})
        assert page.headers["content-encoding"] == "gzip"
        assert "content-encoding" not in plain.headers
        assert page.num_bytes_downloaded < plain.num_bytes_downloaded / 3
        body = {"fn_index": 0, "data": [], "session_hash": "packed", "event_data": None, "trigger_id": None}
        client.post("/gradio_api/queue/join", json=body)
        with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": "packed"}) as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            assert "content-encoding" not in stream.headers


def test_nobody_comes_in_without_the_password(closed: Server) -> None:
    with closed.client() as client:
        assert client.get("/").status_code == 200
        assert client.get("/assets/nothing.js").status_code == 404
        for method, path in (
            ("GET", "/config"), ("GET", "/gradio_api/info"), ("POST", "/gradio_api/upload"),
            ("POST", "/gradio_api/cancel"), ("GET", "/gradio_api/heartbeat/abc"),
            ("GET", "/gradio_api/queue/data?session_hash=a"),
            ("POST", "/gradio_api/component_server"), ("GET", "/gradio_api/upload_progress?upload_id=a"),
            ("POST", "/gradio_api/mcp/"),
        ):  # fmt: skip
            assert client.request(method, path).status_code in (401, 404), path


def test_an_account_comes_in_and_may_upload_so_much(closed: Server, tmp_path: Path) -> None:
    client = Client(closed.url, auth=(USER, PASSWORD), verbose=False)
    assert client.predict(256, 1000, api_name="/suggest")["reach"] >= 1000
    with closed.client(cookies=client.cookies) as browser:
        part = {"files": ("a.txt", b"a" * 600_000)}
        assert browser.post("/gradio_api/upload", files=part).status_code == 200
        second = browser.post("/gradio_api/upload", files=part)
        assert second.status_code == 413
        assert "MB in an hour" in second.text
    path = tmp_path / "b.txt"
    path.write_text("b" * 500_000)
    with pytest.raises(httpx.HTTPStatusError):
        client.predict("Who?", [handle_file(str(path))], api_name="/ask")


def test_guessing_is_slowed_down(closed: Server) -> None:
    with closed.client() as client:
        statuses = [
            client.post("/login", data={"username": USER, "password": f"wrong {n}"}).status_code for n in range(4)
        ]
        assert statuses == [400, 400, 400, 429]
        # The right password has to wait too, or guessing would not.
        waiting = client.post("/login", data={"username": USER, "password": PASSWORD})
        assert waiting.status_code == 429
        time.sleep(int(waiting.headers["retry-after"]) + 0.1)
        assert client.post("/login", data={"username": USER, "password": PASSWORD}).status_code == 200
    assert PASSWORD not in closed.log.read_text()


def test_guessing_many_at_once_is_no_way_around_it(closed: Server) -> None:
    def guess(number: int) -> int:
        with closed.client() as client:
            return client.post("/login", data={"username": USER, "password": f"wrong {number}"}).status_code

    with ThreadPoolExecutor(12) as threads:
        statuses = list(threads.map(guess, range(12)))
    assert sorted(statuses) == [400] * 3 + [429] * 9


def test_the_password_in_the_environment_is_no_argument(closed: Server) -> None:
    port = closed.url.rpartition(":")[2]
    commands = [" ".join(each.info["cmdline"] or ()) for each in psutil.process_iter(["cmdline"])]
    own = [command for command in commands if f"--port {port}" in command]
    assert own
    assert PASSWORD not in " ".join(own)
    assert os.environ.get("SELFEXTEND_AUTH") is None
