"""The byte-level BPE tokenizer: trained on generated text, takes any text, keeps every digit a token of its own."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from training.facts import Facts
from training.filler import PASSKEY_FILLER, PASSKEY_HEADER, Filler
from training.names import Names

VOCABULARY_SIZE = 4096
BOS, EOS, PAD = "<s>", "</s>", "<pad>"

# The document comes first, as part of the first user message, and a question ends the message: the template
# adds the word the model was trained to answer after.
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'assistant' -%}"
    "{{ ' ' + message['content'] | trim + eos_token + '\\n' }}"
    "{%- elif message['role'] == 'user' -%}"
    "{{ message['content'] | trim + ' Answer:' }}"
    "{%- else -%}"
    "{{ message['content'] | trim + '\\n\\n' }}"
    "{%- endif -%}"
    "{%- endfor -%}"
)


def corpus(seed: int, pieces: int) -> Iterator[str]:
    """Yields ``pieces`` short texts of the training split, as the model will see them."""
    names = Names(random.Random(seed))
    facts, filler = Facts(names), Filler(names)
    yield PASSKEY_HEADER
    yield PASSKEY_FILLER
    for _ in range(pieces):
        fact = facts.draw(names.entity())
        yield " ".join(("".join(facts.statement(fact)), names.rng.choice(fact.questions), f"Answer: {fact.answer}"))
        yield " ".join(filler.any() for _ in range(2))


def train(seed: int = 11, pieces: int = 25_000, vocabulary_size: int = VOCABULARY_SIZE) -> PreTrainedTokenizerFast:
    """Trains the tokenizer; a minute on one core."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        corpus(seed, pieces),
        trainers.BpeTrainer(
            vocab_size=vocabulary_size,
            special_tokens=[BOS, EOS, PAD],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        chat_template=CHAT_TEMPLATE,
        model_max_length=int(1e9),
        clean_up_tokenization_spaces=False,
    )


def load(folder: Path) -> PreTrainedTokenizerFast:
    """Loads the tokenizer saved in ``folder``."""
    return PreTrainedTokenizerFast.from_pretrained(str(folder))
