"""Who may load models, by which names a server is known, what is logged of errors, and where the hub's token goes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, TypeVar

import gradio as gr
import pytest
from app_parts import request_from

from app.server import call_values
from app.server import guard as guarding
from app.server.accounts import may_load_models
from app.server.asgi import Message, Receive, Refusal, Scope, Send
from app.server.call_values import MAX_VALUES, checked_values
from app.server.callers import MOST_UNDER_WAY, Callers, TooManyCallsError
from app.server.guard import Guard, Rules
from app.server.listeners import Listeners
from app.settings import read_settings
from selfextend.loading import hub

OPEN = ["--host", "0.0.0.0"]
ACCOUNTS = {"SELFEXTEND_AUTH": "ada:one,bob:two"}
T = TypeVar("T")


def result_of(asked: Coroutine[Any, Any, T]) -> T:
    with ThreadPoolExecutor(1) as thread:  # in this one a browser test's loop may be running
        return thread.submit(asyncio.run, asked).result()


@pytest.mark.parametrize(
    ("asked", "may"),
    [
        (request_from("127.0.0.1", "localhost:7860"), True),
        (request_from("::1", "[::1]:7860"), True),
        (request_from("127.0.0.1", "127.0.0.1:7860", "bob"), True),  # sits at the machine
        (request_from("192.168.1.9", "192.168.1.5:7860"), False),
        (request_from("192.168.1.9", "localhost:7860"), False),
        (request_from("127.0.0.1", "school.example"), False),  # through a proxy
        (request_from("127.0.0.1", "localhost:7860", x_forwarded_for="9.9.9.9"), False),
        (request_from("127.0.0.1", "localhost:7860", forwarded="for=9.9.9.9"), False),
        (request_from("192.168.1.9", "192.168.1.5:7860", "bob"), False),
        (request_from("192.168.1.9", "192.168.1.5:7860", "ada"), True),
    ],
)
def test_who_may_load_models(asked: gr.Request, may: bool) -> None:
    assert may_load_models(read_settings([*OPEN, "--admins", "ada"], ACCOUNTS), asked) is may


def test_names_of_the_server() -> None:
    local, everywhere = Rules.of(read_settings([], {})), Rules.of(read_settings([*OPEN, "--no-auth"], {}))
    assert "localhost" in local.hosts
    assert not local.any_address
    assert everywhere.any_address
    proxied = Rules.of(read_settings(["--trusted-hosts", "Explorer.School.example"], {}))
    assert "explorer.school.example" in proxied.hosts
    assert proxied.origins == {"explorer.school.example"}


@pytest.mark.parametrize("begun", [False, True])
def test_the_log_quotes_nothing(begun: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Neither the name of a file that was asked for nor the words of an error, whenever it comes."""
    sent: list[Message] = []

    async def failing(scope: Scope, receive: Receive, send: Send) -> None:
        if begun:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        raise OSError("Zanzibar is not there")

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request"}

    guard = Guard(failing, Rules.of(read_settings([], {})), Listeners())
    asked = {"type": "http", "method": "GET", "path": "/gradio_api/file=/tmp/Zanzibar.txt", "query_string": b""}
    served = guard({**asked, "headers": [(b"host", b"localhost")]}, receive, send)
    result_of(served)
    assert [message["status"] for message in sent if "status" in message] == [200 if begun else 500]
    assert "OSError in /gradio_api/file" in caplog.text
    assert "Zanzibar" not in caplog.text + str(sent)


def test_who_listens() -> None:
    listeners, began = Listeners(), time.monotonic()
    assert not listeners.gone("a", began)  # nobody yet
    assert listeners.gone("a", began - 60)
    with listeners.listening("a"), listeners.listening("a"):
        assert not listeners.gone("a", began - 60)
    assert listeners.gone("a", began)
    assert not listeners.gone("a", time.monotonic())  # who left did so before this work


@pytest.mark.parametrize(
    ("endpoint", "told"),
    [
        (None, True), ("https://huggingface.co", True), ("https://huggingface.co/", True),
        ("http://huggingface.co", False), ("https://huggingface.co.example", False), ("https://mirror.example", False),
        ("https://huggingface.co@evil.example", False), ("http://127.0.0.1:9", False),
    ],
)  # fmt: skip
def test_the_token_goes_to_the_hub_alone(endpoint: str | None, told: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    if endpoint:
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
    variables = hub.download_environment()
    assert ("HF_TOKEN" in variables) is told
    assert (variables.get("HF_HUB_DISABLE_IMPLICIT_TOKEN") == "1") is not told


def test_a_user_and_an_address_have_a_quota_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who shares an account, or an address, with somebody does not use up what that one may upload."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})

    guard = Guard(app, Rules.of(read_settings(["--upload-mb", "0.0001"], {})), Listeners())

    async def uploaded(user: str, address: str) -> int:
        told: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": b"a" * 90}

        async def send(message: Message) -> None:
            told.append(message)

        headers = [(b"host", b"localhost")]
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/gradio_api/upload",
            "query_string": b"",
            "headers": headers,
        }
        monkeypatch.setattr(guarding, "user_of", lambda scope, headers: user)
        await guard({**scope, "client": (address, 1)}, receive, send)
        return int(told[0]["status"])

    asked = [("ada", "1.1.1.1"), ("ada", "1.1.1.1"), ("ada", "2.2.2.2"), ("bob", "1.1.1.1")]
    assert [result_of(uploaded(*each)) for each in asked] == [200, 413, 200, 200]


def test_a_caller_has_so_many_calls_under_way() -> None:
    callers, calls = Callers(), ExitStack()
    for _ in range(MOST_UNDER_WAY):
        calls.enter_context(callers.calling("ada"))
    with pytest.raises(TooManyCallsError, match="3 of your calls are under way already"), callers.calling("ada"):
        pass
    with callers.calling("bob"):
        calls.close()
    with callers.calling("ada"):
        pass


def test_so_many_values_are_refused_before_they_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    async def receive() -> Message:
        return {"type": "http.request", "body": b'{"data": [' + b"[]," * MAX_VALUES + b"0]}"}

    monkeypatch.setattr(call_values.json, "loads", lambda *given, **more: pytest.fail("the values were made"))
    with pytest.raises(Refusal, match="1,000,000 values at most"):
        result_of(checked_values(receive))
