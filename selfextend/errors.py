"""What can go wrong when a model is looked for, downloaded, loaded or used: a type for each case.

Every message says what happened and what to do about it, so that an app can show it unchanged. `reason` is a short
fixed word for code that has to tell the cases apart.
"""

from typing import Any, ClassVar

_OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",  # a CPU, on Linux
    "not enough memory",  # a CPU, elsewhere
    "cublas_status_alloc_failed",  # CUDA, before the first matrix product
)


class ModelLoadError(RuntimeError):
    """A model could not be loaded. Nothing of it is left in memory."""

    reason: ClassVar[str] = "failed"


class ModelNotFoundError(ModelLoadError):
    """There is no such folder, or no such repository on the Hugging Face hub."""

    reason = "not-found"


class IncompleteModelError(ModelLoadError):
    """The folder or repository lacks a file that is needed, or a file is damaged."""

    reason = "incomplete"


class UnsafeWeightsError(ModelLoadError):
    """The weights exist as pickle files only; reading those would run code that came with them."""

    reason = "pickle-only"


class UnsupportedModelError(ModelLoadError):
    """Not a causal language model that this version of transformers knows by itself."""

    reason = "unsupported"


class HubUnreachableError(ModelLoadError):
    """The hub did not answer, and the model is not in the local cache."""

    reason = "no-network"


class AccessDeniedError(ModelLoadError):
    """The repository is gated or private, and this machine has no access to it."""

    reason = "gated"


class DiskFullError(ModelLoadError):
    """The disk has no room for the download."""

    reason = "disk-full"


class DeviceUnavailableError(ModelLoadError):
    """The device that was asked for is not there, or its name is not one."""

    reason = "device"


class QuantizationUnavailableError(ModelLoadError):
    """This machine cannot run the quantization that was asked for."""

    reason = "quantization"


class ModelTooBigError(ModelLoadError):
    """The weights do not fit into the memory that is free.

    Attributes:
        estimate: the `selfextend.loading.memory.MemoryEstimate` that the message is about.
    """

    reason = "too-big"

    def __init__(self, message: str, estimate: Any) -> None:
        super().__init__(message)
        self.estimate = estimate


class UnsupportedArchitectureError(UnsupportedModelError, ValueError):
    """SelfExtend cannot be enabled on this model, for the reason given; the model was not changed."""


class PastReachError(ValueError):
    """A sequence is longer than SelfExtend's settings reach; the message names settings that fit."""


class PastReachWarning(UserWarning):
    """As `PastReachError`, where the caller did not ask for an error."""


class OutOfMemoryError(RuntimeError):
    """Memory ran out while a prompt was read or an answer written. The message says what to do."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on any device: on a CPU torch raises a plain RuntimeError."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in text for words in _OUT_OF_MEMORY)
    )
