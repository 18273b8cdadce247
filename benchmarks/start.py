"""How long `python app.py` takes with the bundled model: until the server answers, the page stands, the model is ready,
the sample is read, the example is answered both ways, and a question is; and how much of that is importing packages.

    python -m benchmarks.start

Prints one line of JSON, in seconds. Wants an idle machine, Debian's chromium, and playwright from
requirements-dev.txt.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time

from playwright.sync_api import expect, sync_playwright

from benchmarks.screenshots import WAIT_MILLISECONDS, app
from benchmarks.serving import launched_chromium

IMPORTS = {
    "import_gradio": "import app, gradio",
    "import_torch": "import torch",
    "import_all": "from app import imports; imports.begin(); import gradio; imports.finish()",
    "import_all_collecting": "from app import imports; import gradio; imports.finish()",
}
"""`import_all` is what the app has imported by the time its model is loaded, as it does it; the last is the same while
Python looks for garbage."""


def measure() -> dict[str, float]:
    """Seconds.

    Returns:
        server_answers, model_ready, sample_read and example_answered: since the command. first_paint and page_stands:
        since a browser that has nothing cached asked for the page. answered: since a click on a sample question, the
        sample being read.
        The imports: of a Python of their own.
    """
    imports = {name: _seconds(statement) for name, statement in IMPORTS.items()}
    began = time.perf_counter()
    with app() as address, sync_playwright() as playwright:
        answers = time.perf_counter() - began
        browser = launched_chromium(playwright)
        page = browser.new_page()
        asked = time.perf_counter()
        page.goto(address)
        expect(page.locator("#title h1")).to_be_visible(timeout=WAIT_MILLISECONDS)
        stands = time.perf_counter() - asked
        expect(page.locator("#model-summary .activity")).to_contain_text("SelfExtend", timeout=WAIT_MILLISECONDS)
        ready = time.perf_counter() - began
        status = page.locator("#documents-status")
        expect(status).to_contain_text("Reading the sample ahead", timeout=WAIT_MILLISECONDS)
        expect(status).not_to_contain_text("Reading the sample ahead", timeout=WAIT_MILLISECONDS)
        read = time.perf_counter() - began
        expect(page.locator("#chat .contrast .right")).to_be_visible(timeout=WAIT_MILLISECONDS)
        example = time.perf_counter() - began
        asked = time.perf_counter()
        page.locator("#chat .example").first.click()
        expect(page.locator("#chat a[href*=passage]").first).to_be_visible(timeout=WAIT_MILLISECONDS)
        answered = time.perf_counter() - asked
        painted = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime / 1000")
        browser.close()
    return {
        **imports,
        "server_answers": answers,
        "first_paint": painted,
        "page_stands": stands,
        "model_ready": ready,
        "sample_read": read,
        "example_answered": example,
        "answered": answered,
    }


def _seconds(statement: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return time.perf_counter() - began


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print(json.dumps({name: round(seconds, 2) for name, seconds in measure().items()}))
