"""The two PDFs: the sample that ships in assets/, and the held-out one that the model is measured on.

Both hold a hundred facts on forty pages and more, about sixteen thousand of the model's own tokens.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from training.handbook import Author, Book
from training.pdf import page_numbers, plain_pages, typeset
from training.prose import HARBOUR, OBSERVATORY
from training.vocabulary import RESERVED_NAMES

FACTS = 100
SENTENCES = 17
SAMPLE_SEED, HELD_OUT_SEED = 7, 8
PLAIN = ("keeper of", "weigh", "kitchen", "garden cost", "foreman")
"""What the first questions are about: people and things that a stranger has a picture of. The page has the last one
answered before anybody asks."""


@dataclass(frozen=True)
class Question:
    """A question about a document: the sentence that answers it, the value in it, the page it stands on."""

    question: str
    answer: str
    value: str
    page: int


def write(book: Book, path: Path) -> list[Question]:
    """Sets ``book`` as ``path`` and returns a question for each of its facts, in the order they stand in."""
    typeset(book, path)
    pages = page_numbers(plain_pages(path), book.statements)
    return [
        Question(fact.questions[0], fact.answer, fact.value + fact.tail, page)
        for fact, page in zip(book.facts, pages, strict=True)
    ]


def sample(pdf: Path, questions: Path, is_right: Callable[[Sequence[Question]], Sequence[bool]]) -> None:
    """Writes the sample document and its first questions: for each of `PLAIN` the first that the model answers.

    ``is_right`` says which of the document's questions those are. Raises ValueError when one of `PLAIN` has none.
    """
    book = Author(OBSERVATORY, SAMPLE_SEED, RESERVED_NAMES).write(FACTS, SENTENCES)
    asked = write(book, pdf)
    right = [question for question, is_one in zip(asked, is_right(asked), strict=True) if is_one]
    first = [next((question for question in right if words in question.question), None) for words in PLAIN]
    if None in first:
        raise ValueError(f"the model answers none of the document's questions about {PLAIN[first.index(None)]!r}")
    _save([asdict(question) for question in first if question is not None], questions)


def held_out(pdf: Path, questions: Path, seed: int = HELD_OUT_SEED) -> None:
    """Writes the held-out document and all its questions."""
    book = Author(HARBOUR, seed).write(FACTS, SENTENCES)
    _save([asdict(question) for question in write(book, pdf)], questions)


def _save(records: list[dict[str, str | int]], path: Path) -> None:
    path.write_text(json.dumps(records, indent=2, ensure_ascii=False) + "\n")
