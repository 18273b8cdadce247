"""What is known about a model before it is used: its trained window, and the settings recommended for it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfextend.config import room_for_groups, usual_neighbor_window
from selfextend.positions import QueryScaling
from selfextend.presets import BUNDLED, find_preset
from selfextend.windows import trained_window as window_of

RECOMMENDATION_FILE = "selfextend.json"
LONGEST_ANSWER = 64
"""Tokens, before anybody chooses."""
LONGEST_CHAT_ANSWER = 512
"""The same of a model that was made to chat: it ends its answers itself, and few end within 64."""


@dataclass(frozen=True)
class Profile:
    """The facts about a model that its settings depend on.

    Attributes:
        trained_window: tokens (the paper's L).
        neighbor_window: the recommended one, in tokens, or None for a quarter of the trained window.
        query_scaling: the recommended one past the trained window.
    """

    trained_window: int
    neighbor_window: int | None = None
    query_scaling: QueryScaling = "none"

    @property
    def neighbors(self) -> int:
        """The neighbor window to take, in tokens."""
        return self.neighbor_window or usual_neighbor_window(self.trained_window)


def longest_answer(name: str, trained_window: int, *, chats: bool) -> int:
    """The longest answer that suits a model, in tokens: the bundled model answers in a sentence.

    Args:
        name: as the model was asked for.
        trained_window: in tokens.
        chats: whether it has a chat template.
    """
    return min(LONGEST_CHAT_ANSWER, trained_window // 4) if chats and name != BUNDLED else LONGEST_ANSWER


def profile_of(name: str, folder: Path | None, config: Any, *, trained_window: int | None = None) -> Profile:
    """The facts about a model, each from the first that states it: selfextend.json in its folder, the preset of
    its name, its config.

    Args:
        name: as the model was asked for: "bundled", a folder or a hub id.
        folder: where its files are, or None. A GGUF file recommends nothing.
        config: of transformers, see `selfextend.windows.trained_window`.
        trained_window: to be used instead of the model's own. A neighbor window that was recommended for another
            trained window is then left out.

    Raises:
        ValueError: nobody states the trained window.
    """
    stated = _recommendation(folder)
    preset = find_preset(name)
    if preset:
        neighbors = preset.published[0].neighbor_window if preset.published else None
        stated = {
            "trained_window": preset.trained_window,
            "neighbor_window": neighbors,
            "query_scaling": preset.query_scaling,
            **stated,
        }
    if trained_window not in (None, stated.get("trained_window")):
        stated["neighbor_window"] = None
    window = trained_window or stated.get("trained_window") or window_of(config)
    neighbors = stated.get("neighbor_window")
    if neighbors is not None and room_for_groups(window, neighbors) <= 0:  # no group size goes with it
        neighbors = None
    return Profile(window, neighbors, stated.get("query_scaling", "none"))


def _recommendation(folder: Path | None) -> dict[str, Any]:
    """What a model's folder recommends in its selfextend.json; values that make no sense are left out."""
    if folder is None:
        return {}
    try:
        found = json.loads((folder / RECOMMENDATION_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    windows = {key: found.get(key) for key in ("trained_window", "neighbor_window")}
    valid: dict[str, Any] = {key: value for key, value in windows.items() if type(value) is int and value > 0}
    if found.get("query_scaling") in ("none", "logn"):
        valid["query_scaling"] = found["query_scaling"]
    return valid
