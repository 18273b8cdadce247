"""Both attention functions against two full score maps and one softmax in float64."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest import mock

import pytest
import torch
from helpers import Largest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from reference import two_map_attention

from selfextend.attention.blockwise import blockwise_attention
from selfextend.attention.eager import Visibility, eager_attention
from selfextend.attention.shared_prefix import bands_seen, shared_prefix_attention


def over_two_bands(function: Callable[..., Any]) -> Callable[..., Any]:
    """The attention function over SelfExtend's two bands, called like the oracle."""

    def call(
        query_exact: torch.Tensor,
        query_grouped: torch.Tensor,
        key_exact: torch.Tensor,
        key_grouped: torch.Tensor,
        value_states: torch.Tensor,
        *,
        neighbor_window: int,
        **settings: object,
    ) -> Any:
        queries, keys = [query_exact, query_grouped], [key_exact, key_grouped]
        return function(queries, keys, value_states, ends=(neighbor_window,), **settings)

    return call


def in_small_steps(*states: Any, **settings: object) -> torch.Tensor:
    """The fast attention with tiles, slices and bands of a few tokens, so that short texts have many of them."""
    sizes = {"_TILE_QUERIES": 5, "_SLICE_KEYS": 4, "_FEW_QUERIES": 12, "_BAND_QUERIES": 6, "_BAND_PIECES": 2}
    with mock.patch.multiple("selfextend.attention.cpu", **sizes):
        return blockwise_attention(*states, **settings)


eager, blockwise = over_two_bands(eager_attention), over_two_bands(blockwise_attention)
ANY_BANDS = {
    "eager": lambda *states, **settings: eager_attention(*states, **settings)[0],
    "blockwise": blockwise_attention,
    "small-steps": in_small_steps,
}
FUNCTIONS = {name: over_two_bands(function) for name, function in ANY_BANDS.items()}
each_function = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS.keys())


@dataclass(frozen=True)
class Case:
    """q queries, the last of t tokens; the cache holds `spare` more exact keys than are needed."""

    q: int
    t: int
    window: int
    spare: int = 0
    batch: int = 1
    kv_heads: int = 1
    groups: int = 1
    head_dim: int = 8
    softcap: float | None = None
    seed: int = 0

    @property
    def exact(self) -> int:
        return min(self.t, self.window + self.q - 1 + self.spare)

    def states(self, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
        """query_exact, query_grouped, key_exact (whole), key_grouped, value_states."""
        generator = torch.Generator().manual_seed(self.seed)
        heads = self.kv_heads * self.groups
        shapes = [
            (heads, self.q),
            (heads, self.q),
            (self.kv_heads, self.t),
            (self.kv_heads, self.t),
            (self.kv_heads, self.t),
        ]
        # Scores with a spread of about 2: no key drowns, none takes all.
        return [(1.4 * torch.randn(self.batch, h, n, self.head_dim, generator=generator)).to(dtype) for h, n in shapes]

    def inputs(self, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
        states = self.states(dtype)
        states[2] = states[2][:, :, self.t - self.exact :]
        return states

    @property
    def settings(self) -> dict[str, object]:
        more = {} if self.softcap is None else {"softcap": self.softcap}
        return {"neighbor_window": self.window, "scaling": self.head_dim**-0.5, **more}


@st.composite
def cases(draw: st.DrawFn) -> Case:
    t = draw(st.integers(1, 70))
    return Case(
        q=draw(st.integers(1, t)),
        t=t,
        window=draw(st.integers(1, 40)),
        spare=draw(st.sampled_from([0, 1, 5, 1000])),
        batch=draw(st.integers(1, 2)),
        kv_heads=draw(st.integers(1, 2)),
        groups=draw(st.integers(1, 3)),
        head_dim=draw(st.sampled_from([8, 12, 16, 20])),
        softcap=draw(st.sampled_from([None, None, 1.5])),
        seed=draw(st.integers(0, 3)),
    )


@each_function
@settings(max_examples=150)
@given(cases())
@example(Case(1, 1, 1))
@example(Case(1, 2, 1))
@example(Case(40, 40, 1))
@example(Case(33, 33, 16))
@example(Case(32, 32, 16))
@example(Case(17, 17, 16))
@example(Case(5, 60, 16))
@example(Case(20, 60, 16, spare=1000))
@example(Case(32, 100, 16))
@example(Case(31, 40, 16))
@example(Case(16, 31, 16))
@example(Case(50, 51, 25))
def test_it_is_one_softmax_over_two_maps(function: object, case: Case) -> None:
    expected, _ = two_map_attention(*case.states(), **case.settings)
    actual = function(*case.inputs(), **case.settings)
    assert actual.shape == expected.shape
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-5)


@each_function
@pytest.mark.parametrize("case", [Case(200, 200, 16), Case(77, 200, 30), Case(1, 200, 16), Case(100, 300, 7, groups=2)])
def test_float64_is_exact(function: object, case: Case) -> None:
    expected, _ = two_map_attention(*case.states(torch.float64), **case.settings)
    actual = function(*case.inputs(torch.float64), **case.settings)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def plain_sdpa(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True)


def plain_eager(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """As transformers writes it: scores in the states' dtype, softmax in fp32, weights back in the states' dtype."""
    key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in (key, value))
    scores = (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).masked_fill(~mask, float("-inf"))
    return scores.softmax(-1, dtype=torch.float32).to(query.dtype) @ value


PLAIN = {"eager": plain_eager, "blockwise": plain_sdpa}


def root_mean_square(error: torch.Tensor) -> float:
    return error.double().pow(2).mean().sqrt().item()


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    "case",
    [
        Case(300, 300, 32, batch=2, kv_heads=2, groups=2, head_dim=32),
        Case(1, 300, 32, batch=8, kv_heads=4, groups=2, head_dim=32),
        Case(90, 300, 50, batch=2, kv_heads=2, head_dim=32),
    ],
)
def test_no_worse_than_twice_plain_attention(name: str, dtype: torch.dtype, case: Case) -> None:
    """The yardstick is plain attention of the same kind on the same states, one map only, in the same dtype."""
    states = case.states(dtype)
    expected, _ = two_map_attention(*states, **case.settings)
    error = FUNCTIONS[name](*case.inputs(dtype), **case.settings) - expected

    query, _, key, _, value = states
    mask = torch.ones(case.q, case.t, dtype=torch.bool).tril(case.t - case.q)
    plain_expected, _ = two_map_attention(query, query, key, key, value, **case.settings)
    plain_error = PLAIN[name](query, key, value, mask) - plain_expected
    assert root_mean_square(error) <= 2 * root_mean_square(plain_error)
    assert error.abs().max() <= 4 * plain_error.abs().max()  # the largest of a few thousand is a matter of luck


