"""What the tabs share with the page around them: the inputs they read and the document they speak about.

The page makes the components; a tab only listens to them and, where it says so, sets them. Knows no model and no
attention.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import gradio as gr

from selfextend.config import SelfExtendConfig

METHODS = ("Vanilla", "SelfExtend", "Compare")
"""The choices of the page's `method` radio."""


@dataclass(frozen=True, eq=False)
class DocumentView:
    """The tokens at hand, as the tabs need to know them. Put a new one into the gr.State to redraw every tab.

    Compared by identity, so that gr.State can tell a new one from the old without hashing 100,000 words.

    Attributes:
        trained_window: the model's L, in tokens.
        length: tokens of the prompt (documents, question and room for the answer).
        token_text: the words at a position, as a function of it or as one string a token; None if nothing is read yet.
    """

    trained_window: int
    length: int
    token_text: Callable[[int], str] | Sequence[str] | None = None

    def words_at(self, position: int) -> str | None:
        """The token's text at `position`, or None where it is unknown."""
        if self.token_text is None or not 0 <= position < self.length:
            return None
        if callable(self.token_text):
            return self.token_text(position)
        return self.token_text[position] if position < len(self.token_text) else None


class SharedInputs(NamedTuple):
    """The page's components that the tabs listen to.

    Attributes:
        group_size: slider, whole tokens.
        neighbor_window: slider, whole tokens.
        method: radio with METHODS.
        view: gr.State holding a DocumentView.
    """

    group_size: gr.Slider
    neighbor_window: gr.Slider
    method: gr.Radio
    view: gr.State


class Refresh(NamedTuple):
    """A tab's redraw, for chaining: `some_event.then(*tab.refresh)`. The tab also redraws by itself on every change."""

    fn: Callable[..., Any]
    inputs: list[gr.components.Component]
    outputs: list[gr.components.Component]


LIVE: dict[str, Any] = {
    "queue": False,
    "show_progress": "hidden",
    "trigger_mode": "always_last",
    "api_visibility": "private",
}
"""What events that follow a slider or a pointer have in common: answered at once, the newest wins, no spinner over the
plot, not in the API."""


def draw_on_load(refresh: Refresh) -> None:
    """Runs `refresh` once when the page that is being built comes up."""
    page = gr.context.Context.root_block
    if page is None:
        raise RuntimeError("Tabs are built inside an open gr.Blocks.")
    page.load(*refresh, **LIVE)


# A DownloadButton saves what it held before the click; here the file is made by the click.
_SAVE_FILE = """(file) => {
  if (!file) return;
  const link = document.createElement("a");
  link.href = file.url;
  link.download = file.orig_name ?? "";
  document.body.append(link);
  link.click();
  link.remove();
}"""


def save_on_click(
    button: gr.Button,
    make: Callable[..., tuple[str | None, str]],
    inputs: Sequence[gr.components.Component],
    status: gr.HTML,
) -> None:
    """Makes a file when `button` is clicked and has the browser save it.

    `make` gets the values of `inputs` and returns the file's path, or None, and what `status` then says.
    """
    made = gr.DownloadButton(visible="hidden")
    options: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    done = button.click(make, list(inputs), [made, status], **options)
    done.success(None, [made], None, js=_SAVE_FILE, **options)


def settings_of(group_size: float, neighbor_window: float) -> SelfExtendConfig:
    """The sliders' numbers as settings. Sliders send floats where the step is whole, and null when emptied."""
    if group_size is None or neighbor_window is None:
        raise ValueError("Group size and Neighbor window both need a whole number.")
    return SelfExtendConfig(int(group_size), int(neighbor_window))


def setting_words(config: SelfExtendConfig) -> str:
    """The settings as titles say them."""
    return f"G = {config.group_size:,}, w = {config.neighbor_window:,}"
