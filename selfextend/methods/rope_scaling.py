"""transformers' own RoPE scalings: its rotary module built anew with other rope parameters."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from selfextend.errors import UnsupportedArchitectureError
from selfextend.methods.base import Method
from selfextend.profile import Profile

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from selfextend.reader import Reader


@dataclass(frozen=True)
class RoPEScaling(Method):
    """What the three scalings have in common.

    Attributes:
        factor: how many times the trained window the text is; None takes it from each length. The model is left as it
            is where a text fits.
    """

    factor: float | None = None

    takes_query_scaling = False

    def at(self, profile: Profile, length: int) -> Self:
        return replace(self, factor=max(1.0, length / profile.trained_window)) if self.factor is None else self

    def settings(self) -> dict[str, Any]:
        return {"rope_type": self.kind, "factor": self.factor}

    @contextmanager
    def _change(self, model: PreTrainedModel, trained_window: int, length: int, observed: bool) -> Iterator[Reader]:
        from selfextend.reader import Reader
        from selfextend.rotary import RotaryForLength, takes_positions

        found = [(name, module) for name, module in model.named_modules() if takes_positions(module)]
        if not found:
            raise UnsupportedArchitectureError(
                f"RoPE scaling ({self.kind}) does not fit this model: it has no rotary embedding."
            )
        scaled = found if length > trained_window else []
        rope = {**self.settings(), "original_max_position_embeddings": trained_window}
        with ExitStack() as undo:
            for name, module in scaled:
                config: Any = copy.deepcopy(module.config)
                config.rope_parameters = _changed(config.rope_parameters, rope)
                config.max_position_embeddings = trained_window
                parent_name, _, attribute = name.rpartition(".")
                parent = model.get_submodule(parent_name)
                undo.callback(setattr, parent, attribute, module)
                rebuilt = type(module)(config=config).to(next(module.buffers()).device)
                setattr(parent, attribute, RotaryForLength(rebuilt, length))
            yield Reader(model)


def _changed(parameters: dict[str, Any], scaling: dict[str, Any]) -> dict[str, Any]:
    """The rope parameters with the scaling put in; of a set per layer type, in that of the layers that see all."""
    per_type = parameters.get("full_attention")
    if isinstance(per_type, dict):
        return {**parameters, "full_attention": _changed(per_type, scaling)}
    own = parameters.get("rope_type", "default")
    if own != "default":
        raise UnsupportedArchitectureError(
            f"This model was trained with RoPE scaling of its own ({own}); putting {scaling['rope_type']} in its place "
            "would break it inside its window too. Leave linear, dynamic and yarn out."
        )
    return {**parameters, **scaling}


@dataclass(frozen=True)
class LinearInterpolation(RoPEScaling):
    """Positions divided by the factor."""

    kind = "linear"
    heading = "Linear interpolation"


@dataclass(frozen=True)
class DynamicNTK(RoPEScaling):
    """Frequencies for the whole length of the text, as when transformers reads it in one go."""

    length: int | None = None

    kind = "dynamic"
    heading = "Dynamic NTK"

    def at(self, profile: Profile, length: int) -> Self:
        return replace(self, factor=1.0, length=length)

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "length": self.length}


@dataclass(frozen=True)
class YaRN(RoPEScaling):
    """High frequencies as they are, low ones interpolated (arXiv 2309.00071)."""

    kind = "yarn"
    heading = "YaRN"
