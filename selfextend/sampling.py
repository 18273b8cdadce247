"""How an answer's tokens are chosen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from selfextend.config import checked_integer


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


class Sampler:
    """Chooses tokens as the settings say.

    Args:
        chosen: tokens of the answer that were chosen before, by the same settings.
    """

    def __init__(self, settings: GenerationSettings, chosen: int = 0) -> None:
        self.settings = settings
        self.processors = settings.processors()
        self.generator = torch.Generator().manual_seed(settings.seed)
        self._behind = chosen

    def choose(self, logits: torch.Tensor, prompt: Sequence[int], ids: Sequence[int]) -> tuple[int, float]:
        """The next token and its log-probability under the model itself."""
        scores = torch.log_softmax(logits[-1:].float(), dim=-1)
        processed = scores
        if self.processors:  # only they look at the history, which is as long as the document
            history = torch.tensor([[*prompt, *ids]], device=scores.device)
            processed = self.processors(history, scores)  # type: ignore[arg-type]
        if self.settings.temperature == 0:
            token = int(processed.argmax())
        else:
            chances = torch.softmax(processed, dim=-1)[0].cpu()
            for _ in range(self._behind):  # so that the generator is where it would be in one go
                torch.multinomial(torch.ones_like(chances), 1, generator=self.generator)
            self._behind = 0
            token = int(torch.multinomial(chances, 1, generator=self.generator))
        return token, float(scores[0, token])
