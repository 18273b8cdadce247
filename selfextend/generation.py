"""Answering one prompt: reading it, token after token, cancelling, an exact token budget."""

from __future__ import annotations

import time
from collections.abc import Generator, Hashable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, NamedTuple

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfextend.beginning import Continuation
from selfextend.companions import Spoken, companions_of
from selfextend.line import NOBODY, Asked, ClosedLineError, Visit, line_of
from selfextend.methods import Method, Vanilla
from selfextend.profile import Profile
from selfextend.reader import Reader
from selfextend.reading import CHUNK_TOKENS, PrefixCache, end_tokens, in_turn, read_steps, reading
from selfextend.recording import AttentionRecord, AttentionRecorder, RecordingRequest, joined, recorder_of
from selfextend.sampling import GenerationSettings, Sampler
from selfextend.steps import Clock, EndNow, Progress, result_of
from selfextend.text_stream import TextStream

ExtendWhen = Literal["always", "when_needed"]
StoppedBy = Literal["end", "stop", "length", "interrupted"]

TURN_SECONDS = 5.0
"""After so long an answer lets others have the model who wait with a short question."""


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
        stopped_by: "end", "stop" (a stop string), "length" or "interrupted" (by `selfextend.steps.EndNow`, or, between
            two turns, since the model was about to go).
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
        asked: for whom, and how long it takes. The model goes to short questions of others between two chunks while
            much is to be read, and between two tokens after each `TURN_SECONDS` of the answer.

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
    answering = _Answering(ready, prompt, settings, how, prefix, begun, record)
    with line_of(ready.model).visit(asked, answering) as visit:
        while not answering.is_over:
            try:
                yield from in_turn(visit, prefix, partial(answering.steps, visit))
            except (EndNow, ClosedLineError) as end:  # between two turns
                if not answering.has_begun:
                    raise
                answering.interrupt()
                if isinstance(end, ClosedLineError):
                    break
        return answering.answer()


