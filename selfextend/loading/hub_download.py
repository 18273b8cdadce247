"""The child process that downloads a model's files from the Hugging Face hub, run as a script.

    python hub_download.py <repository> config|headers|all <quantization of a GGUF file, or nothing>

Writes one JSON message a line to stdout: `{"done_bytes": ..., "total_bytes": ...}` (0 while unknown) again and again,
then `{"files": ...}`, or `{"error": reason, "detail": ...}` with a `reason` of `selfextend.errors`. Ends when its
stdin is closed. Complete files stay in the hub's cache and are not fetched again; a file that was cut off is removed,
since huggingface_hub cannot continue it. Python files and pickled weights are never fetched. As a script, this file
can import nothing of its own package.
"""

import contextlib
import json
import os
import re
import shutil
import sys
import threading
import time
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import psutil
from huggingface_hub import HfApi, constants, hf_hub_url, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import build_hf_headers, filter_repo_objects, get_session, hf_raise_for_status
from tqdm.auto import tqdm

_SMALL_FILES = ["*.json", "*.jinja", "*.model", "*.tiktoken", "merges.txt", "vocab.txt"]
_WEIGHT_FILES = ["model.safetensors", "model-*.safetensors"]
# More than any vocabulary takes, which is what makes a GGUF file's header long.
_GGUF_HEADER_BYTES = 24 << 20
# A safetensors file's says itself how long it is; the library reads none that is longer than this.
_SAFETENSORS_HEADER_BYTES, _LONGEST_SAFETENSORS_HEADER = 1 << 16, 100_000_000
_GGUF_KIND = re.compile(r"[.-]((?:I?Q\d|BF16|F16|F32|MXFP4|TQ\d)\w*?)(?:[.-]|$)", re.IGNORECASE)
# Subfolders hold other formats of the same model (onnx/, original/).
_IGNORED = ["*/*"]
_REQUEST_TIMEOUT = 10.0
_REPORT_EVERY = 0.2


class _Failure(Exception):
    """Raised with a reason of `selfextend.errors` and a detail."""


