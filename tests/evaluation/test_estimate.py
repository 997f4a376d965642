"""Intervals hold what they promise."""

import numpy as np
import pytest
import scipy.stats

from semiperm.evaluation.estimate import between, mean
from semiperm.evaluation.metrics import frechet_distance


def test_the_interval_of_a_mean_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        found = mean(rng.normal(3.0, 2.0, size=60), seed=trial, resamples=300)
        covered += found.low <= 3.0 <= found.high
    # 95 % with a standard deviation of 1.5 % over 200 trials
    assert 0.89 <= covered / 200 <= 0.99


def test_the_interval_of_a_share_is_near_the_exact_one() -> None:
    hits = np.array([True] * 30 + [False] * 70)
    found = mean(hits)
    exact = scipy.stats.binomtest(30, 100).proportion_ci(method="wilson")
    assert found.value == 0.3 and found.count == 100
    assert found.low == pytest.approx(exact.low, abs=0.02)
    assert found.high == pytest.approx(exact.high, abs=0.02)


@pytest.mark.parametrize("count", [1, 16, 300])
def test_none_of_some_leaves_room_for_doubt(count: int) -> None:
    none, everyone = mean(np.zeros(count, bool)), mean(np.ones(count, bool))
    exact = scipy.stats.binomtest(0, count, alternative="less").proportion_ci(0.95, method="exact")
    assert (none.value, none.low) == (0, 0)
    assert none.high == pytest.approx(exact.high)
    assert (everyone.value, everyone.high) == (1, 1)
    assert everyone.low == pytest.approx(1 - exact.high)


def test_numbers_that_are_alike_have_no_spread() -> None:
    found = mean(np.full(9, 0.25))
    assert (found.value, found.low, found.high) == (0.25, 0.25, 0.25)


def test_no_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="no samples"):
        mean(np.zeros(0))


def test_the_interval_of_a_distance_holds_it() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(80, 4)), rng.normal(size=(60, 4)) + 1
    found = between(frechet_distance, a, b)
    assert found.value == frechet_distance(a, b)
    assert found.low < found.value < found.high
    assert found.count == 60
    # |mu_a - mu_b|^2 = 4 and equal covariances
    assert found.low < 4.6 and found.high > 4.0


def test_the_interval_of_a_distance_between_pairs_knows_that_they_belong_together() -> None:
    a = np.random.default_rng(1).normal(size=(80, 4))
    same = between(frechet_distance, a, a, paired=True)
    assert same.value == pytest.approx(0, abs=1e-6) and same.high == pytest.approx(0, abs=1e-6)
    # the same pictures, but a little brighter: the distance is the shift, whichever pairs are drawn
    brighter = between(frechet_distance, a, a + 0.5, paired=True)
    assert brighter.value == pytest.approx(4 * 0.5**2) and brighter.high == pytest.approx(brighter.value)
    apart = between(frechet_distance, a, a + 0.5)
    assert apart.high - apart.value > 0.1
    assert between(frechet_distance, a, a[::-1].copy()).low == 0
