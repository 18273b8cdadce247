"""The model menu: what is on this machine comes first, for its operator only, and loads under the name it has there."""

import time
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from app_parts import request_from
from gguf.constants import GGMLQuantizationType
from gguf_files import llama_gguf

from app.model_menu import local_choices
from app.model_shelf import ModelShelf
from app.page import build_page
from app.runtime import make_runtime
from app.settings import Settings, read_settings
from app.tabs.model_panel import OTHER, STOPPED, _choices
from selfextend.errors import ModelLoadError
from selfextend.loading import gguf_weights
from selfextend.loading.local import Stores
from selfextend.presets import PRESETS
from selfextend.steps import result_of

HERE = request_from("127.0.0.1", "localhost:7860")
"""Of who sits at this machine."""


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """One GGUF file on the machine, in a folder that was named."""

    def only_these(folders: tuple[Path, ...]) -> Stores:
        return Stores(tmp_path / "hub", (), tuple(("models folder", folder) for folder in folders))

    monkeypatch.setattr("app.model_menu.usual_stores", only_these)
    (tmp_path / "models").mkdir()
    llama_gguf(tmp_path / "models" / "tiny-Q8_0.gguf", GGMLQuantizationType.Q8_0)
    return read_settings(["--models-folder", str(tmp_path / "models")], {})


def test_the_models_of_this_machine_come_first(settings: Settings, tmp_path: Path) -> None:
    ((words, name),) = local_choices(settings, HERE, torch_is_here=True)
    assert words.startswith("tiny-Q8_0 · Q8_0 · 0.1")
    assert words.endswith(" MB · 256 tokens · fits (models folder)")
    assert name == str(tmp_path / "models" / "tiny-Q8_0.gguf")
    first, *presets, last = _choices([(words, name)])
    assert (first, last) == ((words, name), (OTHER, OTHER))
    assert len(presets) == len(PRESETS)
    ((unsized, _),) = local_choices(settings, HERE, torch_is_here=False)
    assert "fits" not in unsized


def test_what_is_too_big_is_said(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfextend.loading.hardware.available_bytes", lambda device: 1000)
    ((words, _),) = local_choices(settings, HERE, torch_is_here=True)
    assert "too big for this machine now" in words


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (HERE, True),
        (request_from("127.0.0.1", "localhost:7860", x_forwarded_for="9.9.9.9"), False),  # a tunnel that starts here
        (request_from("127.0.0.1", "school.example"), False),  # a proxy on this machine
        (request_from("192.168.1.9", "192.168.1.5:7860", "bob"), False),
        (request_from("192.168.1.9", "192.168.1.5:7860", "ada"), True),
    ],
)
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_who_may_not_load_models_is_told_of_none(
    settings: Settings, tmp_path: Path, asked: gr.Request, told: bool, host: str
) -> None:
    folder = tmp_path / "models"
    arguments = ["--models-folder", str(folder), "--host", host, "--admins", "ada", "--model", str(folder)]
    runtime = make_runtime(read_settings([*arguments, "--no-persist"], {"SELFEXTEND_AUTH": "ada:one,bob:two"}))
    assert bool(local_choices(runtime.settings, asked, torch_is_here=True)) is told
    page = build_page(runtime)
    functions = [function.fn for function in page.fns.values()]
    follow: Any = next(each for each in functions if getattr(each, "__name__", "") == "follow_model")
    room = follow.__self__.parts.controls.room
    result_of(runtime.models.load_steps(str(folder)))
    updates = follow("", "visitor", [], asked, *[control.value for control in room])
    assert (str(folder) in str(list(updates.values()))) is told


def test_one_is_loaded_as_it_is_chosen(settings: Settings, tmp_path: Path) -> None:
    ((_, name),) = local_choices(settings, HERE, torch_is_here=True)
    shelf = ModelShelf()
    loaded = result_of(shelf.load_steps(name, "auto"))
    assert (loaded.label, loaded.trained_window, loaded.supported) == ("tiny-Q8_0.gguf", 256, True)
    assert "unpacked from Q8_0" in loaded.estimate.number_formats
    # As Ollama keeps it: the name is the one that the file states.
    blob = tmp_path / "models" / "sha256-0123"
    Path(name).rename(blob)
    assert result_of(shelf.load_steps(str(blob), "auto")).label == "Tiny"
    blob.write_bytes(blob.read_bytes()[:-100])
    with pytest.raises(ModelLoadError, match="damaged"):
        result_of(shelf.load_steps(str(blob), "auto"))
    assert shelf.label == "Tiny"


def test_the_pages_button_stops_a_load(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unpacked = gguf_weights.stored_values

    def slowly(*given: Any) -> Any:
        time.sleep(0.05)
        return unpacked(*given)

    monkeypatch.setattr(gguf_weights, "stored_values", slowly)
    runtime = make_runtime(read_settings(["--no-persist", "--models-folder", str(tmp_path / "models")], {}))
    functions = [function.fn for function in build_page(runtime).fns.values()]
    module = "app.tabs.model_panel"
    handlers = {each.__name__: each for each in functions if getattr(each, "__module__", "") == module}
    path = str(tmp_path / "models" / "tiny-Q8_0.gguf")
    steps = handlers["load"](OTHER, path, "none", "cpu", HERE)
    while not 0 < (runtime.loading.progress.fraction or 0) < 1:
        next(steps)
    handlers["stop"](request_from("127.0.0.1", "localhost", x_forwarded_for="9.9.9.9"))  # may not
    assert "complaint" not in str(next(steps))
    handlers["stop"](HERE)
    *_, last = steps
    assert STOPPED in str(last)
    assert runtime.models.loaded is None
    assert not runtime.loading.is_running
