"""What several test files share: the oracle's answers, tolerances, chunked runs, and a model's complete state."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from architectures import BY_NAME, TRAINED_WINDOW, VOCABULARY, Architecture, build, token_ids
from reference import NaiveModel
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Cache, PreTrainedModel, PreTrainedTokenizerFast

from selfextend import SelfExtendConfig, self_extend
from selfextend.generation import ReadyModel
from selfextend.profile import Profile
from selfextend.recording import AttentionRecord, RecordingRequest, recorder_of

LENGTH = 73
CONFIG = SelfExtendConfig(group_size=3, neighbor_window=16)  # G does not divide w
DIVIDING = SelfExtendConfig(group_size=4, neighbor_window=16)
VANILLA = SelfExtendConfig(group_size=1, neighbor_window=16)
CHUNKS = (1, 30, 2, 23, 17)
assert sum(CHUNKS) == LENGTH


class Letters:
    """As much of a tokenizer as an answer needs."""

    def __init__(self, eos_token_id: int | None = None) -> None:
        self.eos_token_id = eos_token_id

    def decode(self, ids: list[int], **_: Any) -> str:
        return "".join(chr(65 + token % 26) for token in ids)


def ready_model(model: PreTrainedModel, profile: Profile, end_token: int | None = None) -> ReadyModel:
    """A model that answers in `Letters`."""
    tokenizer: Any = Letters(end_token)
    return ReadyModel(model, tokenizer, profile)


def extended(model: PreTrainedModel, config: SelfExtendConfig = CONFIG, **kwargs: Any) -> Any:
    """`self_extend` on a tiny model: no test means to pass the reach unless it says so."""
    return self_extend(model, config, **({"trained_window": TRAINED_WINDOW, "on_overflow": "error"} | kwargs))


@contextmanager
def recording(model: PreTrainedModel, request: RecordingRequest) -> Iterator[AttentionRecord]:
    """The record of the forward passes inside a `with` block, whole once the block ends well."""
    with recorder_of(model, request) as recorder:
        yield recorder.record
        for _ in recorder.finish():
            pass


@torch.no_grad()
def logits(model: PreTrainedModel, input_ids: torch.Tensor, **kwargs: Any) -> torch.Tensor:
    return model(input_ids, **kwargs).logits


@torch.no_grad()
def in_chunks(
    model: PreTrainedModel, input_ids: torch.Tensor, sizes: Iterable[int] = CHUNKS, cache: Cache | None = None
) -> tuple[torch.Tensor, Cache]:
    """All logits, and the cache, of a prefill in pieces of the given sizes."""
    pieces = []
    for piece in input_ids.split(list(sizes), dim=1):
        output = model(piece, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        pieces.append(output.logits)
    assert cache is not None
    return torch.cat(pieces, dim=1), cache


def plain_model(architecture: Architecture | str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The untouched model that SelfExtend is compared with: without a sliding window that holds for every layer."""
    return build(architecture, dtype, windowless=True)


def naive(architecture: Architecture | str, config: SelfExtendConfig, dtype: torch.dtype = torch.float32) -> NaiveModel:
    architecture = BY_NAME[architecture] if isinstance(architecture, str) else architecture
    return NaiveModel(
        plain_model(architecture, dtype),
        config.group_size,
        config.neighbor_window,
        query_scaling=config.query_scaling,
        trained_window=TRAINED_WINDOW,
        local_layers=architecture.local_layers,
        no_rope_layers=architecture.no_rope_layers,
    )


@cache
def oracle_logits(
    name: str, config: SelfExtendConfig, dtype: torch.dtype = torch.float32, length: int = LENGTH, batch: int = 1
) -> torch.Tensor:
    """(batch, length, vocab) float64 logits of the naive model on `token_ids(length, batch)`."""
    return naive(name, config, dtype).logits(token_ids(length, batch))


