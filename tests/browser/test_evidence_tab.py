"""The Evidence and Attention tabs in a real browser, over real answers of the bundled model."""

import json
import re
import sys
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Page, expect

from app.sample import SAMPLE_QUESTIONS
from benchmarks.serving import served

pytestmark = pytest.mark.browser

Open = Callable[..., Page]
PASSAGES = "#evidence-passages label"
MAP = "#attention-map .plot-area"
LABEL = re.compile(
    r"(page|part) \d+ · \d+% of the attention\s+"
    r"(neighbor: exact position|grouped: ±\d+ tokens) · relative position \d+\s+“.+”"
)


@pytest.fixture(scope="module")
def evidence_address() -> Iterator[str]:
    with served(lambda port: [sys.executable, "tests/browser/evidence_page.py", str(port)]) as address:
        yield address


def with_answer(page: Page, name: str, rank: int = 1) -> Page:
    page.get_by_label("Passage to open").fill(str(rank))
    page.get_by_role("button", name=name, exact=True).click()
    page.wait_for_selector(PASSAGES)
    return page


def chosen(page: Page) -> str:
    return page.locator(f"{PASSAGES}:has(input:checked)").inner_text()


def heatmap(page: Page) -> list[list[float]]:
    page.wait_for_selector(f"{MAP} .hm image")
    rows: list[list[float]] = page.evaluate(
        f"Array.from(document.querySelector('{MAP}')._fullData[0].z, (row) => Array.from(row))"
    )
    return rows


def test_the_answer_is_traced_to_its_page(open_page: Open, evidence_address: str) -> None:
    page = with_answer(open_page(evidence_address), "PDF")
    summary = page.locator("#evidence-summary").inner_text()
    records = json.loads(SAMPLE_QUESTIONS.read_text(encoding="utf-8"))
    (asked,) = (record for record in records if record["question"] in summary)
    assert asked["value"] in summary
    labels = page.locator(PASSAGES).all_inner_texts()
    assert 1 <= len(labels) <= 5
    for label in labels:
        assert LABEL.fullmatch(label.strip()), label
    shares = [int(re.search(r"(\d+)% of", label)[1]) for label in labels]  # type: ignore[index]
    assert shares == sorted(shares, reverse=True)
    assert asked["value"] in labels[0]
    assert labels[0].startswith("page 2 ")  # the pages from one before the answer's on
    assert labels[0] == chosen(page)
    page.wait_for_selector("#evidence-pages .bars path")


def test_a_bar_chooses_its_pages_first_passage(open_page: Open, evidence_address: str) -> None:
    page = with_answer(open_page(evidence_address), "PDF", rank=2)
    passages = page.locator(PASSAGES)
    assert chosen(page) == passages.nth(1).inner_text()

    last = passages.last
    last.locator("input").focus()
    page.keyboard.press("Space")
    number = re.match(r"page (\d+)", last.inner_text())[1]  # type: ignore[index]
    expect(last.locator("input")).to_be_checked()

    page.wait_for_selector("#evidence-pages .bars path")
    pages = page.evaluate("document.querySelector('#evidence-pages .plot-area').data[0].x")
    other = 1 if pages[0] == number else 0  # the two tallest bars: one of them is of another page than the one shown
    page.locator("#evidence-pages .bars .point path").nth(other).click(force=True)
    expect(page.locator(f"{PASSAGES}:has(input:checked)")).to_contain_text(f"page {pages[other]} ")

    page.get_by_role("button", name="Nothing").click()
    expect(page.locator("#evidence-summary")).to_contain_text("Ask a question")
    expect(page.locator("#evidence-found")).to_be_hidden()


def test_testing_a_passage_changes_the_answer_and_can_be_stopped(open_page: Open, evidence_address: str) -> None:
    page = with_answer(open_page(evidence_address), "PDF")
    expect(page.locator("#evidence-found")).to_contain_text("Attention is not proof.")
    start, stop = page.locator("#evidence-test-start"), page.locator("#evidence-test-stop")
    result = page.locator("#evidence-result")
    hold = page.get_by_label("Hold the test")
    hold.check()
    expect(page.locator("#held")).to_have_text("held")
    start.click()
    stop.click()
    expect(result).to_have_text("The test was stopped.")
    expect(start).to_be_enabled()

    hold.uncheck()
    expect(page.locator("#held")).to_have_text("let go")
    start.click()
    expect(result).to_contain_text("Log-probability of the answer")
    words = result.inner_text()
    before, after, change = map(float, re.findall(r"[-+]\d+\.\d\d", words)[:3])
    assert change == pytest.approx(after - before, abs=0.011)
    assert change < -1, "the sentence that holds the answer matters for it"
    expect(start).to_be_enabled()
    expect(stop).to_be_disabled()


