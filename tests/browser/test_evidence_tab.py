"""The Evidence, Attention and Compare tabs in a real browser, over real answers of the bundled model."""

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from branches import served
from chat_parts import answered, ask, ready, suggest, upload
from playwright.sync_api import Page, expect

from app.sample import SAMPLE_QUESTIONS

pytestmark = pytest.mark.browser

Open = Callable[..., Page]
CARDS = ".passage-card:visible"
MAP = "#attention-map .plot-area"
DRAWN = {
    "Evidence": "#evidence-pages .bars path",
    "Attention": f"{MAP} .hm image",
    "Compare": "#compare-attention-2 .hm image",
}
LABEL = re.compile(
    r"(\d)\s+(page|part) \d+\s+(\d+)%\s+“.+”\s+(seen at its exact place|place known to ±\d+ tokens)\s+"
    r"What if it weren't there\?"
)


@pytest.fixture(scope="module")
def evidence_address() -> Iterator[str]:
    with served(lambda port: [sys.executable, "tests/browser/evidence_page.py", str(port)]) as address:
        yield address


def with_answer(page: Page, name: str, rank: int = 1) -> Page:
    page.get_by_label("Passage to open").fill(str(rank))
    page.get_by_role("button", name=name, exact=True).click()
    page.wait_for_selector(CARDS)
    return page


def chosen(page: Page) -> str:
    return page.locator(".passage-card.chosen").inner_text()


def heatmap(page: Page) -> list[list[float | None]]:
    """The heatmap's colours, None for the gaps between pages."""
    page.wait_for_selector(f"{MAP} .hm image")
    rows: list[list[float | None]] = page.evaluate(
        f"Array.from(document.querySelector('{MAP}')._fullData[0].z, (row) => "
        "Array.from(row, (value) => (Number.isNaN(value) ? null : value)))"
    )
    return rows


def test_the_answer_is_traced_to_its_page(open_page: Open, evidence_address: str) -> None:
    page = with_answer(open_page(evidence_address), "PDF")
    summary = page.locator("#evidence-summary").inner_text()
    records = json.loads(SAMPLE_QUESTIONS.read_text(encoding="utf-8"))
    (asked,) = (record for record in records if record["question"] in summary)
    assert asked["value"] in summary
    labels = page.locator(CARDS).all_inner_texts()
    assert 1 <= len(labels) <= 5
    found = [LABEL.fullmatch(label.strip()) for label in labels]
    assert all(found), labels
    assert [int(match[1]) for match in found if match] == list(range(1, len(labels) + 1))
    shares = [int(match[3]) for match in found if match]
    assert shares == sorted(shares, reverse=True)
    assert all(share >= 2 for share in shares[1:]), "faint ones are left out"
    assert asked["value"] in labels[0]
    assert "page 2" in labels[0]  # the pages from one before the answer's on
    assert labels[0] == chosen(page)
    expect(page.locator(".passage-level p").first).to_have_attribute(
        "title", re.compile(r"^(neighbor|grouped) attention, relative position [\d,]+$")
    )
    page.wait_for_selector("#evidence-pages .bars path")


def test_a_bar_chooses_its_pages_first_passage(open_page: Open, evidence_address: str) -> None:
    page = with_answer(open_page(evidence_address), "PDF", rank=2)
    cards = page.locator(CARDS)
    assert chosen(page) == cards.nth(1).inner_text()

    last = cards.last
    last.locator("blockquote").click()
    expect(last).to_have_class(re.compile("chosen"))
    number = re.search(r"page (\d+)", last.inner_text())[1]  # type: ignore[index]

    page.wait_for_selector("#evidence-pages .bars path")
    pages = page.evaluate("document.querySelector('#evidence-pages .plot-area').data[0].x")
    other = 1 if pages[0] == number else 0  # the two tallest bars: one of them is of another page than the one shown
    page.locator("#evidence-pages .bars .point path").nth(other).click(force=True)
    expect(page.locator(".passage-card.chosen a")).to_have_text(f"page {pages[other]}")
    if page.locator(".passage-faint button").count():
        before = cards.count()
        page.locator(".passage-faint button").click()
        assert cards.count() > before

    page.get_by_role("button", name="Nothing").click()
    expect(page.locator("#evidence-summary")).to_contain_text("Ask a question")
    expect(page.locator("#evidence-found")).to_be_hidden()


