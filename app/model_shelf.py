"""The one model that all visitors share: loaded, described, replaced."""

from __future__ import annotations

import gc
import hashlib
import threading
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfextend.config import SelfExtendConfig, suggest
from selfextend.errors import ModelTooBigError
from selfextend.presets import BUNDLED, find_preset
from selfextend.profile import Profile, longest_answer, profile_of
from selfextend.steps import Progress, result_of

from .reading_time import ReadingTime, reading_time

if TYPE_CHECKING:
    from selfextend.generation import ReadyModel
    from selfextend.loading.hardware import AskedQuantization
    from selfextend.loading.memory import MemoryEstimate
    from selfextend.loading.models import Loaded


class NoModelError(RuntimeError):
    """A question came before a model; the message says what to do."""


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model that is ready, and the facts that are shown about it.

    Attributes:
        name: "bundled", a folder or a hub id, as it was asked for.
        identity: tells it from other models, of the same label too, and from itself in another quantization. A
            checksum: browsers keep it, and folders are nobody else's business.
        model, tokenizer: transformers' own.
        profile: its trained window, and the settings to start with.
        estimate: the memory it takes.
        supported, reason: whether SelfExtend can be enabled on it, and why or why not.
        extended_layers: indices of the attention layers that SelfExtend changes; layers: how many there are.
        heads: attention heads in a layer.
        configuration: a checksum of what the model is set to, taken while no method was on for it.
        reading_time: how long it takes to read a text here.
    """

    name: str
    identity: str
    model: Any
    tokenizer: Any
    profile: Profile
    estimate: MemoryEstimate
    supported: bool
    reason: str
    extended_layers: tuple[int, ...]
    layers: int
    heads: int
    configuration: str
    reading_time: ReadingTime

    @property
    def ready(self) -> ReadyModel:
        """As the engine takes it."""
        from selfextend.generation import ReadyModel

        return ReadyModel(self.model, self.tokenizer, self.profile)

    @property
    def trained_window(self) -> int:
        """Tokens (the paper's L)."""
        return self.profile.trained_window

    @property
    def label(self) -> str:
        """What to call it in a sentence."""
        preset = find_preset(self.name)
        if preset:
            return preset.label
        path = Path(self.name)
        # Ollama keeps its files under their checksums; a GGUF file states a name of its own.
        stated = getattr(self.model.config, "_model_name_or_path", None) if path.name.startswith("sha256-") else None
        return stated or path.name

    @property
    def is_bundled(self) -> bool:
        """Whether it is the small model that comes with the project."""
        return self.name == BUNDLED

    @property
    def longest_answer(self) -> int:
        """The longest answer that suits it, in tokens."""
        chats = bool(getattr(self.tokenizer, "chat_template", None))
        return longest_answer(self.name, self.trained_window, chats=chats)

    @property
    def activity(self) -> str:
        """Where SelfExtend is at work."""
        if not self.supported:
            return f"SelfExtend cannot be enabled on this model: {self.reason}"
        kept = self.layers - len(self.extended_layers)
        rest = f"; {kept} keep what they do by design (local, or without RoPE)" if kept else ""
        return f"SelfExtend active in {len(self.extended_layers)} of {self.layers} layers{rest}"

    def advice(self, length: int) -> SelfExtendConfig:
        """Settings for `length` tokens: the recommended neighbor window, and the smallest group size that the paper's
        rule allows with it.

        Raises:
            ValueError: the trained window is too small for any.
        """
        profile = self.profile
        return suggest(
            profile.trained_window, length, neighbor_window=profile.neighbors, query_scaling=profile.query_scaling
        )


class ModelShelf:
    """Holds the model that is loaded. One at a time for the whole process."""

    def __init__(self) -> None:
        self._loaded: LoadedModel | None = None
        self._lock = threading.Lock()

    @property
    def loaded(self) -> LoadedModel | None:
        """The model that is ready, or None."""
        return self._loaded

    @property
    def label(self) -> str:
        """What to call the model that is ready; "" where none is."""
        return self._loaded.label if self._loaded else ""

    @property
    def identity(self) -> str:
        """The identity of the model that is ready; "" where none is."""
        return self._loaded.identity if self._loaded else ""

    def need(self) -> LoadedModel:
        """The model that is ready.

        Raises:
            NoModelError: none is.
        """
        if self._loaded is None:
            raise NoModelError("No model is loaded: choose one on the left and press Load.")
        return self._loaded

    def load_steps(
        self, name: str, quantization: AskedQuantization = "none", device: str = "auto"
    ) -> Generator[Progress, None, LoadedModel]:
        """Load a model in place of the loaded one, which stays if this fails or is closed before the end.

        Where only one of the two fits into memory, the old one is released first, and loaded again if this fails.

        Raises:
            ModelLoadError: a subclass with a sentence that says what to do.
            ValueError: an unknown quantization.
        """
        if not self._lock.acquire(blocking=False):
            raise NoModelError("Another model is being loaded. Wait until it is ready, or stop it.")
        try:
            # Under the lock: two threads that import transformers at once break each other's import.
            from selfextend.loading.models import load_steps

            try:
                loaded = yield from load_steps(name, quantization, device)
            except ModelTooBigError as error:
                if self._loaded is None or not _fits_instead(error.estimate, self._loaded.estimate):
                    raise
                loaded = yield from self._in_its_place(name, quantization, device)
            described = _described(name, loaded)
            self.release()
            self._loaded = described
            return described
        finally:
            self._lock.release()

    def _in_its_place(
        self, name: str, quantization: AskedQuantization, device: str
    ) -> Generator[Progress, None, Loaded]:
        """Release the loaded model, then load another; if that fails, load the old one again."""
        from selfextend.loading.models import load_steps

        assert self._loaded is not None
        old = self._loaded.name
        as_before = (old, self._loaded.estimate.quantization, str(self._loaded.estimate.device))
        self.release()
        try:
            return (yield from load_steps(name, quantization, device))
        except BaseException:  # closing counts too
            self._loaded = _described(old, result_of(load_steps(*as_before, allow_oversize=True)))
            raise

    def release(self) -> None:
        """Free the model."""
        self._loaded = None
        gc.collect()


def _fits_instead(new: MemoryEstimate, old: MemoryEstimate) -> bool:
    """Whether the new weights would fit once the old ones are gone."""
    return new.device == old.device and new.weights_bytes <= new.available_bytes + old.weights_bytes


def _described(name: str, loaded: Loaded) -> LoadedModel:
    from selfextend.kept import configuration
    from selfextend.plugin import support

    config = loaded.model.config
    found = support(loaded.model)
    named = f"{loaded.files.resolve()} {loaded.estimate.quantization}"
    return LoadedModel(
        name=name,
        identity=hashlib.sha256(named.encode()).hexdigest()[:16],
        model=loaded.model,
        tokenizer=loaded.tokenizer,
        profile=profile_of(name, loaded.files, config),
        estimate=loaded.estimate,
        supported=found.supported,
        reason=found.reason,
        extended_layers=tuple(layer.index for layer in found.layers if layer.kind == "extended"),
        layers=len(found.layers),
        heads=config.get_text_config(decoder=True).num_attention_heads,
        configuration=configuration(loaded.model),
        reading_time=reading_time(loaded.model, len(found.layers)),
    )
