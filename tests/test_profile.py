"""A model's facts: one order of sources, and the same answer for the page and the command line."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from app_parts import load
from tiny_models import save_folder, tiny_model

from selfextend.lab.target import find_target
from selfextend.presets import Preset, PublishedSetting
from selfextend.profile import LONGEST_ANSWER, LONGEST_CHAT_ANSWER, Profile, longest_answer, profile_of

CONFIG = SimpleNamespace(max_position_embeddings=32_768, sliding_window=4096)
MISTRALS = ("mistralai/Mistral-7B-v0.1", "mistralai/Mistral-7B-Instruct-v0.1")


def recommend(folder: Path, **values: object) -> Path:
    (folder / "selfextend.json").write_text(json.dumps(values), encoding="utf-8")
    return folder


def test_the_folder_comes_before_the_preset_and_the_preset_before_the_config(tmp_path: Path) -> None:
    assert profile_of("someone/else", None, CONFIG) == Profile(4096, None, "none")
    assert profile_of("microsoft/phi-2", tmp_path, CONFIG) == Profile(2048, 512, "none")
    recommend(tmp_path, trained_window=1024, neighbor_window=100, query_scaling="logn")
    assert profile_of("microsoft/phi-2", tmp_path, CONFIG) == Profile(1024, 100, "logn")


def test_the_longest_answer_suits_the_model() -> None:
    assert longest_answer("owner/name", 8192, chats=True) == LONGEST_CHAT_ANSWER
    assert longest_answer("owner/name", 1024, chats=True) == 256  # leaves room for a question
    assert longest_answer("owner/name", 8192, chats=False) == LONGEST_ANSWER
    assert longest_answer("bundled", 8192, chats=True) == LONGEST_ANSWER


@pytest.mark.parametrize("name", MISTRALS)
def test_mistral_was_trained_past_its_sliding_window(name: str) -> None:
    assert profile_of(name, None, CONFIG).trained_window == 8192


def test_each_fact_is_looked_for_by_itself(tmp_path: Path) -> None:
    recommend(tmp_path, query_scaling="logn")
    assert profile_of("microsoft/phi-2", tmp_path, CONFIG) == Profile(2048, 512, "logn")


@pytest.mark.parametrize("value", [0, -1, 2.5, "64", None, True])
def test_values_that_are_no_numbers_of_tokens_are_left_out(tmp_path: Path, value: object) -> None:
    recommend(tmp_path, trained_window=value, neighbor_window=value, query_scaling="much")
    assert profile_of("someone/else", tmp_path, CONFIG) == Profile(4096, None, "none")


@pytest.mark.parametrize("text", ["", "[512]", "{", "\xff"])
def test_a_file_that_says_nothing_is_left_out(tmp_path: Path, text: str) -> None:
    (tmp_path / "selfextend.json").write_bytes(text.encode("latin-1"))
    assert profile_of("someone/else", tmp_path, CONFIG) == Profile(4096, None, "none")


def test_a_neighbor_window_goes_with_the_trained_window_that_it_was_recommended_for(tmp_path: Path) -> None:
    recommend(tmp_path, trained_window=512, neighbor_window=128, query_scaling="logn")
    assert profile_of("bundled", tmp_path, CONFIG, trained_window=64) == Profile(64, None, "logn")
    assert profile_of("bundled", tmp_path, CONFIG, trained_window=512) == Profile(512, 128, "logn")


def test_a_neighbor_window_that_leaves_no_room_is_left_out(tmp_path: Path) -> None:
    recommend(tmp_path, trained_window=512, neighbor_window=342)
    assert profile_of("someone/else", tmp_path, CONFIG) == Profile(512)
    recommend(tmp_path, trained_window=512, neighbor_window=341)
    assert profile_of("someone/else", tmp_path, CONFIG) == Profile(512, 341)


def test_a_window_that_nobody_states_may_be_given() -> None:
    bare = SimpleNamespace(model_type="bare")
    assert profile_of("someone/else", None, bare, trained_window=2048) == Profile(2048)
    with pytest.raises(ValueError, match="trained window yourself"):
        profile_of("someone/else", None, bare)


@pytest.mark.parametrize("source", ["preset", "folder"])
def test_page_and_command_line_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    name = str(save_folder(tmp_path, tiny_model()))  # its config says 256
    if source == "folder":
        recommend(tmp_path, trained_window=128, neighbor_window=24, query_scaling="logn")
    else:
        setting = PublishedSetting(4, 24, None, "a test")
        preset = Preset("Tiny", name, 128, "MIT", (setting,), query_scaling="logn")
        monkeypatch.setattr("selfextend.presets.PRESETS", (preset,))
    assert find_target(name).profile == load(name).profile == Profile(128, 24, "logn")
