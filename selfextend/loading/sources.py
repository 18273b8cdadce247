"""Finds a model's files (the bundled one, a local folder or GGUF file, or a repository on the hub) and says what is
wrong with them.

Only names, headers and config.json are read, no weights. `files` is a folder in transformers' format, or one GGUF file,
which is config, tokenizer and weights in one.
"""

import json
import os
import re
import threading
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from selfextend.asset_files import assets_folder
from selfextend.errors import IncompleteModelError, ModelNotFoundError, UnsafeWeightsError, UnsupportedModelError
from selfextend.loading.gguf import gguf_config
from selfextend.loading.gguf_header import is_gguf
from selfextend.loading.hub import download_steps
from selfextend.loading.quantized import own_quantization, stored_bytes
from selfextend.presets import BUNDLED
from selfextend.steps import Progress

_HUB_ID = re.compile(r"(?P<repository>[\w.-]+(/[\w.-]+)?)(:(?P<tag>[\w.-]+))?")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_PART = re.compile(r"-\d{5}-of-\d{5}(?=\.gguf$)")

READING = threading.Lock()
"""Held by whoever reads a config or a tokenizer, or sizes a model: what a stopped load has left to itself may not be
over yet, and two threads that import transformers at once break each other's import."""


@dataclass(frozen=True)
class Source:
    """Where a model is.

    Attributes:
        name: what was asked for.
        files: on this machine, or None for a repository on the hub.
        repo_id: the repository's id.
        tag: which of its GGUF files, by quantization ("Q4_K_M"); "" for its safetensors.
    """

    name: str
    files: Path | None
    repo_id: str = ""
    tag: str = ""


def bundled_folder() -> Path:
    """The folder of the model that comes with the project.

    `SELFEXTEND_BUNDLED_MODEL` names another folder.

    Raises:
        ModelNotFoundError: it is not there.
    """
    override = os.environ.get("SELFEXTEND_BUNDLED_MODEL")
    folder = Path(override).expanduser() if override else assets_folder() / "model"
    if (folder / "config.json").is_file():
        return folder
    raise ModelNotFoundError(
        f"The bundled model is not in {folder}. Get a complete copy of the project, or set SELFEXTEND_BUNDLED_MODEL "
        "to the model's folder."
    )


def locate(name_or_path: str | os.PathLike[str]) -> Source:
    """Tells local files from a hub id, without network access.

    Args:
        name_or_path: "bundled", a folder, a GGUF file, or a hub id: "owner/name", or "owner/name:Q4_K_M" for one of its
            GGUF files.

    Raises:
        ModelNotFoundError: nothing of these; or a folder with several GGUF files.
    """
    name = os.fspath(name_or_path).strip()
    if name == BUNDLED:
        return Source(name, bundled_folder())
    path = Path(name).expanduser()
    if name and path.is_dir():
        return Source(name, _model_in(path.resolve()))
    if path.is_file():
        if path.suffix.lower() == ".gguf" or is_gguf(path):
            return Source(name, path.resolve())
        raise ModelNotFoundError(
            f"{name} is a file, and no GGUF file. Give the folder that holds config.json and the weights."
        )
    looks_like_path = name.startswith((".", "~", os.sep)) or name.count("/") > 1 or "\\" in name
    looks_like_path = looks_like_path or name.lower().endswith(".gguf")
    hub_id = _HUB_ID.fullmatch(name)
    if looks_like_path or not hub_id:
        raise ModelNotFoundError(
            f"There is no folder or GGUF file {name!r}. Give an existing one, a hub id such as 'owner/name' or "
            "'owner/name:Q4_K_M', or 'bundled'."
        )
    return Source(name, None, hub_id["repository"], hub_id["tag"] or "")


def _model_in(folder: Path) -> Path:
    """The files of the model in a folder: the folder, or the one GGUF file in it where it has no other weights."""
    if any(folder.glob("*.safetensors")):
        return folder
    found = sorted(folder.glob("*.gguf"))
    models = [file for file in found if "mmproj" not in file.name.lower()] or found
    parts = {_PART.sub("", file.name) for file in models}
    if len(parts) > 1:
        names = ", ".join(file.name for file in models[:5])
        raise ModelNotFoundError(f"{folder} holds {len(models)} GGUF files ({names}). Give the path of one of them.")
    return models[0] if models else folder


