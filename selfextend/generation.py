"""Answering one prompt: reading it, token after token, cancelling, an exact token budget."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, NamedTuple

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfextend.line import NOBODY, Asked, Visit, line_of
from selfextend.methods import Method, Vanilla
from selfextend.profile import Profile
from selfextend.reader import Reader
from selfextend.reading import CHUNK_TOKENS, PrefixCache, end_tokens, in_turn, reading
from selfextend.recording import AttentionRecord, AttentionRecorder, RecordingRequest, joined, recorder_of
from selfextend.sampling import GenerationSettings, Sampler
from selfextend.steps import Clock, EndNow, Progress
from selfextend.text_stream import TextStream

ExtendWhen = Literal["always", "when_needed"]
StoppedBy = Literal["end", "stop", "length", "interrupted"]


@dataclass(frozen=True)
class PrefillProgress(Progress):
    """How far the prompt was read.

    Attributes:
        done, total: tokens.
        reused: tokens of `done` that were read before and did not have to be read again.
    """

    done: int = 0
    total: int = 1
    reused: int = 0

    @classmethod
    def at(cls, done: int, total: int, reused: int, seconds_left: float | None) -> PrefillProgress:
        words = f"reading: {done:,} of {total:,} tokens"
        if reused:
            words += f", {reused:,} of them read before"
        return cls(words, done / total, seconds_left, done, total, reused)


@dataclass(frozen=True)
class NewToken:
    """One more token of the answer. `text` is what can be shown of the whole answer so far."""

    token_id: int
    log_probability: float
    text: str


@dataclass(frozen=True)
class Answer:
    """An answer: a finished one, or as much of it as there was when it was cut off or interrupted.

    Attributes:
        text: without stop strings and special tokens.
        token_ids: of the answer, an end-of-sequence token included.
        log_probabilities: of each token under the unprocessed distribution, natural logarithm.
        prompt_tokens, reused_tokens: of the prompt, and of those the ones read before.
        prefill_seconds: until the first token's logits; decode_seconds: from there on.
        method: the one used, settled.
        stopped_by: "end", "stop" (a stop string), "length" or "interrupted" (by `selfextend.steps.EndNow`).
        attention: what was recorded, or None.
    """

    text: str
    token_ids: tuple[int, ...]
    log_probabilities: tuple[float, ...]
    prompt_tokens: int
    reused_tokens: int
    prefill_seconds: float
    decode_seconds: float
    method: Method
    stopped_by: StoppedBy
    attention: AttentionRecord | None = None

    @property
    def tokens_per_second(self) -> float:
        """Decoding speed; 0 where nothing was decoded after the first token."""
        return (len(self.token_ids) - 1) / self.decode_seconds if self.decode_seconds > 0 else 0.0

    @property
    def unfinished(self) -> bool:
        """Whether it was cut off or interrupted, so that it can be gone on with."""
        return self.stopped_by in ("length", "interrupted")


Event = Progress | NewToken


def method_in_use(method: Method, extend: ExtendWhen, total_tokens: int, profile: Profile) -> Method:
    """The method that a prompt and answer of `total_tokens` are read with, settled for them.

    Args:
        extend: "always", or "when_needed": what fits the trained window gets the untouched model.
    """
    if extend not in ("always", "when_needed"):
        raise ValueError(f"extend must be 'always' or 'when_needed', not {extend!r}.")
    if extend == "when_needed" and total_tokens <= profile.trained_window:
        return Vanilla()
    return method.at(profile, total_tokens)


class ReadyModel(NamedTuple):
    """A model that can answer: transformers' model and tokenizer, and what is known about the model."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    profile: Profile


@dataclass(frozen=True)
class ReadingSettings:
    """How to read.

    Attributes:
        method: only SelfExtend refuses a text past its reach.
        extend: see `method_in_use`.
        past_reach: "allow" answers past the method's reach too, however badly.
        observed: read as a recorded answer is read, so that what that has read can be read on.
        chunk_tokens: tokens that are read between two looks at whether to go on.
    """

    method: Method
    extend: ExtendWhen = "always"
    past_reach: Literal["refuse", "allow"] = "refuse"
    observed: bool = False
    chunk_tokens: int = CHUNK_TOKENS


