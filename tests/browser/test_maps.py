"""The position map, the parameters and the lesson in a real browser."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chat_parts import fill_number, until
from playwright.sync_api import Page, Response, expect

pytestmark = pytest.mark.browser

Open = Callable[..., Page]
MAP = "#position-map .plot-area"


def drawn(page: Page) -> Page:
    page.wait_for_selector(f"{MAP} .hm image")
    return page


def view(page: Page) -> list[list[float]]:
    """The map's axis ranges: keys, then queries, each from low to high."""
    ranges = page.evaluate(
        f"() => {{ const l = document.querySelector('{MAP}')._fullLayout; return [l.xaxis.range, l.yaxis.range]; }}"
    )
    return [sorted(each) for each in ranges]


def heatmap(page: Page, selector: str = MAP) -> dict[str, Any]:
    """The heatmap's numbers as the browser has them."""
    found: dict[str, Any] = page.evaluate(
        """(selector) => {
            const trace = document.querySelector(selector).data.find((each) => each.type === "heatmap");
            const area = document.querySelector(selector)._fullData.find((each) => each.type === "heatmap");
            const rows = Array.from(area.z, (row) => Array.from(row, (n) => (Number.isNaN(n) ? null : n)));
            return { x0: trace.x0, dx: trace.dx, y0: trace.y0, dy: trace.dy, rows };
        }""",
        selector,
    )
    return found


def stride(page: Page) -> int:
    """Tokens from one column of the map to the next."""
    found: int = page.evaluate(f"() => document.querySelector('{MAP}').data.find((each) => each.type === 'heatmap').dx")
    return found


def point_at(page: Page, across: float, down: float) -> tuple[float, float]:
    box = page.locator("#position-map .nsewdrag").bounding_box()
    assert box is not None
    return box["x"] + across * box["width"], box["y"] + down * box["height"]


def set_slider(page: Page, elem_id: str, value: int) -> None:
    box = page.locator(f"#{elem_id} input[type=number]")
    box.fill(str(value))
    box.press("Enter")


def test_hover_and_click_say_the_sum_and_the_words(open_page: Open, tabs_address: str) -> None:
    page = drawn(open_page(tabs_address))
    readout = page.locator("#map-readout")
    page.mouse.move(*point_at(page, 0.2, 0.6))
    expect(readout).to_contain_text(re.compile(r"Query i = (59|60),\d\d\d, key j = (19|20),\d\d\d"))
    expect(readout).to_contain_text(re.compile(r"grouped: \d+//32 - \d+//32 \+ 1024 - 1024//32 = "))
    words = readout.inner_text()
    query, key = (re.search(rf"{name} = ([\d,]+)", words)[1].replace(",", "") for name in ("i", "j"))  # type: ignore[index]
    assert f"word{query}" in words
    assert f"word{key}" in words

    page.mouse.click(*point_at(page, 0.1, 0.9))
    expect(page.locator("#position-curve .plot-title")).to_contain_text(re.compile(r"query (89|90),\d\d\d sees"))


def test_zoom_refetches_exact_cells_at_any_depth(open_page: Open, tabs_address: str) -> None:
    page = drawn(open_page(tabs_address))
    assert stride(page) == 196
    start, end = point_at(page, 0.2, 0.6), point_at(page, 0.3, 0.7)
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(*end, steps=6)
    page.mouse.up()
    until(page, lambda: stride(page) < 30, "the zoomed map")
    keys, _ = view(page)
    assert 19_000 < keys[0] < keys[1] < 31_000

    page.get_by_text("View and selected cell, as numbers").click()
    for label, value in (("Query from", 60_000), ("Query to", 60_024), ("Key from", 59_000), ("Key to", 59_024)):
        fill_number(page, label, value)
    page.get_by_label("Key to", exact=True).press("Enter")
    until(page, lambda: view(page) == [[58_999.5, 59_023.5], [59_999.5, 60_023.5]], "the view in numbers")
    cells = heatmap(page)
    assert (cells["dx"], cells["dy"], cells["x0"], cells["y0"]) == (1, 1, 59_000, 60_000)
    # Written out here, so that the picture is held against the method and not against the code that drew it.
    expected = [
        [
            i - j if i - j < 1024 else i // 32 - j // 32 + 1024 - 1024 // 32
            for j in range(59_000, 59_024)
        ]
        for i in range(60_000, 60_024)
    ]  # fmt: skip
    assert cells["rows"] == expected


