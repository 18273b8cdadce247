"""Recorded attention against the naive model's whole weight maps, pooled by plain loops."""

import numpy as np
import pytest
import torch
from architectures import BY_NAME, TRAINED_WINDOW, build, token_ids
from helpers import (
    CONFIG,
    LENGTH,
    Largest,
    assert_same_state,
    extended,
    full_state,
    in_chunks,
    logits,
    naive,
    oracle_logits,
    recording,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from selfextend import SelfExtendConfig
from selfextend.recording import RecordingRequest

NAMES = ["llama", "gemma2", "gemma3", "smollm3", "phi", "gpt-neox", "falcon-new", "mistral-sliding", "glm4"]
BINS = [0, 1, 7, 30, 31, 60]


def expected_maps(name: str, config: SelfExtendConfig = CONFIG, length: int = LENGTH) -> dict[int, np.ndarray]:
    """(heads, queries, keys) for each extended layer."""
    model = naive(name, config)
    model.logits(token_ids(length))
    return {layer: weights[0].numpy() for layer, weights in model.weights.items()}


def pooled(row: np.ndarray, starts: list[int]) -> tuple[list[float], list[float]]:
    bins = [row[start:stop] for start, stop in zip(starts, [*starts[1:], len(row)], strict=True)]
    return [float(keys.sum()) for keys in bins], [float(keys.max(initial=0.0)) for keys in bins]


def check(record: object, maps: dict[int, np.ndarray], request: RecordingRequest) -> None:
    for n, layer in enumerate(record.layers):
        for m, head in enumerate(record.heads):
            for r, query in enumerate(request.query_rows):
                row = maps[layer][head, query]
                sums, maxima = pooled(row, list(request.bin_starts))
                np.testing.assert_allclose(record.sums[n, m, r], sums, atol=2e-5)
                np.testing.assert_allclose(record.maxima[n, m, r], maxima, atol=2e-5)


@pytest.mark.parametrize("within", [None, range(10, 40)], ids=str)
@pytest.mark.parametrize("sizes", [(LENGTH,), (64, *[1] * 9)], ids=str)
def test_top_keys_are_the_oracles_largest_weights(sizes: tuple[int, ...], within: range | None) -> None:
    request = RecordingRequest(query_rows=range(3, LENGTH), bin_starts=[0], top=5, top_within=within)
    with extended(model := build("llama")), recording(model, request) as record:
        in_chunks(model, token_ids(LENGTH), sizes)
    for layer, maps in expected_maps("llama").items():
        for row, query in enumerate(request.query_rows):
            for head in record.heads:
                keys, weights = record.top_keys[layer, head, row], record.top_weights[layer, head, row]
                seen = np.arange(LENGTH)[
                    (within or range(LENGTH)).start : min((within or range(LENGTH)).stop, query + 1)
                ]
                largest = np.sort(maps[head, query][seen])[::-1][:5]
                np.testing.assert_allclose(weights[: len(largest)], largest, atol=2e-5)
                assert (keys[len(largest) :] == -1).all(), "no key after the query, nor outside the range"
                found = keys[keys >= 0]
                assert set(found.tolist()) <= set(seen.tolist())
                np.testing.assert_allclose(weights[: len(found)], maps[head, query][found], atol=2e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("sizes", [(LENGTH,), (20, 30, 1, 22), (64, *[1] * 9)], ids=str)
def test_records_are_the_oracles(name: str, sizes: tuple[int, ...]) -> None:
    request = RecordingRequest(query_rows=range(15, LENGTH), bin_starts=BINS)
    with extended(model := build(name)), recording(model, request) as record:
        in_chunks(model, token_ids(LENGTH), sizes)
    assert record.layers == BY_NAME[name].extended_layers
    assert record.sums.shape == (len(record.layers), 4, LENGTH - 15, len(BINS))
    check(record, expected_maps(name), request)


@settings(max_examples=25)
@given(st.data())
def test_any_rows_bins_layers_and_heads(data: st.DataObject) -> None:
    first = data.draw(st.integers(0, LENGTH - 1))
    request = RecordingRequest(
        query_rows=range(first, data.draw(st.integers(first + 1, LENGTH))),
        bin_starts=[0, *sorted(data.draw(st.sets(st.integers(1, LENGTH + 5), max_size=6)))],
        layers=data.draw(st.sampled_from([None, (0,), (1,), (1, 0)])),
        heads=data.draw(st.sampled_from([None, (2,), (3, 0)])),
        max_bytes=data.draw(st.sampled_from([2**15, 2**28])),
    )
    with extended(model := build("llama")), recording(model, request) as record:
        logits(model, token_ids(LENGTH))
    check(record, expected_maps("llama"), request)


@pytest.mark.parametrize("config", [SelfExtendConfig(1, 16), SelfExtendConfig(4, 16, "logn")], ids=str)
def test_other_settings(config: SelfExtendConfig) -> None:
    request = RecordingRequest(query_rows=range(60, LENGTH), bin_starts=BINS)
    with extended(model := build("llama"), config, on_overflow="ignore"), recording(model, request) as record:
        logits(model, token_ids(LENGTH))
    check(record, expected_maps("llama", config), request)


@pytest.mark.parametrize("name", NAMES)
def test_recording_changes_no_logit_and_leaves_nothing_behind(name: str) -> None:
    model = build(name)
    before = full_state(model)
    with extended(model):
        expected = logits(model, token_ids(LENGTH))
        with recording(model, RecordingRequest(query_rows=range(70, LENGTH), bin_starts=[0])):
            assert torch.equal(logits(model, token_ids(LENGTH)), expected)
        assert torch.equal(logits(model, token_ids(LENGTH)), expected)
    assert_same_state(before, full_state(model))


def test_rows_that_were_not_computed_are_nan() -> None:
    request = RecordingRequest(query_rows=range(30, 90), bin_starts=[0, 10])
    ids = token_ids(LENGTH)
    with torch.no_grad(), extended(model := build("llama")):
        cache = model(ids[:, :50], use_cache=True).past_key_values
        with recording(model, request) as record:
            model(ids[:, 50:60], past_key_values=cache)
    computed = np.isfinite(record.sums).all(axis=(0, 1, 3))
    assert [row for row, is_there in zip(request.query_rows, computed, strict=True) if is_there] == list(range(50, 60))


def test_of_a_left_padded_batch_the_first_row_is_recorded_without_its_padding() -> None:
    ids, padding = token_ids(LENGTH), 12
    padded = torch.cat([torch.zeros(1, padding, dtype=torch.long), ids], dim=1)
    batch = torch.cat([padded, token_ids(LENGTH + padding, seed=4)])
    mask = torch.ones_like(batch)
    mask[0, :padding] = 0
    request = RecordingRequest(query_rows=range(60, LENGTH), bin_starts=BINS)
    with extended(model := build("llama")), recording(model, request) as record:
        logits(model, batch, attention_mask=mask)
    check(record, expected_maps("llama"), request)


def test_generation_is_recorded() -> None:
    request = RecordingRequest(query_rows=range(57, 66), bin_starts=BINS)
    with extended(model := build("llama")), recording(model, request) as record:
        tokens = model.generate(token_ids(58), max_new_tokens=9, do_sample=False)
    reference = naive("llama", CONFIG)
    reference.logits(tokens)
    check(record, {n: weights[0].numpy() for n, weights in reference.weights.items()}, request)


def test_memory_is_bounded_by_what_was_allowed() -> None:
    """Recording every row of a text makes no query-by-key map of it."""
    ids, allowed = token_ids(600), 2**20
    request = RecordingRequest(query_rows=range(600), bin_starts=[0, 300], max_bytes=allowed)
    with torch.no_grad(), extended(model := build("llama"), SelfExtendConfig(32, 16)):
        with Largest() as without:
            model(ids, logits_to_keep=1)
        with recording(model, request) as record, Largest() as largest:
            model(ids, logits_to_keep=1)
    assert largest.nbytes <= max(without.nbytes, allowed)
    assert largest.nbytes < 4 * 600 * 600 * 4  # heads, queries, keys, bytes
    assert np.isfinite(record.sums).all()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"layers": (0, 7)}, "layers"),
        ({"heads": (4,)}, "heads"),
        ({"query_rows": range(60), "max_bytes": 100}, "MB"),
    ],
    ids=str,
)
def test_what_the_model_does_not_have_or_memory_does_not_hold_is_refused(arguments: dict, words: str) -> None:
    request = RecordingRequest(**({"query_rows": range(5, 9), "bin_starts": [0, 3]} | arguments))
    with extended(model := build("llama")), pytest.raises(ValueError, match=words), recording(model, request):
        pass


