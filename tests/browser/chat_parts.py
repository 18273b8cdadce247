"""What the tests of the whole app do again and again: start it, upload, ask, wait."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import axe_playwright_python
from playwright.sync_api import Page, Route, expect

Open = Callable[..., Page]
COMPONENT_SERVER = re.compile("/component_server")  # where Gradio takes what reader.js asks
AXE = Path(axe_playwright_python.__file__).parent / "axe.min.js"
"""The rules that pages are held to (axe-core): its script, to be run in a page."""
SENTENCE = "The quick brown fox jumps over the lazy dog near the old mill. "
SETTLED = """() => new Promise((done) => {
    let changed = performance.now();
    const watch = new MutationObserver(() => { changed = performance.now(); });
    watch.observe(document, { subtree: true, childList: true, attributes: true, characterData: true });
    const fades = ({ playState, effect }) => playState === "running" && isFinite(effect.getComputedTiming().endTime);
    const look = () => {
        if (performance.now() - changed < 300 || document.getAnimations().some(fades)) return setTimeout(look, 50);
        watch.disconnect();
        return done();
    };
    look();
})"""
"""Waits until nothing fades and nothing has changed for a moment: what fades in has no contrast yet."""


def app_command(model: Path, data: Path, *options: str) -> Callable[[int], list[str]]:
    """`python app.py` on a model's folder, for `conftest.served`."""
    given = ["--no-browser", "--model", str(model), "--data-folder", str(data), *options]
    return lambda port: [sys.executable, "app.py", "--port", str(port), *given]


def ready(page: Page) -> Page:
    # The page is there first; torch, transformers and the model come after it.
    expect(page.locator("#model-summary .activity")).to_contain_text("SelfExtend active in", timeout=240_000)
    return page


def leave(page: Page, address: str = "about:blank") -> None:
    """Goes to another page. What Gradio logs of the streams that this cuts off is no error of the one left."""
    page.evaluate("console.error = () => {}")
    page.goto(address)


def in_both_themes(page: Page) -> Iterator[str]:
    """The page follows its machine from light to dark, or back: it begins as it is, since to turn takes time."""
    themes: list[Literal["light", "dark"]] = ["light", "dark"]
    for theme in reversed(themes) if page.locator("body.dark").count() else themes:
        page.emulate_media(color_scheme=theme)
        expect(page.locator("body.dark")).to_have_count(int(theme == "dark"))
        page.evaluate(SETTLED)
        yield theme


@contextmanager
def held_back(page: Page, name: str) -> Iterator[list[Route]]:
    """Holds back what assets/reader.js asks by this name, for the length of a `with` block. The questions so far."""
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route) if f'"{name}"' in (route.request.post_data or "") else route.continue_()

    page.route(COMPONENT_SERVER, hold)
    yield held
    for route in held:
        route.continue_()
    page.unroute(COMPONENT_SERVER)


def broken_rules(page: Page, context: str, only_colors: bool) -> list[str]:
    """The rules of axe-core that are broken in a part of a page, with some of what breaks them.

    Args:
        context: what axe.run takes as such, in JavaScript.
        only_colors: of a page that was judged by all rules in its other theme: colors are all that a theme changes.
    """
    rules = "runOnly: ['color-contrast', 'link-in-text-block'], " if only_colors else ""
    found = page.evaluate(f"axe.run({context}, {{ {rules}resultTypes: ['violations'] }})")["violations"]
    nodes = [(rule["id"], node) for rule in found for node in rule["nodes"]]
    return [f"{rule}: {node['html'][:160]}: {node['failureSummary']}" for rule, node in nodes]


def upload(page: Page, *files: Path) -> None:
    page.set_input_files("#upload input[type=file]", [str(file) for file in files])
    for file in files:
        expect(page.locator(".document-list")).to_contain_text(file.name)


def suggest(page: Page) -> None:
    before = page.get_by_label("number input for Group size").input_value()
    page.get_by_role("button", name="Suggest", exact=True).click()
    expect(page.get_by_label("number input for Group size")).not_to_have_value(before)


