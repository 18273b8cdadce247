"""Nothing leaves the machine, and no script runs, whatever stands in answers, names, pages, capsules and runs.

Each page is under the watch of conftest.py, which fails on any request to another host and on any complaint of the
browser, those about the content security policy included: what is shown is to be harmless without its help.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from chat_parts import Open, answered, ask, keeps, kept, limit_answers, ready, reload, suggest, until, upload
from make_documents import lines_pdf
from playwright.sync_api import Page, expect

from app.answering import reply_by
from app.capsule import Capsule, as_html
from app.conversation import Entry, Reply, Source
from selfextend.lab.records import RunFile, header
from selfextend.methods import SelfExtend

pytestmark = pytest.mark.browser

HOST = "http://foreign.example"
PAYLOADS = [
    f"![x]({HOST}/1)",
    f"![x][r]\n\n[r]: {HOST}/2",
    f"[![x]({HOST}/3)]({HOST}/3b)",
    f"<img src={HOST}/4>",
    f'<img src="{HOST}/5" onerror="alert(5)">',
    "<img src=x onerror=alert(6)>",
    f"<video poster={HOST}/7></video>",
    f"<video src={HOST}/8 autoplay>",
    f"<audio src={HOST}/9 autoplay></audio>",
    f'<p style="background:url({HOST}/10)">a</p>',
    f"<style>@import url({HOST}/11);</style>",
    f"<link rel=stylesheet href={HOST}/12>",
    f"<iframe src={HOST}/13></iframe>",
    f"<object data={HOST}/14></object>",
    f"<embed src={HOST}/15>",
    f"<form action={HOST}/16><button>Go</button></form>",
    f"<script src={HOST}/17></script>",
    "<script>alert(18)</script>",
    "<svg onload=alert(19)></svg>",
    f"<svg><image href={HOST}/20 /></svg>",
    f"<svg><use href={HOST}/21#a /></svg>",
    f"<input type=image src={HOST}/22>",
    f"<picture><source srcset={HOST}/23><img></picture>",
    f"<table background={HOST}/24><tr><td>a</table>",
    f"<meta http-equiv=refresh content='0;url={HOST}/25'>",
    f"<base href={HOST}/26>",
    "<details open ontoggle=alert(27)>a</details>",
    f"<a href='{HOST}/28' ping='{HOST}/28b'>a</a>",
    "[a](javascript:alert(29))",
    f"{HOST}/30 and www.foreign.example",
    f"<{HOST}/31>",
    f"```html\n<img src={HOST}/32>\n```",
    f"```\n</code></pre><img src={HOST}/33>\n```",
    f"```mermaid\ngraph TD; A[<img src={HOST}/34>]\n```",
    f"$$\\includegraphics{{{HOST}/35}}$$",
    f"$$\\href{{javascript:alert(36)}}{{a}}$$ \\url{{{HOST}/36}}",
    f"&lt;img src={HOST}/37&gt; &#60;img src={HOST}/37b&#62;",
    f"`<img src={HOST}/38>` \\<img src={HOST}/38b\\>",
    f"| a |\n|---|\n| ![x]({HOST}/39) |\n\n> <img src={HOST}/39b>",
    f"- ![x]({HOST}/40)\n\n      <img src={HOST}/40b>\n\n1. <img src={HOST}/40c>",
    "${alert(41)} {{alert(41)}} <%= alert(41) %>",
    f"<math><mtext><img src={HOST}/42 onerror=alert(42)></mtext></math>",
    f"\n\n</div></details><img src={HOST}/43>",
]
FORBIDDEN = [
    "img", "video", "audio", "iframe", "object", "embed", "form", "link", "meta", "base", "style", "script", "source",
    "svg image", "svg use", "[style*=url]", "[onerror]", "[onload]",
]  # fmt: skip


def keep(page: Page, value: Any) -> None:
    """Puts a value where the browser keeps the page's: the counterpart of `chat_parts.kept`."""
    salt, secret = os.urandom(8), page.evaluate(
        "() => window.gradio_config.components.find((each) => each.type === 'browserstate').props.secret"
    )  # fmt: skip
    passphrase, derived = hashlib.sha256(secret.encode()).hexdigest().encode(), b""
    while len(derived) < 48:
        derived += hashlib.md5(derived[-16:] + passphrase + salt, usedforsecurity=False).digest()
    encrypted = page.evaluate(
        """async ([key, iv, text]) => {
            const bytes = (hex) => Uint8Array.from(hex.match(/../g), (pair) => parseInt(pair, 16));
            const made = await crypto.subtle.importKey("raw", bytes(key), "AES-CBC", false, ["encrypt"]);
            const given = { name: "AES-CBC", iv: bytes(iv) };
            const data = await crypto.subtle.encrypt(given, made, new TextEncoder().encode(text));
            return Array.from(new Uint8Array(data), (byte) => byte.toString(16).padStart(2, "0")).join("");
        }""",
        [derived[:32].hex(), derived[32:].hex(), json.dumps(value)],
    )
    text = base64.b64encode(b"Salted__" + salt + bytes.fromhex(encrypted)).decode()
    page.evaluate(
        """(text) => {
            const state = window.gradio_config.components.find((each) => each.type === "browserstate").props;
            const before = localStorage.getItem(state.storage_key).split(":")[0];
            localStorage.setItem(state.storage_key, `${before}:${text}`);
        }""",
        text,
    )