def answer_steps(
    ready: ReadyModel,
    prompt: Sequence[int],
    settings: GenerationSettings,
    how: ReadingSettings,
    *,
    prefix: PrefixCache | None = None,
    record: RecordingRequest | None = None,
    begun: Answer | None = None,
    asked: Asked = NOBODY,
) -> Generator[Event, None, Answer]:
    """Read a prompt and answer it, step by step. Closing the generator stops between two chunks or tokens; throwing
    `selfextend.steps.EndNow` into it while it answers gives the answer so far.

    Args:
        prompt: token ids, at least one.
        prefix: what was read before; only new tokens are computed. It is brought up to date as the work goes on.
        record: attention to keep. Its rows may reach into the answer.
        begun: an unfinished answer to this prompt, to go on with: by the same settings, what it becomes is what it
            would have been in one go. Its tokens do not count towards max_new_tokens. What was recorded of it is
            joined with what `record` records, whose rows go on from there.
        asked: for whom, and how long it takes. While much is to be read, the model goes to short questions of others
            between two chunks.

    Yields:
        Progress while the model is busy, `PrefillProgress`, `NewToken`. Returns the answer.

    Raises:
        PastReachError: prompt and max_new_tokens do not fit the reach. Nothing was computed.
        OutOfMemoryError: memory ran out; the prefix was let go, the model is as before.
        ValueError: the prompt is empty, or `begun` is finished.
    """
    if len(prompt) == 0:
        raise ValueError("The prompt is empty.")
    if begun is not None and not begun.unfinished:
        raise ValueError("This answer came to its end: there is nothing to go on with.")
    total = len(prompt) + (len(begun.token_ids) if begun else 0) + settings.max_new_tokens
    used = method_in_use(how.method, how.extend, total, ready.profile)
    if how.past_reach == "refuse":
        used.check(ready.profile, total)
    prefix = PrefixCache() if prefix is None else prefix
    recorded = record is not None or (begun is not None and begun.attention is not None)
    how = replace(how, method=used, observed=how.observed or recorded)
    answering = _Answering(ready, prompt, settings, how, prefix, begun)
    with line_of(ready.model).visit(asked, answering.is_short) as visit:
        while True:
            answer = yield from in_turn(visit, prefix, partial(answering.steps, record, visit))
            if answer is not None:
                return answer