def fetch_steps(source: Source, *, weights: bool) -> Generator[Progress, None, Path]:
    """The source's files, downloaded where necessary. Close the generator to stop.

    Args:
        weights: the weights too, or config and tokenizer only. Of a GGUF file that is not here, the latter is a file of
            the same length with nothing but the beginning in it, which takes no more room than that.

    Yields:
        Progress while something is downloaded; nothing for local files.

    Raises:
        ModelLoadError: see `selfextend.loading.hub.download_steps`.
    """
    if source.files is not None:
        return source.files
    if weights:
        return (yield from download_steps(source.repo_id, "all", source.tag))
    return (yield from download_steps(source.repo_id, "config", source.tag, stall_timeout=30.0))


def header_steps(source: Source, files: Path, config: PreTrainedConfig) -> Generator[Progress, None, Path]:
    """Where the bytes of a checkpoint's weights can be counted before these are downloaded.

    Args:
        files: with its config, as `fetch_steps` gave them.

    Returns:
        `files`, except for a checkpoint on the hub that is kept as it is quantized: a config does not say its size.

    Raises:
        ModelLoadError: see `selfextend.loading.hub.download_steps` and `check_weights`.
    """
    own = own_quantization(config)
    if source.files is not None or own is None or own.unpacked or stored_bytes(files) is not None:
        return files
    headers = yield from download_steps(source.repo_id, "headers", stall_timeout=30.0)
    check_weights(headers)
    return headers


def read_config(files: Path) -> PreTrainedConfig:
    """The config of the causal language model in `files`.

    Raises:
        IncompleteModelError: no config.json, or an unreadable one; a damaged GGUF file.
        UnsupportedModelError: transformers does not know the model without running code that comes with it,
            or cannot read it from GGUF, or it is no causal language model.
    """
    config = gguf_config(files) if files.is_file() else _folder_config(files)
    if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or config.is_encoder_decoder:
        raise UnsupportedModelError(
            f"A model of type {config.model_type!r} is not a causal language model: it does not write text "
            "from left to right. Choose a decoder-only model, such as a Llama, Qwen, Gemma, Mistral or Phi."
        )
    return config


def _folder_config(folder: Path) -> PreTrainedConfig:
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            raise IncompleteModelError(
                f"{folder} holds a LoRA adapter, not a model. Merge it into its base model and load the result."
            )
        raise IncompleteModelError(
            f"{folder} has no config.json. A model folder holds config.json, tokenizer.json and *.safetensors."
        )
    try:
        model_type = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (ValueError, AttributeError, OSError) as error:
        raise IncompleteModelError(f"{folder / 'config.json'} cannot be read: {error}") from None
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except StrictDataclassError as error:
        raise IncompleteModelError(f"{folder / 'config.json'} does not describe a model: {error}") from None
    except (ValueError, KeyError, OSError, ImportError) as error:
        raise UnsupportedModelError(
            f"transformers does not know models of type {model_type!r} without running code from their "
            "repository, which is never done here. Choose a model that transformers has built in, or update "
            "transformers."
        ) from error


def check_weights(files: Path) -> None:
    """Checks that the weights are there, complete, and in safetensors format. Reads only their headers.

    A GGUF file was checked when its config was read.

    Raises:
        UnsafeWeightsError: only pickle files are there.
        IncompleteModelError: no weights, a shard is missing, or a file is damaged.
    """
    if files.is_file():
        return
    folder = files
    stored = sorted(folder.glob("*.safetensors"))
    if not stored:
        pickles = sorted(file.name for file in folder.iterdir() if file.suffix in _PICKLES)
        if pickles:
            raise UnsafeWeightsError(
                f"{folder} has its weights as pickle files only ({', '.join(pickles[:2])}), and reading "
                "those runs whatever code is in them. If you trust where they come from, convert them once: "
                f'AutoModelForCausalLM.from_pretrained("{folder}").save_pretrained("new-folder") writes '
                "safetensors; copy the tokenizer files over and load new-folder."
            )
        raise IncompleteModelError(f"{folder} has no weights (*.safetensors).")
    index = folder / "model.safetensors.index.json"
    if index.is_file() and not (folder / "model.safetensors").is_file():
        try:
            shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _damaged(index, error) from None
        missing = sorted(shards - {file.name for file in stored})
        if missing:
            raise IncompleteModelError(
                f"{folder} lacks {len(missing)} of {len(shards)} weight files, for instance {missing[0]}. "
                "Copy or download them again."
            )
    for file in stored:
        try:
            with safe_open(file, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise _damaged(file, error) from None


def _damaged(file: Path, error: Exception) -> IncompleteModelError:
    return IncompleteModelError(f"{file} is damaged or was not copied to its end ({error}). Copy or download it again.")
