"""GGUF: what is loaded is what was written, and what cannot be read is refused in one sentence."""

import gc
import random
import struct
import time
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGUFWriter, dequantize, quantize
from gguf.constants import GGMLQuantizationType as Kind
from gguf_files import (
    CHAT_TEMPLATE,
    GEMMA_NAMES,
    SIZES,
    llama3_factors,
    llama_gguf,
    original_tokenizer,
    write_gguf,
    write_sentencepiece,
    write_tensors,
)
from tiny_models import TRAINED_WINDOW, save_folder, tiny_model
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma3TextConfig,
    Lfm2Config,
    Phi3Config,
    PreTrainedModel,
    Qwen3Config,
    Qwen3MoeConfig,
)
from transformers.integrations.gguf import get_gguf_config
from transformers.utils.quantization_config import GgufConfig

from selfextend import SelfExtendConfig, errors, self_extend
from selfextend.loading import gguf_weights, weights
from selfextend.loading.gguf import gguf_config, gguf_tokenizer
from selfextend.loading.gguf_header import StoredTensor, read_facts, read_header
from selfextend.loading.memory import estimate_memory, skeleton_of
from selfextend.loading.models import load_model, load_steps
from selfextend.steps import Running

TOKENS = torch.randint(0, 300, (1, 40), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def _logits(model: PreTrainedModel, token_ids: torch.Tensor = TOKENS) -> torch.Tensor:
    return model(token_ids).logits.float()


def _loaded(path: Path, **options: Any) -> PreTrainedModel:
    return load_model(path, dtype="float32", device="cpu", **options)[0]


def _tiny(config: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():  # norms are ones or zeros otherwise, which hides what was done to them
        if parameter.ndim == 1:
            parameter.data.normal_(1.0, 0.2)
    return model


def test_the_model_in_the_file_comes_back(tmp_path: Path) -> None:
    original = llama_gguf(tmp_path / "tiny.gguf")
    model, tokenizer = load_model(tmp_path / "tiny.gguf", dtype="float32")
    assert torch.equal(_logits(model), _logits(original))
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert model.config._attn_implementation == "sdpa"
    assert model.config.max_position_embeddings == TRAINED_WINDOW
    text = "The quick  brown fox, Grüße 123"
    assert tokenizer(text).input_ids == original_tokenizer(tmp_path / "tiny.gguf")(text).input_ids
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert (tokenizer.chat_template, tokenizer.eos_token, tokenizer.pad_token) == (CHAT_TEMPLATE, "<eos>", "<eos>")


@pytest.mark.parametrize("kind", [Kind.F16, Kind.BF16, Kind.Q8_0, Kind.Q4_0, Kind.Q5_1])
def test_each_number_format_is_unpacked_as_ggml_does(tmp_path: Path, kind: Kind) -> None:
    """Equal to the model whose weights were rounded to that format, and close to the original."""
    original = llama_gguf(tmp_path / "tiny.gguf", kind)
    model = _loaded(tmp_path / "tiny.gguf")
    exact = _logits(original)
    # Queries and keys were permuted before they were packed: rows as a whole, so that blocks stay what they were.
    for parameter in original.parameters():
        if parameter.ndim > 1:
            parameter.data = torch.from_numpy(_rounded(parameter.detach().numpy(), kind))
    assert torch.equal(_logits(model), _logits(original))
    off = (_logits(model) - exact).norm() / exact.norm()
    assert off < {Kind.F16: 0.001, Kind.BF16: 0.01, Kind.Q8_0: 0.02}.get(kind, 0.3)


def _rounded(values: np.ndarray[Any, Any], kind: Kind) -> np.ndarray[Any, Any]:
    return dequantize(quantize(values, kind), kind).copy()


def test_a_folder_with_one_gguf_file(tmp_path: Path) -> None:
    original = llama_gguf(tmp_path / "tiny-Q8_0.gguf", Kind.Q8_0)
    (tmp_path / "mmproj-tiny.gguf").write_bytes(b"GGUF")  # a projector beside it is passed over
    assert _logits(_loaded(tmp_path)).shape == _logits(original).shape
    (tmp_path / "tiny-Q4_0.gguf").write_bytes(b"GGUF")
    with pytest.raises(errors.ModelNotFoundError, match=r"holds 2 GGUF files .*tiny-Q4_0\.gguf, tiny-Q8_0\.gguf"):
        load_model(tmp_path)


def test_a_gguf_file_beside_safetensors_is_passed_over(tmp_path: Path) -> None:
    save_folder(tmp_path, tiny_model())
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF")
    assert torch.equal(_logits(_loaded(tmp_path)), _logits(tiny_model()))


def test_a_gguf_file_of_any_name(tmp_path: Path) -> None:
    """Ollama keeps them under their checksums."""
    llama_gguf(tmp_path / "tiny.gguf")
    (tmp_path / "tiny.gguf").rename(tmp_path / "sha256-0123")
    assert load_model(tmp_path / "sha256-0123")[0] is not None


def test_selfextend_on_a_model_from_gguf(tmp_path: Path) -> None:
    original = llama_gguf(tmp_path / "tiny.gguf")
    model = _loaded(tmp_path / "tiny.gguf")
    config = SelfExtendConfig(group_size=4, neighbor_window=32)
    long = torch.randint(0, 300, (1, 2 * TRAINED_WINDOW), generator=torch.Generator().manual_seed(2))
    with self_extend(model, config), self_extend(original, config):
        assert torch.equal(_logits(model, long), _logits(original, long))
        assert model.generate(TOKENS, max_new_tokens=3, min_new_tokens=3, do_sample=False).shape == (1, 43)


_QWEN3 = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
}


def test_a_head_width_of_its_own(tmp_path: Path) -> None:
    original = _tiny(Qwen3Config(**_QWEN3))
    write_gguf(tmp_path / "q.gguf", original, "qwen3", facts={"attention.key_length": 32})
    assert torch.equal(_logits(_loaded(tmp_path / "q.gguf")), _logits(original))


def test_experts_are_put_together(tmp_path: Path) -> None:
    original = _tiny(
        Qwen3MoeConfig(**_QWEN3, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, norm_topk_prob=True)
    )
    names = {"mlp.gate": "ffn_gate_inp", "mlp.experts": "ffn_experts"}
    experts = {}
    for layer, block in enumerate(original.model.layers):
        gate, up = (
            block.mlp.experts.gate_up_proj.detach()
            .numpy()
            .astype(np.float32)
            .copy()
            .reshape(4, 2, 32, 64)
            .swapaxes(0, 1)
        )
        experts[f"blk.{layer}.ffn_gate_exps.weight"] = gate.copy()
        experts[f"blk.{layer}.ffn_up_exps.weight"] = up.copy()
        experts[f"blk.{layer}.ffn_down_exps.weight"] = block.mlp.experts.down_proj.detach().numpy().copy()
    facts = {"attention.key_length": 32, "expert_count": 4, "expert_used_count": 2, "expert_feed_forward_length": 32}
    stored = _without_experts(original)
    write_gguf(tmp_path / "moe.gguf", stored, "qwen3moe", facts=facts, names=names, tensors=experts)
    difference = _logits(_loaded(tmp_path / "moe.gguf")) - _logits(original)
    assert difference.abs().max() < 1e-5


class _without_experts:
    """A model as it is written, but for its experts, which have tensors of another form in a file."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.config = model.config
        self._state = {name: weight for name, weight in model.state_dict().items() if ".experts." not in name}

    def state_dict(self) -> dict[str, torch.Tensor]:
        return self._state


def test_gemma_with_its_two_bases_and_scaling(tmp_path: Path) -> None:
    """Norms are stored as one more, layers that see everything have RoPE of their own, scaled from 4B on."""
    rope = {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    }
    config = Gemma3TextConfig(
        **(_QWEN3 | {"num_hidden_layers": 6, "tie_word_embeddings": True}), sliding_window=16, rope_parameters=rope
    )
    original = _tiny(config)
    facts = {
        "attention.key_length": 32,
        "attention.sliding_window": 16,
        "rope.scaling.type": "linear",
        "rope.scaling.factor": 8.0,
    }
    path = write_gguf(
        tmp_path / "gemma.gguf",
        original,
        "gemma3",
        facts=facts,
        names=GEMMA_NAMES,
        change=lambda name, values: values + 1 if name.endswith("norm.weight") else values,
    )
    difference = _logits(_loaded(path)) - _logits(original)
    assert difference.abs().max() < 1e-4


def test_llama_3_scaling(tmp_path: Path) -> None:
    """It stands in the file as a tensor, which transformers' reader passes over."""
    rope = {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    original = tiny_model(**SIZES, rope_parameters=rope)
    factors = {"rope_freqs.weight": llama3_factors(original.config)}
    write_gguf(tmp_path / "tiny.gguf", original, "llama", tensors=factors)
    long = torch.randint(0, 300, (1, 200), generator=torch.Generator().manual_seed(2))
    difference = _logits(_loaded(tmp_path / "tiny.gguf"), long) - _logits(original, long)
    assert difference.abs().max() < 1e-4
    plain = _logits(tiny_model(**SIZES), long)
    assert (_logits(original, long) - plain).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("rope", "facts"),
    [
        ({"rope_type": "linear", "factor": 4.0}, {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}),
        (
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
            {
                "rope.scaling.type": "yarn",
                "rope.scaling.factor": 4.0,
                "rope.scaling.original_context_length": 64,
            },
        ),
    ],
    ids=["linear", "yarn"],
)
def test_rope_scaling(tmp_path: Path, rope: dict[str, Any], facts: dict[str, Any]) -> None:
    original = tiny_model(**SIZES, rope_parameters=rope | {"rope_theta": 10000.0})
    write_gguf(tmp_path / "tiny.gguf", original, "llama", facts=facts)
    assert torch.equal(_logits(_loaded(tmp_path / "tiny.gguf")), _logits(original))


def test_phi_with_fused_weights_and_two_sets_of_factors(tmp_path: Path) -> None:
    long, short = [float(n) for n in range(2, 14)], [1.0 + n / 100 for n in range(12)]
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "long_factor": long,
        "short_factor": short,
        "partial_rotary_factor": 0.75,
        "original_max_position_embeddings": 64,
        "attention_factor": 1.2,
    }
    sizes = {key: value for key, value in _QWEN3.items() if key != "head_dim"} | {"num_attention_heads": 2}
    config = Phi3Config(**sizes, rope_parameters=rope, original_max_position_embeddings=64, pad_token_id=0)
    original = _tiny(config)
    facts = {
        "rope.dimension_count": 24,
        "rope.scaling.original_context_length": 64,
        "rope.scaling.attn_factor": 1.2,
    }
    factors = {
        "rope_factors_long.weight": np.array(long, np.float32),
        "rope_factors_short.weight": np.array(short, np.float32),
    }
    write_gguf(tmp_path / "phi.gguf", original, "phi3", facts=facts, tensors=factors)
    model = _loaded(tmp_path / "phi.gguf")
    for length in (40, 100):
        ids = torch.randint(0, 300, (1, length), generator=torch.Generator().manual_seed(2))
        assert (_logits(model, ids) - _logits(original, ids)).abs().max() < 1e-4


