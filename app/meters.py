"""The line that is always in sight: tokens, trained window, reach, largest position, speed, memory."""

from __future__ import annotations

from html import escape

import psutil

from selfextend.methods import Method
from selfextend.positions import EXACT, largest_relative_position

from .conversation import Reply, speed_words
from .reading_time import in_words

_WAIT = "until the next answer begins, by how fast this machine computes; what was read is not read again"
_LIMITED = ("Tokens", "Largest position")
_ON_BAR = {"Tokens": "used", "Trained window": "window", "Reach": "reach"}
"""What the bar shows, and the class of its colour, which stands before the name too."""


def meters(
    trained_window: int,
    length: int,
    method: Method,
    *,
    reply: Reply | None,
    wait_seconds: float | None,
    cache_bytes: int,
    gpu_bytes: int | None,
) -> str:
    """The line as HTML.

    Args:
        trained_window: of the model, tokens.
        length: tokens of documents, question and room for the answer.
        method: the page's choice, settled.
        reply: the last one, for its speed; None before any.
        wait_seconds: until the next answer begins, or None where that is not known.
        cache_bytes: keys and values of all visitors.
        gpu_bytes: taken on the GPU, or None where there is none.

    Raises:
        ValueError: settings that do not fit the trained window.
    """
    reach = method.reach(trained_window)
    largest = largest_relative_position(length, method.positions or EXACT)
    scale = max(reach or 0, length, trained_window)
    fits = reach is None or length <= reach
    limit = "any length" if reach is None else f"{reach:,}"
    state = "ok" if fits else "past"
    speed = (speed_words(reply.tokens_per_second) if reply else "") or "–"
    memory = f"{psutil.Process().memory_info().rss / 1e9:.2f} GB"
    if gpu_bytes is not None:
        memory += f" + GPU {gpu_bytes / 1e9:.2f} GB"
    cells = [
        ("Tokens", f"{length:,}", "documents, question and room for the answer"),
        ("Trained window", f"{trained_window:,}", "what the model was trained on (L)"),
        ("Reach", limit, "the longest text with no position that the model never saw"),
        ("Largest position", f"{largest:,}", f"the largest in this text; training ended at {trained_window - 1:,}"),
        ("To read", "–" if wait_seconds is None else in_words(wait_seconds), _WAIT),
        ("Speed", speed, "of the last answer"),
        ("Memory", memory, f"of this program; keys and values take {cache_bytes / 1e6:,.0f} MB of it"),
    ]  # fmt: skip
    bar = (
        f'<div class="meter-bar {state}" role="img" aria-label="{length:,} tokens, reach {limit}; the trained '
        f'window ends at {trained_window:,}"><span class="used" style="width:{100 * length / scale:.2f}%"></span>'
        f'<span class="window" style="left:{100 * trained_window / scale:.2f}%"></span>'
        f'<span class="reach" style="left:{100 * (reach or scale) / scale:.2f}%"></span></div>'
    )
    items = "".join(
        f'<div class="meter {state if name in _LIMITED else ""}" title="{escape(title, quote=True)}">'
        f"<dt>{_swatch(name)}{name}</dt><dd>{value}</dd></div>"
        for name, value, title in cells
    )
    return f'<div class="meters {state}">{bar}<dl>{items}</dl></div>'


def _swatch(name: str) -> str:
    return f'<span class="swatch {_ON_BAR[name]}"></span>' if name in _ON_BAR else ""
