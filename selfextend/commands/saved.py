"""`runs`: saved runs, one or several."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from selfextend.commands.files import check_figure
from selfextend.commands.report import report, show_report
from selfextend.lab.errors import LabError
from selfextend.lab.records import as_csv, read_run
from selfextend.lab.svg import as_svg


def run_runs(arguments: argparse.Namespace) -> dict[str, Any]:
    runs = [read_run(path) for path in arguments.files]
    if arguments.figure is not None:
        if len(runs) > 1:
            raise LabError("--figure draws one run: name one file.")
        check_figure(arguments.figure)
        arguments.figure.write_text(as_svg(runs[0]), encoding="utf-8")
    if arguments.csv is not None:
        table = as_csv(runs, [path.name for path in arguments.files])
        arguments.csv.write_text(table, encoding="utf-8", newline="")
    return {"runs": [{"file": str(path), **report(run)} for path, run in zip(arguments.files, runs, strict=True)]}


def show_runs(result: dict[str, Any]) -> None:
    for run in result["runs"]:
        print(f"== {run['file']}", file=sys.stderr)
        show_report(run)