_LFM2_NAMES = {
    "model.embedding_norm": "token_embd_norm",
    "operator_norm": "attn_norm",
    "ffn_norm": "ffn_norm",
    "feed_forward.w1": "ffn_gate",
    "feed_forward.w2": "ffn_down",
    "feed_forward.w3": "ffn_up",
    "conv.in_proj": "shortconv.in_proj",
    "conv.out_proj": "shortconv.out_proj",
    "conv.conv": "shortconv.conv",
    "self_attn.out_proj": "attn_output",
    "self_attn.q_layernorm": "attn_q_norm",
    "self_attn.k_layernorm": "attn_k_norm",
}


@pytest.mark.parametrize("quantization", ["none", "int8", "nf4"])
def test_an_architecture_of_transformers_newer_reader(tmp_path: Path, quantization: Any) -> None:
    """It unpacks tensor after tensor, and is not combined with a quantization by transformers itself."""
    sizes = _QWEN3 | {"head_dim": 16, "intermediate_size": 192, "block_auto_adjust_ff_dim": False}
    config = Lfm2Config(**(sizes | {"tie_word_embeddings": True}), layer_types=["conv", "full_attention"])
    config.rms_norm_eps = config.norm_eps
    original = _tiny(config)
    facts = {"attention.head_count_kv": [0, 2], "shortconv.l_cache": config.conv_L_cache}
    path = write_gguf(
        tmp_path / "lfm2.gguf",
        original,
        "lfm2",
        facts=facts,
        names=_LFM2_NAMES,
        change=lambda name, values: values.squeeze(1) if name.endswith("shortconv.conv.weight") else values,
    )
    got = _logits(_loaded(path, quantization=quantization))
    if quantization == "none":
        assert torch.equal(got, _logits(original))
    else:
        assert 0 < (got - _logits(original)).norm() / _logits(original).norm() < 0.3


