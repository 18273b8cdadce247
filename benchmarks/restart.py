"""From a restart to the first token of an answer about a document that was read before: sixteen thousand tokens, the
bundled model, asked on the page of a real server.

    python -m benchmarks.restart

Prints one line of JSON, in seconds: the first question about the document, the same after a restart, counted from the
click on with the model ready, and how much the reading takes on disk. Wants an idle machine.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.serving import served
from benchmarks.visitors import Page, Results, Work, ask, documents, wait_for_model

KEEP_SECONDS = 120.0
"""Longest time for the reading to be written, behind the answer."""


def measure(folder: Path) -> dict[str, Any]:
    """The figures, by name."""
    handout, questions, *_ = documents(folder, 1)
    data = folder / "data"
    # Shared, since the visitor after the restart is another one: this script is no browser that keeps who it is.
    options = ["--no-browser", "--no-read-ahead", "--share-reading", "--data-folder", str(data)]
    found: dict[str, Any] = {}
    for moment in ("first", "after_restart"):
        with served(lambda port: [sys.executable, "app.py", *options, "--port", str(port)]) as address:
            wait_for_model(address)
            page = Page(address, 0)
            list(page.send(page.event(None, "load")))
            page.add(handout)
            now = time.monotonic()
            work = Work(questions, 0.0, now, now, Results())
            seen = ask(page, questions[0]["question"], "handout", work)
            found[f"{moment}_seconds_to_first_token"] = round(work.results.first_tokens["handout"][0][1], 2)
            read = re.search(r"([\d,]+) tokens read(?:, ([\d,]+) of them)?", seen)
            found[f"{moment}_tokens"], found[f"{moment}_tokens_read_before"] = read.groups() if read else (None, None)
            page.close()
            deadline = time.monotonic() + KEEP_SECONDS
            while not (kept := list((data / "readings").glob("*.safetensors"))) and time.monotonic() < deadline:
                time.sleep(0.2)
            found["kept_mb"] = round(sum(file.stat().st_size for file in kept) / 1e6, 1)
    return found


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with tempfile.TemporaryDirectory() as work:
        print(json.dumps(measure(Path(work))))
