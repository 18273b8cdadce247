"""Asks a model the questions of a document, through the library, the way a person asks in the app.

Public functions of selfextend only.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from selfextend.config import QueryScaling, SelfExtendConfig, suggest
from selfextend.generation import GenerationSettings, ReadingSettings, ReadyModel, answer_steps
from selfextend.loading.models import load_model
from selfextend.methods import SelfExtend, Vanilla
from selfextend.profile import Profile
from selfextend.reading import PrefixCache
from selfextend.steps import result_of
from training.documents import Question
from training.pdf import plain_pages
from training.train import TRAINED_WINDOW

MAX_NEW_TOKENS = 48


@dataclass(frozen=True)
class Asked:
    """One question and what came back. ``exact``: the whole answer is right; ``found``: the value stands in it."""

    question: Question
    text: str

    @property
    def exact(self) -> bool:
        return self.text.strip() == self.question.answer

    @property
    def found(self) -> bool:
        return self.question.value in self.text


def read_questions(path: Path) -> list[Question]:
    return [Question(**record) for record in json.loads(path.read_text())]


def document_text(pdf: Path) -> str:
    """The text of ``pdf``, its pages one after another."""
    return "\n\n".join(plain_pages(pdf))


def prompt(tokenizer: Any, document: str, question: str) -> list[int]:
    """The token ids of ``question`` about ``document``, by the model's chat template."""
    messages = [{"role": "user", "content": f"{document}\n\n{question}"}]
    ids: list[int] = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    return ids


def ask(
    model: Any, tokenizer: Any, pdf: Path, questions: Iterable[Question], config: SelfExtendConfig | None
) -> list[Asked]:
    """Asks ``questions`` about ``pdf``, which is read once; ``config`` None is the vanilla model."""
    document = document_text(pdf)
    prefix = PrefixCache()
    settings = GenerationSettings(max_new_tokens=MAX_NEW_TOKENS, stop=("\n",))
    results = []
    for question in tqdm(list(questions), unit="question"):
        ids = prompt(tokenizer, document, question.question)
        method = Vanilla() if config is None else SelfExtend.of(config)
        ready = ReadyModel(model, tokenizer, Profile(TRAINED_WINDOW))
        answer = result_of(answer_steps(ready, ids, settings, ReadingSettings(method), prefix=prefix))
        results.append(Asked(question, answer.text))
    return results


def settings_for(
    tokenizer: Any, pdf: Path, questions: Sequence[Question], query_scaling: QueryScaling
) -> SelfExtendConfig:
    """What ``suggest()`` gives for the longest prompt about ``pdf`` and its answer."""
    document = document_text(pdf)
    length = max(len(prompt(tokenizer, document, question.question)) for question in questions) + MAX_NEW_TOKENS
    return suggest(TRAINED_WINDOW, length, query_scaling=query_scaling)


def answered(folder: Path, pdf: Path, questions: Sequence[Question]) -> list[bool]:
    """Which of ``questions`` about ``pdf`` the model in ``folder`` answers, word for word, with its usual settings."""
    model, tokenizer = load_model(str(folder))
    config = settings_for(tokenizer, pdf, questions, "logn")
    return [asked.exact for asked in ask(model, tokenizer, pdf, questions, config)]
