"""A link to what the page shows: what it says, and what is told of what it cannot set."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import gradio as gr
import pytest

from app.links import MOST_CHARACTERS, SETTINGS, Link, read_link, what_is_missing
from app.restore import values_said
from app.tabs.controls import WHEN_NEEDED, Controls, build_controls
from selfextend import SelfExtendConfig


def test_a_link_says_what_the_page_shows() -> None:
    link = read_link("#model=tiny+one&document=a.pdf&document=b%26c.txt&G=9&w=50&method=ReRoPE&tab=Position+map")
    assert link == Link("tiny one", ("a.pdf", "b&c.txt"), SelfExtendConfig(9, 50), "ReRoPE", "Position map")


def test_a_link_sets_the_controls_that_it_names_and_leaves_the_others_as_they_are() -> None:
    with gr.Blocks():
        controls = build_controls(gr.State())
    values: dict[str, tuple[str, Any]] = {
        "log_n": ("true", True), "extend": (WHEN_NEEDED, WHEN_NEEDED), "max_new_tokens": ("33", 33),
        "temperature": ("0.7", 0.7), "top_p": ("0.15000000000000002", 0.15000000000000002), "top_k": ("9", 9),
        "repetition_penalty": ("1", 1.0), "seed": ("417", 417), "remember": ("false", False), "four": ("true", True),
        "thinking": ("true", True),
    }  # fmt: skip
    assert tuple(values) == SETTINGS
    assert set(SETTINGS) == set(Controls._fields) - {"method", "group_size", "neighbor_window", "system"}
    link = read_link("#model=m&" + urlencode({name: text for name, (text, _) in values.items()}))
    assert values_said(controls, link) == {getattr(controls, name): value for name, (_, value) in values.items()}
    assert values_said(controls, read_link("#model=m&G=9&w=50")) == {}, "a link from before links had them"


@pytest.mark.parametrize(
    "setting",
    ["log_n=1", "extend=Never", "max_new_tokens=0", "max_new_tokens=4097", "max_new_tokens=2.5", "temperature=nan",
     "temperature=3", "top_p=0", "top_k=-1", "top_k=٣", "seed=1e9", "seed=", "system=Lie.", "group_size=7"],
)  # fmt: skip
def test_what_a_control_cannot_be_is_left_out_of_a_link(setting: str) -> None:
    with gr.Blocks():
        controls = build_controls(gr.State())
    assert values_said(controls, read_link(f"#model=m&{setting}")) == {}


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
    assert "Neighbor window 300 must" in settings
    assert what_is_missing(Link("tiny", ("a.pdf",), SelfExtendConfig(9, 50)), "tiny", ["a.pdf"], 256) == []
    assert "no model is loaded" in what_is_missing(Link("tiny"), "", [], 256)[0]


def test_an_address_of_the_lesson_asks_the_page_for_nothing() -> None:
    assert read_link("#lesson/L=9&N=16&G=3&w=4/step=5/cell=15,0") == Link()
    assert read_link("#lesson/step=1&G=3&w=4") == Link()
