"""A link to what the page shows: in the address's fragment, which assets/page.js writes and this reads.

A link says which model, documents, settings, tab and selection; it holds no text of anybody's and changes nothing that
others see: what the visitor has not got is told in a sentence.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qs

from selfextend.config import SelfExtendConfig, check_window

from .tabs.widgets import METHODS
from .wording import in_page_words

MOST_CHARACTERS = 4000
SETTINGS = (
    "log_n", "extend", "max_new_tokens", "temperature", "top_p", "top_k", "repetition_penalty", "seed", "remember",
    "four", "thinking",
)  # fmt: skip
"""What a link says of `app.tabs.controls.Controls` besides method, group size and neighbor window. The system prompt is
not among them: it is somebody's text."""


@dataclass(frozen=True)
class Link:
    """What a link asks for; each part "" or None where it says nothing.

    Attributes:
        model: as the page calls it.
        documents: their names.
        config: group size and neighbor window.
        method: one of the page's choices.
        tab: what is written on it.
        settings: for some of `SETTINGS` what the link says, as text.
    """

    model: str = ""
    documents: tuple[str, ...] = ()
    config: SelfExtendConfig | None = None
    method: str = ""
    tab: str = ""
    settings: tuple[tuple[str, str], ...] = ()


def read_link(fragment: str) -> Link:
    """The link in an address's fragment. Anybody may write one: what makes no sense in it is left out."""
    fragment = str(fragment or "")
    # The lesson's own addresses have numbers of the same names (assets/lesson/address.js).
    if len(fragment) > MOST_CHARACTERS or fragment.startswith("#lesson"):
        return Link()
    said = parse_qs(fragment.removeprefix("#"))

    def first(name: str) -> str:
        return said.get(name, [""])[0]

    return Link(
        model=first("model"),
        documents=tuple(said.get("document", ())),
        config=_config(first("G"), first("w")),
        method=first("method") if first("method") in METHODS else "",
        tab=first("tab"),
        settings=tuple((name, first(name)) for name in SETTINGS if name in said),
    )


def _config(group_size: str, neighbor_window: str) -> SelfExtendConfig | None:
    numbers = (group_size, neighbor_window)
    if not all(number.isascii() and number.isdigit() and len(number) < 8 for number in numbers):
        return None
    try:
        return SelfExtendConfig(int(group_size), int(neighbor_window))
    except ValueError:
        return None


def what_is_missing(link: Link, model: str, documents: list[str], trained_window: int) -> list[str]:
    """A sentence for each thing that a link asks for and that is not so here; what can be set is not among them.

    Args:
        model: that is loaded, "" for none.
        documents: the names of the visitor's.
        trained_window: of that model, tokens.
    """
    sentences = []
    if link.model and link.model != model:
        here = f"{model} is loaded" if model else "no model is loaded"
        sentences.append(f"The link is about {link.model}, and {here}: choose it under Change the model.")
    absent = [name for name in link.documents if name not in documents]
    if absent:
        sentences.append(f"The link is about {', '.join(absent)}, which you have not added: add it to see the same.")
    if link.config is not None:
        try:
            check_window(trained_window, link.config)
        except ValueError as error:
            sentences.append(f"The link's settings do not fit this model and were not set. {in_page_words(str(error))}")
    return sentences
