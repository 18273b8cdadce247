"""The models on this machine already: in the hub's cache, and in Ollama's, LM Studio's and llama.cpp's folders.

Only the beginnings of files are read, a fraction of a millisecond each. Imports neither torch nor transformers.
"""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from huggingface_hub import constants

from selfextend.errors import ModelLoadError
from selfextend.loading.gguf_header import file_type, is_gguf, read_facts
from selfextend.loading.quantization_methods import is_unpacked
from selfextend.loading.safetensors_header import unpacked_numbers, weight_files
from selfextend.profile import profile_of

_OLLAMA_MODEL = "application/vnd.ollama.image.model"
_KIND_IN_NAME = re.compile(r"[.-]((?:I?Q\d|TQ\d|BF16|F16|F32|MXFP4)\w*)$", re.IGNORECASE)
_PART_IN_NAME = re.compile(r"-\d{5}-of-\d{5}$")
_DEEPEST = 4  # folders below one that was named: publisher, repository, and some room
_UNKNOWN_BITS, _FP4_BITS = 4.5, 4
_BITS = {"float32": 32.0, "float16": 16.0, "bfloat16": 16.0}
# GGUF's names for plain numbers; all else is computed with in bfloat16.
_PLAIN_GGUF = {"F32": "float32", "F16": "float16"}


@dataclass(frozen=True)
class LocalModel:
    """One model on this machine.

    Attributes:
        label: what to call it.
        name: what `load_model` takes for it: a hub id, a folder or a GGUF file.
        files: its folder or its GGUF file.
        place: where it was found: "Ollama".
        file_bytes: of its weights on disk.
        trained_window: tokens, or None where its files do not tell.
        quantization: of the weights on disk, as the format's own name says: "Q4_K_M", "gptq", "bfloat16".
        numbers: about how many there are, or None where loading keeps them packed as they are.
        dtype: the type that they are, or are unpacked to, unless the device is slow with it: "bfloat16".
        takes_nf4: whether "auto" quantizes them to nf4 on CUDA.
    """

    label: str
    name: str
    files: Path
    place: str
    file_bytes: int
    trained_window: int | None
    quantization: str
    numbers: int | None
    dtype: str
    takes_nf4: bool


@dataclass(frozen=True)
class Stores:
    """Where to look.

    Attributes:
        hub: the Hugging Face cache.
        ollama: folders with `manifests` and `blobs`.
        folders: name and path of folders with GGUF files or model folders in them, some levels deep.
    """

    hub: Path
    ollama: tuple[Path, ...]
    folders: tuple[tuple[str, Path], ...]


def usual_stores(more: Sequence[Path] = ()) -> Stores:
    """Where this machine's programs keep their models, as their own environment variables say.

    Args:
        more: further folders.
    """
    home = Path.home()
    ollama = [*_named_by("OLLAMA_MODELS"), home / ".ollama" / "models", Path("/usr/share/ollama/.ollama/models")]
    # Each system's folder for caches, as llama.cpp looks for it: LOCALAPPDATA is Windows's.
    parents = [*_named_by("XDG_CACHE_HOME"), *_named_by("LOCALAPPDATA"), home / ".cache", home / "Library" / "Caches"]
    caches = [*_named_by("LLAMA_CACHE"), *(parent / "llama.cpp" for parent in parents)]
    studios = [home / ".lmstudio" / "models", home / ".cache" / "lm-studio" / "models"]
    return Stores(
        hub=Path(constants.HF_HUB_CACHE),
        ollama=tuple(ollama),
        folders=(
            *(("models folder", folder.expanduser()) for folder in more),
            *(("LM Studio", folder) for folder in studios),
            *(("llama.cpp", folder) for folder in caches),
        ),
    )


def _named_by(variable: str) -> list[Path]:
    """The folder that an environment variable names, if it names one."""
    value = os.environ.get(variable)
    return [Path(value)] if value else []


def local_models(stores: Stores) -> list[LocalModel]:
    """The models in these stores, by name; files that cannot be read, and parts of models, are passed over."""
    found: dict[str, LocalModel] = {}
    for model in (*_in_hub(stores.hub), *_in_ollama(stores.ollama), *_in_folders(stores.folders)):
        found.setdefault(str(Path(model.name).resolve()) if os.sep in model.name else model.name, model)
    return sorted(found.values(), key=lambda model: (model.label.lower(), model.file_bytes))


def _in_hub(cache: Path) -> Iterator[LocalModel]:
    for repository in _folders(cache, "models--*"):
        name = repository.name.removeprefix("models--").replace("--", "/")
        snapshot = _snapshot(repository)
        if snapshot is None:
            continue
        model = _in_folder(snapshot, name, name, "Hugging Face")
        if model is not None:
            yield model
        for file in sorted(snapshot.glob("**/*.gguf")):
            yield from _gguf(file, f"{name.rpartition('/')[2]}: {file.stem}", "Hugging Face")


def _snapshot(repository: Path) -> Path | None:
    """The snapshot that the name stands for: the main branch's, else the newest."""
    try:
        commit = (repository / "refs" / "main").read_text().strip()
        if (repository / "snapshots" / commit).is_dir():
            return repository / "snapshots" / commit
    except OSError:
        pass
    return max(_folders(repository / "snapshots", "*"), key=lambda folder: folder.stat().st_mtime, default=None)


