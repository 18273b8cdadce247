"""Which models are offered where the teaching model cannot answer, and what the page says of them."""

from __future__ import annotations

import hashlib
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import gradio as gr
import pytest
import torch
from app_parts import request_from, stored
from gguf_files import CHAT_TEMPLATE, SIZES, llama_gguf, write_gguf, write_sentencepiece
from quantized_files import with_settings
from tiny_models import save_folder, tiny_model

from app.answering import reply_by
from app.conversation import Entry, Reply, messages
from app.documents.library import StoredDocument
from app.model_menu import local_choices
from app.offers import MOST_HERE, Offer, fitting, offers_for, preset_offers
from app.page import build_page
from app.runtime import make_runtime
from app.sample import SAMPLE, has_foreign_text, is_sample, only_the_sample
from app.session import Session
from app.settings import read_settings
from app.tabs.offers_panel import AT_FIRST, offers_html
from selfextend.loading.hardware import AskedQuantization, has_fast_bfloat16
from selfextend.methods import SelfExtend

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
    offers = {each.label: each for each in preset_offers(device, 10**12)}
    assert {"SmolLM2-360M-Instruct", "SmolLM2-1.7B-Instruct", "Qwen3-0.6B", "Llama-3.2-1B-Instruct"} <= set(offers)
    assert "Bundled teaching model" not in offers
    assert "Phi-2" not in offers
    for each in offers.values():
        assert each.trained_window
        assert each.licence
        assert each.memory_bytes == each.file_bytes * (1 if has_fast_bfloat16(device) else 2)


def test_presets_are_sized_as_they_would_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """In nf4 on a GPU, unless the server was started with another quantization or bitsandbytes is missing."""
    monkeypatch.setattr("selfextend.loading.memory.has_fast_bfloat16", lambda device: True)
    cuda = torch.device("cuda")

    def share(quantization: AskedQuantization, device: torch.device = cuda) -> float:
        (phi,) = [each for each in preset_offers(device, 100 * GB, quantization) if each.label.startswith("Phi-4")]
        return phi.memory_bytes / phi.file_bytes

    assert share("auto") == pytest.approx(4.5 / 16)
    assert share("int8") == pytest.approx(1 / 2)
    assert share("none") == 1
    assert share("auto", torch.device("cpu")) == 1
    assert share("nf4", torch.device("cpu")) == pytest.approx(4.5 / 16)
    monkeypatch.setattr("selfextend.loading.quantization_methods.find_spec", lambda module: None)
    assert share("auto") == 1


def test_no_more_models_are_looked_into_than_are_offered(
    tmp_path: Path, only_here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that do not fit are not looked into at all."""
    models = tmp_path / "models"
    models.mkdir()
    for number in range(MOST_HERE + 3):
        llama_gguf(models / f"model-{number}.gguf")
    (models / "model-0.gguf").rename(models / "base.gguf")
    write_gguf(models / "wide.gguf", tiny_model(hidden_size=256), "llama")
    looked = list[str]()

    def can_chat(files: Path, device: str) -> bool:
        looked.append(files.stem)
        return files.stem != "base"

    monkeypatch.setattr("selfextend.loading.models.can_chat", can_chat)
    settings, device = read_settings(["--models-folder", str(models)], {}), torch.device("cpu")
    here = (models / "base.gguf").stat().st_size
    free = int(6 * here)  # in memory a model takes up to four times its file
    offers = offers_for(settings, request_from("127.0.0.1", "localhost"), device, free)
    assert [each.label for each in offers if each.here] == [f"model-{number} (GGUF)" for number in range(1, 6)]
    assert looked == ["base", *(f"model-{number}" for number in range(1, 6))]


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


def test_an_offer_is_loaded_in_the_quantization_that_the_server_was_started_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runtime = make_runtime(read_settings(["--no-persist", "--quantization", "none", "--device", "cpu"], {}))
    take = next(each.fn for each in build_page(runtime).fns.values() if getattr(each.fn, "__name__", "") == "take")
    answers, loaded = iter([[offer("a", 1)], None]), list[tuple[object, ...]]()

    def load(*given: object) -> Generator[str, None, str]:
        loaded.append(given[1:])
        yield from ()
        return ""

    monkeypatch.setattr("app.tabs.offers_panel.offers_of", lambda *_: next(answers))
    monkeypatch.setattr("app.tabs.offers_panel.told_load", load)
    clicked = gr.EventData(None, {"name": "owner/a"})
    list(take(clicked, "visitor", [], "", request_from("127.0.0.1", "localhost")))
    assert loaded == [("owner/a", "none", "cpu")]


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
    reply = reply_by(SelfExtend("none", 8, 64), turn=7, text="The fox", unfinished=True, stopped=stopped)
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
