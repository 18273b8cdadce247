"""Puts documents and a question into a prompt, and counts what that takes.

The documents come first and stay what they are from one question to the next, so that what the model has read of
them can be used again. Nothing is ever cut. Knows nothing about gradio and runs no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from app.documents.index import TokenIndex
from app.documents.reader import Document

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
        from_template: whether the model's own chat template wrote it; else it is a plain prompt.
        stop: strings at which a plain prompt's answer ends, since nothing else ends it.
    """

    index: TokenIndex
    question: str
    from_template: bool
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

    With the model's chat template where it has one: the documents stand at the head of the first user message. A
    template that changes a document's text (some trim or filter) is not used. Otherwise documents, questions and
    answers stand one after another as plain text.

    Args:
        tokenizer: a fast tokenizer of transformers.
        documents: each under its name, in this order.
        question: may be empty, for counting what the documents alone take.
        earlier: exchanges to keep in the prompt, oldest first.

    Raises:
        ValueError: a slow tokenizer, which cannot tell where its tokens come from.
    """
    if getattr(tokenizer, "chat_template", None):
        text = _from_template(tokenizer, documents, question, earlier)
        if text is not None and _holds(text, documents):
            index = TokenIndex(tokenizer, text, documents, add_special_tokens=False)
            return Prompt(index, question, True, ())
    text = _plain(documents, question, earlier)
    return Prompt(TokenIndex(tokenizer, text, documents), question, False, ("\nQuestion:", "\n\n"))


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
    except Exception:  # a template is a program of the model's author: some refuse, some fail
        return None
    return str(text)


def _holds(text: str, documents: Sequence[Document]) -> bool:
    start = 0
    for document in documents:
        start = text.find(document.text, start)
        if start < 0:
            return False
        start += len(document.text)
    return True


def _plain(documents: Sequence[Document], question: str, earlier: Sequence[Exchange]) -> str:
    before = "".join(f"Question: {exchange.question}\nAnswer: {exchange.answer}{BETWEEN}" for exchange in earlier)
    return f"{_head(documents)}{before}Question: {question}\nAnswer:"
