"""The lesson in a real browser: its arithmetic against Python's, every sentence, every step by mouse and by keys."""

from __future__ import annotations

import json
import math
import random
import re
import sys
import time
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import pytest
import reference
from chat_parts import AXE, Open, broken_rules, in_both_themes, until
from lesson_sentences import CHECKS, Told
from playwright.sync_api import Browser, Page, expect

from app.lesson import catalogues, packed, recorded, web_page
from benchmarks.serving import served
from selfextend.config import SelfExtendConfig, max_length, paper_max_length
from selfextend.positions import logn_query_scale, relative_position

pytestmark = pytest.mark.browser
STEPS = range(1, 11)
THEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
EVERY = "/open=" + ",".join(map(str, STEPS))


@pytest.fixture(scope="module")
def lesson_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The one-file page, opened from a file: no server, and the watch refuses every request to a host."""
    path = tmp_path_factory.mktemp("lesson") / "lesson.html"
    path.write_text(web_page(), encoding="utf-8")
    return path.as_uri()


def at_step(page: Page, url: str, step: int, more: str = "") -> None:
    page.goto("about:blank")
    page.goto(f"{url}#lesson/step={step}{more}")
    page.wait_for_selector(".ls-drawn > *")


def follow(page: Page, step: int, more: str = "") -> None:
    """Follows a link in the lesson, which draws all of it anew; the language stays where the link names none."""
    page.evaluate(
        """(place) => new Promise((drawn) => {
            if (location.hash === place) return drawn();
            addEventListener("hashchange", drawn, { once: true });
            location.hash = place;
        })""",
        f"#lesson/step={step}{more}",
    )
    expect(page.locator(".ls-dot[aria-current]")).to_have_text(str(step))


# The arithmetic


def test_positions_reaches_and_sums_are_python_s(open_page: Open, lesson_url: str) -> None:
    page, draw = open_page(lesson_url), random.Random(1)
    cells = []
    for _ in range(10_000):
        trained = draw.randint(2, 5000)
        group, window = draw.randint(1, 64), draw.randint(1, trained - 1)
        query = draw.randint(0, 200_000)
        cells.append((trained, group, window, query, draw.randint(0, query)))
    told = page.evaluate(
        """(cells) => cells.map(([L, G, w, i, j]) => {
            const numbers = { group_size: G, neighbor_window: w };
            const bands = Positions.bands("selfextend", numbers);
            return [Positions.relative(bands, i, j), Positions.reach(bands, L), LessonModel.paperReach(L, G, w),
                    Positions.explain("selfextend", numbers, i, j)];
        })""",
        cells,
    )
    for (trained, group, window, query, key), row in zip(cells, told, strict=True):
        config = SelfExtendConfig(group, window)
        assert row == [
            relative_position(query, key, config),
            max_length(trained, config),
            paper_max_length(trained, config),
            config.explain(query, key),
        ]
        assert row[0] == reference.relative_position(query, key, group, window)


def test_dials_scores_and_weights_are_python_s(open_page: Open, lesson_url: str) -> None:
    page, draw = open_page(lesson_url), random.Random(2)
    runs = recorded()
    base, pairs = runs["made"]["rope"]["base"], runs["made"]["rope"]["pairs"]
    positions = [draw.randint(0, 3000) for _ in range(500)]
    wave = runs["chain"]["wave"]
    told = page.evaluate(
        """([positions, wave, base]) => positions.map((p) => [LessonModel.score(wave, base, p),
            LessonModel.dials({ base, pairs: wave.length }, 512, p).map(({ angle }) => angle)])""",
        [positions, wave, base],
    )
    for position, (score, angles) in zip(positions, told, strict=True):
        turned = [position * base ** (-pair / pairs) for pair in range(pairs)]
        assert math.isclose(
            score, sum(a * math.cos(t + f) for (a, f), t in zip(wave, turned, strict=True)), abs_tol=1e-9
        )
        for angle, wanted in zip(angles, turned, strict=True):
            assert math.isclose(math.cos(angle - wanted), 1, abs_tol=1e-12)
    first = runs["chain"]["vanilla"][0]
    told = page.evaluate("([wave, base, p]) => LessonModel.score(wave, base, p)", [wave, base, first["position"]])
    assert math.isclose(told, first["score"], rel_tol=1e-4)  # the recorded head, turned to where it was recorded

    counts = [draw.randint(2, 100_000) for _ in range(300)]
    told = page.evaluate("(counts) => counts.map((n) => LessonModel.logN(7, n, 512))", counts)
    for count, row in zip(counts, told, strict=True):
        factor = logn_query_scale(count - 1, 512)
        assert math.isclose(row["factor"], factor)
        for name, lead in (("plain", 7), ("scaled", 7 * factor)):
            assert math.isclose(row[name], math.exp(lead) / (math.exp(lead) + count - 1))


def states(count: int, seed: int) -> list[dict[str, Any]]:
    """Random settings of everything that can be moved; the small text of step 10 is small enough to count in."""
    draw, runs = random.Random(seed), recorded()
    made = []
    for _ in range(count):
        trained, tokens = draw.randint(3, 32), draw.randint(8, 32)
        query = draw.randrange(tokens)
        window = draw.randint(1, trained - 1)
        group = draw.randint(1, 8)
        own = draw.randint(2, 60)
        rows = draw.randrange(40)
        made.append(
            {
                "L": trained, "N": tokens, "G": group, "w": window, "i": query, "j": draw.randint(0, query),
                "at": draw.randrange(len(runs["lengths"])), "look": draw.randrange(len(runs["lengths"])),
                "RG": draw.choice([1, *runs["group_sizes"]]), "RW": draw.choice(runs["neighbor_windows"]),
                "SG": draw.choice([1, *runs["group_sizes"]]), "SW": draw.choice(runs["neighbor_windows"]),
                "d": 10 * draw.randint(0, 150), "slide": 0, "far": draw.randint(-4, 12), "lead": draw.randint(1, 16),
                "part": draw.choice(["selfextend", "no_shift", "no_neighbors", "vanilla"]),
                "n": draw.randint(1, max_length(trained, SelfExtendConfig(group, window)) + 2 * group),
                "keys": draw.randrange(31), "T": draw.randint(16, 300), "DL": own, "DG": draw.randint(1, 9),
                "DW": draw.randint(1, own - 1), "row": rows, "column": draw.randint(0, rows),
            }
        )  # fmt: skip
    return made


TOLD = """async ([packed, states]) => {
    const lesson = await mountLesson(document.createElement("div"), packed, { language: "en" });
    return JSON.stringify(JSON.parse(states).map((state) => {
        Object.assign(lesson.state, state);
        const m = lesson.context();
        return LessonSteps.STEPS.map((step) => {
            const { ask, options, right, answer } = step.guess(m);
            return { facts: step.facts(m).map(([key, values]) => [key, values ?? {}]), ask, options, right, answer };
        });
    }));
}"""


def told_of(page: Page, made: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """What the steps tell of each state. As text, since Playwright looks at every value that it hands on."""
    told: list[list[dict[str, Any]]] = json.loads(page.evaluate(TOLD, [packed(), json.dumps(made)]))
    return told


def test_every_sentence_is_true_in_every_setting(open_page: Open, lesson_url: str) -> None:
    page, texts = open_page(lesson_url), catalogues()["en"]
    made = states(400, seed=3)
    seen = set()
    for state, steps in zip(made, told_of(page, made), strict=True):
        told = Told(state, recorded(), texts["story"].split())
        for number, step in enumerate(steps, start=1):
            for key, values in step["facts"]:
                assert CHECKS[key](told, values), (number, key, values, state)
                asked = set(re.findall(r"\{(\w+)\}", texts[key]))
                assert asked <= values.keys(), key
                seen.add(key)
    assert seen == CHECKS.keys()


def test_every_guess_has_the_right_answer(open_page: Open, lesson_url: str) -> None:
    page, runs = open_page(lesson_url), recorded()
    made = states(200, seed=4)
    key, weights = runs["prompt"]["key"], [row["weight"] for row in runs["chain"]["vanilla"]]
    broken = next(n for n, text in enumerate(runs["answers"]["vanilla"]) if runs["texts"][text] != key)
    for state, steps in zip(made, told_of(page, made), strict=True):
        told = Told(state, runs, [])
        right = [step["right"] for step in steps]
        said = told.said("vanilla", broken, 1, 1).ljust(5)
        assert right[0] == next(n for n in range(5) if said[n] != key[n])
        assert right[1] == told.hands_outside(told.d)
        assert right[2] == (0 if weights[told.look] > 0.5 else 1 if weights[told.look] >= 0.01 else 2)
        assert right[3] == told.position(told.i, told.j)
        assert right[4] == told.w - told.w // told.G
        assert right[5] == 2
        assert right[6] == (1 if told.G > 1 else 0)
        assert right[7] == told.grid_reach()
        weight = told.weight(100_000)
        assert right[8] == (0 if weight > 0.25 else 1 if weight > 0.05 else 2)
        assert right[9] == told.own_position(told.T - 1, 0)


# The page

IN_VIEW = """() => {
    const cell = document.querySelector(".ls-grid td.chosen").getBoundingClientRect();
    const row = document.querySelector(".ls-now").getBoundingClientRect();
    const key = document.querySelector(".ls-strip .chosen").getBoundingClientRect();
    return row.top >= 0 && row.bottom <= cell.top + 1 && cell.bottom <= innerHeight && cell.right <= innerWidth
        && key.top >= row.top && key.bottom <= row.bottom;
}"""
"""Whether the chosen cell of step 4 is on the screen, below the row that stays, and that row shows its key."""


def test_ten_steps_by_mouse(open_page: Open, lesson_url: str) -> None:
    page = open_page(lesson_url)
    for step in STEPS:
        expect(page.locator(".ls-dot[aria-current]")).to_have_text(str(step))
        expect(page.locator(".ls-facts li")).to_have_count(0)
        options = page.locator(".ls-options label")
        if options.count():
            options.last.click()
        else:
            page.locator(".ls-guess input").fill("3")
        page.get_by_role("button", name="Reveal").click()
        expect(page.locator(".ls-verdict")).to_have_text(re.compile(r"^(Yes|Not) .+|^Yes: .+"))
        expect(page.locator(".ls-facts li").first).to_be_visible()
        before = page.locator(".ls-drawn").inner_html()
        sliders = page.locator('.ls-controls input[type="range"]:visible')
        slider = sliders.last if step == 4 else sliders.first
        if slider.count():
            slider.scroll_into_view_if_needed()
            box = slider.bounding_box()
            assert box
            for share in (0.83, 0.3):  # one of them is not where it stood
                page.mouse.click(box["x"] + box["width"] * share, box["y"] + box["height"] / 2)
                if page.locator(".ls-drawn").inner_html() != before:
                    break
        else:
            page.locator('[data-name="T"]').fill("5000")
            page.keyboard.press("Tab")
        expect(page.locator(".ls-drawn")).not_to_have_text("")
        assert page.locator(".ls-drawn").inner_html() != before, step
        if step < 10:
            page.get_by_role("button", name="Next").click()
    expect(page.get_by_role("button", name="Next")).to_be_disabled()


def test_ten_steps_by_keyboard_alone(open_page: Open, lesson_url: str) -> None:
    page = open_page(lesson_url, width=390, height=844)
    page.wait_for_selector(".ls-drawn > *")
    for step in STEPS:
        expect(page.locator(".ls-dot[aria-current]")).to_have_text(str(step))
        field = page.locator(".ls-guess input").first
        field.focus()
        page.keyboard.type("7") if field.get_attribute("type") == "number" else page.keyboard.press("Space")
        page.keyboard.press("Enter")
        expect(page.locator(".ls-facts li").first).to_be_visible()
        page.locator(".ls-step").focus()
        page.keyboard.press("ArrowRight")
    at_step(page, lesson_url, 2, EVERY)
    before = page.locator(".ls-drawn").inner_html()
    page.locator('.ls-controls [data-name="d"]').focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".ls-slider output").first).to_have_text("910")
    assert page.locator(".ls-drawn").inner_html() != before
    expect(page.locator(".ls-dot[aria-current]")).to_have_text("2")
    at_step(page, lesson_url, 4, f"/L=32&N=32{EVERY}")
    page.locator(".ls-grid td.chosen").focus()
    for arrow in ["ArrowDown"] * 16 + ["ArrowRight"] * 31 + ["ArrowUp"] * 31:
        page.keyboard.press(arrow)
        assert page.evaluate(IN_VIEW), arrow
    page.locator(".ls-step").focus()
    page.keyboard.press("f")
    page.locator(".ls-grid tr").first.evaluate("(row) => row.scrollIntoView()")
    row = page.locator(".projector .ls-now").bounding_box()
    assert row
    assert abs(row["y"]) < 2  # nothing of the grid shows above it
    page.keyboard.press("Escape")
    at_step(page, lesson_url, 4, EVERY)
    page.locator(".ls-grid td.chosen").focus()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowRight")
    expect(page.locator(".ls-grid td.chosen")).to_have_attribute("data-cell", "14,1")
    expect(page.locator(".ls-facts")).to_contain_text("14//3 - 1//3 + 4 - 4//3 = 4 - 0 + 4 - 1 = 7")
    page.keyboard.press("End")
    expect(page.locator(".ls-facts")).to_contain_text("It stays exact: 14 - 14 = 0")


def test_the_address_keeps_everything(open_page: Open, lesson_url: str) -> None:
    page = open_page(lesson_url)
    place = "#lesson/L=12&N=24&G=2&w=5/step=5/cell=20,3/RG=3&d=700&part=no_shift/open=1,5"
    page.goto("about:blank")
    page.goto(lesson_url + place)
    expect(page.locator(".ls-title")).to_have_text("The seam")
    expect(page.get_by_label("the shift", exact=True)).to_be_checked()
    # With step 5's own settings and without the shift, the key comes out at none of the lengths.
    expect(page.locator(".ls-facts")).to_contain_text("with G = 8 and w = 8")
    expect(page.locator(".ls-facts")).to_contain_text(f"right at 0 of {len(recorded()['lengths'])} recorded lengths")
    page.get_by_label("nothing", exact=True).check()
    assert page.evaluate("location.hash") == place.replace("&part=no_shift", "")
    page.reload()
    expect(page.locator(".ls-title")).to_have_text("The seam")
    expect(page.locator(".ls-facts li").first).to_contain_text("5 − 2 = 3")
    for nonsense in ("step=99", "step=x/cell=9,99/L=-4&w=1e9", "open=7,77,x/lang=xx/part=<b>"):
        page.goto("about:blank")
        page.goto(f"{lesson_url}#lesson/{nonsense}")
        page.wait_for_selector(".ls-drawn > *")


def test_projector_notes_motion_and_language(open_page: Open, lesson_url: str) -> None:
    page = open_page(lesson_url)
    page.wait_for_selector(".ls-drawn > *")
    page.locator(".ls-step").focus()
    page.keyboard.press("f")
    expect(page.locator(".lesson.projector")).to_be_visible()
    page.get_by_text("More", exact=True).click()
    with page.expect_popup() as popup:
        page.get_by_role("button", name="Speaker notes").click()
    notes = popup.value
    expect(notes.locator("body")).to_contain_text(catalogues()["en"]["s1.note"])
    page.get_by_role("button", name="Next").click()
    expect(notes.locator("body")).to_contain_text(catalogues()["en"]["s2.note"])
    notes.close()
    page.keyboard.press("Escape")
    expect(page.locator(".lesson.projector")).to_have_count(0)
    page.get_by_text("More", exact=True).click()
    page.get_by_role("button", name="Less motion").click()
    page.get_by_label("Language").select_option("zh")
    expect(page.locator(".ls-title")).to_have_text(catalogues()["zh"]["s2.title"])
    assert page.evaluate("location.hash").endswith("/lang=zh")
    page.reload()
    expect(page.locator(".lesson.still .ls-title")).to_have_text(catalogues()["zh"]["s2.title"])
    expect(page.locator('[data-do="motion"]')).to_have_attribute("aria-pressed", "true")
    assert page.title() == catalogues()["zh"]["title"]
    page.locator(".ls-more summary").click()
    with page.expect_download() as download:
        page.locator('[data-do="save"]').click()
    saved = download.value.path().read_text(encoding="utf-8")
    assert f"<title>{catalogues()['zh']['title']}</title>" in saved
    assert '<html lang="zh">' in saved


def test_step_three_looks_from_where_step_two_does(open_page: Open, lesson_url: str) -> None:
    page = open_page(lesson_url)
    positions = [row["position"] for row in recorded()["chain"]["vanilla"]]

    def looked_at() -> int:
        return int(positions[int(page.locator('[data-name="look"]').input_value())])

    for distance in (900, 400):
        page.locator('.ls-dot[data-step="2"]').click()
        if distance == 900:
            page.get_by_role("button", name="Show me without a guess").click()
        page.locator('[data-name="d"]').fill(str(distance))
        page.locator('.ls-dot[data-step="3"]').click()
        if distance == 900:
            page.get_by_role("button", name="Show me without a guess").click()
        assert abs(looked_at() - distance) == min(abs(position - distance) for position in positions)
    page.locator('[data-name="look"]').fill("0")
    page.locator('.ls-dot[data-step="2"]').click()
    page.locator('[data-name="d"]').fill("1200")
    page.locator('.ls-dot[data-step="3"]').click()
    assert looked_at() == positions[0]  # it was moved by hand


def test_nothing_overflows_on_a_phone(chromium: Browser, lesson_url: str) -> None:
    page = chromium.new_page(viewport={"width": 390, "height": 844})
    page.goto(lesson_url)
    for opened in ("", EVERY, f"{EVERY}/L=32&N=32&G=8&w=31/lang=zh"):
        for step in STEPS:
            follow(page, step, opened)
            for theme in THEMES:
                page.emulate_media(color_scheme=theme)
                assert page.evaluate("document.documentElement.scrollWidth") <= 390, (step, opened, theme)
    page.close()


def test_axe_finds_nothing(chromium: Browser, lesson_url: str) -> None:
    page = chromium.new_page(viewport={"width": 1280, "height": 900})
    page.goto(lesson_url)
    page.add_script_tag(path=AXE)
    for opened in ("", EVERY):
        for step in STEPS:
            follow(page, step, opened)
            for theme in THEMES:
                page.emulate_media(color_scheme=theme)
                assert broken_rules(page, "document", only_colors=theme != THEMES[0]) == [], (step, opened, theme)
    page.close()


def test_saves_itself_and_its_figures(open_page: Open, lesson_url: str, tmp_path: Path) -> None:
    page = open_page(lesson_url)
    at_step(page, lesson_url, 3, EVERY)
    page.get_by_text("More", exact=True).click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Save as web page").click()
    saved = tmp_path / "lesson.html"
    download.value.save_as(saved)
    assert re.sub(r'hash: "[^"]+"', 'hash: ""', saved.read_text()) == web_page()
    alone = open_page(saved.as_uri(), width=390)
    expect(alone.locator(".ls-title")).to_have_text(catalogues()["en"]["s3.title"])
    for step in STEPS:
        at_step(alone, saved.as_uri(), step, EVERY)
        figure_box = alone.locator(".ls-drawn :is(svg.fig, table.ls-grid)").first.bounding_box()
        assert figure_box
        assert min(figure_box["width"], figure_box["height"]) > 50, step
    for step in STEPS:
        at_step(page, lesson_url, step, EVERY)
        page.get_by_text("More", exact=True).click()
        with page.expect_download() as download:
            page.get_by_role("button", name="Save this figure").click()
        figure = tmp_path / f"{step}.svg"
        download.value.save_as(figure)
        alone.goto(figure.as_uri())
        assert alone.evaluate("document.documentElement.tagName") == "svg"
        drawn = figure.read_text(encoding="utf-8")
        assert not re.findall(r"var\(|light-dark\(|<style|class=", drawn), step  # a slide knows no style sheet
        fills = set(re.findall(r' fill="(rgb[^"]+)"', drawn))
        assert "rgb(255, 255, 255)" in fills
        assert len(fills) >= 3, (step, fills)


def pages_of(pdf: bytes) -> int:
    return len(re.findall(rb"/Type\s*/Page\b(?!s)", pdf))


@pytest.mark.parametrize("language", ["en", "zh"])
def test_worksheet_key_and_steps_print(chromium: Browser, open_page: Open, lesson_url: str, language: str) -> None:
    page = open_page(lesson_url)
    texts = catalogues()[language]
    for place in ("", "L=32&N=32&G=8&w=31/"):
        page.goto("about:blank")
        page.goto(f"{lesson_url}#lesson/{place}step=4{EVERY}/lang={language}")
        page.wait_for_selector(".ls-drawn > *")
        page.locator(".ls-more summary").click()
        for tool, answers in (("tool.print", False), ("tool.key", True)):
            page.locator(".ls-tools").get_by_role("button", name=texts[tool], exact=True).click()
            paper = chromium.new_page()
            paper.set_content(page.locator(".ls-print-frame").get_attribute("srcdoc") or "")
            assert pages_of(paper.pdf(format="A4", prefer_css_page_size=True)) == 2
            tokens = int(paper.locator(".ls-grid tbody tr").count())
            assert tokens == 16
            blank = [cell for cell in paper.locator("tbody td:not(.later)").all_inner_texts() if not cell.strip()]
            told = paper.locator(".near, .far, .unseen").count()
            assert bool(blank) is not answers
            assert bool(told) is answers
            assert paper.locator("ol li").count() == 6
            if answers:
                trained, group, window = (32, 8, 31) if place else (9, 3, 4)
                for number in (reference.reach(trained, group, window), window - window // group):
                    assert re.search(rf"\b{number}\b", paper.locator("ol").inner_text())
            paper.close()
    for step in STEPS:
        at_step(page, lesson_url, step, f"{EVERY}/lang={language}")
        page.locator(".ls-more summary").click()
        page.locator('[data-do="print_step"]').click()
        paper = chromium.new_page()
        paper.set_content(page.locator(".ls-print-frame").get_attribute("srcdoc") or "")
        assert pages_of(paper.pdf(format="A4", prefer_css_page_size=True)) == 1, step
        paper.close()
        assert page.pdf(format="A4")


def test_thirty_pages_at_once(chromium: Browser, lesson_url: str) -> None:
    """A static host serves the file, thirty students open it; they share these cores with their browsers here."""
    folder = str(Path(urlsplit(lesson_url).path).parent)
    server = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "--directory", folder]
    errors: list[str] = []
    with served(lambda port: [*server, str(port)]) as address:
        pages = [chromium.new_page(viewport={"width": 1280, "height": 800}) for _ in range(30)]
        for page in pages:
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.goto("about:blank")
        began = time.monotonic()
        for page in pages:
            page.evaluate("(url) => { setTimeout(() => { location.href = url; }); }", f"{address}/lesson.html")
        for page in pages:
            page.wait_for_selector(".ls-drawn > *")
        seconds = time.monotonic() - began
    paint = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 0"
    painted = [page.evaluate(paint) for page in pages]
    print(f"thirty pages: first paint after {max(painted):.0f} ms at most, all of them drawn after {seconds:.1f} s")
    assert not errors
    for page in pages:
        page.close()


# In the app


def test_in_the_app_it_needs_no_server(open_page: Open, tabs_address: str) -> None:
    page = open_page(tabs_address, theme="system")
    page.get_by_role("tab", name="Learn").click()
    page.wait_for_selector(".ls-drawn > *")
    page.evaluate(AXE.read_text(encoding="utf-8"))
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    before = -1
    while before < len(asked):  # the other tabs' first answers, which may come late
        before = len(asked)
        page.wait_for_timeout(2000)
    asked.clear()
    for step in STEPS:
        page.get_by_role("button", name="Show me without a guess").click()
        expect(page.locator(".ls-facts li").first).to_be_visible()
        for turn, theme in enumerate(in_both_themes(page)):
            assert broken_rules(page, "'#lesson'", only_colors=turn > 0) == [], (step, theme)
        if step < 10:
            page.get_by_role("button", name="Next").click()
    assert not [url for url in asked if not url.startswith("blob:")]


def test_the_last_step_takes_the_page_s_document(open_page: Open, tabs_address: str) -> None:
    """tests/browser/demo.py has read 100,000 tokens for a model of 4,096, with G = 32 and w = 1,024."""
    page, texts = open_page(tabs_address), catalogues()["en"]
    page.get_by_role("tab", name="Learn").click()
    page.locator('.ls-dot[data-step="10"]').click()
    asked = "100,000 tokens, G = {}, w = 1,024. At which position"
    expect(page.locator(".ls-guess legend")).to_contain_text(asked.format(32))
    page.get_by_role("button", name=texts["guess.skip"]).click()
    own = page.locator(".ls-own")
    expect(own).to_contain_text("100,000 tokens of long.txt, <b> & more.pdf")
    last = relative_position(99_999, 0, SelfExtendConfig(32, 1024))
    expect(page.locator(".ls-verdict")).to_contain_text(f"{last:,}")
    page.locator("#group-size input[type=number]").fill("40")
    page.keyboard.press("Tab")
    expect(page.locator('.ls-typed [data-name="DG"]')).to_have_value("40")
    # Numbers typed by hand stay, and the page's are offered.
    page.locator('.ls-typed [data-name="T"]').fill("7000")
    page.keyboard.press("Tab")
    page.locator("#group-size input[type=number]").fill("16")
    page.keyboard.press("Tab")
    take = own.get_by_role("button", name="Take the page’s own numbers: 100,000 tokens, L = 4,096, G = 16, w = 1,024")
    expect(take).to_be_visible()
    expect(page.locator('.ls-typed [data-name="T"]')).to_have_value("7000")
    take.click()
    expect(page.locator('.ls-typed [data-name="T"]')).to_have_value("100000")
    assert "T=100000&DG=16" in page.evaluate("location.hash")
    page.get_by_role("button", name="Short document").click()  # of no model: there is nothing to take
    expect(own).to_be_empty()


def test_runs_a_cell_in_the_app(open_page: Open, address: str) -> None:
    page = open_page(address)
    page.evaluate("() => { location.hash = '#lesson/step=1/open=1'; }")
    page.reload()  # a link opens the tab by itself
    run, told = page.get_by_role("button", name="Run it now"), page.locator(".ls-own p")

    def ran() -> str:
        run.click()
        expect(run).to_be_enabled()
        return told.inner_text()

    until(page, lambda: "No model is loaded" not in ran(), "the model that the app was started with")
    for _ in range(2):
        assert "SelfExtend said “" in ran()
    page.locator('.ls-controls [data-name="at"]').press("End")

    def stopped() -> bool:
        """Where the run is not over first."""
        run.click()
        page.evaluate("new Promise((later) => setTimeout(later, 100))")
        page.evaluate("document.querySelector('.ls-own [data-do=stop_run]')?.click()")
        expect(run).to_be_visible()
        return told.inner_text() == "The run was stopped."

    until(page, stopped, "a run that is stopped")
    expect(run).to_be_focused()
    expect(page.locator("#meters")).to_be_hidden()
    page.get_by_role("button", name="Next").click()
    page.wait_for_timeout(1000)
    assert "/step=2/" in page.evaluate("location.hash")  # the page's own address has not taken its place
    page.locator('.ls-dot[data-step="4"]').click()
    page.get_by_role("button", name="Show me without a guess").click()
    page.locator(".ls-grid tr").first.evaluate("(row) => row.scrollIntoView()")
    header, row = page.locator("#top").bounding_box(), page.locator(".ls-now").bounding_box()
    assert header
    assert row
    assert abs(row["y"] - header["y"] - header["height"]) < 2  # below the header that stays
    page.get_by_role("tab", name="Read", exact=True).click()
    expect(page.locator("#meters")).to_be_visible()
