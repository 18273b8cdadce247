"""The memory estimate against the real thing: what models and caches that exist take, byte by byte."""

from pathlib import Path

import pytest
import torch
from architectures import ARCHITECTURES, UNSUPPORTED, Architecture, build
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import save_folder, tiny_config, tiny_model
from transformers import AutoModelForCausalLM, DynamicCache, T5Config

from selfextend import SelfExtendConfig, self_extend
from selfextend.cache import cache_nbytes
from selfextend.errors import UnsupportedModelError
from selfextend.loading.hardware import available_bytes, resolve_device
from selfextend.loading.memory import LayerCache, MemoryEstimate, estimate_memory
from selfextend.loading.models import load_model


def _tensor_bytes(model: torch.nn.Module) -> int:
    """Every byte the model's tensors hold, each storage once, bitsandbytes' scales among them."""
    storages: dict[int, int] = {}
    for module in model.modules():
        weight = getattr(module, "weight", None)
        state = getattr(weight, "quant_state", None)
        extra = [] if state is None else [state.absmax, state.code]
        scales = getattr(getattr(module, "state", None), "SCB", None)
        extra += [scales if scales is not None else getattr(weight, "SCB", None)]
        for tensor in [*module.parameters(False), *module.buffers(False), *extra]:
            if tensor is not None:
                storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return sum(storages.values())


def _cache_bytes(cache: DynamicCache) -> int:
    """What grows with the text: convolution and recurrent states do not."""
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers if hasattr(layer, "keys"))


_CAUSAL = [*ARCHITECTURES, *(model for model in UNSUPPORTED if model.name in ("opt", "bloom", "mpt"))]