def test_a_figure_is_zoomed_and_shown_whole_again_by_keys_and_mouse(open_page: Open, evidence_address: str) -> None:
    page = with_answer(open_page(evidence_address), "PDF")
    page.wait_for_selector("#evidence-pages .bars path")
    area = "document.querySelector('#evidence-pages .plot-area')"
    axes = f"['xaxis', 'yaxis'].map((axis) => {area}._fullLayout[axis].range.map(Number))"
    whole = page.evaluate(axes)

    def seen(words: str) -> None:
        page.wait_for_function(f"([whole]) => {{ const [x, y] = {axes}; return {words}; }}", arg=[whole])

    page.locator("#evidence-pages .plot-area").focus()
    page.keyboard.press("+")
    seen("x[1] - x[0] < 0.6 * (whole[0][1] - whole[0][0]) && y[1] - y[0] < 0.6 * (whole[1][1] - whole[1][0])")
    _, (low, _) = page.evaluate(axes)
    page.keyboard.press("ArrowUp")
    seen(f"y[0] > {low}")
    page.keyboard.press("0")
    seen("String([x, y]) === String(whole)")
    page.keyboard.press("+")
    seen("x[0] !== whole[0][0]")
    page.locator("#evidence-pages .nsewdrag").dblclick()
    seen("String([x, y]) === String(whole)")


def with_ear(page: Page) -> Page:
    """Keeps what the page is told to strike out, in `window.struck`."""
    page.evaluate(
        "window.struck = []; document.addEventListener('selfextend-struck', (event) => struck.push(event.detail))"
    )
    return page


def hold(page: Page, passage: int) -> None:
    """Holds the test of this passage when it comes to it, and of every later one; 0 lets go."""
    page.get_by_label("Hold at passage").fill(str(passage))
    expect(page.locator("#held")).to_have_text(f"holds at {passage}")


def test_what_if_a_passage_were_not_there(open_page: Open, evidence_address: str) -> None:
    page = with_ear(with_answer(open_page(evidence_address), "PDF"))
    expect(page.locator("#evidence-found")).to_contain_text("Attention is not proof.")
    card = page.locator(CARDS).first
    start, stop = card.locator("[data-do=test]"), card.locator("[data-do=stop]")
    hold(page, 1)
    start.click()
    expect(card.locator("blockquote del")).to_be_visible()
    expect(page.locator("[data-do=test]:enabled")).to_have_count(0)
    expect(card.locator("progress")).to_be_visible()
    stop.click()
    expect(card.locator(".passage-progress")).to_have_text("The test was stopped.")
    expect(start).to_be_focused()  # where the finger was
    expect(card.locator("blockquote del")).to_have_count(0)
    assert [told["struck"] for told in page.evaluate("struck")] == [True, False]

    hold(page, 0)
    start.press("Enter")
    expect(card.locator(".verdict")).to_contain_text(re.compile(r"It matters: without this passage .+ as likely"))
    old, new = card.locator(".answers p").all_inner_texts()
    (asked,) = (
        record
        for record in json.loads(SAMPLE_QUESTIONS.read_text(encoding="utf-8"))
        if record["question"] in page.locator("#evidence-summary").inner_text()
    )
    assert asked["value"] in old
    assert asked["value"] not in new
    gone = " ".join(card.locator(".answers del").all_inner_texts())
    assert any(word in gone for word in asked["value"].split())
    expect(card.locator(".answers ins")).not_to_have_count(0)
    card.get_by_text("The numbers").click()
    before, after, change = map(float, re.findall(r"[-+]\d+\.\d\d", card.locator("dl").inner_text())[:3])
    assert change == pytest.approx(after - before, abs=0.011)
    assert change < -1, "the sentence that holds the answer matters for it"
    expect(start).to_have_count(0)
    struck = page.evaluate("struck.at(-1)")
    assert (struck["rank"], struck["struck"]) == (1, True)

    # Another card is another passage: the page stands whole again. Nothing is computed twice.
    page.locator(f"{CARDS} blockquote").nth(1).click()
    page.wait_for_function("() => !struck.at(-1).struck")
    page.get_by_role("button", name="Nothing").click()
    expect(page.locator("#evidence-found")).to_be_hidden()
    with_answer(page, "PDF")
    expect(card.locator(".verdict")).to_contain_text("It matters")
    assert page.evaluate("struck.at(-1)") == struck


