"""Record files: whole cells or none, gone on with after a crash, and foreign ones refused."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from selfextend.lab.errors import RecordError
from selfextend.lab.records import Run, RunFile, as_csv, cell_key, file_name, header, read_run

MODEL = {"name": "m", "architecture": "A", "parameters": 10, "trained_window": 256, "dtype": "float32", "device": "cpu"}


def first(**changes: Any) -> dict[str, Any]:
    arguments = {"probe": "passkey", "model": MODEL, "versions": {}, "settings": {"trials": 2}, "seed": 0}
    return header(**(arguments | changes), started="2026-01-01T00:00:00+00:00")


def cell(depth: float, trials: int = 2) -> list[dict[str, Any]]:
    return [
        {
            "probe": "passkey", "method": "vanilla", "label": "Vanilla", "settings": {}, "length": 512, "depth": depth,
            "cell_rows": trials, "trial": trial, "score": 1.0, "seconds": 0.5 + depth, "peak_bytes": 7,
        }
        for trial in range(trials)
    ]  # fmt: skip


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    file = RunFile(path, first())
    file.add(cell(0.0))
    file.add(cell(0.5))
    assert read_run(path) == Run(first(), [*cell(0.0), *cell(0.5)]) == file.run
    assert len(path.read_text().splitlines()) == 5


@pytest.mark.parametrize("cut", [1, 40, 200])
def test_after_a_crash_only_whole_cells_count(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "run.jsonl"
    file = RunFile(path, first())
    file.add(cell(0.0))
    file.add(cell(0.5))
    path.write_bytes(path.read_bytes()[:-cut])
    again = RunFile(path, first(), resume=True)
    assert again.complete_cells() == {cell_key(cell(0.0)[0])}
    again.add(cell(0.5))
    assert read_run(path).rows == [*cell(0.0), *cell(0.5)]


def test_a_file_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    path.write_text("something precious")
    with pytest.raises(RecordError, match="--resume"):
        RunFile(path, first())
    with pytest.raises(RecordError, match="no record"):
        RunFile(path, first(), resume=True)
    assert path.read_text() == "something precious"


@pytest.mark.parametrize(
    "changes", [{"seed": 1}, {"settings": {"trials": 3}}, {"probe": "needle-single"}, {"model": MODEL | {"name": "n"}}]
)
def test_another_runs_file_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = tmp_path / "run.jsonl"
    RunFile(path, first())
    with pytest.raises(RecordError, match="another run"):
        RunFile(path, first(**changes), resume=True)


def test_a_run_that_said_that_it_is_no_sweep_is_resumed_by_one_that_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    RunFile(path, first(settings={"trials": 2, "sweep": False})).add(cell(0.0))
    assert RunFile(path, first(), resume=True).complete_cells() == {cell_key(cell(0.0)[0])}
    with pytest.raises(RecordError, match="another run"):
        RunFile(path, first(settings={"trials": 2, "sweep": True}), resume=True)
    assert file_name(first()) == file_name(first(settings={"trials": 2, "sweep": False}))
    assert file_name(first()) != file_name(first(settings={"trials": 2, "sweep": True}))


def test_a_table_names_the_run_in_every_row() -> None:
    run = Run(first(), cell(0.0))
    rows = list(csv.DictReader(io.StringIO(as_csv([run, run], ["a", "b"]))))
    assert [(row["file"], row["model"], row["trial"]) for row in rows] == [
        ("a", "m", "0"), ("a", "m", "1"), ("b", "m", "0"), ("b", "m", "1"),
    ]  # fmt: skip
    assert "file" not in as_csv([run]).splitlines()[0]


def test_no_text_of_a_table_is_a_formula_and_numbers_stay_numbers() -> None:
    texts = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "fine"]
    rows = [{**cell(0.0)[0], "answer": text, "score": -0.5, "=1": 1} for text in texts]
    table = as_csv([Run(first(), rows)], ["=run.jsonl"])
    read = list(csv.DictReader(io.StringIO(table, newline="")))
    assert [row["answer"] for row in read] == [*(f"'{text}" for text in texts[:-1]), "fine"]
    assert {(row["score"], row["file"], row["'=1"]) for row in read} == {("-0.5", "'=run.jsonl", "1")}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "no record"),
        ("not json\n", "no record"),
        ('{"kind": "something else"}\n', "no record"),
        ("[]\n", "no record"),
        (json.dumps(first() | {"format": 99}) + "\n", "form 99"),
        (json.dumps(first() | {"model": None}) + "\n", "damaged"),
        (json.dumps(first()) + "\nnonsense\n", "line 2"),
        (json.dumps(first()) + '\n{"method": "vanilla"}\n', "line 2"),
    ],
)
def test_unreadable_and_foreign_files_are_refused(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "run.jsonl"
    path.write_text(content)
    with pytest.raises(RecordError, match=words):
        read_run(path)
    with pytest.raises(RecordError, match="cannot be read"):
        read_run(tmp_path / "missing.jsonl")


def test_a_title_states_model_trials_and_seed() -> None:
    title = Run(first()).title()
    for part in ("passkey", "m (", "256", "float32", "n = 2", "seed 0"):
        assert part in title


@pytest.mark.parametrize(
    ("name", "told"), [("/home/ada/models/tiny-Q8_0.gguf", " tiny-Q8_0.gguf ("), ("owner/name", " owner/name (")]
)
def test_a_title_keeps_the_folders_of_a_machine_to_itself(name: str, told: str) -> None:
    assert told in Run(first(model={**MODEL, "name": name})).title()