@each_function
def test_strided_states(function: object) -> None:
    """Projections arrive transposed and caches hand out slices of larger buffers."""
    case = Case(20, 50, 16, batch=2, kv_heads=2, groups=2)
    expected, _ = two_map_attention(*case.states(), **case.settings)
    strided = []
    for state in case.inputs():
        buffer = torch.full((state.shape[0], state.shape[2] + 7, state.shape[1], state.shape[3] + 3), float("nan"))
        buffer[:, : state.shape[2], :, : state.shape[3]] = state.transpose(1, 2)
        strided.append(buffer[:, : state.shape[2], :, : state.shape[3]].transpose(1, 2))
    torch.testing.assert_close(function(*strided, **case.settings).double(), expected, rtol=1e-5, atol=1e-5)


@each_function
def test_inputs_are_left_alone(function: object) -> None:
    case = Case(40, 60, 16, kv_heads=2, groups=2)
    states = case.inputs()
    copies = [state.clone() for state in states]
    function(*states, **case.settings)
    assert all(torch.equal(a, b) for a, b in zip(states, copies, strict=True))


@each_function
def test_rows_of_a_batch_are_independent(function: object) -> None:
    case = Case(30, 45, 16, batch=3)
    together = function(*case.inputs(), **case.settings)
    alone = torch.cat([function(*(s[n : n + 1] for s in case.inputs()), **case.settings) for n in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


@each_function
def test_huge_scores_do_not_overflow(function: object) -> None:
    case = Case(40, 60, 16)
    states = [state * 40 for state in case.inputs()]
    actual = function(*states, **case.settings)
    whole = [state * 40 for state in case.states()]
    expected, _ = two_map_attention(*whole, **case.settings)
    assert actual.isfinite().all()
    torch.testing.assert_close(actual.double(), expected, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize(
    "case", [Case(33, 33, 16), Case(1, 40, 16), Case(20, 50, 8, kv_heads=2, groups=2, softcap=1.5)]
)
def test_eager_weights_are_the_softmax(case: Case) -> None:
    _, expected = two_map_attention(*case.states(), **case.settings)
    _, weights = eager(*case.inputs(), **case.settings)
    assert weights.shape == expected.shape
    torch.testing.assert_close(weights.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:3]))


def test_a_row_that_may_look_nowhere_is_zero() -> None:
    case = Case(20, 20, 8)
    key_mask = torch.ones(1, 20, dtype=torch.bool)
    key_mask[:, :5] = False
    output, weights = eager(*case.inputs(), **case.settings, visibility=Visibility(key_mask=key_mask))
    assert (output[:, :, :5] == 0).all()
    assert (weights[:, :, :5] == 0).all()
    assert (weights[..., :5] == 0).all()
    torch.testing.assert_close(weights[:, :, 5:].sum(-1), torch.ones(1, 1, 15))


@st.composite
def banded_cases(draw: st.DrawFn) -> tuple[Case, tuple[int, ...]]:
    """Any number of bands; the last exact keys that a cache keeps for each."""
    ends = sorted(draw(st.sets(st.integers(1, 50), max_size=3)))
    return draw(cases()), tuple(ends)


@pytest.mark.parametrize("function", ANY_BANDS.values(), ids=ANY_BANDS.keys())
@settings(max_examples=100)
@given(banded_cases())
@example((Case(1, 1, 1), ()))
@example((Case(30, 64, 1), ()))
@example((Case(1, 64, 1), (4, 20)))
@example((Case(64, 64, 1, kv_heads=2, groups=2), (4, 20, 21)))
@example((Case(64, 64, 1, softcap=1.5), (4, 20, 21)))
def test_any_bands_are_one_softmax(function: Callable[..., Any], banded: tuple[Case, tuple[int, ...]]) -> None:
    """Against float64 scores of every band, chosen by distance."""
    case, ends = banded
    generator = torch.Generator().manual_seed(case.seed)

    def states(heads: int, length: int) -> torch.Tensor:
        return 1.4 * torch.randn(case.batch, heads, length, case.head_dim, generator=generator)

    bands = len(ends) + 1
    queries = [states(case.kv_heads * case.groups, case.q) for _ in range(bands)]
    keys, value = [states(case.kv_heads, case.t) for _ in range(bands)], states(case.kv_heads, case.t)
    distance = torch.arange(case.t - case.q, case.t)[:, None] - torch.arange(case.t)
    scores = torch.zeros(case.batch, case.kv_heads * case.groups, case.q, case.t, dtype=torch.float64)
    for begin, query, key in zip((0, *ends), queries, keys, strict=True):  # each band overwritten by those behind it
        inside = distance >= begin
        band = query.double() @ key.double().repeat_interleave(case.groups, dim=1).transpose(-1, -2)
        scores = torch.where(inside, band * case.head_dim**-0.5, scores)
    if case.softcap is not None:
        scores = case.softcap * torch.tanh(scores / case.softcap)
    weights = scores.masked_fill(distance < 0, -torch.inf).softmax(-1)
    expected = weights @ value.double().repeat_interleave(case.groups, dim=1)

    kept = [key[:, :, -min(case.t, end + case.q - 1 + case.spare) :] for key, end in zip(keys, ends, strict=False)]
    settings = {"scaling": case.head_dim**-0.5, "softcap": case.softcap}
    actual = function(queries, [*kept, keys[-1]], value, ends=ends, **settings)
    torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-5)


