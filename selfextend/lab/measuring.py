"""What a piece of work cost: seconds, and the most memory it took beyond what was in use when it began. What others do
while it is interrupted is left out.

On CUDA torch's own count of its devices; elsewhere the process's resident memory, looked at fifty times a second.
"""

from __future__ import annotations

import threading
import time

import psutil
import torch

_INTERVAL = 0.02


class Cost:
    """Measures a `with` block, or several that follow one another as one piece of work.

    Attributes:
        seconds: wall time.
        peak_bytes: the most memory above what was in use at the start.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.peak_bytes = 0
        self._held = 0

    def __enter__(self) -> Cost:
        self._began = time.perf_counter()
        self._over = threading.Event()
        if torch.cuda.is_available():
            self._devices = range(torch.cuda.device_count())
            for device in self._devices:
                torch.cuda.reset_peak_memory_stats(device)
        else:
            self._process = psutil.Process()
        self._peak = self._in_use()
        self._before = self._peak - self._held
        if torch.cuda.is_available():
            return self
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._began
        in_use = self._in_use()
        if torch.cuda.is_available():
            self._peak = sum(torch.cuda.max_memory_allocated(device) for device in self._devices)
        else:
            self._over.set()
            self._watcher.join()
            self._peak = max(self._peak, in_use)
        self._held = in_use - self._before
        self.peak_bytes = max(self.peak_bytes, self._peak - self._before)

    def _in_use(self) -> int:
        if torch.cuda.is_available():
            return sum(torch.cuda.memory_allocated(device) for device in self._devices)
        return int(self._process.memory_info().rss)

    def _watch(self) -> None:
        while not self._over.wait(_INTERVAL):
            self._peak = max(self._peak, self._in_use())
