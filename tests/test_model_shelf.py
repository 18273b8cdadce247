"""The one model on the shelf: another takes its place whole, or the old one stays."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from app_parts import tiny_folder  # noqa: F401 (fixture)

from app.model_shelf import LoadedModel, ModelShelf
from selfextend.errors import ModelNotFoundError, ModelTooBigError
from selfextend.steps import result_of


def load(shelf: ModelShelf, name: str) -> LoadedModel:
    return result_of(shelf.load_steps(name))


@pytest.fixture
def shelf(tiny_folder: Path) -> ModelShelf:  # noqa: F811
    shelf = ModelShelf()
    load(shelf, str(tiny_folder))
    return shelf


def free(monkeypatch: pytest.MonkeyPatch, available: Callable[[], int]) -> None:
    monkeypatch.setattr("selfextend.loading.memory.available_bytes", lambda device: available())


def test_models_of_one_label_have_identities_of_their_own(
    shelf: ModelShelf,
    tiny_folder: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one, copy = shelf.need(), tmp_path / "copy" / tiny_folder.name
    shutil.copytree(tiny_folder, copy)
    other = load(shelf, str(copy))
    assert other.label == one.label
    assert other.identity != one.identity
    packed = result_of(shelf.load_steps(str(tiny_folder), "nf4", "cpu"))
    assert packed.label == one.label
    assert packed.identity not in (one.identity, other.identity)
    monkeypatch.chdir(tiny_folder.parent)
    again = load(shelf, tiny_folder.name)
    assert again.identity == one.identity == shelf.identity
    assert str(tiny_folder) not in again.identity


def test_a_model_that_is_not_there_leaves_the_old_one(shelf: ModelShelf, tmp_path: Path) -> None:
    old = shelf.need()
    with pytest.raises(ModelNotFoundError):
        load(shelf, str(tmp_path / "nothing"))
    assert shelf.need() is old


def test_a_model_too_big_even_alone_leaves_the_old_one_untouched(
    shelf: ModelShelf,
    tiny_folder: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old = shelf.need()
    free(monkeypatch, lambda: -old.estimate.weights_bytes)
    with pytest.raises(ModelTooBigError):
        load(shelf, str(tiny_folder))
    assert shelf.need() is old


def test_a_model_that_fits_only_alone_takes_the_old_ones_place(
    shelf: ModelShelf,
    tiny_folder: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old = shelf.need()
    weights = old.estimate.weights_bytes
    free(monkeypatch, lambda: weights // 2 if shelf.loaded else weights * 2)
    new = load(shelf, str(tiny_folder))
    assert shelf.need() is new
    assert new is not old


@pytest.mark.parametrize("ends", ["too big after all", "stopped"])
def test_what_cannot_take_its_place_brings_the_old_one_back(
    shelf: ModelShelf,
    tiny_folder: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    ends: str,
) -> None:
    old = shelf.need()
    weights = old.estimate.weights_bytes
    enough_alone = ends == "stopped"
    free(monkeypatch, lambda: weights * 2 if enough_alone and not shelf.loaded else weights // 2)
    if ends == "stopped":
        steps = shelf.load_steps(str(tiny_folder))
        while shelf.loaded is not None:
            next(steps)
        steps.close()
    else:
        with pytest.raises(ModelTooBigError):
            load(shelf, str(tiny_folder))
    assert shelf.need().name == old.name
    assert shelf.need().activity == old.activity
