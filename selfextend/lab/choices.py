"""What people type, turned into parts of plans: lengths, depths, names of probes. For the command line and the app."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from selfextend.lab.errors import LabError
from selfextend.lab.probes.cases import Probe
from selfextend.lab.probes.filler import sentences
from selfextend.lab.probes.haystack import Filler, check_depth, encode, even_depths
from selfextend.lab.probes.key_values import KeyValues
from selfextend.lab.probes.needle import GENERATED, VARIANTS, Needle
from selfextend.lab.probes.passkey import FILLER, Passkey

PROBE_NAMES = ("passkey", *(f"needle-{variant}" for variant in VARIANTS), "key-value")


def parse_lengths(text: str, trained_window: int) -> tuple[int, ...]:
    """Lengths in tokens from such as "512,4x", each once.

    Raises:
        LabError: not a number, or below 2.
    """
    lengths = []
    for part in text.split(","):
        wanted = part.strip().lower()
        try:
            length = round(float(wanted[:-1]) * trained_window) if wanted.endswith("x") else int(wanted)
        except (ValueError, OverflowError):
            raise LabError(f"{part!r} is no length. Give tokens (4096) or a multiple of the window (8x).") from None
        if length < 2:
            raise LabError(f"A length must be at least 2 tokens, not {length}.")
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
        LabError: not a number, or outside 0 … 1.
    """
    try:
        if "," not in text and "." not in text:
            return tuple(even_depths(int(text)))
        return tuple(sorted({check_depth(float(part)) for part in text.split(",")}))
    except LabError:
        raise
    except ValueError:
        raise LabError(f"{text!r} are no depths. Give how many (11), or a list in 0 … 1 (0,0.5,1).") from None


def parse_numbers(text: str) -> list[int]:
    """Whole numbers from such as "4,8,16".

    Raises:
        LabError: one is none.
    """
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise LabError(f"{text!r} is no comma-separated list of whole numbers.") from None


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


def prose_tokens(tokenizer: PreTrainedTokenizerBase, length: int, seed: int) -> list[int]:
    """At least `length` tokens of generated prose."""
    # No sentence has fewer than four tokens.
    return encode(tokenizer, " ".join(sentences(seed, length // 4 + 1)))
