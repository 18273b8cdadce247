"""Every architecture: the vanilla model where SelfExtend must be that, the naive model where it must not."""

import pytest
import torch
from architectures import ARCHITECTURES, BY_NAME, TRAINED_WINDOW, Architecture, build, token_ids
from helpers import (
    CHUNKS,
    CONFIG,
    DIVIDING,
    LENGTH,
    VANILLA,
    Largest,
    assert_same,
    extended,
    in_chunks,
    largest_difference,
    logits,
    naive,
    oracle_logits,
    plain_error,
    plain_logits,
    typical_difference,
)
from transformers import DynamicCache

from benchmarks import coverage
from selfextend import SelfExtendConfig, enable, support
from selfextend.cache import SelfExtendCache

every = pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)

# Their frequencies follow the length, in vanilla transformers too: a model that is already past the switch.
LENGTH_DEPENDENT = {"llama-dynamic", "llama-longrope", "phi3-longrope"}


def test_the_oracle_is_the_vanilla_model_at_group_size_one() -> None:
    """Holds the oracle itself to something that is not ours."""
    for architecture in ARCHITECTURES:
        assert_same(plain_logits(architecture.name), oracle_logits(architecture.name, VANILLA))


@every
def test_support_tells_what_becomes_of_each_layer(architecture: Architecture) -> None:
    report = support(build(architecture))
    assert report.supported, report.reason
    kinds = {
        **dict.fromkeys(architecture.extended_layers, "extended"),
        **dict.fromkeys(architecture.local_layers, "local"),
        **dict.fromkeys(architecture.no_rope_layers, "no_rope"),
    }
    assert {layer.index: layer.kind for layer in report.layers} == kinds


@every
def test_group_size_one_is_vanilla(architecture: Architecture) -> None:
    length = TRAINED_WINDOW
    with extended(model := build(architecture), VANILLA):
        actual = logits(model, token_ids(length))
    assert_same(actual, plain_logits(architecture.name, length=length))


@every
def test_a_text_within_the_neighbor_window_is_vanilla(architecture: Architecture) -> None:
    length = 31
    with extended(model := build(architecture), SelfExtendConfig(4, length)):
        actual = logits(model, token_ids(length))
    assert_same(actual, plain_logits(architecture.name, length=length))


@every
def test_beyond_the_neighbor_window_it_differs(architecture: Architecture) -> None:
    """The logits, and so every layer below, are moved far more than rounding could."""
    vanilla = plain_logits(architecture.name, length=60)
    with extended(model := build(architecture)):
        actual = logits(model, token_ids(60))
    beyond = (actual - vanilla).abs()[:, CONFIG.neighbor_window + 3 :]
    assert beyond.amax(-1).min() > 1e-2 * vanilla.std()
    if architecture.name not in LENGTH_DEPENDENT:
        assert_same(actual[:, : CONFIG.neighbor_window], vanilla[:, : CONFIG.neighbor_window])


@every
@pytest.mark.parametrize("config", [CONFIG, DIVIDING, SelfExtendConfig(7, 5), SelfExtendConfig(2, 30, "logn")], ids=str)
def test_fp32_is_the_oracle(architecture: Architecture, config: SelfExtendConfig) -> None:
    check_against_the_oracle(architecture, config, torch.float32)


@every
@pytest.mark.parametrize("config", [CONFIG, DIVIDING], ids=str)
def test_bf16_is_the_oracle(architecture: Architecture, config: SelfExtendConfig) -> None:
    check_against_the_oracle(architecture, config, torch.bfloat16)


def check_against_the_oracle(architecture: Architecture, config: SelfExtendConfig, dtype: torch.dtype) -> None:
    with extended(model := build(architecture, dtype), config):
        actual = logits(model, token_ids(LENGTH))
    error = typical_difference(actual, oracle_logits(architecture.name, config, dtype))
    assert error <= 2 * plain_error(architecture.name, dtype)


@every
@pytest.mark.parametrize(
    "make_cache", [lambda model: None, lambda model: DynamicCache(config=model.config)], ids=["ours", "dynamic"]
)
def test_uneven_chunks_are_one_shot(architecture: Architecture, make_cache: object) -> None:
    ids = token_ids(LENGTH)
    sizes = (65, 1, 3, 4) if architecture.name in LENGTH_DEPENDENT else CHUNKS
    with extended(model := build(architecture)):
        actual, cache = in_chunks(model, ids, sizes, make_cache(model))
        assert isinstance(cache, SelfExtendCache if make_cache(model) is None else DynamicCache)
        assert cache.get_seq_length() == LENGTH
    assert_same(actual[:, sizes[0] :], oracle_logits(architecture.name, CONFIG)[:, sizes[0] :])
    if architecture.name not in LENGTH_DEPENDENT:
        assert_same(actual, oracle_logits(architecture.name, CONFIG))