def ask(page: Page, question: str = "Who jumps?") -> None:
    page.get_by_label("Question", exact=True).fill(question)
    page.get_by_role("button", name="Send", exact=True).click()


def answered(page: Page, number: int = 1) -> None:
    expect(page.locator("#chat .measures")).to_have_count(number)
    expect(page.get_by_role("button", name="Send", exact=True)).to_be_visible()


def until(page: Page, condition: Callable[[], bool], what: str) -> None:
    for _ in range(600):
        if condition():
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"never came: {what}")


def kept(page: Page) -> dict[str, Any]:
    """What the browser keeps of the page; nothing where it keeps nothing yet.

    gr.BrowserState writes AES-CBC as CryptoJS does: the passphrase is the secret's SHA-256 in hexadecimal, and key and
    initialization vector come of it as in OpenSSL.
    """
    stored, secret = page.evaluate(
        """() => {
            const state = window.gradio_config.components.find((each) => each.type === "browserstate").props;
            return [localStorage.getItem(state.storage_key), state.secret];
        }"""
    )
    if stored is None:
        return {}
    data = base64.b64decode(stored.split(":")[1])
    passphrase, derived = hashlib.sha256(secret.encode()).hexdigest().encode(), b""
    while len(derived) < 48:
        derived += hashlib.md5(derived[-16:] + passphrase + data[8:16], usedforsecurity=False).digest()
    text = page.evaluate(
        """async ([key, iv, data]) => {
            const bytes = (hex) => Uint8Array.from(hex.match(/../g), (pair) => parseInt(pair, 16));
            const made = await crypto.subtle.importKey("raw", bytes(key), "AES-CBC", false, ["decrypt"]);
            const plain = await crypto.subtle.decrypt({ name: "AES-CBC", iv: bytes(iv) }, made, bytes(data));
            return new TextDecoder().decode(plain);
        }""",
        [derived[:32].hex(), derived[32:].hex(), data[16:].hex()],
    )
    found: dict[str, Any] = json.loads(text)
    return found


def keeps(page: Page, *, questions: list[str], group_size: str | None = None, documents: int = 1) -> None:
    """Waits until the browser keeps this conversation, and so many documents and this group size with it."""

    def all_of_it() -> bool:
        found = kept(page)
        return (
            [entry["question"] for entry in found.get("entries", ["?"])] == questions
            and len(found["documents"]) == documents
            and (group_size is None or str(found["controls"][1]) == group_size)
        )

    until(page, all_of_it, f"kept in the browser: {questions}")


def reload(page: Page) -> Page:
    """Loads the page anew, without what a reload makes Gradio log."""
    page.evaluate("console.error = () => {}")
    page.reload()
    return ready(page)


def group_size(page: Page) -> str:
    return page.get_by_label("number input for Group size").input_value()


def fill_number(page: Page, label: str, value: int) -> None:
    """Types a number until it stays: Gradio sets a box that has just come into view once more itself."""
    box = page.get_by_label(label, exact=True)

    def stays() -> bool:
        box.fill(str(value))
        page.wait_for_timeout(300)
        return box.input_value() == str(value)

    until(page, stays, f"{label} = {value}")


def limit_answers(page: Page, tokens: int) -> None:
    page.get_by_role("button", name="Answering").click()
    fill_number(page, "number input for Longest answer", tokens)
    page.get_by_label("number input for Longest answer").press("Tab")


def choose_run(page: Page, lengths: str, depths: str, trials: int = 1) -> None:
    """Sets how long a run of the lab is."""
    wanted = [
        (page.locator("#lab-lengths").get_by_role("textbox"), lengths),
        (page.get_by_label("Depths"), depths),
        (page.get_by_label("Trials"), str(trials)),
    ]

    def stays() -> bool:
        """A tab that was opened a moment ago may set its own values once more."""
        for field, words in wanted:
            field.fill(words)
        page.get_by_label("Trials").press("Tab")
        page.wait_for_timeout(300)
        return all(field.input_value() == words for field, words in wanted)

    until(page, stays, "the settings of the run")
