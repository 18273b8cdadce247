"""The pictures of the README: every tab of the app on the bundled model and the sample document, in Chromium.

    python -m benchmarks.screenshots           # writes assets/screenshots/*.png; takes minutes

Needs Debian's chromium, and playwright from requirements-dev.txt.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, Page, expect, sync_playwright

from benchmarks.serving import ROOT, launched_chromium, served

FOLDER = ROOT / "assets" / "screenshots"
QUESTIONS = json.loads((ROOT / "assets" / "sample_questions.json").read_text(encoding="utf-8"))
NUMBER = next(record for record in QUESTIONS if record["value"].isdigit())
"""A question whose answer is copied digit by digit."""
WAIT_MILLISECONDS = 600_000
SETTLED_MILLISECONDS = 2500
TABS_OF_AN_ANSWER = ("Document", "Evidence", "Position map", "Attention", "Parameters")
WIDE, PHONE = (1440, 900), (390, 844)


@contextmanager
def app() -> Iterator[str]:
    """The address of a fresh app, which ends with the block."""
    with tempfile.TemporaryDirectory() as data:
        options = ["app.py", "--no-browser", "--data-folder", data]
        with served(lambda port: [sys.executable, *options, "--port", str(port)]) as address:
            yield address


class Photographer:
    """One page of the app, and pictures of it."""

    def __init__(self, browser: Browser, address: str, width: int, height: int, theme: str, suffix: str = "") -> None:
        self.suffix = suffix
        self.page: Page = browser.new_page(viewport={"width": width, "height": height})
        self.page.set_default_timeout(WAIT_MILLISECONDS)
        self.page.goto(f"{address}/?__theme={theme}")
        expect(self.page.locator("#model-summary .activity")).to_contain_text("SelfExtend active in")
        expect(self.page.locator(".document-list")).to_contain_text("sample.pdf")
        expect(self.page.locator("#chat .contrast .right")).to_be_visible()  # the example is answered, so all is read

    def shoot(self, name: str) -> None:
        self.page.wait_for_timeout(SETTLED_MILLISECONDS)
        self.page.screenshot(path=FOLDER / f"{name}{self.suffix}.png")

    def open_right(self, tab: str) -> None:
        shown = self.page.locator("#right-tabs").get_by_role("tab", name=tab, exact=True)
        if not shown.is_visible():
            self.page.locator("#right-tabs .overflow-menu button").first.click()
            shown = self.page.locator("#right-tabs .overflow-dropdown").get_by_text(tab, exact=True)
        shown.click()

    def answered(self, number: int) -> None:
        expect(self.page.locator("#chat .measures")).to_have_count(number)
        expect(self.page.get_by_role("button", name="Send", exact=True)).to_be_visible()

    def tabs_of_an_answer(self) -> None:
        self.page.locator("#chat").get_by_text(NUMBER["question"]).click()
        self.answered(1)
        for tab in TABS_OF_AN_ANSWER:
            self.open_right(tab)
            if tab == "Document":
                self.point_at_a_digit()
            self.shoot(tab.lower().replace(" ", "-"))

    def point_at_a_digit(self) -> None:
        tokens = self.page.locator("#chat .answer-token")
        expect(tokens.first).to_be_visible()
        said = tokens.all_inner_texts()
        tokens.nth(max(n for n, text in enumerate(said) if text.strip().isdigit())).hover()

    def every_tab(self) -> None:
        page = self.page
        self.tabs_of_an_answer()
        page.get_by_role("radio", name="Compare").first.check()
        page.get_by_label("Question", exact=True).fill(QUESTIONS[0]["question"])
        page.get_by_role("button", name="Send", exact=True).click()
        self.answered(3)
        self.open_right("Compare")
        page.wait_for_selector("#loss-curves .scatterlayer path")
        self.shoot("compare")
        self.open_right("Runs")
        self.shoot("runs")
        page.get_by_role("tab", name="Learn", exact=True).click()
        page.get_by_role("button", name="Show me without a guess").click()
        self.shoot("learn")
        page.get_by_role("tab", name="Lab", exact=True).click()
        page.locator("#lab-run").click()
        expect(page.locator("#lab-status")).to_contain_text("Done in")
        self.shoot("lab")


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    expect.set_options(timeout=WAIT_MILLISECONDS)
    with sync_playwright() as playwright, app() as address:
        browser = launched_chromium(playwright)
        first = Photographer(browser, address, *WIDE, "light")
        first.shoot("start")
        first.every_tab()
        dark = Photographer(browser, address, *WIDE, "dark", "-dark")
        dark.tabs_of_an_answer()
        for theme, suffix in (("light", "-390"), ("dark", "-390-dark")):
            narrow = Photographer(browser, address, *PHONE, theme, suffix)
            narrow.shoot("start")
            narrow.page.locator("#chat").get_by_text(NUMBER["question"]).click()
            narrow.answered(1)
            narrow.shoot("read")
            narrow.page.locator("#chat a.page-link").first.click()
            narrow.shoot("document")
        browser.close()
    print("\n".join(str(path.relative_to(ROOT)) for path in sorted(FOLDER.glob("*.png"))))


if __name__ == "__main__":
    main()
