"""Settings, reach and suggestion, against counting and against the paper's rule read literally."""

import dataclasses
import subprocess
import sys
from fractions import Fraction

import pytest
import reference
from hypothesis import assume, given
from hypothesis import strategies as st

from selfextend import SelfExtendConfig, max_length, suggest
from selfextend.config import paper_max_length

group_sizes = st.integers(1, 40)


@st.composite
def windows_and_configs(draw: st.DrawFn, largest: int = 60) -> tuple[int, SelfExtendConfig]:
    trained_window = draw(st.integers(2, largest))
    neighbor_window = draw(st.integers(1, trained_window - 1))
    return trained_window, SelfExtendConfig(draw(st.integers(1, 12)), neighbor_window)


@given(windows_and_configs())
def test_reach_is_what_counting_says(case: tuple[int, SelfExtendConfig]) -> None:
    trained_window, config = case
    counted = reference.reach(trained_window, config.group_size, config.neighbor_window)
    assert max_length(trained_window, config) == counted


@given(windows_and_configs())
def test_reach_is_the_last_length_without_an_unseen_position(case: tuple[int, SelfExtendConfig]) -> None:
    trained_window, config = case
    longest = max_length(trained_window, config)
    sizes = config.group_size, config.neighbor_window
    last_rows = [max(reference.relative_position(n - 1, j, *sizes) for j in range(n)) for n in (longest, longest + 1)]
    assert last_rows[0] <= trained_window - 1 < last_rows[1]


@given(st.integers(1, 40), st.integers(1, 20), st.integers(1, 1000))
def test_the_papers_limit_is_exact_where_group_size_divides_the_window(groups: int, size: int, rest: int) -> None:
    config = SelfExtendConfig(size, groups * size)
    trained_window = groups * size + rest
    assert paper_max_length(trained_window, config) == max_length(trained_window, config)


@given(windows_and_configs(5000))
def test_the_papers_limit_overshoots_by_less_than_a_group(case: tuple[int, SelfExtendConfig]) -> None:
    trained_window, config = case
    overshoot = paper_max_length(trained_window, config) - max_length(trained_window, config)
    assert overshoot == config.neighbor_window % config.group_size
    assert 0 <= overshoot < config.group_size


def test_the_papers_limit_reaches_an_unseen_position_where_it_overshoots() -> None:
    config = SelfExtendConfig(5, 1024)
    at_limit = paper_max_length(4096, config)
    assert at_limit == (4096 - 1024) * 5 + 1024
    assert reference.relative_position(at_limit - 1, 0, 5, 1024) == 4096
    assert max_length(4096, config) == at_limit - 4


@pytest.mark.parametrize(
    ("trained_window", "config", "expected"),
    [
        (2048, SelfExtendConfig(4, 512), 4 * (2048 - 512) + 512),  # Phi-2, the paper's settings
        (2048, SelfExtendConfig(8, 512), 8 * (2048 - 512) + 512),
        (7, SelfExtendConfig(2, 4), 10),  # the golden matrix just fits
        (4096, SelfExtendConfig(1, 1024), 4096),  # vanilla reaches its window and no further
    ],
)
def test_known_reaches(trained_window: int, config: SelfExtendConfig, expected: int) -> None:
    assert max_length(trained_window, config) == expected


def in_rule(trained_window: int, length: int, group_size: int, neighbor_window: int) -> bool:
    """The paper's rule of thumb, its looser bound: w_n + (N - w_n) / G_s < 2/3 L."""
    return neighbor_window + Fraction(length - neighbor_window, group_size) < Fraction(2, 3) * trained_window


