"""Each method on a tiny model against an oracle of its own, in chunks, and undone afterwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

import pytest
import torch
from helpers import assert_same, assert_same_state, full_state
from lab_models import ids, mistral, one_shot
from reference import NaiveModel
from tiny_models import tiny_model as tiny_llama
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, GPT2Config, GPT2LMHeadModel

from selfextend import SelfExtendConfig, suggest
from selfextend.errors import OutOfMemoryError, PastReachError, UnsupportedArchitectureError
from selfextend.methods import (
    METHOD_NAMES,
    METHODS,
    POSITION_METHODS,
    Method,
    ReRoPE,
    SelfExtend,
    Vanilla,
    YaRN,
    method_from,
    method_named,
    parse_methods,
    recommended,
)
from selfextend.positions import Band, relative_position, relative_positions, unchanged
from selfextend.profile import Profile
from selfextend.reading import (
    PrefixCache,
    common_beginning,
    exclusively,
    greedy_answers_steps,
    loss_steps,
    reading,
)
from selfextend.steps import result_of

WINDOW = 32  # small, since the naive oracle keeps all scores of all distinct positions
PROFILE = Profile(WINDOW)
LENGTH = 3 * WINDOW
CHUNKS = (25, 1, 40, 30)
assert sum(CHUNKS) == LENGTH


def tiny_model(**settings):
    return tiny_llama(**({"max_position_embeddings": WINDOW} | settings))


@lru_cache(maxsize=1)
def llama():
    return tiny_model()


def in_chunks(model, method: Method, tokens: list[int], observed: bool = False) -> torch.Tensor:
    """All logits of a text read in uneven chunks, (tokens, vocabulary)."""
    with reading(model, method, PROFILE, len(tokens), observed=observed) as reader:
        cache, pieces, start = reader.new_cache(len(tokens)), [], 0
        for size in CHUNKS:
            chunk = torch.tensor([tokens[start : start + size]])
            pieces.append(reader.forward(chunk, cache, keep=size)[0])
            start += size
    return torch.cat(pieces)


def naive(relative: Callable[[int, int], int], query_scaling: str = "none") -> torch.Tensor:
    model = NaiveModel(tiny_model(), 1, 1, query_scaling=query_scaling, trained_window=WINDOW, relative=relative)
    return model.logits(torch.tensor([ids(LENGTH)]))[0]


def naive_selfextend(config: SelfExtendConfig) -> torch.Tensor:
    model = NaiveModel(
        tiny_model(),
        config.group_size,
        config.neighbor_window,
        query_scaling=config.query_scaling,
        trained_window=WINDOW,
    )
    return model.logits(torch.tensor([ids(LENGTH)]))[0]


@pytest.mark.parametrize("scaling", ["none", "logn"])
def test_selfextend_takes_what_suggest_gives(scaling) -> None:
    config = suggest(WINDOW, LENGTH, query_scaling=scaling)
    assert config.group_size > 1
    assert_same(in_chunks(llama(), SelfExtend(scaling), ids(LENGTH)), naive_selfextend(config))


@pytest.mark.parametrize("observed", [False, True])
def test_logn_alone_is_the_vanilla_model_with_scaled_queries(observed: bool) -> None:
    found = in_chunks(llama(), Vanilla("logn"), ids(LENGTH), observed)
    assert_same(found, naive(lambda query, key: query - key, "logn"))
    assert (found - one_shot(llama(), ids(LENGTH))).abs().max() > 1e-4


@pytest.mark.parametrize("observed", [False, True])
def test_vanilla_is_untouched(observed: bool) -> None:
    assert_same(in_chunks(llama(), Vanilla(), ids(LENGTH), observed), one_shot(llama(), ids(LENGTH)))


@pytest.mark.parametrize("scaling", ["none", "logn"])
@pytest.mark.parametrize("window", [1, 8, 31])
def test_rerope_keeps_every_key_within_its_window(window: int, scaling) -> None:
    """Relative position min(d, w), by a loop over all pairs."""
    found = in_chunks(llama(), ReRoPE(scaling, neighbor_window=window), ids(LENGTH))
    assert_same(found, naive(lambda query, key: min(query - key, window), scaling))


def test_rerope_stays_within_the_trained_window_at_any_length() -> None:
    settled = ReRoPE().at(PROFILE, 100_000)
    assert settled.reach(WINDOW) is None
    assert relative_position(99_999, 0, settled.positions) == settled.neighbor_window < WINDOW
    ReRoPE().check(PROFILE, 100_000)
    with pytest.raises(ValueError, match="smaller than the trained window"):
        ReRoPE(neighbor_window=WINDOW).check(PROFILE, 100)


@dataclass(frozen=True)
class ThreeBands:
    """A map that no method has: group sizes that grow with distance. It shows that a band more is no work elsewhere."""

    query_scaling = "none"

    @property
    def bands(self) -> tuple[Band, ...]:
        return (
            Band(6, unchanged, unchanged),
            Band(21, lambda i: i // 2 + 3, lambda j: j // 2),
            Band(None, lambda i: i // 5 + 9, lambda j: j // 5),
        )

    def complaint(self, trained_window: int, length: int, advised_window: int | None = None) -> None:
        return None


@dataclass(frozen=True)
class Banded(Method):
    kind = "banded"
    heading = "Three bands"

    @property
    def positions(self) -> ThreeBands:
        return ThreeBands()


def test_a_map_of_any_bands_runs_without_touching_anything_else() -> None:
    def relative(query: int, key: int) -> int:
        distance = query - key
        if distance < 6:
            return distance
        return query // 2 - key // 2 + 3 if distance < 21 else query // 5 - key // 5 + 9

    tokens = torch.arange(LENGTH)
    expected = [[relative(i, j) for j in range(i + 1)] for i in range(LENGTH)]
    found = relative_positions(tokens, tokens, ThreeBands())
    assert [row[: i + 1] for i, row in enumerate(found.tolist())] == expected
    assert_same(in_chunks(llama(), Banded(), ids(LENGTH)), naive(relative))


@pytest.mark.parametrize("method", [ReRoPE(neighbor_window=9), Banded(), SelfExtend("none", 4, 9)], ids=str)
def test_a_cache_that_was_cropped_gives_what_a_fresh_one_gives(method: Method) -> None:
    """Nearer keys that the crop took away come back from the last band's."""
    tokens = ids(LENGTH)
    with reading(llama(), method, PROFILE, LENGTH) as reader:
        prefix = PrefixCache()
        prefix.rewind(reader, tokens, LENGTH)
        prefix.read(reader, tokens[:60])
        prefix.read(reader, [5] * 30)
        assert prefix.rewind(reader, tokens, LENGTH) == 60
        found = prefix.read(reader, tokens[60:], keep=LENGTH - 60)
        fresh = reader.forward(torch.tensor([tokens]), reader.new_cache(LENGTH), keep=LENGTH - 60)[0]
    assert_same(found, fresh)


