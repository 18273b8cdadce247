"""What becomes of an answer when a passage is not there: one passage, or several one after another.

Every token of the passage is replaced by one that says nothing, so that all others keep their positions. Then the old
answer is scored, and a new one given.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from selfextend.line import NOBODY, Asked
from selfextend.steps import Progress, Running

from .evidence import Citation, Floats

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from selfextend.generation import Answer, Event, GenerationSettings, ReadyModel
    from selfextend.reader import Reader
    from selfextend.reading import PrefixCache

NEUTRAL_TEXTS = (" .", ".", " the", " a")
CHUNK_TOKENS = 512
"""Tokens that are read between two looks at whether to go on."""
MATTERS = 1.0
"""A passage matters where the old answer's log-probability falls by more than this, to less than 37% of what it was:
smaller changes come of blanking out any passage."""


@dataclass(frozen=True, eq=False)
class PassageTest:
    """What became of an answer when a passage was blanked out.

    Attributes:
        citation: the passage.
        before, after: log-probability (natural) of each token of the old answer, with the passage and without.
        old_answer, answer: what the model said with the passage, and what it says without.
        neutral: the text that stood in the place of each of its tokens.
    """

    citation: Citation
    before: Floats
    after: Floats
    old_answer: str
    answer: str
    neutral: str

    @property
    def change(self) -> float:
        """By how much the whole answer's log-probability changed; well below 0 where the passage mattered."""
        return float(self.after.sum() - self.before.sum())

    @property
    def matters(self) -> bool:
        """Whether the old answer depends on the passage."""
        return self.change < -MATTERS

    @property
    def same_answer(self) -> bool:
        """Whether the model says the same without the passage."""
        return self.answer.strip() == self.old_answer.strip()


def by_effect(tests: Sequence[PassageTest]) -> list[PassageTest]:
    """The tests, the one whose passage the old answer depends on most first. Those that change little keep their order:
    what tells them apart is chance."""
    return sorted(tests, key=lambda test: test.change if abs(test.change) > MATTERS else 0)


def likelihood_words(change: float) -> str:
    """How likely a thing became when its log-probability changed by so much, as a person reads it: "1/3,400"."""
    times = math.exp(min(abs(change), 700.0))
    if change < 0 and times >= 10:
        for size, name in ((1e12, "trillionth"), (1e9, "billion"), (1e6, "million")):
            if times >= size:
                return f"less than a {name}" if size == 1e12 else f"1/{_two_digits(times / size)} {name}"
        return f"1/{_two_digits(times)}"
    if change < 0 or times < 2:
        return f"{math.exp(change):.0%}"
    return f"{_two_digits(times)} times" if times < 1e6 else "over a million times"


def _two_digits(number: float) -> str:
    return f"{float(f'{number:.2g}'):,g}"


@dataclass(frozen=True)
class UnderTest(Progress):
    """How far the testing of passages is.

    Attributes:
        citation: the passage that is being tested.
    """

    citation: Citation | None = None


def neutral_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """A token that says nothing, to stand in the place of others: the first of a full stop and two articles.

    Raises:
        ValueError: the tokenizer has none of them as a single token.
    """
    for text in NEUTRAL_TEXTS:
        ids = tokenizer.encode(text, add_special_tokens=False)
        if len(ids) == 1:
            return int(ids[0])
    raise ValueError(f"This tokenizer has none of {', '.join(map(repr, NEUTRAL_TEXTS))} as a single token.")


def blanked(prompt: Sequence[int], citation: Citation, token: int) -> list[int]:
    """The prompt with `token` in the place of each of the passage's, so that nothing else moves."""
    count = citation.token_stop - citation.token_start
    return [*prompt[: citation.token_start], *[token] * count, *prompt[citation.token_stop :]]


@dataclass(frozen=True)
class Answered:
    """A prompt and its answer, with what is needed to ask again.

    Attributes:
        ready: the model that answered.
        prompt: token ids that were answered.
        answer: the old answer.
        settings: that it was given with; None asks greedily. The new answer is as long at most.
        prefix: what was read of this prompt; it stays as it is.
        chunk_tokens: tokens that are read between two looks at whether to go on.
        asked: for whom.
    """

    ready: ReadyModel
    prompt: Sequence[int]
    answer: Answer
    settings: GenerationSettings | None = None
    prefix: PrefixCache | None = None
    chunk_tokens: int = CHUNK_TOKENS
    asked: Asked = NOBODY


