"""Models on this machine: found where each program keeps them, from the beginnings of their files, quickly."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf.constants import GGMLQuantizationType as Kind
from gguf_files import llama_gguf, write_gguf
from quantized_files import FP8_SIZES, as_fp8, as_mxfp4, save_gpt_oss, with_settings
from tiny_models import TRAINED_WINDOW, save_folder, tiny_model

from selfextend.cli import main
from selfextend.loading.local import LocalModel, Stores, local_models, usual_stores
from selfextend.loading.memory import estimate_memory, local_bytes
from selfextend.loading.models import load_model
from selfextend.loading.sources import read_config
from selfextend.profile import profile_of

CPU, CUDA, FREE = torch.device("cpu"), torch.device("cuda"), 10**12


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
    expected = estimate_memory(plain.files, "auto", "cpu").weights_bytes
    assert local_bytes(plain, CPU, FREE) == pytest.approx(expected, rel=0.02)
    assert (packed.label, packed.quantization) == ("tiny-GGUF: tiny-Q8_0", "Q8_0")
    assert packed.trained_window == TRAINED_WINDOW
    assert local_bytes(packed, CUDA, FREE) < packed.file_bytes
    assert load_model(packed.name)[0] is not None


def test_the_list_states_the_window_that_the_loaded_model_has(tmp_path: Path) -> None:
    """From selfextend.json, then the preset of that name, then the config: YaRN's, in either spelling, too."""
    save_folder(_snapshot(tmp_path, "mistralai/Mistral-7B-v0.1"), tiny_model())
    models = tmp_path / "models"
    save_folder(models / "stated", tiny_model())
    (models / "stated" / "selfextend.json").write_text(json.dumps({"trained_window": 128}))
    save_folder(models / "yarn", tiny_model())
    config = json.loads((models / "yarn" / "config.json").read_text())
    del config["rope_parameters"]
    scaling = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": TRAINED_WINDOW}
    (models / "yarn" / "config.json").write_text(json.dumps(config | {"rope_scaling": scaling}))
    facts = {"type": "yarn", "factor": 2.0, "original_context_length": TRAINED_WINDOW}
    llama_gguf(models / "file.gguf", **{f"rope.scaling.{name}": value for name, value in facts.items()})
    found = local_models(_stores(tmp_path, ("models folder", models)))
    windows = {model.label: model.trained_window for model in found}
    assert windows == {"mistralai/Mistral-7B-v0.1": 8192, "stated": 128, "yarn": 1024, "file": 512}
    loaded = {each.label: profile_of(each.name, each.files, read_config(each.files)).trained_window for each in found}
    assert loaded == windows


def test_numbers_that_make_no_window_leave_it_unknown(tmp_path: Path) -> None:
    llama_gguf(tmp_path / "tiny.gguf", **{"rope.scaling.type": "yarn", "rope.scaling.factor": float("inf")})
    save_folder(tmp_path / "folder", tiny_model())
    config = json.loads((tmp_path / "folder" / "config.json").read_text())
    scaling = {"rope_type": "yarn", "factor": "four"}
    (tmp_path / "folder" / "config.json").write_text(json.dumps(config | {"rope_parameters": scaling}))
    found = local_models(_stores(tmp_path, ("models folder", tmp_path)))
    assert {model.label: model.trained_window for model in found} == {"folder": None, "tiny": None}


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
    assert (gptq.name, gptq.quantization) == (str(quantized), "gptq")
    assert local_bytes(gptq, CPU, FREE) == gptq.file_bytes
    assert (plain.label, plain.quantization) == ("tiny-F16", "F16")


