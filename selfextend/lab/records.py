"""Runs as plain rows: one JSON lines file a run, whose first line says what was run on which model.

A file is written while the run goes on and can be resumed after a crash: cells are written atomically.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selfextend.lab.errors import RecordError

KIND = "selfextend-lab-run"
FORMAT = 1

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
        """Model, seed and number of trials, as every figure states them. Of a path only its end: figures are shared."""
        model = self.header["model"]
        name = Path(model["name"]).name if Path(model["name"]).is_absolute() else model["name"]
        size = f"{model['parameters'] / 1e6:,.1f} M parameters"
        facts = f"{size}, trained window {model['trained_window']:,}, {model['dtype']}"
        parts = [self.probe, f"{name} ({facts})"]
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
    """What two runs must have in common for one to resume the other."""
    model = {key: header["model"].get(key) for key in ("name", "architecture", "parameters", "trained_window", "dtype")}
    # Runs that are no sweep used to say so when they were started in the app, and not on the command line.
    settings = {key: value for key, value in header["settings"].items() if (key, value) != ("sweep", False)}
    return {"probe": header["probe"], "model": model, "settings": settings, "seed": header["seed"]}


def file_name(header: dict[str, Any]) -> str:
    """A name for a run's file: the same for every run that could resume it."""
    told = json.dumps(identity(header), sort_keys=True).encode()
    return f"{header['probe']}-{hashlib.sha256(told).hexdigest()[:12]}.jsonl"


def as_csv(runs: Sequence[Run], files: Sequence[str] = ()) -> str:
    """All rows of some runs as a table, with the model and the seed in every row.

    Args:
        files: the runs' names, for a first column.
    """
    names = [{"file": file} for file in files] or [{} for _ in runs]
    rows = [
        {**name, "model": run.header["model"]["name"], "seed": run.header["seed"], **row}
        for name, run in zip(names, runs, strict=True)
        for row in run.rows
    ]
    table = io.StringIO()
    columns = list(dict.fromkeys(key for row in rows for key in row))
    csv.writer(table).writerows([map(harmless, columns), *(map(harmless, map(row.get, columns)) for row in rows)])
    return table.getvalue()


def harmless(value: Any) -> Any:
    """A value of a table that spreadsheets are to open: no text is one that they take for a formula. Numbers stay."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


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


def read_run(path: Path) -> Run:
    """Open a saved run. A last line that was cut off by a crash is left out.

    Raises:
        RecordError: it cannot be read, was not written by this program, or has a newer format.
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
    """Cells with all their rows; each row says how many its cell has."""
    rows = list(rows)
    counts = Counter(cell_key(row) for row in rows)
    wanted = {cell_key(row): row["cell_rows"] for row in rows}
    return {key for key, count in counts.items() if count == wanted[key]}


class RunFile:
    """A record file that is being written, cell by cell."""

    def __init__(self, path: Path, header: dict[str, Any], *, resume: bool = False) -> None:
        """Start a record file, or resume one.

        Args:
            resume: whether `path` may exist already.

        Raises:
            RecordError: it exists and is not to be resumed, was not written by this program, or belongs to another run.
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
        self._rewrite()  # without a line that was cut off

    def complete_cells(self) -> set[CellKey]:
        """Cells with all their rows. The rows of other cells are removed."""
        whole = complete_cells(self.run.rows)
        kept = [row for row in self.run.rows if cell_key(row) in whole]
        if len(kept) < len(self.run.rows):
            self.run.rows = kept
            self._rewrite()
        return whole

    def add(self, rows: Iterable[Row]) -> None:
        """Write one cell's rows; they are on the disk when this returns."""
        new = list(rows)
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(f"{_dump(row)}\n" for row in new))
            file.flush()
            os.fsync(file.fileno())
        self.run.rows += new

    def _rewrite(self) -> None:
        """Replace the file by header and rows, in one step."""
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
