"""What the benchmarks have in common: a model of SmolLM2-135M's shape with random weights, and the machine's name."""

from __future__ import annotations

import os
import platform
from datetime import date
from pathlib import Path

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

from selfextend import SelfExtendConfig

TRAINED_WINDOW = 8192
SETTINGS = SelfExtendConfig(group_size=8, neighbor_window=1024)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def build_model(dtype: str, device: str, layers: int = 30, vocabulary: int = 49152) -> LlamaForCausalLM:
    """SmolLM2-135M's shape: 30 layers, 576 wide, 9 heads of 64 over 3 key heads; seeded random weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=layers,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=TRAINED_WINDOW,
        rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
        tie_word_embeddings=True,
    )
    with torch.device(device):
        model = LlamaForCausalLM(config)
        return model.to(DTYPES[dtype]).eval()  # type: ignore[arg-type]


def random_tokens(count: int, device: str) -> torch.Tensor:
    """(1, count) seeded token ids."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 49152, (1, count), generator=generator).to(device)


def default_device() -> str:
    """The first CUDA device if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def machine(device: str) -> str:
    """The machine in words, with versions and the date: the caption of every table."""
    if device.startswith("cuda"):
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{_cpu_name()}, {torch.get_num_threads()} threads of {os.cpu_count()} cores"
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}, Python {platform.python_version()}"
    return f"{name}; {versions}; {date.today().isoformat()}"


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            capability = torch.backends.cpu.get_cpu_capability()
            return f"{line.split(':', 1)[1].strip()} ({capability})"
    return platform.processor() or platform.machine()
