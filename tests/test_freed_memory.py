"""What the threads of visitors free goes back to the system."""

import subprocess
import sys

import pytest

FREED = """
import sys, threading
import psutil, torch
from selfextend.freed_memory import give_back_freed_memory
if sys.argv[1] == "given back":
    give_back_freed_memory()
kept, turn, ready = [], threading.Lock(), threading.Barrier(16)
def visitor():
    ready.wait()  # all are there, each with a heap of its own if it may have one
    with turn:
        large = torch.ones(2**22)  # having been freed, it has glibc keep what is smaller
        del large
        freed = [torch.ones(2**17) for _ in range(100)]
        kept.append(torch.ones(10))  # behind them in the heap
        del freed
    ready.wait()
before = psutil.Process().memory_info().rss
threads = [threading.Thread(target=visitor) for _ in range(16)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print((psutil.Process().memory_info().rss - before) / 2**20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's heaps")
def test_what_many_threads_freed_is_not_kept_by_each() -> None:
    def megabytes(how: str) -> float:
        run = subprocess.run([sys.executable, "-c", FREED, how], capture_output=True, text=True, check=True)
        return float(run.stdout)

    assert megabytes("given back") < 0.75 * megabytes("kept")