@pytest.mark.parametrize("name", ["linear", "dynamic", "yarn"])
def test_rope_scaling_is_what_a_model_configured_with_it_computes(name: str) -> None:
    """The oracle reads in one go a model that was built with these rope parameters."""
    factor = 1.0 if name == "dynamic" else LENGTH / WINDOW
    parameters = {
        "rope_type": name,
        "rope_theta": 10000.0,
        "factor": factor,
        "original_max_position_embeddings": WINDOW,
    }
    configured = tiny_model(rope_parameters=parameters)
    found = in_chunks(llama(), method_named(name), ids(LENGTH))
    assert_same(found, one_shot(configured, ids(LENGTH)))
    assert (found - one_shot(llama(), ids(LENGTH))).abs().max() > 1e-4


def test_sliding_window_is_what_a_model_with_such_a_window_computes() -> None:
    found = in_chunks(mistral(None), method_named("window"), ids(LENGTH))
    assert_same(found, one_shot(mistral(WINDOW), ids(LENGTH)))
    assert (found - one_shot(mistral(None), ids(LENGTH))).abs().max() > 1e-4


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_inside_the_window_every_method_but_fixed_settings_is_vanilla(name: str) -> None:
    tokens = ids(WINDOW)
    with reading(llama(), method_named(name), PROFILE, WINDOW) as reader:
        logits = reader.forward(torch.tensor([tokens]), reader.new_cache(WINDOW), keep=WINDOW)[0]
    assert_same(logits, one_shot(llama(), tokens))


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_everything_is_undone_even_after_an_error(name: str) -> None:
    model = tiny_model()
    before = full_state(model)
    with pytest.raises(TypeError), reading(model, method_named(name), PROFILE, LENGTH) as reader:
        reader.forward(torch.tensor([ids(10)]), reader.new_cache(LENGTH), keep="nonsense")
    assert_same_state(before, full_state(model))