@given(st.integers(2, 400), st.integers(1, 5000), st.data())
def test_suggestion_is_the_smallest_group_size_inside_the_rule(
    trained_window: int, length: int, data: st.DataObject
) -> None:
    largest_window = (2 * trained_window - 1) // 3  # the rule leaves no room from two thirds on
    neighbor_window = data.draw(st.none() | st.integers(1, max(1, largest_window)))
    assume(neighbor_window is None or 3 * neighbor_window < 2 * trained_window)
    config = suggest(trained_window, length, neighbor_window=neighbor_window)
    assert neighbor_window is None or config.neighbor_window == neighbor_window

    def suits(group_size: int) -> bool:
        candidate = SelfExtendConfig(group_size, config.neighbor_window)
        inside = in_rule(trained_window, length, group_size, config.neighbor_window)
        return inside and max_length(trained_window, candidate) >= length

    if length <= trained_window:
        assert config.group_size == 1
    else:
        assert suits(config.group_size)
        assert not any(suits(smaller) for smaller in range(1, config.group_size))


@given(st.integers(2, 400), st.integers(1, 5000))
def test_suggestion_reaches_the_length(trained_window: int, length: int) -> None:
    assert max_length(trained_window, suggest(trained_window, length)) >= length


def test_suggestion_passes_query_scaling_on() -> None:
    assert suggest(256, 2000, query_scaling="logn").query_scaling == "logn"
    assert suggest(256, 2000).query_scaling == "none"


@pytest.mark.parametrize("group_size", [0, -1, 2.0, 1.5, "4", None, True])
def test_group_size_is_a_whole_number_of_at_least_one(group_size: object) -> None:
    with pytest.raises(ValueError, match="group_size"):
        SelfExtendConfig(group_size, 16)  # type: ignore[arg-type]


@pytest.mark.parametrize("neighbor_window", [0, -8, 16.0, 0.5, "16", None, False])
def test_neighbor_window_is_a_whole_number_of_at_least_one(neighbor_window: object) -> None:
    with pytest.raises(ValueError, match="neighbor_window"):
        SelfExtendConfig(4, neighbor_window)  # type: ignore[arg-type]


@pytest.mark.parametrize("query_scaling", ["log", "", None, 1, "LOGN"])
def test_query_scaling_is_one_of_two_words(query_scaling: object) -> None:
    with pytest.raises(ValueError, match=r"query_scaling.*none.*logn"):
        SelfExtendConfig(4, 16, query_scaling)  # type: ignore[arg-type]


@pytest.mark.parametrize("neighbor_window", [64, 65, 1000])
def test_a_neighbor_window_must_leave_room_in_the_trained_window(neighbor_window: int) -> None:
    config = SelfExtendConfig(4, neighbor_window)
    for function in (max_length, paper_max_length):
        with pytest.raises(ValueError, match=rf"{neighbor_window:,}.*64"):
            function(64, config)
    with pytest.raises(ValueError, match=rf"{neighbor_window:,}.*64"):
        suggest(64, 200, neighbor_window=neighbor_window)


@pytest.mark.parametrize("trained_window", [0, -1, 1, 64.0, "64", None])
def test_trained_window_is_a_whole_number(trained_window: object) -> None:
    with pytest.raises(ValueError):
        max_length(trained_window, SelfExtendConfig(4, 16))  # type: ignore[arg-type]
    with pytest.raises(ValueError):
        suggest(trained_window, 100)  # type: ignore[arg-type]


@pytest.mark.parametrize("length", [0, -5, 10.0, "10", None])
def test_length_is_a_whole_number(length: object) -> None:
    with pytest.raises(ValueError, match="length"):
        suggest(64, length)  # type: ignore[arg-type]


def test_settings_are_values() -> None:
    config = SelfExtendConfig(4, 16)
    assert config == SelfExtendConfig(4, 16, "none")
    assert hash(config) == hash(SelfExtendConfig(4, 16))
    assert config != SelfExtendConfig(4, 16, "logn")
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.group_size = 5  # type: ignore[misc]


def test_importing_the_package_loads_nothing_heavy() -> None:
    program = (
        "import sys, selfextend; selfextend.suggest(2048, 6000); selfextend.SelfExtendConfig(4, 16);"
        "print([m for m in ('torch', 'transformers', 'numpy', 'gradio', 'plotly') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
