"""SelfExtendCache: what it answers, what it weighs, and everything generation does to a cache."""

import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from architectures import build, token_ids
from helpers import CONFIG, LENGTH, assert_same, extended, in_chunks, logits, oracle_logits
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache, PreTrainedModel, StaticCache
from transformers.models.llama import modeling_llama

from selfextend import SelfExtendConfig, rotary
from selfextend.cache import SelfExtendCache, cache_nbytes
from selfextend.probe import examine
from selfextend.rotary import PlacedTables, RotaryEmbedding, Tables

NAMES = [
    "llama",
    "gemma3",
    "gemma3-wide",
    "smollm3",
    "phi",
    "gpt-neox",
    "falcon-new",
    "falcon-multi-query",
    "glm4",
    "mistral-sliding",
    "llama-yarn",
]
WINDOW = CONFIG.neighbor_window


@torch.no_grad()
def prefill(model: PreTrainedModel, ids: torch.Tensor, **kwargs: Any) -> SelfExtendCache:
    cache = model(ids, use_cache=True, **kwargs).past_key_values
    assert isinstance(cache, SelfExtendCache)
    return cache


@settings(max_examples=40)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.sampled_from(["llama", "phi"]))
def test_any_chunks(sizes: list[int], name: str) -> None:
    ids = token_ids(LENGTH)
    sizes = [size for n, size in enumerate(sizes) if sum(sizes[: n + 1]) < LENGTH]
    sizes = [*sizes, LENGTH - sum(sizes)]
    with extended(model := build(name)):
        actual, _ = in_chunks(model, ids, sizes)
    assert_same(actual, oracle_logits(name, CONFIG))


@pytest.mark.parametrize("name", NAMES)
def test_a_second_turn_on_the_same_cache(name: str) -> None:
    """Prefill, decode some, then a further chunk: as in a chat."""
    sizes = (40, *[1] * 9, 24)
    assert sum(sizes) == LENGTH
    with extended(model := build(name)):
        actual, _ = in_chunks(model, token_ids(LENGTH), sizes)
    assert_same(actual, oracle_logits(name, CONFIG))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("removed", [1, 5, WINDOW - 1, WINDOW, 30, 60])
def test_cropped_it_goes_on_as_if_the_tokens_had_never_been(name: str, removed: int) -> None:
    """Cutting off more than the neighbor window takes all exact keys away: they have to be made anew."""
    ids = token_ids(LENGTH)
    other = token_ids(70, seed=9)
    other[:, : 70 - removed] = ids[:, : 70 - removed]
    with torch.no_grad(), extended(model := build(name)):
        cache = prefill(model, ids[:, :1])
        cache.reset()
        cache.activate_past_recording()  # as transformers does before it crops: for layers with a window of their own
        model(other, past_key_values=cache)
        assert cache.is_croppable
        cache.crop(-removed)
        assert cache.get_seq_length() == 70 - removed
        rest = ids[:, 70 - removed :]
        first = model(rest[:, :1], past_key_values=cache).logits
        others = model(rest[:, 1:], past_key_values=cache).logits
    assert_same(torch.cat([first, others], dim=1), oracle_logits(name, CONFIG)[:, 70 - removed :])


def test_crop_is_undone_by_reading_on_twice() -> None:
    ids = token_ids(LENGTH)
    with torch.no_grad(), extended(model := build("llama")):
        cache = prefill(model, ids[:, :60])
        first = model(ids[:, 60:], past_key_values=cache).logits
        cache.crop(-(LENGTH - 60))
        second = model(ids[:, 60:], past_key_values=cache).logits
    assert_same(second, first)


def test_crop_takes_a_negative_number_as_transformers_does() -> None:
    with extended(model := build("llama")):
        cache = prefill(model, token_ids(40))
        with pytest.raises(ValueError, match="-3"):
            cache.crop(3)
        assert cache.get_seq_length() == 40
        cache.crop(0)
        assert cache.get_seq_length() == 40


