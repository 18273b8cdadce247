"""Whether the files that a command is to write can be written."""

from __future__ import annotations

import argparse
from pathlib import Path

from selfextend.lab.errors import LabError, RecordError
from selfextend.lab.records import read_run


def check_files(arguments: argparse.Namespace) -> None:
    """Refuse a record or a picture that cannot be written."""
    out: Path | None = arguments.out
    if out is None:
        if arguments.resume:
            raise RecordError("--resume needs --out: the file of the run to go on with.")
    elif out.exists():
        if not arguments.resume:
            raise RecordError(f"{out} is there already. Go on with it (--resume), or name another file.")
        read_run(out)
    elif not out.parent.is_dir():
        raise RecordError(f"There is no folder {out.parent} to write {out.name} to.")
    if arguments.figure is not None:
        check_figure(arguments.figure)


def check_figure(path: Path) -> None:
    """Refuse a picture's file of another format, or in a folder that does not exist."""
    if path.suffix.lower() != ".svg":
        raise LabError(f"Pictures are SVG: give --figure a name that ends in .svg, not {path.name!r}.")
    if not path.parent.is_dir():
        raise LabError(f"There is no folder {path.parent} to draw {path.name} into.")
