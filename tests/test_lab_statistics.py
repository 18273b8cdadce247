"""Wilson's interval against its defining equation, and the tables against counting by hand."""

from math import exp, sqrt
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfextend.lab.statistics import wilson_interval
from selfextend.lab.tables import accuracy, by_length, curves, ends_of_curves

Z = NormalDist().inv_cdf(0.975)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_bounds_are_where_the_observed_share_is_just_z_standard_errors_away(case: tuple[int, int]) -> None:
    successes, trials = case
    low, high = wilson_interval(successes, trials)
    share = successes / trials
    assert 0 <= low <= share <= high <= 1
    for bound in (low, high):
        if 0 < bound < 1:
            assert abs(share - bound) == pytest.approx(Z * sqrt(bound * (1 - bound) / trials), rel=1e-6)


def test_known_values() -> None:
    assert wilson_interval(0, 10) == pytest.approx((0.0, 0.2775), abs=5e-5)
    assert wilson_interval(10, 10) == pytest.approx((0.7225, 1.0), abs=5e-5)
    assert wilson_interval(5, 10) == pytest.approx((0.2366, 0.7634), abs=5e-5)


@pytest.mark.parametrize(("successes", "trials"), [(1, 0), (3, 2), (-1, 2)])
def test_what_is_no_proportion_is_refused(successes: int, trials: int) -> None:
    with pytest.raises(ValueError, match="no proportion"):
        wilson_interval(successes, trials)


def row(score: float, depth: float = 0.5, trial: int = 0, length: int = 512, seconds: float = 1.0) -> dict:
    return {
        "probe": "passkey", "method": "vanilla", "label": "Vanilla", "settings": {}, "length": length, "depth": depth,
        "trial": trial, "cell_rows": 2, "score": score, "seconds": seconds, "peak_bytes": 10,
    }  # fmt: skip


def test_accuracy_counts_whole_answers_and_averages_partial_ones() -> None:
    found = accuracy([row(1.0), row(0.5, trial=1), row(1.0, 0.7), row(0.0, 0.7, 1)])
    assert (found.correct, found.trials, found.score) == (2, 4, 0.625)
    assert (found.low, found.high) == wilson_interval(2, 4)


def test_a_cells_seconds_are_counted_once() -> None:
    rows = [row(1.0, 0.5, 0), row(1.0, 0.5, 1), row(1.0, 0.7, 0), row(1.0, 0.7, 1)]
    (entry,) = by_length(rows)
    assert entry["seconds"] == 2.0
    assert entry["trials"] == 4


def test_curves_give_perplexity_and_its_ends() -> None:
    rows = [
        {"label": "Vanilla", "length": 400, "start": start, "end": start + 100, "tokens": 100, "loss": loss}
        for start, loss in ((1, 1.0), (101, 1.1), (201, 1.2), (301, 2.0))
    ]
    assert curves(rows)["Vanilla"]["perplexity"] == pytest.approx([exp(1.0), exp(1.1), exp(1.2), exp(2.0)])
    ends = ends_of_curves(rows)["Vanilla"]
    assert ends["first_bin"] == pytest.approx(exp(1.0))
    assert ends["last_quarter"] == pytest.approx(exp(2.0))
    assert ends["ratio"] == pytest.approx(exp(1.0))
