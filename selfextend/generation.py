"""Reading long prompts and answering: chunked prefill, prefix reuse, streaming, cancelling, an exact token budget.

Everything that takes long is a generator that says how far it is; closing it stops the work between two chunks or
tokens, and what was read so far stays in the `PrefixCache`. Knows nothing about documents, pages or Gradio.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Literal, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import torch
from transformers import (
    Cache,
    DynamicCache,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from selfextend import windows
from selfextend.cache import SelfExtendCache, cache_nbytes
from selfextend.config import SelfExtendConfig, checked_integer, max_length, smallest_group_size, suggest
from selfextend.errors import OutOfMemoryError, PastReachError
from selfextend.plugin import active_extension, disable, self_extend
from selfextend.recording import AttentionRecord, RecordingRequest, recording

ExtendWhen = Literal["always", "when_needed"]

Step = TypeVar("Step")

CHUNK_TOKENS = 1024
"""Tokens of a prompt that are read between two looks at whether to go on."""


@dataclass(frozen=True)
class GenerationSettings:
    """How to answer.

    Attributes:
        max_new_tokens: the answer's share of the token budget.
        temperature: 0 takes the most likely token each time (greedy).
        top_p, top_k: as in transformers; 1.0 and 0 leave everything in. Only with a temperature above 0.
        repetition_penalty: as in transformers; 1.0 is none.
        seed: of the sampling.
        stop: strings at which the answer ends; they are not part of it.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        checked_integer("max_new_tokens", self.max_new_tokens, 1)
        checked_integer("top_k", self.top_k, 0)
        # Written so that NaN, of which every comparison is false, is refused too.
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature must be 0 (greedy) or more, not {self.temperature}.")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, not {self.top_p}.")
        if not 0 < self.repetition_penalty < math.inf:
            raise ValueError(f"repetition_penalty must be above 0, not {self.repetition_penalty}.")
        if not isinstance(self.stop, tuple) or not all(self.stop):
            raise ValueError(f"stop must be a tuple of strings that are not empty, not {self.stop!r}.")

    def processors(self) -> LogitsProcessorList:
        """transformers' own processors for these settings."""
        chosen = LogitsProcessorList()
        if self.repetition_penalty != 1.0:
            chosen.append(RepetitionPenaltyLogitsProcessor(self.repetition_penalty))
        if self.temperature > 0:
            chosen.append(TemperatureLogitsWarper(self.temperature))
            if self.top_k > 0:
                chosen.append(TopKLogitsWarper(self.top_k))
            if self.top_p < 1:
                chosen.append(TopPLogitsWarper(self.top_p))
        return chosen


@dataclass
class PrefixCache:
    """What one model has read already, to be read on from. One visitor's, for one document.

    Attributes:
        tokens: token ids whose keys are in the cache.
        cache: a transformers cache, or None while nothing was read.
        config: SelfExtend's settings it was read with; None for the vanilla model.
    """

    tokens: list[int] = field(default_factory=list)
    cache: Cache | None = None
    config: SelfExtendConfig | None = None

    @property
    def nbytes(self) -> int:
        """Bytes that the cache holds."""
        return 0 if self.cache is None else cache_nbytes(self.cache)

    def clear(self) -> None:
        """Forget everything that was read."""
        self.tokens, self.cache = [], None

    def rewind(self, prompt: Sequence[int], config: SelfExtendConfig | None) -> int:
        """Keep what a prompt shares with what was read, and return how many tokens that is.

        At least one token of the prompt is left to be read, for its logits.
        """
        if self.cache is None or self.config != config:
            self.clear()
            self.config = config
            return 0
        shared = 0
        for read, wanted in zip(self.tokens, prompt[:-1], strict=False):
            if read != wanted:
                break
            shared += 1
        excess = len(self.tokens) - shared
        if excess:
            try:
                self.cache.crop(-excess)
            except (RuntimeError, ValueError):  # a sliding layer has let go of what would be needed again
                self.clear()
                return 0
            del self.tokens[shared:]
        return shared


@dataclass(frozen=True)
class Waiting:
    """The model is busy with somebody else's answer."""