_QWEN35_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "post_attention_norm.weight",
    "linear_attn.in_proj_qkv.weight": "attn_qkv.weight",
    "linear_attn.in_proj_z.weight": "attn_gate.weight",
    "linear_attn.in_proj_a.weight": "ssm_alpha.weight",
    "linear_attn.in_proj_b.weight": "ssm_beta.weight",
    "linear_attn.conv1d.weight": "ssm_conv1d.weight",
    "linear_attn.norm.weight": "ssm_norm.weight",
    "linear_attn.out_proj.weight": "ssm_out.weight",
    "linear_attn.A_log": "ssm_a",
    "linear_attn.dt_bias": "ssm_dt.bias",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "self_attn.q_norm.weight": "attn_q_norm.weight",
    "self_attn.k_norm.weight": "attn_k_norm.weight",
    "mlp.gate.weight": "ffn_gate_inp.weight",
    "mlp.experts.down_proj": "ffn_down_exps.weight",
    "mlp.shared_expert_gate.weight": "ffn_gate_inp_shexp.weight",
    "mlp.shared_expert.gate_proj.weight": "ffn_gate_shexp.weight",
    "mlp.shared_expert.up_proj.weight": "ffn_up_shexp.weight",
    "mlp.shared_expert.down_proj.weight": "ffn_down_shexp.weight",
}


