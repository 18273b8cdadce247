"""What evidence costs while an answer is written: seconds a token with and without it, and until it is there.

    python -m benchmarks.evidence                       # 8,192 and 16,384 tokens, 30 layers, as in RESULTS.md
    python -m benchmarks.evidence --lengths 4096 --layers 4
    python -m benchmarks.evidence --page                # the same through the page, with SmolLM2-135M-Instruct

Both ways take turns, round by round, over one text that was read once; figures are medians. Every layer and head is
recorded, in bins of 64 tokens, as the page does. Through the page, time is taken in Chromium, from the answer's first
words to its last and from those to its page links; the way without evidence is the library's alone, on the same prompt.
Needs Debian's chromium, and playwright from requirements-dev.txt.
"""

from __future__ import annotations

import argparse
import pydoc_data.topics
import statistics
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright
from transformers import AutoTokenizer

from app.documents.document import Limits
from app.documents.library import Library
from app.model_shelf import ModelShelf
from app.prompting import build_prompt
from benchmarks import shapes
from benchmarks.real_model import FOLDER, fetched_model
from benchmarks.screenshots import WAIT_MILLISECONDS, app
from benchmarks.serving import ROOT, launched_chromium
from selfextend.generation import GenerationSettings, NewToken, ReadingSettings, ReadyModel, answer_steps
from selfextend.methods import SelfExtend
from selfextend.profile import Profile
from selfextend.reading import PrefixCache
from selfextend.recording import RecordingRequest
from selfextend.steps import Running, result_of

