"""Intervals of figures that are computed from other figures."""

import math
from collections.abc import Sequence

import numpy as np

from semiperm.evaluation.estimate import Estimate, mean


def difference(first: Estimate, second: Estimate) -> Estimate:
    """Return second minus first; the distances to the intervals' ends add up as independent errors do.

    The method of variance estimates recovery for two independent figures (Newcombe, Statistics in Medicine 17, 1998).
    """
    value = second.value - first.value
    down = math.hypot(second.value - second.low, first.high - first.value)
    up = math.hypot(second.high - second.value, first.value - first.low)
    return Estimate(value=value, low=value - down, high=value + up, count=min(first.count, second.count))


def complement(share: Estimate) -> Estimate:
    """Return the share of the pictures that a share leaves."""
    # rounded, so that the complement of a complement is the share itself
    value, low, high = (round(1 - end, 12) for end in (share.value, share.high, share.low))
    return Estimate(value=value, low=low, high=high, count=share.count)


def pooled_share(shares: Sequence[Estimate]) -> Estimate | None:
    """Return the share over all pictures of several shares, with the interval of all of them; None without any."""
    if len(shares) < 2:
        return shares[0] if shares else None
    hits = sum(round(share.value * share.count) for share in shares)
    return mean(np.arange(sum(share.count for share in shares)) < hits)


def pooled_mean(means: Sequence[Estimate]) -> Estimate | None:
    """Return the mean over all samples of several independent means; None without any.

    The interval's ends are as far away as the independent errors of the weighted means are (Newcombe 1998).
    """
    count = sum(one.count for one in means)
    if not count:
        return None
    weights = [one.count / count for one in means]
    value = sum(weight * one.value for weight, one in zip(weights, means, strict=True))
    down = math.hypot(*(weight * (one.value - one.low) for weight, one in zip(weights, means, strict=True)))
    up = math.hypot(*(weight * (one.high - one.value) for weight, one in zip(weights, means, strict=True)))
    return Estimate(value=value, low=value - down, high=value + up, count=count)
