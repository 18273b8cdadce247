"""A link to what the page shows: what it says, and what is told of what it cannot set."""

from __future__ import annotations

import pytest

from app.links import MOST_CHARACTERS, Link, read_link, what_is_missing
from selfextend import SelfExtendConfig


def test_a_link_says_what_the_page_shows() -> None:
    link = read_link("#model=tiny+one&document=a.pdf&document=b%26c.txt&G=9&w=50&method=ReRoPE&tab=Position+map")
    assert link == Link("tiny one", ("a.pdf", "b&c.txt"), SelfExtendConfig(9, 50), "ReRoPE", "Position map")


@pytest.mark.parametrize(
    "fragment",
    ["", "#", "#passage-1-2", "#G=9", "#G=0&w=5", "#G=-1&w=5", "#G=9&w=x", "#G=٣&w=5", "#G=99999999&w=5",
     "#method=Magic", "#model=" + "x" * MOST_CHARACTERS],
)  # fmt: skip
def test_what_makes_no_sense_in_a_link_is_left_out(fragment: str) -> None:
    assert read_link(fragment) == Link()


def test_what_is_not_so_here_is_told_in_a_sentence_each() -> None:
    link = Link("other", ("a.pdf", "b.pdf"), SelfExtendConfig(9, 300))
    model, document, settings = what_is_missing(link, "tiny", ["a.pdf"], 256)
    assert "The link is about other, and tiny is loaded" in model
    assert "b.pdf, which you have not added" in document
    assert "neighbor_window (300)" in settings
    assert what_is_missing(Link("tiny", ("a.pdf",), SelfExtendConfig(9, 50)), "tiny", ["a.pdf"], 256) == []
    assert "no model is loaded" in what_is_missing(Link("tiny"), "", [], 256)[0]


def test_an_address_of_the_lesson_asks_the_page_for_nothing() -> None:
    assert read_link("#lesson/L=9&N=16&G=3&w=4/step=5/cell=15,0") == Link()
    assert read_link("#lesson/step=1&G=3&w=4") == Link()
