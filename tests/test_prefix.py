"""A beginning is read once, held once, and every text that goes on from it reads what it would have read alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import TRAINED_WINDOW, build, token_ids
from transformers import PreTrainedModel

from selfextend.beginning import Beginning, Continuation
from selfextend.kept import read_reading, write_reading
from selfextend.methods import Method, SelfExtend, SlidingWindow, Vanilla
from selfextend.profile import Profile
from selfextend.reading import PrefixCache, reading

PROFILE = Profile(trained_window=TRAINED_WINDOW, neighbor_window=16, query_scaling="none")
METHODS = {"selfextend": SelfExtend("none", 4, 16), "vanilla": Vanilla(), "window": SlidingWindow()}
MIXED = ["qwen2-mixed", "gemma2", "gemma3-wide", "gpt-oss"]
"""Models whose layers differ: plain sliding-window attention does not fit them."""
NAMES = ["llama", "mistral-sliding", "smollm3", "deepseek-v3", "jetmoe", *MIXED]
CASES = [(name, kind) for kind in METHODS for name in NAMES if kind != "window" or name not in MIXED]
HEAD, CHUNK = 50, 20
TOKENS: list[int] = token_ids(400)[0].tolist()
START, REST = TOKENS[:HEAD], TOKENS[HEAD:]
TAILS = {"a": REST[:30], "b": REST[40:47], "c": REST[60:150]}


def read_on(
    model: PreTrainedModel, method: Method, prefix: PrefixCache, tokens: Sequence[int], observed: bool
) -> torch.Tensor:
    """The last logits of a text, of which only what is new is read, in a turn of its own."""
    with reading(model, method, PROFILE, len(tokens), observed=observed) as reader:
        done = prefix.rewind(reader, tokens[:-1], len(tokens))
        logits = torch.empty(0)
        while done < len(tokens):
            chunk = prefix.chunk(tokens, done, CHUNK)
            logits = prefix.read(reader, chunk)
            done += len(chunk)
    return logits


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_those_who_go_on_from_one_beginning_do_not_see_each_other(name: str, kind: str) -> None:
    model, method = build(name), METHODS[kind]
    observed = kind == "selfextend"
    steps = [("a", 30), ("b", 7), ("a", 50), ("c", 90), ("b", 60), ("a", 51), ("c", 91), ("b", 5)]

    def text(who: str, tokens: int) -> list[int]:
        return [*START, *(TAILS[who] + REST[200:])[:tokens]]

    alone = {who: Continuation(Beginning(START)) for who in TAILS}
    beginning = Beginning(START)
    together = {who: Continuation(beginning) for who in TAILS}
    for who, tokens in steps:
        expected = read_on(model, method, alone[who], text(who, tokens), observed)
        found = read_on(model, method, together[who], text(who, tokens), observed)
        assert torch.equal(found, expected), (who, tokens)
        assert together[who].tokens == text(who, tokens)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_what_was_written_is_read_on_from_as_if_it_had_just_been_read(name: str, kind: str, tmp_path: Path) -> None:
    model, method = build(name), METHODS[kind]
    observed = kind == "selfextend"
    text = [*START, *TAILS["a"]]
    beginning = Beginning(START)
    expected = read_on(model, method, Continuation(beginning), text, observed)
    states = beginning.states()
    assert states is not None
    with (tmp_path / "kept").open("wb") as file:
        write_reading(file, states, {"of": "this"})
    asked = []

    def recall(reads_as: object) -> dict[str, torch.Tensor]:
        asked.append(reads_as)
        return read_reading(tmp_path / "kept", {"of": "this"})

    again = Continuation(Beginning(START, recall))
    with reading(model, method, PROFILE, len(text), observed=observed) as reader:
        assert again.rewind(reader, text[:-1], len(text)) == HEAD
        assert asked == [reader.reads_as]
    assert torch.equal(read_on(model, method, again, text, observed), expected)
    # It is a beginning like any other: others go on from it, and it goes back to its end.
    other = Continuation(again.beginning)
    read_on(model, method, other, [*START, *TAILS["c"]], observed)
    alone = Continuation(Beginning(START))
    read_on(model, method, alone, text, observed)
    expected = read_on(model, method, alone, [*text, 5], observed)
    assert torch.equal(read_on(model, method, again, [*text, 5], observed), expected)


def test_states_of_another_length_or_of_other_layers_are_not_taken() -> None:
    model, method = build("llama"), METHODS["selfextend"]
    beginning = Beginning(START)
    read_on(model, method, Continuation(beginning), [*START, 1, 2], True)
    states = beginning.states()
    assert states is not None
    shorter = {name: tensor[:, :, :-1] if "near" not in name else tensor for name, tensor in states.items()}
    more_layers = states | {"7.keys": states["0.keys"], "7.values": states["0.values"]}
    no_near = {name: tensor for name, tensor in states.items() if "near" not in name}
    for wrong in (shorter, more_layers, no_near, {}):
        again = Continuation(Beginning(START, lambda _, wrong=wrong: wrong))
        with reading(model, method, PROFILE, HEAD + 9, observed=True) as reader:
            assert again.rewind(reader, [*START, 1], HEAD + 9) == 0


@contextmanager
def fails_in_its_last_layer(model: Any, after: int) -> Iterator[None]:
    """A forward pass that fails when all layers but the last hold its tokens, after so many that do not."""
    passes: list[int] = []

    def fail(module: object, args: object, kwargs: dict[str, Any]) -> None:
        passes.append(kwargs["hidden_states"].shape[1])
        if sum(tokens > 3 for tokens in passes) > after:  # those of three try out what the model can do
            raise RuntimeError("in the last layer")

    hook = model.model.layers[-1].self_attn.register_forward_pre_hook(fail, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def test_an_error_behind_the_beginning_costs_only_what_stands_there() -> None:
    model, method = build("llama"), METHODS["selfextend"]
    beginning = Beginning(START)
    first, second = Continuation(beginning), Continuation(beginning)
    expected = read_on(model, method, first, [*START, *TAILS["a"]], True)
    with fails_in_its_last_layer(model, after=0), pytest.raises(RuntimeError, match="last layer"):
        read_on(model, method, second, [*START, *TAILS["b"]], True)
    assert beginning.is_read
    assert second.tokens == START
    assert torch.equal(read_on(model, method, Continuation(beginning), [*START, *TAILS["a"]], True), expected)


def test_an_error_in_the_beginning_costs_all_of_it() -> None:
    model, method = build("llama"), METHODS["selfextend"]
    beginning = Beginning(START)
    mine = Continuation(beginning)
    with fails_in_its_last_layer(model, after=1), pytest.raises(RuntimeError, match="last layer"):
        read_on(model, method, mine, [*START, *TAILS["b"]], True)
    assert len(mine.tokens) == CHUNK
    text = [*START, *TAILS["a"]]
    expected = read_on(model, method, Continuation(Beginning(START)), text, True)
    assert torch.equal(read_on(model, method, mine, text, True), expected)


def test_the_beginning_is_in_memory_once() -> None:
    model, method = build("llama"), METHODS["selfextend"]
    beginning = Beginning(TOKENS[:300])
    places = [Continuation(beginning) for _ in range(30)]
    for number, place in enumerate(places):
        read_on(model, method, place, [*TOKENS[:300], number, 2, 3, 4], True)
    own = Continuation(Beginning(TOKENS[:300]))
    read_on(model, method, own, [*TOKENS[:300], 1, 2, 3, 4], True)
    assert beginning.nbytes + sum(place.nbytes for place in places) < 1.6 * own.text_nbytes


def test_what_was_cleared_is_not_what_stands_in_the_cache() -> None:
    """A visitor's own part is let go of, and the next question goes on from the beginning alone."""
    model, method = build("llama"), METHODS["selfextend"]
    beginning = Beginning(START)
    place = Continuation(beginning)
    read_on(model, method, place, [*START, *TAILS["a"]], True)
    place.clear()
    expected = read_on(model, method, Continuation(Beginning(START)), [*START, *TAILS["b"]], True)
    assert torch.equal(read_on(model, method, place, [*START, *TAILS["b"]], True), expected)


def test_a_text_that_begins_otherwise_is_refused() -> None:
    model = build("llama")
    with reading(model, Vanilla(), PROFILE, 60) as reader, pytest.raises(ValueError, match="does not begin"):
        Continuation(Beginning(START)).rewind(reader, TOKENS[1:60], 60)