def found(page: Page, within: str) -> list[str]:
    """Elements that could ask another server for something, or run something."""
    chosen = ", ".join(f"{within} {one}" for one in FORBIDDEN)
    elements: list[str] = page.eval_on_selector_all(chosen, "all => all.map((each) => each.outerHTML.slice(0, 200))")
    return elements


def watched(page: Page) -> list[str]:
    """The dialogs that come up, which are none of this app's."""
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    return dialogs


def hostile_entry(payload: str, number: int) -> dict[str, Any]:
    source = Source(1, f"{payload}.txt", 1, "page", payload, 0.5, "strong", 3, 0)
    thinking = reply_by(SelfExtend("none", 8, 64), turn=0, text=f"<think>{payload}</think>{payload}", sources=(source,))
    plain = Reply(0, "vanilla", payload, (source,), stopped=payload, note=payload)
    replies = (thinking, plain) if number % 3 == 0 else (plain,)
    return asdict(Entry(payload, replies, payload if number % 2 else "m", (str(number),)))


def test_answers_questions_and_names_stay_text(address: str, open_page: Open, short: Path) -> None:
    page = ready(open_page(address, width=1500))
    dialogs = watched(page)
    upload(page, short)
    keeps(page, questions=[])
    usual = kept(page)
    for first in range(0, len(PAYLOADS), 22):  # thirty entries are kept at most
        part = PAYLOADS[first : first + 22]
        keep(page, {**usual, "entries": [hostile_entry(payload, n) for n, payload in enumerate(part)]})
        reload(page)
        expect(page.locator("#chat .stopped")).to_have_count(len(part))
        until(page, lambda: "foreign.example" in page.locator("#chat").inner_text(), "the conversation")
        page.wait_for_timeout(1500)
        assert found(page, "#chat [data-testid]") == []
        foreign = page.eval_on_selector_all(
            "#chat a", "all => all.map((a) => a.href).filter((href) => !href.includes('#'))"
        )
        assert foreign == []
        shown = page.locator("#chat").inner_text()
        for number, payload in enumerate(part, start=first + 1):
            if f"/{number}" in payload:  # nothing is left out: the text is there to read
                assert f"foreign.example/{number}" in shown, payload
    assert dialogs == []


def test_a_hostile_question_is_itself_again_where_it_is_edited(address: str, open_page: Open, short: Path) -> None:
    page = ready(open_page(address, width=1500))
    dialogs = watched(page)
    upload(page, short)
    limit_answers(page, 2)
    suggest(page)
    question = f"What is ![x]({HOST}/q) & <img src={HOST}/q>?"
    ask(page, question)
    answered(page, 1)
    keeps(page, questions=[question])
    page.locator("#chat").get_by_role("button", name="Edit").first.click()
    box = page.locator("#chat textarea").first
    assert box.input_value().replace("\u2060", "") == question
    page.locator("#chat").get_by_role("button", name="Submit").click()
    keeps(page, questions=[question])
    assert dialogs == []


def test_documents_stay_text(address: str, open_page: Open, tmp_path: Path) -> None:
    """Their text, their names, what the tabs beside the chat show of them."""
    page = ready(open_page(address, width=1900))
    dialogs = watched(page)
    pdf = lines_pdf(tmp_path / "lines.pdf", [" ".join(payload.split()) for payload in PAYLOADS[:20]])
    text = tmp_path / "<img src=x onerror=alert(1)> ![x](foreign.example) ${alert(2)}.txt"
    text.write_text("\n\n".join(PAYLOADS))
    page.set_input_files("#upload input[type=file]", [str(pdf), str(text)])
    expect(page.locator(".document-list li")).to_have_count(2)
    limit_answers(page, 2)
    suggest(page)
    ask(page, PAYLOADS[3])
    answered(page, 1)
    tabs = page.locator("#right-tabs")
    for tab in ("Document", "Position map", "Attention", "Parameters", "Evidence"):
        tabs.get_by_role("tab", name=tab, exact=True).click()
        page.wait_for_timeout(1500)
        assert page.locator("#right-tabs, #documents").locator("[onerror], [onload], script").count() == 0
        assert page.locator("[src*=foreign], [href*=foreign], [poster*=foreign]").count() == 0
    page.get_by_role("button", name="Show the prompt").click()
    expect(page.locator("#prompt textarea")).to_have_value(re.compile("foreign.example/43"))
    assert dialogs == []


