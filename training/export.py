"""Turns a run's checkpoint into the folder that ships: configuration, weights, tokenizer, SelfExtend's settings.

Weights are stored in half precision and load as float32, which config.json says.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import GenerationConfig, LlamaForCausalLM

from training import tokenizer as tokenizers
from training.train import TRAINED_WINDOW, model_of

SELF_EXTEND = {"trained_window": TRAINED_WINDOW, "neighbor_window": TRAINED_WINDOW // 4, "query_scaling": "logn"}


def load_checkpoint(run: Path) -> LlamaForCausalLM:
    """The model of a run's last checkpoint.

    Raises FileNotFoundError when the run has none.
    """
    path = run / "checkpoint.pt"
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; run `python -m training train` first")
    state = torch.load(path, map_location="cpu", weights_only=True)
    return model_of(state["model"]).eval()


def export(run: Path, folder: Path) -> None:
    """Writes the run's model to ``folder``; the card, README.md, is left alone."""
    model = load_checkpoint(run)
    tokenizer = tokenizers.load(run / "tokenizer")
    # The template may have been mended since the run began; it is no part of what is trained.
    tokenizer.chat_template = tokenizers.CHAT_TEMPLATE
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(str(folder))
    model.config.architectures = ["LlamaForCausalLM"]
    model.config.save_pretrained(str(folder))
    GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    ).save_pretrained(str(folder))
    weights = {
        name: tensor.to(torch.float16).contiguous()
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"
    }
    save_file(weights, str(folder / "model.safetensors"), metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    # Where the tokenizer was loaded from is nobody's business.
    settings = folder / "tokenizer_config.json"
    kept = {
        name: value
        for name, value in json.loads(settings.read_text()).items()
        if not name.startswith(("is_", "local_"))
    }
    settings.write_text(json.dumps(kept, indent=2) + "\n")
    (folder / "selfextend.json").write_text(json.dumps(SELF_EXTEND, indent=2) + "\n")