def test_all_passages_are_ranked_by_effect_beside_attention(open_page: Open, evidence_address: str) -> None:
    page = with_answer(open_page(evidence_address), "Markdown")
    cards, progress = page.locator(CARDS), page.locator(".passages > .passage-progress")
    actions = page.locator(".passages > .passage-actions")
    listed = cards.count()
    assert listed > 2
    hold(page, 1)
    actions.get_by_role("button", name="Test all of these").click()
    expect(progress).to_contain_text(f"1 of {listed}: ")
    expect(cards.first).to_contain_text("Being tested …")
    hold(page, 2)
    expect(progress).to_contain_text(f"2 of {listed}: ")
    actions.get_by_role("button", name="Stop").click()
    expect(progress).to_contain_text(re.compile(rf"stopped after 1 of {listed}; what is done stays"))
    expect(page.locator(".verdict")).to_have_count(1)

    hold(page, 0)
    actions.get_by_role("button", name=f"Test the other {listed - 1}").click()
    expect(page.locator(".verdict")).to_have_count(listed)
    expect(actions.get_by_role("button")).to_have_count(0)
    expect(progress).to_be_hidden()
    words = page.locator(".rankings figcaption").inner_text()
    assert words.startswith(("They agree:", "They disagree:", "Attention is not proof here:"))
    sides = [
        page.locator(".rankings section").nth(side).locator(".passage-rank").all_inner_texts() for side in range(2)
    ]
    assert sides[0] == [str(rank) for rank in range(1, listed + 1)]
    assert sorted(sides[1]) == sides[0]
    expect(page.locator(".rankings path")).to_have_count(listed)
    if words.startswith("They agree"):
        assert sides[1][0] == sides[0][0]


def test_the_tested_passage_is_struck_out_on_its_page(address: str, open_page: Open, short: Path) -> None:
    page = ready(open_page(address, width=1500))
    upload(page, short)
    suggest(page)
    ask(page)
    answered(page)
    page.get_by_role("tab", name="Evidence").click()
    card = page.locator(CARDS).first
    card.locator("[data-do=test]").click()
    expect(card.locator(".verdict")).to_be_visible()
    card.locator(".passage-head a").click()
    expect(page.get_by_role("tab", name="Document")).to_have_attribute("aria-selected", "true")
    expect(page.locator(".reader-sheet .cited.struck").first).to_be_in_viewport()


def cells(page: Page, selector: str = MAP) -> dict[str, Any]:
    """Which tokens the heatmap's rows and strips stand for."""
    page.wait_for_selector(f"{selector} .hm image")
    found: dict[str, Any] = page.evaluate(f"document.querySelector('{selector}').layout.meta.cells")
    return found


def spot(page: Page, row: int, strip: int, selector: str = MAP) -> tuple[float, float]:
    """The middle of a cell on the screen."""
    page.locator(selector).scroll_into_view_if_needed()
    x, y = page.evaluate(
        f"""([row, strip]) => {{
            const area = document.querySelector('{selector}'), layout = area._fullLayout, x = area._fullData[0].x;
            const box = area.getBoundingClientRect();
            return [box.x + layout._size.l + layout.xaxis.d2p((x[strip] + x[strip + 1]) / 2),
                    box.y + layout._size.t + layout.yaxis.d2p(row)];
        }}""",
        [row, strip],
    )
    return x, y


def marks(page: Page, selector: str = MAP) -> int:
    count: int = page.evaluate(f"(document.querySelector('{selector}').layout.shapes || []).length")
    return count


def open_attention(page: Page, name: str) -> Page:
    page.get_by_role("tab", name="Attention").click()
    page.get_by_role("button", name=name, exact=True).click()
    page.wait_for_selector(f"{MAP} .hm image")
    return page


def choose(page: Page, label: str, option: str) -> None:
    page.get_by_label(label, exact=True).click()
    page.get_by_role("option", name=option, exact=True).click()