@pytest.mark.parametrize("name", sorted(LENGTH_DEPENDENT))
@pytest.mark.parametrize("sizes", [CHUNKS, (20, 53)], ids=str)
def test_uneven_chunks_are_one_shot_where_frequencies_follow_the_length(name: str, sizes: tuple[int, ...]) -> None:
    """A chunk crosses the length from which the model takes other frequencies: the cache has to know beforehand."""
    ids = token_ids(LENGTH)
    with torch.no_grad(), extended(model := build(name)):
        cache = model(ids[:, :1], use_cache=True).past_key_values
        cache.reset()
        cache.reserve(LENGTH)
        actual, _ = in_chunks(model, ids, sizes, cache)
    assert_same(actual, oracle_logits(name, CONFIG))


@every
def test_a_left_padded_row_is_that_row_alone(architecture: Architecture) -> None:
    ids, padding = token_ids(60, batch=3), (0, 11, 40)
    padded, mask = ids.clone(), torch.ones_like(ids)
    for row, count in enumerate(padding):
        padded[row] = torch.cat([torch.zeros(count, dtype=torch.long), ids[row, : 60 - count]])
        mask[row, :count] = 0
    positions = (mask.cumsum(-1) - 1).clamp(min=0)  # as generate() makes them
    with extended(model := build(architecture)):
        together = logits(model, padded, attention_mask=mask, position_ids=positions)
        without_positions = logits(model, padded, attention_mask=mask)
    reference = naive(architecture, CONFIG)
    for row, count in enumerate(padding):
        alone = reference.logits(ids[row : row + 1, : 60 - count])[0]
        if architecture.name in LENGTH_DEPENDENT and count:
            continue  # frequencies follow the longest row of the batch, in vanilla transformers too
        assert_same(together[row, count:], alone)
        assert_same(without_positions[row, count:], alone)


@every
def test_a_right_padded_row_is_that_row_alone(architecture: Architecture) -> None:
    ids = token_ids(60, batch=2)
    mask = torch.ones_like(ids)
    mask[1, 45:] = 0
    with extended(model := build(architecture)):
        together = logits(model, ids, attention_mask=mask)
    reference = naive(architecture, CONFIG)
    assert_same(together[:1], reference.logits(ids[:1]))
    if architecture.name not in LENGTH_DEPENDENT:
        assert_same(together[1:, :45], reference.logits(ids[1:, :45]))


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_row_of_nothing_but_padding_is_not_nan_and_harms_no_other(
    architecture: Architecture, dtype: torch.dtype
) -> None:
    ids = token_ids(50, batch=2)
    mask = torch.ones_like(ids)
    mask[1] = 0
    with torch.no_grad(), extended(model := build(architecture, dtype)):
        prefill = model(ids, attention_mask=mask, use_cache=True)
        step = torch.cat([mask, mask[:, -1:]], dim=1)
        decode = model(ids[:, :1], attention_mask=step, past_key_values=prefill.past_key_values)
        alone = logits(model, ids[:1])
    assert prefill.logits.isfinite().all()
    assert decode.logits.isfinite().all()
    if dtype == torch.float32:
        assert_same(prefill.logits[:1], alone)


