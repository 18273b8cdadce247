"""Downloads a model's files from the Hugging Face hub, with progress, and so that a stop stops.

The download runs in a process of its own, which can be ended at any byte: this file is both the module that
starts it and, run as a script, the process itself. Files that arrived whole stay in the hub's cache and are not
fetched again; huggingface_hub cannot continue a file that was cut off, so those are removed. Python files and
pickled weights are never fetched. Knows nothing about torch or transformers.
"""

import contextlib
import json
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

_SMALL_FILES = ["*.json", "*.jinja", "*.model", "*.tiktoken", "merges.txt", "vocab.txt"]
_WEIGHT_FILES = ["model.safetensors", "model-*.safetensors"]
# Subfolders hold other formats of the same model (onnx/, original/).
_IGNORED = ["*/*"]
_REQUEST_TIMEOUT = 10.0
_REPORT_EVERY = 0.2
_TIDY_UP_TIME = 5.0

What = Literal["config", "all"]


@dataclass(frozen=True)
class DownloadProgress:
    """How far a download is.

    Attributes:
        done_bytes: bytes fetched, those already in the cache among them.
        total_bytes: bytes in all, 0 while that is not known.
    """

    done_bytes: int
    total_bytes: int


def download_steps(repo_id: str, what: What, stall_timeout: float = 60.0) -> Generator[DownloadProgress, None, Path]:
    """Brings a repository's files into the hub's cache and returns the folder that holds them.

    Closing the generator ends the download at once. `HF_HOME`, `HF_TOKEN`, `HF_ENDPOINT` and
    `HF_HUB_OFFLINE` count as they do for huggingface_hub.

    Args:
        repo_id: "owner/name".
        what: "config" for the small files (config, tokenizer), "all" for the safetensors weights too.
        stall_timeout: seconds without a single new byte after which the hub counts as unreachable.

    Yields:
        DownloadProgress, about five times a second.

    Returns:
        The snapshot folder.

    Raises:
        ModelLoadError: of the type that fits: no such repository, gated, no network, pickle only, disk full.
    """
    process = subprocess.Popen(
        # -P keeps this file's folder off sys.path, where its modules would hide others of the same name.
        [sys.executable, "-P", str(Path(__file__)), repo_id, what],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    reports: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    reader = threading.Thread(target=_read_reports, args=(process.stdout, reports), daemon=True)
    reader.start()
    progress = DownloadProgress(0, 0)
    last_news = time.monotonic()
    try:
        while True:
            try:
                report = reports.get(timeout=_REPORT_EVERY)
            except queue.Empty:
                report = {}
            if report is None:
                raise _error("failed", repo_id, f"the download process ended with code {process.wait()}")
            if "error" in report:
                raise _error(report["error"], repo_id, report["detail"])
            if "folder" in report:
                return Path(report["folder"])
            if report and DownloadProgress(**report) != progress:
                progress = DownloadProgress(**report)
                last_news = time.monotonic()
            if time.monotonic() - last_news > stall_timeout:
                raise _error("no-network", repo_id, f"nothing arrived for {stall_timeout:.0f} s")
            yield progress
    finally:
        process.stdin.close()  # tells the process to tidy up and go
        try:
            process.wait(_TIDY_UP_TIME)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        reader.join()
        process.stdout.close()


def _read_reports(stream: IO[str], reports: "queue.SimpleQueue[dict[str, Any] | None]") -> None:
    for line in stream:
        with contextlib.suppress(ValueError):  # a line cut off where the process was killed
            reports.put(json.loads(line))
    reports.put(None)


def _error(kind: str, repo_id: str, detail: str) -> Exception:
    # Imported late: run as a script, this file has no package around it.
    from selfextend import errors

    match kind:
        case "not-found":
            return errors.ModelNotFoundError(
                f"There is no model {repo_id!r} on the Hugging Face hub (or it is private). Check the "
                "spelling: an id looks like 'owner/name'. A private one needs a token: `hf auth login`."
            )
        case "gated":
            return errors.AccessDeniedError(
                f"{repo_id} is gated: accept its licence on https://huggingface.co/{repo_id} with your "
                "account, then run `hf auth login` on this machine and try again."
            )
        case "no-network":
            return errors.HubUnreachableError(
                f"The Hugging Face hub did not answer ({detail}), and {repo_id} is not complete in the local "
                "cache. Check the network, or give a local folder, or use the bundled model, which needs "
                "none."
            )
        case "pickle-only":
            return errors.UnsafeWeightsError(
                f"{repo_id} has no safetensors weights, only pickle files ({detail}), and reading those runs "
                "code that came with them. Look for a safetensors copy of it on the hub (its pull requests "
                "often have one), or convert it on a machine you can spare and load the folder."
            )
        case "incomplete":
            return errors.IncompleteModelError(f"{repo_id} cannot be loaded: {detail}")
        case "disk-full":
            return errors.DiskFullError(f"No room for {repo_id}: {detail}")
        case _:
            return errors.ModelLoadError(f"Downloading {repo_id} failed: {detail}")


class _Failure(Exception):
    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind, self.detail = kind, detail


def _download(repo_id: str, what: str) -> str:
    from huggingface_hub import HfApi, constants, snapshot_download
    from tqdm.auto import tqdm

    patterns = _SMALL_FILES if what == "config" else _SMALL_FILES + _WEIGHT_FILES
    total = 0
    try:
        info = HfApi().model_info(repo_id, files_metadata=True, timeout=_REQUEST_TIMEOUT)
    except Exception as error:
        # Without an answer the cache may still have everything; snapshot_download below tells.
        if not _is_connection_error(error):
            raise
    else:
        files = {file.rfilename: file.size or 0 for file in info.siblings or []}
        _check_listing(files)
        wanted = _matching(files, patterns)
        total = sum(files[name] for name in wanted)
        free = shutil.disk_usage(_existing_parent(Path(constants.HF_HUB_CACHE))).free
        if what == "all" and total > free + _cached_bytes(repo_id, wanted):
            raise _Failure(
                "disk-full",
                f"it takes {total / 1e9:.1f} GB and the disk of {constants.HF_HUB_CACHE} has "
                f"{free / 1e9:.1f} GB free. Make room, or point HF_HOME to another disk.",
            )

    bars: list[tqdm] = []

    class ByteCounter(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            options["disable"] = False
            super().__init__(*args, **options)
            if self.unit == "B":
                bars.append(self)

        def display(self, *args: Any, **options: Any) -> None:
            """Draws nothing: the numbers are read by the reporter."""

    def report_forever() -> None:
        while True:
            # Transfer and writing to disk are counted by a bar each.
            done = int(max((bar.n for bar in bars), default=0))
            _send({"done_bytes": done, "total_bytes": max(total, done) if total else 0})
            time.sleep(_REPORT_EVERY)

    threading.Thread(target=report_forever, daemon=True).start()
    return snapshot_download(
        repo_id,
        allow_patterns=patterns,
        ignore_patterns=_IGNORED,
        etag_timeout=_REQUEST_TIMEOUT,
        tqdm_class=ByteCounter,
    )


def _check_listing(files: dict[str, int]) -> None:
    if "config.json" not in files:
        hint = " It is a LoRA adapter: load the model it was made for." if "adapter_config.json" in files else ""
        raise _Failure("incomplete", f"it has no config.json, so it is not a transformers model.{hint}")
    if not _matching(files, _WEIGHT_FILES):
        pickles = [name for name in files if name.endswith((".bin", ".pt", ".pth", ".ckpt"))]
        if pickles:
            raise _Failure("pickle-only", ", ".join(sorted(pickles)[:2]))
        raise _Failure("incomplete", "it has no weights in safetensors format.")


def _matching(files: dict[str, int], patterns: list[str]) -> list[str]:
    from huggingface_hub.utils import filter_repo_objects

    return list(filter_repo_objects(files, allow_patterns=patterns, ignore_patterns=_IGNORED))


def _cached_bytes(repo_id: str, names: list[str]) -> int:
    from huggingface_hub import try_to_load_from_cache

    found = (try_to_load_from_cache(repo_id, name) for name in names)
    return sum(Path(path).stat().st_size for path in found if isinstance(path, str))


def _existing_parent(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _is_connection_error(error: BaseException) -> bool:
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if isinstance(error, OfflineModeIsEnabled):
        return True
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code >= 500
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0].startswith("http")


def _classify(error: BaseException) -> tuple[str, str]:
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    detail = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if isinstance(error, _Failure):
        return error.kind, error.detail
    if isinstance(error, GatedRepoError):
        return "gated", detail
    if isinstance(error, (RepositoryNotFoundError, HFValidationError)):
        return "not-found", detail
    if isinstance(error, OSError) and error.errno == 28:
        return (
            "disk-full",
            "the disk filled up during the download. What arrived is kept; make room and try again.",
        )
    if isinstance(error, LocalEntryNotFoundError) or _is_connection_error(error):
        cause = error.__cause__ or error
        return "no-network", f"{type(cause).__name__}: {str(cause).splitlines()[0] if str(cause) else detail}"
    return "failed", f"{type(error).__name__}: {detail}"


def _send(report: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(report) + "\n")
    sys.stdout.flush()


def _end_when_told() -> None:
    """Waits until the process that started this one closes the pipe or is gone, then leaves no half file behind."""
    import psutil

    sys.stdin.read()
    for file in psutil.Process().open_files():
        if file.path.endswith(".incomplete"):
            with contextlib.suppress(OSError):
                Path(file.path).unlink()
    os._exit(1)


def _main() -> None:
    threading.Thread(target=_end_when_told, daemon=True).start()
    repo_id, what = sys.argv[1:3]
    try:
        report: dict[str, Any] = {"folder": _download(repo_id, what)}
    except BaseException as error:
        kind, detail = _classify(error)
        report = {"error": kind, "detail": detail}
    _send(report)
    os._exit(0)


if __name__ == "__main__":
    _main()