@dataclass(eq=False)
class _Answering(Spoken):
    """One prompt that is being answered, by a settled method."""

    ready: ReadyModel
    prompt: Sequence[int]
    settings: GenerationSettings
    how: ReadingSettings
    prefix: PrefixCache
    begun: Answer | None
    record: RecordingRequest | None

    def __post_init__(self) -> None:
        self._said = list(self.begun.token_ids) if self.begun else []
        self._scores = list(self.begun.log_probabilities) if self.begun else []
        self._said_before = len(self._said)
        self._text = [*self.prompt, *self._said]
        self._longest = len(self._text) + self.settings.max_new_tokens
        self._sampler = Sampler(self.settings, len(self._said))
        self._stream = TextStream(self.ready.tokenizer, self.settings.stop)
        for token in self._said:
            self._stream.add(token)
        self._ends = end_tokens(self.ready.model, self.ready.tokenizer)
        self._stopped_by: StoppedBy | None = None
        self._recorder: AttentionRecorder | None = None
        self._reused: int | None = None
        self._clock = Clock(len(self._text))
        self._prefill_seconds = self._decode_seconds = 0.0

    @property
    def has_begun(self) -> bool:
        """Whether a token was chosen."""
        return len(self._said) > self._said_before

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to be done with the model."""
        return self._stopped_by is not None and (self._recorder is None or self._recorder.is_finished)

    @property
    def group(self) -> Hashable:
        """Answers that go on from one beginning, read in the same way, can be gone on with together."""
        prefix = self.prefix
        return (prefix.beginning, self.how.method, self.how.observed) if isinstance(prefix, Continuation) else None

    def is_short(self) -> bool:
        """Whether no more than a chunk is left to be read: what is said then is said in turns of `TURN_SECONDS`."""
        return len(self._text) - self.prefix.known(self._text) <= self.how.chunk_tokens

    def can_be_served_along(self) -> bool:
        """Whether all that it wants is its next token read."""
        return self.has_begun and self._stopped_by is None and len(self.prefix.tokens) == len(self._text) - 1

    @property
    def next_token(self) -> int:
        """The last that was chosen."""
        return self._text[-1]

    @property
    def observer(self) -> AttentionRecorder | None:
        """Who sees the states of what is said."""
        return self._recorder

    def interrupt(self) -> None:
        """End with what there is."""
        self._stopped_by = self._stopped_by or "interrupted"

    def answer(self) -> Answer:
        """What there is."""
        assert self._stopped_by is not None
        reused, recorder = self._reused or 0, self._recorder
        answer = Answer(
            text=self._stream.whole(),
            token_ids=tuple(self._said),
            log_probabilities=tuple(self._scores),
            prompt_tokens=len(self.prompt),
            reused_tokens=min(reused, len(self.prompt)),
            prefill_seconds=self._prefill_seconds,
            decode_seconds=self._decode_seconds,
            method=self.how.method,
            stopped_by=self._stopped_by,
            # Of an answer whose model had to go there may be rows that were never computed.
            attention=recorder.record if recorder is not None and recorder.is_finished else None,
        )
        read = len(self.prompt) + self._said_before - reused
        return answer if self.begun is None else _with_beginning(answer, self.begun, read)

    def steps(self, visit: Visit) -> Generator[Event, None, None]:
        """One turn at the model: to the end of the answer, or until the model is to go to somebody else meanwhile."""
        model, _, profile = self.ready
        with (
            reading(model, self.how.method, profile, self._longest, observed=self.how.observed) as reader,
            nullcontext() if self.record is None else recorder_of(model, self.record, self._recorder) as recorder,
        ):
            self._recorder = recorder
            if self._stopped_by is None:
                yield from self._go_on(reader, visit)
            if recorder is not None and not recorder.is_finished:
                # It may have been lent to a batch; what was let go of since passes the recorder once more.
                text, size = self._text[:-1], self.how.chunk_tokens
                result_of(read_steps(reader, self.prefix, text, length=self._longest, chunk_tokens=size))
                yield from self._trace(recorder)

    def _go_on(self, reader: Reader, visit: Visit) -> Generator[Event, None, None]:
        began, resumed = time.perf_counter(), self.has_begun
        logits = yield from self._prefill(reader, visit)
        prefilled = time.perf_counter()
        if resumed:
            self._decode_seconds += prefilled - began
        else:
            self._prefill_seconds += prefilled - began
        if logits is not None:
            yield from self._decode(reader, logits, visit)
            self._decode_seconds += time.perf_counter() - prefilled

    def _prefill(self, reader: Reader, visit: Visit) -> Generator[PrefillProgress, None, torch.Tensor | None]:
        """Read what of the text is not read yet. Returns the last logits, (1, vocabulary); None where the model is to
        go to somebody else first."""
        total = len(self._text)
        # At least one token is left to be read, for its logits.
        done = self.prefix.rewind(reader, self._text[:-1], total)
        if self._reused is None:
            self._reused, self._clock = done, Clock(total, done)
        reused, clock = min(self._reused, done), self._clock
        is_next_token = self.has_begun and done == total - 1
        # From the first row on whose attention is recorded all is read in one turn.
        last_pause = total - 1 if self.record is None else min(total - 1, self.record.query_rows.start)
        if not is_next_token:
            yield PrefillProgress.at(done, total, reused, clock.seconds_left(done))
        logits = torch.empty(0)
        while done < total:
            chunk = self.prefix.chunk(self._text, done, self.how.chunk_tokens)
            logits = self.prefix.read(reader, chunk)
            done += len(chunk)
            if not is_next_token:
                yield PrefillProgress.at(done, total, reused, clock.seconds_left(done))
            if done <= last_pause and visit.give_way():
                return None
        return logits

    def _decode(self, reader: Reader, logits: torch.Tensor, visit: Visit) -> Generator[NewToken, None, None]:
        """Sample token after token, and along with them those of others who wait for theirs."""
        began = time.monotonic()
        with companions_of(visit, self, reader, self._longest) as companions:
            while True:
                token = self._choose(logits)
                if token is not None:
                    try:
                        yield token
                    except EndNow:
                        self.interrupt()
                if self._stopped_by is not None:
                    return
                if companions.may_come and visit.give_way_to_group():
                    return
                if time.monotonic() - began >= TURN_SECONDS and visit.give_way():
                    return
                logits = companions.read_on()

    def hear(self, logits: torch.Tensor, seconds: float) -> NewToken | None:
        """Go on by the logits of the last token, (1, vocabulary), which somebody else has read along."""
        self._decode_seconds += seconds
        return self._choose(logits)

    def _choose(self, logits: torch.Tensor) -> NewToken | None:
        """Say the next token. None where it is the end token, which says nothing."""
        token, score = self._sampler.choose(logits, self.prompt, self._said)
        self._said.append(token)
        self._scores.append(score)
        self._text.append(token)
        if token in self._ends:
            self._stopped_by = "end"
            return None
        shown = self._stream.add(token)
        if self._stream.at_stop:
            self._stopped_by = "stop"
        elif len(self._text) == self._longest:
            self._stopped_by = "length"
        return NewToken(token, score, shown)

    def _trace(self, recorder: AttentionRecorder) -> Generator[Progress, None, None]:
        """Finish a record of what was said so far. This takes a moment, so it is not given up on request."""
        while True:
            try:
                yield from recorder.finish(self.prefix.cache)
                return
            except EndNow:
                self.interrupt()


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
