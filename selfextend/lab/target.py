"""Which model a run is about: what its files tell before any weight is read, and the loaded model.

Bad settings are refused before anybody has to wait for a model.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfextend.config import checked_integer
from selfextend.lab import tensor_parallel
from selfextend.lab.plans import Plan
from selfextend.lab.records import header
from selfextend.loading.hardware import AskedQuantization
from selfextend.loading.models import load_model, load_tokenizer
from selfextend.loading.sources import fetch_steps, locate, read_config
from selfextend.profile import Profile, profile_of
from selfextend.steps import result_of


@dataclass(frozen=True)
class Target:
    """A model that was named but not loaded.

    Attributes:
        name: as given.
        files: its configuration and tokenizer, in a folder or in a GGUF file; maybe not its weights.
        profile: its trained window, as given or as it states, and the settings recommended for it.
        quantization, device, dtype: as `load_model` takes them.
    """

    name: str
    files: Path
    profile: Profile
    quantization: AskedQuantization = "none"
    device: str = "auto"
    dtype: str = "auto"

    @property
    def writes(self) -> bool:
        """Whether this process prints and writes records: the first of those that run a model together."""
        return tensor_parallel.rank() == 0

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer alone, to see whether the texts fit. Errors as `load_model`."""
        return load_tokenizer(self.files)

    def load(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The model and its tokenizer, split over all processes that `torchrun` started. Errors as `load_model`.

        Raises:
            TensorParallelError: see `selfextend.lab.tensor_parallel`.
        """
        if tensor_parallel.processes() > 1:
            return tensor_parallel.load_part(self.files, self.dtype, self.quantization), self.tokenizer()
        return load_model(self.name, self.quantization, self.device, self.dtype)


def find_target(
    name: str,
    *,
    trained_window: int | None = None,
    quantization: AskedQuantization = "none",
    device: str = "auto",
    dtype: str = "auto",
) -> Target:
    """Look a model's files up (of a hub model only its configuration is downloaded).

    Raises:
        ModelLoadError: there is no such model, or its configuration cannot be read.
        ValueError: the trained window is out of range, or stated nowhere.
    """
    if trained_window is not None:
        checked_integer("trained_window", trained_window, 2)
    files = result_of(fetch_steps(locate(name), weights=False))
    profile = profile_of(name, files, read_config(files), trained_window=trained_window)
    return Target(name, files, profile, quantization, device, dtype)


def _versions() -> dict[str, str]:
    found = {"python": python_version()}
    for package in ("selfextend", "torch", "transformers", "tokenizers"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # run from a checkout
            found[package] = "checkout"
    return found


def header_of(
    plan: Plan, name: str, model: PreTrainedModel, profile: Profile, quantization: str = "none"
) -> dict[str, Any]:
    """The header of a run that begins now.

    Args:
        name, quantization: as the model was asked for.
    """
    described = {
        "name": name,
        "architecture": type(model).__name__,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "trained_window": profile.trained_window,
        "dtype": str(model.dtype).removeprefix("torch."),
        "quantization": quantization,
        "device": str(model.device),
    }
    now = datetime.now(UTC).isoformat(timespec="seconds")
    settings = {"methods": [method.label for method in plan.methods], **plan.settings()}
    return header(plan.name, described, _versions(), settings, plan.seed, now)
