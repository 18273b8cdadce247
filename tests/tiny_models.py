"""A tiny Llama with a tokenizer, as a folder on disk: what the tests of loading load. No download."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

VOCABULARY = 300
TRAINED_WINDOW = 256


def tiny_config(**settings: object) -> LlamaConfig:
    defaults: dict[str, object] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 144,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": TRAINED_WINDOW,
        "dtype": torch.float32,
    }
    return LlamaConfig(**(defaults | settings))


def tiny_model(**settings: object) -> LlamaForCausalLM:
    """A seeded model; the same settings give the same weights."""
    torch.manual_seed(0)
    return LlamaForCausalLM(tiny_config(**settings)).eval()


def save_tokenizer(folder: Path, *, eos_token: str | None = "<eos>") -> None:
    """A byte-level tokenizer that takes any text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the quick brown fox jumps over the lazy dog"], trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=eos_token).save_pretrained(folder)


def save_folder(folder: Path, model: PreTrainedModel, **options: object) -> Path:
    """Model and tokenizer as `save_pretrained` writes them."""
    model.save_pretrained(folder, **options)
    save_tokenizer(folder)
    return folder


def save_endless(folder: Path) -> Path:
    """A model that never ends an answer by itself: for what has to be stopped."""
    tiny_model(eos_token_id=None).save_pretrained(folder)
    save_tokenizer(folder, eos_token=None)
    return folder


THINKING_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>\n{{ message.content }}\n{% endfor %}<|assistant|>\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
)
"""A chat template that takes a system prompt and switches thinking, as Qwen3's does."""

BARE_TEMPLATE = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}<|{{ message.role }}|>\n{{ message.content }}\n{% endfor %}<|assistant|>\n"
)
"""A chat template that refuses a system prompt, as Gemma's did."""


def save_instruct(folder: Path, template: str = THINKING_TEMPLATE) -> Path:
    """A model with a chat template and a trained window of 4,096 tokens, whose answers are as long as they may be."""
    tiny_model(eos_token_id=None, max_position_embeddings=4096).save_pretrained(folder)
    save_tokenizer(folder, eos_token=None)
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return folder