BIN_TOKENS = 64
HEAD = "| tokens read | ms a token without | with | ratio | evidence after the last token |\n|---|---|---|---|---|"
PAGE_TOKENS = 16_000
QUESTION = "What do these pages say?"
WATCHED = """async () => {
  const links = document.querySelectorAll("#chat a.page-link").length;
  const seen = [];
  document.querySelector("#send").click();
  for (;;) {
    await new Promise(requestAnimationFrame);
    if (document.querySelectorAll("#chat a.page-link").length > links) return [seen, performance.now() / 1000];
    const tokens = document.querySelector("#chat-status")?.innerText.match(/Answering: ([\\d,]+) tokens/);
    const count = tokens && Number(tokens[1].replaceAll(",", ""));
    if (count && count !== seen.at(-1)?.[0]) seen.push([count, performance.now() / 1000]);
  }
}"""
"""Asks, and notes when so many tokens were told, and when the links stood there."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[8192, 16384])
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default=shapes.default_device())
    parser.add_argument("--page", action="store_true", help="through the page, with SmolLM2-135M-Instruct")
    options = parser.parse_args()
    if options.page:
        _through_the_page(options)
        return
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "assets" / "model")
    model = shapes.build_model("float32", options.device, options.layers, vocabulary=len(tokenizer))
    ready = ReadyModel(model, tokenizer, Profile(shapes.TRAINED_WINDOW, None, "none"))
    print(
        f"Evidence, SmolLM2-135M's shape with {options.layers} layers, random weights, {options.new_tokens} tokens "
        f"written, medians of {options.rounds} rounds\n{shapes.machine(options.device)}\n"
    )
    print(HEAD)
    for length in options.lengths:
        print(_row(ready, length, options), flush=True)


def _row(ready: ReadyModel, length: int, options: argparse.Namespace) -> str:
    prompt = [token % len(ready.tokenizer) for token in shapes.random_tokens(length, "cpu")[0].tolist()]
    prefix, tokens = PrefixCache(), {False: list[float](), True: list[float]()}
    afterwards = []
    _answer(ready, prompt, prefix, options, record=False)
    for _ in range(options.rounds):
        for record in (False, True):
            seconds, after = _answer(ready, prompt, prefix, options, record)
            tokens[record].append(seconds)
            afterwards += [after] if record else []
    return _cells(length, tokens[False], tokens[True], afterwards)


def _cells(length: int, without: list[float], recorded: list[float], afterwards: list[float]) -> str:
    plain, full = (1000 * statistics.median(seconds) for seconds in (without, recorded))
    after = statistics.median(afterwards)
    return f"| {length:,} | {plain:.1f} | {full:.1f} | {full / plain:.3f} | {after:.2f} s |"


def _answer(
    ready: ReadyModel, prompt: list[int], prefix: PrefixCache, options: argparse.Namespace, record: bool
) -> tuple[float, float]:
    """Seconds a token from the first one on, and seconds from the last one to the answer with its record."""
    request = RecordingRequest(
        query_rows=range(len(prompt) - 1, len(prompt) + options.new_tokens - 1),
        bin_starts=range(0, len(prompt), BIN_TOKENS),
        max_bytes=2**30,
    )
    steps = answer_steps(
        ready,
        prompt,
        GenerationSettings(max_new_tokens=options.new_tokens),
        ReadingSettings(SelfExtend.of(shapes.SETTINGS), observed=True),
        prefix=prefix,
        record=request if record else None,
    )
    with Running(steps) as run:
        times = [time.perf_counter() for step in run if isinstance(step, NewToken)]
    return (times[-1] - times[0]) / (len(times) - 1), time.perf_counter() - times[-1]


def _through_the_page(options: argparse.Namespace) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    model = fetched_model(FOLDER)
    loaded = result_of(ModelShelf().load_steps(str(model)))
    with (
        tempfile.TemporaryDirectory() as scratch,
        app("--model", str(model)) as address,
        sync_playwright() as playwright,
    ):
        file = Path(scratch) / "topics.txt"
        text = "\n\n".join(pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics))
        tokens = loaded.tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
        file.write_text(text[: tokens[PAGE_TOKENS][0]], encoding="utf-8")
        library = Library(Path(scratch) / "library", Limits())
        document = result_of(library.add_steps(file, file.name)).document
        prompt = build_prompt(loaded.tokenizer, [document], QUESTION).ids
        prefix = PrefixCache()
        browser = launched_chromium(playwright)
        page = _page_with(browser.new_page(viewport={"width": 1440, "height": 900}), address, file, options.new_tokens)
        _answer(loaded.ready, prompt, prefix, options, record=False)
        _asked_on_the_page(page, options.new_tokens)
        without, recorded, afterwards = [], [], []
        for _ in range(options.rounds):
            without.append(_answer(loaded.ready, prompt, prefix, options, record=False)[0])
            seconds, after = _asked_on_the_page(page, options.new_tokens)
            recorded.append(seconds)
            afterwards.append(after)
        browser.close()
    print(
        f"Evidence through the page, SmolLM2-135M-Instruct, {options.new_tokens} tokens written, medians of "
        f"{options.rounds} rounds\n{shapes.machine('cpu')}\n"
    )
    print(f"{HEAD}\n{_cells(len(prompt), without, recorded, afterwards)}")


def _page_with(page: Page, address: str, file: Path, new_tokens: int) -> Page:
    """The page with this document alone, ready to be asked."""
    page.set_default_timeout(WAIT_MILLISECONDS)
    expect.set_options(timeout=WAIT_MILLISECONDS)
    page.goto(address)
    expect(page.locator("#model-summary .activity")).to_contain_text("SelfExtend active in")
    page.set_input_files("#upload input[type=file]", str(file))
    expect(page.locator(".document-list")).to_contain_text(file.name)
    page.get_by_role("button", name="Answering").click()
    longest = page.get_by_label("number input for Longest answer")
    longest.fill(str(new_tokens))
    longest.press("Tab")
    page.locator("#suggest").click()
    page.wait_for_timeout(3000)
    return page


def _asked_on_the_page(page: Page, new_tokens: int) -> tuple[float, float]:
    """Seconds a token as the page tells them, and seconds from the last one to the page links."""
    page.locator("#chat").get_by_role("button", name="Clear").click() if page.locator(
        "#chat .measures"
    ).count() else None
    page.get_by_label("Question", exact=True).fill(QUESTION)
    page.wait_for_timeout(1000)
    seen, there = page.evaluate(WATCHED)
    expect(page.locator("#chat .measures")).to_have_count(1)
    (first, began), (last, ended) = seen[0], seen[-1]
    token = (ended - began) / (last - first)
    return token, there - ended - token * (new_tokens - last)


if __name__ == "__main__":
    main()
