"""One model split over several processes by transformers' tensor parallelism, for `torchrun ... -m selfextend`.

Every process runs the same program on its part of the model; only the first prints and writes records.
"""

from __future__ import annotations

import os
from pathlib import Path

from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.distributed import DistributedConfig

from selfextend.errors import ModelLoadError
from selfextend.loading.sources import read_config


class TensorParallelError(ModelLoadError):
    """A model cannot be split over this many processes."""

    reason = "tensor-parallel"


def processes() -> int:
    """How many processes `torchrun` started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Which of the processes this is, from 0."""
    return int(os.environ.get("RANK", "0"))


def check(config: PreTrainedConfig, count: int, quantization: str = "none") -> None:
    """Refuse a model that cannot be split over `count` processes, before anything is loaded.

    Raises:
        TensorParallelError: says why.
    """
    text = config.get_text_config()
    if not getattr(text, "base_model_tp_plan", None):
        raise TensorParallelError(
            f"transformers has no plan for splitting a {text.model_type!r} model over several processes. Run it "
            "without torchrun; with several GPUs device_map='auto' spreads it over them layer by layer."
        )
    if quantization not in ("none", "auto"):
        raise TensorParallelError("A quantized model cannot be split over several processes: choose quantization none.")
    heads = {
        "attention heads": getattr(text, "num_attention_heads", count),
        "key-value heads": getattr(text, "num_key_value_heads", None) or count,
    }
    for what, number in heads.items():
        if number % count:
            raise TensorParallelError(
                f"{count} processes cannot share {number} {what} evenly. Start a number of processes that divides it."
            )


def load_part(files: Path, dtype: str = "auto", quantization: str = "none") -> PreTrainedModel:
    """This process's part of a model, in evaluation mode. Every process has to call this.

    Args:
        dtype: "auto" (the checkpoint's own), "float32", "bfloat16" or "float16".

    Raises:
        TensorParallelError: see `check`.
    """
    check(read_config(files), processes(), quantization)
    if files.is_file():
        raise TensorParallelError("A GGUF file cannot be split over several processes. Start one process.")
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        files,
        dtype=dtype,
        use_safetensors=True,
        trust_remote_code=False,
        distributed_config=DistributedConfig(tp_size=processes()),
    )
    return model.eval().requires_grad_(False)
