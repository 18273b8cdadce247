"""Chat with an instruct model in a real browser: long answers that go on, stopped ones with evidence, a system prompt,
thinking; and what the page says when a document meets the teaching model.

On tiny random models with a chat template, where only the mechanics count.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from branches import served
from chat_parts import Open, answered, app_command, ask, kept, leave, ready, reload, until, upload
from hub_server import HubServer
from playwright.sync_api import Page, Route, expect
from tiny_models import BARE_TEMPLATE, save_instruct

from benchmarks import serving

pytestmark = pytest.mark.browser

SYSTEM = "Answer like a pirate."


@pytest.fixture(scope="module")
def instruct_address(folder: Path) -> Iterator[str]:
    """The app on a tiny model that was made to chat."""
    with served(app_command(save_instruct(folder / "instruct"), folder / "instruct-data")) as url:
        yield url


@pytest.fixture(scope="module")
def hub(folder: Path) -> Iterator[HubServer]:
    """A hub that has one of the offered models, or what is called like it."""
    server = HubServer("HuggingFaceTB/SmolLM2-135M-Instruct", save_instruct(folder / "offered"))
    yield server
    server.stop()


def asked_with(page: Page, longest: int, question: str = "Who jumps?") -> Page:
    """The question is asked, with this longest answer."""
    set_longest(page, longest)
    ask(page, question)
    return page


def set_longest(page: Page, tokens: int) -> None:
    box = page.get_by_label("number input for Longest answer")
    if not box.is_visible():
        page.get_by_role("button", name="Answering").click()
        page.wait_for_timeout(500)  # Gradio gives a part that comes into view its value a moment later
    box.fill(str(tokens))
    box.press("Tab")


def said(page: Page) -> dict[str, Any]:
    """The last reply, as the browser keeps it."""
    entries = kept(page).get("entries") or [{"replies": [{}]}]
    reply: dict[str, Any] = entries[-1]["replies"][-1]
    return reply


def go_on(page: Page) -> None:
    page.locator("#chat a.continue").click()


def test_a_cut_answer_says_so_and_goes_on_in_its_bubble(instruct_address: str, open_page: Open, short: Path) -> None:
    page = ready(open_page(instruct_address, width=1500))
    page.get_by_role("button", name="Answering").click()
    expect(page.get_by_label("number input for Longest answer")).to_have_value("512")
    upload(page, short)
    asked_with(page, 7)
    answered(page)
    expect(page.locator("#chat .cut")).to_have_text("Cut off here: Continue")
    until(page, lambda: said(page).get("new_tokens") == 7, "an answer of 7 tokens")
    first = said(page)
    bubbles = page.locator("#chat .message-row").count()
    set_longest(page, 30)
    go_on(page)
    until(page, lambda: said(page).get("new_tokens") == 37, "an answer of 37 tokens")
    answered(page)
    further = said(page)
    assert further["text"].startswith(first["text"][:-1])
    assert further["turn"] == first["turn"]
    # Nothing was read again: the time to the first token is still that of the first part.
    assert further["first_token_seconds"] == first["first_token_seconds"]
    assert page.locator("#chat .message-row").count() == bubbles
    # An answer that is no longer the last one stays as it is.
    ask(page, "And then?")
    answered(page, 2)
    expect(page.locator("#chat a.continue")).to_have_count(1)


def test_a_stopped_answer_has_its_evidence_and_goes_on(instruct_address: str, open_page: Open, short: Path) -> None:
    page = ready(open_page(instruct_address, width=1500))
    upload(page, short)
    asked_with(page, 3000)
    expect(page.locator("#chat-status")).to_contain_text(re.compile(r"[1-9]\d* tokens/s, at most \d+ s more"))
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(page.locator("#chat .stopped")).to_contain_text(re.compile(r"Stopped after [\d,]+ tokens"))
    expect(page.locator("#chat a.page-link").first).to_be_visible()
    page.get_by_role("tab", name="Evidence").click()
    expect(page.locator(".passage-card.chosen")).to_have_attribute("data-rank", "1")
    expect(page.locator(".meter").filter(has_text="Speed").locator("dd")).to_contain_text("tokens/s")
    until(page, lambda: said(page).get("stopped"), "kept in the browser")
    first = said(page)
    set_longest(page, 12)
    go_on(page)
    answered(page)
    expect(page.locator("#chat .stopped")).to_have_count(0)
    until(page, lambda: said(page)["new_tokens"] == first["new_tokens"] + 12, "12 tokens more")
    # After a reload it can still go on, and past the reach it is refused, with the answer as it was.
    reload(page)
    set_longest(page, 4096)
    page.get_by_label("number input for Group size").fill("1")
    page.get_by_label("number input for Group size").press("Tab")
    go_on(page)
    expect(page.locator("#chat-status .complaint")).to_contain_text("smallest change")
    expect(page.get_by_label("Question", exact=True)).to_have_value("")
    expect(page.locator("#chat .measures")).to_have_count(1)


def test_the_system_prompt_and_thinking_are_in_the_prompt_and_kept(
    instruct_address: str, open_page: Open, short: Path
) -> None:
    page = ready(open_page(instruct_address, width=1500))
    upload(page, short)
    tokens = page.locator(".meter").filter(has_text="Tokens").first.locator("dd")
    until(page, lambda: int(tokens.inner_text()) > 512, "the document and the longest answer are counted")
    set_longest(page, 5)
    until(page, lambda: int(tokens.inner_text()) < 512, "a shorter answer is")
    before = int(tokens.inner_text())
    # Two values set so fast that the second comes while the first is answered: both count.
    held: list[Route] = []
    page.route("**/queue/join*", lambda route: held.append(route))
    set_longest(page, 6)
    until(page, lambda: bool(held), "the first value is sent")
    page.get_by_label("System prompt").fill(SYSTEM)
    page.get_by_label("System prompt").press("Tab")
    page.wait_for_timeout(300)
    for route in held:
        route.continue_()
    page.unroute("**/queue/join*")
    until(page, lambda: int(tokens.inner_text()) > before + 1, "the system prompt is counted")
    ask(page)
    answered(page)
    page.get_by_role("button", name="Show the prompt").click()
    prompt = page.locator("#prompt textarea")
    expect(prompt).to_have_value(
        re.compile(rf"^<\|system\|>\n{SYSTEM}\n<\|user\|>\nshort\.txt.*<think>\n\n</think>", re.S)
    )
    page.get_by_label("Think before answering").check()
    ask(page, "And with thinking?")
    answered(page, 2)
    page.get_by_role("button", name="Show the prompt").click()
    expect(prompt).to_have_value(re.compile(r"And with thinking\?\n<\|assistant\|>\n$"))
    until(page, lambda: kept(page)["controls"][-2:] == [SYSTEM, True], "the controls kept")
    reload(page)
    page.get_by_role("button", name="Answering").click()
    expect(page.get_by_label("System prompt")).to_have_value(SYSTEM)
    expect(page.get_by_label("Think before answering")).to_be_checked()


def test_a_template_without_system_prompt_refuses_it_in_a_sentence(open_page: Open, folder: Path, short: Path) -> None:
    model = save_instruct(folder / "bare", BARE_TEMPLATE)
    with served(app_command(model, folder / "bare-data")) as url:
        page = ready(open_page(url, width=1500))
        upload(page, short)
        set_longest(page, 5)
        expect(page.get_by_label("Think before answering")).to_have_count(0)
        page.get_by_label("System prompt").fill(SYSTEM)
        ask(page)
        expect(page.locator("#chat-status .complaint")).to_have_text(
            "This model's chat template takes no system prompt: empty the System prompt under Answering."
        )
        page.get_by_label("System prompt").fill("")
        ask(page)
        answered(page)
        leave(page)


def test_a_foreign_document_gets_the_right_model_and_its_question_asked_again(
    open_page: Open, folder: Path, short: Path, hub: HubServer, tmp_path: Path
) -> None:
    command = [sys.executable, "app.py", "--no-browser", "--no-read-ahead", "--data-folder", str(tmp_path / "data")]
    environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    with serving.served(lambda port: [*command, "--port", str(port)], environment) as url:
        page = ready(open_page(url, width=1500))
        offers = page.locator("#offers")
        expect(page.locator("#model-summary .name")).to_have_text("Bundled teaching model")
        expect(page.locator(".document-list")).to_contain_text("sample.pdf")
        expect(offers).to_be_hidden()
        upload(page, short)
        # Before any answer.
        expect(offers).to_contain_text("The teaching model cannot answer about this document.")
        expect(offers).to_contain_text("short.txt")
        expect(offers.locator("li").first).to_contain_text("273 MB to download · window 8,192 · Apache-2.0")
        set_longest(page, 12)
        ask(page)
        answered(page)
        expect(page.locator("#chat a.page-link")).to_have_count(0)
        expect(page.locator("#chat .note")).to_contain_text("No page links. The teaching model")
        page.get_by_role("tab", name="Evidence").click()
        expect(page.locator("#evidence-summary")).to_contain_text("proves nothing")
        expect(page.locator("#evidence-cards")).to_be_hidden()
        expect(offers).to_contain_text("have your question asked again")
        # One that the hub does not have: a sentence, and the offers are there again.
        offers.get_by_role("button", name="Load SmolLM2-360M-Instruct").click()
        expect(page.locator("#offers-status .complaint")).to_contain_text("SmolLM2-360M-Instruct")
        hub.bytes_per_second = 200_000
        offers.get_by_role("button", name="Load SmolLM2-135M-Instruct").click()
        expect(page.locator("#offers-status progress")).to_be_visible()
        expect(page.locator("#model-summary .name")).to_have_text("SmolLM2-135M-Instruct")
        answered(page, 2)
        expect(page.locator("#chat .divider")).to_contain_text("the model is SmolLM2-135M-Instruct")
        expect(page.locator("#chat .user").last).to_contain_text("Who jumps?")
        expect(page.locator("#chat a.page-link").first).to_be_visible()
        expect(offers).to_be_hidden()
        expect(page.locator("#offers-status")).to_be_hidden()
        expect(page.get_by_label("number input for Longest answer")).to_have_value("512")
        leave(page)
