"""Which models are offered where the teaching model cannot answer, and what the page says of them."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from app_parts import request_from, stored
from gguf_files import CHAT_TEMPLATE, SIZES, llama_gguf, write_gguf, write_sentencepiece
from quantized_files import with_settings
from tiny_models import save_folder, tiny_model

from app.conversation import Entry, Reply, messages
from app.documents.library import StoredDocument
from app.model_menu import local_choices
from app.offers import Offer, fitting, offers_for, preset_offers
from app.sample import SAMPLE, has_foreign_text, is_sample, only_the_sample
from app.session import Session
from app.settings import read_settings
from app.tabs.offers_panel import AT_FIRST, offers_html
from selfextend.loading.hardware import has_fast_bfloat16

GB = 10**9


def offer(name: str, size: float, **more: object) -> Offer:
    return replace(Offer(f"owner/{name}", name, int(size * GB), int(size * GB)), **more)  # type: ignore[arg-type]


def the_sample(name: str = "sample.pdf") -> StoredDocument:
    own = stored()
    checksum = hashlib.sha256(SAMPLE.read_bytes()).hexdigest()
    return StoredDocument(replace(own.document, name=name, sha256=checksum), Path(name))


@pytest.fixture
def only_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No models but those below `tmp_path`."""
    for name in ("HOME", "OLLAMA_MODELS", "LLAMA_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "nothing"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def chat_folder(folder: Path) -> Path:
    """A tiny model that was made to chat, by its template."""
    save_folder(folder, tiny_model())
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    return folder


def test_what_is_here_comes_first_then_the_smallest_and_nothing_that_does_not_fit() -> None:
    offers = [
        offer("big", 9),
        offer("gated", 1, gated=True),
        offer("middle", 3),
        offer("small", 2),
        offer("mine", 4, here=True),
    ]
    assert [each.label for each in fitting(offers, 5 * GB)] == ["mine", "small", "middle", "gated"]
    assert fitting(offers, GB // 2) == []


def test_the_presets_that_answer_questions_are_offered_with_what_a_person_decides_by() -> None:
    device = torch.device("cpu")
    offers = {each.label: each for each in preset_offers(device)}
    assert {"SmolLM2-360M-Instruct", "SmolLM2-1.7B-Instruct", "Qwen3-0.6B", "Llama-3.2-1B-Instruct"} <= set(offers)
    assert "Bundled teaching model" not in offers
    assert "Phi-2" not in offers
    for each in offers.values():
        assert each.trained_window
        assert each.licence
        assert each.memory_bytes == each.file_bytes * (1 if has_fast_bfloat16(device) else 2)


def test_a_model_that_is_here_is_offered_once_and_to_its_operator_only(tmp_path: Path, only_here: None) -> None:
    snapshot = tmp_path / "hub" / "models--Qwen--Qwen3-0.6B" / "snapshots" / "abc"
    chat_folder(snapshot)
    device, settings = torch.device("cpu"), read_settings([], {})
    here, *others = offers_for(settings, request_from("127.0.0.1", "localhost"), device, 100 * GB)
    assert (here.name, here.here, here.trained_window) == ("Qwen/Qwen3-0.6B", True, 40_960)  # as the preset says
    assert "Qwen/Qwen3-0.6B" not in [each.name for each in others]
    elsewhere = offers_for(settings, request_from("127.0.0.1", "localhost", x_real_ip="9.9.9.9"), device, 100 * GB)
    assert not any(each.here for each in elsewhere)


def test_only_what_can_be_asked_is_offered(tmp_path: Path, only_here: None) -> None:
    """No model without a chat template, of a kind that cannot be read, or whose package is missing."""
    models = tmp_path / "models"
    models.mkdir()
    llama_gguf(models / "good.gguf")
    write_gguf(models / "no-template.gguf", tiny_model(**SIZES), "llama", tokenizer=write_sentencepiece)
    write_gguf(models / "t5.gguf", tiny_model(**SIZES), "t5")
    write_gguf(models / "unknown.gguf", tiny_model(**SIZES), "unheard-of")
    write_gguf(models / "embeds.gguf", tiny_model(**SIZES), "nomic-bert", facts={"pooling_type": 1})
    save_folder(models / "base", tiny_model())
    with_settings(chat_folder(models / "packed"), {"quant_method": "hqq", "quant_config": {}})
    with_settings(chat_folder(models / "homemade"), {"quant_method": "homemade"})
    chat_folder(models / "chats")
    settings = read_settings(["--models-folder", str(models)], {})
    offers = offers_for(settings, request_from("127.0.0.1", "localhost"), torch.device("cpu"), 100 * GB)
    assert sorted(each.label for each in offers if each.here) == ["chats (float32)", "good (GGUF)"]
    choices = local_choices(settings, request_from("127.0.0.1", "localhost"), torch_is_here=True)
    words = {Path(name).name: words for words, name in choices}
    assert "needs pip install hqq" in words["packed"]
    assert "embeds.gguf" not in words


def test_the_page_names_the_document_and_each_model() -> None:
    session = Session("v", documents=[the_sample(), stored("my <b>notes</b>.txt")])
    many = [offer(f"model-{number}", number) for number in range(1, 6)]
    html = offers_html(many, session, question="Who?")
    assert "my &lt;b&gt;notes&lt;/b&gt;.txt" in html
    assert "have your question asked again" in html
    assert html.count("<button") == len(many)
    assert f"<summary>{len(many) - AT_FIRST} more</summary>" in html
    assert "asked again" not in offers_html(many, session)
    assert "4.00 GB on this machine" in offers_html([offer("mine", 4, here=True)], session)
    assert "nothing listed fits" in offers_html([], session)
    assert offers_html(None, session) == ""


def test_the_sample_is_known_by_its_content() -> None:
    assert is_sample(the_sample("renamed.pdf"))
    assert not is_sample(stored("sample.pdf"))
    assert only_the_sample([the_sample()])
    assert not only_the_sample([the_sample(), stored()])
    assert has_foreign_text([the_sample(), stored()])
    assert not has_foreign_text([])


@pytest.mark.parametrize("stopped", ["", "Stopped after 3 tokens."])
def test_only_the_newest_answer_can_go_on(stopped: str) -> None:
    reply = Reply(7, "selfextend", "The fox", group_size=8, neighbor_window=64, unfinished=True, stopped=stopped)
    shown = messages([Entry("Who?", (reply,), "tiny"), Entry("And who?", (replace(reply, turn=8),), "tiny")])
    assert "Continue" not in shown[1]["content"]
    assert 'href="#continue-8"' in shown[3]["content"]
    assert ("Cut off here" in shown[3]["content"]) is not bool(stopped)


def test_what_was_thought_is_folded_up_once_the_answer_begins() -> None:
    reply = Reply(7, "vanilla", "<think>\nA fox, I think.\n</think>\n\nThe fox.")
    (_, shown) = messages([Entry("Who?", (reply,), "tiny")])
    assert "<summary>Thinking (4 words)</summary>" in shown["content"]
    assert shown["content"].endswith("</details>\n\nThe fox.")
    (_, shown) = messages([Entry("Who?", (replace(reply, text="<think>\nA fox"),), "tiny")])
    assert '<details class="thinking" open>' in shown["content"]
