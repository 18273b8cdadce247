"""Puts documents and a question into a prompt.

The documents come first and are the same from one question to the next, so that the model's cache of them can be used
again. Nothing is ever cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .documents.document import Document
from .documents.index import TokenIndex, find_documents
from .documents.memo import token_index

BETWEEN = "\n\n"
MAX_QUESTION = 100_000
"""Characters of a question, and of a system prompt."""
_SYSTEM_PROBE, _QUESTION_PROBE = "Answer in one word.", "Who?"
_THINKING = ("<think>", "</think>")


class SystemPromptError(ValueError):
    """The model takes no such system prompt; the message says what to do."""


@dataclass(frozen=True)
class Exchange:
    """A question that was answered before."""

    question: str
    answer: str


@dataclass(frozen=True)
class Instructions:
    """What the model is told besides documents and questions.

    Attributes:
        system: the system prompt; empty for the one that the chat template brings, if any.
        thinking: have a model that can think aloud before it answers do so.
    """

    system: str = ""
    thinking: bool = False


PLAIN = Instructions()
"""No instructions."""


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

    @property
    def ids(self) -> list[int]:
        """Its token ids. Made anew each time: as Python's numbers they take ten times the room of the index's."""
        return self.index.input_ids.tolist()

    def beginning(self, documents: int) -> list[int]:
        """The token ids that every prompt about so many of the documents, the first ones, begins with, whatever comes
        after them; none where there are none."""
        inside = np.flatnonzero((self.index.document >= 0) & (self.index.document < documents))
        stop = int(inside[-1]) + 1 if len(inside) else 0
        # How white space is cut into tokens depends on what comes behind it.
        while stop and self._words(stop - 1) != self._words(stop - 1).rstrip():
            stop -= 1
        return self.ids[:stop]

    def _words(self, token: int) -> str:
        first, last = self.index.chars[token].tolist()
        return self.text[first:last]

    def __len__(self) -> int:
        """Its length, in tokens."""
        return len(self.index)


def build_prompt(
    tokenizer: Any,
    documents: Sequence[Document],
    question: str,
    earlier: Sequence[Exchange] = (),
    instructions: Instructions = PLAIN,
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
        instructions: the system prompt, and whether to think.

    Raises:
        SystemPromptError: there is a system prompt, and the template takes none or is not used; or it is too long.
        ValueError: the question is too long, or a slow tokenizer, which cannot tell where its tokens come from.
    """
    check_question(question)
    if instructions.system:
        _check_system(tokenizer, instructions.system)
    if getattr(tokenizer, "chat_template", None):
        text = _from_template(tokenizer, documents, _messages(documents, question, earlier, instructions), instructions)
        if text is not None:
            return Prompt(token_index(tokenizer, text, documents, add_special_tokens=False), question, ())
    if instructions.system:
        raise SystemPromptError(
            "This model's chat template would change the documents, so it is not used, and there is no system prompt "
            "without it: empty the System prompt under Answering."
        )
    text = _plain(documents, question, earlier)
    return Prompt(token_index(tokenizer, text, documents), question, ("\nQuestion:", "\n\n"))


def check_question(text: str) -> None:
    """Raises ValueError where a question is longer than is asked."""
    if len(text) > MAX_QUESTION:
        raise ValueError(f"A question may have at most {MAX_QUESTION:,} characters, not {len(text):,}: shorten it.")


def _head(documents: Sequence[Document]) -> str:
    return "".join(f"{document.name}{BETWEEN}{document.text}{BETWEEN}" for document in documents)


def can_switch_thinking(tokenizer: Any) -> bool:
    """Whether the chat template has a switch for thinking, `enable_thinking`."""
    messages = [{"role": "user", "content": _QUESTION_PROBE}]
    with_it, without = (_rendered(tokenizer, messages, Instructions(thinking=on)) for on in (True, False))
    return None not in (with_it, without) and with_it != without


def split_thinking(text: str) -> tuple[str, str]:
    """What a model thought aloud, without its tags, and what it answered then. Either may be empty."""
    opening, closing = _THINKING
    thought, ended, answer = text.partition(closing)
    if ended:
        return thought.strip().removeprefix(opening).strip(), answer.strip()
    if text.startswith(opening):
        return text.removeprefix(opening).strip(), ""
    return "", text


def _check_system(tokenizer: Any, system: str) -> None:
    """Raises SystemPromptError where there is no template, or the template refuses or drops a system prompt, or this
    one is too long."""
    if len(system) > MAX_QUESTION:
        raise SystemPromptError(
            f"A system prompt may have at most {MAX_QUESTION:,} characters, not {len(system):,}: shorten it under "
            "Answering."
        )
    if not getattr(tokenizer, "chat_template", None):
        raise SystemPromptError(
            "This model has no chat template, so it takes no system prompt: empty the System prompt under Answering."
        )
    messages = [{"role": "system", "content": _SYSTEM_PROBE}, {"role": "user", "content": _QUESTION_PROBE}]
    if _SYSTEM_PROBE not in (_rendered(tokenizer, messages, PLAIN) or ""):
        raise SystemPromptError(
            "This model's chat template takes no system prompt: empty the System prompt under Answering."
        )


def _messages(
    documents: Sequence[Document], question: str, earlier: Sequence[Exchange], instructions: Instructions
) -> list[dict[str, str]]:
    messages = []
    for exchange in earlier:
        messages.append({"role": "user", "content": exchange.question})
        messages.append({"role": "assistant", "content": exchange.answer})
    messages.append({"role": "user", "content": question})
    messages[0]["content"] = _head(documents) + messages[0]["content"]
    system = [{"role": "system", "content": instructions.system}] if instructions.system else []
    return [*system, *messages]


def _from_template(
    tokenizer: Any, documents: Sequence[Document], messages: list[dict[str, str]], instructions: Instructions
) -> str | None:
    text = _rendered(tokenizer, messages, instructions)
    try:
        if text is not None:
            find_documents(text, documents)
    except ValueError:  # it changes the documents: some trim, some filter
        return None
    return text


def _rendered(tokenizer: Any, messages: list[dict[str, str]], instructions: Instructions) -> str | None:
    """The messages in the chat template; None where there is none or it refuses them."""
    try:
        # Templates without a switch for thinking ignore it.
        text = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, enable_thinking=instructions.thinking
        )
    except Exception:  # a template is a program of the model's author, which may raise anything
        return None
    return str(text)


def _plain(documents: Sequence[Document], question: str, earlier: Sequence[Exchange]) -> str:
    before = "".join(f"Question: {exchange.question}\nAnswer: {exchange.answer}{BETWEEN}" for exchange in earlier)
    return f"{_head(documents)}{before}Question: {question}\nAnswer:"