@dataclass(frozen=True)
class PrefillProgress:
    """How far the prompt was read.

    Attributes:
        done, total: tokens.
        reused: tokens of `done` that were read before and did not have to be read again.
        seconds: spent so far; seconds_left: estimated.
    """

    done: int
    total: int
    reused: int
    seconds: float
    seconds_left: float


@dataclass(frozen=True)
class NewToken:
    """One more token of the answer. `text` is what can be shown of the whole answer so far."""

    token_id: int
    log_probability: float
    text: str


@dataclass(frozen=True)
class Answer:
    """A finished answer.

    Attributes:
        text: without stop strings and special tokens.
        token_ids: of the answer, an end-of-sequence token included.
        log_probabilities: of each token under the unprocessed distribution, natural logarithm.
        prompt_tokens, reused_tokens: of the prompt, and of those the ones read before.
        prefill_seconds: until the first token's logits; decode_seconds: from there on.
        config: the settings used; None for the vanilla model.
        stopped_by: "end", "stop" (a stop string) or "length".
        attention: what was recorded, or None.
    """

    text: str
    token_ids: tuple[int, ...]
    log_probabilities: tuple[float, ...]
    prompt_tokens: int
    reused_tokens: int
    prefill_seconds: float
    decode_seconds: float
    config: SelfExtendConfig | None
    stopped_by: Literal["end", "stop", "length"]
    attention: AttentionRecord | None = None

    @property
    def tokens_per_second(self) -> float:
        """Decoding speed; 0 where nothing was decoded after the first token."""
        return (len(self.token_ids) - 1) / self.decode_seconds if self.decode_seconds > 0 else 0.0


Event = Waiting | PrefillProgress | NewToken | Answer


def check_budget(total_tokens: int, config: SelfExtendConfig, trained_window: int) -> None:
    """Refuse a prompt and answer that do not fit together, rather than cut anything.

    Raises:
        PastReachError: with the smallest change of settings that makes them fit.
    """
    reach = max_length(trained_window, config)
    if total_tokens <= reach:
        return
    smallest = smallest_group_size(trained_window, total_tokens, config.neighbor_window)
    advised = suggest(trained_window, total_tokens)
    raise PastReachError(
        f"Prompt and answer need {total_tokens:,} tokens, but group size {config.group_size} with neighbor window "
        f"{config.neighbor_window} reaches {reach:,}. The smallest change that fits is group size "
        f"{smallest}; advised are group size {advised.group_size} and neighbor window "
        f"{advised.neighbor_window}. Or ask for a shorter answer or use fewer pages."
    )


def settings_in_use(
    config: SelfExtendConfig | None, extend: ExtendWhen, total_tokens: int, trained_window: int
) -> SelfExtendConfig | None:
    """The settings that apply to a prompt and answer of `total_tokens`: None is the untouched model."""
    if extend not in ("always", "when_needed"):
        raise ValueError(f"extend must be 'always' or 'when_needed', not {extend!r}.")
    if config is None or (extend == "when_needed" and total_tokens <= trained_window):
        return None
    return config


_locks: WeakKeyDictionary[PreTrainedModel, threading.Lock] = WeakKeyDictionary()


def _lock_of(model: PreTrainedModel) -> threading.Lock:
    return _locks.setdefault(model, threading.Lock())


@contextmanager
def _as_configured(model: PreTrainedModel, config: SelfExtendConfig | None, window: int) -> Iterator[None]:
    """The model with just these settings, whatever was on before. Comes back to that."""
    if config is not None:
        with self_extend(model, config, trained_window=window, on_overflow="ignore"):
            yield
        return
    extension = active_extension(model)
    disable(model)
    try:
        yield
    finally:
        if extension is not None:
            extension.install(model)


