"""The Lab tab in a real browser: a run live, stopped, gone on with, saved, opened again, two side by side."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from branches import served
from chat_parts import choose_run
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


def run(page: Page) -> None:
    page.locator("#lab-run").click()


def over(page: Page) -> None:
    expect(page.locator("#lab-status")).to_contain_text("Done in")
    idle(page)


def idle(page: Page) -> None:
    """Nothing runs; which is so, too, where a run has not begun yet."""
    expect(page.locator("#lab-stop")).to_be_hidden()
    expect(page.locator("#lab-run")).to_be_visible()


def title(page: Page, side: str):
    return page.locator(f"#lab-plot-{side} .plot-title")


def saved(page: Page, name: str) -> Path:
    with page.expect_download() as download:
        page.get_by_role("button", name=name, exact=True).click()
    return download.value.path()


def records(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_is_drawn_saved_opened_again_and_laid_beside_another(open_page: Open, address: str) -> None:
    page = lab_of(open_page, address)
    expect(page.locator("#lab-results")).to_be_hidden()
    choose_run(page, "2x, 3x", "0, 1")
    run(page)
    over(page)
    expect(title(page, "left")).to_contain_text("Vanilla")
    expect(title(page, "right")).to_contain_text("SelfExtend with log-n (G")
    for side in ("left", "right"):
        expect(title(page, side)).to_contain_text("seed 0")
        expect(title(page, side)).to_contain_text("n = 1")
        expect(page.locator(f"#lab-plot-{side} .heatmaplayer image")).to_be_visible()
        expect(page.locator(f"#lab-table-{side}")).to_contain_text("95% interval")
    path = saved(page, "Save the run (JSON lines)")
    head, *rows = records(path)
    assert head["seed"] == 0
    assert len(rows) == 2 * 2 * 2
    assert len(saved(page, "Rows (CSV)").read_text().splitlines()) == 1 + len(rows)
    assert "plotly-graph-div" in saved(page, "Figures and tables (HTML)").read_text()
    with page.expect_download() as picture:
        page.locator("#lab-plot-left .plot-area").hover()
        page.locator("#lab-plot-left [data-title*='png' i]").click()
    assert picture.value.path().read_bytes().startswith(b"\x89PNG")

    # Another run, with another seed, and the first one opened from its file in a fresh page beside it.
    fresh = lab_of(open_page, address)
    fresh.get_by_label("Seed").last.fill("3")
    choose_run(fresh, "2x", "1")
    run(fresh)
    over(fresh)
    expect(title(fresh, "left")).to_contain_text("seed 3")
    kept = path.with_name("passkey.jsonl")
    kept.write_bytes(path.read_bytes())
    fresh.set_input_files("#lab-open input[type=file]", str(kept))
    expect(title(fresh, "left")).to_contain_text("seed 0")
    fresh.locator("#lab-run-right input").click()
    fresh.get_by_role("option", name=re.compile("seed 3")).click()
    expect(title(fresh, "right")).to_contain_text("seed 3")
    expect(title(fresh, "left")).to_contain_text("seed 0")


def test_a_run_that_is_stopped_goes_on_where_it_was(open_page: Open, address: str) -> None:
    page = lab_of(open_page, address)
    choose_run(page, "2x, 64x", "21", 2)
    run(page)
    expect(page.locator("#lab-status")).to_contain_text("16,384 tokens")  # the short ones are done
    page.locator("#lab-stop").click()
    expect(page.locator("#lab-status")).to_contain_text("Stopped")
    _, *before = records(saved(page, "Save the run (JSON lines)"))
    assert 0 < len(before) < 2 * 2 * 21 * 2
    run(page)
    expect(page.locator("#lab-stop")).to_be_visible()
    expect(page.locator("#lab-status")).to_contain_text("16,384 tokens")
    page.locator("#lab-stop").click()
    expect(page.locator("#lab-status")).to_contain_text("Stopped")
    _, *after = records(saved(page, "Save the run (JSON lines)"))
    assert after[: len(before)] == before  # down to their seconds: nothing was computed again


def test_a_sweep_ends_with_what_to_take(open_page: Open, address: str) -> None:
    page = lab_of(open_page, address)
    page.get_by_label("Sweep of G and w").check()
    page.get_by_label("Group sizes G").fill("8, 12")
    page.get_by_label("Neighbor windows w").fill("32, 64")
    choose_run(page, "3x", "1")
    run(page)
    over(page)
    expect(page.locator("#lab-table-left")).to_contain_text("Take SelfExtend")
    expect(title(page, "left")).to_contain_text("accuracy at 768 tokens")
    expect(page.locator("#lab-plot-left .heatmaplayer image")).to_be_visible()


def test_what_is_wrong_is_said(open_page: Open, address: str, tmp_path: Path) -> None:
    page = lab_of(open_page, address)
    for lengths, depths, words in (("2x", "0,2", "0 … 1"), ("long", "1", "no length"), ("100", "1", "by itself")):
        choose_run(page, lengths, depths)
        run(page)
        expect(page.locator("#lab-status")).to_contain_text(words)
        idle(page)
    foreign = tmp_path / "foreign.jsonl"
    foreign.write_text('{"a": 1}\n')
    page.set_input_files("#lab-open input[type=file]", str(foreign))
    expect(page.locator("#lab-status")).to_contain_text("no record")
