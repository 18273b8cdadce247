"""Tiny models and tokenizers for the lab's tests, made once a process. Nothing is downloaded."""

from __future__ import annotations

import tempfile
from functools import lru_cache
from pathlib import Path

import torch
from tiny_models import TRAINED_WINDOW, VOCABULARY, save_folder, tiny_model
from transformers import MistralConfig, MistralForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from selfextend.loading.models import load_tokenizer
from selfextend.methods import Method, method_named
from selfextend.profile import Profile

WINDOW = TRAINED_WINDOW
PROFILE = Profile(WINDOW)


@lru_cache(maxsize=1)
def folder() -> Path:
    """A tiny Llama with a byte-level tokenizer, on disk."""
    return save_folder(Path(tempfile.mkdtemp(prefix="selfextend-lab-")), tiny_model())


@lru_cache(maxsize=1)
def tokenizer() -> PreTrainedTokenizerBase:
    return load_tokenizer(folder())


@lru_cache(maxsize=1)
def llama() -> PreTrainedModel:
    return tiny_model()


def mistral(sliding_window: int | None) -> PreTrainedModel:
    """The same seeded weights, with or without a sliding window of its own."""
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=144,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        sliding_window=sliding_window,
        dtype=torch.float32,
    )
    return MistralForCausalLM(config).eval()


def ids(length: int, seed: int = 0) -> list[int]:
    """Random tokens."""
    generator = torch.Generator().manual_seed(seed)
    found: list[int] = torch.randint(1, VOCABULARY, (length,), generator=generator).tolist()
    return found


@torch.no_grad()
def one_shot(model: PreTrainedModel, tokens: list[int]) -> torch.Tensor:
    """All logits of one forward pass without a cache, (tokens, vocabulary)."""
    logits: torch.Tensor = model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0]
    return logits


def methods(*names: str) -> tuple[Method, ...]:
    return tuple(map(method_named, names))