def test_the_attention_map_and_its_controls(open_page: Open, evidence_address: str) -> None:
    page = open_attention(open_page(evidence_address), "PDF")
    page.wait_for_function(f"document.querySelector('{MAP}').layout.xaxis.ticktext.length === 5")
    how = page.locator("#attention-how")
    expect(how).to_contain_text("root mean square of all 8 heads of each of the 4 recorded layers")
    for row in heatmap(page):
        assert all(value is None or 0 <= value <= 1 for value in row)
    expect(page.get_by_label("Only the pages that matter").first).to_be_disabled()  # there are only five

    choose(page, "A cell shows", "mean share")
    expect(how).to_contain_text("the mean of all 8 heads of each of the 4 recorded layers")
    page.get_by_label("What is on no page too").check()
    page.wait_for_function(f"document.querySelector('{MAP}').layout.meta.cells.starts[0] === 0")
    for row in heatmap(page):
        assert sum(value or 0 for value in row) == pytest.approx(1, abs=1e-3)

    page.evaluate(
        "() => document.addEventListener('selfextend-looking', (event) => { window.looking = event.detail; })"
    )
    choose(page, "Layer", "1")
    page.wait_for_function("window.looking?.layer === '1' && window.looking.head === 'all'")
    expect(how).to_contain_text("the mean of all 8 heads of layer 1")
    choose(page, "Head", "3")
    expect(how).to_contain_text("the mean of head 3 of layer 1")
    for row in heatmap(page):
        assert sum(value or 0 for value in row) == pytest.approx(1, abs=1e-3)

    choose(page, "Colours", "row by row")
    page.wait_for_function(f"document.querySelector('{MAP}')._fullLayout.coloraxis.cmax === 1")
    for row in heatmap(page):
        assert max(value or 0 for value in row) == pytest.approx(1)


def test_a_cell_is_told_chosen_and_zoomed_to(open_page: Open, evidence_address: str) -> None:
    page = open_attention(open_page(evidence_address), "PDF")
    told = cells(page)
    readout = page.locator("#attention-readout")
    row, strip = 2, len(told["starts"]) // 2
    page.mouse.move(*spot(page, row, strip))
    tip = page.locator("#attention-map .plot-tip")
    expect(tip).to_contain_text("share of attention")
    expect(tip).to_contain_text(re.compile(r"part\.pdf, page \d: “.+”"))
    page.mouse.click(*spot(page, row, strip))
    expect(readout).to_contain_text(f"(tokens {told['starts'][strip]:,} to {told['stops'][strip] - 1:,})")
    expect(readout).to_contain_text(f"{told['rows'][row]} (token {row} of the answer) looked at part.pdf, page")
    expect(readout).to_contain_text(re.compile("at its exact place|place known to ±[0-9]+ tokens"))
    assert marks(page) == 2

    page.locator(MAP).focus()
    page.keyboard.press("Shift+ArrowDown")
    expect(readout).to_contain_text(f"(token {row + 1} of the answer)")
    page.keyboard.press("+")
    page.wait_for_function(
        f"(whole) => document.querySelector('{MAP}').layout.meta.cells.starts.length < 0.8 * whole",
        arg=len(told["starts"]),
    )
    page.keyboard.press("0")
    page.wait_for_function(
        f"(whole) => document.querySelector('{MAP}').layout.meta.cells.starts.length === whole",
        arg=len(told["starts"]),
    )


