"""The line that is always in sight: tokens, trained window, reach, largest position, speed, memory.

Knows nothing about gradio.
"""

from __future__ import annotations

import os
from html import escape
from typing import TYPE_CHECKING

from selfextend.config import SelfExtendConfig, check_window, max_length, smallest_group_size, suggest
from selfextend.positions import largest_relative_position

if TYPE_CHECKING:
    from app.conversation import Reply

VANILLA = SelfExtendConfig(1, 1)
_LIMITED = ("Tokens", "Largest position")


def meters(
    trained_window: int,
    length: int,
    config: SelfExtendConfig,
    method: str,
    *,
    reply: Reply | None = None,
    cache_bytes: int = 0,
    gpu_bytes: int | None = None,
) -> str:
    """The line as HTML.

    Args:
        trained_window: of the model, tokens.
        length: tokens of documents, question and room for the answer.
        config: SelfExtend's settings.
        method: the page's choice; "Vanilla" reaches the trained window only.
        reply: the last one, for its speed.
        cache_bytes: keys and values of all visitors.
        gpu_bytes: taken on the GPU, or None where there is none.
    """
    vanilla = method == "Vanilla"
    try:
        check_window(trained_window, config)
        reach = trained_window if vanilla else max_length(trained_window, config)
        largest = largest_relative_position(length, VANILLA if vanilla else config)
    except ValueError as error:
        return f'<p role="alert" class="complaint">{escape(str(error))}</p>'
    scale = max(reach, length, trained_window)
    fits = length <= reach
    # A vanilla model answers past its window, however badly; only SelfExtend's reach is a limit.
    state = "ok" if fits else "past"
    speed = f"{reply.tokens_per_second:,.0f} tokens/s" if reply and reply.tokens_per_second else "–"
    memory = f"{_resident() / 1e9:.2f} GB"
    if gpu_bytes is not None:
        memory += f" + GPU {gpu_bytes / 1e9:.2f} GB"
    cells = [
        ("Tokens", f"{length:,}", "documents, question and room for the answer"),
        ("Trained window", f"{trained_window:,}", "what the model was trained on (L)"),
        ("Reach", f"{reach:,}", "the longest text with no position that the model never saw"),
        ("Largest position", f"{largest:,}", f"the largest in this text; training ended at {trained_window - 1:,}"),
        ("Speed", speed, "of the last answer"),
        ("Memory", memory, f"of this program; keys and values take {cache_bytes / 1e6:,.0f} MB of it"),
    ]  # fmt: skip
    bar = (
        f'<div class="meter-bar {state}" role="img" aria-label="{length:,} of {reach:,} tokens in reach; the trained '
        f'window ends at {trained_window:,}"><span class="used" style="width:{100 * length / scale:.2f}%"></span>'
        f'<span class="window" style="left:{100 * trained_window / scale:.2f}%"></span>'
        f'<span class="reach" style="left:{100 * reach / scale:.2f}%"></span></div>'
    )
    items = "".join(
        f'<div class="meter {state if name in _LIMITED else ""}" title="{escape(title, quote=True)}">'
        f"<dt>{name}</dt><dd>{value}</dd></div>"
        for name, value, title in cells
    )
    return f'<div class="meters">{bar}<dl>{items}</dl></div>'


def refusal(trained_window: int, length: int, config: SelfExtendConfig) -> str | None:
    """What to say where `length` tokens do not fit the settings' reach, with the smallest change; None where they do.

    Raises:
        ValueError: settings that do not fit the trained window.
    """
    reach = max_length(trained_window, config)
    if length <= reach:
        return None
    smallest = smallest_group_size(trained_window, length, config.neighbor_window)
    advised = suggest(trained_window, length)
    return (
        f"{length:,} tokens do not fit: group size {config.group_size} with neighbor window {config.neighbor_window} "
        f"reaches {reach:,}. The smallest change that fits is group size {smallest}; Suggest sets group size "
        f"{advised.group_size} and neighbor window {advised.neighbor_window}. Nothing was cut."
    )


def _resident() -> int:
    import psutil

    return int(psutil.Process(os.getpid()).memory_info().rss)
