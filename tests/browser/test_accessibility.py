"""Every tab in light and dark under axe-core: contrast, names, headings, roles. No violation of any rule."""

from __future__ import annotations

import re
from pathlib import Path

from chat_parts import (
    AXE,
    SETTLED,
    Open,
    answered,
    ask,
    broken_rules,
    choose_run,
    in_both_themes,
    limit_answers,
    ready,
    suggest,
    upload,
)
from playwright.sync_api import Page, expect

RIGHT = ("Document", "Evidence", "Position map", "Attention", "Parameters", "Compare", "Runs")
PLACES = [*(("#right-tabs", tab) for tab in RIGHT), ("#main-tabs", "Lab"), ("#main-tabs", "Learn")]
# The letters over a page's picture are unseen by design, and lie on the same letters in the picture.
JUDGED = "{ exclude: [['.reader-layer']] }"


def violations(page: Page) -> list[str]:
    """In light and in dark."""
    found = []
    for turn, theme in enumerate(in_both_themes(page)):
        found += [f"{theme}: {broken}" for broken in broken_rules(page, JUDGED, only_colors=turn > 0)]
    return found


IN_SIGHT = {
    "Position map": [f"#position-map .map-{part}" for part in ("overview", "close-up", "near-title")],
    "Attention": ["#attention-map .xtick text"],
}
"""What is looked for first in a tab: to be seen at 1440 x 900 without scrolling."""
DRAWN = {
    "Document": ".reader-text",
    "Evidence": "#evidence-pages .bars path",
    "Position map": "#position-map .map-close-up",
    "Attention": "#attention-map .hm image",
    "Parameters": "#parameter-plane .nsewdrag",
    "Lab": "#lab-run",
    "Learn": ".ls-drawn > *",
}
"""What a tab shows once its contents have come."""


def have_a_passage_tested(page: Page) -> None:
    card = page.locator(".passage-card:visible").first
    card.locator("[data-do=test]").click()
    expect(card.locator(".verdict")).to_be_visible()


def unfold(page: Page, name: str) -> None:
    page.get_by_role("button", name=name).click()


def compare(page: Page) -> None:
    page.get_by_role("radio", name="Compare", exact=True).first.check()
    ask(page, "And who is lazy?")
    answered(page, 3)
    for drawn in ("#loss-curves .scatterlayer path", "#compare-attention-2 .hm image"):
        expect(page.locator(drawn).first).to_be_attached()


def open_a_run(page: Page) -> None:
    with page.expect_download() as download:
        page.locator("#save-capsule").click()
    path = download.value.path().with_suffix(".html")
    download.value.save_as(path)
    page.set_input_files("#open-capsule input[type=file]", path)
    expect(page.locator("#capsule-attention .hm image")).to_be_attached()


def measure(page: Page) -> None:
    choose_run(page, "2x", "1")
    page.locator("#lab-run").click()
    expect(page.locator("#lab-status")).to_contain_text("Done in")


FILLED = {
    "Evidence": have_a_passage_tested,
    "Position map": lambda page: page.get_by_text("View and selected cell, as numbers").click(),
    "Attention": lambda page: unfold(page, "Cell and view, as numbers"),
    "Compare": compare,
    "Runs": open_a_run,
    "Lab": measure,
}
"""What puts into a tab all that it can hold, and unfolds it."""


def with_an_answer(page: Page, document: Path) -> Page:
    upload(page, document)
    suggest(page)
    ask(page)
    answered(page)
    return page


def open_tab(page: Page, tabs: str, tab: str) -> None:
    page.locator(tabs).get_by_role("tab", name=tab, exact=True).first.click()
    if tab in DRAWN:
        expect(page.locator(DRAWN[tab]).first).to_be_attached()


def width_of(page: Page) -> int:
    assert page.viewport_size
    return page.viewport_size["width"]


def scrolled_width(page: Page) -> int:
    width: int = page.evaluate("document.documentElement.scrollWidth")
    return width


