"""A figure with its number of samples and its uncertainty."""

from collections.abc import Callable

import numpy as np
from pydantic import BaseModel, ConfigDict

LEVEL = 0.95
RESAMPLES = 1000


class Estimate(BaseModel):
    """A measured figure.

    Attributes:
        value: the figure itself, on all samples.
        low, high: a 95 % interval.
        count: the number of samples (pictures, mostly).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    value: float
    low: float
    high: float
    count: int


def mean(values_N: np.ndarray, *, seed: int = 0, resamples: int = RESAMPLES) -> Estimate:
    """Return the mean of numbers, or the share of True, with its bootstrap percentile interval.

    Where all values of a share are alike, resampling knows no doubt (0 of 16 would be 0 to 0): there the interval ends
    at the largest or smallest share that would still give that in one sample of twenty (Clopper and Pearson,
    Biometrika 26, 1934, one-sided).

    Raises:
        ValueError: there are no values.
    """
    values = np.asarray(values_N)
    if not len(values):
        raise ValueError("a mean of no samples was asked for")
    value = float(values.mean())
    if values.dtype == bool and value in (0.0, 1.0):
        doubt = 1 - (1 - LEVEL) ** (1 / len(values))
        low, high = (0.0, doubt) if value == 0 else (1 - doubt, 1.0)
        return Estimate(value=value, low=low, high=high, count=len(values))
    rng = np.random.default_rng(seed)
    drawn = [values[rng.integers(len(values), size=len(values))].mean() for _ in range(resamples)]
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value=value, low=float(low), high=float(high), count=len(values))


def between(
    statistic: Callable[[np.ndarray, np.ndarray], float],
    a_ND: np.ndarray,
    b_ND: np.ndarray,
    *,
    paired: bool = False,
    seed: int = 0,
    resamples: int = 50,
) -> Estimate:
    """Return a distance between two sets of samples with an interval of its bootstrap's standard deviation around it.

    Distances between sets grow when samples are drawn twice, so the resampled values lie above the figure itself:
    only their spread is used, cut off at 0.

    Args:
        paired: the sets belong together sample by sample (pictures of the same prompts and seeds) and are resampled
            so; otherwise each is resampled by itself.
    """
    rng = np.random.default_rng(seed)
    value = statistic(a_ND, b_ND)
    drawn = []
    for _ in range(resamples):
        picks = rng.integers(len(a_ND), size=len(a_ND))
        drawn.append(statistic(a_ND[picks], b_ND[picks if paired else rng.integers(len(b_ND), size=len(b_ND))]))
    reach = 1.96 * float(np.std(drawn, ddof=1))
    return Estimate(value=value, low=max(value - reach, 0.0), high=value + reach, count=min(len(a_ND), len(b_ND)))
