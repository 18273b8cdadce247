"""Damages good files in every way that a seed thinks of, and reads what comes out.

    python -m tests.fuzz_documents            # 321 mutants
    python -m tests.fuzz_documents --count 30 --first 1000

A mutant is either read or refused in a sentence that begins with its name; nothing else may happen, and no child
process may be left. Mutant k is the same on every run.
"""

from __future__ import annotations

import argparse
import io
import random
import re
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil

from app.documents.document import DocumentError, Limits
from app.documents.reader import page_sizes, page_views, read_document_steps
from selfextend.steps import result_of
from tests.make_documents import make, text_file

MUTANTS = 321
BASES = ("good.pdf", "two-columns.pdf", "form.pdf", "partly-scanned.pdf", "unmapped.pdf", "good.docx", "good.txt")
LIMITS = Limits(seconds=30, memory_bytes=600_000_000, scanned_pages=0)
_HOSTILE = (b"-1", b"0", b"2147483648", b"99999999999999999999", b"1e999", b"%n%s", b"<<>>", b"[[[[[[[[", b"\0\0\0\0")


def base_files(folder: Path) -> list[Path]:
    """The good files that mutants are made of."""
    japanese = text_file(folder / "japanese.txt")
    japanese.write_bytes(("灯台守は毎晩、長い帳簿にランプの数を書いた。\n" * 60).encode("shift_jis"))
    return [*make(folder, *BASES), japanese]


def mutant(bases: Sequence[Path], number: int) -> tuple[str, bytes]:
    """The name and the bytes of mutant `number`: one to four damages to one of the files."""
    seeded = random.Random(number)
    base = bases[number % len(bases)]
    data = base.read_bytes()
    damages: list[Callable[[bytes, random.Random], bytes]] = [_flipped, _cut, _doubled, _blanked, _retold, _shortened]
    inside_zip = base.suffix == ".docx" and seeded.random() < 0.7
    for _ in range(seeded.randint(1, 4)):
        damage = seeded.choice(damages)
        data = _in_archive(data, damage, seeded) if inside_zip else damage(data, seeded)
    return f"mutant-{number}{base.suffix}", data


def _place(data: bytes, seeded: random.Random) -> tuple[int, int]:
    start = seeded.randrange(max(len(data), 1))
    return start, min(start + int(2 ** seeded.uniform(0, 12)), len(data))


def _flipped(data: bytes, seeded: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(seeded.choice((1, 3, 30, 300))):
        if changed:
            changed[seeded.randrange(len(changed))] = seeded.randrange(256)
    return bytes(changed)


def _cut(data: bytes, seeded: random.Random) -> bytes:
    start, end = _place(data, seeded)
    return data[:start] + data[end:]


def _doubled(data: bytes, seeded: random.Random) -> bytes:
    start, end = _place(data, seeded)
    return data[:end] + data[start:end] * seeded.choice((1, 5, 50)) + data[end:]


def _blanked(data: bytes, seeded: random.Random) -> bytes:
    start, end = _place(data, seeded)
    return data[:start] + seeded.choice((b"\0", b" ", b"\xff", b"(")) * (end - start) + data[end:]


def _retold(data: bytes, seeded: random.Random) -> bytes:
    """Some of the file's numbers, which say where and how long things are, become others."""
    share = seeded.choice((0.005, 0.05, 0.3))
    return re.sub(rb"\d+", lambda found: seeded.choice(_HOSTILE) if seeded.random() < share else found[0], data)


def _shortened(data: bytes, seeded: random.Random) -> bytes:
    """Cut off, with the end mark put back, so that PDFium has to rebuild it."""
    return data[: seeded.randrange(max(len(data), 1))] + (b"\n%%EOF\n" if data.startswith(b"%PDF") else b"")


def _in_archive(data: bytes, damage: Callable[[bytes, random.Random], bytes], seeded: random.Random) -> bytes:
    """A Word file with one of its parts damaged, packed anew."""
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        names = old.namelist()
        victim = "word/document.xml" if seeded.random() < 0.6 else seeded.choice(names)
        for name in names:
            part = old.read(name)
            new.writestr(name, damage(part, seeded) if name == victim else part)
    return packed.getvalue()


def outcome(path: Path) -> str:
    """Either "read" or "refused".

    Raises:
        AssertionError: neither, or what was read does not hang together, or a child process is left.
    """
    refusal = None
    try:
        _read_and_look(path)
    except DocumentError as error:
        refusal = str(error)
    left = [child for child in psutil.Process().children() if "app.documents.worker" in " ".join(child.cmdline())]
    assert not left, left
    if refusal is None:
        return "read"
    assert refusal.startswith(path.name), refusal
    assert refusal.endswith((".", ")")), refusal
    return "refused"


def _read_and_look(path: Path) -> None:
    read = result_of(read_document_steps(path, LIMITS, path.name))
    assert [page.number for page in read.pages] == list(range(1, len(read.pages) + 1))
    assert all((page.text == "") == (page.unreadable is not None) for page in read.pages)
    read.text.encode()
    if read.kind == "pdf":
        assert len(page_sizes(path)) == len(read.pages)
        for view in page_views(path, [1, len(read.pages)], 100):
            text = read.pages[view.number - 1].text
            assert all(0 <= word.start < word.end <= len(text) for word in view.words)


def outcomes(folder: Path, numbers: Sequence[int]) -> Iterator[tuple[int, str, float]]:
    """Number, outcome and seconds of each mutant."""
    bases = base_files(folder)
    for number in numbers:
        name, data = mutant(bases, number)
        path = folder / name
        path.write_bytes(data)
        began = time.perf_counter()
        yield number, outcome(path), time.perf_counter() - began
        path.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=MUTANTS)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    seen: Counter[str] = Counter()
    slowest = (0.0, 0)
    with tempfile.TemporaryDirectory() as folder:
        for number, what, seconds in outcomes(Path(folder), range(options.first, options.first + options.count)):
            seen[what] += 1
            slowest = max(slowest, (seconds, number))
    print(f"{sum(seen.values())} mutants: {seen['read']} read, {seen['refused']} refused, nothing else")
    print(f"slowest: mutant {slowest[1]}, {slowest[0]:.1f} s")


if __name__ == "__main__":
    main()
