"""How much one visitor may upload in an hour."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from .asgi import Refusal

HOUR = 3600.0


@dataclass
class _Upload:
    """When it began, by `time.monotonic`, and how many bytes have come."""

    at: float
    size: int = 0


@dataclass
class UploadQuota:
    """Counts what each visitor uploads.

    Attributes:
        most_bytes: of one visitor in an hour.
    """

    most_bytes: int
    _uploads: dict[Hashable, deque[_Upload]] = field(default_factory=dict)

    def of(self, visitor: Hashable) -> Callable[[int], None]:
        """For `asgi.limited`, at the start of a visitor's upload: refuses what is more than may come."""
        upload = _Upload(time.monotonic())
        for other, earlier in list(self._uploads.items()):
            while earlier and earlier[0].at < upload.at - HOUR:
                earlier.popleft()
            if not earlier:
                del self._uploads[other]
        uploads = self._uploads.setdefault(visitor, deque())
        uploads.append(upload)

        def count(size: int) -> None:
            upload.size = size
            if sum(each.size for each in uploads) > self.most_bytes:
                raise Refusal(
                    413, f"More than {self.most_bytes / 1e6:,.0f} MB in an hour: wait, or start the app with a "
                    "larger --upload-mb.",
                )  # fmt: skip

        return count
