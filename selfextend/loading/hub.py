"""Brings a model's files from the Hugging Face hub into the local cache, with progress.

The download runs in a child process (`selfextend.loading.hub_download`), so that it can be stopped at any byte.
"""

import os
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from selfextend import errors
from selfextend.child_process import ChildProcess
from selfextend.steps import Progress

_REPORT_EVERY = 0.2
_TIDY_UP_TIME = 5.0
_HUB = "https://huggingface.co"

What = Literal["config", "headers", "all"]
_DOING: dict[What, str] = {"config": "Reading the config of", "headers": "Reading the sizes of", "all": "Downloading"}

_ERRORS: dict[type[errors.ModelLoadError], str] = {
    errors.ModelNotFoundError: (
        "There is no model {repo_id!r} on the Hugging Face hub (or it is private). Check the spelling: an id looks "
        "like 'owner/name'. A private one needs a token: `hf auth login`."
    ),
    errors.AccessDeniedError: (
        "{repo_id} is gated: accept its licence on https://huggingface.co/{repo_id} with your account, then run "
        "`hf auth login` on this machine and try again."
    ),
    errors.HubUnreachableError: (
        "The Hugging Face hub did not answer ({detail}), and {repo_id} is not complete in the local cache. Check the "
        "network, or give a local folder, or use the bundled model, which needs none."
    ),
    errors.UnsafeWeightsError: (
        "{repo_id} has no safetensors weights, only pickle files ({detail}), and reading those runs code that came "
        "with them. Look for a safetensors copy of it on the hub (its pull requests often have one), or convert it on "
        "a machine you can spare and load the folder."
    ),
    errors.IncompleteModelError: "{repo_id} cannot be loaded: {detail}",
    errors.UnsupportedModelError: "{repo_id} cannot be loaded: {detail}",
    errors.DiskFullError: "No room for {repo_id}: {detail}",
    errors.ModelLoadError: "Downloading {repo_id} failed: {detail}",
}


def download_steps(
    repo_id: str, what: What, tag: str = "", stall_timeout: float = 60.0
) -> Generator[Progress, None, Path]:
    """Brings a repository's files into the hub's cache and returns the folder that holds them, or the GGUF file.

    Closing the generator ends the download at once. `HF_HOME`, `HF_TOKEN`, `HF_ENDPOINT` and
    `HF_HUB_OFFLINE` count as they do for huggingface_hub, except that the token goes to huggingface.co only.

    Args:
        repo_id: "owner/name".
        what: "config" for the small files (config, tokenizer), "all" for the safetensors weights too; "headers" for a
            folder with files as long as those, in which only the headers are filled.
        tag: the quantization of one of its GGUF files ("Q4_K_M"), to bring that instead. Its "config" is a file of the
            same length in which only the beginning is filled.
        stall_timeout: seconds without a single new byte after which the hub counts as unreachable.

    Yields:
        Progress, about five times a second.

    Raises:
        ModelLoadError: of the type that fits: no such repository, gated, no network, pickle only, disk full.
    """
    name = f"{repo_id}:{tag}" if tag else repo_id
    doing = f"{_DOING[what]} {name}"
    # -P keeps the script's folder off sys.path, where its modules would hide others of the same name.
    command = [sys.executable, "-P", str(Path(__file__).with_name("hub_download.py")), repo_id, what, tag]
    done_bytes = total_bytes = 0
    last_news = time.monotonic()
    with ChildProcess(command, environment=download_environment(), time_to_end=_TIDY_UP_TIME) as child:
        while True:
            report = child.receive(_REPORT_EVERY)
            if report is None:
                raise _error("failed", repo_id, f"the download process ended with code {child.exit_code()}")
            if "error" in report:
                raise _error(report["error"], repo_id, report["detail"])
            if "files" in report:
                return Path(report["files"])
            if report and (report["done_bytes"], report["total_bytes"]) != (done_bytes, total_bytes):
                done_bytes, total_bytes = report["done_bytes"], report["total_bytes"]
                last_news = time.monotonic()
            if time.monotonic() - last_news > stall_timeout:
                raise _error("no-network", repo_id, f"nothing arrived for {stall_timeout:.0f} s")
            if total_bytes:
                words = f"{doing}: {done_bytes / 1e6:,.0f} of {total_bytes / 1e6:,.0f} MB"
                yield Progress(words, done_bytes / total_bytes)
            else:
                yield Progress(doing)


def download_environment() -> dict[str, str]:
    """This process's variables; without the token where `HF_ENDPOINT` names another server than the hub itself."""
    variables = dict(os.environ)
    address = urlsplit(variables.get("HF_ENDPOINT") or _HUB)
    if address.scheme == "https" and address.hostname == urlsplit(_HUB).hostname and not address.username:
        return variables
    kept = {name: value for name, value in variables.items() if name not in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")}
    return {**kept, "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}


def _error(reason: str, repo_id: str, detail: str) -> errors.ModelLoadError:
    kind = next(kind for kind in _ERRORS if kind.reason == reason)
    return kind(_ERRORS[kind].format(repo_id=repo_id, detail=detail))
