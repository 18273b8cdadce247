"""What is read before anybody asks is copied by whoever asks with the same settings, and by nobody else."""

from __future__ import annotations

from pathlib import Path

import pytest
from app_parts import WORDS, tiny_folder  # noqa: F401 (fixture)

from app.asking import Question, answer_turn
from app.cache_store import CacheStore
from app.documents.document import Limits
from app.documents.library import Library, StoredDocument
from app.model_shelf import LoadedModel, ModelShelf
from app.prompting import build_prompt
from app.reading_ahead import EXAMPLE_TURN, ReadingAhead
from app.reading_places import EVERYBODY, Place
from app.session import Session, Turn
from selfextend.generation import GenerationSettings
from selfextend.methods import Method, SelfExtend, Vanilla
from selfextend.reading import PrefixCache
from selfextend.steps import result_of

NEW_TOKENS = 8


def method_for(models: ModelShelf, document: StoredDocument) -> Method:
    """What a new visitor's page is set to."""
    loaded = models.need()
    tokens = len(build_prompt(loaded.tokenizer, [document.document], ""))
    return SelfExtend.of(loaded.advice(tokens + NEW_TOKENS))


def everybodys(loaded: LoadedModel, caches: CacheStore, document: StoredDocument, method: Method) -> PrefixCache:
    prompt = build_prompt(loaded.tokenizer, [document.document], "")
    length = len(prompt) + NEW_TOKENS
    return Place.of(loaded, (document,), method, "always", length).reading(caches, EVERYBODY, prompt).prefix


class Ahead:
    """A model, a file that was read ahead, and what is needed to ask about it."""

    def __init__(self, folder: Path, file: Path) -> None:
        self.models, self.caches, self.file = ModelShelf(), CacheStore(10**9), file
        self.loaded = result_of(self.models.load_steps(str(folder)))
        self.library = Library(file.parent / "library", Limits())
        self.sample: StoredDocument = result_of(self.library.add_steps(file, file.name))
        self.ahead = ReadingAhead()
        self.ahead.read(file, self.models, self.caches, self.library, NEW_TOKENS)

        self.method = method_for(self.models, self.sample)

    def ask(self, visitor: str, caches: CacheStore, method: Method) -> Turn:
        generation = GenerationSettings(max_new_tokens=NEW_TOKENS)
        question = Question("Who jumps?", (self.sample,), method, "always", generation)
        return result_of(answer_turn(self.loaded, caches, Session(visitor), question))


@pytest.fixture(scope="module")
def place(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Ahead:  # noqa: F811
    file = tmp_path_factory.mktemp("ahead") / "sample.txt"
    file.write_text(WORDS * 100, encoding="utf-8")
    return Ahead(tiny_folder, file)


def test_a_first_question_goes_on_from_it(place: Ahead) -> None:
    shared = everybodys(place.loaded, place.caches, place.sample, place.method)
    read = list(shared.tokens)
    document = len(place.loaded.tokenizer(place.sample.document.text)["input_ids"])
    assert len(read) > document
    alone = place.ask("alone", CacheStore(10**9), place.method).answer
    first = place.ask("first", place.caches, place.method).answer
    second = place.ask("second", place.caches, place.method).answer
    assert alone.reused_tokens == 0
    assert first.reused_tokens == second.reused_tokens >= document
    assert first.token_ids == second.token_ids == alone.token_ids
    assert shared.tokens == read
    assert place.ahead.progress is None


def test_other_settings_read_for_themselves(place: Ahead) -> None:
    assert place.ask("vanilla", place.caches, Vanilla()).answer.reused_tokens == 0


def test_an_example_is_answered_both_ways_and_is_nobodys_own(place: Ahead) -> None:
    ahead, caches = ReadingAhead(), CacheStore(10**9)
    ahead.read(place.file, place.models, caches, place.library, NEW_TOKENS, "Who jumps?")
    example = ahead.example
    assert example is not None
    assert example.entry.question == "Who jumps?"
    assert [reply.made_by for reply in example.entry.replies] == [Vanilla(), place.method]
    assert example.turn.id == EXAMPLE_TURN == example.entry.replies[1].turn
    assert example.turn.citations
    # A visitor's answer is the same, and begins a conversation of its own.
    turn = place.ask("visitor", caches, place.method)
    assert turn.id == 1
    assert turn.answer.reused_tokens >= example.read_tokens - 1
    assert example.turn.answer.token_ids[:NEW_TOKENS] == turn.answer.token_ids


def test_another_model_ends_it(place: Ahead, tiny_folder: Path) -> None:  # noqa: F811
    """A text of many turns at the model, and the model replaced after the first."""
    models, caches, ahead = ModelShelf(), CacheStore(10**9), ReadingAhead()
    result_of(models.load_steps(str(tiny_folder)))

    class Replaced(ModelShelf):
        """Another model is loaded from the second look on."""

        looks = 0

        @property
        def loaded(self):  # type: ignore[no-untyped-def]
            self.looks += 1
            return models.loaded if self.looks < 3 else None

        def need(self):  # type: ignore[no-untyped-def]
            return models.need()

    long = place.sample.path.parent / "long.txt"
    long.write_text(WORDS * 400, encoding="utf-8")
    ahead.read(long, Replaced(), caches, place.library, NEW_TOKENS)
    sample = result_of(place.library.add_steps(long, long.name))
    prefix = everybodys(models.need(), caches, sample, method_for(models, sample))
    assert 0 < len(prefix.tokens) < len(models.need().tokenizer(WORDS * 400)["input_ids"])