@pytest.mark.parametrize("architecture", _CAUSAL, ids=str)
def test_cache_and_weights_of_every_architecture(architecture: Architecture) -> None:
    """Exact, at lengths on both sides of a sliding window; in float32, which is what these models are in."""
    model = build(architecture)
    estimate = estimate_memory(model.config, dtype="float32")
    assert estimate.weights_bytes == _tensor_bytes(model)
    for length in (1, 9, 50):
        cache = DynamicCache(config=model.config)
        with torch.no_grad():
            model(torch.ones(1, length, dtype=torch.long), past_key_values=cache, use_cache=True)
        # A sliding layer keeps one token less than its window: the next one is added before it is read.
        windows = [layer.sliding_window or 10**9 for layer in estimate.layers]
        slack = sum(
            layer.key_bytes + layer.value_bytes
            for layer, window in zip(estimate.layers, windows, strict=True)
            if length >= window
        )
        assert estimate.kv_bytes(length) - slack == _cache_bytes(cache)
    unwindowed = [layer for layer in estimate.layers if not layer.sliding_window]
    per_token = sum(layer.key_bytes + layer.value_bytes for layer in unwindowed)
    assert estimate.kv_bytes(10**6) - estimate.kv_bytes(10**6 - 1) == per_token


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("quantization", ["none", "int8", "nf4"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_as_they_are_loaded(tmp_path: Path, quantization: str, dtype: str, tied: bool) -> None:
    """Within a thousandth of what the loaded model holds, quantized or not."""
    folder = save_folder(tmp_path / "model", tiny_model(tie_word_embeddings=tied, hidden_size=128))
    estimate = estimate_memory(folder, quantization, dtype=dtype)
    model, _ = load_model(folder, quantization, dtype=dtype)
    assert estimate.weights_bytes == pytest.approx(_tensor_bytes(model), rel=1e-3)
    assert estimate.dtype == dtype


@pytest.mark.parametrize("neighbor_window", [16, 64])
def test_cache_under_selfextend(neighbor_window: int) -> None:
    """An upper bound for the cache that SelfExtend keeps, and never more than an eighth above it."""
    model = tiny_model()
    estimate = estimate_memory(model.config, dtype="float32")
    with self_extend(model, SelfExtendConfig(4, neighbor_window)), torch.no_grad():
        cache = model(torch.ones(1, 400, dtype=torch.long), use_cache=True).past_key_values
    assert cache_nbytes(cache) <= estimate.kv_bytes(400, neighbor_window) <= 1.13 * cache_nbytes(cache)


def test_selfextend_keeps_what_a_shared_sliding_window_would_drop() -> None:
    sliding = MemoryEstimate(0, (LayerCache(10, 10, 32),) * 2, 0, "cpu", "float32", "none")
    assert sliding.kv_bytes(1000) == 2 * 20 * 32
    assert sliding.kv_bytes(1000, 16) == int(2 * (20 * 1000 + 10 * 16) * 1.125)
    mixed = MemoryEstimate(0, (LayerCache(10, 10, 32), LayerCache(10, 10, None)), 0, "cpu", "float32", "none")
    assert mixed.kv_bytes(1000, 16) == int((20 * 32 + 20 * 1000 + 10 * 16) * 1.125)


@given(
    weights=st.integers(0, 10**9),
    key_bytes=st.integers(1, 10**5),
    window=st.none() | st.integers(1, 5000),
    free=st.integers(0, 10**10),
    neighbor_window=st.none() | st.integers(1, 5000),
)
def test_longest_length_is_the_longest(
    weights: int, key_bytes: int, window: int | None, free: int, neighbor_window: int | None
) -> None:
    layers = (LayerCache(key_bytes, key_bytes, window), LayerCache(key_bytes, 2 * key_bytes, None))
    estimate = MemoryEstimate(weights, layers, free, "cpu", "float32", "none")
    room = 0.9 * free - weights
    longest = estimate.longest_length(neighbor_window)
    assert longest == 0 or estimate.kv_bytes(longest, neighbor_window) <= room
    assert estimate.kv_bytes(longest + 1, neighbor_window) > room


def test_a_seven_billion_model_is_sized_without_its_weights() -> None:
    """Llama-2-7b: 6,738,415,616 parameters, and 2 x 32 layers x 4096 numbers of 2 bytes a token."""
    config = tiny_config(
        vocab_size=32000,
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=32,
        max_position_embeddings=4096,
        dtype=torch.float16,
    )
    estimate = estimate_memory(config, dtype="float16", available=24 * 10**9)
    assert estimate.weights_bytes == pytest.approx(2 * 6_738_415_616, rel=1e-6)
    assert estimate.kv_bytes_per_token == 512 * 1024
    assert estimate.fits
    assert estimate.longest_length() == int((0.9 * 24e9 - estimate.weights_bytes) // (512 * 1024))
    assert not estimate_memory(config, dtype="float16", available=8 * 10**9).fits
    assert estimate_memory(config, "nf4", dtype="float16", available=8 * 10**9).fits
    assert "too big" in estimate_memory(config, dtype="float16", available=8 * 10**9).describe()


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
def test_automatic_dtype_on_a_cpu(monkeypatch: pytest.MonkeyPatch, stored: torch.dtype) -> None:
    """bfloat16 where the CPU computes in it, else float32, unless only half the bytes fit."""
    config = tiny_config(dtype=stored)
    size = estimate_memory(config, dtype="bfloat16").weights_bytes
    for fast, free, expected in (
        (False, 10 * size, "float32"),
        (False, int(1.5 * size), "bfloat16"),
        (True, 10 * size, "bfloat16"),
    ):
        monkeypatch.setattr("selfextend.loading.memory.has_fast_bfloat16", lambda device, fast=fast: fast)
        assert estimate_memory(config, device="cpu", available=free).dtype == expected
    assert estimate_memory(tiny_config(dtype=torch.float32), device="cpu", available=10 * size).dtype == "float32"
    with pytest.raises(ValueError, match="dtype must be"):
        estimate_memory(config, dtype="float8")


def test_what_is_no_causal_language_model_has_no_estimate() -> None:
    with pytest.raises(UnsupportedModelError):
        estimate_memory(T5Config(num_layers=1))


def test_free_memory_is_a_sensible_number() -> None:
    free = available_bytes(resolve_device("cpu"))
    assert 1e8 < free < 1e14


def test_estimating_leaves_the_config_as_it_was() -> None:
    config = tiny_config()
    before = config.to_dict()
    estimate_memory(config, "nf4")
    assert config.to_dict() == before
    assert AutoModelForCausalLM.from_config(config).config._attn_implementation == "sdpa"
