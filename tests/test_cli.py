"""The command line: what it prints, and that whatever is wrong is said before a model is loaded."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from gguf.constants import GGMLQuantizationType as Kind
from gguf_files import llama_gguf
from lab_models import WINDOW, folder
from tiny_models import TRAINED_WINDOW

from selfextend import suggest
from selfextend.cli import main
from selfextend.commands.parser import make_parser
from selfextend.lab.records import read_run
from selfextend.lab.target import Target
from selfextend.methods import METHOD_NAMES, method_from, method_named

ROOT = Path(__file__).parent.parent
MODEL = ("-m", str(folder()))


SET = folder() / "set.jsonl"
SET.write_text('{"input": "The pass key is 12345.", "target": "12345", "passkey_position": 3}\n')


@pytest.fixture
def no_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(self: Target) -> Any:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(Target, "load", load)


def result(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    return captured.err


def test_suggest_is_the_librarys(capsys: pytest.CaptureFixture[str]) -> None:
    found = result(capsys, "suggest", "-L", "4096", "-N", "16000")
    config = suggest(4096, 16000)
    assert (found["group_size"], found["neighbor_window"]) == (config.group_size, config.neighbor_window)
    assert found["reach"] >= 16000
    assert result(capsys, "suggest", "--model", str(folder()), "-N", "1000")["trained_window"] == WINDOW


def test_suggest_takes_bare_numbers_as_the_readme_writes_them(capsys: pytest.CaptureFixture[str]) -> None:
    wanted = result(capsys, "suggest", "-L", "4096", "-N", "16000")
    for asked in (("4096", "16000"), ("-L", "4096", "16000"), ("4096", "-N", "16000")):
        assert result(capsys, "suggest", *asked) == wanted
    assert result(capsys, "suggest", "--model", str(folder()), "1000")["trained_window"] == WINDOW
    for asked in (("4096",), ("4096", "16000", "3"), ("-L", "4096"), ()):
        assert "suggest 4096 16000" in complaint(capsys, "suggest", *asked)


def test_suggest_starts_from_what_a_model_recommends(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    shutil.copytree(folder(), tmp_path, dirs_exist_ok=True)
    (tmp_path / "selfextend.json").write_text('{"trained_window": 128, "neighbor_window": 16}')
    found = result(capsys, "suggest", "--model", str(tmp_path), "-N", "1000")
    assert (found["trained_window"], found["neighbor_window"]) == (128, 16)
    rows = result(capsys, "perplexity", "-m", str(tmp_path), "-N", "512", "--methods", "recommended")["ends"]
    assert rows["SelfExtend"]["settings"]["neighbor_window"] == 16


def test_map_alone_draws_the_papers_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert result(capsys, "map") == result(capsys, "map", "-L", "7", "-G", "2", "-w", "4", "-N", "10")
    found = result(capsys, "map", "-L", "64", "-N", "256")
    config = suggest(64, 256)
    assert (found["group_size"], found["neighbor_window"]) == (config.group_size, config.neighbor_window)
    assert result(capsys, "map", "-L", "64")["length"] == 128
    assert "--trained-window" in complaint(capsys, "map", "-N", "100")
    assert result(capsys, "map", "--method", "rerope")["relative"][9] == [4, 4, 4, 4, 4, 4, 3, 2, 1, 0]


def test_all_methods_are_all_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    found = result(capsys, "perplexity", *MODEL, "-N", "2x", "--methods", "all")
    assert list(found["curves"]) == [method_named(name).label for name in METHOD_NAMES]
    assert "ReRoPE" in found["curves"]


def test_map_prints_the_papers_rows(capsys: pytest.CaptureFixture[str]) -> None:
    found = result(capsys, "map", "-L", "7", "-G", "2", "-w", "4", "-N", "10")
    assert found["relative"][9] == [6, 6, 5, 5, 4, 4, 3, 2, 1, 0]
    assert found["relative"][4][:5] == [4, 3, 2, 1, 0]
    assert main(["map", "-L", "7", "-G", "2", "-w", "4", "-N", "10"]) == 0
    assert "9  6  6  5  5  4  4  3  2  1  0" in capsys.readouterr().out


def test_doctor_tells_what_is_here(capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    found = result(capsys, "doctor")
    assert found["torch"] == torch.__version__
    assert set(found["quantization"]) == {"int8", "nf4"}
    assert main(["doctor"]) == 0
    assert "bundled model" in capsys.readouterr().out


def test_passkey_reports_each_cell_and_keeps_a_record(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    asked = ("passkey", *MODEL, "--lengths", "2x,3x", "--depths", "0,1", "-n", "2", "--out", str(path))
    found = result(capsys, *asked)
    assert {(cell["label"], cell["length"], cell["depth"]) for cell in found["cells"]} == {
        (label, length, depth) for label in ("Vanilla", "SelfExtend") for length in (512, 768) for depth in (0.0, 1.0)
    }
    assert all(
        0 <= cell["low"] <= cell["accuracy"] <= cell["high"] <= 1 and cell["trials"] == 2 for cell in found["cells"]
    )
    assert read_run(path).header["seed"] == 0
    shown = result(capsys, "runs", str(path))["runs"][0]
    assert shown["cells"] == found["cells"]
    # Gone on with when nothing is missing, it computes nothing and says the same.
    assert result(capsys, *asked, "--resume")["cells"] == found["cells"]
    picture = tmp_path / "run.svg"
    assert main(["runs", str(path), "--figure", str(picture)]) == 0
    assert found["title"] in picture.read_text()
    rows = tmp_path / "rows.csv"
    assert main(["runs", str(path), str(path), "--csv", str(rows)]) == 0
    assert len(rows.read_text().splitlines()) == 1 + 2 * 16


def test_a_longlm_test_set_runs_and_reports_each_row(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    line = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.\n"
    path = tmp_path / "examples.jsonl"
    path.write_text(
        "".join(
            json.dumps({"input": line * n + f"The pass key is {key}.\n", "target": key, "passkey_position": 9}) + "\n"
            for n, key in ((6, "12345"), (9, "678"))
        )
    )
    rows = result(capsys, "passkey", *MODEL, "--file", str(path))["rows"]
    assert [(row["method"], row["expected"], row["passkey_position"]) for row in rows] == [
        (method, [key], 9) for method in ("vanilla", "selfextend") for key in ("12345", "678")
    ]
    assert rows[0]["settings"] == {}
    assert rows[2]["settings"]["group_size"] == suggest(WINDOW, rows[2]["length"]).group_size > 1


def test_perplexity_gives_a_curve_for_each_method(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    picture = tmp_path / "curves.svg"
    found = result(
        capsys, "perplexity", *MODEL, "--methods", "vanilla,window,yarn", "-N", "3x", "--bin-tokens", "300",
        "--figure", str(picture),
    )  # fmt: skip
    assert all(f">{label}" in picture.read_text() for label in found["curves"])
    assert found["ends"]["YaRN"]["settings"] == {"rope_type": "yarn", "factor": 3.0}
    for part in ("n = 1 text (generated prose)", "seed 0", str(WINDOW)):
        assert part in found["title"]
    assert set(found["curves"]) == {"Vanilla", "Sliding window", "YaRN"}
    for curve in found["curves"].values():
        assert curve["start"] == [1, 301, 601]
        assert all(value > 1 for value in curve["perplexity"])


def test_needle_key_value_and_short_context_run(capsys: pytest.CaptureFixture[str]) -> None:
    for asked in (("needle", "--variant", "tracking"), ("key-value",)):
        found = result(capsys, *asked, *MODEL, "--lengths", "6x", "--depths", "1")
        assert [cell["trials"] for cell in found["cells"]] == [1, 1]
    own = ("--sentence", "The cake is in the shed.", "--question", "Where is the cake?", "--answer", "the shed")
    assert (
        result(capsys, "needle", *MODEL, *own, "--lengths", "2x", "--depths", "1")["settings"]["answer"] == "the shed"
    )


def test_sweep_recommends(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("sweep", *MODEL, "-N", "2x", "-G", "2,5,8", "-w", "32,64", "--depths", "1", "--scaling", "both")
    found = result(capsys, *asked)
    assert found["left_out"] == [
        f"SelfExtend{scaling} (G=2, w={w})" for scaling in ("", " with log-n") for w in (32, 64)
    ]
    assert len(found["methods"]) == 8
    assert found["recommendation"]["label"] in found["methods"]
    assert found["recommendation"]["reason"]


def test_commands_take_a_gguf_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    llama_gguf(tmp_path / "tiny.gguf", Kind.Q8_0)
    model = ("--model", str(tmp_path / "tiny.gguf"))
    assert result(capsys, "suggest", *model, "-N", "1000")["trained_window"] == TRAINED_WINDOW
    cells = result(capsys, "passkey", *model, "--lengths", "2x", "--depths", "0.5", "-n", "1")["cells"]
    assert {cell["length"] for cell in cells} == {2 * TRAINED_WINDOW}
    assert result(capsys, "ask", "Why?", *model, "--max-new-tokens", "2")["new_tokens"] <= 2


def test_ask_takes_the_longest_answer_that_suits_the_model(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    llama_gguf(tmp_path / "chats.gguf")
    monkeypatch.setattr("selfextend.profile.LONGEST_CHAT_ANSWER", 3)
    asked = ("ask", "Why?", "--model", str(tmp_path / "chats.gguf"))
    assert result(capsys, *asked)["new_tokens"] <= 3
    assert complaint(capsys, *asked, "-G", "2", "--max-new-tokens", "5000")  # a number stays what it is


def test_ask_and_compare_answer(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Nothing much happens here. " * 30)
    asked = ("What happens?", *MODEL, "--text", str(text), "--max-new-tokens", "4")
    found = result(capsys, "ask", *asked)
    assert found["prompt_tokens"] > WINDOW
    assert found["group_size"] > 1
    assert result(capsys, "ask", *asked, "--vanilla")["group_size"] is None
    assert result(capsys, "ask", "Why?", *MODEL, "--max-new-tokens", "2")["group_size"] is None  # it fits the window
    assert main(["ask", *asked]) == 0
    assert capsys.readouterr().out.strip() == found["answer"].strip()
    rows = result(capsys, "compare", *asked, "--methods", "vanilla,selfextend,window", "--expect", "nothing")["rows"]
    assert [row["method"] for row in rows] == ["vanilla", "selfextend", "window"]
    assert rows[1]["answer"] == found["answer"]
    assert all(row["log_probability"] < 0 for row in rows)


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_ask_takes_any_method(capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Nothing much happens here. " * 30)
    asked = ("ask", "What happens?", *MODEL, "--text", str(text), "--max-new-tokens", "4", "--method", name, "-w", "16")
    found = result(capsys, *asked)
    method = method_from(found["method"], found["settings"])
    assert method.name == name
    assert found["settings"].get("neighbor_window", 16) == 16
    assert main([*asked]) == 0
    told = capsys.readouterr().err
    assert ("the untouched model" if name == "vanilla" else method.heading) in told
    assert method.setting in told


def test_ask_refuses_a_method_that_there_is_not_and_two_ways_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in (("--method", "magic"), ("--method", "rerope", "--vanilla")):
        with pytest.raises(SystemExit):
            main(["ask", "Why?", *MODEL, *wrong])
        assert wrong[1 if wrong[1] == "magic" else 0] in capsys.readouterr().err


@pytest.mark.usefixtures("no_loading")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("passkey", "-G", "2", "--lengths", "8x"), "past the reach"),
        (("perplexity", "-G", "2", "-N", "8x"), "past the reach"),
        (("passkey", "--trials", "0"), "trials"),
        (("passkey", "--depths", "0,1.5"), "0 … 1"),
        (("passkey", "--depths", "0"), "at least 1"),
        (("passkey", "--depths", "deep"), "no depths"),
        (("passkey", "--lengths", "long"), "no length"),
        (("passkey", "--lengths", "1"), "at least 2"),
        (("passkey", "--lengths", "100"), "by itself"),
        (("passkey", "--digits", "0"), "digits"),
        (("passkey", "--methods", "alibi"), "alibi"),
        (("passkey", "--methods", ""), "at least one method"),
        (("passkey", "-w", "300", "-G", "4"), "smaller than the trained window"),
        (("passkey", "--file", "missing.jsonl"), "cannot be read"),
        (("passkey", "--resume"), "--out"),
        (("passkey", "--figure", "grid.png"), "ends in .svg"),
        (("passkey", "--figure", "/nowhere/grid.svg"), "no folder"),
        (("passkey", "--out", "/nowhere/at/all.jsonl"), "no folder"),
        (("passkey", "--ray", "127.0.0.1:1", "--lengths", "2x"), "Nothing answers"),
        (("passkey", "--file", str(SET), "--ray", "local"), "leave --ray out"),
        (("passkey", "--file", str(SET), "--figure", "grid.svg"), "leave --figure out"),
        (("eval", "--tasks", "no_such_task"), "knows no task"),
        (("eval", "--tasks", ""), "at least one task"),
        (("needle", "--variant", "several"), "variant"),
        (("needle", "--sentence", "Alone."), "all three"),
        (("needle", "--text", "missing.pdf"), "cannot be read"),
        (("perplexity", "--text", str(ROOT / "LICENSE"), "-N", "100000"), "fewer than"),
        (("perplexity", "-N", "2x,4x"), "one length"),
        (("sweep", "--probe", "nonsense"), "no probe"),
        (("sweep", "-G", "two"), "whole numbers"),
        (("sweep", "-G", "2", "-N", "64x"), "None of these"),
        (("sweep", "--scaling", "some"), "--scaling"),
        (("short-context", "--for-length", "1x"), "nothing would be grouped"),
        (("ask", " "), "question is empty"),
        (("ask", "Why?", "--max-new-tokens", "0"), "at least 1"),
        (("ask", "Why?", "-G", "2", "--max-new-tokens", "5000"), "past the reach"),
        (("compare", "Why?", "--text", "missing.txt"), "cannot be read"),
    ],
)
def test_what_is_wrong_is_said_before_a_model_is_loaded(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    assert words in complaint(capsys, *arguments, *MODEL)


@pytest.mark.usefixtures("no_loading")
def test_a_cluster_that_turns_out_not_to_be_there_is_said_before_a_model_is_loaded(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    def init(**_: Any) -> None:
        raise ConnectionError("Could not find any running Ray instance.")

    # Another test's cluster may be running on this machine, and "auto" would find it.
    monkeypatch.setattr(ray, "init", init)
    assert "There is no Ray cluster at auto" in complaint(
        capsys, "passkey", *MODEL, "--ray", "auto", "--lengths", "2x", "--depths", "1"
    )


@pytest.mark.usefixtures("no_loading")
def test_a_needle_longer_than_its_text_and_foreign_records_are_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    short = tmp_path / "short.txt"
    short.write_text("Short.")
    own = ("--sentence", "A very long sentence indeed.", "--question", "What?", "--answer", "long")
    assert "longer than the text" in complaint(capsys, "needle", *MODEL, "--text", str(short), *own)
    foreign = tmp_path / "foreign.jsonl"
    foreign.write_text('{"a": 1}\n')
    assert "no record" in complaint(capsys, "passkey", *MODEL, "--out", str(foreign), "--resume")
    assert "there already" in complaint(capsys, "passkey", *MODEL, "--out", str(foreign))
    assert "no record" in complaint(capsys, "runs", str(foreign))
    assert foreign.read_text() == '{"a": 1}\n'


def test_a_model_that_is_not_there_is_said_plainly(capsys: pytest.CaptureFixture[str]) -> None:
    assert "no folder" in complaint(capsys, "passkey", "-m", "./nowhere")
    assert "either --trained-window or --model" in complaint(capsys, "suggest", "-N", "100")


def test_settings_alone_need_neither_torch_nor_transformers() -> None:
    code = (
        "import sys; from selfextend.cli import main; main(['suggest', '-L', '512', '-N', '4096']); "
        "assert not {'torch', 'transformers', 'gradio', 'plotly'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "group size" in done.stdout


def test_every_command_has_what_runs_it_and_help_imports_nothing_of_it() -> None:
    code = (
        "import sys; from selfextend.commands.parser import make_parser; make_parser().format_help(); "
        "print(*(name for name in sys.modules if name.startswith('selfextend.') or name in ('torch', 'numpy')))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {"torch", "numpy", "selfextend.lab"}.isdisjoint(done.stdout.split())
    (commands,) = (action.choices for action in make_parser()._actions if isinstance(action.choices, dict))
    assert "app" in commands  # tests/browser/test_installed.py runs it
    for command in (parser for name, parser in commands.items() if name != "app"):
        for name in (command.get_default("run"), command.get_default("show")):
            module, function = name.split(".")
            assert callable(getattr(import_module(f"selfextend.commands.{module}"), function))
