"""Metrics against explicit loops, closed forms and scipy."""

import math

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st

from semiperm.evaluation import metrics


def features(count: int, channels: int, seed: int, shift: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, channels)) @ rng.normal(size=(channels, channels)) + shift


def loop_cosine(a: np.ndarray, b: np.ndarray) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def test_clip_scores_are_250_times_the_cosine_and_never_negative() -> None:
    pictures, texts = features(20, 5, 0), features(20, 5, 1)
    found = metrics.clip_scores(pictures, texts)
    for row, score in enumerate(found):
        assert score == pytest.approx(max(0.0, 250 * loop_cosine(pictures[row], texts[row])))
    assert (found == 0).any() and (found > 0).any()


def test_one_text_serves_all_pictures() -> None:
    pictures, text = features(6, 5, 0), features(1, 5, 1)
    assert metrics.clip_scores(pictures, text) == pytest.approx(metrics.clip_scores(pictures, text.repeat(6, 0)))


def test_a_tie_counts_as_an_error() -> None:
    picture = np.array([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    target, surrogate = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
    assert metrics.clip_errors(picture, target, surrogate).tolist() == [True, False, True]


def test_a_vector_without_direction_is_refused() -> None:
    with pytest.raises(ValueError, match="all zeros"):
        metrics.clip_scores(np.zeros((1, 3)), np.ones((1, 3)))


def scipys_frechet(a: np.ndarray, b: np.ndarray) -> float:
    first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = np.real(np.asarray(scipy.linalg.sqrtm(first @ second)))
    apart = a.mean(0) - b.mean(0)
    return float(apart @ apart + np.trace(first + second - 2 * root))


@pytest.mark.parametrize(("many", "few"), [(200, 200), (300, 50), (12, 40)])
def test_the_frechet_distance_is_scipys(many: int, few: int) -> None:
    a, b = features(many, 6, 2), features(few, 6, 3, shift=0.5)
    assert metrics.frechet_distance(a, b) == pytest.approx(scipys_frechet(a, b), rel=1e-6)


def test_the_frechet_distance_of_gaussians_along_axes_has_a_closed_form() -> None:
    rng = np.random.default_rng(0)
    white = rng.normal(size=(400, 3))
    white -= white.mean(0)
    white = white @ np.linalg.inv(np.linalg.cholesky(np.cov(white, rowvar=False))).T
    a, b = white * [1.0, 2.0, 0.0] + [1.0, 0.0, 0.0], white * [3.0, 2.0, 4.0]
    # (mean 1 against 0) + sum of squared differences of the standard deviations
    assert metrics.frechet_distance(a, b) == pytest.approx(1 + (1 - 3) ** 2 + 0 + 4**2)


def test_fewer_pictures_than_channels_are_no_difficulty() -> None:
    a, b = features(5, 64, 4), features(7, 64, 5)
    assert metrics.frechet_distance(a, b) == pytest.approx(scipys_frechet(a, b), rel=1e-4)
    assert metrics.frechet_distance(a, a) == pytest.approx(0, abs=1e-6 * float((a**2).sum()))


def kernel(a: np.ndarray, b: np.ndarray) -> float:
    return (sum(p * q for p, q in zip(a, b, strict=True)) / len(a) + 1) ** 3


def loop_kernel_distance(x: np.ndarray, y: np.ndarray) -> float:
    within = sum(
        kernel(s[i], s[j]) / (len(s) * (len(s) - 1)) for s in (x, y) for i in range(len(s)) for j in range(len(s))
        if i != j
    )  # fmt: skip
    return within - 2 * sum(kernel(a, b) for a in x for b in y) / (len(x) * len(y))


def loop_paired_kernel_distance(x: np.ndarray, y: np.ndarray) -> float:
    n = len(x)
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
    found = [kernel(x[i], x[j]) + kernel(y[i], y[j]) - kernel(x[i], y[j]) - kernel(x[j], y[i]) for i, j in pairs]
    return sum(found) / len(pairs)


def loop_jackknife(values: list[float]) -> float:
    n, middle = len(values), sum(values) / len(values)
    return math.sqrt((n - 1) / n * sum((value - middle) ** 2 for value in values))


def without(x: np.ndarray) -> list[np.ndarray]:
    return [np.delete(x, number, 0) for number in range(len(x))]


def test_the_kernel_distance_is_the_explicit_double_sum_with_its_jackknife() -> None:
    x, y = features(9, 4, 6), features(6, 4, 7)
    value, error = metrics.kernel_distance(x, y)
    assert value == pytest.approx(loop_kernel_distance(x, y))
    of_x = loop_jackknife([loop_kernel_distance(some, y) for some in without(x)])
    of_y = loop_jackknife([loop_kernel_distance(x, some) for some in without(y)])
    assert error == pytest.approx(math.hypot(of_x, of_y))


def test_the_kernel_distance_of_pairs_leaves_out_each_pairs_own_kernel() -> None:
    x, y = features(8, 4, 6), features(8, 4, 7)
    value, error = metrics.kernel_distance(x, y, paired=True)
    assert value == pytest.approx(loop_paired_kernel_distance(x, y))
    left = [loop_paired_kernel_distance(*some) for some in zip(without(x), without(y), strict=True)]
    assert error == pytest.approx(loop_jackknife(left))
    assert metrics.kernel_distance(x, x, paired=True) == (0, 0)
    # as if the two sets were independent, pictures that did not change would be at a distance below 0
    assert metrics.kernel_distance(x, x)[0] < 0
    with pytest.raises(ValueError, match="same size"):
        metrics.kernel_distance(x, y[:5], paired=True)


def test_many_pictures_are_compared_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = features(9, 4, 6), features(7, 4, 7)
    whole = metrics.kernel_distance(x, y)
    monkeypatch.setattr(metrics, "ROWS_AT_ONCE", 2)
    assert metrics.kernel_distance(x, y) == pytest.approx(whole)


def two_sets(
    rng: np.random.Generator, count: int, shift: float, *, alike: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Return sets of 64 channels whose rows of the same index correlate as much as `alike` says."""
    a, own = rng.normal(size=(2, count, 64))
    return a, alike * a + math.sqrt(1 - alike**2) * own + shift


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("shift", [0.0, 0.25])
def test_the_interval_of_the_kernel_distance_holds_and_it_has_no_bias(shift: float, paired: bool) -> None:
    rng = np.random.default_rng(8)
    truth, _ = metrics.kernel_distance(*two_sets(rng, 4000, shift))
    alike = 0.9 if paired else 0.0
    found = [
        metrics.kernel_distance(*two_sets(rng, metrics.KERNEL_PICTURES, shift, alike=alike), paired=paired)
        for _ in range(200)
    ]
    values = np.array([value for value, _ in found])
    assert abs(values.mean() - truth) < 0.02 * (1 + values.std())
    # 95 % with a standard deviation of 1.5 % over 200 trials; more where both sets have one distribution
    assert np.mean([abs(value - truth) <= 1.96 * error for value, error in found]) >= 0.89


def test_fifty_pictures_tell_sets_apart_where_five_do_not() -> None:
    rng = np.random.default_rng(9)

    def told_apart(count: int) -> float:
        found = [metrics.kernel_distance(*two_sets(rng, count, 0.25)) for _ in range(100)]
        return float(np.mean([value - 1.96 * error > 0 for value, error in found]))

    assert told_apart(metrics.KERNEL_PICTURES) > 0.95 and told_apart(5) < 0.1


def test_the_frechet_distance_needs_ten_thousand_pictures_for_inceptions_channels() -> None:
    assert metrics.frechet_suffices(10_000, 2048) and not metrics.frechet_suffices(9_999, 2048)
    # the terrarium's oracle
    assert metrics.frechet_suffices(1_875, 384) and not metrics.frechet_suffices(1_874, 384)


@pytest.mark.parametrize("channels", [16, 64])
def test_with_fewer_pictures_a_set_is_far_from_itself(channels: int) -> None:
    rng = np.random.default_rng(0)

    def of_itself(pictures: int) -> float:
        """As a share of the variance of all channels together."""
        draws = [[rng.normal(size=(pictures, channels)) for _ in range(2)] for _ in range(10)]
        return float(np.mean([metrics.frechet_distance(*pair) for pair in draws])) / channels

    fewest = next(n for n in range(2, 10_000) if metrics.frechet_suffices(n, channels))
    assert of_itself(5) > 1 and of_itself(channels) > 0.5
    assert of_itself(fewest) < 0.15


def test_sets_that_cannot_be_compared_are_refused() -> None:
    for distance in (metrics.frechet_distance, metrics.kernel_distance):
        with pytest.raises(ValueError, match="same kind"):
            distance(np.zeros((4, 3)), np.zeros((4, 2)))
        with pytest.raises(ValueError, match="two pictures"):
            distance(np.zeros((1, 3)), np.zeros((4, 3)))
    with pytest.raises(ValueError, match="three pictures"):
        metrics.kernel_distance(np.zeros((2, 3)), np.zeros((4, 3)))


def test_unlearned_and_retained_ask_the_labels() -> None:
    labels = [("cat",), ("dog", "cat"), (), ("dog",)]
    assert metrics.unlearned(labels, ["cat"] * 4).tolist() == [False, False, True, True]
    assert metrics.retained(labels, ["cat", "dog", "dog", "cat"]).tolist() == [True, True, False, False]
    with pytest.raises(ValueError):
        metrics.retained(labels, ["cat"])


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=5))
def test_a_harmonic_mean_lies_between_the_smallest_and_the_arithmetic_mean(shares: list[float]) -> None:
    found = metrics.harmonic_mean(*shares)
    assert min(shares) - 1e-9 <= found <= sum(shares) / len(shares) + 1e-9


def test_the_harmonic_mean_of_known_shares() -> None:
    assert metrics.harmonic_mean(0.5, 1.0) == pytest.approx(2 / 3)
    assert metrics.harmonic_mean(1.0, 0.0, 1.0) == 0
    with pytest.raises(ValueError, match="0 to 1"):
        metrics.harmonic_mean(97.0, 3.0)


def test_exposures_count_only_what_is_counted_and_sure_enough() -> None:
    seen = [{"bomb": 0.9, "cat": 0.99}, {"bomb": 0.4, "knife": 0.6}, {}]
    found = metrics.exposures(seen, ("bomb", "knife"), 0.6)
    assert {name: hits.tolist() for name, hits in found.items()} == {
        "bomb": [True, False, False],
        "knife": [False, True, False],
    }


def test_copies_are_those_that_point_the_same_way() -> None:
    pictures = np.array([[2.0, 0.0], [3.0, 4.0], [0.0, 1.0]])
    assert metrics.copies(pictures, np.array([1.0, 0.0]), 0.6).tolist() == [True, True, False]


def test_alteration_against_loops() -> None:
    rng = np.random.default_rng(9)
    bare = rng.integers(0, 256, (4, 5, 6, 3)).astype(np.uint8)
    guarded = bare.copy()
    guarded[1] = rng.integers(0, 256, (5, 6, 3))
    guarded[2, 0, 0, 0] ^= 1
    found = metrics.alteration(guarded, bare)
    assert found.identical_N.tolist() == [True, False, False, True]
    for n in range(4):
        total = sum(
            abs(int(p) - int(q)) for p, q in zip(guarded[n].ravel().tolist(), bare[n].ravel().tolist(), strict=True)
        )
        assert found.error_N[n] == pytest.approx(total / 255 / 90, rel=1e-5)
    with pytest.raises(ValueError, match="same size"):
        metrics.alteration(guarded[:3], bare)


def test_deviation_is_the_mean_absolute_difference_from_the_original() -> None:
    rng = np.random.default_rng(3)
    original = rng.integers(0, 256, (4, 5, 3)).astype(np.uint8)
    pictures = np.stack([original, 255 - original])
    far = np.abs(255 - 2 * original.astype(float)).mean() / 255
    np.testing.assert_allclose(metrics.deviation(pictures, original), [0, far], rtol=1e-5)
    with pytest.raises(ValueError, match="size"):
        metrics.deviation(pictures[:, :3], original)