@every
def test_greedy_decoding_is_the_oracles(architecture: Architecture) -> None:
    """Tokens, and the logits of every step, against one pass of the oracle over prompt and answer."""
    prompt, new = token_ids(58), 12
    with extended(model := build(architecture)):
        output = model.generate(
            prompt, max_new_tokens=new, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
    assert isinstance(output.past_key_values, SelfExtendCache)
    answer = output.sequences[:, 58:]
    assert answer.shape[1] == new
    reference = naive(architecture, CONFIG)
    if architecture.name in LENGTH_DEPENDENT:  # a key keeps the frequencies of the step that wrote it
        expected = reference.logits(prompt)[:, -1:]
        assert_same(output.logits[0], expected[:, 0])
        assert answer[0, 0] == expected.argmax(-1)
        return
    expected = reference.logits(output.sequences)[:, 57:-1]
    assert torch.equal(answer, expected.argmax(-1))
    assert_same(torch.stack(output.logits, dim=1), expected)


@every
def test_enabling_does_not_touch_another_model(architecture: Architecture) -> None:
    model, other = build(architecture), build(architecture)
    before = logits(other, token_ids(50))
    enable(model, CONFIG, trained_window=TRAINED_WINDOW)
    assert torch.equal(logits(other, token_ids(50)), before)
    assert not torch.equal(logits(model, token_ids(50)), before)


WITH_OWN_WINDOW = [architecture for architecture in ARCHITECTURES if architecture.own_window]


@pytest.mark.parametrize("architecture", WITH_OWN_WINDOW, ids=str)
def test_a_sliding_window_on_every_layer_is_off_while_enabled_and_back_after(architecture: Architecture) -> None:
    model, ids = build(architecture), token_ids(LENGTH)
    vanilla = logits(model, ids)
    assert largest_difference(vanilla, plain_logits(architecture.name)) > 0.1  # the window does cut something off
    with extended(model):
        assert_same(logits(model, ids), oracle_logits(architecture.name, CONFIG))
        with torch.no_grad():
            cache = model(ids, use_cache=True).past_key_values
        assert all(layer.get_seq_length() == LENGTH == layer.keys.shape[2] for layer in cache.layers)
    assert model.config.sliding_window == architecture.own_window
    assert torch.equal(logits(model, ids), vanilla)


@pytest.mark.parametrize("name", ["gemma2", "gemma3", "gemma3-wide"])
def test_local_layers_still_see_their_window_only(name: str) -> None:
    """A model whose every layer is local would not see the first token; here only the others carry it on."""
    architecture = BY_NAME[name]
    seen: dict[int, torch.Tensor] = {}
    model, ids = build(architecture), token_ids(50)
    changed = ids.clone()
    changed[0, 0] = (ids[0, 0] + 1) % 97
    layers = dict(enumerate(model.model.layers))

    def remember(index: int) -> object:
        return lambda module, args, output: seen.__setitem__(index, output[0] if isinstance(output, tuple) else output)

    for index, layer in layers.items():
        layer.register_forward_hook(remember(index))
    with extended(model):
        logits(model, ids)
        before = dict(seen)
        logits(model, changed)
    first_local, first_full = architecture.local_layers[0], architecture.extended_layers[0]
    window = model.config.sliding_window
    if first_local == 0:
        assert torch.equal(before[0][:, window:], seen[0][:, window:])
    assert not torch.equal(before[first_full][:, -1], seen[first_full][:, -1])


def test_query_scaling_changes_queries_past_the_trained_window_only() -> None:
    ids = token_ids(LENGTH + 20)
    with extended(model := build("llama"), SelfExtendConfig(4, 16)):
        plain = logits(model, ids)
    with extended(model, SelfExtendConfig(4, 16, "logn")):
        scaled = logits(model, ids)
    assert torch.equal(plain[:, :TRAINED_WINDOW], scaled[:, :TRAINED_WINDOW])
    assert (plain[:, TRAINED_WINDOW:] != scaled[:, TRAINED_WINDOW:]).any(-1).all()


@pytest.mark.parametrize("name", ["llama", "gemma3", "smollm3", "gpt-neox", "falcon-new", "phi3-sliding"])
def test_decoding_with_query_scaling_is_the_oracles(name: str) -> None:
    config = SelfExtendConfig(3, 16, "logn")
    with extended(model := build(name), config):
        actual, _ = in_chunks(model, token_ids(LENGTH), (60, *[1] * 13))
    assert_same(actual, oracle_logits(name, config))


@pytest.mark.parametrize("name", ["llama", "gemma3", "glm4"])
def test_embeddings_instead_of_tokens(name: str) -> None:
    model, ids = build(name), token_ids(LENGTH)
    with torch.no_grad(), extended(model):
        embedded = model(inputs_embeds=model.get_input_embeddings()(ids)).logits
    assert_same(embedded, oracle_logits(name, CONFIG))


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt-neox", "phi"])
def test_attention_weights_are_the_oracles(name: str) -> None:
    model, ids = build(name), token_ids(LENGTH)
    reference = naive(name, CONFIG)
    reference.logits(ids)
    model.set_attn_implementation("eager")
    with torch.no_grad(), extended(model):
        output = model(ids, output_attentions=True)
    assert_same(output.logits, oracle_logits(name, CONFIG))
    for layer, expected in reference.weights.items():
        torch.testing.assert_close(output.attentions[layer].double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt-neox", "falcon-new"])
def test_an_eager_model_is_extended_just_as_well(name: str) -> None:
    model = build(name)
    model.config._attn_implementation = "eager"
    vanilla = logits(model, token_ids(LENGTH))
    with extended(model):
        assert_same(logits(model, token_ids(LENGTH)), oracle_logits(name, CONFIG))
    assert model.config._attn_implementation == "eager"
    assert torch.equal(logits(model, token_ids(LENGTH)), vanilla)


@pytest.mark.parametrize("name", ["llama", "mistral-sliding", "qwen2-sliding", "phi", "gpt-neox"])
@pytest.mark.parametrize("padding", [0, 100])
def test_nothing_of_the_size_of_a_score_map_is_made(name: str, padding: int) -> None:
    """Neither by attention nor as a mask: memory is linear in the text's length. (Falcon makes a mask by itself.)"""
    length = 2048
    ids = token_ids(length)
    mask = torch.ones_like(ids)
    mask[:, :padding] = 0
    with torch.no_grad(), extended(model := build(name), SelfExtendConfig(64, 16)), Largest() as largest:
        model(ids, attention_mask=mask if padding else None, logits_to_keep=1)
    widest = length * 4 * 192  # the widest hidden state, fp32
    assert largest.nbytes <= widest < length * length


def test_falcon_asked_for_attention_weights_refuses() -> None:
    """Its own code then goes another way, past torch's attention function, with queries that nobody has rotated."""
    with torch.no_grad(), extended(model := build("falcon-new")), pytest.raises(ValueError, match="attention weights"):
        model(token_ids(LENGTH), output_attentions=True)


def test_a_layer_that_holds_attention_and_a_state_space_is_right() -> None:
    """`benchmarks.coverage` tries all types; this is the kind of which none stands in architectures.py."""
    outcome = coverage.check("falcon_h1")
    assert outcome.verdict == "right", outcome.reason