def test_settings_that_are_on_already_come_back() -> None:
    from selfextend import disable, enable
    from selfextend.plugin import active_extension

    model, own = tiny_model(), SelfExtendConfig(3, 16)
    enable(model, own, trained_window=WINDOW)
    with reading(model, Vanilla(), PROFILE, LENGTH):
        assert active_extension(model) is None
    assert active_extension(model).positions == own
    disable(model)


def test_fixed_settings_that_do_not_reach_are_refused() -> None:
    with pytest.raises(PastReachError, match="smallest change that fits is group size"):
        SelfExtend("none", 2, 8).check(PROFILE, 5000)
    for name in METHOD_NAMES:
        method_named(name).check(PROFILE, 5000)


def test_a_model_with_rope_scaling_of_its_own_is_refused_another() -> None:
    parameters = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}
    with (
        pytest.raises(UnsupportedArchitectureError, match="of its own"),
        reading(tiny_model(rope_parameters=parameters), YaRN(), PROFILE, LENGTH),
    ):
        pass


def test_what_does_not_fit_a_model_is_refused() -> None:
    gpt2 = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=32, vocab_size=64, n_positions=WINDOW)).eval()
    with pytest.raises(UnsupportedArchitectureError, match="no rotary"), reading(gpt2, YaRN(), PROFILE, LENGTH):
        pass
    config = Gemma3TextConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=6, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, sliding_window=32, max_position_embeddings=WINDOW,
    )  # fmt: skip
    with (
        pytest.raises(UnsupportedArchitectureError, match="by design"),
        reading(Gemma3ForCausalLM(config).eval(), method_named("window"), PROFILE, LENGTH),
    ):
        pass


def test_names_are_parsed_and_wrong_ones_refused() -> None:
    found = parse_methods(["vanilla", "recommended", "vanilla"], Profile(WINDOW, None, "logn"), group_size=4)
    assert found == [Vanilla(), SelfExtend("logn", group_size=4)]
    assert [method.name for method in parse_methods(["all"], PROFILE)] == list(METHOD_NAMES)
    given = parse_methods(["vanilla", "selfextend", "rerope"], PROFILE, group_size=4, neighbor_window=9)
    assert given == [Vanilla(), SelfExtend("none", 4, 9), ReRoPE(neighbor_window=9)]
    for names in (["alibi"], []):
        with pytest.raises(ValueError, match="method"):
            parse_methods(names, PROFILE)
    with pytest.raises(ValueError, match="no setting group_size"):
        method_from("yarn", {"group_size": 4})
    with pytest.raises(ValueError, match="at least 1"):
        method_from("selfextend", {"group_size": 0})
    with pytest.raises(ValueError, match="window"):
        method_from("window", {"window": 1.5})
    with pytest.raises(ValueError, match="takes no query scaling"):
        YaRN("logn")


def test_the_registry_is_complete() -> None:
    """Each method is found by its name, has words for people, and comes back from what a record says of it."""
    assert len({kind.kind for kind in METHODS}) == len(METHODS)
    for name in METHOD_NAMES:
        method = method_named(name)
        assert method.name == name
        assert method.label == method.title
        settled = method.at(PROFILE, LENGTH)
        assert settled.at(PROFILE, LENGTH) == settled
        assert method_from(name, settled.settings()) == settled
        assert (settled.positions is None) == (type(method) not in POSITION_METHODS)


def test_a_refusal_advises_the_neighbor_window_recommended_for_the_model() -> None:
    advised = suggest(8192, 40_000, neighbor_window=1024)
    words = f"advised are group size {advised.group_size} and neighbor window 1,024"
    with pytest.raises(PastReachError, match=words):
        SelfExtend("none", 2, 512).check(Profile(8192, 1024), 40_000)
    with pytest.raises(PastReachError, match="and neighbor window 2,048"):
        SelfExtend("none", 2, 512).check(Profile(8192), 40_000)