def test_keyboard_zooms_and_moves_and_a_double_click_shows_all(open_page: Open, tabs_address: str) -> None:
    page = drawn(open_page(tabs_address))
    page.locator(MAP).focus()
    page.keyboard.press("+")
    until(page, lambda: view(page)[0] == [24_999.5, 74_999.5], "half the width")
    page.keyboard.press("ArrowRight")
    until(page, lambda: view(page)[0] == [37_499.5, 87_499.5], "a quarter to the right")
    page.keyboard.press("0")
    until(page, lambda: view(page) == [[-0.5, 99_999.5]] * 2, "everything")

    # A double click shows all too, and stays.
    page.locator(MAP).focus()
    page.keyboard.press("+")
    until(page, lambda: view(page)[0] == [24_999.5, 74_999.5], "half the width")

    def double_clicked() -> bool:
        # plotly.js takes two clicks for a double one within 0.3 s, which a busy machine may miss.
        page.mouse.dblclick(*point_at(page, 0.3, 0.8))
        page.wait_for_timeout(3000)
        return view(page) == [[-0.5, 99_999.5]] * 2

    until(page, double_clicked, "everything")
    page.wait_for_timeout(1500)
    assert view(page) == [[-0.5, 99_999.5]] * 2


def test_slider_previews_at_once_and_sends_little(open_page: Open, tabs_address: str) -> None:
    page = drawn(open_page(tabs_address))
    sizes: list[int] = []

    def note(response: Response) -> None:
        if "/run/" in response.url:
            sizes.append(len(response.body()))

    page.on("response", note)
    set_slider(page, "group-size", 40)
    expect(page.locator("#position-map .plot-title")).to_contain_text("G = 40, w = 1,024")
    expect(page.locator("#map-status")).to_contain_text("fits")
    assert sizes
    assert max(sizes) < 600_000

    set_slider(page, "neighbor-window", 4096)
    expect(page.locator("#map-status [role=alert]")).to_contain_text("must be smaller than the trained window")
    expect(page.locator("#position-map .plot-title")).to_contain_text("G = 40, w = 1,024")


def test_method_and_document_redraw_the_map(open_page: Open, tabs_address: str) -> None:
    page = drawn(open_page(tabs_address))
    page.get_by_label("Compare").check()
    expect(page.locator("#position-map .plot-title")).to_contain_text("positions nearer")
    page.get_by_label("Vanilla").first.check()
    expect(page.locator("#position-map .plot-title")).to_contain_text("sees each key: Vanilla")
    set_slider(page, "group-size", 2)
    set_slider(page, "neighbor-window", 4)
    page.locator("#map-show").get_by_label("SelfExtend").check()
    page.get_by_role("button", name="Short document").click()
    until(page, lambda: stride(page) == 1, "the short document's map")
    rows = heatmap(page)["rows"]
    assert rows[4][:5] == [4, 3, 2, 1, 0]
    assert rows[9] == [6, 6, 5, 5, 4, 4, 3, 2, 1, 0]
    assert rows[0][1:] == [None] * 9


def test_map_saves_as_png_is_sent_nowhere_and_goes_dark(open_page: Open, tabs_address: str, tmp_path: Path) -> None:
    page = drawn(open_page(tabs_address))
    page.mouse.move(*point_at(page, 0.5, 0.5))
    with page.expect_download() as download:
        page.locator(f"{MAP} .modebar-btn[data-title='Save as PNG']").click()
    download.value.save_as(tmp_path / "map.png")
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    assert "SelfExtend" in download.value.suggested_filename

    # Nothing offers to send the figure away.
    titles = page.locator(f"{MAP} .modebar-btn").evaluate_all("(all) => all.map((each) => each.dataset.title)")
    assert "Save as PNG" in titles
    assert not [title for title in titles if re.search("cloud|share|edit in", title or "", re.IGNORECASE)]

    # Dark mode changes the ink without the server.
    ink = f"() => document.querySelector('{MAP}')._fullLayout.font.color"
    light = page.evaluate(ink)
    page.evaluate("() => document.body.classList.add('dark')")
    until(page, lambda: page.evaluate(ink) != light, "dark ink")
    assert page.evaluate(ink) == "#E6E8EB"


