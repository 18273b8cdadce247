"""What the tabs show after an answer was cleared, undone or followed by a link, and what a page begins with.

On a tiny random model, where only the mechanics count.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from branches import served
from chat_parts import (
    SENTENCE,
    Open,
    answered,
    app_command,
    ask,
    fill_number,
    group_size,
    held_back,
    keeps,
    leave,
    limit_answers,
    ready,
    reload,
    suggest,
    until,
    upload,
)
from playwright.sync_api import Page, expect
from tiny_models import save_endless

pytestmark = pytest.mark.browser

KEPT = "localStorage.getItem('selfextend-explorer-1')"


@pytest.fixture(scope="module")
def other(folder: Path) -> Path:
    """Another text than `short`."""
    path = folder / "other.txt"
    path.write_text("\f".join(f"Sheet {n}. {SENTENCE * 3}" for n in range(1, 4)))
    return path


def asked(open_page: Open, address: str, document: Path, *questions: str) -> Page:
    """A page with short answers to these questions."""
    page = ready(open_page(address, width=1500))
    upload(page, document)
    limit_answers(page, 6)
    suggest(page)
    for number, question in enumerate(questions, start=1):
        ask(page, question)
        answered(page, number)
    open_right(page, "Evidence")
    return page


def evidence(page: Page):  # type: ignore[no-untyped-def]
    return page.locator("#evidence-summary")


def open_right(page: Page, tab: str) -> None:
    page.locator("#right-tabs").get_by_role("tab", name=tab, exact=True).click()


def test_an_undone_question_stays_undone_and_a_cleared_conversation_cleared(
    address: str, open_page: Open, short: Path
) -> None:
    page = asked(open_page, address, short, "Who stays?", "Who goes?")
    chat = page.locator("#chat")
    expect(evidence(page)).to_contain_text("Who goes?")
    chat.get_by_role("button", name="Undo").click()
    expect(evidence(page)).to_contain_text("Who stays?")
    open_right(page, "Attention")
    expect(page.locator("#attention-summary")).to_contain_text("Who stays?")
    keeps(page, questions=["Who stays?"])
    reload(page)
    expect(chat).to_contain_text("Who stays?")
    expect(chat).not_to_contain_text("Who goes?")
    open_right(page, "Evidence")
    expect(evidence(page)).to_contain_text("Who stays?")
    chat.get_by_role("button", name="Clear").click()
    expect(evidence(page)).to_contain_text("Ask a question")
    expect(page.locator("#evidence-found")).to_be_hidden()
    keeps(page, questions=[])
    reload(page)
    expect(page.locator(".document-list")).to_contain_text(short.name)
    expect(chat).not_to_contain_text("Who stays?")


def test_every_tab_shows_the_answer_that_a_link_names_and_a_new_one_opens_at_its_first_passage(
    address: str, open_page: Open, short: Path
) -> None:
    page = asked(open_page, address, short, "Who is first?", "Who is second?")
    open_right(page, "Evidence")
    chosen = page.locator(".passage-card.chosen")
    expect(evidence(page)).to_contain_text("Who is second?")
    expect(chosen).to_have_attribute("data-rank", "1")
    link = page.locator("#chat a.page-link[href^='#passage-1-']:not([href$='-1'])").first
    rank = re.search(r"\d+$", link.get_attribute("href") or "")
    assert rank, "the first answer looked at several pages"
    link.click()
    expect(evidence(page)).to_contain_text("Who is first?")
    expect(chosen).to_have_attribute("data-rank", rank[0])
    # The same link once more, after another passage was looked at.
    open_right(page, "Evidence")
    page.locator(".passage-card blockquote").first.click()
    link.click()
    expect(chosen).to_have_attribute("data-rank", rank[0])
    open_right(page, "Attention")
    expect(page.locator("#attention-summary")).to_contain_text("Who is first?")
    ask(page, "Who is third?")
    answered(page, 3)
    expect(page.locator("#attention-summary")).to_contain_text("Who is third?")
    open_right(page, "Evidence")
    expect(evidence(page)).to_contain_text("Who is third?")
    expect(chosen).to_have_attribute("data-rank", "1")


def test_suggested_settings_are_kept_and_what_a_slider_is_reset_to(address: str, open_page: Open, short: Path) -> None:
    page = ready(open_page(address, width=1500))
    upload(page, short)
    suggest(page)
    advised = group_size(page)
    assert advised != "8"
    keeps(page, questions=[], group_size=advised)
    # The address that the page wrote may be a moment behind what the browser keeps; a link that is opened is not.
    behind = "#model=model&G=9&w=50"
    page.evaluate(
        "(hash) => { history.replaceState(null, '', hash); sessionStorage['selfextend-address'] = hash; }", behind
    )
    reload(page)
    expect(page.get_by_label("number input for Group size")).to_have_value(advised)
    page.get_by_label("number input for Group size").fill("77")
    page.get_by_label("number input for Group size").press("Tab")
    page.locator("#group-size .reset-button").click()
    expect(page.get_by_label("number input for Group size")).to_have_value(advised)


def test_a_reload_in_the_middle_of_an_answer_keeps_question_and_answer(
    address: str, open_page: Open, short: Path
) -> None:
    page = asked(open_page, address, short, "Who was first?")
    fill_number(page, "number input for Longest answer", 4096)
    page.get_by_label("number input for Longest answer").press("Tab")
    suggest(page)
    ask(page, "Who goes on and on?")
    answering = re.compile(r"Answering: ([1-9][\d,]*) tokens")
    status, stop = page.locator("#chat-status"), page.get_by_role("button", name="Stop", exact=True)
    expect(status).to_contain_text(answering)

    def tokens() -> int:
        found = answering.search(status.inner_text())
        return int(found[1].replace(",", "")) if found else 0

    before = tokens()
    reload(page)
    expect(page.locator("#chat")).to_contain_text("Who was first?")
    expect(page.locator("#chat")).to_contain_text("Who goes on and on?")
    expect(stop).to_be_visible()
    until(page, lambda: tokens() > before, "the answer goes on")
    stop.click()
    expect(page.locator("#chat .stopped")).to_contain_text(re.compile(r"Stopped after [\d,]+ tokens"))
    expect(page.get_by_role("button", name="Send", exact=True)).to_be_visible()
    expect(evidence(page)).to_contain_text("Who goes on and on?")
    # Whether the browser has kept it by then or not, it is there after another reload.
    reload(page)
    expect(page.locator("#chat .stopped")).to_have_count(1)
    expect(page.locator("#chat")).to_contain_text("Who was first?")
    keeps(page, questions=["Who was first?", "Who goes on and on?"])


def test_a_link_opens_what_it_says_and_a_reload_keeps_it(address: str, open_page: Open, short: Path) -> None:
    page = ready(open_page(address, width=1440))
    upload(page, short)
    link = "model=other&document=nowhere.pdf&G=9&w=50&method=ReRoPE&tab=Parameters&query=7&key=3"
    page.evaluate(f"console.error = () => {{}}; location.hash = '{link}'")
    group, window = (page.get_by_label(f"number input for {name}") for name in ("Group size", "Neighbor window"))

    def shows(size: str) -> None:
        expect(group).to_have_value(size)
        expect(window).to_have_value("50")
        expect(page.get_by_role("radio", name="ReRoPE").first).to_be_checked()
        expect(page.get_by_role("tab", name="Parameters")).to_have_attribute("aria-selected", "true")
        page.wait_for_function("window.selfextendSelection.current.key === 3")
        page.wait_for_function(f"location.hash.includes('G={size}') && location.hash.includes('short.txt')")

    shows("9")
    status = page.locator("#link-status")
    expect(status).to_contain_text("The link is about other, and")
    expect(status).to_contain_text("nowhere.pdf, which you have not added")
    # From here on the address follows the page, and a reload keeps that.
    group.fill("11")
    group.press("Tab")
    shows("11")
    reload(page)
    shows("11")
    expect(status.locator(".complaint")).to_have_count(0)
    # What was set last comes back, even where the browser was left before the server had told it to keep it.
    before = page.evaluate("({...localStorage})")
    group.fill("12")
    group.press("Tab")
    shows("12")
    keeps(page, questions=[], group_size="12")
    page.evaluate("(before) => Object.assign(localStorage, before)", before)
    reload(page)
    shows("12")

    # What is copied says how it was asked, behind the fold too, and opens so.
    def copied() -> str:
        page.get_by_role("button", name="Copy link").click()
        expect(page.locator("#copied")).to_have_text("Copied")
        link: str = page.evaluate("navigator.clipboard.readText()")
        return link

    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    link = copied()
    assert link == page.url
    assert "log_n=false&extend=Always&" in link
    for was, other in (("log_n=false", "log_n=true"), ("extend=Always", "extend=Only+past+the+trained+window")):
        link = link.replace(was, other)
    link = re.sub("max_new_tokens=[0-9]+&temperature=0&", "max_new_tokens=33&temperature=0.7&", link)
    page.evaluate("(link) => { console.error = () => {}; location.href = link; }", link)
    expect(page.get_by_label("Log-n query scaling")).to_be_checked()
    page.get_by_role("button", name="Answering").click()
    expect(page.get_by_label("Only past the trained window")).to_be_checked()
    expect(page.get_by_label("number input for Longest answer")).to_have_value("33")
    expect(page.get_by_label("number input for Temperature")).to_have_value("0.7")
    shows("12")
    until(page, lambda: copied() == link, "the link that was opened")


def test_another_document_starts_a_history_of_its_own(address: str, open_page: Open, short: Path, other: Path) -> None:
    page = asked(open_page, address, short, "Who jumps there?")
    divider = page.locator("#chat .divider")
    ask(page, "Who is lazy there?")
    answered(page, 2)
    expect(divider).to_have_count(0)
    upload(page, other)
    suggest(page)
    ask(page, "Who jumps here?")
    answered(page, 3)
    expect(divider).to_have_count(1)
    expect(divider).to_contain_text("the documents are others")
    prompt = page.locator("#prompt textarea")
    page.get_by_role("button", name="Show the prompt").click()
    expect(prompt).to_have_value(re.compile("Who jumps here"))
    expect(prompt).not_to_have_value(re.compile("there"))
    ask(page, "Who is lazy here?")
    answered(page, 4)
    page.get_by_role("button", name="Show the prompt").click()
    expect(prompt).to_have_value(re.compile("Who jumps here.*Who is lazy here", re.DOTALL))
    keeps(
        page, questions=["Who jumps there?", "Who is lazy there?", "Who jumps here?", "Who is lazy here?"], documents=2
    )
    reload(page)
    expect(divider).to_have_count(1)
    # The messages' places count the divider too.
    page.locator("#chat").get_by_role("button", name="Undo").click()
    expect(page.get_by_label("Question", exact=True)).to_have_value("Who is lazy here?")
    expect(page.locator("#chat .measures")).to_have_count(3)


def test_another_model_is_shown_to_everybody_and_starts_a_history_of_its_own(
    open_page: Open, model: Path, short: Path, tmp_path: Path
) -> None:
    second = save_endless(tmp_path / "second")
    with served(app_command(model, tmp_path / "data")) as url:
        page = asked(open_page, url, short, "Who answered first?")
        expect(evidence(page)).to_contain_text("Who answered first?")
        page.get_by_role("button", name="Change the model").click()
        page.get_by_label("Folder, GGUF file or hub id").fill(str(second))
        page.get_by_label("Folder, GGUF file or hub id").press("Tab")
        page.get_by_role("button", name="Load", exact=True).click()
        expect(page.locator("#model-summary .name")).to_have_text("second")
        expect(evidence(page)).to_contain_text("Ask a question")
        ask(page, "Who answers now?")
        answered(page, 2)
        expect(page.locator("#chat .divider")).to_contain_text("the model is second")
        page.get_by_role("button", name="Show the prompt").click()
        expect(page.locator("#prompt textarea")).to_have_value(re.compile("Who answers now"))
        expect(page.locator("#prompt textarea")).not_to_have_value(re.compile("Who answered first"))
        keeps(page, questions=["Who answered first?", "Who answers now?"])
        for shown in (reload(page), ready(open_page(url, width=1500))):
            expect(shown.locator("#model-summary .name")).to_have_text("second")
            shown.get_by_role("button", name="Change the model").click()
            expect(shown.get_by_label("Folder, GGUF file or hub id")).to_have_value(str(second))
            leave(shown)


def test_stop_measuring_lets_a_question_that_waits_be_answered(
    address: str, open_page: Open, short: Path, folder: Path
) -> None:
    long = folder / "long.txt"
    long.write_text("\f".join(f"Page {n}. {SENTENCE * 20}" for n in range(1, 121)))
    page = ready(open_page(address, width=1500))
    upload(page, short, long)
    limit_answers(page, 6)
    suggest(page)
    open_right(page, "Compare")
    page.get_by_role("button", name="Measure the loss").click()
    expect(page.locator("#loss-status")).to_contain_text("Vanilla")
    page.locator(".document-list button").last.click()
    expect(page.locator(".document-list li")).to_have_count(1)
    ask(page, "Who waits?")
    expect(page.locator("#chat")).to_contain_text("Waiting for the model")
    page.get_by_role("button", name="Stop measuring").click()
    expect(page.locator("#loss-status")).to_contain_text("Measuring the loss was stopped")
    answered(page)
    expect(page.locator("#chat .stopped")).to_have_count(0)


def test_everything_of_mine_goes_here_and_in_the_browser(address: str, open_page: Open, short: Path) -> None:
    page = asked(open_page, address, short, "Who is forgotten?")
    keeps(page, questions=["Who is forgotten?"])
    before = page.evaluate(KEPT)
    page.get_by_role("button", name="Delete everything of mine").click()
    page.get_by_role("button", name="Keep it").click()
    expect(page.locator(".document-list")).to_contain_text(short.name)
    page.get_by_role("button", name="Delete everything of mine").click()
    page.evaluate("console.error = () => {}")  # of the streams that the new page cuts off
    page.get_by_role("button", name="Delete everything", exact=True).click()
    expect(page.locator("#documents")).to_contain_text("No documents yet", timeout=60_000)
    expect(page.locator("#chat")).not_to_contain_text("Who is forgotten?")
    assert page.evaluate(KEPT) != before


def test_a_document_that_goes_while_it_is_being_opened_breaks_nothing(
    address: str, open_page: Open, short: Path, tmp_path: Path
) -> None:
    page = asked(open_page, address, short, "Who goes?")
    open_right(page, "Document")
    expect(page.locator(".reader-pages")).to_contain_text("quick brown fox")
    page.locator(".document-list [data-sha]").first.click()
    expect(page.locator("#documents")).to_contain_text("No documents yet")
    other = tmp_path / "other.txt"
    other.write_text("Another text.")
    with held_back(page, "sizes") as held:
        upload(page, other)
        until(page, lambda: bool(held), "the question for the pages' sizes")
        page.locator(".document-list [data-sha]").first.click()
        expect(page.locator("#documents")).to_contain_text("No documents yet")
    upload(page, short)  # the page goes on
    expect(page.locator(".reader-pages")).to_contain_text("quick brown fox")