def _download(repo_id: str, what: str, tag: str) -> str:
    patterns = _SMALL_FILES if what == "config" else _SMALL_FILES + _WEIGHT_FILES
    ignored = _IGNORED
    total = 0
    try:
        info = HfApi().model_info(repo_id, files_metadata=True, timeout=_REQUEST_TIMEOUT)
    except Exception as error:
        # Without an answer the cache may still have everything; snapshot_download below tells.
        if not _is_connection_error(error) or what == "headers":
            raise
        if tag:
            found = _cached_gguf(repo_id, tag)
            if found is None:
                raise
            return found
    else:
        files = {file.rfilename: file.size or 0 for file in info.siblings or []}
        if tag:
            patterns, ignored = [_gguf_named(files, tag, repo_id)], []
            if what == "config":
                return _gguf_beginning(repo_id, patterns[0], files[patterns[0]], info.sha)
        else:
            _check_listing(files, repo_id)
        if what == "headers":
            return _safetensors_beginnings(repo_id, files, info.sha)
        wanted = _matching(files, patterns, ignored)
        total = sum(files[name] for name in wanted)
        cache = Path(constants.HF_HUB_CACHE)
        free = shutil.disk_usage(next(folder for folder in (cache, *cache.parents) if folder.exists())).free
        if what == "all" and total > free + _cached_bytes(repo_id, wanted):
            raise _Failure(
                "disk-full",
                f"it takes {total / 1e9:.1f} GB and the disk of {cache} has {free / 1e9:.1f} GB free. Make room, or "
                "point HF_HOME to another disk.",
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
    folder = snapshot_download(
        repo_id,
        allow_patterns=patterns,
        ignore_patterns=ignored,
        etag_timeout=_REQUEST_TIMEOUT,
        tqdm_class=ByteCounter,
    )
    return str(Path(folder, patterns[0])) if tag else folder


def _cached_gguf(repo_id: str, tag: str) -> str | None:
    """The GGUF file of this quantization that was downloaded before, where the hub cannot be asked for its name."""
    snapshots = Path(constants.HF_HUB_CACHE, f"models--{repo_id.replace('/', '--')}", "snapshots")
    names = {str(path): 0 for path in snapshots.rglob("*.gguf")}
    try:
        return _gguf_named(names, tag, repo_id)
    except _Failure:
        return None


def _gguf_named(files: dict[str, int], tag: str, repo_id: str) -> str:
    """The GGUF file of this quantization, as llama.cpp finds it: by name."""
    named = sorted(name for name in files if name.lower().endswith(".gguf") and "mmproj" not in name.lower())
    fitting = [name for name in named if re.search(rf"(^|[._/-]){re.escape(tag)}[.-]", name, re.IGNORECASE)]
    if not fitting:
        raise _Failure("incomplete", f"it has no GGUF file of {tag}.{_gguf_hint(files, repo_id)}")
    if re.search(r"-\d{5}-of-\d{5}\.gguf$", fitting[0]):
        raise _Failure(
            "unsupported",
            f"its {tag} is split into several files, and transformers reads whole ones only. Choose another "
            "quantization, or join them with llama.cpp's llama-gguf-split --merge.",
        )
    return min(fitting, key=len)


def _gguf_hint(files: dict[str, int], repo_id: str) -> str:
    """The sentence "It holds ..." with what to ask for, or nothing where it holds no GGUF files."""
    kinds = {kind[1].upper() for name in files if name.endswith(".gguf") and (kind := _GGUF_KIND.search(name))}
    if not kinds:
        return ""
    return f" It holds GGUF files ({', '.join(sorted(kinds))}): ask for {repo_id}:{min(kinds)}, for instance."


def _gguf_beginning(repo_id: str, name: str, size: int, revision: str | None) -> str:
    """A file as long as the GGUF file, with nothing in it but what stands before the weights."""
    cached = try_to_load_from_cache(repo_id, name)
    if isinstance(cached, str):
        return cached
    target = _beginning_path(repo_id, name, revision)
    if not _is_kept(target, size, revision):
        length = min(size, _GGUF_HEADER_BYTES)
        _keep_beginning(target, _beginning(repo_id, name, length, revision, _Arriving(length)), size)
    return str(target)


def _safetensors_beginnings(repo_id: str, files: dict[str, int], revision: str | None) -> str:
    """A folder with files as long as the weight files, with nothing in them but their headers."""
    folder, arriving = "", _Arriving()
    for name in _matching(files, _WEIGHT_FILES, _IGNORED):
        size, target = files[name], _beginning_path(repo_id, name, revision)
        folder = str(target.parent)
        if _is_kept(target, size, revision):
            continue
        beginning = _beginning(repo_id, name, min(size, _SAFETENSORS_HEADER_BYTES), revision, arriving)
        length = 8 + int.from_bytes(beginning[:8], "little")
        if len(beginning) < length <= min(size, _LONGEST_SAFETENSORS_HEADER):
            beginning = _beginning(repo_id, name, length, revision, arriving)
        _keep_beginning(target, beginning[:length], size)
    return folder


class _Arriving:
    """Reports the bytes that arrive for one or several requests.

    Args:
        total: of all of them, 0 where it is not known.
    """

    def __init__(self, total: int = 0) -> None:
        self.total, self.done, self._reported = total, 0, 0.0

    def add(self, count: int) -> None:
        self.done += count
        if time.monotonic() - self._reported >= _REPORT_EVERY:
            self._reported = time.monotonic()
            _send({"done_bytes": self.done, "total_bytes": self.total})


def _beginning(repo_id: str, name: str, length: int, revision: str | None, arriving: _Arriving) -> bytes:
    address = hf_hub_url(repo_id, name, revision=revision)
    headers = {**build_hf_headers(), "Range": f"bytes=0-{length - 1}"}
    content = bytearray()
    with get_session().stream(
        "GET", address, headers=headers, timeout=_REQUEST_TIMEOUT, follow_redirects=True
    ) as answer:
        hf_raise_for_status(answer)
        for chunk in answer.iter_bytes():
            wanted = chunk[: length - len(content)]
            content += wanted
            arriving.add(len(wanted))
            if len(content) == length:  # not every server keeps to the range
                break
    return bytes(content)


def _beginning_path(repo_id: str, name: str, revision: str | None) -> Path:
    folder = Path(constants.HF_HUB_CACHE, "selfextend-headers", repo_id.replace("/", "--"), revision or "main")
    return folder / name


def _is_kept(target: Path, size: int, revision: str | None) -> bool:
    """Whether a beginning is there already; a branch, which may have moved on, is asked again."""
    return revision is not None and target.is_file() and target.stat().st_size == size


def _keep_beginning(target: Path, beginning: bytes, size: int) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    # Somebody else may be reading the one that is there.
    with NamedTemporaryFile(dir=target.parent, suffix=".incomplete", delete=False) as file:
        file.write(beginning)
        file.truncate(size)
    Path(file.name).replace(target)


def _check_listing(files: dict[str, int], repo_id: str) -> None:
    if "config.json" not in files:
        gguf = _gguf_hint(files, repo_id)
        if gguf:
            raise _Failure("incomplete", f"it has no config.json.{gguf}")
        hint = " It is a LoRA adapter: load the model it was made for." if "adapter_config.json" in files else ""
        raise _Failure("incomplete", f"it has no config.json, so it is not a transformers model.{hint}")
    if not _matching(files, _WEIGHT_FILES, _IGNORED):
        pickles = [name for name in files if name.endswith((".bin", ".pt", ".pth", ".ckpt"))]
        if pickles:
            raise _Failure("pickle-only", ", ".join(sorted(pickles)[:2]))
        raise _Failure("incomplete", f"it has no weights in safetensors format.{_gguf_hint(files, repo_id)}")


def _matching(files: dict[str, int], patterns: list[str], ignored: list[str]) -> list[str]:
    return list(filter_repo_objects(files, allow_patterns=patterns, ignore_patterns=ignored))


def _cached_bytes(repo_id: str, names: list[str]) -> int:
    found = (try_to_load_from_cache(repo_id, name) for name in names)
    return sum(Path(path).stat().st_size for path in found if isinstance(path, str))


def _is_connection_error(error: BaseException) -> bool:
    if isinstance(error, OfflineModeIsEnabled):
        return True
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code >= 500
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0].startswith("http")


