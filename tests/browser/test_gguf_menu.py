"""The model menu in a browser: a GGUF file of this machine is offered, estimated, loaded and asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from chat_parts import answered, app_command, ask, ready, suggest, upload
from gguf.constants import GGMLQuantizationType
from gguf_files import llama_gguf
from playwright.sync_api import Page, expect

from benchmarks.serving import served

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def menu_address(folder: Path, model: Path) -> Iterator[str]:
    """The app on a machine with a whole GGUF file and one that was cut off."""
    models = folder / "models"
    models.mkdir()
    llama_gguf(models / "tiny-Q8_0.gguf", GGMLQuantizationType.Q8_0)
    (models / "half.gguf").write_bytes((models / "tiny-Q8_0.gguf").read_bytes()[:-100])
    command = app_command(model, folder / "data", "--models-folder", str(models))
    elsewhere = {"HOME": str(folder), "HF_HOME": str(folder / "hub"), "HF_ENDPOINT": "http://127.0.0.1:9"}
    with served(command, elsewhere) as url:
        yield url


def test_a_gguf_file_from_the_menu(menu_address: str, short: Path, open_page: Callable[..., Page]) -> None:
    page = ready(open_page(menu_address, width=1500))
    page.get_by_role("button", name="Change the model").click()
    choice = page.locator("#model-choice input")
    choice.click()
    options = page.get_by_role("option")
    expect(options.nth(1)).to_contain_text("tiny-Q8_0 · Q8_0 · ")
    expect(options.nth(1)).to_contain_text("256 tokens · fits (models folder)")
    options.nth(0).click()
    page.get_by_role("button", name="Load", exact=True).click()
    expect(page.locator("#model-status .complaint")).to_contain_text("is damaged or was not copied to its end")
    choice.click()
    options.nth(1).click()
    page.get_by_role("button", name="Estimate memory").click()
    expect(page.locator("#model-estimate .hint")).to_contain_text("unpacked from Q8_0) on cpu")
    page.get_by_role("button", name="Load", exact=True).click()
    expect(page.locator("#model-summary .name")).to_contain_text("tiny-Q8_0.gguf")
    expect(page.locator("#model-summary .activity")).to_contain_text("SelfExtend active in 2 of 2 layers")
    upload(page, short)
    suggest(page)
    ask(page)
    answered(page)
