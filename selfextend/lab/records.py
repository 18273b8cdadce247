"""Runs as plain rows: a JSON lines file, one a run, its first line saying what was run on what.

A file is written while the run goes on, one cell's rows at a time, and can be gone on with after a crash: a cell is
there whole or not at all. Knows nothing about models.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selfextend.lab.errors import RecordError

KIND = "selfextend-lab-run"
FORMAT = 1
MEASURED = ("seconds", "peak_bytes")
"""Fields of a row that are measured and so differ from run to run; all others are the same."""

Row = dict[str, Any]
CellKey = tuple[str, ...]


@dataclass
class Run:
    """A run's header and rows.

    Attributes:
        header: `probe`, `model`, `versions`, `settings`, `seed`, `started`: see `header`.
        rows: one a case, or one a bin of a perplexity curve.
    """

    header: dict[str, Any]
    rows: list[Row] = field(default_factory=list)

    @property
    def probe(self) -> str:
        return str(self.header["probe"])

    def title(self) -> str:
        """Model, seed and number of trials: what every figure states beside each method's settings."""
        model = self.header["model"]
        size = f"{model['parameters'] / 1e6:,.1f} M parameters"
        parts = [
            self.probe,
            f"{model['name']} ({size}, trained window {model['trained_window']:,}, {model['dtype']})",
        ]
        settings = self.header["settings"]
        if settings.get("trials"):
            parts.append(f"n = {settings['trials']} per cell")
        elif "text" in settings:
            parts.append(f"n = 1 text ({settings['text']})")
        elif "cases" in settings:
            parts.append(f"n = {settings['cases']} cases of {settings['file']}")
        parts.append(f"seed {self.header['seed']}")
        return " · ".join(parts)


def header(
    probe: str, model: dict[str, Any], versions: dict[str, str], settings: dict[str, Any], seed: int, started: str
) -> dict[str, Any]:
    """The first line of a record file."""
    return {
        "kind": KIND,
        "format": FORMAT,
        "probe": probe,
        "model": model,
        "versions": versions,
        "settings": settings,
        "seed": seed,
        "started": started,
    }


def identity(header: dict[str, Any]) -> dict[str, Any]:
    """What must be the same for one run to go on with another's rows."""
    model = {key: header["model"].get(key) for key in ("name", "architecture", "parameters", "trained_window", "dtype")}
    return {"probe": header["probe"], "model": model, "settings": header["settings"], "seed": header["seed"]}


def cell_key(row: Row) -> CellKey:
    """Which cell a row belongs to: probe, method, its settings, length, depth, and the case of a test set."""
    return (
        str(row["probe"]),
        str(row["method"]),
        json.dumps(row.get("settings", {}), sort_keys=True),
        str(row.get("length")),
        str(row.get("depth")),
        str(row.get("case")),
    )


def comparable(rows: Iterable[Row]) -> list[Row]:
    """Rows without what was measured, in a fixed order."""
    kept = [{key: value for key, value in row.items() if key not in MEASURED} for row in rows]
    return sorted(kept, key=lambda row: json.dumps(row, sort_keys=True))


def read_run(path: Path) -> Run:
    """Open a saved run. A last line that was cut off by a crash is left out.

    Raises:
        RecordError: it cannot be read, is none of ours, or of a newer form.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"{path} cannot be read as a record: {error}.") from None
    complete = text[: text.rfind("\n") + 1].splitlines()
    try:
        first = json.loads(complete[0]) if complete else None
    except ValueError:
        first = None
    if not isinstance(first, dict) or first.get("kind") != KIND:
        raise RecordError(f"{path} is no record of the lab: its first line does not say so.")
    if first.get("format") != FORMAT:
        raise RecordError(
            f"{path} has form {first.get('format')!r} of the records; this version reads form {FORMAT}. Use the "
            f"version of selfextend that wrote it ({first.get('versions', {}).get('selfextend', 'unknown')})."
        )
    if not all(isinstance(first.get(key), dict) for key in ("model", "settings")) or "probe" not in first:
        raise RecordError(f"{path} is a damaged record: its first line lacks the model or the settings.")
    rows = []
    for number, line in enumerate(complete[1:], start=2):
        try:
            row = json.loads(line)
        except ValueError:
            raise RecordError(f"{path} is damaged: line {number} is not JSON.") from None
        if not isinstance(row, dict) or not {"probe", "method", "label", "length", "cell_rows"} <= row.keys():
            raise RecordError(f"{path} is damaged: line {number} is no row.")
        rows.append(row)
    return Run(first, rows)


def complete_cells(rows: Iterable[Row]) -> set[CellKey]:
    """Cells of which all rows are there, as each row says how many its cell has."""
    rows = list(rows)
    counts = Counter(cell_key(row) for row in rows)
    wanted = {cell_key(row): row["cell_rows"] for row in rows}
    return {key for key, count in counts.items() if count == wanted[key]}


class RunFile:
    """A record file that is being written, one whole cell at a time."""

    def __init__(self, path: Path, header: dict[str, Any], *, resume: bool = False) -> None:
        """Start a record file, or go on with one.

        Args:
            resume: go on with `path` if it is there; else it must not be.

        Raises:
            RecordError: it is there and is not to be gone on with, is foreign, or belongs to another run.
        """
        self.path = path
        self.run = Run(header)
        if path.exists():
            if not resume:
                raise RecordError(f"{path} is there already. Go on with it (--resume), or name another file.")
            found = read_run(path)
            if identity(found.header) != identity(header):
                raise RecordError(f"{path} belongs to another run ({_difference(found.header, header)}). Name another.")
            self.run = found
        self._rewrite()  # a line that was cut off is gone after this

    def complete_cells(self) -> set[CellKey]:
        """Cells that are there whole; the rows of others are let go of."""
        whole = complete_cells(self.run.rows)
        kept = [row for row in self.run.rows if cell_key(row) in whole]
        if len(kept) < len(self.run.rows):
            self.run.rows = kept
            self._rewrite()
        return whole

    def add(self, rows: Iterable[Row]) -> None:
        """Keep one cell's rows: written in one go and on the disk when this returns."""
        new = list(rows)
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(f"{_dump(row)}\n" for row in new))
            file.flush()
            os.fsync(file.fileno())
        self.run.rows += new

    def _rewrite(self) -> None:
        """Header and whole rows, put in place in one step."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            fresh = self.path.with_name(f".{self.path.name}.new")
            fresh.write_text(
                "".join(f"{_dump(line)}\n" for line in (self.run.header, *self.run.rows)), encoding="utf-8"
            )
            fresh.replace(self.path)
        except OSError as error:
            raise RecordError(f"{self.path} cannot be written: {error}.") from None


def _dump(line: dict[str, Any]) -> str:
    return json.dumps(line, ensure_ascii=False, allow_nan=False)


def _difference(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    old, new = identity(found), identity(wanted)
    return "; ".join(
        f"{key}: {_dump({key: old[key]})[:120]} there, {_dump({key: new[key]})[:120]} now"
        for key in old
        if old[key] != new[key]
    )
