"""The app as `pip install "selfextend[app]"` brings it: a wheel in a fresh environment, run from another folder."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import packaging
import pytest
from chat_parts import ready
from gradio_client import Client, handle_file
from playwright.sync_api import Page, expect

from benchmarks.serving import ROOT, served
from selfextend.asset_files import assets_folder

Open = Callable[..., Page]
IMPORT_ALL = """
import pkgutil, sys, selfextend_app
for module in pkgutil.walk_packages(selfextend_app.__path__, "selfextend_app."):
    __import__(module.name)
assert "app" not in sys.modules
"""


@dataclass(frozen=True)
class Installed:
    """A virtual environment with the wheel.

    Attributes:
        site: its site-packages. What the wheel depends on is found where it is for these tests.
        scripts: its folder of programs.
        elsewhere: an empty folder to run them in.
    """

    site: Path
    scripts: Path
    elsewhere: Path

    def run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(self.scripts / program), *arguments]
        return subprocess.run(command, cwd=self.elsewhere, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    wheels, folder, elsewhere = (tmp_path_factory.mktemp(name) for name in ("wheels", "venv", "elsewhere"))
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(wheels)]
    subprocess.run(build, cwd=ROOT, check=True)
    venv.create(folder, symlinks=True)
    paths = sysconfig.get_paths("venv", {"base": str(folder), "platbase": str(folder)})
    site, scripts = Path(paths["purelib"]), Path(paths["scripts"])
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    pip = [sys.executable, "-m", "pip", "--python", str(scripts / "python"), "install", "--no-deps", "--no-index"]
    (wheel,) = wheels.glob("*.whl")
    subprocess.run([*pip, "--ignore-installed", "--quiet", str(wheel)], check=True)
    return Installed(site, scripts, elsewhere)


@pytest.fixture(scope="module")
def installed_app(installed: Installed) -> Iterator[str]:
    """The address of `selfextend app` on the bundled model."""
    command = [str(installed.scripts / "selfextend"), "app", "--no-browser", "--data-folder", "data", "--port"]
    with served(lambda port: [*command, str(port)], {"PYTHONPATH": ""}, folder=installed.elsewhere) as address:
        yield address


def test_the_name_app_is_left_to_others(installed: Installed) -> None:
    assert {path.name for path in installed.site.iterdir() if path.suffix != ".pth"} == {
        "selfextend",
        "selfextend_app",
        next(installed.site.glob("*.dist-info")).name,
    }
    assert (installed.site / "selfextend" / "assets" / "model" / "model.safetensors").is_file()
    done = installed.run("python", "-c", IMPORT_ALL)
    assert done.returncode == 0, done.stderr


def test_the_options_are_those_of_app_py(installed: Installed) -> None:
    done = installed.run("selfextend", "app", "--help")
    command = [sys.executable, "app.py", "--help"]
    checkout = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: selfextend app ")
    assert done.stdout.partition("\n\n")[2] == checkout.stdout.partition("\n\n")[2]
    refused = installed.run("selfextend", "app", "--json")
    assert refused.returncode == 2
    assert "unrecognized arguments: --json" in refused.stderr


def test_without_the_extra_a_sentence_says_what_to_install(installed: Installed, tmp_path: Path) -> None:
    for name in ("selfextend", "selfextend_app"):
        (tmp_path / name).symlink_to(installed.site / name)
    information = next(installed.site.glob("*.dist-info"))
    shutil.copytree(information, tmp_path / information.name)
    shutil.copytree(Path(packaging.__file__).parent, tmp_path / "packaging")
    # -S leaves out site-packages, so that nothing can be imported but what stands in this folder.
    done = subprocess.run(
        [sys.executable, "-S", "-m", "selfextend", "app"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: The app needs packages that are not installed (")
    assert "gradio<7,>=6.31" in done.stderr
    assert done.stderr.endswith('): pip install "selfextend[app]"\n')


@pytest.mark.browser
@pytest.mark.slow
def test_the_installed_app_answers_in_the_browser_and_on_its_api(
    installed_app: str, open_page: Open, tmp_path: Path
) -> None:
    wanted = json.loads((assets_folder() / "sample_questions.json").read_text(encoding="utf-8"))[0]
    page = ready(open_page(installed_app, width=1500))
    expect(page.locator(".document-list")).to_contain_text("sample.pdf")
    page.locator("#chat").get_by_text(wanted["question"]).click()
    expect(page.locator("#chat .measures")).to_have_count(1, timeout=240_000)
    expect(page.locator("#chat .message.bot, #chat .bot").last).to_contain_text(wanted["value"])
    expect(page.locator("#chat a.page-link").first).to_have_text(f"p. {wanted['page']}")
    page.close()  # a page outliving its server complains
    note = tmp_path / "note.txt"
    note.write_text(wanted["answer"])
    client = Client(installed_app, verbose=False)
    answer = client.predict(wanted["question"], [handle_file(str(note))], api_name="/ask")
    assert wanted["value"] in answer["answer"]
