"""What evidence costs through the page: seconds a token of a real model's answer, and until its passages are on screen.

    python -m benchmarks.evidence_page                 # 16,000 tokens, SmolLM2-135M-Instruct, 30 layers

The document is the text of `pydoc_data.topics`. The page is watched in Chromium while it answers; then the same model
answers as long a prompt without a page and without evidence. Needs Debian's chromium, and playwright
from requirements-dev.txt; `benchmarks.real_model` fetches the model.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any, NamedTuple

from playwright.sync_api import Page, expect, sync_playwright

from benchmarks.real_model import FOLDER, fetched_model
from benchmarks.screenshots import WAIT_MILLISECONDS
from benchmarks.serving import launched_chromium, served
from benchmarks.shapes import machine
from selfextend.generation import GenerationSettings, NewToken, ReadingSettings, ReadyModel, answer_steps
from selfextend.loading.models import load_model
from selfextend.methods import SelfExtend
from selfextend.profile import profile_of
from selfextend.steps import Running

QUESTION = "Tell in many sentences what this text says about classes and functions."
PAGE_LETTERS = 2500
WATCH = """() => {
  window.seen = [];
  let before = "";
  const read = (selector) => document.querySelector(selector)?.textContent ?? "";
  setInterval(() => {
    const now = [read("#chat-status"), read("#evidence-summary")];
    if (now.join() !== before) window.seen.push([performance.now() / 1000, ...now]);
    before = now.join();
  }, 50);
}"""
"""Looks ten times as often as the page changes, and no more: what looks takes time from who answers."""


class Watched(NamedTuple):
    """What the page showed: tokens of the answer, seconds for each, and from the last one to its passages."""

    tokens: int
    token_seconds: float
    evidence_seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=16_000)
    parser.add_argument("--new-tokens", type=int, default=128)
    options = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = fetched_model(FOLDER)
    model, tokenizer = load_model(path, device="cpu")
    text = "\n\n".join(topics[name] for name in sorted(topics))
    prompt = tokenizer(text, add_special_tokens=False)["input_ids"][: options.length]
    with tempfile.TemporaryDirectory() as folder:
        document = Path(folder) / "topics.txt"
        document.write_text(_in_pages(str(tokenizer.decode(prompt))), "utf-8")
        watched = through_the_page(path, document, Path(folder) / "data", options.new_tokens)
    ready = ReadyModel(model, tokenizer, profile_of(str(path), None, model.config))
    without = plain_token_seconds(ready, prompt, watched.tokens)
    print(
        f"{machine('cpu')}\n\n| tokens written | ms a token without evidence | through the page, with it | ratio |",
        end="",
    )
    print(" evidence after the last token |\n|---|---|---|---|---|")
    print(f"| {watched.tokens} | {1000 * without:.0f} | {1000 * watched.token_seconds:.0f} ", end="")
    print(f"| {watched.token_seconds / without:.2f} | {watched.evidence_seconds:.2f} s |")


def _in_pages(text: str) -> str:
    return "\f".join(text[n : n + PAGE_LETTERS] for n in range(0, len(text), PAGE_LETTERS))


def through_the_page(model: Path, document: Path, data: Path, tokens: int) -> Watched:
    """Ask about the document for an answer of so many tokens at most, and watch."""
    options = ["app.py", "--no-browser", "--no-read-ahead", "--model", str(model), "--data-folder", str(data)]
    with (
        served(lambda port: [sys.executable, *options, "--port", str(port)]) as address,
        sync_playwright() as playwright,
    ):
        browser = launched_chromium(playwright)
        page = browser.new_page(viewport={"width": 1500, "height": 1000})
        page.set_default_timeout(WAIT_MILLISECONDS)
        expect.set_options(timeout=WAIT_MILLISECONDS)
        page.goto(address)
        expect(page.locator("#model-summary .activity")).to_contain_text("SelfExtend active in")
        for _ in range(page.locator(".document-list [data-sha]").count()):
            page.locator(".document-list [data-sha]").first.click()
        page.set_input_files("#upload input[type=file]", str(document))
        expect(page.locator(".document-list")).to_contain_text(document.name)
        page.get_by_label("Question", exact=True).fill(QUESTION)
        page.get_by_role("button", name="Answering").click()
        page.get_by_label("number input for Longest answer").fill(str(tokens))
        page.get_by_label("number input for Longest answer").press("Tab")
        page.locator("#suggest").click()
        expect(page.locator("#fit .complaint")).to_have_count(0)
        page.locator("#right-tabs").get_by_role("tab", name="Evidence", exact=True).click()
        page.evaluate(WATCH)
        nothing = page.locator("#evidence-summary").inner_text()
        page.locator("#send").click()
        expect(page.locator("#evidence-summary")).not_to_have_text(nothing)
        expect(page.locator("#send")).to_be_visible()
        return _watched(page, nothing)


def _watched(page: Page, nothing: str) -> Watched:
    seen: list[tuple[float, str, str]] = page.evaluate("() => window.seen")
    found = [(at, re.search(r"nswering: ([\d,]+) tokens", status)) for at, status, _ in seen]
    told = [(at, int(match[1].replace(",", ""))) for at, match in found if match]
    (first, few), (last, many) = told[0], told[-1]
    shown = min(at for at, _, summary in seen if at > last and summary != nothing)
    return Watched(many, (last - first) / (many - few), shown - last)


def plain_token_seconds(ready: ReadyModel, prompt: Sequence[int], tokens: int) -> float:
    """Seconds a token from the first one on, of an answer without evidence."""
    settings = GenerationSettings(max_new_tokens=tokens)
    steps: Any = answer_steps(ready, prompt, settings, ReadingSettings(SelfExtend(), observed=True))
    with Running(steps) as run:
        times = [time.perf_counter() for step in run if isinstance(step, NewToken)]
    return (times[-1] - times[0]) / (len(times) - 1)


if __name__ == "__main__":
    main()
