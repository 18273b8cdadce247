"""Reads the sample as soon as the bundled model is ready, so that the first answer about it comes at once, and has an
example answered: the same question without SelfExtend and with it.

What is read belongs to nobody: whoever asks about the sample with the same settings goes on from it.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from selfextend.methods import SelfExtend, Vanilla
from selfextend.steps import Clock, Progress, Running, result_of

from .answering import reply_of
from .asking import Question, answer_turn
from .cache_store import CacheStore
from .conversation import Entry
from .documents.document import DocumentError
from .documents.library import Library, StoredDocument
from .model_shelf import LoadedModel, ModelShelf
from .prompting import build_prompt
from .reading_places import EVERYBODY, Place, in_use
from .session import Session, Turn

if TYPE_CHECKING:
    from selfextend.methods import Method
    from selfextend.reader import Reader
    from selfextend.reading import PrefixCache, TokensRead

CHUNK_TOKENS = 1024
"""Tokens after which a question that waits for the model gets it."""

EXAMPLE_TURN = 10**9
"""A number that no visitor's turn comes to."""
EXAMPLE_TOKENS = 32
"""Longest answer of the example: enough for a right one, and to see that the other goes astray."""

_PAUSE_SECONDS = 0.02
"""Long enough for another thread to take the model."""


@dataclass(frozen=True, eq=False)
class Example:
    """A question about the sample that nobody asked, answered without SelfExtend and with it. It is no part of
    anybody's conversation.

    Attributes:
        entry: the question with both replies, the one with SelfExtend last.
        turn: behind that one; its id is `EXAMPLE_TURN`.
        loaded: the model that answered.
        read_tokens: of the sample.
    """

    entry: Entry
    turn: Turn
    loaded: LoadedModel
    read_tokens: int


@dataclass(eq=False)
class ReadingAhead:
    """How far the sample was read. `progress` is None before and after; `example` is None until it is answered."""

    progress: Progress | None = None
    example: Example | None = None

    def read(
        self,
        file: Path,
        models: ModelShelf,
        caches: CacheStore,
        library: Library,
        new_tokens: int,
        question: str = "",
    ) -> None:
        """Read the sample with the model that is loaded, by the method that a new visitor's page is set to, and have
        the example answered. What keeps it from being read is told to whoever asks about it.

        Args:
            file: the sample.
            new_tokens: the longest answer that the page is set to.
            question: the example's; without one there is no example.
        """
        try:
            sample = result_of(library.add_steps(file, file.name))
            with Running(_reading(models, caches, sample, new_tokens, question)) as steps:
                for self.progress in steps:
                    time.sleep(_PAUSE_SECONDS)
                self.example = steps.result
        except (DocumentError, RuntimeError, ValueError):
            pass
        finally:
            self.progress = None


def _reading(
    models: ModelShelf, caches: CacheStore, sample: StoredDocument, new_tokens: int, question: str
) -> Generator[Progress, None, Example | None]:
    """Read the sample a turn at the model at a time, then have the question answered. Ends early where another model
    takes its place."""
    loaded = models.need()
    prompt = build_prompt(loaded.tokenizer, [sample.document], "")
    length, tokens = len(prompt) + new_tokens, prompt.beginning(1)
    extended = SelfExtend.of(loaded.advice(length))
    ways: dict[Method, str] = {extended: "reading the sample ahead"}
    if question:
        ways[Vanilla()] = "reading it without SelfExtend too, for an example"
    turns: dict[Method, Turn] = {}
    for method, words in ways.items():
        place = Place.of(loaded, (sample,), method, "always", length)
        reading = place.reading(caches, EVERYBODY, prompt)
        done, total, clock = 0, len(tokens), Clock(len(tokens))
        while done < total:
            if models.loaded is not loaded:
                return None
            with in_use(caches, reading.prefix):
                done = result_of(_read(loaded, reading.prefix, method, tokens, length))
            yield Progress(f"{words}: {done:,} of {total:,} tokens", done / total, clock.seconds_left(done))
        reading.keep(caches)
        if question:
            yield Progress("answering an example")
            turn = _answered(loaded, caches, sample, method, question)
            turns[method] = replace(turn, id=EXAMPLE_TURN if method == extended else 0)
    if not question or models.loaded is not loaded:
        return None
    replies = tuple(reply_of(turns[method]) for method in (Vanilla(), extended))
    entry = Entry(question, replies, loaded.label, (sample.document.sha256,), loaded.identity)
    return Example(entry, turns[extended], loaded, len(tokens))


def _answered(loaded: LoadedModel, caches: CacheStore, sample: StoredDocument, method: Method, question: str) -> Turn:
    """The example's question, answered from what was read for everybody."""
    from selfextend.generation import GenerationSettings

    settings = GenerationSettings(max_new_tokens=EXAMPLE_TOKENS)
    asked = Question(question, (sample,), method, "always", settings)
    return result_of(answer_turn(loaded, caches, Session(EVERYBODY), asked))


def _read(
    loaded: LoadedModel, prefix: PrefixCache, method: Method, tokens: list[int], length: int
) -> Generator[Progress | TokensRead, None, int]:
    """Read a chunk of what is not read yet, as a recorded answer is read, in one turn at the model. Returns how many
    tokens are read then."""
    from selfextend.reading import exclusively, read_steps, reading

    def work(reader: Reader) -> Generator[TokensRead, None, int]:
        yield from islice(read_steps(reader, prefix, tokens, chunk_tokens=CHUNK_TOKENS, length=length), 1)
        return len(prefix.tokens)

    opened = partial(reading, loaded.model, method, loaded.profile, length, observed=True)
    return (yield from exclusively(loaded.model, prefix, opened, work))