def test_a_long_document_shows_the_pages_that_matter_and_follows_the_selection(
    open_page: Open, evidence_address: str
) -> None:
    page = open_attention(open_page(evidence_address), "Long")
    page.wait_for_function(f"document.querySelector('{MAP}').layout.xaxis.ticktext.some((text) => text.includes('–'))")
    told = cells(page)
    assert "<b>2</b>" in " ".join(page.evaluate(f"document.querySelector('{MAP}').layout.xaxis.ticktext"))
    expect(page.locator("#attention-how")).to_contain_text("A narrow column stands for several pages")
    page.evaluate(
        "() => { window.heard = []; "
        "document.addEventListener('selfextend-select', (event) => window.heard.push(event.detail)); }"
    )
    strip = next(n for n, start in enumerate(told["starts"]) if start >= 0)
    page.mouse.click(*spot(page, 1, strip))
    page.wait_for_function("window.heard.length === 1")
    heard = page.evaluate("window.heard[0]")
    assert (heard["query"], heard["from"]) == (told["first_query"] + 1, "attention")
    assert told["starts"][strip] <= heard["key"] < told["stops"][strip]

    # What another panel selects is marked, and told in words: a cell, or a row alone, where it looked hardest.
    readout = page.locator("#attention-readout")
    for query, key, row, lines in ((3, told["starts"][-1], 3, 2), (4, None, 4, 1)):
        page.evaluate(
            "([query, key]) => window.selfextendSelection.select(query, key, 'chat')",
            [told["first_query"] + query, key],
        )
        expect(readout).to_contain_text(f"(token {row} of the answer) looked at long.pdf")
        page.wait_for_function(f"document.querySelector('{MAP}').layout.shapes.length === {lines}")

    # So is what is selected while another tab is open, as soon as this one is.
    page.get_by_role("tab", name="Evidence").click()
    page.evaluate("(query) => window.selfextendSelection.select(query, null, 'chat')", told["first_query"] + 2)
    page.get_by_role("tab", name="Attention").click()
    expect(readout).to_contain_text("(token 2 of the answer) looked at long.pdf")

    page.get_by_label("Only the pages that matter").first.uncheck()
    page.wait_for_function(f"document.querySelector('{MAP}').layout.meta.cells.starts.length > {len(told['starts'])}")


def test_pictures_are_saved_with_what_they_were_made_with(
    open_page: Open, evidence_address: str, tmp_path: Path
) -> None:
    page = open_attention(open_page(evidence_address), "PDF")
    page.mouse.move(*spot(page, 1, 1))
    for kind in ("PNG", "SVG"):
        with page.expect_download() as download:
            page.locator(f"{MAP} .modebar-btn[data-title='Save as {kind}']").click()
        download.value.save_as(tmp_path / f"map.{kind}")
    assert (tmp_path / "map.PNG").read_bytes().startswith(b"\x89PNG")
    words = (tmp_path / "map.SVG").read_text(encoding="utf-8")
    for said in ("Where each word of the answer looked", "model, SelfExtend (G = ", "part.pdf"):
        assert said in words


def test_compared_answers_stand_one_above_the_other(open_page: Open, evidence_address: str) -> None:
    page = open_page(evidence_address)
    page.get_by_role("tab", name="Compare").click()
    page.get_by_role("button", name="Compared", exact=True).click()
    first, second = (f"#compare-attention-{number} .plot-area" for number in (1, 2))
    upper, lower = cells(page, first), cells(page, second)
    expect(page.locator("#compare-attention-1 .plot-title")).to_contain_text("Vanilla: “")
    expect(page.locator("#compare-attention-2 .plot-title")).to_contain_text("SelfExtend with log-n: “")
    assert upper["starts"] == lower["starts"]
    tops = [page.evaluate(f"document.querySelector('{pane}')._fullLayout.coloraxis.cmax") for pane in (first, second)]
    assert tops[0] == tops[1]
    boxes = [page.locator(pane).bounding_box() for pane in (first, second)]
    assert boxes[0] is not None
    assert boxes[1] is not None
    assert boxes[0]["y"] + boxes[0]["height"] <= boxes[1]["y"]
    expect(page.locator("#compare-attention-3")).to_be_hidden()

    page.mouse.click(*spot(page, 1, 3, first))
    expect(page.locator("#compare-readout")).to_contain_text("Vanilla")
    page.wait_for_function(f"document.querySelector('{second}').layout.shapes.length === 1")  # the same column
    assert marks(page, first) == 2


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_scrolls_sideways_on_a_phone(open_page: Open, evidence_address: str, theme: str) -> None:
    page = with_answer(open_page(evidence_address, width=390, theme=theme), "PDF")
    page.get_by_role("button", name="Compared", exact=True).click()
    for tab in ("Evidence", "Attention", "Compare"):
        page.get_by_role("tab", name=tab).click()
        page.wait_for_selector(DRAWN[tab])
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
    layout = page.evaluate(f"document.querySelector('{MAP}')._fullLayout._size")
    assert layout["w"] > 150, "the labels leave the map its room"
