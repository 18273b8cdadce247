"""The recording of the README: a question, its answer, a number pointed at, its page, the position map under a slider.

    python -m benchmarks.tour                  # writes assets/screenshots/tour.gif

Needs Debian's chromium, and playwright and Pillow from requirements-dev.txt. A picture is taken as often as Chromium
gives one; each is shown as long as it was on screen.
"""

from __future__ import annotations

import argparse
import io
import time
from itertools import pairwise

from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

from benchmarks.screenshots import FOLDER, NUMBER, WAIT_MILLISECONDS, WIDE, app
from benchmarks.serving import ROOT, launched_chromium

FILE = FOLDER / "tour.gif"
SIZE = (1008, 630)
COLOURS = 160
SHORTEST_MILLISECONDS = 120


class Film:
    """Pictures of a page, each with the time at which it was taken."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.pictures: list[tuple[float, Image.Image]] = []

    def take(self, seconds: float = 0.0) -> None:
        """Take pictures for so long, one at least."""
        end = time.perf_counter() + seconds
        while True:
            at = time.perf_counter()
            picture = Image.open(io.BytesIO(self.page.screenshot())).convert("RGB")
            if not self.pictures or picture.tobytes() != self.pictures[-1][1].tobytes():
                self.pictures.append((at, picture))
            if time.perf_counter() >= end:
                return

    def save(self) -> None:
        """Write the GIF; every picture is shown until the next one was taken, and the last for two seconds."""
        times = [at for at, _ in self.pictures]
        shown = [max(SHORTEST_MILLISECONDS, round(1000 * (b - a))) for a, b in pairwise(times)]
        small = [picture.resize(SIZE, Image.Resampling.LANCZOS) for _, picture in self.pictures]
        # One palette for all, from pictures of every part: a colour that only one of them has is to stay.
        several = small[:: max(1, len(small) // 8)]
        sheet = Image.new("RGB", (SIZE[0], SIZE[1] * len(several)))
        for number, picture in enumerate(several):
            sheet.paste(picture, (0, SIZE[1] * number))
        palette = sheet.quantize(COLOURS, dither=Image.Dither.NONE)
        first, *others = (picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in small)
        first.save(FILE, save_all=True, append_images=others, duration=[*shown, 2000], loop=0, optimize=True)


def play(page: Page, film: Film) -> None:
    """What is shown."""
    film.take(1.5)
    page.locator("#chat").get_by_text(NUMBER["question"]).click()
    film.take(2.0)
    expect(page.locator("#chat .answer-token").first).to_be_visible()
    film.take(1.0)
    tokens = page.locator("#chat .answer-token")
    digits = [n for n, text in enumerate(tokens.all_inner_texts()) if text.strip().isdigit()]
    for number in [digits[0] - 2, *digits]:
        tokens.nth(number).hover()
        film.take(0.7)
    page.locator("#right-tabs").get_by_role("tab", name="Position map", exact=True).click()
    film.take(1.5)
    slider = page.locator("#group-size input[type=range]")
    slider.focus()
    for step in range(14):
        page.keyboard.press("PageDown" if step < 7 else "PageUp")
        film.take(0.15)
    film.take(1.0)
    page.locator("#right-tabs").get_by_role("tab", name="Attention", exact=True).click()
    film.take(2.0)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    expect.set_options(timeout=WAIT_MILLISECONDS)
    with sync_playwright() as playwright, app() as address:
        browser = launched_chromium(playwright)
        page = browser.new_page(viewport={"width": WIDE[0], "height": WIDE[1]})
        page.set_default_timeout(WAIT_MILLISECONDS)
        page.goto(f"{address}/?__theme=light")
        expect(page.locator(".document-list")).to_contain_text("sample.pdf")
        expect(page.locator("#chat .contrast .right")).to_be_visible()  # the example is answered, so all is read
        film = Film(page)
        play(page, film)
        film.save()
        browser.close()
    print(f"{FILE.relative_to(ROOT)}: {len(film.pictures)} pictures, {FILE.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
