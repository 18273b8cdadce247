"""How long `python app.py` takes with the bundled model: until the server answers, the page stands, the model is ready.

    python -m benchmarks.start

Prints one line of JSON, in seconds. Wants an idle machine, Debian's chromium, and playwright from
requirements-dev.txt.
"""

from __future__ import annotations

import argparse
import json
import time

from playwright.sync_api import expect, sync_playwright

from benchmarks.screenshots import WAIT_MILLISECONDS, app
from benchmarks.serving import launched_chromium


def measure() -> dict[str, float]:
    """Seconds.

    Returns:
        server_answers and model_ready: since the command. first_paint and page_stands: since a browser that has
        nothing cached asked for the page.
    """
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
        painted = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime / 1000")
        browser.close()
    return {"server_answers": answers, "first_paint": painted, "page_stands": stands, "model_ready": ready}


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print(json.dumps({name: round(seconds, 2) for name, seconds in measure().items()}))