def test_a_cell_of_the_plane_sets_both_sliders(open_page: Open, tabs_address: str) -> None:
    page = drawn(open_page(tabs_address))
    page.get_by_role("tab", name="Parameters").click()
    area = page.locator("#parameter-plane .nsewdrag")
    box = area.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] * 0.9, box["y"] + box["height"] * 0.9)
    group_size = page.locator("#group-size input[type=number]")
    expect(group_size).not_to_have_value("32")
    expect(page.locator("#parameters-advice")).to_contain_text(f"G = {group_size.input_value()}, w = ")
    assert int(group_size.input_value()) > 64  # past the slider's old end

    page.get_by_role("button", name="smallest group size").click()
    expect(page.locator("#parameters-advice")).to_contain_text("100,000 tokens fits")
    page.get_by_role("button", name="suggested settings").click()
    expect(group_size).to_have_value("58")
    expect(page.locator("#neighbor-window input[type=number]")).to_have_value("1024")


def test_the_newest_answer_stays_where_an_older_one_takes_longer(open_page: Open, tabs_address: str) -> None:
    page = open_page(tabs_address)
    page.get_by_role("tab", name="Newest").click()
    shown = page.locator("#newest")
    expect(shown).to_contain_text("0 and 0")
    begun = int(re.search(r"\d+", shown.inner_text())[0])  # type: ignore[index]
    if begun % 2:  # the next one has to be a slow one
        page.get_by_label("First number").fill("1")
        begun += 1
        expect(shown).to_contain_text(f"answer {begun}: 1 and 0")
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url) if "/run/" in request.url else None)
    page.get_by_role("button", name="Set both").click()  # two changes at once
    expect(shown).to_contain_text("7 and 7")
    page.wait_for_timeout(2500)  # longer than the slow answer takes
    expect(shown).to_have_text(f"answer {begun + len(sent)}: 7 and 7")


def lesson(page: Page) -> Page:
    page.get_by_role("tab", name="Learn").click()
    page.wait_for_selector(".lesson-grid td[data-cell]")
    return page


def row(page: Page, query: int) -> list[str]:
    cells: list[str] = page.locator(f".lesson-grid td[data-cell^='{query},']").all_inner_texts()
    return cells


def test_lesson_by_mouse_by_keyboard_and_by_guessing(open_page: Open, tabs_address: str) -> None:
    page = lesson(open_page(tabs_address))
    assert row(page, 9) == list("9876543210")
    page.get_by_role("button", name="Next").click()
    assert page.locator(".lesson-grid td.unseen").count() == 6
    page.get_by_role("button", name="Next").click()
    assert row(page, 9) == list("4433221100")
    page.get_by_role("button", name="Next").click()
    assert row(page, 9) == list("4433223210")
    page.get_by_role("button", name="Next").click()
    assert row(page, 4) == list("43210")
    assert row(page, 9) == list("6655443210")
    page.get_by_role("button", name="Next").click()
    assert page.locator(".lesson-grid td.unseen").count() == 4
    expect(page.get_by_role("button", name="Next")).to_be_disabled()

    # By keyboard alone.
    page.locator(".lesson-steps button[data-step='4']").focus()
    page.keyboard.press("Enter")
    page.locator(".lesson-grid td[tabindex='0']").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowUp")
    expect(page.locator(".lesson-sum")).to_contain_text("Query 8 and looks at key 1 old.")
    expect(page.locator(".lesson-sum code")).to_have_text(
        "grouped: 8//2 - 1//2 + 4 - 4//2 = 4 - 0 + 4 - 2 = 6 (distance 7 >= 4)"
    )
    page.keyboard.press("End")
    expect(page.locator(".lesson-sum code")).to_have_text("neighbor: 8 - 8 = 0 (distance 0 < 4)")

    # Guess, then reveal.
    page.locator(".lesson-steps button[data-step='4']").click()
    page.get_by_role("button", name="Guess first").click()
    assert set(row(page, 9)) == {"?"}
    page.locator(".lesson-grid td[data-cell='9,2']").click()
    expect(page.locator(".lesson-sum")).not_to_contain_text("=")
    page.keyboard.type("4")
    page.keyboard.press("Enter")
    expect(page.locator(".lesson-score")).to_have_text("Not 4, but 5. 0 of 1 right so far.")
    assert row(page, 9)[2] == "5"
    page.locator(".lesson-grid td[data-cell='9,9']").click()
    page.keyboard.type("0")
    page.keyboard.press("Enter")
    expect(page.locator(".lesson-score")).to_have_text("Right: 0. 1 of 2 right so far.")
    page.get_by_role("button", name="Guess first").click()
    assert row(page, 9) == list("6655443210")