def passage_test_steps(answered: Answered, citation: Citation) -> Generator[Event, None, PassageTest]:
    """Blank out a passage, read again, and see what that does to the answer. Closing the generator stops it.

    The old answer is scored, and a new one given, both by the old one's method, past its reach too. A copy of what was
    read of the prompt is read on from the passage.

    Raises:
        OutOfMemoryError: as `selfextend.generation.answer_steps`.
        ValueError: the answer has no tokens.
    """
    from selfextend.generation import GenerationSettings, PrefillProgress, ReadingSettings, answer_steps
    from selfextend.reading import PrefixCache, exclusively, log_probability_steps, reading

    ready, answer = answered.ready, answered.answer
    settings = replace(answered.settings or GenerationSettings(), max_new_tokens=len(answer.token_ids))
    neutral = neutral_token(ready.tokenizer)
    without = blanked(answered.prompt, citation, neutral)
    # A recorded answer was read where recording can see it; so is this, or nothing could be read on from.
    observed = answer.attention is not None
    how = ReadingSettings(answer.method, past_reach="allow", observed=observed, chunk_tokens=answered.chunk_tokens)
    own = PrefixCache(source=answered.prefix)

    total, length = len(without), len(without) + settings.max_new_tokens

    def score(reader: Reader) -> Generator[Progress, None, Floats]:
        done = reused = own.rewind(reader, without[:-1], length)
        with Running(log_probability_steps(reader, own, without, answer.token_ids, answered.chunk_tokens)) as work:
            for step in work:
                done += step.count
                words = f"reading without the passage: {done:,} of {total:,} tokens"
                yield PrefillProgress(words, done / total, None, done, total, reused)
            return work.result

    opened = partial(reading, ready.model, how.method, ready.profile, length, observed=observed)
    after = yield from exclusively(ready.model, own, opened, score, answered.asked)
    again = yield from answer_steps(ready, without, settings, how, prefix=own, asked=answered.asked)
    before = np.asarray(answer.log_probabilities)
    return PassageTest(citation, before, after, answer.text, again.text, str(ready.tokenizer.decode([neutral])))


def passage_tests_steps(
    answered: Answered, citations: Sequence[Citation]
) -> Generator[UnderTest | PassageTest, None, None]:
    """Test passages one after another, and yield each one's test as soon as there is one. Closing it stops the work.

    What comes before the last of them is read once, where it is not read yet: no order of testing reads less.

    Raises:
        OutOfMemoryError, ValueError: as `passage_test_steps`.
    """
    from selfextend.reading import PrefixCache, shared_prefix

    prefix = answered.prefix if answered.prefix is not None else PrefixCache()
    last = max((citation.token_start for citation in citations), default=0)
    missing = last - shared_prefix(prefix.tokens, answered.prompt[:last])
    effort = _Effort(answered, citations, missing)
    if len(citations) > 1 and missing:
        prefix = PrefixCache(source=prefix)
        for step in _reading_to(answered, prefix, last):
            yield effort.seen(step, citations[0], "")
        answered = replace(answered, prefix=prefix)
    for place, citation in enumerate(citations, start=1):
        counted = f"{place} of {len(citations)}: " if len(citations) > 1 else ""
        effort.begin()
        with Running(passage_test_steps(answered, citation)) as running:
            for event in running:
                yield effort.seen(event, citation, counted)
            yield running.result


def _reading_to(answered: Answered, prefix: PrefixCache, stop: int) -> Generator[Progress, None, None]:
    """Read the prompt up to the token `stop` into the prefix, as it is."""
    from selfextend.generation import PrefillProgress
    from selfextend.reading import exclusively, read_steps, reading

    ready, method, observed = answered.ready, answered.answer.method, answered.answer.attention is not None
    length, before = len(answered.prompt) + len(answered.answer.token_ids), answered.prompt[:stop]

    def read(reader: Reader) -> Generator[Progress, None, None]:
        done = reused = prefix.rewind(reader, before, length)
        for step in read_steps(reader, prefix, before, length=length, chunk_tokens=answered.chunk_tokens):
            done += step.count
            words = f"reading up to the passages: {done:,} of {stop:,} tokens"
            yield PrefillProgress(words, done / stop, None, done, stop, reused)

    opened = partial(reading, ready.model, method, ready.profile, length, observed=observed)
    yield from exclusively(ready.model, prefix, opened, read, answered.asked)


@dataclass
class _Effort:
    """How far a row of tests is, and what is left of it: reading goes at the pace seen so far, and a new answer takes
    as long as the old one did.

    Args:
        missing: tokens to be read before the first test.
    """

    answered: Answered
    citations: Sequence[Citation]
    missing: int
    _read: int = 0
    _said: int = 0
    _begun: int = 0
    _read_before: int = 0
    _read_seconds: float = 0.0
    _last: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        length = len(self.answered.prompt)
        self._to_read = self.missing + sum(length - citation.token_start for citation in self.citations)
        self._longest = len(self.answered.answer.token_ids)
        self._to_say = self._longest * len(self.citations)

    def begin(self) -> None:
        """The next passage's test begins; those before it are over, even if their answers were shorter."""
        self._read_before, self._said = self._read, self._longest * self._begun
        self._begun += 1

    def seen(self, event: Event, citation: Citation, counted: str) -> UnderTest:
        """What to say after an event of the work on a passage."""
        from selfextend.generation import NewToken, PrefillProgress

        now = time.perf_counter()
        if isinstance(event, NewToken):
            self._said += 1
            words = f"asking again without the passage: {event.text.strip()}"
        else:
            words = event.words
            if isinstance(event, PrefillProgress):
                read = self._read_before + event.done - event.reused
                if read > self._read:
                    self._read, self._read_seconds = read, self._read_seconds + now - self._last
        self._last = now
        fraction = (self._read + self._said) / (self._to_read + self._to_say)
        return UnderTest(counted + words, min(fraction, 1.0), self._seconds_left(), citation)

    def _seconds_left(self) -> float | None:
        if not self._read:
            return None
        reading = max(0, self._to_read - self._read) * self._read_seconds / self._read
        answering = self.answered.answer.decode_seconds * (1 - self._said / self._to_say) * len(self.citations)
        return reading + answering
