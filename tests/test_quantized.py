"""Checkpoints that are quantized already: kept, unpacked, or refused, each with what to do."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import save_folder, save_tokenizer, tiny_model
from transformers import GptOssConfig, GptOssForCausalLM, PreTrainedModel

from selfextend import SelfExtendConfig, errors, self_extend
from selfextend.loading.memory import estimate_memory, settled_quantization
from selfextend.loading.models import load_model
from selfextend.loading.quantized import stored_bytes
from selfextend.loading.sources import Source

# Sizes that bitsandbytes' and FP8's blocks fill.
SIZES = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4, "num_key_value_heads": 4}
TOKENS = torch.randint(0, 300, (1, 40), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def _logits(model: PreTrainedModel) -> torch.Tensor:
    return model(TOKENS).logits.float()


def _with_settings(folder: Path, settings: dict[str, Any] | None) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["quantization_config"] = settings
    path.write_text(json.dumps(config))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_folder(tmp_path / "model", tiny_model(**SIZES))


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


@pytest.mark.parametrize(
    ("settings", "module", "install"),
    [
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, "gptqmodel", "pip install gptqmodel"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "gptqmodel", "pip install optimum gptqmodel"),
        (
            {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {}},
            "compressed_tensors",
            "pip install compressed-tensors",
        ),
        ({"quant_method": "torchao", "quant_type": "int8_weight_only"}, "torchao", "pip install torchao"),
        ({"quant_method": "hqq", "quant_config": {}}, "hqq", "pip install hqq"),
    ],
    ids=["awq", "gptq", "compressed-tensors", "torchao", "hqq"],
)
def test_a_missing_package_is_named(folder: Path, settings: dict[str, Any], module: str, install: str) -> None:
    if importlib.util.find_spec(module) is not None:
        pytest.skip(f"{module} is installed")
    _with_settings(folder, settings)
    with pytest.raises(
        errors.QuantizationUnavailableError, match=f"quantized with {settings['quant_method']}.*{install}"
    ):
        load_model(folder, "auto")


def test_packages_that_transformers_asks_for_itself(folder: Path) -> None:
    _with_settings(folder, {"quant_method": "eetq", "weights": "int8"})
    with pytest.raises(errors.QuantizationUnavailableError, match="quantized with eetq, and cannot be loaded on cpu"):
        load_model(folder, device="cpu")


@pytest.mark.parametrize("settings", [{"quant_method": "homemade", "bits": 4}, {"bits": 4}])
def test_an_unknown_method_is_refused(folder: Path, settings: dict[str, Any]) -> None:
    _with_settings(folder, settings)
    with pytest.raises(errors.UnsupportedModelError, match="does not know: it would take them for plain numbers"):
        load_model(folder)


def _as_fp8(folder: Path) -> dict[str, torch.Tensor]:
    """Rounds the linear weights to FP8 in blocks of 128 x 128; the numbers that they then stand for."""
    path = folder / "model.safetensors"
    stored, rounded = {}, {}
    for name, weight in load_file(path).items():
        stored[name] = rounded[name] = weight
        if name.endswith("proj.weight"):
            blocks = weight.view(weight.shape[0] // 128, 128, weight.shape[1] // 128, 128)
            scale = blocks.abs().amax(dim=(1, 3)) / 448
            stored[name] = (blocks / scale[:, None, :, None]).view(weight.shape).to(torch.float8_e4m3fn)
            stored[f"{name}_scale_inv"] = scale
            rounded[name] = (stored[name].float().view(blocks.shape) * scale[:, None, :, None]).view(weight.shape)
    save_file(stored, path, {"format": "pt"})
    return rounded


_FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}


def test_fp8_is_unpacked_where_nothing_computes_with_it(folder: Path) -> None:
    rounded = _as_fp8(folder)
    _with_settings(folder, _FP8)
    model, _ = load_model(folder, "auto", device="cpu", dtype="float32")
    expected = tiny_model(**SIZES)
    expected.load_state_dict(rounded)
    assert (_logits(model) - _logits(expected)).abs().max() < 1e-5
    estimate = estimate_memory(folder, "auto", device="cpu", dtype="float32", available=10**9)
    plain = estimate_memory(tiny_model(**SIZES).config, device="cpu", dtype="float32", available=10**9)
    assert estimate.weights_bytes == plain.weights_bytes
    assert "unpacked from fp8" in estimate.describe()


def test_fp8_without_a_word_about_it_is_refused(folder: Path) -> None:
    _as_fp8(folder)
    with pytest.raises(errors.UnsupportedModelError, match=r"as F8_E4M3, and its config\.json does not say"):
        load_model(folder)


_FP4_LEVELS = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])


def _as_mxfp4(folder: Path) -> dict[str, torch.Tensor]:
    """Seeded blocks in place of the experts; the numbers that they stand for."""
    path, generator = folder / "model.safetensors", torch.Generator().manual_seed(3)
    stored, expected = {}, {}
    for name, weight in load_file(path).items():
        if not name.endswith(("gate_up_proj", "down_proj")):
            stored[name] = weight
            continue
        experts, inputs, outputs = weight.shape
        blocks = torch.randint(0, 256, (experts, outputs, inputs // 32, 16), generator=generator, dtype=torch.uint8)
        scales = torch.randint(118, 122, (experts, outputs, inputs // 32), generator=generator, dtype=torch.uint8)
        stored |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
        nibbles = torch.stack([blocks & 15, blocks >> 4], dim=-1).flatten(-2).long()  # the low one first
        numbers = _FP4_LEVELS[nibbles & 7] * torch.where(nibbles > 7, -1.0, 1.0)
        numbers = numbers * torch.exp2(scales[..., None].float() - 127)
        expected[name] = numbers.reshape(experts, outputs, inputs).transpose(1, 2)
    save_file(stored, path, {"format": "pt"})
    return expected


def test_mxfp4_is_unpacked_where_nothing_computes_with_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = GptOssConfig(
        vocab_size=300, hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, num_local_experts=2, num_experts_per_tok=1, pad_token_id=0,
        eos_token_id=0, max_position_embeddings=256, dtype=torch.float32,
    )  # fmt: skip
    GptOssForCausalLM(config).save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    expected = _as_mxfp4(tmp_path)
    with pytest.raises(errors.UnsupportedModelError, match=r"as U8, and its config\.json does not say"):
        load_model(tmp_path)
    _with_settings(tmp_path, {"quant_method": "mxfp4"})
    model, _ = load_model(tmp_path, "auto", device="cpu", dtype="float32")
    for name, numbers in expected.items():
        assert torch.equal(model.get_parameter(name), numbers)


def test_bytes_are_counted_where_the_weights_are_not_here_yet(folder: Path) -> None:
    """Of a model on the hub the config and the list of its files are read before the weights are fetched."""
    _with_settings(folder, {"quant_method": "bitsandbytes", "load_in_4bit": True, "_load_in_4bit": True})
    (folder / "model.safetensors").unlink()
    assert stored_bytes(folder) is None
    guessed = estimate_memory(folder, device="cpu", available=10**9)
    plain = estimate_memory(tiny_model(**SIZES).config, "nf4", device="cpu", available=10**9)
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
    assert settled_quantization("auto", hub, plain, cuda) == "nf4"
    assert settled_quantization("auto", file, plain, cuda) == "nf4"
    assert settled_quantization("auto", here, plain, cuda) == "none"
    assert settled_quantization("auto", hub, plain, cpu) == "none"
    assert settled_quantization("auto", hub, quantized, cuda) == "none"
    assert settled_quantization("int8", hub, quantized, cuda) == "int8"