def _in_ollama(stores: Sequence[Path]) -> Iterator[LocalModel]:
    """A manifest for each name and tag lists the files, which stand under their checksums."""
    for store in stores:
        for manifest in sorted((store / "manifests").glob("*/*/*/*")) if store.is_dir() else []:
            content = _json(manifest)
            owner, model = manifest.parts[-3:-1]
            label = f"{model if owner == 'library' else f'{owner}/{model}'}:{manifest.name}"
            for layer in content.get("layers") or []:
                if isinstance(layer, dict) and layer.get("mediaType") == _OLLAMA_MODEL:
                    blob = store / "blobs" / str(layer.get("digest")).replace(":", "-")
                    settings = store / "blobs" / str((content.get("config") or {}).get("digest")).replace(":", "-")
                    yield from _gguf(blob, label, "Ollama", str(_json(settings).get("file_type") or ""))


def _in_folders(folders: Sequence[tuple[str, Path]]) -> Iterator[LocalModel]:
    for place, top in folders:
        for folder, below, files in os.walk(top):
            here = Path(folder)
            if len(here.relative_to(top).parts) >= _DEEPEST:
                below.clear()
            for file in sorted(files):
                if file.lower().endswith(".gguf"):
                    yield from _gguf(here / file, Path(file).stem, place)
            model = _in_folder(here, here.name, str(here), place) if "config.json" in files else None
            if model is not None:
                yield model


def _in_folder(folder: Path, label: str, name: str, place: str) -> LocalModel | None:
    """The model in transformers' format in a folder, if there is one that writes text."""
    config = _json(folder / "config.json")
    weights = weight_files(folder)
    writes = any(
        str(architecture).endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration"))
        for architecture in config.get("architectures") or []
    )
    if not (weights and writes) or config.get("is_encoder_decoder"):
        return None
    text = config | (config["text_config"] if isinstance(config.get("text_config"), dict) else {})
    own = text.get("quantization_config")
    own = own if isinstance(own, dict) else {}
    method = str(own.get("quant_method")) if own else ""
    stored = str(text.get("dtype") or text.get("torch_dtype") or "float32")
    try:
        size = sum(file.stat().st_size for file in weights)
        numbers = _numbers(folder, own, int(8 * size / _bits(stored)))
    except OSError:
        return None
    scaling = text.get("rope_parameters") or text.get("rope_scaling")
    if isinstance(scaling, dict):  # older configs call it "type"
        scaling = {"rope_type": scaling.get("type"), **scaling}
    return LocalModel(
        label=label,
        name=name,
        files=folder,
        place=place,
        file_bytes=size,
        trained_window=_window(name, folder, text | {"rope_parameters": scaling}),
        quantization=method or stored,
        numbers=numbers,
        dtype=stored,
        takes_nf4=not method and not Path(name).is_absolute(),
    )


def _window(name: str, files: Path, config: dict[str, Any]) -> int | None:
    """The trained window that the model has once it is loaded, or None where nothing tells."""
    try:
        return profile_of(name, files, SimpleNamespace(**config)).trained_window
    except (ValueError, AttributeError, TypeError, OverflowError):  # whatever stands in its files
        return None


def _numbers(folder: Path, own: dict[str, Any], plain: int) -> int | None:
    """How many numbers the weights in a folder are in memory, or None where they stay packed.

    Args:
        own: how they are quantized, as the config says; {} for not.
        plain: how many there are if they are not.
    """
    if not own:
        return plain
    if not is_unpacked(str(own.get("quant_method"))):
        return None
    try:
        groups = list((own.get("config_groups") or {}).values())
        return unpacked_numbers(folder, groups[0]["weights"]["num_bits"] if groups else _FP4_BITS)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, struct.error):  # not whole: loading it says so
        return plain


def _gguf(path: Path, label: str, place: str, kind: str = "") -> Iterator[LocalModel]:
    """The model in a GGUF file; nothing for a projector, an adapter, an embedding model, a part of a model, or a file
    that is damaged."""
    if _PART_IN_NAME.search(path.stem) or "mmproj" in path.name.lower() or not is_gguf(path):
        return
    try:
        facts = read_facts(path)
        size = path.stat().st_size
    except (ModelLoadError, OSError):
        return
    architecture = facts.get("general.architecture")
    if architecture in (None, "clip") or facts.get("general.type", "model") != "model":
        return
    if facts.get(f"{architecture}.pooling_type") or facts.get(f"{architecture}.attention.causal") is False:
        return
    scaling = {
        "rope_type": facts.get(f"{architecture}.rope.scaling.type"),
        "factor": facts.get(f"{architecture}.rope.scaling.factor"),
        "original_max_position_embeddings": facts.get(f"{architecture}.rope.scaling.original_context_length"),
    }
    config = {"max_position_embeddings": facts.get(f"{architecture}.context_length"), "rope_parameters": scaling}
    named = _KIND_IN_NAME.search(path.stem)
    quantization = kind or file_type(facts) or (named[1].upper() if named else "GGUF")
    yield LocalModel(
        label=label,
        name=str(path),
        files=path,
        place=place,
        file_bytes=size,
        trained_window=_window(str(path), path, config),
        quantization=quantization,
        numbers=int(8 * size / _bits(quantization)),
        dtype=_PLAIN_GGUF.get(quantization, "bfloat16"),
        takes_nf4=True,
    )


def _bits(quantization: str) -> float:
    """Bits a weight, of the number format that most of a model's weights have."""
    name = quantization.upper()
    for spelled in (name, name.rpartition("_")[0]):
        if spelled in GGMLQuantizationType.__members__:
            block, size = GGML_QUANT_SIZES[GGMLQuantizationType[spelled]]
            return 8 * size / block
    return _BITS.get(quantization, _UNKNOWN_BITS)


def _folders(parent: Path, pattern: str) -> list[Path]:
    return sorted(folder for folder in parent.glob(pattern) if folder.is_dir()) if parent.is_dir() else []


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