def test_the_attention_map_and_its_controls(open_page: Open, evidence_address: str) -> None:
    page = with_answer(open_page(evidence_address), "PDF")
    page.get_by_role("tab", name="Attention").click()
    largest = heatmap(page)
    assert len(largest) > 3
    assert all(0 <= value <= 1 for row in largest for value in row)

    page.get_by_label("sum", exact=True).check()
    title = page.locator("#attention-map .plot-title")
    expect(title).to_contain_text("sum per bin, mean of all layers, all heads")
    page.get_by_label("Show the attention sink").check()
    page.wait_for_function(f"document.querySelector('{MAP}')._fullLayout.xaxis.range[0] === 0")
    for row in heatmap(page):
        assert sum(row) == pytest.approx(1, abs=1e-3)

    page.get_by_label("Layer").click()
    page.get_by_role("option", name="1", exact=True).click()
    expect(title).to_contain_text("mean of layer 1, all heads")
    page.get_by_label("Head").click()
    page.get_by_role("option", name="3", exact=True).click()
    expect(title).to_contain_text("mean of layer 1, head 3")
    for row in heatmap(page):
        assert sum(row) == pytest.approx(1, abs=1e-3)


def test_a_cell_says_what_it_stands_for_and_zoom_goes_to_single_passages(
    open_page: Open, evidence_address: str
) -> None:
    page = with_answer(open_page(evidence_address), "PDF")
    page.get_by_role("tab", name="Attention").click()
    cells = heatmap(page)
    readout = page.locator("#attention-readout")
    row, column = 2, len(cells[0]) // 2
    spot = page.evaluate(
        f"""([row, column]) => {{
            const area = document.querySelector('{MAP}'), layout = area._fullLayout, x = area._fullData[0].x;
            const box = area.getBoundingClientRect();
            return [box.x + layout._size.l + layout.xaxis.d2p((x[column] + x[column + 1]) / 2),
                    box.y + layout._size.t + layout.yaxis.d2p(row), x[column], x[column + 1]];
        }}""",
        [row, column],
    )
    page.mouse.click(spot[0], spot[1])
    expect(readout).to_contain_text(f"(tokens {spot[2]:,.0f} … {spot[3] - 1:,.0f})")
    expect(readout).to_contain_text(f"Answer token {row} ")
    expect(readout).to_contain_text(re.compile(r"part\.pdf, page \d|no document"))
    expect(readout).to_contain_text(f"{cells[row][column]:.3%}"[:4])
    expect(readout).to_contain_text(re.compile(r"(neighbor|grouped): \d+"))

    page.locator(MAP).focus()
    whole = page.evaluate(f"document.querySelector('{MAP}')._fullLayout.xaxis.range")
    page.keyboard.press("+")
    page.wait_for_function(
        f"(whole) => {{ const r = document.querySelector('{MAP}')._fullLayout.xaxis.range;"
        " return r[1] - r[0] < 0.8 * (whole[1] - whole[0]); }",
        arg=whole,
    )
    page.keyboard.press("0")
    page.wait_for_function(
        f"(whole) => document.querySelector('{MAP}')._fullLayout.xaxis.range.join() === whole.join()", arg=whole
    )


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_scrolls_sideways_on_a_phone(open_page: Open, evidence_address: str, theme: str) -> None:
    page = with_answer(open_page(evidence_address, width=390, theme=theme), "PDF")
    for tab in ("Evidence", "Attention"):
        page.get_by_role("tab", name=tab).click()
        page.wait_for_selector(f"{MAP} .hm image" if tab == "Attention" else "#evidence-pages .bars path")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
    layout = page.evaluate(f"document.querySelector('{MAP}')._fullLayout._size")
    assert layout["w"] > 150, "the labels leave the map its room"
