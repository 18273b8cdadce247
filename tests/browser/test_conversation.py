"""The conversation in a real browser: edited, retried, undone, cleared, saved, kept over a restart; what goes wrong.

On a tiny random model, where only the mechanics count.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from branches import served
from chat_parts import Open, answered, app_command, ask, keeps, leave, limit_answers, ready, suggest, upload
from conftest import ACTION_MILLISECONDS
from make_documents import make
from playwright.sync_api import Browser, expect
from tiny_models import tiny_config

pytestmark = pytest.mark.browser

REFUSED = {
    "zero.pdf": "is empty (0 bytes)",
    "encrypted.pdf": "password",
    "blank.pdf": "is empty: there is no text on any of its pages",
    "truncated.pdf": "cut off",
    "five-thousand.pdf": "has 5,000 pages, and the limit is 2,000",
    "picture.pdf": "is a PNG picture",
}


def test_edit_retry_undo_clear_and_download(address: str, open_page: Open, short: Path, tmp_path: Path) -> None:
    page = ready(open_page(address, width=1500))
    chat = page.locator("#chat")
    upload(page, short)
    limit_answers(page, 6)
    suggest(page)
    for number, question in enumerate(("Who jumps?", "Where is the mill?"), start=1):
        ask(page, question)
        answered(page, number)
    chat.get_by_role("button", name="Retry").click()
    expect(chat.locator("a.page-link").last).to_have_attribute("href", re.compile("^#passage-3-"))
    answered(page, 2)
    # An earlier question that is changed takes what came after it along.
    chat.get_by_role("button", name="Edit").first.click()
    chat.locator("textarea").first.fill("Who is lazy?")
    chat.get_by_role("button", name="Submit").click()
    expect(chat.locator("a.page-link").last).to_have_attribute("href", re.compile("^#passage-4-"))
    answered(page, 1)
    expect(chat).to_contain_text("Who is lazy?")
    expect(chat).not_to_contain_text("Who jumps?")
    expect(chat).not_to_contain_text("Where is the mill?")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download chat").click()
    saved = tmp_path / "conversation.md"
    download.value.save_as(saved)
    assert "## Who is lazy?" in saved.read_text()
    assert "- short.txt, page" in saved.read_text()
    chat.get_by_role("button", name="Undo").click()
    expect(chat.locator(".measures")).to_have_count(0)
    expect(page.get_by_label("Question", exact=True)).to_have_value("Who is lazy?")
    ask(page, "And now?")
    answered(page, 1)
    chat.get_by_role("button", name="Clear").click()
    expect(chat.locator(".measures")).to_have_count(0)
    ask(page, "From the start?")
    answered(page, 1)
    expect(chat).not_to_contain_text("And now?")


def test_a_question_while_an_answer_comes_loses_nothing(address: str, open_page: Open, short: Path) -> None:
    page = ready(open_page(address, width=1500))
    box, send = page.get_by_label("Question", exact=True), page.get_by_role("button", name="Send", exact=True)
    upload(page, short)
    limit_answers(page, 4096)
    suggest(page)
    ask(page, "Who comes first?")
    expect(page.locator("#chat-status")).to_contain_text("Answering")
    box.fill("Who is too early?")
    box.press("Enter")
    expect(page.locator("#chat-status")).to_contain_text("An answer is on its way")
    expect(box).to_have_value("Who is too early?")
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(page.locator("#chat .stopped")).to_have_count(1)
    expect(page.locator("#chat a.page-link").first).to_be_visible()
    expect(page.locator("#chat")).to_contain_text("Who comes first?")
    expect(send).to_be_visible()
    # Cleared while it is being answered, it stays cleared.
    box.press("Enter")
    expect(page.locator("#chat-status")).to_contain_text("Answering")
    page.locator("#chat").get_by_role("button", name="Clear").click()
    expect(send).to_be_visible()
    expect(page.locator("#chat")).not_to_contain_text("Who comes first?")
    expect(page.locator("#chat")).not_to_contain_text("Who is too early?")


def test_a_restart_keeps_conversation_documents_and_settings(
    open_page: Open, model: Path, short: Path, tmp_path: Path
) -> None:
    command = app_command(model, tmp_path / "data")
    with served(command) as url:
        page = ready(open_page(url, width=1500))
        upload(page, short)
        suggest(page)
        page.get_by_label("number input for Group size").fill("77")
        page.get_by_label("number input for Group size").press("Tab")
        ask(page, "What is kept?")
        answered(page)
        keeps(page, questions=["What is kept?"], group_size="77")
        said = page.locator("#chat .measures").inner_text()
        leave(page)
    with served(command, port=urlsplit(url).port or 0) as url:
        page.goto(url)
        ready(page)
        expect(page.locator("#chat")).to_contain_text("What is kept?")
        expect(page.locator("#chat .measures")).to_have_text(said)
        expect(page.locator(".document-list")).to_contain_text(short.name)
        expect(page.get_by_label("number input for Group size")).to_have_value("77")
        # Evidence is kept in memory only, and a link says so.
        page.locator("#chat a.page-link").first.click()
        expect(page.locator("#chat-status")).to_contain_text("no longer in memory")
        ask(page, "And after it?")
        answered(page, 2)
        leave(page)


def test_without_persistence_nothing_outlives_a_reload(
    open_page: Open, model: Path, short: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    with served(app_command(model, data, "--no-persist")) as url:
        page = ready(open_page(url, width=1500))
        upload(page, short)
        suggest(page)
        ask(page, "What is forgotten?")
        answered(page)
        page.wait_for_timeout(1500)
        leave(page, url)
        ready(page)
        expect(page.locator("#documents")).to_contain_text("No documents yet")
        expect(page.locator("#chat .measures")).to_have_count(0)
        leave(page)
        assert not data.exists() or not any(data.rglob("*"))


def test_bad_files_get_a_sentence_each_and_the_rest_stays(
    address: str, open_page: Open, short: Path, tmp_path: Path
) -> None:
    page = ready(open_page(address, width=1500))
    upload(page, short)
    bad = make(tmp_path, *REFUSED)
    page.set_input_files("#upload input[type=file]", [str(path) for path in bad])
    complaints = page.locator("#documents-status .complaint")
    expect(complaints).to_have_count(len(REFUSED))
    for name, words in REFUSED.items():
        expect(complaints.filter(has_text=name)).to_contain_text(words)
    expect(page.locator(".document-list li")).to_have_count(1)
    suggest(page)
    ask(page)
    answered(page)


def test_half_a_gigabyte_gets_a_sentence_and_the_rest_stays(
    address: str, chromium: Browser, short: Path, tmp_path: Path
) -> None:
    # Not under watch: gradio asks for the progress of the upload that it refused, and logs that there is none.
    page = chromium.new_page(viewport={"width": 1500, "height": 1000})
    page.set_default_timeout(ACTION_MILLISECONDS)
    page.goto(address)
    ready(page)
    upload(page, short)
    huge = tmp_path / "huge.pdf"
    with huge.open("wb") as file:
        file.truncate(500_000_000)
    page.set_input_files("#upload input[type=file]", str(huge))
    expect(page.get_by_text(re.compile("maximum allowed size"))).to_be_visible()
    expect(page.locator(".document-list li")).to_have_count(1)
    suggest(page)
    ask(page)
    answered(page)
    page.close()


def test_a_model_that_cannot_be_had_gets_a_sentence_and_the_old_one_stays(
    address: str, open_page: Open, short: Path, tmp_path: Path
) -> None:
    page = ready(open_page(address, width=1500))
    upload(page, short)
    suggest(page)
    ask(page)
    answered(page)
    huge = tmp_path / "huge"
    huge.mkdir()
    config = tiny_config(hidden_size=16384, intermediate_size=65536, num_hidden_layers=400, num_attention_heads=128)
    (huge / "config.json").write_text(json.dumps(config.to_dict()))
    page.get_by_role("button", name="Change the model").click()
    for name, words in (
        ("/nowhere/at/all", "/nowhere/at/all"),
        ("nobody/nothing", "did not answer"),
        (str(huge), "no weights"),
    ):
        page.get_by_label("Folder, GGUF file or hub id").fill(name)
        page.get_by_label("Folder, GGUF file or hub id").press("Tab")
        page.get_by_role("button", name="Load", exact=True).click()
        expect(page.locator("#model-status .complaint")).to_contain_text(words)
        expect(page.locator("#model-summary .activity")).to_contain_text("SelfExtend active in 2 of 2 layers")
    page.get_by_role("button", name="Estimate memory").click()
    expect(page.locator("#model-estimate .complaint")).to_contain_text("GB of weights")
    expect(page.locator("#chat .measures")).to_have_count(1)
    ask(page, "Still there?")
    answered(page, 2)
