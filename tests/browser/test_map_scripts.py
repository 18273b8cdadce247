"""assets/positions.js, and what assets/map_drawing.js makes of it, against the library, in a browser."""

import random
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from app.theme import ASSETS
from app.wording import in_page_words
from selfextend.methods import POSITION_METHODS, Method
from selfextend.positions import EXACT, largest_relative_position, relative_position
from selfextend.profile import Profile

pytestmark = pytest.mark.browser

TRIALS, CELLS = 300, 20
"""Settings for each method, and cells for each of them."""


@pytest.fixture(scope="module")
def script(chromium: Browser) -> Iterator[Page]:
    """An empty page in which both scripts are known."""
    page = chromium.new_page()
    for name in ("positions.js", "map_drawing.js"):
        page.add_script_tag(content=(ASSETS / name).read_text())
    yield page
    page.close()


def method_with(kind: type[Method], group_size: int, neighbor_window: int) -> Method:
    numbers = {"group_size": group_size, "neighbor_window": neighbor_window}
    return kind(**{name: numbers[name] for name, _ in kind.symbols})


def trials(seed: int, trained_windows: tuple[int, int]) -> Iterator[dict[str, Any]]:
    """Settings with cells: short texts and long ones, at the ends of the bands and anywhere."""
    chance = random.Random(seed)
    for _ in range(TRIALS):
        trained = chance.randint(*trained_windows)
        length = chance.choice([chance.randint(1, 40), chance.randint(1, 5_000), chance.randint(1, 300_000)])
        window = chance.randint(1, trained - 1)
        queries = [chance.randrange(length) for _ in range(CELLS)]
        keys = [chance.choice([chance.randint(0, i), max(0, i - window), max(0, i - window + 1)]) for i in queries]
        yield {
            "numbers": {"group_size": chance.randint(1, chance.choice([4, 64, 300])), "neighbor_window": window},
            "trained": trained,
            "length": length,
            "cells": list(zip(queries, keys, strict=True)),
        }


@pytest.mark.parametrize("kind", POSITION_METHODS, ids=lambda kind: kind.kind)
def test_every_method_of_the_map_is_the_librarys(script: Page, kind: type[Method]) -> None:
    asked = list(trials(len(kind.kind), (3, 9_000)))
    told = script.evaluate(
        """([kind, trials]) => trials.map(({ numbers, trained, length, cells }) => {
            const bands = Positions.bands(kind, numbers);
            const reach = Positions.reach(bands, trained);
            return {
                positions: cells.map(([i, j]) => Positions.relative(bands, i, j)),
                words: cells.map(([i, j]) => Positions.explain(kind, numbers, i, j)),
                largest: Positions.largest(bands, length),
                reach: Number.isFinite(reach) ? reach : null,
                complaint: Positions.complaint(kind, numbers, trained),
            };
        })""",
        [kind.kind, asked],
    )
    for trial, answer in zip(asked, told, strict=True):
        positions = method_with(kind, **trial["numbers"]).positions or EXACT
        assert answer == {
            "positions": [relative_position(i, j, positions) for i, j in trial["cells"]],
            "words": [positions.explain(i, j) for i, j in trial["cells"]],
            "largest": largest_relative_position(trial["length"], positions),
            "reach": positions.reach(trial["trained"]),
            "complaint": "",
        }


