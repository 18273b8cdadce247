"""The document that comes with the app, to try it with: the kind of text that the bundled model was trained on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from .documents.library import StoredDocument
from .theme import ASSETS

SAMPLE = ASSETS / "sample.pdf"
SAMPLE_QUESTIONS = ASSETS / "sample_questions.json"


class SampleQuestion(NamedTuple):
    """A question about the sample. Attributes: `value` is what a right answer holds, and `page` where it stands."""

    question: str
    answer: str
    value: str
    page: int


@cache
def sample_questions() -> tuple[SampleQuestion, ...]:
    """What a stranger may ask first: all of them but the last are offered, and the last is the page's example."""
    if not (SAMPLE.is_file() and SAMPLE_QUESTIONS.is_file()):
        return ()
    return tuple(SampleQuestion(**record) for record in json.loads(SAMPLE_QUESTIONS.read_text(encoding="utf-8")))


@cache
def sample_checksum() -> str:
    """Of the sample's file; "" where there is none."""
    return hashlib.sha256(SAMPLE.read_bytes()).hexdigest() if SAMPLE.is_file() else ""


def is_sample(stored: StoredDocument) -> bool:
    """Whether this is the sample, whatever it is called."""
    return stored.document.sha256 == sample_checksum()


def only_the_sample(documents: Sequence[StoredDocument]) -> bool:
    """Whether there is one document, the sample."""
    return len(documents) == 1 and is_sample(documents[0])


def has_foreign_text(documents: Sequence[StoredDocument]) -> bool:
    """Whether there is any document but the sample."""
    return not all(map(is_sample, documents))