@pytest.mark.parametrize("name", NAMES)
def test_rows_can_be_chosen_and_repeated(name: str) -> None:
    ids = token_ids(LENGTH, batch=3)
    with torch.no_grad(), extended(model := build(name)):
        whole = logits(model, ids)[:, 60:]

        cache = prefill(model, ids[:, :60])
        order = torch.tensor([2, 0, 0])
        cache.reorder_cache(order)
        actual = [model(ids[order, 60:65], past_key_values=cache).logits]
        actual.append(model(ids[order, 65:], past_key_values=cache).logits)
        assert_same(torch.cat(actual, dim=1), whole[order])

        cache = prefill(model, ids[:, :60])
        cache.batch_select_indices(torch.tensor([1, 2]))
        assert_same(model(ids[1:, 60:], past_key_values=cache).logits, whole[1:])

        cache = prefill(model, ids[:, :60])
        cache.batch_repeat_interleave(2)
        twice = ids.repeat_interleave(2, dim=0)
        assert_same(model(twice[:, 60:], past_key_values=cache).logits, whole.repeat_interleave(2, dim=0))


def test_a_reset_cache_starts_over() -> None:
    ids = token_ids(LENGTH)
    with torch.no_grad(), extended(model := build("llama")):
        cache = prefill(model, token_ids(50, seed=5))
        cache.reset()
        assert cache.get_seq_length() == 0
        actual = model(ids, past_key_values=cache).logits
    assert_same(actual, oracle_logits("llama", CONFIG))


def held_tensors(thing: object, seen: set[int]) -> Iterator[torch.Tensor]:
    """Every tensor that hangs on an object, wherever."""
    if id(thing) in seen or isinstance(thing, (str, int, float, type, torch.nn.Module)):
        return
    seen.add(id(thing))
    if isinstance(thing, torch.Tensor):
        yield thing
    elif isinstance(thing, dict):
        for value in thing.values():
            yield from held_tensors(value, seen)
    elif isinstance(thing, (list, tuple, set)):
        for value in thing:
            yield from held_tensors(value, seen)
    elif hasattr(thing, "__dict__"):
        yield from held_tensors(vars(thing), seen)


def bytes_held(cache: object) -> int:
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in held_tensors(cache, set())}
    return sum(storages.values())


def vanilla_bytes(name: str, length: int, batch: int = 1) -> int:
    with torch.no_grad():
        cache = build(name)(token_ids(length, batch), past_key_values=DynamicCache(), use_cache=True).past_key_values
    return bytes_held(cache)


@pytest.mark.parametrize("name", ["llama", "phi", "falcon-new"])
@pytest.mark.parametrize(
    ("length", "batch", "chunks"), [(150, 1, (150,)), (150, 3, (150,)), (150, 1, (60, 13, 77)), (12, 1, (12,))], ids=str
)
def test_bytes_after_prefill(name: str, length: int, batch: int, chunks: tuple[int, ...]) -> None:
    """At most (1 + w/N) times vanilla's when the text comes at once; in chunks there may be an eighth of slack."""
    vanilla = vanilla_bytes(name, length, batch)
    with extended(model := build(name)):
        _, cache = in_chunks(model, token_ids(length, batch), chunks)
    limit = (1 + WINDOW / length) * vanilla * (1 if len(chunks) == 1 else 1.125)
    assert vanilla <= cache_nbytes(cache) <= limit
    assert cache_nbytes(cache) == bytes_held(cache)


def test_bytes_while_decoding() -> None:
    ids = token_ids(150)
    with torch.no_grad(), extended(model := build("llama")):
        cache = prefill(model, ids[:, :60])
        for length in range(61, 151):
            model(ids[:, length - 1 : length], past_key_values=cache)
            vanilla = 2 * 2 * 2 * 16 * 4 * length  # keys and values, layers, kv heads, head_dim, bytes
            assert bytes_held(cache) <= 1.125 * (1 + WINDOW / length) * vanilla
            assert cache_nbytes(cache) == bytes_held(cache)
    assert vanilla == vanilla_bytes("llama", 150)


