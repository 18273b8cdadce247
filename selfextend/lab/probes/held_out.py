"""Which texts the bundled model was never trained on: an eighth of all texts, told by their checksum."""

from __future__ import annotations

import zlib

HELD_OUT_SHARE = 8


def is_held_out(text: str) -> bool:
    """Whether the CRC-32 of `text` (lower case, UTF-8) is a multiple of eight. Training draws from the others alone."""
    return zlib.crc32(text.lower().encode()) % HELD_OUT_SHARE == 0
