"""The child process that opens a visitor's file, so that a malicious one cannot harm the app.

Started by `app.documents.child` with `python -m`. Reads one JSON request from stdin, limits its own memory and
processor time, and writes one JSON message a line to stdout: `{"pages_total": n}`, then a `{"page": ...}` for each
page, after a `{"scanned": number}` where it is read by OCR, and `{"notes": [...]}`; or `{"sizes": ...}`; or a
`{"view": ...}` for each page. The last one is `{"done": true}`, `{"refused": sentence}` or `{"out_of_memory": true}`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator

from .messages import Message, Refused


def limit_this_process(memory_bytes: int | None, seconds: float, scanned_memory_bytes: int) -> None:
    """Caps address space, processor time and core dumps where the system can (not on Windows)."""
    try:
        import resource
    except ImportError:
        return
    if memory_bytes is not None:
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes + scanned_memory_bytes))
    # The parent kills by the clock; this ends a child whose parent is gone.
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 2, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def allow_a_scanned_page(seconds: float) -> None:
    """Raises the caps by what a page that is read by OCR may take: memory once, processor time for each of them."""
    try:
        import resource
    except ImportError:
        return
    _, most_memory = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (most_memory, most_memory))
    used, most_time = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (used + 2 * int(seconds), most_time))  # the engine runs on two cores


def answer(request: Message) -> Iterator[Message]:
    """Carries out one request. The libraries are imported here: a text file need not wait for PDFium."""
    path = request["path"]
    if request["task"] == "read" and request["kind"] != "pdf":
        if request["kind"] == "docx":
            from .docx_text import read_docx as read
        else:
            from .text import read_text as read

        yield from read(path, request["max_pages"], request["max_characters"])
        return
    from . import pdf as pdf_reader

    if request["task"] == "read":
        limits = (request[name] for name in ("max_pages", "max_characters", "scanned_pages"))
        yield from pdf_reader.read_pdf(path, *limits)
    elif request["task"] == "sizes":
        yield {"sizes": pdf_reader.page_sizes(path)}
    else:
        yield from pdf_reader.page_views(path, request["pages"], request["width"])


def main() -> int:
    # Whatever a library prints must not end up among the messages.
    with os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8", newline="\n") as messages:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

        def send(message: Message) -> None:
            messages.write(json.dumps(message) + "\n")
            messages.flush()

        request = json.loads(sys.stdin.readline())
        try:
            limit_this_process(request["memory_bytes"], request["seconds"], request["scanned_memory_bytes"])
            for message in answer(request):
                send(message)
                if "scanned" in message:
                    allow_a_scanned_page(request["scanned_page_seconds"])
        except Refused as refusal:
            send({"refused": str(refusal)})
        except MemoryError:
            send({"out_of_memory": True})
        else:
            send({"done": True})
    return 0


if __name__ == "__main__":
    sys.exit(main())
