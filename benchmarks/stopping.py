"""How soon work ends when it is told to, while two other programs keep both cores busy.

    python -m benchmarks.stopping

Through the page, in Chromium, with SmolLM2-135M-Instruct (`benchmarks.real_model` fetches it): from the click on a stop
button to the frame in which the page says that it has stopped, in seconds. Needs Debian's chromium, and playwright from
requirements-dev.txt.
"""

from __future__ import annotations

import argparse
import multiprocessing
import re
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

from benchmarks.real_model import FOLDER, fetched_model
from benchmarks.screenshots import WAIT_MILLISECONDS, app
from benchmarks.serving import launched_chromium
from benchmarks.shapes import machine

TRIES = 3
BUSY = 2
STOPPED = """async ([button, over]) => {
  const isShown = (selector) => {
    const found = document.querySelector(selector);
    return found !== null && found.offsetParent !== null;
  };
  const began = performance.now();
  document.querySelector(button).click();
  while (isShown(button) || (over && !isShown(over))) await new Promise(requestAnimationFrame);
  return (performance.now() - began) / 1000;
}"""
SENTENCE = "The quick brown fox jumps over the lazy dog near the old mill. "
SHORT = "\f".join(f"Page {n}. {SENTENCE * 6}" for n in range(1, 9))


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    model = fetched_model(FOLDER)
    with tempfile.TemporaryDirectory() as scratch, app() as address, sync_playwright() as playwright:
        short = Path(scratch) / "short.txt"
        short.write_text(SHORT, encoding="utf-8")
        browser = launched_chromium(playwright)
        page = browser.new_page(viewport={"width": 1500, "height": 1000})
        page.set_default_timeout(WAIT_MILLISECONDS)
        expect.set_options(timeout=WAIT_MILLISECONDS)
        page.goto(address)
        expect(page.locator("#chat .contrast .right")).to_be_visible()  # the example is answered, so all is read
        with busy_cores():
            works: dict[str, Callable[[Page], list[float]]] = {
                "loading a model": lambda page: stopped_loading(page, model),
                "reading a document": stopped_reading,
                "answering": lambda page: stopped_answering(page, short),
                "testing passages": stopped_testing,
                "a run of the lab": stopped_grid,
                "a sweep of the lab": stopped_sweep,
            }
            print(f"{machine('cpu')}\n\n| seconds to stop | median | slowest |\n|---|---|---|")
            for name, stop in works.items():
                seconds = stop(page)
                print(f"| {name} | {statistics.median(seconds):.2f} | {max(seconds):.2f} |", flush=True)
        browser.close()


@contextmanager
def busy_cores() -> Iterator[None]:
    loops = [multiprocessing.Process(target=_loop, daemon=True) for _ in range(BUSY)]
    for loop in loops:
        loop.start()
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()


def _loop() -> None:
    while True:
        pass


def stopped_loading(page: Page, model: Path) -> list[float]:
    """Stops the load, and in the end lets it be: what follows wants the model."""
    page.get_by_role("button", name="Change the model").click()
    page.locator("#model-choice input").click()
    page.get_by_role("option").last.click()
    page.locator("#model-other textarea, #model-other input").first.fill(str(model))
    seconds = []
    for _ in range(TRIES):
        page.locator("#load").click()
        expect(page.locator("#stop-loading")).to_be_visible()
        page.wait_for_timeout(700)
        seconds.append(page.evaluate(STOPPED, ["#stop-loading", ""]))
        page.wait_for_timeout(1500)
    page.locator("#load").click()
    expect(page.locator("#model-summary .name")).to_contain_text("SmolLM2")
    return seconds


def stopped_reading(page: Page) -> list[float]:
    """Of the sample."""
    return [_stopped_answer(page, "#chat .bot", r"Reading: [1-9]") for _ in range(TRIES)]


def stopped_answering(page: Page, short: Path) -> list[float]:
    page.locator(".document-list [data-sha]").first.click()
    page.set_input_files("#upload input[type=file]", str(short))
    expect(page.locator(".document-list")).to_contain_text(short.name)
    return [_stopped_answer(page, "#chat-status", r"Answering: [1-9]") for _ in range(TRIES)]


def _forget(page: Page) -> None:
    """Empties the chat: a small model that reads its own broken-off answers ends the next one as early."""
    if page.locator("#chat .stopped").count():
        page.locator("#chat").get_by_role("button", name="Clear").click()
        expect(page.locator("#chat .stopped")).to_have_count(0)


def _stopped_answer(page: Page, where: str, when: str) -> float:
    _forget(page)
    page.get_by_label("Question", exact=True).fill("Tell a very long story about the fox and the dog.")
    page.locator("#suggest").click()
    page.wait_for_timeout(1500)
    expect(page.locator("#fit .complaint")).to_have_count(0)  # the settings reach far enough for what was added
    page.locator("#send").click()
    expect(page.locator(where).last).to_contain_text(re.compile(when))
    seconds = float(page.evaluate(STOPPED, ["#stop", "#send"]))
    expect(page.locator("#chat .stopped").last).to_be_visible()
    return seconds


def stopped_testing(page: Page) -> list[float]:
    _forget(page)
    page.get_by_label("Question", exact=True).fill("Who jumps over the lazy dog?")
    page.locator("#send").click()
    expect(page.locator("#chat .measures")).to_have_count(1)
    page.locator("#right-tabs").get_by_role("tab", name="Evidence", exact=True).click()
    actions = page.locator(".passages > .passage-actions")
    seconds = []
    for _ in range(TRIES):
        actions.get_by_role("button").first.click()
        expect(page.locator(".passages > .passage-progress")).to_contain_text("1 of")
        seconds.append(page.evaluate(STOPPED, [".passages > .passage-actions [data-do=stop]", ""]))
    return seconds


def stopped_grid(page: Page) -> list[float]:
    page.get_by_role("tab", name="Lab", exact=True).click()
    return stopped_run(page)


def stopped_run(page: Page) -> list[float]:
    seconds = []
    for _ in range(TRIES):
        page.locator("#lab-run").click()
        expect(page.locator("#lab-status")).to_contain_text("tokens")
        page.wait_for_timeout(1000)
        seconds.append(page.evaluate(STOPPED, ["#lab-stop", "#lab-run"]))
    return seconds


def stopped_sweep(page: Page) -> list[float]:
    page.get_by_label("Sweep of G and w").check()
    page.get_by_label("Group sizes G").fill("4, 8")
    page.get_by_label("Neighbor windows w").fill("1024, 2048")
    page.locator("#lab-lengths input").fill("2x")
    page.locator("#lab-lengths input").press("Tab")
    page.wait_for_timeout(2000)
    return stopped_run(page)


if __name__ == "__main__":
    main()
