"""The app in a real browser: upload, ask, stop, settings, compare, citations, reload, dark mode, a phone.

Most of it runs on a tiny random model, where only the mechanics count; what an answer says is tested with the bundled
model at the end.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from chat_parts import SENTENCE, Open, answered, ask, keeps, limit_answers, ready, reload, suggest, upload
from playwright.sync_api import expect

pytestmark = pytest.mark.browser

ASSETS = Path(__file__).resolve().parents[2] / "assets"


@pytest.fixture(scope="module")
def long(folder: Path) -> Path:
    path = folder / "long.txt"
    path.write_text("\f".join(f"Page {n}. {SENTENCE * 20}" for n in range(1, 61)))
    return path


def test_upload_ask_click_a_citation_and_ask_on(address: str, open_page: Open, short: Path) -> None:
    page = ready(open_page(address, width=1500))
    upload(page, short)
    expect(page.locator(".document-list .facts")).to_contain_text("4 pages")
    # Past the reach of the settings at hand: refused in words, with the smallest change.
    page.get_by_label("number input for Group size").fill("1")
    page.get_by_label("number input for Group size").press("Tab")
    expect(page.locator("#fit")).to_contain_text("The smallest change that fits is group size")
    ask(page)
    expect(page.locator("#chat-status")).to_contain_text("smallest change")
    expect(page.get_by_label("Question", exact=True)).to_have_value("Who jumps?")
    page.get_by_role("button", name="Suggest and ask").click()
    answered(page)
    expect(page.locator("#fit .complaint")).to_have_count(0)
    expect(page.get_by_role("button", name="Suggest and ask")).to_be_hidden()
    # What is set now counts from the next question on, and looks so.
    expect(page.locator("#fit .next-question")).to_have_count(0)
    page.get_by_label("number input for Neighbor window").fill("40")
    page.get_by_label("number input for Neighbor window").press("Tab")
    expect(page.locator("#fit .next-question")).to_contain_text("At the next question: neighbor window")
    page.get_by_label("number input for Neighbor window").fill("64")
    page.get_by_label("number input for Neighbor window").press("Tab")
    expect(page.locator("#fit .next-question")).to_have_count(0)
    limit_answers(page, 40)
    page.get_by_label("Keep earlier questions in the prompt").uncheck()
    expect(page.locator("#fit .next-question")).to_have_text(
        "At the next question: whether earlier questions are in the prompt, longest answer."
    )
    link = page.locator("#chat a.page-link").first
    number = re.search(r"\d+", link.inner_text())
    assert number
    page.get_by_role("tab", name="Position map").click()
    link.click()
    expect(page.get_by_role("tab", name="Document")).to_have_attribute("aria-selected", "true")
    expect(page.get_by_label("Page", exact=True)).to_have_value(number[0])
    expect(page.locator(".reader-sheet .cited").first).to_be_in_viewport()
    page.get_by_role("tab", name="Evidence").click()
    expect(page.locator(".passage-card.chosen")).to_have_attribute("data-rank", "1")
    expect(page.locator(".passage-card").first).to_contain_text(f"page {number[0]}")
    assert not page.url.endswith(link.get_attribute("href") or "-")

    # The second question uses what was read.
    ask(page, "Where is the mill?")
    answered(page, 2)
    expect(page.locator("#chat .measures").last).to_contain_text("read before")


def test_stop_in_prefill_keeps_the_conversation(address: str, open_page: Open, short: Path, long: Path) -> None:
    page = ready(open_page(address, width=1500))
    upload(page, short)
    suggest(page)
    ask(page)
    answered(page)
    upload(page, long)
    suggest(page)
    ask(page, "And now?")
    # In the bubble where the answer will stand.
    expect(page.locator("#chat .bot progress")).to_be_visible()
    expect(page.locator("#chat .bot").last).to_contain_text(re.compile("Reading: [1-9]"))
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(page.locator("#chat .stopped")).to_contain_text("Stopped after reading")
    expect(page.get_by_role("button", name="Send", exact=True)).to_be_visible()
    expect(page.locator("#chat .measures")).to_have_count(1)
    # The model is free again at once.
    page.get_by_role("radio", name="Vanilla").first.check()
    page.locator(".document-list button").last.click()
    expect(page.locator(".document-list li")).to_have_count(1)
    ask(page, "Who?")
    answered(page, 2)


def test_stop_in_the_answer_keeps_its_words(address: str, open_page: Open, short: Path) -> None:
    page = ready(open_page(address, width=1500))
    upload(page, short)
    limit_answers(page, 4096)
    suggest(page)
    ask(page)
    expect(page.locator("#chat-status")).to_contain_text("Answering")
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(page.locator("#chat .stopped")).to_contain_text(re.compile(r"Stopped after [\d,]+ tokens"))
    expect(page.get_by_role("button", name="Send", exact=True)).to_be_visible()


def test_compare_puts_both_side_by_side_and_the_map_follows(address: str, open_page: Open, short: Path) -> None:
    page = ready(open_page(address, width=1500))
    upload(page, short)
    limit_answers(page, 6)
    suggest(page)
    page.get_by_role("radio", name="Compare").check()
    ask(page)
    answered(page, 2)
    columns = page.locator("#chat .columns > div")
    expect(columns).to_have_count(2)
    left, right = columns.nth(0).bounding_box(), columns.nth(1).bounding_box()
    assert left
    assert right
    assert right["x"] >= left["x"] + left["width"]
    expect(columns.nth(0)).to_contain_text("Vanilla")
    expect(columns.nth(1)).to_contain_text("SelfExtend")
    page.get_by_role("tab", name="Compare", exact=True).click()
    expect(page.locator("#compare-table")).to_contain_text("Keys and values")
    page.wait_for_selector("#loss-curves .plot-area .scatterlayer .trace")
    expect(page.locator("#loss-curves .plot-area .scatterlayer .trace")).to_have_count(2)

    # Changing the group size moves reach and map.
    page.get_by_role("tab", name="Position map").click()
    title = page.locator("#position-map .map-title")
    reach = page.locator(".meter").filter(has_text="Reach").locator("dd")
    before = reach.inner_text()
    slider = page.get_by_label("range slider for Group size")
    slider.focus()
    slider.press("ArrowRight")
    expect(reach).not_to_have_text(before)
    group = page.get_by_label("number input for Group size").input_value()
    expect(title).to_contain_text(f"G = {group}")


def test_reload_keeps_conversation_documents_and_settings(address: str, open_page: Open, short: Path) -> None:
    page = ready(open_page(address, width=1500))
    upload(page, short)
    suggest(page)
    page.get_by_label("number input for Group size").fill("77")
    page.get_by_label("number input for Group size").press("Tab")
    ask(page, "What is kept?")
    answered(page)
    keeps(page, questions=["What is kept?"], group_size="77")
    said = page.locator("#chat .measures").inner_text()
    reload(page)
    expect(page.locator("#chat")).to_contain_text("What is kept?")
    expect(page.locator("#chat .measures")).to_have_text(said)
    expect(page.locator(".document-list")).to_contain_text(short.name)
    expect(page.get_by_label("number input for Group size")).to_have_value("77")
    # The evidence is there by itself, and its links work.
    page.get_by_role("tab", name="Evidence").click()
    expect(page.locator("#evidence-summary")).to_contain_text("What is kept?")
    expect(page.locator(".passage-card.chosen")).to_have_attribute("data-rank", "1")
    page.locator(".passage-card blockquote:visible").last.click()
    page.locator("#chat a.page-link[href$='-1']").first.click()
    expect(page.locator(".passage-card.chosen")).to_have_attribute("data-rank", "1")


def test_a_run_capsule_comes_back(address: str, open_page: Open, short: Path, tmp_path: Path) -> None:
    page = ready(open_page(address, width=1500))
    upload(page, short)
    suggest(page)
    ask(page, "What goes into the file?")
    answered(page)
    page.get_by_role("tab", name="Runs").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Save run capsule").click()
    saved = tmp_path / "run.html"
    download.value.save_as(saved)
    page.set_input_files("#open-capsule input[type=file]", str(saved))
    expect(page.locator("#capsule")).to_contain_text("What goes into the file?")
    page.wait_for_selector("#capsule-pages .plot-area .barlayer .point")
    # The file opens by itself too, and asks nobody for anything.
    alone = open_page(saved.as_uri())
    expect(alone.locator("h1")).to_have_text("What goes into the file?")
    alone.wait_for_selector(".barlayer .point")