def test_lesson_plays_a_row(open_page: Open, tabs_address: str) -> None:
    page = lesson(open_page(tabs_address))
    page.locator(".lesson-grid td[data-cell='2,0']").click()
    # Written down in the page: a test that looks in from outside may miss a step on a busy machine.
    page.evaluate(
        """() => {
            window.sums = [];
            const note = () => {
                const sum = document.querySelector(".lesson-sum code")?.textContent;
                if (sum && sum !== window.sums.at(-1)) window.sums.push(sum);
            };
            const all = { subtree: true, childList: true, characterData: true };
            new MutationObserver(note).observe(document.querySelector(".lesson-root"), all);
        }"""
    )
    page.get_by_role("button", name="Play the row").click()
    until(page, lambda: "2 - 0 = 2" in page.evaluate("window.sums"), "the row's last sum")
    assert page.evaluate("window.sums") == [f"2 - {key} = {2 - key}" for key in (2, 1, 0)]
    expect(page.get_by_role("button", name="Play the row")).to_be_visible()


def test_lesson_takes_other_numbers_and_refuses_impossible_ones(open_page: Open, tabs_address: str) -> None:
    page = lesson(open_page(tabs_address))
    page.locator("#lesson-example input").click()
    page.get_by_role("option", name=re.compile("Longest")).click()
    expect(page.locator(".lesson-grid td[data-cell='63,0']")).to_have_text("63")
    page.get_by_text("Choose your own numbers").click()
    fill_number(page, "number input for Neighbor window w", 24)
    set_slider(page, "lesson-neighbor-window", 24)
    expect(page.locator("#lesson-complaint")).to_contain_text("must be smaller than the trained window (24)")
    expect(page.locator(".lesson-grid td[data-cell='63,0']")).to_have_text("63")


def test_lesson_prints_and_saves_a_page_that_works_alone(open_page: Open, tabs_address: str, tmp_path: Path) -> None:
    page = lesson(open_page(tabs_address))
    page.evaluate("() => { window.print = () => {}; }")
    page.get_by_role("button", name="Print").click()
    paper = page.frame_locator(".lesson-print-frame")
    expect(paper.locator("section")).to_have_count(8)
    assert paper.locator("section").nth(4).locator("td[data-cell^='9,']").all_inner_texts() == list("6655443210")
    assert any(not cell.strip() for cell in paper.locator("section").nth(6).locator("td[data-cell]").all_inner_texts())

    with page.expect_download() as download:
        page.get_by_role("button", name="Save as web page").click()
    saved = tmp_path / "lesson.html"
    download.value.save_as(saved)
    alone = open_page(saved.as_uri(), width=390)
    alone.locator(".lesson-steps button[data-step='4']").click()
    assert row(alone, 9) == list("6655443210")
    with alone.expect_download() as again:
        alone.get_by_role("button", name="Save as web page").click()
    again.value.save_as(tmp_path / "again.html")
    assert (tmp_path / "again.html").read_text() == saved.read_text()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_fits_390_px(open_page: Open, tabs_address: str, theme: str) -> None:
    page = drawn(open_page(tabs_address, width=390, height=844, theme=theme))
    for tab in ("Position map", "Parameters", "Learn"):
        page.get_by_role("tab", name=tab).click()
        page.wait_for_timeout(500)
        assert page.evaluate("() => document.documentElement.scrollWidth") <= 390, tab
        outside = page.evaluate(
            """() => [...document.querySelectorAll(".plot-area, .plot-title, .readout, .lesson-root, button, input")]
                .filter((each) => each.offsetParent && each.getBoundingClientRect().right > 391)
                .map((each) => each.outerHTML.slice(0, 120))"""
        )
        assert not outside, json.dumps(outside)
