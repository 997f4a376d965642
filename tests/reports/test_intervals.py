import math

import numpy as np
import pytest

from semiperm.evaluation.estimate import mean
from semiperm.reports.intervals import complement, difference, pooled_mean, pooled_share
from tests.reports.helpers import share


def test_a_difference_is_as_wide_as_two_independent_figures_make_it() -> None:
    found = difference(share(0.5), share(0.3))
    reach = 1.96 * math.sqrt(0.5 * 0.5 / 100 + 0.3 * 0.7 / 100)
    assert found.value == pytest.approx(-0.2)
    assert (found.low, found.high) == (pytest.approx(-0.2 - reach), pytest.approx(-0.2 + reach))


def test_the_interval_of_a_difference_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        first, second = (mean(rng.random(80) < chance, resamples=200) for chance in (0.6, 0.45))
        found = difference(first, second)
        covered += found.low <= -0.15 <= found.high
    assert 0.89 <= covered / 200 <= 0.995


def test_shares_are_pooled_by_their_pictures() -> None:
    pooled = pooled_share([mean(np.array([True] * 8 + [False] * 2)), mean(np.array([True] * 2 + [False] * 38))])
    assert pooled is not None and (pooled.value, pooled.count) == (0.2, 50)
    alike = pooled_share([mean(np.ones(5, dtype=bool))] * 24)
    # as narrow as 120 pictures are, not as wide as 5
    assert alike == mean(np.ones(120, dtype=bool))
    assert pooled_share([]) is None and pooled_mean([]) is None


def test_the_interval_of_a_pooled_mean_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        found = pooled_mean([mean(rng.normal(1, 1, size), resamples=200) for size in (20, 60)])
        assert found is not None and found.count == 80
        covered += found.low <= 1 <= found.high
    assert 0.89 <= covered / 200 <= 0.995


def test_a_complement_swaps_the_ends() -> None:
    found = complement(share(0.9))
    assert (found.value, found.low, found.high) == (
        pytest.approx(0.1), pytest.approx(1 - share(0.9).high), pytest.approx(1 - share(0.9).low)
    )  # fmt: skip
