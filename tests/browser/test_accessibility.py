"""Every tab in light and dark under axe-core: contrast, names, headings, roles. No violation of any rule."""

from __future__ import annotations

from pathlib import Path

import pytest
from chat_parts import AXE, Open, answered, ask, ready, suggest, upload
from playwright.sync_api import Page

RIGHT = ("Document", "Evidence", "Position map", "Attention", "Parameters", "Compare", "Runs")
# The letters over a page's picture are unseen by design, and lie on the same letters in the picture.
RUN = """() => axe.run({ exclude: [[".reader-layer"]] }, { resultTypes: ["violations"] })"""


def violations(page: Page) -> list[str]:
    page.wait_for_timeout(1500)  # what fades in has no contrast yet
    found = page.evaluate(RUN)["violations"]
    return [f"{each['id']}: {node['html'][:160]}: {node['failureSummary']}" for each in found for node in each["nodes"]]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_tab_breaks_a_rule(address: str, open_page: Open, short: Path, theme: str) -> None:
    page = ready(open_page(address, width=1440, height=900, theme=theme))
    page.evaluate(AXE.read_text(encoding="utf-8"))
    upload(page, short)
    assert violations(page) == []
    suggest(page)
    ask(page)
    answered(page)
    for tab in RIGHT:
        page.locator("#right-tabs").get_by_role("tab", name=tab, exact=True).click()
        assert violations(page) == [], tab
    for tab in ("Lab", "Learn"):
        page.locator("#main-tabs").get_by_role("tab", name=tab, exact=True).first.click()
        assert violations(page) == [], tab


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_phone_breaks_no_rule(address: str, open_page: Open, short: Path, theme: str) -> None:
    page = ready(open_page(address, width=390, height=844, theme=theme))
    page.evaluate(AXE.read_text(encoding="utf-8"))
    upload(page, short)
    suggest(page)
    ask(page)
    answered(page)
    page.locator("#chat a.page-link").first.click()
    assert violations(page) == []
