"""The Document tab in Chromium, beside real answers of the bundled model: pages, links, glowing words, search."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from branches import served
from chat_parts import Open, answered, ask, held_back, leave, ready, reload, until, upload
from evidence_page import NOTES
from playwright.sync_api import Locator, Page, expect

from app.sample import SAMPLE_QUESTIONS


class Asked(NamedTuple):
    """A question on the sample that the bundled model answers right, with a number."""

    question: str
    value: str
    page: str


@pytest.fixture(scope="module")
def asked() -> Asked:
    records = json.loads(SAMPLE_QUESTIONS.read_text(encoding="utf-8"))
    record = next(record for record in records if record["value"].isdigit())
    return Asked(record["question"], record["value"], str(record["page"]))


@pytest.fixture(scope="module")
def bundled_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    command = [sys.executable, "app.py", "--no-browser", "--data-folder", str(tmp_path_factory.mktemp("data"))]
    with served(lambda port: [*command, "--port", str(port)]) as url:
        yield url


def with_answer(page: Page, asked: Asked) -> Page:
    ready(page)
    expect(page.locator("#chat .contrast")).to_be_visible(timeout=300_000)  # there is something to ask
    ask(page, asked.question)
    expect(page.locator("#chat .measures")).to_have_count(1, timeout=600_000)
    until(page, lambda: tokens(page).count() > 0, "the answer's tokens are joined to the pages")
    return page


def tokens(page: Page) -> Locator:
    return page.locator("#chat .answer-token")


def strongest(page: Page) -> str:
    """The word that glows most."""
    words: list[str] = page.evaluate(
        """() => [...document.querySelectorAll('.reader-sheet .glow')]
            .map((word) => [Number(word.style.getPropertyValue('--glow')), word.textContent.trim()])
            .sort((a, b) => b[0] - a[0]).map(([, text]) => text)"""
    )
    return words[0] if words else ""


def current(page: Page) -> str:
    return page.get_by_label("Page", exact=True).input_value()


def test_the_bundled_model_answers_right_with_selfextend_only(open_page: Open, bundled_address: str) -> None:
    """One click asks; the answer is right, cited to its page; the vanilla model does not know it."""
    wanted = json.loads(SAMPLE_QUESTIONS.read_text(encoding="utf-8"))[0]
    page = ready(open_page(bundled_address, width=1500))
    page.set_default_timeout(600_000)
    expect(page.locator(".document-list")).to_contain_text("sample.pdf")
    expect(page.locator("#fit .complaint")).to_have_count(0)
    # What the page set by itself, the map shows: the advised settings, over the whole document.
    page.get_by_role("tab", name="Position map").click()
    group_size = page.get_by_label("number input for Group size").input_value()
    expect(page.locator("#position-map .map-title")).to_contain_text(f"(G = {group_size}, w = 128)")
    expect(page.locator("#position-map .map-readout")).to_contain_text(re.compile(r"Query i = 1\d,\d{3}"))
    page.get_by_role("tab", name="Evidence").click()
    page.locator("#chat").get_by_text(wanted["question"]).click()
    expect(page.locator("#chat .measures")).to_have_count(1, timeout=600_000)
    answer = page.locator("#chat .message.bot, #chat .bot").last
    expect(answer).to_contain_text(wanted["value"])
    expect(page.locator("#chat a.page-link").first).to_have_text(f"p. {wanted['page']}")
    page.get_by_role("radio", name="Vanilla").first.check()
    ask(page, wanted["question"])
    expect(page.locator("#chat .measures")).to_have_count(2, timeout=600_000)
    expect(page.locator("#chat .message.bot, #chat .bot").last).not_to_contain_text(wanted["value"])
    answered(page, 2)


def test_a_hovered_token_lights_up_the_words_it_looked_at(open_page: Open, bundled_address: str, asked: Asked) -> None:
    page = with_answer(open_page(bundled_address, width=1440, height=900), asked)
    # The page that the answer comes from is there by itself, after the example's, and the passage is marked.
    until(page, lambda: current(page) == asked.page, "the answer's page")
    expect(page.locator(".reader-marks .cited").first).to_be_in_viewport()
    texts = tokens(page).all_inner_texts()
    assert asked.value in "".join(texts)
    value = next(number for number, text in enumerate(texts) if text.strip().isdigit())
    tokens(page).nth(value).hover()
    expect(page.locator(".reader-words")).to_contain_text(
        f"“{texts[value].strip()}” looked hardest at page {asked.page}"
    )
    assert texts[value].strip() in strongest(page)
    page.locator("#title").hover()
    expect(page.locator(".reader-words")).to_contain_text("Glowing: where the answer looked")

    # By keyboard: arrows go from token to token, Enter holds one.
    tokens(page).first.focus()
    for _ in range(value):
        page.keyboard.press("ArrowRight")
    expect(page.locator(".reader-words")).to_contain_text("looked hardest at")
    page.keyboard.press("Enter")
    expect(tokens(page).nth(value)).to_have_class("answer-token pinned")
    page.locator("#title").hover()
    page.wait_for_timeout(300)
    assert texts[value].strip() in strongest(page), "a held token stays"

    # And back: a word on the page says which tokens looked at it.
    page.locator(".reader-sheet .glow").first.click()
    expect(page.locator(".reader-words")).to_contain_text("of the answer's tokens looked at")
    expect(page.locator("#chat .answer-token.looked").first).to_be_visible()

    # Cleared, the page is as it was: the tabs show what the example looked at.
    example = json.loads(SAMPLE_QUESTIONS.read_text(encoding="utf-8"))[-1]
    page.locator("#chat").get_by_role("button", name="Clear").click()
    expect(page.locator("#chat .contrast .right")).to_be_visible()
    page.get_by_role("tab", name="Evidence").click()
    expect(page.locator("#evidence-summary")).to_contain_text(example["question"])


def test_links_paging_search_and_selection(open_page: Open, bundled_address: str, asked: Asked) -> None:
    page = with_answer(open_page(bundled_address, width=1440, height=900), asked)
    page.get_by_role("tab", name="Parameters").click()
    link = page.locator("#chat a.page-link").last
    number = link.inner_text().removeprefix("p. ")
    link.click()
    expect(page.get_by_role("tab", name="Document")).to_have_attribute("aria-selected", "true")
    until(page, lambda: current(page) == number, "the link's page")
    expect(page.locator(".reader-marks .cited").first).to_be_in_viewport()

    page.get_by_label("Page", exact=True).fill("43")
    page.get_by_label("Page", exact=True).press("Enter")
    expect(page.locator(".reader-page[data-number='43'] img")).to_be_in_viewport()
    page.get_by_role("button", name="Page before").click()
    until(page, lambda: current(page) == "42", "one page back")
    page.get_by_role("button", name="Page after").click()
    expect(page.get_by_role("button", name="Page after")).to_be_disabled()

    # What the answer says is found in the text, by any case.
    page.get_by_label("Find in the document").fill(asked.value)
    expect(page.locator(".reader-hits")).to_contain_text("1 of")
    until(page, lambda: current(page) == asked.page, "the hit's page")
    expect(page.locator(".reader-marks .hit.now").first).to_be_in_viewport()
    page.get_by_label("Find in the document").fill("no such words anywhere")
    expect(page.locator(".reader-hits")).to_have_text("not found")

    # The words over the picture are text that can be selected, as wide as they look.
    on_page = f".reader-page[data-number='{asked.page}']"
    word = page.locator(f"{on_page} .reader-layer span", has_text=asked.value).first
    word.dblclick()
    assert asked.value in page.evaluate("String(window.getSelection())")
    drawn = word.bounding_box()
    sheet = page.locator(f"{on_page} .reader-sheet").bounding_box()
    assert drawn
    assert sheet
    assert 0.02 < drawn["width"] / sheet["width"] < 0.2


def test_a_page_asked_for_stays_when_where_the_answer_looked_comes_late(
    open_page: Open, bundled_address: str, asked: Asked
) -> None:
    page = ready(open_page(bundled_address, width=1440, height=900))
    expect(page.locator("#chat .contrast")).to_be_visible(timeout=300_000)
    with held_back(page, "trace") as held:
        ask(page, asked.question)
        expect(page.locator("#chat .measures")).to_have_count(1, timeout=600_000)
        until(page, lambda: bool(held), "the page asks where the answer looked")
        number = page.get_by_label("Page", exact=True)
        number.fill("43")
        number.press("Enter")
    expect(page.locator(".reader-words")).to_contain_text("Glowing: where the answer looked")
    until(page, lambda: tokens(page).count() > 0, "the answer's tokens are joined to the pages")
    page.wait_for_timeout(500)
    assert current(page) == "43"
    expect(page.locator(".reader-page[data-number='43'] img")).to_be_in_viewport()


def test_where_an_answer_looked_is_shown_though_the_pages_of_its_document_come_late(
    open_page: Open, bundled_address: str, asked: Asked, tmp_path: Path
) -> None:
    page = with_answer(open_page(bundled_address, width=1440, height=900), asked)

    # A link is clicked before its document's pages stand.
    with held_back(page, "sizes") as held:
        reload(page)
        until(page, lambda: bool(held), "the page asks for the pages' sizes")
        link = page.locator("#chat a.page-link").first
        link.click()
        page.wait_for_timeout(500)
    expect(page.locator(".reader-marks .cited").first).to_be_in_viewport()
    assert current(page) in link.inner_text()
    assert current(page) != "1"

    # A document comes meanwhile.
    other = tmp_path / "other.txt"
    other.write_text("Nothing of this is about gates.", encoding="utf-8")
    with held_back(page, "sizes") as held:
        reload(page)
        until(page, lambda: bool(held), "the page asks for the pages' sizes")
        upload(page, other)
        expect(page.get_by_label("Document", exact=True).locator("option")).to_have_count(2)
    expect(page.locator(".reader-words")).to_contain_text("Glowing: where the answer looked")
    expect(page.locator(".reader-marks .cited").first).to_be_in_viewport()


def test_a_page_beside_a_ready_model_begins_with_the_advised_settings(open_page: Open, bundled_address: str) -> None:
    """All that it is to show is known at once, while it is still being made."""
    for _ in range(4):
        page = ready(open_page(bundled_address, width=1440, height=900))
        expect(page.locator("#chat .contrast")).to_contain_text("Asked just now")
        expect(page.get_by_label("number input for Group size")).to_have_value("79")
        expect(page.locator("#fit .complaint")).to_have_count(0)
        leave(page)


def test_on_a_phone_the_page_comes_up_as_a_sheet(open_page: Open, bundled_address: str, asked: Asked) -> None:
    page = with_answer(open_page(bundled_address, width=390, height=844), asked)
    page.locator("#chat a.page-link").first.click()
    expect(page.locator(".reader-marks .cited").first).to_be_in_viewport()
    box = page.locator(".reader").bounding_box()
    assert box
    assert box["y"] > 0
    assert box["y"] + box["height"] == pytest.approx(844, abs=1)
    page.get_by_role("button", name="Close the document").click()
    expect(page.locator("#chat a.page-link").first).to_be_in_viewport()

    # A token that is tapped brings its page up too.
    tokens(page).nth(3).click()
    expect(page.locator(".reader-marks .pointed").first).to_be_in_viewport()
    box = page.locator(".reader").bounding_box()
    assert box
    assert box["y"] + box["height"] == pytest.approx(844, abs=1)


def test_text_files_are_set_as_text_and_documents_are_kept_apart(
    open_page: Open, bundled_address: str, tmp_path: Path
) -> None:
    notes, other = tmp_path / "notes.md", tmp_path / "other.txt"
    notes.write_text(NOTES, encoding="utf-8")
    other.write_text("Nothing of this is about gates.", encoding="utf-8")
    page = ready(open_page(bundled_address, width=1440, height=900))
    upload(page, notes, other)
    expect(page.locator(".reader-text")).to_contain_text("Nothing of this")
    page.get_by_label("Document", exact=True).select_option("notes.md")
    expect(page.locator(".reader-text")).to_contain_text("Nobody has counted its bars")
    # A click on a file's name opens it.
    page.locator(".document-list button.name", has_text="other.txt").click()
    expect(page.locator(".reader-text")).to_contain_text("Nothing of this")
    ask(page, "What is the access code of the Orchard gate?")
    answered(page)
    # The teaching model cannot read such texts: where it looked glows, but nothing is marked as a proof.
    page.get_by_label("Document", exact=True).select_option("notes.md")
    expect(page.locator(".reader-text .glow").first).to_be_visible()
    expect(page.locator(".reader-text .cited")).to_have_count(0)
    page.get_by_role("button", name="Remove notes.md").click()
    expect(page.locator(".document-list li")).to_have_count(1)
    page.get_by_role("button", name="Remove other.txt").click()
    expect(page.locator(".document-list")).to_have_count(0)


def selected(page: Page) -> tuple[int | None, int | None]:
    query, key = page.evaluate("(({query, key}) => [query, key])(window.selfextendSelection.current)")
    return query, key


def test_one_selection_goes_from_panel_to_panel_and_a_passing_pointer_takes_none(
    open_page: Open, bundled_address: str, asked: Asked
) -> None:
    page = with_answer(open_page(bundled_address, width=1440, height=900), asked)
    heatmap = "#attention-map .plot-area"

    # A token is held before the heatmap was ever drawn: its row is marked there, not the strongest cell.
    number = int(tokens(page).nth(2).get_attribute("data-number") or 0)
    tokens(page).nth(2).click()
    until(page, lambda: selected(page)[0] is not None, "the token is selected")
    held = selected(page)
    page.get_by_role("tab", name="Attention").click()
    page.wait_for_selector(f"{heatmap} .hm image")
    expect(page.locator("#attention-readout")).to_contain_text(f"(token {number} of the answer)")
    assert selected(page) == held

    # A cell is chosen in the heatmap; a pointer that passes over the chat changes nothing for good, though it comes
    # before it is known where the cell's key stands.
    with held_back(page, "place"):
        page.locator(heatmap).focus()
        page.keyboard.press("Shift+ArrowDown")
        until(page, lambda: selected(page) != held, "the cell below")
        chosen = selected(page)
        expect(page.locator("#chat .answer-token.pinned")).to_have_count(0)
        tokens(page).nth(0).hover()
        until(page, lambda: (selected(page)[0] or 0) < (held[0] or 0), "the token under the pointer")
        page.locator("#title").hover()
        until(page, lambda: selected(page) == chosen, "what was chosen before")
    expect(page.locator("#chat .answer-token.looked").first).to_be_visible()

    # The page shows the key's word, though it was not in sight when it was chosen.
    page.get_by_role("tab", name="Document").click()
    expect(page.locator(".reader-marks .pointed").first).to_be_in_viewport()

    # After a reload too.
    until(page, lambda: f"key={chosen[1]}" in page.url, "the address says so")
    reload(page)
    until(page, lambda: tokens(page).count() > 0, "the answer's tokens are joined to the pages")
    until(page, lambda: selected(page) == chosen, "the link's selection")
    expect(page.locator(".reader-marks .pointed").first).to_be_in_viewport()
    expect(page.locator("#chat .answer-token.looked").first).to_be_visible()

    # By keyboard a word of the page is chosen: the tokens that looked at it.
    page.locator(".reader-pages").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".reader-sheet .chosen")).to_have_count(1)
    first = page.locator(".reader-sheet .chosen").inner_text()
    page.keyboard.press("ArrowRight")
    until(page, lambda: page.locator(".reader-sheet .chosen").inner_text() != first, "the next word")
    expect(page.locator(".reader-words")).to_contain_text("of the answer's tokens looked at")

    # The next answer is of another text.
    ask(page, "Who is the keeper of the Riverstow library?")
    expect(page.locator("#chat .measures")).to_have_count(2, timeout=600_000)
    until(page, lambda: selected(page) == (None, None), "nothing is selected any more")


def test_a_cited_passage_is_tested_from_the_page_itself(open_page: Open, bundled_address: str, asked: Asked) -> None:
    page = with_answer(open_page(bundled_address, width=1440, height=900), asked)
    page.locator("#chat a.page-link").first.click()
    expect(page.locator(".reader-marks .cited").first).to_be_in_viewport()
    page.locator(".reader-cited").get_by_role("button", name="What if it weren't there?").click()
    expect(page.locator(".reader-marks .struck").first).to_be_in_viewport()
    expect(page.locator(".reader-cited .verdict")).to_be_visible(timeout=300_000)
    expect(page.locator(".reader-cited .answers section").first).to_contain_text(asked.value)
    expect(page.locator(".reader-marks .struck").first).to_be_in_viewport()
