"""What a file with a reading says that it is of, found out without torch: somebody may ask while that is still being
imported. `selfextend.kept` writes such files.
"""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open

FORMAT = "selfextend-reading-1"


class UnusableReadingError(ValueError):
    """A file cannot be read on from; the message says what is wrong with it."""


def about_reading(path: Path) -> dict[str, str]:
    """What a file says it is of, without reading the rest.

    Raises:
        UnusableReadingError: it is damaged, or was not written by `selfextend.kept.write_reading`.
    """
    try:
        with safe_open(path, "numpy") as file:
            about = dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise UnusableReadingError(f"it is damaged ({error})") from error
    if about.get("format") != FORMAT:
        raise UnusableReadingError("it is of another format")
    return about
