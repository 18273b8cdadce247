"""The Lab tab in a real browser: what cannot be run or opened is said, and it can be tried again."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import served
from playwright.sync_api import Page, expect
from tiny_models import save_folder, tiny_model

pytestmark = pytest.mark.browser

Open = Callable[..., Page]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The whole app on a tiny random model with a trained window of 256 tokens."""
    folder = tmp_path_factory.mktemp("lab")
    model = save_folder(folder / "model", tiny_model())

    def command(port: int) -> list[str]:
        options = ["--no-browser", "--port", str(port), "--model", str(model), "--data-folder", str(folder / "data")]
        return [sys.executable, "app.py", *options]

    with served(command) as url:
        yield url


def lab_of(open_page: Open, address: str) -> Page:
    page = open_page(address)
    expect(page.locator("#model-summary .activity")).to_contain_text("SelfExtend active in")
    page.get_by_role("tab", name="Lab", exact=True).click()
    return page


def choose(page: Page, lengths: str, depths: str, trials: int = 1) -> None:
    page.locator("#lab-lengths").get_by_role("textbox").fill(lengths)
    page.get_by_label("Depths").fill(depths)
    page.get_by_label("Trials").fill(str(trials))
    page.get_by_label("Trials").press("Tab")


def run(page: Page) -> None:
    page.locator("#lab-run").click()


def over(page: Page) -> None:
    expect(page.locator("#lab-stop")).to_be_hidden()
    expect(page.locator("#lab-run")).to_be_visible()


def test_what_is_wrong_is_said(open_page: Open, address: str, tmp_path: Path) -> None:
    page = lab_of(open_page, address)
    for lengths, depths, words in (("2x", "0,2", "0 … 1"), ("long", "1", "no length"), ("100", "1", "by itself")):
        choose(page, lengths, depths)
        run(page)
        expect(page.locator("#lab-status")).to_contain_text(words)
        over(page)
    foreign = tmp_path / "foreign.jsonl"
    foreign.write_text('{"a": 1}\n')
    page.set_input_files("#lab-open input[type=file]", str(foreign))
    expect(page.locator("#lab-status")).to_contain_text("no record")
