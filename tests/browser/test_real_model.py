"""A real instruct model in a browser: SmolLM2-135M-Instruct as a GGUF file, chosen from the menu and asked about a PDF.

Skipped where the file is not here: `python -m benchmarks.real_model fetch` gets it, and `.ci/run` does that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from branches import served
from chat_parts import answered, app_command, ask, ready, upload
from fpdf import FPDF
from playwright.sync_api import Page, expect

from benchmarks.real_model import FOLDER, model_file

MODEL = model_file(FOLDER)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(MODEL is None, reason="the model is not here: python -m benchmarks.real_model fetch"),
]

PAGES = (
    """Welcome to Carrow Point. The lighthouse stands on the northern cliff, two miles from the village. A path leads
    from the harbour past the old chapel and the school to its gate. Visitors are asked to keep dogs on a lead, because
    sheep graze on both sides of the path. In winter the path is closed after heavy snow.""",
    """The lighthouse was built in 1874 by the engineer Margaret Ellis. Its tower is thirty-one metres high and has 168
    steps. The lamp was lit with oil at first and has been electric since 1926. On clear nights its light is seen from
    ships eighteen miles away. The keeper's house beside the tower is a museum today.""",
    """The museum is open from April to October, every day but Monday, from ten in the morning until five. Tea and cake
    are served in the garden when the weather allows it. A ticket costs four pounds, and children under twelve pay
    nothing. Groups of more than ten people are asked to write to the warden a week before their visit.""",
)


@pytest.fixture(scope="module")
def guide(folder: Path) -> Path:
    """A PDF of three pages."""
    pdf = FPDF()
    pdf.set_font("Helvetica", size=12)
    for text in PAGES:
        pdf.add_page()
        pdf.multi_cell(0, 7, " ".join(text.split()))
    path = folder / "carrow-point.pdf"
    pdf.output(str(path))
    return path


@pytest.fixture(scope="module")
def real_address(folder: Path, model: Path) -> Iterator[str]:
    """The app on the tiny model, in whose menu the real one is."""
    with served(app_command(model, folder / "data", "--models-folder", str(FOLDER))) as url:
        yield url


def test_a_real_model_answers_from_a_pdf_with_its_page(
    real_address: str, guide: Path, open_page: Callable[..., Page]
) -> None:
    page = ready(open_page(real_address, width=1500))
    page.get_by_role("button", name="Change the model").click()
    page.locator("#model-choice input").click()
    page.get_by_role("option").filter(has_text="SmolLM2-135M-Instruct").first.click()
    page.get_by_role("button", name="Load", exact=True).click()
    expect(page.locator("#model-summary .name")).to_contain_text("SmolLM2-135M-Instruct", timeout=240_000)
    upload(page, guide)
    ask(page, "In which year was the lighthouse at Carrow Point built, and by whom?")
    answered(page)
    answer = page.locator("#chat .bot").last
    expect(answer).to_contain_text("1874")
    expect(answer).to_contain_text("Margaret Ellis")
    expect(answer.locator("a.page-link").filter(has_text="p. 2")).to_have_count(1)
