"""Muon: momentum whose every update is made orthogonal, for the matrices inside the layers.

After Keller Jordan, "Muon: An optimizer for hidden layers in neural networks" (2024). torch.optim.Muon does the same in
bfloat16, which CPUs without instructions for it multiply about nine times slower than float32; this one stays in the
dtype of the gradients. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

# The quintic of Jordan's note: steep at zero, so that five steps bring all singular values near one.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 5


def orthogonalized(matrix: torch.Tensor) -> torch.Tensor:
    """The (rows, columns) matrix of the same singular vectors with singular values between about 0.7 and 1.2."""
    a, b, c = COEFFICIENTS
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    wide = wide / (wide.norm() + 1e-7)
    for _ in range(STEPS):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide if matrix.shape[0] <= matrix.shape[1] else wide.T


class Muon(torch.optim.Optimizer):
    """For matrices only. ``lr`` is the size of an update's singular values, about 0.02; Nesterov momentum."""

    def __init__(self, parameters: Iterable[torch.Tensor], lr: float = 0.02, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Takes one step with the gradients that are there; there is no closure."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                momentum = state["momentum"]
                momentum.lerp_(parameter.grad, 1 - group["momentum"])
                update = orthogonalized(parameter.grad.lerp(momentum, group["momentum"]))
                tall = max(1.0, parameter.shape[0] / parameter.shape[1]) ** 0.5
                parameter.add_(update, alpha=-group["lr"] * tall)