def test_open_numbers_are_the_models_own() -> None:
    profile = Profile(WINDOW, 10, "logn")
    assert recommended(profile) == SelfExtend("logn")
    settled = recommended(profile).at(profile, LENGTH)
    assert settled.positions == suggest(WINDOW, LENGTH, neighbor_window=10, query_scaling="logn")
    assert ReRoPE().at(profile, LENGTH).neighbor_window == 10
    assert ReRoPE().at(profile, WINDOW).neighbor_window == WINDOW  # nothing changes for what fits
    assert SelfExtend("none", 4).at(PROFILE, LENGTH).neighbor_window == WINDOW // 4


def test_labels_name_what_was_fixed_by_hand() -> None:
    assert SelfExtend("logn", 8, 128).label == "SelfExtend with log-n (G=8, w=128)"
    assert SelfExtend("none", 8, 1024).setting == "G = 8, w = 1,024"
    assert ReRoPE().label == "ReRoPE"
    with pytest.raises(ValueError, match="open numbers"):
        SelfExtend().positions  # noqa: B018


# Reading


@pytest.mark.parametrize("method", [Vanilla(), SelfExtend("logn"), method_named("window"), method_named("dynamic")])
def test_answers_in_batches_with_a_shared_text_are_those_of_each_prompt_alone(method: Method) -> None:
    text = ids(150)
    prompts = [text[:90] + ids(30, seed) + text[90:] for seed in (1, 2, 3)]
    prompts.append(prompts[0][:-7])  # of another length
    common = text[: common_beginning(prompts)]
    assert len(common) == 90
    with reading(llama(), method, PROFILE, 200) as reader:
        together = result_of(greedy_answers_steps(reader, PrefixCache(), common, prompts, 6, frozenset()))
        for prompt, answer in zip(prompts, together, strict=True):
            logits = reader.forward(torch.tensor([prompt]), cache := reader.new_cache(200))
            alone = [int(logits[0, -1].argmax())]
            while len(alone) < 6:
                logits = reader.forward(torch.tensor([[alone[-1]]]), cache)
                alone.append(int(logits[0, -1].argmax()))
            assert answer == alone


def test_vanilla_answers_are_those_of_generate() -> None:
    prompt = ids(100)
    with reading(llama(), Vanilla(), PROFILE, 120) as reader:
        (answer,) = result_of(greedy_answers_steps(reader, PrefixCache(), [], [prompt], 8, frozenset()))
    generated = llama().generate(torch.tensor([prompt]), max_new_tokens=8, do_sample=False, eos_token_id=None)
    assert answer == generated[0, 100:].tolist()


def test_an_answer_ends_before_its_end_token() -> None:
    prompt = ids(50)
    with reading(llama(), Vanilla(), PROFILE, 100) as reader:
        (full,) = result_of(greedy_answers_steps(reader, PrefixCache(), [], [prompt], 8, frozenset()))
        (cut,) = result_of(greedy_answers_steps(reader, PrefixCache(), [], [prompt], 8, frozenset([full[3]])))
    assert cut == full[: full.index(full[3])]


def test_losses_in_chunks_are_the_cross_entropy_of_one_pass() -> None:
    tokens = ids(150)
    with reading(llama(), Vanilla(), PROFILE, 150) as reader:
        losses = result_of(loss_steps(reader, tokens, chunk_tokens=40))
    logits = one_shot(llama(), tokens)
    expected = torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(tokens[1:]), reduction="none")
    assert losses.shape == (149,)
    assert torch.from_numpy(losses) == pytest.approx(expected, abs=1e-4)


def test_a_shared_prefix_leaves_every_prompt_a_token() -> None:
    assert common_beginning([[1, 2, 3], [1, 2, 4]]) == 2
    assert common_beginning([[1, 2, 3]]) == 2
    assert common_beginning([[1, 2], [1, 2, 3]]) == 1
    assert common_beginning([[5], [6]]) == 0


def test_prompts_that_share_nothing_count_as_held_when_memory_runs_out() -> None:
    model, prefix, calls = tiny_model(), PrefixCache(), []

    def no_memory(*_) -> None:
        calls.append(1)
        if len(calls) == 4:  # after 3,072 tokens of half a kilobyte
            raise MemoryError

    model.register_forward_pre_hook(no_memory)

    def work(reader):
        yield from greedy_answers_steps(reader, prefix, [], [ids(5000)], 1, frozenset())

    with pytest.raises(OutOfMemoryError, match="after 2 MB"):
        result_of(exclusively(model, prefix, partial(reading, model, Vanilla(), PROFILE, 5000), work))
    assert prefix.nbytes == 0