@settings(max_examples=200)
@given(
    beginning=st.integers(1, 40),
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=4),
    room=st.integers(0, 3),
    ends=st.lists(st.integers(1, 50), max_size=3, unique=True).map(sorted),
    kv_heads=st.integers(1, 2),
    groups=st.sampled_from([1, 3]),
    softcap=st.sampled_from([None, 1.5]),
    has_sinks=st.booleans(),
    small=st.booleans(),
)
@example(1, [1], 0, [], 1, 1, None, False, False)
@example(40, [1, 30], 0, [5], 2, 3, None, False, True)
@example(10, [30, 25], 0, [3, 8, 12], 1, 1, None, True, False)
def test_texts_that_begin_alike_are_one_softmax_each(
    beginning: int,
    lengths: list[int],
    room: int,
    ends: list[int],
    kv_heads: int,
    groups: int,
    softcap: float | None,
    has_sinks: bool,
    small: bool,
) -> None:
    """Text by text, all its keys in one map a band."""
    texts, heads, bands, width = len(lengths), kv_heads * groups, len(ends) + 1, 4
    generator = torch.Generator().manual_seed(0)

    def states(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, width, dtype=torch.float64, generator=generator)

    room += max(lengths)
    queries = [states(texts, heads, 1) for _ in range(bands)]
    keys, value_states = [states(1, kv_heads, beginning) for _ in range(bands)], states(1, kv_heads, beginning)
    own_keys, own_values = [states(texts, kv_heads, room) for _ in range(bands)], states(texts, kv_heads, room)
    options: dict[str, Any] = {"scaling": 0.5, "softcap": softcap}
    options["sinks"] = torch.randn(heads, dtype=torch.float64, generator=generator) if has_sinks else None
    held = [key[:, :, -min(beginning, end) :] for key, end in zip(keys, [*ends, beginning], strict=True)]
    seen = bands_seen(beginning, lengths, room, ends, torch.device("cpu"))
    with mock.patch.multiple("selfextend.attention.cpu", _SLICE_KEYS=4 if small else 2048):
        found = shared_prefix_attention(queries, held, value_states, own_keys, own_values, seen, **options)
    for text, length in enumerate(lengths):
        this = slice(text, text + 1)
        joined = [torch.cat([key, own[this, :, :length]], dim=2) for key, own in zip(keys, own_keys, strict=True)]
        values = torch.cat([value_states, own_values[this, :, :length]], dim=2)
        wanted, _ = eager_attention([query[this] for query in queries], joined, values, ends=ends, **options)
        torch.testing.assert_close(found[this], wanted, atol=1e-10, rtol=1e-10)


def test_blockwise_makes_nothing_of_the_size_of_a_score_map() -> None:
    case = Case(2048, 2048, 128, head_dim=16)
    inputs = case.inputs()
    with Largest() as largest:
        blockwise(*inputs, **case.settings)
    states = case.t * case.head_dim * 4
    assert 0 < largest.nbytes <= 8 * states  # a score map would be 128 times that