def _classify(error: BaseException) -> tuple[str, str]:
    detail = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if isinstance(error, _Failure):
        return error.args[0], error.args[1]
    if isinstance(error, GatedRepoError):
        return "gated", detail
    if isinstance(error, (RepositoryNotFoundError, HFValidationError)):
        return "not-found", detail
    if isinstance(error, OSError) and error.errno == 28:
        return ("disk-full", "the disk filled up during the download. What arrived is kept; make room and try again.")
    if isinstance(error, LocalEntryNotFoundError) or _is_connection_error(error):
        cause = error.__cause__ or error
        return "no-network", f"{type(cause).__name__}: {str(cause).splitlines()[0] if str(cause) else detail}"
    return "failed", f"{type(error).__name__}: {detail}"


def _send(report: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(report) + "\n")
    sys.stdout.flush()


def _end_when_told() -> None:
    """Waits until the process that started this one closes the pipe or is gone, then leaves no half file behind."""
    sys.stdin.read()
    for file in psutil.Process().open_files():
        if file.path.endswith(".incomplete"):
            with contextlib.suppress(OSError):
                Path(file.path).unlink()
    os._exit(1)


def _main() -> None:
    threading.Thread(target=_end_when_told, daemon=True).start()
    repo_id, what, tag = sys.argv[1:4]
    try:
        report: dict[str, Any] = {"files": _download(repo_id, what, tag)}
    except BaseException as error:
        kind, detail = _classify(error)
        report = {"error": kind, "detail": detail}
    _send(report)
    os._exit(0)


if __name__ == "__main__":
    _main()