def _qwen35moe_gguf(path: Path, kind: Kind) -> Path:
    """A tiny seeded Qwen3.5 with experts, and the block for several tokens at once that such files have."""
    facts: dict[str, Any] = {
        "block_count": 3, "nextn_predict_layers": 1, "context_length": 256, "embedding_length": 64,
        "attention.head_count": 4, "attention.head_count_kv": 2, "attention.key_length": 32,
        "attention.layer_norm_rms_epsilon": 1e-6, "full_attention_interval": 2, "ssm.conv_kernel": 4,
        "ssm.state_size": 32, "ssm.group_count": 2, "ssm.time_step_rank": 4, "ssm.inner_size": 128,
        "rope.freq_base": 10000.0, "rope.dimension_sections": [2, 1, 1, 0], "rope.dimension_count": 8,
        "expert_feed_forward_length": 64, "expert_shared_feed_forward_length": 64, "expert_count": 4,
        "expert_used_count": 2,
    }  # fmt: skip
    stated = {f"qwen35moe.{key}": value for key, value in facts.items()} | {"tokenizer.ggml.tokens": 300}
    stated["general.architecture"] = "qwen35moe"
    config = AutoConfig.for_model(**get_gguf_config(stated, ("output.weight",)))
    seeded = np.random.default_rng(0)

    def add(writer: GGUFWriter, name: str, shape: tuple[int, ...]) -> None:
        values = seeded.normal(0, 0.1, [size for size in shape if size != 1]).astype(np.float32)
        values = -np.exp(values) if name.endswith("ssm_a") else values
        used = kind if values.ndim > 1 and values.shape[-1] % 32 == 0 and "conv" not in name else Kind.F32
        writer.add_tensor(name, quantize(values, used), raw_dtype=used)

    def tensors(writer: GGUFWriter) -> None:
        for name, weight in skeleton_of(config).state_dict().items():
            layer = f"blk.{name.split('.')[2]}." if ".layers." in name else ""
            rest = name.split(".", 3)[3] if layer else name
            if rest == "mlp.experts.gate_up_proj":
                experts, both, width = weight.shape
                add(writer, f"{layer}ffn_gate_exps.weight", (experts, both // 2, width))
                add(writer, f"{layer}ffn_up_exps.weight", (experts, both // 2, width))
            else:
                add(writer, layer + _QWEN35_NAMES[rest], tuple(weight.shape))
        add(writer, "blk.2.nextn.eh_proj.weight", (64, 128))

    return write_tensors(path, "qwen35moe", facts, tensors)


@pytest.mark.parametrize("kind", [Kind.F32, Kind.Q8_0, Kind.Q4_0])
def test_the_newer_readers_conversions_give_the_weights_that_it_gives(tmp_path: Path, kind: Kind) -> None:
    """Also of weights that are made of several tensors, and with tensors that belong to no part of the model."""
    path = _qwen35moe_gguf(tmp_path / "qwen35moe.gguf", kind)
    model = _loaded(path)
    dequantized = GgufConfig(dequantize=True)
    config, place = gguf_config(path), {"gguf_file": path.name, "quantization_config": dequantized}
    expected = type(model).from_pretrained(tmp_path, config=config, dtype=torch.float32, **place)
    weights = model.state_dict()
    assert set(weights) == set(expected.state_dict())
    for name, weight in expected.state_dict().items():
        assert torch.equal(weights[name], weight), name


@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_quantized_again(tmp_path: Path, quantization: Any) -> None:
    """As the same weights from a folder are."""
    original = llama_gguf(tmp_path / "tiny.gguf")
    folder = save_folder(tmp_path / "folder", original)
    from_folder, from_file = (_loaded(path, quantization=quantization) for path in (folder, tmp_path / "tiny.gguf"))
    assert torch.equal(_logits(from_file), _logits(from_folder))
    assert type(from_file.model.layers[0].mlp.up_proj) is not torch.nn.Linear


def test_the_estimate_counts_unpacked_weights_and_says_so(tmp_path: Path) -> None:
    original = llama_gguf(tmp_path / "tiny.gguf", Kind.Q4_0, **{"general.file_type": 2})
    estimate = estimate_memory(tmp_path / "tiny.gguf", dtype="float32", available=10**9)
    plain = estimate_memory(original.config, dtype="float32", available=10**9)
    assert (estimate.weights_bytes, estimate.layers) == (plain.weights_bytes, plain.layers)
    assert estimate.weights_bytes > 4 * (tmp_path / "tiny.gguf").stat().st_size
    assert "(float32, unpacked from Q4_0)" in estimate.describe()
    nf4 = estimate_memory(tmp_path / "tiny.gguf", "nf4", available=10**9)
    assert "nf4, unpacked from Q4_0)" in nf4.describe()
    assert nf4.weights_bytes < estimate.weights_bytes


def _sparse_7b(path: Path) -> Path:
    """A file as a Llama of 7B parameters in Q4_K is, with nothing but its header written: the rest is a hole."""
    width, inner, layers, words = 4096, 11008, 32, 32_000
    facts = {
        "block_count": layers, "context_length": 4096, "embedding_length": width, "feed_forward_length": inner,
        "attention.head_count": 32, "attention.head_count_kv": 32, "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.freq_base": 10000.0,
    }  # fmt: skip
    block = {f"attn_{name}": (width, width) for name in ("q", "k", "v", "output")}
    block |= {"ffn_gate": (inner, width), "ffn_up": (inner, width), "ffn_down": (width, inner)}
    shapes = {"token_embd": (words, width), "output": (words, width)}
    shapes |= {f"blk.{layer}.{name}": shape for layer in range(layers) for name, shape in block.items()}
    with_norms = [f"blk.{layer}.{name}_norm" for layer in range(layers) for name in ("attn", "ffn")]
    sizes: list[int] = []

    def tensors(writer: GGUFWriter) -> None:
        for name, (rows, columns) in shapes.items():
            packed = (rows, columns // 256 * 144)
            writer.add_tensor_info(f"{name}.weight", packed, np.dtype(np.uint8), rows * packed[1], Kind.Q4_K)
            sizes.append(rows * packed[1])
        for name in [*with_norms, "output_norm"]:
            writer.add_tensor_info(f"{name}.weight", (width,), np.dtype(np.float32), 4 * width)
            sizes.append(4 * width)

    write_tensors(path, "llama", facts, tensors, data=False)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + 32 + sum(sizes))
    return path


def test_seven_billion_parameters_in_nf4_fit_twelve_gigabytes(tmp_path: Path) -> None:
    path = _sparse_7b(tmp_path / "seven.gguf")
    plain = estimate_memory(path, "none", "cpu", "bfloat16", available=12 * 10**9)
    packed = estimate_memory(path, "nf4", "cpu", "bfloat16", available=12 * 10**9)
    assert 13e9 < plain.weights_bytes < 14e9
    assert not plain.fits
    assert 3.5e9 < packed.weights_bytes < 4.5e9
    assert packed.fits
    assert packed.longest_length() > 4096


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Makes reading a tensor take a moment, and a load report as often; the names of the tensors that were read."""
    names: list[str] = []
    unpacked = gguf_weights.stored_values

    def slowly(path: Path, tensor: StoredTensor) -> np.ndarray[Any, Any]:
        time.sleep(0.02)
        names.append(tensor.name)
        return unpacked(path, tensor)

    monkeypatch.setattr(gguf_weights, "stored_values", slowly)
    monkeypatch.setattr("selfextend.steps.POLL_SECONDS", 0.01)
    return names


def _models_in_memory() -> int:
    gc.collect()
    return sum(isinstance(each, PreTrainedModel) for each in gc.get_objects())


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_progress(tmp_path: Path, read: list[str], quantization: Any) -> None:
    llama_gguf(tmp_path / "tiny.gguf")
    with Running(load_steps(tmp_path / "tiny.gguf", quantization, "cpu")) as load:
        fractions = [step.fraction or 0.0 for step in list(load)[1:]]
    assert fractions == sorted(fractions)
    assert len({fraction for fraction in fractions if 0 < fraction < 1}) >= 3
    assert read


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_a_stop_in_the_middle_leaves_nothing(tmp_path: Path, read: list[str], quantization: Any) -> None:
    llama_gguf(tmp_path / "tiny.gguf")
    before = _models_in_memory()
    steps = load_steps(tmp_path / "tiny.gguf", quantization, "cpu")
    while not 0 < (next(steps).fraction or 0) < 1:
        pass
    steps.close()
    assert not weights._LOADING.locked()
    assert _models_in_memory() == before
    assert len(read) < len(read_header(tmp_path / "tiny.gguf").tensors)


def test_refused_as_a_whole(tmp_path: Path) -> None:
    """Each in one sentence that says what to do."""
    path = tmp_path / "tiny.gguf"
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"split.count": 3}, errors.UnsupportedModelError, "one of 3 parts .*llama-gguf-split --merge"),
        ({"general.type": "mmproj"}, errors.UnsupportedModelError, r"vision projector \(mmproj\)"),
        ({"general.type": "adapter"}, errors.UnsupportedModelError, "LoRA adapter"),
        ({"block_count": 7}, errors.IncompleteModelError, "states 7 layers and has 2"),
        ({"embedding_length": 1 << 31}, errors.IncompleteModelError, "states 2147483648 channels and has 64"),
        ({"attention.head_count": 0}, errors.IncompleteModelError, "describe no model"),
        ({"attention.head_count": 7}, errors.IncompleteModelError, "describe no model"),
        ({"feed_forward_length": 1 << 30}, errors.UnsupportedModelError, "do not fit together"),
        ({"rope.scaling.type": "own", "rope.scaling.factor": 2.0}, errors.UnsupportedModelError, "rope.scaling.type"),
        ({"rope.dimension_count": 8}, errors.UnsupportedModelError, "do not fit together"),
        ({"residual_scale": 0.3}, errors.UnsupportedModelError, "residual_scale = 0.3"),
        ({"attn_logit_softcapping": 50.0}, errors.UnsupportedModelError, "attn_logit_softcapping = 50"),
    ]
    for facts, kind, words in cases:
        llama_gguf(path, **facts)
        with pytest.raises(kind, match=words) as caught:
            _loaded(path, allow_oversize=True)
        assert _is_a_sentence(caught.value), facts


def test_an_architecture_that_transformers_cannot_read(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", tiny_model(**SIZES), "grok")
    with pytest.raises(errors.UnsupportedModelError, match="architecture 'grok', which transformers cannot read"):
        load_model(tmp_path / "tiny.gguf")
    write_gguf(tmp_path / "clip.gguf", tiny_model(**SIZES), "clip")
    with pytest.raises(errors.UnsupportedModelError, match="vision projector"):
        load_model(tmp_path / "clip.gguf")


def test_a_weight_without_a_place_is_refused(tmp_path: Path) -> None:
    bias = {"blk.0.attn_q.bias": np.ones(64, np.float32)}
    write_gguf(tmp_path / "tiny.gguf", tiny_model(**SIZES), "llama", tensors=bias)
    with pytest.raises(errors.UnsupportedModelError, match=r"holds blk\.0\.attn_q\.bias"):
        load_model(tmp_path / "tiny.gguf")


def test_a_tokenizer_that_splits_in_an_unknown_way(tmp_path: Path) -> None:
    llama_gguf(tmp_path / "tiny.gguf")
    content = (tmp_path / "tiny.gguf").read_bytes()
    (tmp_path / "tiny.gguf").write_bytes(content.replace(b"\5\0\0\0\0\0\0\0gpt-2", b"\5\0\0\0\0\0\0\0other"))
    with pytest.raises(errors.UnsupportedModelError, match="splits text as 'other' does"):
        load_model(tmp_path / "tiny.gguf")


def test_a_sentencepiece_vocabulary(tmp_path: Path) -> None:
    """Read as transformers' own `AutoTokenizer` reads it, which takes a hundred times as long."""
    path = tmp_path / "tiny.gguf"
    write_gguf(path, tiny_model(**SIZES), "llama", tokenizer=write_sentencepiece)
    tokenizer = gguf_tokenizer(path)
    text = "ab a  b<|turn|>é"
    assert tokenizer(text).input_ids == [1, 264, 262, 259, 259, 261, 265, 198, 172]
    reference = AutoTokenizer.from_pretrained(tmp_path, gguf_file=path.name)
    assert tokenizer(text).input_ids == reference(text).input_ids
    assert tokenizer.special_tokens_map == reference.special_tokens_map


def test_no_gguf_file(tmp_path: Path) -> None:
    for name in ("nowhere.gguf", "owner/nowhere.gguf"):
        with pytest.raises(errors.ModelNotFoundError, match="no folder or GGUF file"):
            load_model(name)
    (tmp_path / "web-page.gguf").write_text("<html>Not found</html>" * 9)
    with pytest.raises(errors.IncompleteModelError, match="does not begin as a GGUF file does"):
        load_model(tmp_path / "web-page.gguf")
    (tmp_path / "empty.gguf").touch()
    with pytest.raises(errors.IncompleteModelError):
        load_model(tmp_path / "empty.gguf")
    for version, words in ((1, "version 1"), (3 << 24, "big-endian")):
        (tmp_path / "old.gguf").write_bytes(struct.pack("<4sIQQ", b"GGUF", version, 0, 0))
        with pytest.raises(errors.UnsupportedModelError, match=words):
            load_model(tmp_path / "old.gguf")


def test_facts_are_read_from_the_beginning(tmp_path: Path) -> None:
    llama_gguf(tmp_path / "tiny.gguf")
    facts = read_facts(tmp_path / "tiny.gguf")
    assert facts["llama.context_length"] == TRAINED_WINDOW
    assert not any(key.startswith("tokenizer.") for key in facts)
    assert facts.items() <= dict(read_header(tmp_path / "tiny.gguf").metadata).items()


_HUGE = (1 << 16, 1 << 31, (1 << 32) - 1, 1 << 40, 1 << 62, (1 << 64) - 1)


def _damaged(content: bytes, seed: int) -> bytes:
    """A third is cut off somewhere, a third has a count or a length made huge, a third has its table of tensors hit."""
    chance = random.Random(seed)
    damaged = bytearray(content)
    table = content.index(b"token_embd.weight") - 8
    if seed % 3 == 0:
        return content[: chance.randrange(len(content))]
    if seed % 3 == 1:
        keys = (b"tokenizer.ggml.tokens", b"tokenizer.ggml.merges", b"tokenizer.ggml.token_type")
        places = [8, 16, 24, *(content.index(key) + len(key) + 8 for key in keys), table]
        struct.pack_into("<Q", damaged, chance.choice(places), chance.choice(_HUGE))
        return bytes(damaged)
    # After the name: the number of dimensions, two of them, the type and the offset.
    field, form = chance.choice([(0, "<I"), (4, "<Q"), (12, "<Q"), (20, "<I"), (24, "<Q")])
    value = chance.choice(_HUGE) % (1 << 8 * struct.calcsize(form))
    struct.pack_into(form, damaged, table + 8 + len(b"token_embd.weight") + field, value)
    return bytes(damaged)


@pytest.fixture(scope="module")
def whole_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "tiny.gguf"
    llama_gguf(path, Kind.Q8_0)
    return path.read_bytes()


@pytest.mark.parametrize("seed", range(30))
def test_damaged_files(tmp_path: Path, whole_file: bytes, seed: int) -> None:
    (tmp_path / "tiny.gguf").write_bytes(_damaged(whole_file, seed))
    with pytest.raises(errors.ModelLoadError) as caught:
        load_model(tmp_path / "tiny.gguf")
    assert _is_a_sentence(caught.value)


def _is_a_sentence(error: Exception) -> bool:
    text = str(error)
    return text.endswith(".") and "Traceback" not in text and "\n" not in text and len(text) < 600


def test_the_table_of_names_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    original = gguf.get_tensor_name_map
    monkeypatch.setattr(gguf, "get_tensor_name_map", lambda *arguments: made.append(arguments) or original(*arguments))
    llama_gguf(tmp_path / "tiny.gguf", Kind.Q8_0)
    load_model(tmp_path / "tiny.gguf", device="cpu")
    assert len(made) == 1
