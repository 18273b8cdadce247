"""From a restart to the first token of an answer about a document that was read before: sixteen thousand tokens, the
bundled model, over the API of a real server.

    python -m benchmarks.restart

Prints one line of JSON, in seconds: the first question about the document, the same after a restart, counted from when
the model is ready, and how much the readings take on disk. Wants an idle machine.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.serving import served
from benchmarks.visitors import Page, ask_endpoint, documents, wait_for_model

KEEP_SECONDS = 120.0
"""Longest time for the reading to be written, behind the answer."""


def measure(folder: Path) -> dict[str, Any]:
    """The figures, by name."""
    handout, questions, *_ = documents(folder, 1)
    data = folder / "data"
    server = [sys.executable, "app.py", "--no-browser", "--no-read-ahead", "--data-folder", str(data)]
    found: dict[str, Any] = {}
    for moment in ("first", "after_restart"):
        with served(lambda port: [*server, "--port", str(port)]) as address:
            wait_for_model(address)
            page = Page(address, 0)
            path = page.upload(handout)
            asked = time.perf_counter()
            answer = ask_endpoint(page, questions[0]["question"], [path], 16)
            # The answer comes whole, so what its decoding took is taken off.
            decoding = answer["seconds"] - answer["first_token_seconds"]
            found[f"{moment}_seconds_to_first_token"] = round(time.perf_counter() - asked - decoding, 2)
            found[f"{moment}_seconds_of_reading"] = answer["first_token_seconds"]
            found[f"{moment}_tokens_read_before"] = answer["reused_tokens"]
            found["prompt_tokens"] = answer["prompt_tokens"]
            found["answers_agree"] = found.setdefault("answer", answer["answer"]) == answer["answer"]
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
