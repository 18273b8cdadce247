"""What the page needs before it answers: not torch, not transformers, and no word of the lab that is not there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from app.launch import serve
from app.runtime import make_runtime
from app.server import request_log
from app.settings import read_settings
from app.tabs.lab import PROBES
from selfextend.lab.choices import PROBE_NAMES

BUILD = """
import sys
from app.settings import read_settings
from app.runtime import make_runtime
from app.page import build_page

build_page(make_runtime(read_settings(["--no-browser", "--no-persist"], {})))
print(*(name for name in ("torch", "transformers", "accelerate", "bitsandbytes") if name in sys.modules))
"""


def test_the_page_is_there_before_torch_and_transformers() -> None:
    """`app.launch.serve` loads the model after the launch; importing these two alone takes most of a start."""
    root = Path(__file__).resolve().parent.parent
    built = subprocess.run([sys.executable, "-c", BUILD], cwd=root, capture_output=True, text=True, check=True)
    assert built.stdout.split() == []


STUBS = """
import ast

def parsed(*_, **__):
    raise SystemExit("Gradio parsed a component of its own")

ast.get_source_segment = parsed
import app
import gradio

print(gradio.Slider(1, 9).release)
"""


def test_gradio_is_imported_without_writing_its_stubs() -> None:
    """They took half of its import."""
    root = Path(__file__).resolve().parent.parent
    subprocess.run([sys.executable, "-c", STUBS], cwd=root, capture_output=True, text=True, check=True)
    without_app = STUBS.replace("import app\n", "")
    told = subprocess.run([sys.executable, "-c", without_app], cwd=root, capture_output=True, text=True, check=False)
    assert "parsed a component" in told.stderr, "Gradio writes none any more: app/gradio_stubs.py can go"


IMPORTS = """
import gc
import sys
from selfextend.presets import BUNDLED
from selfextend.steps import result_of
from app import imports

imports.begin()
counted = [0, 0]
gc.callbacks.append(lambda phase, _: counted.__setitem__(gc.isenabled(), 1 + counted[gc.isenabled()]))
imports.finish()
assert "torch" in sys.modules and "selfextend.plugin" in sys.modules
assert counted == [0, 0], "garbage was looked for"
frozen = gc.get_freeze_count()
assert gc.isenabled() and frozen > 100_000

from selfextend.loading.models import load_steps

result_of(load_steps(BUNDLED, "none", "cpu"))
assert 0 < gc.get_freeze_count() <= frozen, "what was made later is to be collected"
assert gc.isenabled() and counted[1]
"""

WITHOUT_TORCH = """
import gc
import sys
from app import imports

sys.modules["torch"] = None
imports.begin()
try:
    imports.finish()
except ImportError:
    assert gc.isenabled()
    print("told")
"""


def test_no_garbage_is_looked_for_among_what_is_imported() -> None:
    """It took time from the start, and from answers afterwards."""
    root = Path(__file__).resolve().parent.parent
    subprocess.run([sys.executable, "-c", IMPORTS], cwd=root, capture_output=True, text=True, check=True)
    told = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], cwd=root, capture_output=True, text=True, check=True)
    assert told.stdout == "told\n"


def test_gradio_sums_up_no_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """After each event it would go through all those before it, for a page of figures that the guard keeps closed."""
    for name in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_CACHE_FREQUENCY", "GRADIO_ANALYTICS_MAX_EVENTS"):
        monkeypatch.setenv(name, "1")  # put back at the end
    monkeypatch.setattr(request_log, "set_up_log", lambda _: None)
    launched = list[gr.Blocks]()

    def launch(page: gr.Blocks, **_: Any) -> None:
        launched.append(page)
        raise OSError("as far as this goes")

    monkeypatch.setattr(gr.Blocks, "launch", launch)
    with pytest.raises(SystemExit, match="as far as this goes"):
        serve(make_runtime(read_settings(["--no-browser", "--no-persist"], {})))
    queue = launched[0]._queue
    queue.events_recorded = 10_000
    event = {"function": "ask", "status": "success", "process_time": 1.0}
    assert queue.compute_analytics_summary([event]) == {"functions": {}}
    assert queue.ANALYTICS_MAX_EVENTS == 1, "nor are they kept"


def test_the_labs_menu_has_every_probe() -> None:
    assert set(PROBE_NAMES) < set(PROBES.values())
