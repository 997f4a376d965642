"""A figure with its number of samples and its uncertainty."""

from collections.abc import Callable

import numpy as np
from pydantic import BaseModel, ConfigDict
from scipy.stats import binomtest, bootstrap

LEVEL = 0.95
RESAMPLES = 1000


class Estimate(BaseModel):
    """A measured figure.

    Attributes:
        value: the figure on all samples.
        low, high: a 95 % interval.
        count: the number of samples, mostly pictures.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    value: float
    low: float
    high: float
    count: int


def mean(values_N: np.ndarray, *, seed: int = 0, resamples: int = RESAMPLES) -> Estimate:
    """Return the mean of numbers with its bootstrap percentile interval, or the share of True with Wilson's interval.

    Where all values of a share are equal, the interval is one-sided: it ends at the largest or smallest share that
    would still give that in one sample of twenty (Clopper and Pearson, Biometrika 26, 1934).

    Raises:
        ValueError: there are no values.
    """
    values = np.asarray(values_N)
    if not len(values):
        raise ValueError("the mean of no samples does not exist")
    if values.dtype == bool:
        return _share(int(values.sum()), len(values))
    value = float(values.mean())
    if np.all(values == values[0]):
        # The bootstrap needs at least two samples, and of equal ones it is degenerate.
        return Estimate(value=value, low=value, high=value, count=len(values))
    interval = bootstrap(
        (values,), np.mean, n_resamples=resamples, confidence_level=LEVEL, method="percentile",
        # some resamples at once; all of them would need gigabytes for 30,000 pictures
        batch=max(1, 2_000_000 // len(values)), rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    return Estimate(value=value, low=float(interval.low), high=float(interval.high), count=len(values))


def _share(hits: int, count: int) -> Estimate:
    if hits in (0, count):
        test = binomtest(hits, count, alternative="less" if hits == 0 else "greater")
        interval = test.proportion_ci(LEVEL, method="exact")
    else:
        interval = binomtest(hits, count).proportion_ci(LEVEL, method="wilson")
    return Estimate(value=hits / count, low=float(interval.low), high=float(interval.high), count=count)


def between(
    statistic: Callable[[np.ndarray, np.ndarray], float],
    a_ND: np.ndarray,
    b_ND: np.ndarray,
    *,
    paired: bool = False,
    seed: int = 0,
    resamples: int = 50,
) -> Estimate:
    """Return a distance between two sets of samples, with 1.96 bootstrap standard errors on either side, 0 or more.

    Distances between sets grow when samples are drawn twice, so the resampled distances lie above the figure itself:
    only their spread is used.

    Args:
        paired: samples of the same index belong together (pictures of the same prompts and seeds) and are resampled
            together; otherwise each set is resampled by itself.
    """
    value = statistic(a_ND, b_ND)
    # scipy resamples along one axis of numbers, so it is given the samples' indices.
    found = bootstrap(
        (np.arange(len(a_ND)), np.arange(len(b_ND))),
        lambda a_N, b_N: statistic(a_ND[a_N.astype(int)], b_ND[b_N.astype(int)]),
        vectorized=False, paired=paired, n_resamples=resamples, method="percentile", rng=np.random.default_rng(seed),
    )  # fmt: skip
    reach = 1.96 * float(found.standard_error)
    return Estimate(value=value, low=max(value - reach, 0.0), high=value + reach, count=min(len(a_ND), len(b_ND)))
