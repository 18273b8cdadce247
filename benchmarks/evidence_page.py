"""What evidence costs through the page: seconds a token of a real model's answer, and until its passages are on screen.

    python -m benchmarks.evidence_page                 # 16,000 tokens, SmolLM2-135M-Instruct, 30 layers

The document is the text of `pydoc_data.topics`. A page in Chromium answers about it, in turns with evidence and
without; in turn with both, the same model answers as long a prompt without a page. Needs Debian's chromium, and
playwright from requirements-dev.txt; `benchmarks.real_model` fetches the model.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from pydoc_data.topics import topics
from statistics import median
from typing import Any, NamedTuple

from playwright.sync_api import Page, expect, sync_playwright

from benchmarks.real_model import FOLDER, fetched_model
from benchmarks.screenshots import WAIT_MILLISECONDS
from benchmarks.serving import launched_chromium, served
from benchmarks.shapes import machine
from selfextend.generation import GenerationSettings, NewToken, ReadingSettings, ReadyModel, answer_steps
from selfextend.loading.models import load_model
from selfextend.methods import SelfExtend
from selfextend.prefix import PrefixCache
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
"""Looks a few times as often as the page changes, and no more: what looks takes time from who answers."""
IN_TURNS = """
import functools, itertools, app.asking, app.launch, selfextend.generation as generation
recording, questions = app.asking._recording, itertools.count()
app.asking._recording = lambda *given: None if next(questions) % 2 else recording(*given)
generation.ReadingSettings = functools.partial(generation.ReadingSettings, observed=True)
app.launch.main()
"""
"""The app, which records every other answer; both kinds go on from the same reading."""


class Watched(NamedTuple):
    """What the page showed: tokens of the answer, seconds for each, and from the last to what is said of passages."""

    tokens: int
    token_seconds: float
    evidence_seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=16_000)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = fetched_model(FOLDER)
    model, tokenizer = load_model(path, device="cpu")
    ready = ReadyModel(model, tokenizer, profile_of(str(path), None, model.config))
    text = "\n\n".join(topics[name] for name in sorted(topics))
    prompt = tokenizer(text, add_special_tokens=False)["input_ids"][: options.length]
    prefix, with_evidence, without, alone = PrefixCache(), [], [], []
    with tempfile.TemporaryDirectory() as folder:
        document = Path(folder) / "topics.txt"
        document.write_text(_in_pages(str(tokenizer.decode(prompt))), "utf-8")
        with answering_page(path, document, options.new_tokens) as answer:
            for _ in range(options.rounds):
                with_evidence.append(answer())
                without.append(answer().token_seconds)
                alone.append(token_seconds(ready, prompt, with_evidence[-1].tokens, prefix))
    page, page_without, plain = (
        median(times) for times in ([each.token_seconds for each in with_evidence], without, alone)
    )
    rows = {
        "tokens written": f"{with_evidence[0].tokens}",
        "ms a token through the page, with evidence": f"{1000 * page:.0f}",
        "through the page, without": f"{1000 * page_without:.0f}",
        "without page and evidence": f"{1000 * plain:.0f}",
        "ratio to the page without evidence": f"{page / page_without:.2f}",
        "to no page": f"{page / plain:.2f}",
        "evidence after the last token": f"{median(each.evidence_seconds for each in with_evidence):.2f} s",
    }
    print(f"{machine('cpu')}; medians of {options.rounds}\n\n| | |\n|---|---|")
    print(*(f"| {name} | {figure} |" for name, figure in rows.items()), sep="\n")


def _in_pages(text: str) -> str:
    return "\f".join(text[n : n + PAGE_LETTERS] for n in range(0, len(text), PAGE_LETTERS))


@contextmanager
def answering_page(model: Path, document: Path, tokens: int) -> Iterator[Callable[[], Watched]]:
    """A page that answers a question about the document, in so many tokens at most, at each call: see `IN_TURNS`."""
    options = ["-c", IN_TURNS, "--no-browser", "--no-read-ahead", "--no-persist", "--model", str(model)]
    with (
        served(lambda port: [sys.executable, *options, "--port", str(port)]) as address,
        sync_playwright() as playwright,
    ):
        page = launched_chromium(playwright).new_page(viewport={"width": 1500, "height": 1000})
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
        yield partial(_answer, page, page.locator("#evidence-summary").inner_text())


def _answer(page: Page, nothing: str) -> Watched:
    """Ask, watch, and clear.

    Args:
        nothing: what the Evidence tab says of no answer.
    """
    page.evaluate("() => { window.seen = []; }")
    page.get_by_label("Question", exact=True).fill(QUESTION)
    page.locator("#send").click()
    expect(page.locator("#chat .measures")).to_have_count(1)
    expect(page.locator("#evidence-summary")).not_to_have_text(nothing)
    watched = _watched(page, nothing)
    page.locator("#chat").get_by_role("button", name="Clear").click()
    expect(page.locator("#evidence-summary")).to_have_text(nothing)
    return watched


def _watched(page: Page, nothing: str) -> Watched:
    seen: list[tuple[float, str, str]] = page.evaluate("() => window.seen")
    found = [(at, re.search(r"nswering: ([\d,]+) tokens", status)) for at, status, _ in seen]
    told = [(at, int(match[1].replace(",", ""))) for at, match in found if match]
    (first, few), (last, many) = told[0], told[-1]
    shown = min(at for at, _, summary in seen if at > last and summary != nothing)
    return Watched(many, (last - first) / (many - few), shown - last)


def token_seconds(ready: ReadyModel, prompt: Sequence[int], tokens: int, prefix: PrefixCache) -> float:
    """Seconds a token from the first one on, of an answer without evidence."""
    settings, how = GenerationSettings(max_new_tokens=tokens), ReadingSettings(SelfExtend(), observed=True)
    steps: Any = answer_steps(ready, prompt, settings, how, prefix=prefix)
    with Running(steps) as run:
        times = [time.perf_counter() for step in run if isinstance(step, NewToken)]
    return (times[-1] - times[0]) / (len(times) - 1)


if __name__ == "__main__":
    main()
