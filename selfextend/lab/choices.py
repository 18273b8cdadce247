"""What people type, turned into numbers: lengths, depths, names of probes. For the command line and the app.

Loads neither torch nor transformers, so that the page is there before they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from selfextend.lab.errors import LabError
from selfextend.lab.probes.cases import Probe, Tokenizer
from selfextend.lab.probes.filler import sentences
from selfextend.lab.probes.haystack import Filler, check_depth, encode, even_depths
from selfextend.lab.probes.key_values import KeyValues
from selfextend.lab.probes.needle import GENERATED, VARIANTS, Needle
from selfextend.lab.probes.passkey import FILLER, Passkey

MOST_LISTED = 100
"""Lengths, depths or settings in one list."""
MOST_TRIALS = 10_000
LONGEST = 10_000_000
"""Tokens of a text: longer than any model reads, and short enough to be written."""

PROBE_NAMES = ("passkey", *(f"needle-{variant}" for variant in VARIANTS), "key-value")


class OwnText(NamedTuple):
    """A text of the user's: where it is from, and what it says."""

    source: str
    content: str


@dataclass(frozen=True)
class Choices:
    """What was chosen for a run, as it was typed. `selfextend.lab.planning.plan_of` makes a plan of it.

    Attributes:
        probe: one of `PROBE_NAMES`, "perplexity" or "short-context".
        methods: names as `parse_methods` takes them; not of a sweep.
        lengths, depths: as `parse_lengths` and `parse_depths` take them. Of "short-context" the greatest length is
            the one that SelfExtend is set for.
        sweep: whether SelfExtend's settings are varied instead of methods.
        group_sizes, neighbor_windows: of a sweep, comma-separated; empty takes what `default_grid` gives.
        scaling: of a sweep: "none", "logn", "both", or "recommended" for the model.
        group_size, neighbor_window: for the methods that take them; None leaves them open.
        bin_tokens: of a perplexity curve; None is the trained window.
        text: to hide things in, or to read; generated unless given.
    """

    probe: str
    methods: tuple[str, ...] = ()
    lengths: str = "8x"
    depths: str = "5"
    trials: int = 1
    seed: int = 0
    sweep: bool = False
    group_sizes: str = ""
    neighbor_windows: str = ""
    scaling: str = "recommended"
    group_size: int | None = None
    neighbor_window: int | None = None
    bin_tokens: int | None = None
    text: OwnText | None = None


def parse_lengths(text: str, trained_window: int) -> tuple[int, ...]:
    """Lengths in tokens from text such as "512,4x", each once.

    Raises:
        LabError: not a number, out of range, or too many of them.
    """
    lengths = []
    for part in _listed(text):
        wanted = part.strip().lower()
        try:
            length = round(float(wanted[:-1]) * trained_window) if wanted.endswith("x") else int(wanted)
        except (ValueError, OverflowError):
            raise LabError(f"{part!r} is no length. Give tokens (4096) or a multiple of the window (8x).") from None
        if length < 2:
            raise LabError(f"A length must be at least 2 tokens, not {length}.")
        if length > LONGEST:
            raise LabError(f"A length may have at most {LONGEST:,} tokens, not {length:,}.")
        lengths.append(length)
    return tuple(dict.fromkeys(lengths))


def parse_length(text: str, trained_window: int) -> int:
    """One length. Errors as `parse_lengths`."""
    length, *more = parse_lengths(text, trained_window)
    if more:
        raise LabError(f"Give one length, not {text!r}.")
    return length


def parse_depths(text: str) -> tuple[float, ...]:
    """Depths from a number of them ("11") or a list ("0,0.5,1").

    Raises:
        LabError: not a number, outside 0 to 1, or too many of them.
    """
    parts = _listed(text)
    try:
        count = None if "," in text or "." in text else int(text)
        listed = [float(part) for part in parts]
    except ValueError:
        raise LabError(f"{text!r} are no depths. Give how many (11), or a list in 0 … 1 (0,0.5,1).") from None
    if count is not None and count > MOST_LISTED:
        raise LabError(f"There may be at most {MOST_LISTED} depths, not {count:,}.")
    return tuple(sorted({check_depth(depth) for depth in listed}) if count is None else even_depths(count))


def parse_numbers(text: str) -> list[int]:
    """Whole numbers from text such as "4,8,16".

    Raises:
        LabError: something else, or too many of them.
    """
    parts = _listed(text)
    try:
        return [int(part) for part in parts]
    except ValueError:
        raise LabError(f"{text!r} is no comma-separated list of whole numbers.") from None


def _listed(text: str) -> list[str]:
    parts = text.split(",")
    if len(parts) > MOST_LISTED:
        raise LabError(f"A list may have at most {MOST_LISTED} entries, not {len(parts):,}.")
    return parts


def probe_named(name: str, filler: Filler | None = None) -> Probe:
    """A probe with its usual settings.

    Args:
        name: one of `PROBE_NAMES`.
        filler: what to hide things in; the probe's own unless given.

    Raises:
        LabError: there is none of that name, or it takes no filler.
    """
    if name == "passkey":
        return Passkey(filler=filler or FILLER)
    if name.startswith("needle-") and name in PROBE_NAMES:
        return Needle(name.removeprefix("needle-"), filler=filler or GENERATED)
    if name == "key-value":
        if filler is not None:
            raise LabError("Key-value retrieval makes its own text; it cannot be hidden in another.")
        return KeyValues()
    raise LabError(f"There is no probe {name!r}. Probes: {', '.join(PROBE_NAMES)}.")


def prose_tokens(tokenizer: Tokenizer, length: int, seed: int) -> list[int]:
    """At least `length` tokens of generated prose."""
    # No sentence has fewer than four tokens.
    return encode(tokenizer, " ".join(sentences(seed, length // 4 + 1)))
