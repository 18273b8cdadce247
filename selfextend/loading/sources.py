"""Finds a model's files (the bundled one, a local folder, or a repository on the hub) and says what is wrong with them.

Only names, headers and config.json are read, no weights.
"""

import json
import os
import re
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from selfextend.asset_files import assets_folder
from selfextend.errors import IncompleteModelError, ModelNotFoundError, UnsafeWeightsError, UnsupportedModelError
from selfextend.loading.hub import download_steps
from selfextend.presets import BUNDLED
from selfextend.steps import Progress

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")


@dataclass(frozen=True)
class Source:
    """Where a model is.

    Attributes:
        name: what was asked for.
        folder: the local folder, or None for a repository on the hub, whose id is `name`.
    """

    name: str
    folder: Path | None


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
    """Tells a local folder from a hub id, without network access.

    Args:
        name_or_path: "bundled", a folder, or a hub id such as "owner/name".

    Raises:
        ModelNotFoundError: neither an existing folder nor something that could be a hub id.
    """
    name = os.fspath(name_or_path).strip()
    if name == BUNDLED:
        return Source(name, bundled_folder())
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        return Source(name, folder.resolve())
    if folder.is_file():
        raise ModelNotFoundError(f"{name} is a file. Give the folder that holds config.json and the weights.")
    looks_like_path = name.startswith((".", "~", os.sep)) or name.count("/") > 1 or "\\" in name
    if looks_like_path or not _HUB_ID.fullmatch(name):
        raise ModelNotFoundError(
            f"There is no folder {name!r}. Give an existing folder, a hub id such as 'owner/name', or 'bundled'."
        )
    return Source(name, None)


def fetch_steps(source: Source, *, weights: bool) -> Generator[Progress, None, Path]:
    """The folder with the source's files, downloaded where necessary. Close the generator to stop.

    Args:
        weights: the weights too, or config and tokenizer only.

    Yields:
        Progress while something is downloaded; nothing for a local folder.

    Raises:
        ModelLoadError: see `selfextend.loading.hub.download_steps`.
    """
    if source.folder is not None:
        return source.folder
    if weights:
        return (yield from download_steps(source.name, "all"))
    return (yield from download_steps(source.name, "config", stall_timeout=30.0))


def read_config(folder: Path) -> PreTrainedConfig:
    """The config of the causal language model in `folder`.

    Raises:
        IncompleteModelError: no config.json, or an unreadable one.
        UnsupportedModelError: transformers does not know the model without running code that comes with it,
            or it is no causal language model.
    """
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            raise IncompleteModelError(
                f"{folder} holds a LoRA adapter, not a model. Merge it into its base model and load the result."
            )
        if any(folder.glob("*.gguf")):
            raise IncompleteModelError(
                f"{folder} holds a GGUF file, which is llama.cpp's format. Get the model in transformers' "
                "format: config.json, tokenizer.json and *.safetensors."
            )
        raise IncompleteModelError(
            f"{folder} has no config.json. A model folder holds config.json, tokenizer.json and *.safetensors."
        )
    try:
        model_type = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (ValueError, AttributeError, OSError) as error:
        raise IncompleteModelError(f"{folder / 'config.json'} cannot be read: {error}") from None
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except StrictDataclassError as error:
        raise IncompleteModelError(f"{folder / 'config.json'} does not describe a model: {error}") from None
    except (ValueError, KeyError, OSError, ImportError) as error:
        raise UnsupportedModelError(
            f"transformers does not know models of type {model_type!r} without running code from their "
            "repository, which is never done here. Choose a model that transformers has built in, or update "
            "transformers."
        ) from error
    if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or config.is_encoder_decoder:
        raise UnsupportedModelError(
            f"A model of type {config.model_type!r} is not a causal language model: it does not write text "
            "from left to right. Choose a decoder-only model, such as a Llama, Qwen, Gemma, Mistral or Phi."
        )
    return config


def check_weights(folder: Path) -> None:
    """Checks that the weights are there, complete, and in safetensors format. Reads only their headers.

    Raises:
        UnsafeWeightsError: only pickle files are there.
        IncompleteModelError: no weights, a shard is missing, or a file is damaged.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
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
        missing = sorted(shards - {file.name for file in files})
        if missing:
            raise IncompleteModelError(
                f"{folder} lacks {len(missing)} of {len(shards)} weight files, for instance {missing[0]}. "
                "Copy or download them again."
            )
    for file in files:
        try:
            with safe_open(file, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise _damaged(file, error) from None


def _damaged(file: Path, error: Exception) -> IncompleteModelError:
    return IncompleteModelError(f"{file} is damaged or was not copied to its end ({error}). Copy or download it again.")
