"""The benchmark on a real model: what its command line asks for."""

from pathlib import Path

import pytest

from benchmarks.real_model import FOLDER, PARTS, read_options


def test_without_arguments_everything_is_measured() -> None:
    options = read_options([])
    assert options.parts == list(PARTS)
    assert (options.folder, options.pdf) == (FOLDER, None)


def test_some_of_it() -> None:
    options = read_options(["loss", "speed", "--folder", "elsewhere"])
    assert (options.parts, options.folder) == (["loss", "speed"], Path("elsewhere"))


def test_a_part_that_there_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read_options(["losses"])
    assert "losses" in capsys.readouterr().err
