"""Models on this machine: found where each program keeps them, from the beginnings of their files, quickly."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from gguf.constants import GGMLQuantizationType as Kind
from gguf_files import llama_gguf
from tiny_models import TRAINED_WINDOW, save_folder, tiny_model

from selfextend.cli import main
from selfextend.loading.local import LocalModel, Stores, local_models
from selfextend.loading.models import load_model


def _stores(tmp_path: Path, *folders: tuple[str, Path]) -> Stores:
    return Stores(hub=tmp_path / "hub", ollama=(tmp_path / "ollama",), folders=folders)


def _snapshot(tmp_path: Path, repository: str) -> Path:
    folder = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    return folder / "snapshots" / "abc"


def test_the_hubs_cache(tmp_path: Path) -> None:
    save_folder(_snapshot(tmp_path, "somebody/tiny"), tiny_model())
    gguf = _snapshot(tmp_path, "somebody/tiny-GGUF")
    gguf.mkdir(parents=True)
    llama_gguf(gguf / "tiny-Q8_0.gguf", Kind.Q8_0)
    # A tokenizer alone, and a model that writes no text.
    (_snapshot(tmp_path, "somebody/config-only")).mkdir(parents=True)
    encoder = save_folder(_snapshot(tmp_path, "somebody/encoder"), tiny_model())
    (encoder / "config.json").write_text(json.dumps({"architectures": ["BertModel"], "model_type": "bert"}))
    plain, packed = local_models(_stores(tmp_path))
    assert (plain.label, plain.name, plain.place) == ("somebody/tiny", "somebody/tiny", "Hugging Face")
    assert (plain.trained_window, plain.quantization) == (TRAINED_WINDOW, "float32")
    assert plain.memory_bytes() == plain.file_bytes
    assert (packed.label, packed.quantization) == ("tiny-GGUF: tiny-Q8_0", "Q8_0")
    assert packed.trained_window == TRAINED_WINDOW
    assert packed.file_bytes < packed.memory_bytes() < 2 * packed.file_bytes
    assert packed.memory_bytes(nf4=True) < packed.file_bytes
    assert load_model(packed.name)[0] is not None


def test_ollama(tmp_path: Path) -> None:
    blobs = tmp_path / "ollama" / "blobs"
    blobs.mkdir(parents=True)
    llama_gguf(blobs / "model.gguf", Kind.Q4_0)
    (blobs / "model.gguf").rename(blobs / "sha256-01")
    (blobs / "sha256-02").write_text(json.dumps({"file_type": "Q4_0"}))
    manifest = {
        "config": {"digest": "sha256:02"},
        "layers": [
            {"mediaType": "application/vnd.ollama.image.license", "digest": "sha256:02"},
            {"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:01"},
        ],
    }
    for owner, model in (("library", "tiny"), ("somebody", "other"), ("library", "gone")):
        folder = tmp_path / "ollama" / "manifests" / "registry.ollama.ai" / owner / model
        folder.mkdir(parents=True)
        (folder / "1b").write_text(json.dumps(manifest) if model == "tiny" else "{")
    (found,) = local_models(_stores(tmp_path))
    assert (found.label, found.place, found.quantization) == ("tiny:1b", "Ollama", "Q4_0")
    assert load_model(found.name)[0] is not None


def test_folders(tmp_path: Path) -> None:
    top = tmp_path / "models"
    (top / "publisher" / "repository").mkdir(parents=True)
    llama_gguf(top / "publisher" / "repository" / "tiny-F16.gguf", Kind.F16)
    (top / "publisher" / "repository" / "mmproj-tiny.gguf").write_bytes(b"GGUF")
    (top / "big-00001-of-00002.gguf").write_bytes(b"GGUF")
    (top / "damaged.gguf").write_bytes(b"GGUF" + bytes(20))
    (top / "half.gguf").write_bytes((top / "publisher" / "repository" / "tiny-F16.gguf").read_bytes()[:40])
    (top / "page.gguf").write_text("<html>")
    quantized = save_folder(top / "quantized", tiny_model())
    config = json.loads((quantized / "config.json").read_text()) | {"quantization_config": {"quant_method": "gptq"}}
    (quantized / "config.json").write_text(json.dumps(config))
    gptq, plain = local_models(_stores(tmp_path, ("LM Studio", top), ("llama.cpp", tmp_path / "nowhere")))
    assert (gptq.name, gptq.quantization, gptq.memory_bytes()) == (str(quantized), "gptq", gptq.file_bytes)
    assert (plain.label, plain.quantization) == ("tiny-F16", "F16")
    assert plain.memory_bytes() == plain.file_bytes


def test_a_model_that_is_found_twice_is_shown_once(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    llama_gguf(tmp_path / "models" / "tiny.gguf")
    folders = (("models folder", tmp_path / "models"), ("LM Studio", tmp_path))
    assert [model.place for model in local_models(_stores(tmp_path, *folders))] == ["models folder"]


def test_two_hundred_files_in_under_a_second(tmp_path: Path) -> None:
    llama_gguf(tmp_path / "tiny.gguf")
    content = (tmp_path / "tiny.gguf").read_bytes()
    top = tmp_path / "models"
    top.mkdir()
    for number in range(200):
        (top / f"tiny-{number}.gguf").write_bytes(content)
    start = time.perf_counter()
    found = local_models(_stores(tmp_path, ("llama.cpp", top)))
    seconds = time.perf_counter() - start
    print(f"{len(found)} GGUF files listed in {seconds:.3f} s")
    assert len(found) == 200
    assert seconds < 1


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    empty = Stores(tmp_path / "hub", (), ())
    monkeypatch.setattr("selfextend.commands.models.usual_stores", lambda folders: empty)
    assert main(["models"]) == 0
    assert "No models were found" in capsys.readouterr().out
    llama_gguf(tmp_path / "tiny.gguf")

    def with_folders(folders: list[Path]) -> Any:
        return Stores(tmp_path / "hub", (), tuple(("models folder", folder) for folder in folders))

    monkeypatch.setattr("selfextend.commands.models.usual_stores", with_folders)
    assert main(["models", "--models-folder", str(tmp_path), "--json"]) == 0
    (model,) = json.loads(capsys.readouterr().out)["models"]
    assert (model["label"], model["fits"]) == ("tiny", True)
    assert main(["models", "--models-folder", str(tmp_path)]) == 0
    assert f"--model {tmp_path / 'tiny.gguf'}" in capsys.readouterr().out


def test_what_is_too_big_by_its_format() -> None:
    model = LocalModel("seven", "/m/seven.gguf", "Ollama", 4_080_000_000, 4096, "Q4_K_M", unpacked=True)
    assert 13e9 < model.memory_bytes() < 15e9
    assert 3.5e9 < model.memory_bytes(nf4=True) < 4.5e9