@dataclass
class _Answering:
    """One prompt that is being answered, by a settled method."""

    ready: ReadyModel
    prompt: Sequence[int]
    settings: GenerationSettings
    how: ReadingSettings
    prefix: PrefixCache
    begun: Answer | None

    def __post_init__(self) -> None:
        self._said = list(self.begun.token_ids) if self.begun else []
        self._text = [*self.prompt, *self._said]
        self._reused: int | None = None
        self._clock = Clock(len(self._text))
        self._prefill_seconds = 0.0

    def is_short(self) -> bool:
        """Whether no more than a chunk is left to be read."""
        return len(self._text) - self.prefix.known(self._text) <= self.how.chunk_tokens

    def steps(self, record: RecordingRequest | None, visit: Visit) -> Generator[Event, None, Answer | None]:
        """One turn at the model. Returns the answer; None where the turn was given up before it began, for the model to
        go to somebody else meanwhile."""
        began = time.perf_counter()
        length, (model, _, profile) = len(self._text) + self.settings.max_new_tokens, self.ready
        with (
            reading(model, self.how.method, profile, length, observed=self.how.observed) as reader,
            nullcontext() if record is None else recorder_of(model, record) as recorder,
        ):
            first_recorded = len(self._text) if record is None else record.query_rows.start
            logits = yield from self._prefill(reader, visit, first_recorded)
            prefilled = time.perf_counter()
            self._prefill_seconds += prefilled - began
            if logits is None:
                return None
            reused = self._reused or 0
            text, ids, scores, stopped_by = yield from self._decode(reader, logits)
            decoded = time.perf_counter()
            if recorder is not None:
                yield from _traced(recorder)
        answer = Answer(
            text=text,
            token_ids=tuple(ids),
            log_probabilities=tuple(scores),
            prompt_tokens=len(self.prompt),
            reused_tokens=min(reused, len(self.prompt)),
            prefill_seconds=self._prefill_seconds,
            decode_seconds=decoded - prefilled,
            method=self.how.method,
            stopped_by=stopped_by,
            attention=None if recorder is None else recorder.record,
        )
        return answer if self.begun is None else _with_beginning(answer, self.begun, len(self._text) - reused)

    def _prefill(
        self, reader: Reader, visit: Visit, first_recorded: int
    ) -> Generator[PrefillProgress, None, torch.Tensor | None]:
        """Read what of the text is not read yet. Returns the last logits, (1, vocabulary); None where the model is to
        go to somebody else first.

        Args:
            first_recorded: of the rows whose attention is recorded: from there on all is read in one turn.
        """
        total = len(self._text)
        # At least one token is left to be read, for its logits.
        done = self.prefix.rewind(reader, self._text[:-1], total)
        if self._reused is None:
            self._reused, self._clock = done, Clock(total, done)
        reused, clock = min(self._reused, done), self._clock
        yield PrefillProgress.at(done, total, reused, clock.seconds_left(done))
        logits = torch.empty(0)
        while done < total:
            chunk = self.prefix.chunk(self._text, done, self.how.chunk_tokens)
            logits = self.prefix.read(reader, chunk)
            done += len(chunk)
            yield PrefillProgress.at(done, total, reused, clock.seconds_left(done))
            if done <= min(first_recorded, total - 1) and visit.give_way():
                return None
        return logits

    def _decode(
        self, reader: Reader, logits: torch.Tensor
    ) -> Generator[NewToken, None, tuple[str, list[int], list[float], StoppedBy]]:
        """Sample token after token. Returns the answer's text, its tokens, their log-probabilities and its end."""
        ends, sampler = end_tokens(self.ready.model, self.ready.tokenizer), Sampler(self.settings, len(self._said))
        stream = TextStream(self.ready.tokenizer, self.settings.stop)
        for token in self._said:
            stream.add(token)
        ids, scores = list(self._said), list(self.begun.log_probabilities) if self.begun else []
        longest = len(ids) + self.settings.max_new_tokens
        stopped_by: StoppedBy = "length"
        while True:
            token, score = sampler.choose(logits, self.prompt, ids)
            ids.append(token)
            scores.append(score)
            if token in ends:
                stopped_by = "end"
                break
            shown = stream.add(token)
            if stream.at_stop:
                stopped_by = "stop"
            try:
                yield NewToken(token, score, shown)
            except EndNow:
                stopped_by = "stop" if stream.at_stop else "interrupted"
                break
            if stream.at_stop or len(ids) == longest:
                break
            logits = self.prefix.read(reader, [token])
        return stream.whole(), ids, scores, stopped_by


def _traced(recorder: AttentionRecorder) -> Generator[Progress, None, None]:
    """Finish a record. The answer is there by now and this takes a moment, so it is not given up on request."""
    while True:
        try:
            yield from recorder.finish()
            return
        except EndNow:
            continue


def _with_beginning(answer: Answer, begun: Answer, read: int) -> Answer:
    """An answer that went on from `begun`, with the times of both.

    Args:
        read: tokens that were read before the first new one was chosen.
    """
    # One token is a step of the answer like any other; more were forgotten, and read again.
    prefill, decode = (0.0, answer.prefill_seconds) if read == 1 else (answer.prefill_seconds, 0.0)
    attention = answer.attention
    if begun.attention is not None:
        attention = begun.attention if attention is None else joined(begun.attention, attention)
    return replace(
        answer,
        reused_tokens=begun.reused_tokens,
        prefill_seconds=begun.prefill_seconds + prefill,
        decode_seconds=begun.decode_seconds + decode + answer.decode_seconds,
        attention=attention,
    )
