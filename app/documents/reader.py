"""Reads PDF, TXT, MD and DOCX files into pages of text, finds where a passage stands on a page, and draws it.

Every file is opened in a child process (`app.documents.worker`) with a time and a memory limit, so that a
hostile one cannot stop the app. Nothing is left out silently: a file that cannot be read whole is refused
with a sentence that says what to do, and pages without text are listed. Knows nothing about gradio, models or
prompts.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import psutil

Kind = Literal["pdf", "txt", "md", "docx"]

PAGE_SEPARATOR = "\n\n"
"""Stands between two pages in `Document.text`."""

_HEARTBEAT_SECONDS = 0.2
_KERNEL_LIMITS_MEMORY = sys.platform == "linux"
_ROOT = Path(__file__).resolve().parents[2]
_TEXT_SUFFIXES = {"", ".txt", ".text", ".md", ".markdown"}
_FOREIGN: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"GIF8", "a GIF picture"),
    (b"II*\0", "a TIFF picture"),
    (b"MM\0*", "a TIFF picture"),
    (b"{\\rtf", "a rich text (RTF) file"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Word file (.doc) or an Office file locked with a password"),
    (b"%!PS", "a PostScript file"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"\x7fELF", "a program"),
)


class DocumentError(ValueError):
    """A file that cannot be read; the message is a plain sentence that names it and says what to do."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one file may cost. A file beyond any of these is refused, never cut.

    `memory_bytes` bounds the child process: its address space on Linux (by the kernel), its resident memory
    elsewhere (watched every 0.2 s, since macOS does not enforce the limit and Windows has none).
    `seconds` is wall-clock time for one reading or one picture.
    """

    max_bytes: int = 200_000_000
    max_pages: int = 2000
    max_characters: int = 20_000_000
    seconds: float = 120.0
    memory_bytes: int = 1_500_000_000


@dataclass(frozen=True, slots=True)
class Page:
    """One page: `number` from 1, its text, and why it has none (`unreadable`), where it has none."""

    number: int
    text: str
    unreadable: str | None = None


@dataclass(frozen=True)
class Document:
    """A file's text. `sha256` is that of its bytes and serves as its id.

    `page_word` is "page" where the file has pages (PDF, form feeds, Word's page breaks) and "part" where they
    were cut here. `notes` are sentences about what the reader had to decide or leave out.
    """

    name: str
    sha256: str
    kind: Kind
    pages: tuple[Page, ...]
    page_word: Literal["page", "part"] = "page"
    notes: tuple[str, ...] = ()

    @cached_property
    def text(self) -> str:
        """All pages, joined with `PAGE_SEPARATOR`; a page without text stands there as an empty string."""
        return PAGE_SEPARATOR.join(page.text for page in self.pages)

    @cached_property
    def page_ranges(self) -> tuple[tuple[int, int], ...]:
        """(start, end) of each page in `text`, in the order of `pages`."""
        ranges = []
        start = 0
        for page in self.pages:
            ranges.append((start, start + len(page.text)))
            start += len(page.text) + len(PAGE_SEPARATOR)
        return tuple(ranges)

    @property
    def unreadable(self) -> tuple[Page, ...]:
        """The pages without text."""
        return tuple(page for page in self.pages if page.unreadable is not None)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a reading is. `total` is 0 until the file is open."""

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle on a page, in fractions of the page as it is shown: 0, 0 is its top left corner."""

    left: float
    top: float
    right: float
    bottom: float


def read_document(
    path: str | Path,
    limits: Limits | None = None,
    *,
    name: str | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Document:
    """Reads a file to its end. For a reading that can be stopped, iterate over `read_document_steps`.

    Args:
        path: the file; what it is is told from its content first and its name second.
        limits: what it may cost; the defaults of `Limits` where None.
        name: what to call it, where that differs from the file's own name.
        on_progress: called after every page.

    Raises:
        DocumentError: missing, empty, locked, scanned, cut off, damaged, misnamed, unsupported, past a limit.
    """
    for step in read_document_steps(path, limits, name=name):
        if isinstance(step, Document):
            return step
        if on_progress is not None:
            on_progress(step)
    raise AssertionError("the steps end with the document")


def read_document_steps(
    path: str | Path, limits: Limits | None = None, *, name: str | None = None
) -> Generator[Progress | Document, None, None]:
    """Reads a file step by step: a `Progress` for each page and at least every 0.2 s, then the `Document`.

    Closing the generator kills the reading process at once. Arguments and errors as for `read_document`.
    """
    limits = limits or Limits()
    path = Path(path)
    name = name or path.name
    kind = _sniff(path, name, limits)
    yield Progress(0, 0)
    sha256 = _sha256(path)
    pages: list[Page] = []
    notes: list[str] = []
    total = 0
    page_word: Literal["page", "part"] = "page"
    request = {
        "task": "read",
        "kind": kind,
        "max_pages": limits.max_pages,
        "max_characters": limits.max_characters,
    }
    with contextlib.closing(_messages(path, name, request, limits)) as messages:
        for message in messages:
            if "pages_total" in message:
                total = message["pages_total"]
                page_word = "part" if message.get("from_parts") else "page"
            elif "page" in message:
                pages.append(Page(**message["page"]))
            elif "notes" in message:
                notes += message["notes"]
            yield Progress(len(pages), total)
    if page_word == "part":
        notes.insert(0, "It has no pages of its own: it was cut into parts of at most 3,000 characters.")
    yield Document(name, sha256, kind, tuple(pages), page_word, tuple(notes))


def passage_boxes(
    path: str | Path, page: int, char_start: int, char_end: int, limits: Limits | None = None
) -> list[Box]:
    """Where characters `char_start` to `char_end` of a PDF page's text stand on it: one box for each line.

    Args:
        path: the PDF that the `Document` was read from.
        page: the page's number, from 1.
        char_start: first character in `Page.text`.
        char_end: the character after the last.

    Raises:
        DocumentError: no such page or characters, or no PDF: the other kinds have no page to point at.
    """
    path = Path(path)
    limits = limits or Limits()
    _require_pdf(path, limits)
    request = {"task": "boxes", "page": page, "start": char_start, "end": char_end}
    (message,) = _results(path, request, limits)
    return [Box(*box) for box in message["boxes"]]


def page_image(
    path: str | Path,
    page: int,
    boxes: Sequence[Box] = (),
    width: int = 1000,
    limits: Limits | None = None,
) -> bytes:
    """A PDF page as PNG, `width` pixels wide, with `boxes` marked as with a highlighter.

    A page so long that this would exceed 16 million pixels comes out narrower.

    Raises:
        DocumentError: no such page, or no PDF.
    """
    path = Path(path)
    limits = limits or Limits()
    _require_pdf(path, limits)
    rectangles = [(box.left, box.top, box.right, box.bottom) for box in boxes]
    request = {"task": "image", "page": page, "boxes": rectangles, "width": width}
    (message,) = _results(path, request, limits)
    return base64.b64decode(message["png"])


def _require_pdf(path: Path, limits: Limits) -> None:
    if _sniff(path, path.name, limits) != "pdf":
        raise DocumentError(f"{path.name} is not a PDF: there is no page to draw.")


def _results(path: Path, request: dict[str, Any], limits: Limits) -> list[dict[str, Any]]:
    """The worker's messages to their end, without the empty ones that only mark time."""
    with contextlib.closing(_messages(path, path.name, request, limits)) as messages:
        return [message for message in messages if message]


def _sniff(path: Path, name: str, limits: Limits) -> Kind:
    """What the file is, from its first bytes; its name decides only between kinds of text."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(4096)
    except FileNotFoundError:
        raise DocumentError(f"{name} is not there: choose the file again.") from None
    except OSError as error:
        raise DocumentError(f"{name} cannot be opened ({error.strerror}): choose another file.") from None
    if size == 0:
        raise DocumentError(f"{name} is empty (0 bytes). Download or copy it again.")
    if size > limits.max_bytes:
        raise DocumentError(
            f"{name} has {_megabytes(size)}, and the limit is {_megabytes(limits.max_bytes)}: "
            "split it into smaller files, or raise the limit."
        )
    suffix = Path(name).suffix.lower()
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith(b"%PDF-") or (suffix == ".pdf" and b"%PDF-" in head[:1024]):
        return "pdf"
    if head.startswith(b"PK\x03\x04"):
        return "docx"
    for magic, what in _FOREIGN:
        if head.startswith(magic):
            raise DocumentError(f"{name} is {what}, whatever its name says. Use a PDF, TXT, MD or DOCX file.")
    if suffix in (".pdf", ".docx"):
        is_web_page = start[:15].lower().startswith((b"<!doctype html", b"<html"))
        what = "a web page" if is_web_page else "something else"
        expected = "PDF" if suffix == ".pdf" else "Word document"
        raise DocumentError(f"{name} is no {expected}: it holds {what}. Download or save it again.")
    if suffix not in _TEXT_SUFFIXES:
        raise DocumentError(f"{name} is of a kind not read here ({suffix}). Use a PDF, TXT, MD or DOCX file.")
    return "md" if suffix in (".md", ".markdown") else "txt"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB" if size >= 1e6 else f"{size:,} bytes"


def _messages(path: Path, name: str, request: dict[str, Any], limits: Limits) -> Generator[dict[str, Any], None, None]:
    """Runs one request in a child process and yields its messages; an empty one where 0.2 s pass without any.

    The child is dead when this ends, however it ends.
    """
    deadline = time.monotonic() + limits.seconds
    memory_bytes = limits.memory_bytes if _KERNEL_LIMITS_MEMORY else None
    request |= {"path": str(path.resolve()), "seconds": limits.seconds, "memory_bytes": memory_bytes}
    with _child(request) as (child, lines):
        while True:
            try:
                line = lines.get(timeout=_HEARTBEAT_SECONDS)
            except queue.Empty:
                line = "{}"
            if time.monotonic() > deadline:
                raise DocumentError(
                    f"{name} took longer than {limits.seconds:,.0f} seconds to read and was stopped: "
                    "split it into smaller files, or raise the limit."
                )
            if line is None:
                raise DocumentError(_why_it_ended(name, child.wait(), limits))
            if not _KERNEL_LIMITS_MEMORY and _resident_bytes(child.pid) > limits.memory_bytes:
                raise DocumentError(_out_of_memory(name, limits))
            message = json.loads(line)
            if "done" in message:
                return
            if "refused" in message:
                raise DocumentError(f"{name} {message['refused']}")
            if "out_of_memory" in message:
                raise DocumentError(_out_of_memory(name, limits))
            yield message


@contextlib.contextmanager
def _child(
    request: dict[str, Any],
) -> Iterator[tuple[subprocess.Popen[str], queue.Queue[str | None]]]:
    """The worker process at work on a request, and the lines it writes; None after the last."""
    search_path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    child = subprocess.Popen(
        [sys.executable, "-m", "app.documents.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": search_path},
        encoding="utf-8",
        creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
    )
    assert child.stdin is not None
    assert child.stdout is not None
    # A few pages ahead at most: a file's text must not pile up here while the caller is busy.
    lines: queue.Queue[str | None] = queue.Queue(maxsize=16)
    stopped = threading.Event()

    def put(line: str | None) -> None:
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                lines.put(line, timeout=_HEARTBEAT_SECONDS)
                return

    def pump(stdout: Iterator[str]) -> None:
        for line in stdout:
            put(line)
        put(None)

    reader = threading.Thread(target=pump, args=(child.stdout,), daemon=True)
    reader.start()
    try:
        with contextlib.suppress(BrokenPipeError):
            child.stdin.write(json.dumps(request) + "\n")
            child.stdin.flush()
        yield child, lines
    finally:
        stopped.set()
        child.kill()
        child.wait()
        reader.join()
        with contextlib.suppress(BrokenPipeError):
            child.stdin.close()
        child.stdout.close()


def _resident_bytes(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def _out_of_memory(name: str, limits: Limits) -> str:
    return (
        f"{name} needs more than {_megabytes(limits.memory_bytes)} of memory to read and was stopped: "
        "split it into smaller files, or raise the limit."
    )


def _why_it_ended(name: str, exit_code: int, limits: Limits) -> str:
    """The reader ended without an answer: killed by a signal (a crash, its limits) or an unforeseen error."""
    cause = "the reader crashed on it" if exit_code < 0 else "the reader failed on it"
    return (
        f"{name} cannot be read: {cause}. It is damaged, or needs more than "
        f"{_megabytes(limits.memory_bytes)} of memory. Open it in another program and save it anew."
    )