def test_local_layers_cannot_be_recorded() -> None:
    request = RecordingRequest(query_rows=range(5, 9), bin_starts=[0], layers=(0,))
    with extended(model := build("gemma3")), pytest.raises(ValueError, match="layers"), recording(model, request):
        pass


@pytest.mark.parametrize("bins", [[], [1, 5], [0, 5, 5], [0, 9, 3]], ids=str)
def test_bins_ascend_from_zero(bins: list[int]) -> None:
    with pytest.raises(ValueError, match="bin_starts"):
        RecordingRequest(query_rows=range(3), bin_starts=bins)


@pytest.mark.parametrize("rows", [range(0), range(0, 10, 2), range(-3, 2)], ids=str)
def test_rows_are_a_plain_range(rows: range) -> None:
    with pytest.raises(ValueError, match="query_rows"):
        RecordingRequest(query_rows=rows, bin_starts=[0])


@pytest.mark.parametrize("arguments", [{"top": -1}, {"top": 1, "top_within": range(0, 9, 2)}], ids=str)
def test_top_keys_are_a_number_of_keys_in_a_plain_range(arguments: dict) -> None:
    with pytest.raises(ValueError, match="top"):
        RecordingRequest(query_rows=range(3), bin_starts=[0], **arguments)


def test_without_selfextend_there_is_nothing_to_record() -> None:
    request = RecordingRequest(query_rows=range(3), bin_starts=[0])
    with pytest.raises(RuntimeError, match="group_size=1"), recording(build("llama"), request):
        pass


def test_the_oracles_maps_are_rows_of_one() -> None:
    """Holds the yardstick to something: causal, each row a distribution."""
    for weights in expected_maps("llama").values():
        np.testing.assert_allclose(weights.sum(-1), 1.0)
        assert (np.triu(weights, 1) == 0).all()
    assert oracle_logits("llama", CONFIG).shape == (1, LENGTH, 97)
    assert TRAINED_WINDOW < LENGTH