@pytest.mark.parametrize(
    ("place", "variable", "folder"),
    [
        ("Ollama", "", ".ollama/models"),
        ("Ollama", "OLLAMA_MODELS", "elsewhere"),
        ("LM Studio", "", ".lmstudio/models"),
        ("LM Studio", "", ".cache/lm-studio/models"),
        ("llama.cpp", "", ".cache/llama.cpp"),
        ("llama.cpp", "", "Library/Caches/llama.cpp"),  # macOS
        ("llama.cpp", "XDG_CACHE_HOME", "caches/llama.cpp"),
        ("llama.cpp", "LOCALAPPDATA", "AppData/Local/llama.cpp"),  # Windows
        ("llama.cpp", "LLAMA_CACHE", "llama"),
    ],
)
def test_where_each_program_keeps_its_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, variable: str, folder: str
) -> None:
    for name in ("OLLAMA_MODELS", "XDG_CACHE_HOME", "LOCALAPPDATA", "LLAMA_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    store = tmp_path / folder
    if variable:
        monkeypatch.setenv(variable, str(store.parent if store.name == "llama.cpp" else store))
    kept = store / ("blobs" if place == "Ollama" else "publisher")
    kept.mkdir(parents=True)
    llama_gguf(kept / "tiny.gguf")
    if place == "Ollama":
        (kept / "tiny.gguf").rename(kept / "sha256-01")
        manifest = {"layers": [{"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:01"}]}
        (store / "manifests" / "registry.ollama.ai" / "library" / "tiny").mkdir(parents=True)
        (store / "manifests" / "registry.ollama.ai" / "library" / "tiny" / "1b").write_text(json.dumps(manifest))
    found = [model for model in local_models(usual_stores()) if str(tmp_path) in model.name]
    assert [(model.place, model.files.parent) for model in found] == [(place, kept)]


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


@pytest.mark.parametrize("fast_bfloat16", [True, False])
@pytest.mark.parametrize("kind", [Kind.F32, Kind.F16, Kind.BF16, Kind.Q8_0, Kind.Q4_0])
def test_the_list_and_the_estimate_agree_on_gguf(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind, fast_bfloat16: bool
) -> None:
    monkeypatch.setattr("selfextend.loading.memory.has_fast_bfloat16", lambda device: fast_bfloat16)
    # Wide enough for the vocabulary and the header to be a small part of the file.
    model = tiny_model(hidden_size=256, intermediate_size=1024)
    write_gguf(tmp_path / f"tiny-{kind.name}.gguf", model, "llama", kind=kind)
    (found,) = local_models(_stores(tmp_path, ("LM Studio", tmp_path)))
    expected = estimate_memory(found.name, "auto", "cpu").weights_bytes
    assert local_bytes(found, CPU, FREE) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("method", ["fp8", "mxfp4"])
def test_the_list_counts_what_is_unpacked_as_the_estimate_does(tmp_path: Path, method: str) -> None:
    """gpt-oss-20b, 13 GB on disk, takes three times as much."""
    folder = tmp_path / "models" / "packed"
    if method == "fp8":
        save_folder(folder, tiny_model(**FP8_SIZES))
        as_fp8(folder)
    else:
        save_gpt_oss(folder)
        as_mxfp4(folder)
    with_settings(folder, {"quant_method": method})
    (found,) = local_models(_stores(tmp_path, ("LM Studio", tmp_path / "models")))
    assert (found.quantization, found.name) == (method, str(folder))
    for device in (CPU, CUDA):
        assert local_bytes(found, device, FREE) > found.file_bytes
    expected = estimate_memory(folder, "auto", "cpu").weights_bytes
    assert local_bytes(found, CPU, FREE) == pytest.approx(expected, rel=0.001)


def test_what_is_too_big_by_its_format(monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path("/m/seven.gguf")
    model = LocalModel(
        "seven", str(path), path, "Ollama", 4_080_000_000, 4096, "Q4_K_M", 7_000_000_000, "bfloat16", takes_nf4=True
    )
    monkeypatch.setattr("selfextend.loading.memory.has_fast_bfloat16", lambda device: False)
    assert 26e9 < local_bytes(model, CPU, FREE) < 30e9
    assert 13e9 < local_bytes(model, CPU, 20 * 10**9) < 15e9
    assert 3.5e9 < local_bytes(model, CUDA, FREE) < 4.5e9


def test_embedding_models_are_no_models_to_ask(tmp_path: Path) -> None:
    """Ollama and LM Studio keep them beside the others."""
    models = tmp_path / "models"
    models.mkdir()
    llama_gguf(models / "tiny.gguf")
    llama_gguf(models / "pooled.gguf", pooling_type=1)
    llama_gguf(models / "both-ways.gguf", **{"attention.causal": False})
    assert [model.label for model in local_models(_stores(tmp_path, ("Ollama", models)))] == ["tiny"]