def test_capsules_and_runs_stay_text(address: str, open_page: Open, tmp_path: Path) -> None:
    page = ready(open_page(address, width=1900))
    dialogs = watched(page)
    page.locator("#right-tabs").get_by_role("tab", name="Runs", exact=True).click()
    for number, payload in enumerate((" ".join(PAYLOADS), PAYLOADS[4], "</script><script>alert(1)</script>")):
        source = Source(1, payload, 1, "page", payload, 0.5, "strong", 3, 0)
        entry = Entry(payload, (Reply(1, "vanilla", payload, (source,), note=payload),), payload)
        document = {"name": payload, "sha256": payload, "pages": 1}
        made = Capsule(entry, 256, (document,), (), None, {payload: payload}, payload)
        path = tmp_path / f"run{number}.html"
        path.write_text(as_html(made))
        page.set_input_files("#open-capsule input[type=file]", str(path))
        expect(page.locator("#capsule")).to_contain_text(payload[:30].strip())
        page.wait_for_timeout(500)
        assert found(page, "#capsule") == []
        page.locator("#open-capsule").get_by_role("button", name="Clear").click()
    page.get_by_role("tab", name="Lab", exact=True).click()
    hostile = " ".join(payload for payload in PAYLOADS[3:12])
    model = {
        "name": hostile, "architecture": hostile, "parameters": 10, "trained_window": 256, "dtype": hostile,
        "device": "cpu",
    }  # fmt: skip
    run = RunFile(
        tmp_path / "run.jsonl", header("passkey", model, {hostile: hostile}, {"trials": 1}, 0, "2026-01-01T00:00:00")
    )
    row = {
        "probe": "passkey", "method": "vanilla", "label": hostile, "settings": {}, "length": 512, "depth": 0.5,
        "cell_rows": 1, "trial": 0, "score": 1.0, "seconds": 0.5, "peak_bytes": 7, "answer": hostile,
        "expected": hostile,
    }  # fmt: skip
    run.add([row])
    page.set_input_files("#lab-open input[type=file]", str(tmp_path / "run.jsonl"))
    expect(page.locator("#lab-table-left")).to_contain_text("512")
    page.wait_for_timeout(1500)
    assert page.locator("#lab-results").locator("img, video, audio, iframe, script, [onerror]").count() == 0
    assert dialogs == []


def test_lists_and_code_look_right(address: str, open_page: Open, short: Path) -> None:
    page = ready(open_page(address, width=1500))
    upload(page, short)
    keeps(page, questions=[])
    text = (
        "So **this** and *that*, with `a < b`:\n\n1. one\n   - inner\n     ```python\n     if a < b:\n\n"
        "         print('*x*')\n     ```\n2. two\n\n```\nx = [1]\n```\n\n| a | b |\n|---|---|\n| 1 | `2|3` |\n\n"
        "> said\n\n## Head"
    )
    entry = asdict(Entry("Show Markdown", (Reply(0, "vanilla", text, seconds=1.0),), "m"))
    keep(page, {**kept(page), "entries": [entry]})
    reload(page)
    reply = page.locator("#chat [data-testid=bot]")
    expect(reply.locator("ol > li")).to_have_count(2)
    expect(reply.locator("ol ul li pre code")).to_have_text("if a < b:\n\n    print('*x*')")
    expect(reply.locator("strong")).to_have_text("this")
    expect(reply.locator("p code")).to_have_text("a < b")
    expect(reply.locator("td code")).to_have_text("2|3")
    expect(reply.locator("blockquote")).to_contain_text("said")
    expect(reply.locator("h2")).to_contain_text("Head")
    if folder := os.environ.get("SELFEXTEND_PICTURES"):
        page.screenshot(path=f"{folder}/markdown.png")


def test_what_is_copied_is_what_is_seen(address: str, open_page: Open, short: Path) -> None:
    """Not a message's source, in which signs are character references or have an invisible one beside them."""
    page = ready(open_page(address, width=1500))
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])  # the headless shell asks nobody
    upload(page, short)
    keeps(page, questions=[])
    question = f"Is <b> in [a]({HOST}/q)?"
    answer = "<think>why</think>So `a[0] < b`:\n\n```\nx = [1]\n\ny = '&amp;'\n```"
    keep(page, {**kept(page), "entries": [asdict(Entry(question, (Reply(0, "vanilla", answer, seconds=1.0),), "m"))]})
    reload(page)
    shown = page.locator("#chat [data-testid=bot]").inner_text().strip()
    assert "So a[0] < b:" in shown
    assert "x = [1]\n\ny = '&amp;'" in shown
    box = page.get_by_label("Question", exact=True)

    def copied(name: str, which: int = 0) -> str:
        page.locator("#chat").get_by_role("button", name=name).nth(which).click()
        expect(page.locator("#chat").get_by_role("button", name=re.compile("Copied"))).to_have_count(1)
        box.fill("")
        box.press("Control+V")
        expect(page.locator("#chat").get_by_role("button", name=re.compile("Copied"))).to_have_count(0)
        return box.input_value()

    assert copied("Copy conversation") == f"user: {question}\n\nassistant: {shown}"
    for _ in ("https or this machine", "http from another machine, where a browser has no navigator.clipboard"):
        assert copied("Copy message", 0) == question
        assert copied("Copy message", 1) == shown
        page.evaluate("delete Navigator.prototype.clipboard")
