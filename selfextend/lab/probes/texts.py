"""Reads the text of a file for the command line: plain text, Markdown, or a PDF's text layer."""

from __future__ import annotations

from pathlib import Path

from selfextend.lab.errors import LabError


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        LabError: it cannot be read, holds no text, or is a PDF and pypdfium2 is not installed.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise LabError(f"{path} cannot be read: {error}.") from None
    if content.startswith(b"%PDF-"):
        text = _pdf_text(path, content)
    else:
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise LabError(f"{path} is not text in UTF-8. Give a TXT, Markdown or PDF file.") from None
    if not text.strip():
        raise LabError(f"{path} holds no text. A scanned PDF has to go through text recognition first.")
    return text


def _pdf_text(path: Path, content: bytes) -> str:
    try:
        import pypdfium2
    except ImportError:
        raise LabError(f"{path} is a PDF; reading those needs pypdfium2: pip install selfextend[app].") from None
    try:
        document = pypdfium2.PdfDocument(content)
    except pypdfium2.PdfiumError as error:
        raise LabError(f"{path} cannot be read as a PDF: {error}.") from None
    with document:
        pages = [page.get_textpage().get_text_bounded() for page in document]
    return "\n\n".join("\n".join(page.splitlines()) for page in pages)
