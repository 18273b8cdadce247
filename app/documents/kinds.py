"""Tells what kind of document a file is, and refuses what cannot be read."""

from __future__ import annotations

from pathlib import Path

from .document import DocumentError, Kind, Limits, megabytes

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


def kind_of(path: Path, name: str, limits: Limits) -> Kind:
    """What the file is, from its first bytes; its name decides only between kinds of text.

    Raises:
        DocumentError: missing, empty, too large, or not of a kind that is read here.
    """
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
            f"{name} has {megabytes(size)}, and the limit is {megabytes(limits.max_bytes)}: "
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
