"""Confidence intervals for accuracies. Standard library only."""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Wilson's 95% score interval for a proportion, within 0 and 1.

    Unlike the textbook interval it is right at 0 of n and n of n too, which passkey grids are full of.

    Raises:
        ValueError: no trials, or more successes than trials.
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes of {trials} trials is no proportion.")
    z = NormalDist().inv_cdf((1 + 0.95) / 2)
    share = successes / trials
    center = share + z * z / (2 * trials)
    spread = z * sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    # At the ends the formula gives exactly 0 or 1, but for rounding.
    low = 0.0 if successes == 0 else (center - spread) / scale
    high = 1.0 if successes == trials else (center + spread) / scale
    return low, high
