"""What the readers of all kinds of files share: the form of their messages, and the words in which they refuse."""

from __future__ import annotations

from typing import Any

Message = dict[str, Any]
"""What the child process sends as one line of JSON; `app.documents.worker` lists them."""


class Refused(Exception):
    """The file cannot be read; the text is the rest of a sentence that begins with the file's name."""


def too_long(max_characters: int) -> str:
    return (
        f"has more than {max_characters:,} characters, which is the limit: "
        "split it into smaller files, or start the app with a larger --max-characters."
    )


def check_pages(total: int, max_pages: int, word: str) -> None:
    if total > max_pages:
        raise Refused(
            f"has {total:,} {word}, and the limit is {max_pages:,}: split it into smaller files, or raise the limit."
        )
