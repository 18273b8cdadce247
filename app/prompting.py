"""Puts documents and a question into a prompt.

The documents come first and are the same from one question to the next, so that the model's cache of them can be used
again. Nothing is ever cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from .documents.document import Document
from .documents.index import TokenIndex, find_documents

BETWEEN = "\n\n"


@dataclass(frozen=True)
class Exchange:
    """A question that was answered before."""

    question: str
    answer: str


@dataclass(frozen=True, eq=False)
class Prompt:
    """What the model reads.

    Attributes:
        index: the tokens and where each comes from. `index.prompt` is the text, `index.documents` the documents.
        question: as it was asked.
        stop: strings at which the answer to a plain prompt ends, since nothing else ends it; empty for a prompt
            from the model's own chat template.
    """

    index: TokenIndex
    question: str
    stop: tuple[str, ...]

    @property
    def text(self) -> str:
        """The whole prompt."""
        return self.index.prompt

    @cached_property
    def ids(self) -> list[int]:
        """Its token ids."""
        return [int(token) for token in self.index.input_ids]

    def __len__(self) -> int:
        """Its length, in tokens."""
        return len(self.index)


def build_prompt(
    tokenizer: Any, documents: Sequence[Document], question: str, earlier: Sequence[Exchange] = ()
) -> Prompt:
    """The prompt for a question about documents.

    With the model's chat template where it has one: the documents are at the head of the first user message. A
    template that changes a document's text (some trim or filter) is not used. Otherwise documents, questions and
    answers follow one another as plain text.

    Args:
        tokenizer: a fast tokenizer of transformers.
        documents: in this order, each after its name.
        question: may be empty, to count the tokens of the documents alone.
        earlier: exchanges to keep in the prompt, oldest first.

    Raises:
        ValueError: a slow tokenizer, which cannot tell where its tokens come from.
    """
    if getattr(tokenizer, "chat_template", None):
        text = _from_template(tokenizer, documents, question, earlier)
        if text is not None:
            return Prompt(TokenIndex(tokenizer, text, documents, add_special_tokens=False), question, ())
    text = _plain(documents, question, earlier)
    return Prompt(TokenIndex(tokenizer, text, documents), question, ("\nQuestion:", "\n\n"))


def _head(documents: Sequence[Document]) -> str:
    return "".join(f"{document.name}{BETWEEN}{document.text}{BETWEEN}" for document in documents)


def _from_template(
    tokenizer: Any, documents: Sequence[Document], question: str, earlier: Sequence[Exchange]
) -> str | None:
    messages = []
    for exchange in earlier:
        messages.append({"role": "user", "content": exchange.question})
        messages.append({"role": "assistant", "content": exchange.answer})
    messages.append({"role": "user", "content": question})
    messages[0]["content"] = _head(documents) + messages[0]["content"]
    try:
        # Models that think aloud first do so only where asked; templates without such a switch ignore it.
        text = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        find_documents(text, documents)
    except Exception:  # a template is a program of the model's author: some refuse, some fail, some change the text
        return None
    return str(text)


def _plain(documents: Sequence[Document], question: str, earlier: Sequence[Exchange]) -> str:
    before = "".join(f"Question: {exchange.question}\nAnswer: {exchange.answer}{BETWEEN}" for exchange in earlier)
    return f"{_head(documents)}{before}Question: {question}\nAnswer:"