def answer_steps(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: Sequence[int],
    settings: GenerationSettings,
    *,
    config: SelfExtendConfig | None,
    extend: ExtendWhen = "always",
    prefix: PrefixCache | None = None,
    trained_window: int | None = None,
    record: RecordingRequest | None = None,
    chunk_tokens: int = CHUNK_TOKENS,
    past_reach: Literal["refuse", "allow"] = "refuse",
) -> Iterator[Event]:
    """Read a prompt and answer it, step by step. Closing the generator stops between two chunks or tokens.

    Args:
        prompt: token ids, at least one.
        config: SelfExtend's settings, or None for the vanilla model, which is not refused past its window.
        extend: "always", or "when_needed": a prompt whose answer fits the trained window gets the untouched model.
        prefix: what was read before; only new tokens are computed. It is brought up to date as the work goes on.
        record: attention to keep. Its rows may reach into the answer. For the vanilla model it is recorded under
            group_size=1, which is the same function.
        past_reach: "allow" answers past the settings' reach too, however badly: log-n alone is `group_size=1` with
            query scaling, whose reach is the trained window.

    Yields:
        `Waiting` while the model is busy, `PrefillProgress`, `NewToken`, and `Answer` last.

    Raises:
        PastReachError: prompt and max_new_tokens do not fit the reach. Nothing was computed.
        OutOfMemoryError: memory ran out; the prefix was let go, the model is as before.
    """
    if len(prompt) == 0:
        raise ValueError("The prompt is empty.")
    window = windows.trained_window(model.config) if trained_window is None else trained_window
    total = len(prompt) + settings.max_new_tokens
    used = settings_in_use(config, extend, total, window)
    if used is not None and past_reach == "refuse":
        check_budget(total, used, window)
    if record is not None and used is None:
        used = SelfExtendConfig(group_size=1, neighbor_window=max(1, window // 4))
    prefix = PrefixCache() if prefix is None else prefix
    yield from exclusively(
        model, prefix, lambda: _answer(model, tokenizer, prompt, settings, used, window, prefix, record, chunk_tokens)
    )


def log_probability_steps(
    model: PreTrainedModel,
    prompt: Sequence[int],
    answer: Sequence[int],
    *,
    config: SelfExtendConfig | None,
    prefix: PrefixCache | None = None,
    trained_window: int | None = None,
    chunk_tokens: int = CHUNK_TOKENS,
) -> Iterator[Waiting | PrefillProgress | np.ndarray]:
    """The log-probability, natural logarithm, that the model gives each token of a known answer: (answer,), last.

    Arguments and errors as in `answer_steps`.
    """
    if len(prompt) == 0 or len(answer) == 0:
        raise ValueError("Prompt and answer must each have at least one token.")
    window = windows.trained_window(model.config) if trained_window is None else trained_window
    if config is not None:
        check_budget(len(prompt) + len(answer), config, window)
    prefix = PrefixCache() if prefix is None else prefix

    @torch.no_grad()
    def work() -> Iterator[PrefillProgress | np.ndarray]:
        with _as_configured(model, config, window):
            logits, _ = yield from _prefill(model, prompt, config, prefix, chunk_tokens)
            rest = list(answer[:-1])
            rows = [logits]
            if rest:
                rows.append(_forward(model, rest, prefix, keep=len(rest)))
            scores = torch.log_softmax(torch.cat(rows).float(), dim=-1)
            yield scores[torch.arange(len(answer)), torch.tensor(answer, device=scores.device)].cpu().numpy()

    yield from exclusively(model, prefix, work)


def token_loss_steps(
    model: PreTrainedModel,
    tokens: Sequence[int],
    *,
    config: SelfExtendConfig | None,
    trained_window: int | None = None,
    chunk_tokens: int = 512,
) -> Iterator[Waiting | PrefillProgress | np.ndarray]:
    """Negative log-likelihood of each token but the first, teacher-forced, in nats: (tokens - 1,) fp32, last.

    Read in chunks, so that neither attention nor logits are ever held for the whole text. Errors as in
    `answer_steps`; the vanilla model is not refused past its window.
    """
    if len(tokens) < 2:
        raise ValueError("At least two tokens are needed for a loss.")
    window = windows.trained_window(model.config) if trained_window is None else trained_window
    if config is not None:
        check_budget(len(tokens), config, window)
    prefix = PrefixCache(config=config)

    @torch.no_grad()
    def work() -> Iterator[PrefillProgress | np.ndarray]:
        losses, began = [], time.perf_counter()
        clock = _Clock(len(tokens) - 1)
        with _as_configured(model, config, window):
            _ensure_cache(model, prefix, len(tokens))
            for start in range(0, len(tokens) - 1, chunk_tokens):
                chunk = list(tokens[start : min(start + chunk_tokens, len(tokens) - 1)])
                logits = _forward(model, chunk, prefix, keep=len(chunk)).float()
                targets = torch.tensor(tokens[start + 1 : start + 1 + len(chunk)], device=logits.device)
                losses.append(torch.nn.functional.cross_entropy(logits, targets, reduction="none").cpu().numpy())
                done = start + len(chunk)
                left = clock.seconds_left(done)
                yield PrefillProgress(done, len(tokens) - 1, 0, time.perf_counter() - began, left)
        yield np.concatenate(losses)

    yield from exclusively(model, prefix, work)


def exclusively(
    model: PreTrainedModel, prefix: PrefixCache, work: Callable[[], Iterator[Step]]
) -> Iterator[Waiting | Step]:
    """Run a generator of work while nobody else uses the model, and speak plainly when memory runs out."""
    lock = _lock_of(model)
    while not lock.acquire(timeout=0.5):
        yield Waiting()
    try:
        yield from work()
    except (MemoryError, torch.OutOfMemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        held = prefix.nbytes
        prefix.clear()
        raise OutOfMemoryError(
            f"Memory ran out after {held / 2**20:,.0f} MB of keys and values. What was read is forgotten, everything "
            "else is as before. Use fewer pages, a smaller model or a quantized one."
        ) from error
    finally:
        lock.release()


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "not enough memory" in str(error)


class _Clock:
    """Time left for a text whose chunks take longer the more came before: a straight line through those seen."""

    def __init__(self, total: int, start: int = 0) -> None:
        self.total, self.done = total, start
        self.last = time.perf_counter()
        self.starts: list[int] = []
        self.rates: list[float] = []

    def seconds_left(self, done: int) -> float:
        """Having read up to `done`, tokens."""
        now = time.perf_counter()
        self.starts.append((self.done + done) // 2)
        self.rates.append((now - self.last) / max(1, done - self.done))
        self.done, self.last = done, now
        slope = 0.0
        if len(self.rates) > 1:
            slope = max(0.0, float(np.polyfit(self.starts, self.rates, 1)[0]))
        rate = float(np.mean(self.rates)) + slope * ((done + self.total) / 2 - float(np.mean(self.starts)))
        return rate * (self.total - done)


def _ensure_cache(model: PreTrainedModel, prefix: PrefixCache, length: int) -> None:
    if prefix.cache is None:
        extension = active_extension(model)
        prefix.cache = DynamicCache(config=model.config) if extension is None else extension.new_cache()
    if isinstance(prefix.cache, SelfExtendCache):
        prefix.cache.reserve(length)


def _forward(model: PreTrainedModel, tokens: list[int], prefix: PrefixCache, keep: int = 1) -> torch.Tensor:
    """Logits of the last `keep` of these tokens, (keep, vocabulary). The prefix holds them afterwards."""
    ids = torch.tensor([tokens]).to(next(model.get_input_embeddings().parameters()).device)
    held = len(prefix.tokens)
    try:
        logits = model(input_ids=ids, past_key_values=prefix.cache, use_cache=True, logits_to_keep=keep).logits[0]
    except BaseException:
        # Some layers may hold these tokens already; a cache whose layers disagree is of no use.
        prefix.clear()
        raise
    prefix.tokens = [*prefix.tokens[:held], *tokens]
    return logits


def _prefill(
    model: PreTrainedModel,
    prompt: Sequence[int],
    config: SelfExtendConfig | None,
    prefix: PrefixCache,
    chunk_tokens: int,
) -> Generator[PrefillProgress, None, tuple[torch.Tensor, int]]:
    """Read what of the prompt is not read yet. Yields progress; returns the last logits (1, vocabulary), and reuse."""
    reused = prefix.rewind(prompt, config)
    began, done, total = time.perf_counter(), reused, len(prompt)
    clock = _Clock(total, reused)
    _ensure_cache(model, prefix, total)
    yield PrefillProgress(reused, total, reused, 0.0, float("nan"))
    logits = torch.empty(0)
    while done < total:
        chunk = list(prompt[done : done + chunk_tokens])
        logits = _forward(model, chunk, prefix)
        done += len(chunk)
        yield PrefillProgress(done, total, reused, time.perf_counter() - began, clock.seconds_left(done))
    return logits, reused


@torch.no_grad()
def _answer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: Sequence[int],
    settings: GenerationSettings,
    config: SelfExtendConfig | None,
    window: int,
    prefix: PrefixCache,
    record: RecordingRequest | None,
    chunk_tokens: int,
) -> Iterator[Event]:
    began = time.perf_counter()
    with _as_configured(model, config, window):
        kept = nullcontext() if record is None else recording(model, record)
        with kept as attention:
            logits, reused = yield from _prefill(model, prompt, config, prefix, chunk_tokens)
            prefilled = time.perf_counter()
            ends, generator = _end_tokens(model, tokenizer), torch.Generator().manual_seed(settings.seed)
            processors = settings.processors()
            ids: list[int] = []
            scores: list[float] = []
            text = ""
            stopped_by: Literal["end", "stop", "length"] = "length"
            while True:
                token, score = _choose(logits, [*prompt, *ids], processors, settings, generator)
                ids.append(token)
                scores.append(score)
                text, at_stop = _shown(tokenizer, [t for t in ids if t not in ends], settings.stop, final=False)
                if token in ends:
                    stopped_by = "end"
                    break
                yield NewToken(token, score, text)
                if at_stop:
                    stopped_by = "stop"
                    break
                if len(ids) == settings.max_new_tokens:
                    break
                logits = _forward(model, [token], prefix)
    text, _ = _shown(tokenizer, [t for t in ids if t not in ends], settings.stop, final=True)
    yield Answer(
        text=text,
        token_ids=tuple(ids),
        log_probabilities=tuple(scores),
        prompt_tokens=len(prompt),
        reused_tokens=reused,
        prefill_seconds=prefilled - began,
        decode_seconds=time.perf_counter() - prefilled,
        config=config,
        stopped_by=stopped_by,
        attention=attention,
    )


def _end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    configured = getattr(model.generation_config, "eos_token_id", None)
    ends = [*(configured if isinstance(configured, list) else [configured]), tokenizer.eos_token_id]
    return {end for end in ends if isinstance(end, int)}


def _choose(
    logits: torch.Tensor,
    history: list[int],
    processors: LogitsProcessorList,
    settings: GenerationSettings,
    generator: torch.Generator,
) -> tuple[int, float]:
    """The next token and its log-probability under the model itself."""
    scores = torch.log_softmax(logits[-1:].float(), dim=-1)
    processed = scores
    if processors:  # only they look at the history, which is as long as the document
        processed = processors(torch.tensor([history], device=scores.device), scores)  # type: ignore[arg-type]
    if settings.temperature == 0:
        token = int(processed.argmax())
    else:
        token = int(torch.multinomial(torch.softmax(processed, dim=-1)[0].cpu(), 1, generator=generator))
    return token, float(scores[0, token])


def _shown(
    tokenizer: PreTrainedTokenizerBase, ids: list[int], stop: tuple[str, ...], *, final: bool
) -> tuple[str, bool]:
    """The answer's text as far as it is certain, and whether a stop string has come."""
    text = tokenizer.decode(ids, skip_special_tokens=True)
    assert isinstance(text, str)
    found = [at for at in (text.find(string) for string in stop) if at >= 0]
    if found:
        return text[: min(found)], True
    if final:
        return text, False
    # Hold back half a character, and what could be the beginning of a stop string.
    text = text.rstrip("\N{REPLACEMENT CHARACTER}")
    held = max(
        (n for string in stop for n in range(1, len(string)) if text.endswith(string[:n])),
        default=0,
    )
    return text[: len(text) - held], False