def test_decoding_seldom_allocates() -> None:
    """The point of growing by an eighth: no copy of everything for every token."""
    ids = token_ids(150)
    addresses = set()
    with torch.no_grad(), extended(model := build("llama")):
        cache = prefill(model, ids[:, :60])
        for length in range(60, 150):
            model(ids[:, length : length + 1], past_key_values=cache)
            addresses.add(cache.layers[0].keys.untyped_storage().data_ptr())
    assert len(addresses) <= 12  # 60 * 1.125 ** 8 > 150


def test_who_gives_no_cache_gets_ours() -> None:
    model, ids = build("llama"), token_ids(40)
    with torch.no_grad(), extended(model):
        assert isinstance(model(ids).past_key_values, SelfExtendCache)
        assert isinstance(model(ids, use_cache=True).past_key_values, SelfExtendCache)
        assert model(ids, use_cache=False).past_key_values is None
    assert not isinstance(model(ids, use_cache=True).past_key_values, SelfExtendCache)


def test_who_gives_a_cache_keeps_it() -> None:
    ids = token_ids(LENGTH)
    with torch.no_grad(), extended(model := build("llama")):
        for cache in (
            DynamicCache(),
            DynamicCache(config=model.config),
            StaticCache(config=model.config, max_cache_len=90),
        ):
            output = model(ids[:, :60], past_key_values=cache)
            assert output.past_key_values is cache
            rest = [model(ids[:, n : n + 1], past_key_values=cache).logits for n in range(60, LENGTH)]
            assert_same(torch.cat([output.logits, *rest], dim=1), oracle_logits("llama", CONFIG))


@pytest.mark.parametrize(
    "other", [SelfExtendConfig(4, 16), SelfExtendConfig(3, 17), SelfExtendConfig(3, 16, "logn")], ids=str
)
def test_a_cache_of_other_settings_is_refused(other: SelfExtendConfig) -> None:
    model, ids = build("llama"), token_ids(50)
    with extended(model):
        cache = prefill(model, ids[:, :40])
    with torch.no_grad(), extended(model, other), pytest.raises(ValueError, match="cache"):
        model(ids[:, 40:], past_key_values=cache)


def test_a_cache_of_ours_is_refused_by_the_plain_model() -> None:
    model, ids = build("llama"), token_ids(50)
    with extended(model):
        cache = prefill(model, ids[:, :40])
    with torch.no_grad(), pytest.raises(RuntimeError, match=r"[Ee]nable"):
        model(ids[:, 40:], past_key_values=cache)


def test_a_cache_outlives_disabling_and_enabling_again() -> None:
    model, ids = build("llama"), token_ids(LENGTH)
    with extended(model):
        cache = prefill(model, ids[:, :50])
    logits(model, ids)
    with torch.no_grad(), extended(model):
        actual = model(ids[:, 50:], past_key_values=cache).logits
    assert_same(actual, oracle_logits("llama", CONFIG)[:, 50:])


def test_two_caches_by_turns() -> None:
    """Two conversations on one model."""
    ids, other = token_ids(LENGTH), token_ids(LENGTH, seed=4)
    with torch.no_grad(), extended(model := build("llama")):
        first, second = prefill(model, ids[:, :30]), prefill(model, other[:, :50])
        a = model(ids[:, 30:60], past_key_values=first).logits
        b = model(other[:, 50:], past_key_values=second).logits
        c = model(ids[:, 60:], past_key_values=first).logits
        expected = logits(model, other)[:, 50:]
    assert_same(torch.cat([a, c], dim=1), oracle_logits("llama", CONFIG)[:, 30:])
    assert_same(b, expected)