def meters_stay(page: Page) -> None:
    """In sight, however far down the page is."""
    page.locator("#main-tabs").get_by_role("tab", name="Read", exact=True).click()
    page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    expect(page.locator("#meters .meter").first).to_be_in_viewport()


def is_dark(page: Page) -> bool:
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return sum(map(int, re.findall(r"\d+", ground)[:3])) < 150


def test_no_tab_breaks_a_rule(address: str, open_page: Open, short: Path) -> None:
    page = ready(open_page(address, width=1440, height=900, theme="system"))
    page.evaluate(AXE.read_text(encoding="utf-8"))
    upload(page, short)
    assert violations(page) == []
    assert is_dark(page)
    suggest(page)
    limit_answers(page, 24)
    unfold(page, "Change the model")
    assert violations(page) == [], "unfolded"
    unfold(page, "Change the model")
    ask(page)
    answered(page)
    for tabs, tab in PLACES:
        open_tab(page, tabs, tab)
        for part in IN_SIGHT.get(tab, []):
            expect(page.locator(part).first).to_be_in_viewport(ratio=1)
        if tab in FILLED:
            FILLED[tab](page)
        assert violations(page) == [], tab
        assert scrolled_width(page) <= width_of(page), tab
    meters_stay(page)


CUT_OFF = """() => {
    const wide = document.documentElement.clientWidth;
    const scrolls = (box) => ["auto", "scroll"].includes(getComputedStyle(box).overflowX);
    const inside = (part) => {
        for (let box = part.parentElement; box; box = box.parentElement) if (scrolls(box)) return true;
        return false;
    };
    const tags = ["button", "input", "p", "li", "h2", "dd", "canvas", "svg", "label"];
    const parts = [...document.querySelectorAll(tags.map((tag) => `.gradio-container ${tag}`).join())];
    const shown = parts.filter((part) => part.checkVisibility() && part.getBoundingClientRect().width > 1);
    const out = shown.filter((part) => part.getBoundingClientRect().right > wide + 1 && !inside(part));
    return out.map((part) => part.outerHTML.slice(0, 120));
}"""


def walk(page: Page) -> None:
    """Every tab is in reach, nothing is cut off in it, and the meters stay in sight."""
    for tabs, tab in PLACES:
        open_tab(page, tabs, tab)
        page.evaluate(SETTLED)
        assert scrolled_width(page) <= width_of(page), tab
        assert page.evaluate(CUT_OFF) == [], tab
    meters_stay(page)
    page.evaluate("window.scrollTo(0, 900)")
    meters = page.locator("#meters").bounding_box()
    assert meters is not None
    assert page.viewport_size
    assert 0 <= meters["y"] < 1  # in sight, and no more than a fifth of it
    assert meters["height"] < page.viewport_size["height"] / 5


def test_at_200_percent_every_tab_is_in_reach_and_nothing_is_cut_off(
    address: str, open_page: Open, short: Path
) -> None:
    """Which leaves a window of 1440 x 900 half of both."""
    walk(with_an_answer(ready(open_page(address, width=720, height=450)), short))


def test_a_phone_breaks_no_rule_and_nothing_is_cut_off(address: str, open_page: Open, short: Path) -> None:
    page = with_an_answer(ready(open_page(address, width=390, height=844, theme="system")), short)
    page.evaluate(AXE.read_text(encoding="utf-8"))
    page.locator("#chat a.page-link").first.click()
    assert violations(page) == []
    assert is_dark(page)
    page.get_by_role("button", name="Close the document").click()
    walk(page)


def test_who_wants_no_motion_sees_none(address: str, open_page: Open) -> None:
    page = open_page(address)
    page.emulate_media(reduced_motion="reduce")
    ready(page)
    moving = page.evaluate(
        """() => [...document.querySelectorAll("*")]
            .map((part) => [part.className, getComputedStyle(part)])
            .filter(([, { transitionDuration: fades, animationDuration: moves }]) =>
                [fades, moves].some((times) => times.split(",").some((time) => parseFloat(time) > 0.001)))
            .map(([name]) => String(name))"""
    )
    assert moving == []