@cache
def plain_logits(name: str, dtype: torch.dtype = torch.float32, length: int = LENGTH, batch: int = 1) -> torch.Tensor:
    return logits(plain_model(name, dtype), token_ids(length, batch))


class Words(PreTrainedTokenizerFast):
    """Word number 12 is "w12"."""

    def __init__(self) -> None:
        words = Tokenizer(models.WordLevel({**{f"w{n}": n for n in range(VOCABULARY)}, "?": VOCABULARY}, unk_token="?"))
        words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        super().__init__(tokenizer_object=words, unk_token="?")


class Largest(TorchDispatchMode):
    """The largest tensor that was made, in bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.nbytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.nbytes = max(self.nbytes, tensor.untyped_storage().nbytes())
        return result


def typical_difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """The root mean square: of the largest of some ten thousand roundings, luck decides."""
    return float((a.double() - b.double()).square().mean().sqrt())


def largest_difference(actual: torch.Tensor, expected: torch.Tensor) -> float:
    assert actual.shape == expected.shape
    assert not actual.isnan().any()
    return (actual.double() - expected.double()).abs().max().item()


def assert_same(actual: torch.Tensor, expected: torch.Tensor, relative: float = 2e-5) -> None:
    """Equal but for fp32 rounding, measured against the largest logit."""
    difference, size = largest_difference(actual, expected), expected.abs().max().item()
    assert difference <= relative * size, f"differ by {difference:.2e}, where the largest is {size:.2e}"


def plain_error(name: str, dtype: torch.dtype, length: int = LENGTH) -> float:
    """How far the untouched model in `dtype` is from the same model in float64."""
    return typical_difference(plain_logits(name, dtype, length), oracle_logits(name, VANILLA, dtype, length))


def full_state(model: PreTrainedModel) -> dict[str, Any]:
    """Everything that enabling something on a model could leave behind, in comparable form.

    Modules: class, every attribute (hooks too), parameters by identity and content version, buffers by content.
    Config and generation config by value. The functions and classes of transformers' modeling files, and torch's
    attention.
    """
    state: dict[str, Any] = {"config": _config_state(model.config)}
    if getattr(model, "generation_config", None) is not None:
        state["generation_config"] = json.dumps(model.generation_config.to_dict(), sort_keys=True, default=str)
    for name, module in model.named_modules():
        state[f"module {name}"] = type(module)
        for key, value in vars(module).items():
            if key == "_buffers":
                value = {f"{name}.{buffer}": _comparable(content) for buffer, content in value.items()}
                state |= {f"buffer {buffer}": content for buffer, content in value.items()}
            else:
                state[f"attribute {name}.{key}"] = _comparable(value)
    for name, parameter in model.named_parameters():
        state[f"parameter {name}"] = (id(parameter), parameter._version)
    sources = {type(module).__module__ for module in model.modules()}
    for source in sorted(source for source in sources if source.startswith(("transformers.models", "torch.nn"))):
        for key, value in vars(sys.modules[source]).items():
            if callable(value):
                state[f"global {source}.{key}"] = id(value)
            if isinstance(value, type) and value.__module__ == source:
                state |= {f"method {value.__qualname__}.{k}": id(v) for k, v in vars(value).items() if callable(v)}
    state["torch attention"] = id(torch.nn.functional.scaled_dot_product_attention)
    return state


def _config_state(config: Any) -> dict[str, str]:
    return {key: repr(value) for key, value in vars(config).items()} | {"dict": repr(config.to_dict())}


def _comparable(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return (value.dtype, value.device, value.tolist())
    if isinstance(value, (int, float, str, bool, tuple, type(None), torch.dtype)):
        return repr(value)
    if isinstance(value, dict):
        return [(repr(k), id(v)) for k, v in value.items()]
    return id(value)


def assert_same_state(before: dict[str, Any], after: dict[str, Any]) -> None:
    changed = {k: (before.get(k), after.get(k)) for k in before.keys() | after.keys() if before.get(k) != after.get(k)}
    assert not changed, f"left behind: {changed}"
