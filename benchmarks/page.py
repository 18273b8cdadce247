"""How quick the page is under the hand: from a click on a page link to its page, from a hovered token to its glow, from
frame to frame while the map of 100,000 tokens follows a slider.

    python -m benchmarks.page

On the sample (17,000 tokens) and the bundled model, in Chromium: medians and the slowest of several tries, in
milliseconds, measured in the browser from the event to the frame that shows its effect; and what a first visit loads.
Wants an idle machine, Debian's chromium, and playwright from requirements-dev.txt.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from typing import Any

from playwright.sync_api import FilePayload, Page, Request, expect, sync_playwright
from transformers import AutoTokenizer

from benchmarks.screenshots import WAIT_MILLISECONDS, app
from benchmarks.serving import ROOT, launched_chromium

# Both wait for the frame after the one in which the effect was seen, which is when it is on screen.
LINK_TO_PAGE = """async (number) => {
  const link = document.querySelectorAll("#chat a.page-link")[number];
  const wanted = link.textContent.replace("p. ", "");
  const pane = document.querySelector(".reader-pages");
  pane.scrollTop = pane.scrollHeight; // far from it
  await new Promise((resolve) => setTimeout(resolve, 400));
  const seen = () => {
    const mark = document.querySelector(`.reader-page[data-number="${wanted}"] .reader-marks .cited`);
    const picture = mark?.closest(".reader-sheet").querySelector("img");
    if (!mark || !picture.complete) return false;
    const [at, all] = [mark.getBoundingClientRect(), pane.getBoundingClientRect()];
    return at.top >= all.top && at.bottom <= all.bottom;
  };
  const began = performance.now();
  link.click();
  while (!seen()) await new Promise(requestAnimationFrame);
  await new Promise(requestAnimationFrame);
  return performance.now() - began;
}"""
HOVER_TO_GLOW = """async (number) => {
  const words = () => document.querySelector(".reader-words").textContent;
  const token = document.querySelectorAll("#chat .answer-token")[number];
  const before = words();
  const began = performance.now();
  token.dispatchEvent(new PointerEvent("pointerover", { bubbles: true }));
  while (words() === before) await new Promise(requestAnimationFrame);
  await new Promise(requestAnimationFrame);
  return performance.now() - began;
}"""

DRAG = """async ([first, steps]) => {
  const slider = document.querySelector("#group-size input[type=range]");
  const set = Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, "value").set;
  const gaps = [];
  let last = await new Promise(requestAnimationFrame);
  for (let n = first; n < first + steps; n++) {
    set.call(slider, String(2 + (n % 60)));
    slider.dispatchEvent(new Event("input", { bubbles: true }));
    const now = await new Promise(requestAnimationFrame);
    gaps.push(now - last);
    last = now;
  }
  return [gaps, document.querySelector("#position-map .map-title").textContent];
}"""
"""Moves the group-size slider of the map once a frame: milliseconds between frames, and what the map is called then."""
LONG_TOKENS, FRAMES = 100_000, 240


def measure() -> dict[str, Any]:
    """Milliseconds, and what a browser that has nothing cached is sent until the page stands, in bytes on the wire."""
    question = json.loads((ROOT / "assets" / "sample_questions.json").read_text(encoding="utf-8"))[0]["question"]
    loaded: list[Request] = []
    with app() as address, sync_playwright() as playwright:
        browser = launched_chromium(playwright)
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.set_default_timeout(WAIT_MILLISECONDS)

        def count(request: Request) -> None:
            loaded.append(request)

        page.on("requestfinished", count)
        page.goto(address)
        expect(page.locator(".document-list")).to_contain_text("sample.pdf", timeout=WAIT_MILLISECONDS)
        page.wait_for_timeout(2000)
        page.remove_listener("requestfinished", count)
        weight = sum(request.sizes()["responseBodySize"] for request in loaded)
        expect(page.locator("#chat .contrast .right")).to_be_visible(timeout=WAIT_MILLISECONDS)  # so all is read
        page.get_by_label("Question", exact=True).fill(question)
        page.get_by_role("button", name="Send", exact=True).click()
        expect(page.locator("#chat .measures")).to_have_count(1, timeout=WAIT_MILLISECONDS)
        expect(page.locator("#chat .answer-token").first).to_be_visible(timeout=WAIT_MILLISECONDS)
        links = page.locator("#chat a.page-link").count()
        to_page = [page.evaluate(LINK_TO_PAGE, n % links) for n in range(3 * links)]
        to_glow = _hovers(page)
        frames = _frames_of_a_drag(page)
        browser.close()
    return {
        "link_to_page_ms": _summary(to_page),
        "hover_to_glow_ms": _summary(to_glow),
        "drag_frame_ms": _summary(frames),
        "first_visit": {"requests": len(loaded), "bytes": weight},
    }


def _hovers(page: Page) -> list[float]:
    tokens = page.locator("#chat .answer-token").count()
    # Neighbors may say the same of themselves, so every other one.
    return [page.evaluate(HOVER_TO_GLOW, n) for _ in range(3) for n in range(0, tokens, 2)]


def _frames_of_a_drag(page: Page) -> list[float]:
    """While the map of a text of `LONG_TOKENS` tokens follows a slider."""
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "assets" / "model")
    sentence = "The fox jumps over the dog near the old mill. "
    text = sentence * math.ceil(LONG_TOKENS / len(tokenizer(sentence).input_ids))
    page.locator(".document-list [data-sha]").first.click()
    file: FilePayload = {"name": "long.txt", "mimeType": "text/plain", "buffer": text.encode()}
    page.set_input_files("#upload input[type=file]", file)
    expect(page.locator(".document-list")).to_contain_text("long.txt")
    page.locator("#right-tabs").get_by_role("tab", name="Position map", exact=True).click()
    expect(page.locator("#position-map .map-title")).to_be_visible()
    page.wait_for_timeout(3000)
    frames: list[float] = page.evaluate(DRAG, [0, FRAMES])[0]
    return frames


def _summary(values: list[float]) -> dict[str, float]:
    """Median, the slowest but one in twenty, the slowest."""
    near_worst = sorted(values)[math.ceil(len(values) * 0.95) - 1]
    return {
        "median": round(statistics.median(values), 1),
        "95 %": round(near_worst, 1),
        "slowest": round(max(values), 1),
        "tries": len(values),
    }


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print(json.dumps(measure()))
