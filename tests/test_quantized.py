"""Checkpoints that are quantized already: kept, unpacked, or refused, each with what to do."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from quantized_files import (
    FP8_SIZES,
    as_fp8,
    as_mxfp4,
    save_compressed,
    save_gpt_oss,
    save_torchao,
    with_settings,
)
from safetensors.torch import load_file
from tiny_models import save_folder, tiny_model
from transformers import PreTrainedModel

from selfextend import SelfExtendConfig, errors, self_extend
from selfextend.loading.local import Stores, local_models
from selfextend.loading.memory import (
    Settled,
    estimate_files,
    estimate_memory,
    local_bytes,
    settled_quantization,
    too_big,
)
from selfextend.loading.models import load_model
from selfextend.loading.quantized import stored_bytes
from selfextend.loading.sources import Source

TOKENS = torch.randint(0, 300, (1, 40), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def _logits(model: PreTrainedModel) -> torch.Tensor:
    return model(TOKENS).logits.float()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_folder(tmp_path / "model", tiny_model(**FP8_SIZES))


@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_bitsandbytes_is_kept_as_it_is(folder: Path, tmp_path: Path, quantization: Any) -> None:
    """What was quantized while loading, saved, and loaded again, is the same model."""
    before, tokenizer = load_model(folder, quantization, device="cpu", dtype="float32")
    before.save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    after, _ = load_model(tmp_path / "saved", "auto", device="cpu", dtype="float32")
    assert torch.equal(_logits(after), _logits(before))
    estimate = estimate_memory(tmp_path / "saved", "auto", device="cpu", dtype="float32", available=10**9)
    assert estimate.weights_bytes == sum(t.nbytes for t in load_file(tmp_path / "saved" / "model.safetensors").values())
    assert "(float32, bitsandbytes, as stored)" in estimate.describe()
    with self_extend(after, SelfExtendConfig(group_size=4, neighbor_window=32)):
        assert after.generate(TOKENS, max_new_tokens=2, min_new_tokens=2).shape == (1, 42)
    with pytest.raises(errors.QuantizationUnavailableError, match=r"already \(bitsandbytes\).*'auto' or 'none'"):
        load_model(tmp_path / "saved", "nf4", device="cpu")
    with pytest.raises(errors.QuantizationUnavailableError, match=r"already \(bitsandbytes\).*'auto' or 'none'"):
        estimate_memory(tmp_path / "saved", "nf4", device="cpu")


@pytest.mark.parametrize(
    ("settings", "install"),
    [
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, "pip install gptqmodel"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "pip install optimum gptqmodel"),
        (
            {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {}},
            "pip install compressed-tensors",
        ),
        ({"quant_method": "torchao", "quant_type": "int8_weight_only"}, "pip install torchao"),
        ({"quant_method": "hqq", "quant_config": {}}, "pip install hqq"),
    ],
    ids=["awq", "gptq", "compressed-tensors", "torchao", "hqq"],
)
def test_a_missing_package_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], install: str
) -> None:
    monkeypatch.setattr("selfextend.loading.quantization_methods.find_spec", lambda module: None)
    with_settings(folder, settings)
    with pytest.raises(
        errors.QuantizationUnavailableError, match=f"quantized with {settings['quant_method']}.*{install}"
    ):
        load_model(folder, "auto")
    with pytest.raises(errors.QuantizationUnavailableError, match=install):
        estimate_memory(folder, "auto")


@pytest.mark.parametrize("bits", [8, 4])
def test_compressed_tensors_are_unpacked(tmp_path: Path, bits: int) -> None:
    """Its package would do so at the first pass, after the memory was estimated."""
    expected = save_compressed(tmp_path, bits)
    model, _ = load_model(tmp_path, "auto", device="cpu", dtype="float32")
    assert torch.equal(_logits(model), _logits(expected))
    estimate = estimate_memory(tmp_path, "auto", device="cpu", dtype="float32")
    assert estimate.weights_bytes == sum(each.nbytes for each in [*model.parameters(), *model.buffers()])
    assert "unpacked from compressed-tensors" in estimate.describe()
    (found,) = local_models(Stores(tmp_path / "hub", (), (("models folder", tmp_path),)))
    listed = local_bytes(found, torch.device("cpu"), 10**9)
    assert listed == pytest.approx(estimate.weights_bytes, rel=0.02)
    with self_extend(model, SelfExtendConfig(group_size=4, neighbor_window=32)):
        assert model.generate(TOKENS, max_new_tokens=2, min_new_tokens=2).shape == (1, 42)


def test_torchao_is_kept_as_it_is(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip(
        "torchao", reason="torchao is not installed: with it, transformers starts slower and with warnings"
    )
    before = save_torchao(tmp_path / "int8", folder)
    after, _ = load_model(tmp_path / "int8", "auto", device="cpu", dtype="float32")
    assert type(after.model.layers[0].mlp.up_proj.weight) is not torch.nn.Parameter
    assert torch.equal(_logits(after), _logits(before))
    estimate = estimate_memory(tmp_path / "int8", "auto", device="cpu", dtype="float32")
    assert estimate.weights_bytes == stored_bytes(tmp_path / "int8")
    assert "torchao, as stored" in estimate.describe()
    with self_extend(after, SelfExtendConfig(group_size=4, neighbor_window=32)):
        assert after.generate(TOKENS, max_new_tokens=2, min_new_tokens=2).shape == (1, 42)


def test_packages_that_transformers_asks_for_itself(folder: Path) -> None:
    with_settings(folder, {"quant_method": "eetq", "weights": "int8"})
    with pytest.raises(errors.QuantizationUnavailableError, match="quantized with eetq, and cannot be loaded on cpu"):
        load_model(folder, device="cpu")


@pytest.mark.parametrize("settings", [{"quant_method": "homemade", "bits": 4}, {"bits": 4}])
def test_an_unknown_method_is_refused(folder: Path, settings: dict[str, Any]) -> None:
    with_settings(folder, settings)
    with pytest.raises(errors.UnsupportedModelError, match="does not know: it would take them for plain numbers"):
        load_model(folder)


_FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}


def test_fp8_is_unpacked_where_nothing_computes_with_it(folder: Path) -> None:
    rounded = as_fp8(folder)
    with_settings(folder, _FP8)
    model, _ = load_model(folder, "auto", device="cpu", dtype="float32")
    expected = tiny_model(**FP8_SIZES)
    expected.load_state_dict(rounded)
    assert (_logits(model) - _logits(expected)).abs().max() < 1e-5
    estimate = estimate_memory(folder, "auto", device="cpu", dtype="float32", available=10**9)
    plain = estimate_memory(tiny_model(**FP8_SIZES).config, device="cpu", dtype="float32", available=10**9)
    assert estimate.weights_bytes == plain.weights_bytes
    assert "unpacked from fp8" in estimate.describe()


def test_fp8_without_a_word_about_it_is_refused(folder: Path) -> None:
    as_fp8(folder)
    with pytest.raises(errors.UnsupportedModelError, match=r"as F8_E4M3, and its config\.json does not say"):
        load_model(folder)


def test_mxfp4_is_unpacked_where_nothing_computes_with_it(tmp_path: Path) -> None:
    save_gpt_oss(tmp_path)
    expected = as_mxfp4(tmp_path)
    with pytest.raises(errors.UnsupportedModelError, match=r"as U8, and its config\.json does not say"):
        load_model(tmp_path)
    with_settings(tmp_path, {"quant_method": "mxfp4"})
    model, _ = load_model(tmp_path, "auto", device="cpu", dtype="float32")
    for name, numbers in expected.items():
        assert torch.equal(model.get_parameter(name), numbers)


def test_bytes_are_counted_where_the_weights_are_not_here_yet(folder: Path) -> None:
    """Of a model on the hub the config and the list of its files are read before the weights are fetched."""
    with_settings(folder, {"quant_method": "bitsandbytes", "load_in_4bit": True, "_load_in_4bit": True})
    weights = folder / "model.safetensors"
    whole = stored_bytes(folder)
    parts = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    index = {"metadata": {"total_size": 2 * (whole or 0)}, "weight_map": {"one": parts[0], "two": parts[1]}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    weights.rename(folder / parts[0])
    assert stored_bytes(folder) == 2 * (whole or 0), "a download that was stopped left one of two"
    shutil.copy(folder / parts[0], folder / parts[1])
    assert stored_bytes(folder) == 2 * (whole or 0)
    for name in (*parts, "model.safetensors.index.json"):
        (folder / name).unlink()
    assert stored_bytes(folder) is None
    guessed = estimate_memory(folder, device="cpu", available=10**9)
    plain = estimate_memory(tiny_model(**FP8_SIZES).config, "nf4", device="cpu", available=10**9)
    assert guessed.weights_bytes == plain.weights_bytes
    index = {"metadata": {"total_size": 123_456}, "weight_map": {}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert estimate_memory(folder, device="cpu", available=10**9).weights_bytes == 123_456


def test_what_auto_stands_for(folder: Path, tmp_path: Path) -> None:
    plain = tiny_model().config
    quantized = tiny_model().config
    quantized.quantization_config = {"quant_method": "awq", "bits": 4}
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    hub, here = Source("owner/name", None, "owner/name"), Source(str(folder), folder)
    (tmp_path / "tiny.gguf").touch()
    file = Source("tiny.gguf", tmp_path / "tiny.gguf")
    assert settled_quantization("auto", hub, plain, cuda) == Settled("nf4")
    assert settled_quantization("auto", file, plain, cuda) == Settled("nf4")
    assert settled_quantization("auto", here, plain, cuda) == Settled("none")
    assert settled_quantization("auto", hub, plain, cpu) == Settled("none")
    assert settled_quantization("auto", hub, quantized, cuda) == Settled("none")
    assert settled_quantization("int8", hub, quantized, cuda) == Settled("int8")


def test_auto_without_bitsandbytes_keeps_plain_weights_and_says_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not gigabytes first, and then an ImportError."""
    monkeypatch.setattr("selfextend.loading.quantization_methods.find_spec", lambda module: None)
    hub, plain = Source("owner/name", None, "owner/name"), tiny_model(**FP8_SIZES).config
    settled = settled_quantization("auto", hub, plain, torch.device("cuda"))
    assert settled.quantization == "none"
    estimate = estimate_files(folder, plain, settled, device="cpu", available=10**9)
    assert "for nf4: pip install bitsandbytes" in estimate.describe()
    assert estimate.fits
    refused = too_big("owner/name", replace(estimate, available_bytes=1))
    assert "pip install bitsandbytes and choose quantization 'nf4'" in str(refused)
    assert settled_quantization("auto", hub, plain, torch.device("cpu")) == Settled("none")


def test_what_auto_settled_on_is_tried_before_the_weights_are_fetched(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("selfextend.loading.memory.settled_quantization", lambda *_: Settled("nf4"))
    monkeypatch.setattr("selfextend.loading.quantization_methods.find_spec", lambda module: None)
    with pytest.raises(errors.QuantizationUnavailableError, match="pip install bitsandbytes"):
        load_model(folder, "auto", "cpu")
