"""How long reading takes is told from one layer's speed at first, and from readings after that."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from app_parts import stored, tiny, tiny_folder  # noqa: F401 (fixtures)

from app.asking import Question, answer_turn
from app.cache_store import CacheStore
from app.meters import meters
from app.model_shelf import LoadedModel
from app.prompting import PLAIN
from app.reading_places import seconds_to_read
from app.reading_time import ReadingTime, in_words, reading_time
from app.session import Session
from selfextend.generation import GenerationSettings
from selfextend.methods import SelfExtend, Vanilla
from selfextend.steps import result_of

METHOD = SelfExtend("none", 8, 64)


def test_a_long_text_takes_more_than_its_share() -> None:
    time = ReadingTime(weights=10**6, attention_width=10**3, operations_per_second=10**9)
    # 2 x 10^6 x 1,000 for the weights and 4 x 10^3 x 1,000 x 500 for the pairs.
    assert time.seconds(1_000) == pytest.approx(4.0)
    assert time.seconds(2_000) > 2 * time.seconds(1_000)
    assert time.seconds(2_000, read=1_000) == pytest.approx(time.seconds(2_000) - time.seconds(1_000))
    assert time.seconds(500, read=700) == 0
    assert replace(time, operations_per_second=None).seconds(1_000) is None


def test_it_learns_from_readings_that_are_long_enough() -> None:
    time = ReadingTime(10**6, 10**3, 10**9)
    time.learn(1_000, 0, 8.0)
    assert time.seconds(1_000) == pytest.approx(8.0)
    time.learn(1_010, 1_000, 5.0)  # ten tokens say nothing
    assert time.seconds(1_000) == pytest.approx(8.0)


def test_the_weights_are_those_of_the_model(tiny: LoadedModel) -> None:  # noqa: F811
    model = tiny.model
    outputs = model.get_output_embeddings()
    linears = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not outputs]
    time = reading_time(model, model.config.num_hidden_layers)
    assert time.weights == sum(module.weight.numel() for module in linears)
    heads = linears[0].out_features  # the first is q_proj: heads x head_dim
    assert time.attention_width == heads * model.config.num_hidden_layers
    assert time.operations_per_second > 0


def test_what_was_read_is_not_counted_again(tiny: LoadedModel) -> None:  # noqa: F811
    loaded, caches, session = tiny, CacheStore(10**9), Session("v")
    session.documents = [stored(pages=12)]
    question = Question("Who?", tuple(session.documents), METHOD, "always", GenerationSettings(max_new_tokens=2))
    tokens = 2_000
    before = seconds_to_read(loaded, caches, session, [METHOD], "always", PLAIN, tokens)
    both = seconds_to_read(loaded, caches, session, [METHOD, Vanilla()], "always", PLAIN, tokens)
    assert both == pytest.approx(2 * before)
    turn = result_of(answer_turn(loaded, caches, session, question))
    read = turn.answer.prompt_tokens
    after = seconds_to_read(loaded, caches, session, [METHOD], "always", PLAIN, read)
    assert after < 0.05 * loaded.reading_time.seconds(read)
    assert loaded.reading_time.seconds(read) == pytest.approx(turn.answer.prefill_seconds)


def test_in_words() -> None:
    assert [in_words(seconds) for seconds in (0.2, 12.4, 200)] == ["at once", "about 12 s", "about 3 min"]


def test_the_meters_say_how_long_reading_takes() -> None:
    def to_read(seconds: float | None) -> str:
        numbers: dict[str, Any] = {"reply": None, "cache_bytes": 0, "gpu_bytes": None}
        line = meters(256, 1000, METHOD, wait_seconds=seconds, **numbers)
        (shown,) = re.findall(r"To read</dt><dd>(.*?)</dd>", line)
        return str(shown)

    assert to_read(42.4) == "about 42 s"
    assert to_read(600) == "about 10 min"
    assert to_read(0.2) == "at once"
    assert to_read(None) == "–"
