"""What a long document costs before the model sees it: seconds and memory of reading it and of making its prompt.

    python -m benchmarks.documents                    # 5 MB of text
    python -m benchmarks.documents --megabytes 10

A text file of made-up prose goes through what the page does with an upload: the child process that reads it, the count
of its tokens in the list of documents, and the prompt with the place of each token, twice, since the page asks for it
whenever a control is moved. Memory is this process's resident set above what it was before the step: at its peak,
looked at every 5 ms, and afterwards. Seconds are of processor time in this process and, after the +, of waiting.
"""

from __future__ import annotations

import argparse
import gc
import random
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import psutil
from transformers import AutoTokenizer

from app.documents.document import Limits
from app.documents.memo import document_tokens
from app.documents.reader import read_document_steps
from app.prompting import build_prompt
from selfextend.asset_files import assets_folder
from selfextend.steps import result_of

T = TypeVar("T")
PROSE = (
    "keeper wrote every evening into the long ledger how many lamps were burning and which of old boats had come home "
    "before tide turned over grey stones beside quiet water"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=5.0)
    options = parser.parse_args()
    characters = int(options.megabytes * 1e6)
    tokenizer = AutoTokenizer.from_pretrained(assets_folder() / "model")
    tokenizer("the first text sets things up")
    limits = Limits(max_characters=characters)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "prose.txt"
        path.write_text(prose(characters), encoding="utf-8")
        print("| step | seconds | peak, MB | kept, MB |\n|---|---|---|---|")
        document = measured("read the file", lambda: result_of(read_document_steps(path, limits, path.name)))
    tokens = measured("count its tokens", lambda: document_tokens(tokenizer, document))
    measured("make the prompt", lambda: build_prompt(tokenizer, [document], ""))
    measured("make it again", lambda: build_prompt(tokenizer, [document], ""))
    print(f"\n{characters:,} characters, {tokens:,} tokens, {len(document.pages):,} parts")


def prose(characters: int) -> str:
    """Sentences of made-up words, in paragraphs; the same on every call."""
    seeded = random.Random(0)
    words = PROSE.split()
    sentences: list[str] = []
    length = 0
    while length < characters:
        sentence = " ".join(seeded.choices(words, k=seeded.randint(6, 18))).capitalize()
        sentences.append(sentence + (".\n\n" if seeded.random() < 0.2 else ". "))
        length += len(sentences[-1])
    return "".join(sentences)[:characters]


def measured(step: str, work: Callable[[], T]) -> T:
    """Does the work and prints a row of the table."""
    process = psutil.Process()
    gc.collect()
    before = peak = process.memory_info().rss
    over = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not over.wait(0.005):
            peak = max(peak, process.memory_info().rss)

    watching = threading.Thread(target=watch)
    watching.start()
    began, computed = time.perf_counter(), time.process_time()
    try:
        result = work()
    finally:
        over.set()
        watching.join()
    seconds, computed = time.perf_counter() - began, time.process_time() - computed
    gc.collect()
    after = process.memory_info().rss
    print(
        f"| {step} | {computed:.1f} + {max(seconds - computed, 0):.1f} | {(peak - before) / 1e6:,.0f} "
        f"| {(after - before) / 1e6:,.0f} |",
        flush=True,
    )
    return result


if __name__ == "__main__":
    main()