def test_a_failed_step_can_be_repeated() -> None:
    """Cancelled in the middle of a pass, some layers hold the new tokens and some do not; cropping puts it right."""
    model, ids = build("llama"), token_ids(LENGTH)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with torch.no_grad(), extended(model):
        cache = prefill(model, ids[:, :50])
        hook = model.model.layers[1].register_forward_pre_hook(stop)
        with pytest.raises(KeyboardInterrupt):
            model(ids[:, 50:], past_key_values=cache)
        hook.remove()
        for layer in cache.layers:
            layer.crop(50 - layer.get_seq_length())
        assert cache.get_seq_length() == 50
        actual = model(ids[:, 50:], past_key_values=cache).logits
    assert_same(actual, oracle_logits("llama", CONFIG)[:, 50:])


def test_layers_share_one_rotary_embedding_and_its_tables() -> None:
    """Tables made anew for every layer once added a query's size of memory per layer to a prefill."""
    layers = examine(build("llama")).layers
    assert len(layers) > 1
    assert len({id(layer.rotary) for layer in layers}) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["llama", "llama-yarn", "gpt-neox", "cohere", "glm4"])
def test_states_are_turned_to_the_bits_that_the_model_makes(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cohere's function, for one, turns in fp32 whatever the model's dtype, and ours does not."""
    monkeypatch.setattr(rotary, "_BYTES_AT_ONCE", 1 << 15)  # 50 tokens go in one piece, 1,200 in several
    layer = examine(build(name, dtype)).layers[0]
    assert layer.rotary is not None
    assert layer.rotation is not None
    function = sys.modules[type(layer.module).__module__].apply_rotary_pos_emb
    for length in (1, 50, 1200):
        states = torch.randn(1, 2, length, 16, generator=torch.Generator().manual_seed(length)).to(dtype)
        placed = layer.rotary.placed(states, torch.arange(length)[None], length)
        expected = function(states, states, *placed.of(slice(None)))[0]
        turned = layer.rotation(states, placed)
        assert turned.dtype == dtype
        assert torch.equal(turned, expected), length


def test_a_model_that_turns_more_exactly_than_we_do_turns_by_its_own_function(monkeypatch: pytest.MonkeyPatch) -> None:
    function = modeling_llama.apply_rotary_pos_emb

    def in_double(*states_and_tables: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(turned.float() for turned in function(*(given.double() for given in states_and_tables)))

    monkeypatch.setattr(modeling_llama, "apply_rotary_pos_emb", in_double)
    layer = examine(build("llama")).layers[0]
    assert layer.rotary is not None
    assert layer.rotation is not None
    states = torch.randn(1, 2, 50, 16, generator=torch.Generator().manual_seed(1))
    placed = layer.rotary.placed(states, torch.arange(50)[None], 50)
    assert torch.equal(layer.rotation(states, placed), in_double(states, states, *placed.tables)[0])


@pytest.mark.parametrize("name", ["llama", "phi", "llama-yarn"])
def test_tokens_that_stand_at_one_position_share_a_row_of_the_tables(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rotary, "_BYTES_AT_ONCE", 1 << 15)
    length, rows, config = 1200, 0, SelfExtendConfig(group_size=40, neighbor_window=16)
    tables = RotaryEmbedding.tables

    def counted(self: RotaryEmbedding, like: torch.Tensor, positions: torch.Tensor, context_length: int) -> Tables:
        nonlocal rows
        rows += positions.numel()
        return tables(self, like, positions, context_length)

    layer = examine(build(name)).layers[0]
    assert layer.rotary is not None
    assert layer.rotation is not None
    positions = torch.arange(length)[None] // 8
    states = torch.randn(1, 2, length, 16, generator=torch.Generator().manual_seed(1))
    each = PlacedTables(layer.rotary.tables(states, positions, length))
    shared = layer.rotary.placed(states, positions, length)
    assert torch.equal(layer.rotation(states, shared), layer.rotation(states, each))
    with extended(model := build(name), config):
        monkeypatch.setattr(RotaryEmbedding, "tables", counted)
        prefill(model, token_ids(length))
    # Near queries and keys stand at the same positions, and the far ones of a group at one.
    assert rows <= length + 2 * length / config.group_size
