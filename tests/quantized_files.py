"""Tiny checkpoints whose weights are quantized already."""

import copy
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tiny_models import save_tokenizer, tiny_model
from transformers import AutoModelForCausalLM, GptOssConfig, GptOssForCausalLM, PreTrainedModel, TorchAoConfig

# Sizes that bitsandbytes' and FP8's blocks fill.
FP8_SIZES = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4, "num_key_value_heads": 4}
FP4_LEVELS = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])


def with_settings(folder: Path, settings: dict[str, Any] | None) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["quantization_config"] = settings
    path.write_text(json.dumps(config))


def as_fp8(folder: Path) -> dict[str, torch.Tensor]:
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


def save_gpt_oss(folder: Path) -> None:
    """A tiny gpt-oss with its tokenizer, not quantized yet."""
    torch.manual_seed(0)
    config = GptOssConfig(
        vocab_size=300, hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, num_local_experts=2, num_experts_per_tok=1, pad_token_id=0,
        eos_token_id=0, max_position_embeddings=256, dtype=torch.float32,
    )  # fmt: skip
    GptOssForCausalLM(config).save_pretrained(folder)
    save_tokenizer(folder)


def as_mxfp4(folder: Path) -> dict[str, torch.Tensor]:
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
        numbers = FP4_LEVELS[nibbles & 7] * torch.where(nibbles > 7, -1.0, 1.0)
        numbers = numbers * torch.exp2(scales[..., None].float() - 127)
        expected[name] = numbers.reshape(experts, outputs, inputs).transpose(1, 2)
    save_file(stored, path, {"format": "pt"})
    return expected


def save_compressed(folder: Path, bits: int) -> PreTrainedModel:
    """A tiny model as compressed-tensors stores it, in 8 bits or packed in 4; that model before it was packed."""
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import (
        QuantizationArgs,
        QuantizationConfig,
        QuantizationScheme,
        QuantizationStatus,
        apply_quantization_config,
    )

    model, kind = tiny_model(**FP8_SIZES), "int-quantized" if bits == 8 else "pack-quantized"
    args = QuantizationArgs(num_bits=bits, type="int", symmetric=True, strategy="channel")
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    frozen = QuantizationStatus.FROZEN
    groups = {"group_0": scheme}
    config = QuantizationConfig(config_groups=groups, format=kind, ignore=["lm_head"], quantization_status=frozen)
    apply_quantization_config(model, config)
    for module in model.modules():
        if hasattr(module, "weight_scale"):
            largest = module.weight.abs().amax(1, keepdim=True)
            module.weight_scale.data.copy_(2 * largest / (2**bits - 1))
    rounded = copy.deepcopy(model)
    compressor = ModelCompressor.from_pretrained_model(model, kind)
    compressor.compress_model(model)
    model.save_pretrained(folder)
    compressor.update_config(folder)
    save_tokenizer(folder)
    return rounded


def save_torchao(folder: Path, plain: Path) -> PreTrainedModel:
    """The model in `plain` as torchao stores it in int8; that model."""
    from torchao.quantization import Int8WeightOnlyConfig

    method = TorchAoConfig(Int8WeightOnlyConfig())
    model = AutoModelForCausalLM.from_pretrained(plain, quantization_config=method, dtype=torch.float32)
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return model
