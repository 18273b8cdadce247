"""What the page calls the library's parameters."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from app.tabs.widgets import complaint_html
from app.wording import called, in_page_words
from selfextend import SelfExtendConfig
from selfextend.config import check_window, suggest
from selfextend.sampling import GenerationSettings


def refusal(refused: Callable[[], object]) -> str:
    with pytest.raises(ValueError) as caught:
        refused()
    return str(caught.value)


@pytest.mark.parametrize(
    ("refused", "library", "page"),
    [
        (lambda: check_window(8192, SelfExtendConfig(8, 9000)), "neighbor_window (9,000) must",
         "Neighbor window 9,000 must be smaller than the trained window (8,192)"),
        (lambda: suggest(9000, 20_000, neighbor_window=8000), "neighbor_window (8,000) must",
         "Neighbor window 8,000 must stay below two thirds of the trained window (9,000). Try 2,250."),
        (lambda: SelfExtendConfig(0, 4), "group_size must", "Group size must be at least 1, not 0."),
        (lambda: GenerationSettings(max_new_tokens=0), "max_new_tokens must", "Longest answer must be at least 1"),
        (lambda: GenerationSettings(top_p=2.0), "top_p must", "Top p must be above 0"),
    ],
)  # fmt: skip
def test_the_library_names_parameters_and_the_page_its_controls(
    refused: Callable[[], object], library: str, page: str
) -> None:
    told = refusal(refused)
    assert told.startswith(library), "as a program has to write it"
    assert in_page_words(told).startswith(page)
    assert page in complaint_html(told)


def test_only_whole_names_are_the_pages() -> None:
    for sentence in ("group_size.pdf cannot be read.", "my_group_size is no name.", "--top_p-x", "top_price"):
        assert in_page_words(sentence) == sentence
    assert in_page_words("They were not set. group_size (8) and top_k.") == "They were not set. Group size 8 and top k."


def test_a_name_inside_a_sentence() -> None:
    assert [called(name) for name in ("group_size", "query_scaling", "temperature")] == [
        "group size", "log-n query scaling", "temperature",
    ]  # fmt: skip
