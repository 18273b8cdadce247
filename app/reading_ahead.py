"""Reads the sample as soon as the bundled model is ready, so that the first answer about it comes at once.

What is read belongs to nobody: whoever asks about the sample with the same settings goes on from a copy of it.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from selfextend.methods import SelfExtend
from selfextend.steps import Clock, Progress, Running, result_of

from .asking import shared_place
from .documents.document import DocumentError
from .documents.library import Library, StoredDocument
from .model_shelf import LoadedModel, ModelShelf
from .prompting import build_prompt
from .session import CacheStore

if TYPE_CHECKING:
    from selfextend.methods import Method
    from selfextend.reading import PrefixCache, TokensRead

CHUNK_TOKENS = 1024
"""Tokens after which a question that waits for the model gets it."""

_PAUSE_SECONDS = 0.02
"""Long enough for another thread to take the model."""


@dataclass(eq=False)
class ReadingAhead:
    """How far the sample was read. `progress` is None before and after."""

    progress: Progress | None = None

    def read(self, file: Path, models: ModelShelf, caches: CacheStore, library: Library, new_tokens: int) -> None:
        """Read the sample with the model that is loaded, by the method that a new visitor's page is set to. What keeps
        it from being read is told to whoever asks about it.

        Args:
            file: the sample.
            new_tokens: the longest answer that the page is set to.
        """
        try:
            sample = result_of(library.add_steps(file, file.name))
            with Running(_reading(models, caches, sample, new_tokens)) as steps:
                for self.progress in steps:
                    time.sleep(_PAUSE_SECONDS)
        except (DocumentError, RuntimeError, ValueError):
            pass
        finally:
            self.progress = None


def _reading(
    models: ModelShelf, caches: CacheStore, sample: StoredDocument, new_tokens: int
) -> Generator[Progress, None, None]:
    """Read the sample a turn at the model at a time. Ends early where another model takes its place."""
    loaded = models.need()
    tokens = build_prompt(loaded.tokenizer, [sample.document], "").ids
    length = len(tokens) + new_tokens
    method = SelfExtend.of(loaded.advice(length))
    prefix, clock = shared_place(loaded, caches, (sample,), method), Clock(len(tokens))
    for end in range(CHUNK_TOKENS, len(tokens) + CHUNK_TOKENS, CHUNK_TOKENS):
        if models.loaded is not loaded:
            return
        result_of(_read(loaded, prefix, method, tokens[:end], length))
        done = min(end, len(tokens))
        words = f"reading the sample ahead: {done:,} of {len(tokens):,} tokens"
        yield Progress(words, done / len(tokens), clock.seconds_left(done))


def _read(
    loaded: LoadedModel, prefix: PrefixCache, method: Method, tokens: list[int], length: int
) -> Generator[Progress | TokensRead, None, None]:
    """Read what of the tokens is not read yet, as a recorded answer is read, in one turn at the model."""
    from selfextend.reading import exclusively, read_steps, reading

    def work() -> Generator[TokensRead, None, None]:
        with reading(loaded.model, method, loaded.profile, length, observed=True) as reader:
            yield from read_steps(reader, prefix, tokens, length=length)

    yield from exclusively(loaded.model, prefix, work)