def test_the_lessons_steps_are_floored_positions_without_a_shift(script: Page) -> None:
    numbers = {"group_size": 3, "neighbor_window": 5}
    rows = script.evaluate(
        """(numbers) => ["grouped", "unjoined"].map((kind) => {
            const bands = Positions.bands(kind, numbers);
            const keys = [...Array(14).keys()];
            const words = keys.map((j) => Positions.explain(kind, numbers, 13, j));
            return [keys.map((j) => Positions.relative(bands, 13, j)), words];
        })""",
        numbers,
    )
    floored = [13 // 3 - j // 3 for j in range(14)]
    assert rows[0] == [floored, [f"13//3 - {j}//3 = 4 - {j // 3} = {4 - j // 3}" for j in range(14)]]
    assert rows[1][0] == [13 - j if 13 - j < 5 else floored[j] for j in range(14)]
    assert rows[1][1][0] == rows[0][1][0]
    assert rows[1][1][13] == "13 - 13 = 0"


def refusal(kind: type[Method], group_size: Any, neighbor_window: Any, trained_window: int) -> str:
    """What the library says to these settings."""
    try:
        method = method_with(kind, group_size, neighbor_window)
        method.check(Profile(trained_window), 1)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("kind", POSITION_METHODS, ids=lambda kind: kind.kind)
def test_settings_are_refused_in_the_pages_words(script: Page, kind: type[Method]) -> None:
    for group, window in ((0, 4), (2, 0), (2, 50), (2, 70), (-3, 49), (4, 49)):
        numbers = {"group_size": group, "neighbor_window": window}
        said = script.evaluate("([kind, numbers]) => Positions.complaint(kind, numbers, 50)", [kind.kind, numbers])
        assert said == in_page_words(refusal(kind, group, window, 50))
    empty = {"group_size": None, "neighbor_window": None}
    said = script.evaluate("([kind, numbers]) => Positions.complaint(kind, numbers, 50)", [kind.kind, empty])
    assert said == ("" if kind.kind == "vanilla" else "Group size and Neighbor window both need a whole number.")


def test_the_golden_matrix(script: Page) -> None:
    rows = script.evaluate(
        """() => {
            const bands = Positions.bands("selfextend", { group_size: 2, neighbor_window: 4 });
            return [4, 9].map((i) => [...Array(i + 1).keys()].map((j) => Positions.relative(bands, i, j)));
        }"""
    )
    assert rows == [[4, 3, 2, 1, 0], [6, 6, 5, 5, 4, 4, 3, 2, 1, 0]]


CELLS_OF = """([kind, numbers, trained, difference, rows, columns, log, most]) => {
    const scene = { bands: Positions.bands(kind, numbers), trained, difference };
    const area = { x: 0, y: 0, width: 300, height: 200 };
    const { across, down } = mapAxes(area, { rows, columns, log });
    const cells = cellsOf(scene, across, down, most);
    const blocks = [blocksOf(down, most), blocksOf(across, most)].map(({ first, last }) => [[...first], [...last]]);
    return { values: [...cells.values], kinds: [...cells.kinds], blocks };
}"""
UNSEEN, NOTHING = 254, 255


def pairs_in(query_block: tuple[int, int], across_block: tuple[int, int], log: bool) -> list[tuple[int, int]]:
    """The (query, key) pairs that a cell stands for."""
    queries, across = range(query_block[0], query_block[1] + 1), range(across_block[0], across_block[1] + 1)
    pairs = [(i, i - n if log else n) for i in queries for n in across]
    return [(i, j) for i, j in pairs if 0 <= j <= i]


@pytest.mark.parametrize("log", [False, True], ids=["keys", "distances"])
@pytest.mark.parametrize("kind", POSITION_METHODS, ids=lambda kind: kind.kind)
def test_each_cell_of_the_picture_shows_the_pair_that_lies_furthest_apart(
    script: Page, kind: type[Method], log: bool
) -> None:
    chance = random.Random(7)
    for _ in range(25):
        trained, length = chance.randint(3, 40), chance.randint(2, 90)
        numbers = {"group_size": chance.randint(1, 9), "neighbor_window": chance.randint(1, trained - 1)}
        positions = method_with(kind, **numbers).positions or EXACT
        spans = [sorted(chance.sample(range(length + 1), 2)) for _ in range(2)]
        difference, most = chance.random() < 0.3, chance.randint(1, 50)
        told = script.evaluate(CELLS_OF, [kind.kind, numbers, trained, difference, *spans, log, most])
        rows, columns = (list(zip(*ends, strict=True)) for ends in told["blocks"])
        assert rows[0][0] == spans[0][0]
        assert rows[-1][1] == spans[0][1] - 1
        assert (columns[0][0], columns[-1][1]) == (spans[1][0], spans[1][1] - 1)
        for n, (value, found) in enumerate(zip(told["values"], told["kinds"], strict=True)):
            pairs = pairs_in(rows[n // len(columns)], columns[n % len(columns)], log)
            assert (found == NOTHING) == (not pairs)
            if pairs:
                seen = [relative_position(i, j, positions) for i, j in pairs]
                distances = [i - j for i, j in pairs]
                assert value == max(distances) - max(seen) if difference else value == max(seen)
                assert (found == UNSEEN) == (max(seen) >= trained)


@pytest.mark.parametrize("order", ["facts, settings", "settings, facts"])
def test_what_was_selected_before_there_was_a_map_is_shown_on_it(chromium: Browser, order: str) -> None:
    page = chromium.new_page()
    for name in ("selection.js", "positions.js", "pen.js", "map_drawing.js", "position_map.js"):
        page.add_script_tag(content=(ASSETS / name).read_text())
    page.evaluate(
        """([order, methods]) => {
            selfextendSelection.select(900, 7, "lesson");
            const root = document.body.appendChild(document.createElement("div"));
            const map = mountPositionMap(root, { methods, difference: "Difference", askForWords() {} });
            const tell = {
                facts: () => map.facts({ id: 1, trained: 512, length: 2000, model: "M", documents: ["a.pdf"] }),
                settings: () => map.settings("SelfExtend", 8, 128),
            };
            for (const name of order.split(", ")) tell[name]();
        }""",
        [order, [{"kind": kind.kind, "heading": kind.heading, "symbols": kind.symbols} for kind in POSITION_METHODS]],
    )
    page.wait_for_function("document.querySelector('.map-readout').textContent.includes('900//8 - 7//8 + 128')")
    page.close()
