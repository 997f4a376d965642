"""The metrics as plain functions on features, scores, labels and pictures.

Every docstring gives the unit and which direction is better for an erasure. Nothing here knows of models or files.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

# N pictures, D feature channels, H height, W width, C colours

CLIP_SCALE = 2.5
ROWS_AT_ONCE = 1000
# The authors of the FID advise 10,000 pictures or more for Inception's 2,048 channels
# (https://github.com/bioinf-jku/TTUR). With fewer the distance of a set to itself is far from 0: it is then about a
# tenth of the features' variance, and the bias grows as one over the number of pictures (arXiv:1911.07023).
FRECHET_PICTURES, FRECHET_CHANNELS = 10_000, 2048
KERNEL_PICTURES = 50
"""The kernel distance is unbiased for any number of pictures, but with few its interval says nothing: from this many on
it tells sets of 64 channels apart that differ by a quarter of a standard deviation; with 5 it does so in 1 of 30."""


def cosine(a_ND: np.ndarray, b_ND: np.ndarray) -> np.ndarray:
    """Return the cosine of every row of `a_ND` with the same row of `b_ND` (or with its only one): (N,).

    Raises:
        ValueError: a row is all zeros, so it has no direction.
    """
    a, b = np.asarray(a_ND, np.float64), np.asarray(b_ND, np.float64)
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    if not np.all(lengths > 0):
        raise ValueError("a feature vector is all zeros: it has no direction to compare")
    return (a * b).sum(-1) / lengths


def clip_scores(picture_ND: np.ndarray, text_ND: np.ndarray) -> np.ndarray:
    """Return each picture's CLIP score with its text, 0 to 250: lower is better for what was erased.

    100 * max(2.5 cos, 0) (CLIPScore, arXiv:2104.08718, with the factor 100 of arXiv:2312.16145, sec. 4).
    """
    return 100 * np.maximum(CLIP_SCALE * cosine(picture_ND, text_ND), 0)


def clip_errors(picture_ND: np.ndarray, target_ND: np.ndarray, surrogate_ND: np.ndarray) -> np.ndarray:
    """Return which pictures are at least as near to the surrogate's text as to the target's: (N,) bool.

    Their share is the CLIP error rate (arXiv:2312.16145, sec. 4): higher is better for what was erased.
    """
    return cosine(picture_ND, surrogate_ND) >= cosine(picture_ND, target_ND)


def frechet_suffices(pictures: int, channels: int) -> bool:
    """Return whether the smaller of two sets is large enough for the Frechet distance of features with many channels.

    10,000 pictures for 2,048 channels, and as many a channel for features of another width.
    """
    return pictures * FRECHET_CHANNELS >= FRECHET_PICTURES * channels


def frechet_distance(a_ND: np.ndarray, b_ND: np.ndarray) -> float:
    """Return the Frechet distance between Gaussians fitted to two sets of features: 0 is the same.

    |mu_a - mu_b|^2 + tr(A + B - 2 (A B)^1/2) (FID, arXiv:1706.08500, eq. 6). The trace of the root is the sum of the
    singular values of A^1/2 B^1/2, which stays real and accurate where the covariances are singular.

    Raises:
        ValueError: a set has fewer than two pictures, or the sets differ in their number of channels.
    """
    a, b = _two_sets(a_ND, b_ND)
    apart = a.mean(0) - b.mean(0)
    # with X = centred / sqrt(N - 1) and A = X^T X, the singular values of A^1/2 B^1/2 are those of X_a X_b^T
    x_a, x_b = ((s - s.mean(0)) / np.sqrt(len(s) - 1) for s in (a, b))
    root = _reduced(x_a) @ _reduced(x_b).T
    cross = np.linalg.svd(root, compute_uv=False).sum()
    return max(0.0, float(apart @ apart + (x_a**2).sum() + (x_b**2).sum() - 2 * cross))


def _reduced(x_ND: np.ndarray) -> np.ndarray:
    """Return at most D rows with the same second moment, so that many pictures cost no more than many channels."""
    return np.asarray(np.linalg.qr(x_ND, mode="r")) if len(x_ND) > x_ND.shape[1] else x_ND


def kernel_distance(a_ND: np.ndarray, b_MD: np.ndarray, *, paired: bool = False) -> tuple[float, float]:
    """Return the kernel distance between two sets of features and its standard error: 0 is the same.

    The unbiased squared maximum mean discrepancy under the kernel (x.y / D + 1)^3 (KID, arXiv:1801.01401, sec. 4), over
    all pictures instead of random subsets, which have the same mean. It may be slightly negative, because it is
    unbiased. The standard error is the jackknife's, which leaves out one picture at a time (Efron and Stein, Annals of
    Statistics 9, 1981).

    Args:
        paired: rows of the same index belong together (pictures of the same prompts and seeds). They are left out
            together, and no picture is compared with its own counterpart, which would bias the distance.

    Raises:
        ValueError: a set has fewer than three pictures, or the sets differ in their number of channels, or pairs in
            their number.
    """
    a, b = _two_sets(a_ND, b_MD)
    if min(len(a), len(b)) < 3:
        raise ValueError(f"a standard error needs three pictures in each set, not {len(a)} and {len(b)}")
    if paired:
        if len(a) != len(b):
            raise ValueError(f"pairs need sets of the same size, not {len(a)} and {len(b)}")
        n = len(a)
        # h(i, j) = k(a_i, a_j) + k(b_i, b_j) - k(a_i, b_j) - k(a_j, b_i), summed over the other pairs j
        own_N = _others(a) + _others(b)
        across_N = _sums(a, b) + _sums(b, a) - 2 * _diagonal(a, b)
        h_N = own_N - across_N
        without_N = (h_N.sum() - 2 * h_N) / ((n - 1) * (n - 2))
        return float(h_N.sum() / (n * (n - 1))), _jackknife(without_N)
    n, m = len(a), len(b)
    a_N, b_M, across_N, across_M = _others(a), _others(b), _sums(a, b), _sums(b, a)
    in_a, in_b, across = a_N.sum() / (n * (n - 1)), b_M.sum() / (m * (m - 1)), across_N.sum() / (n * m)
    without_N = (a_N.sum() - 2 * a_N) / ((n - 1) * (n - 2)) - 2 * (across_N.sum() - across_N) / ((n - 1) * m)
    without_M = (b_M.sum() - 2 * b_M) / ((m - 1) * (m - 2)) - 2 * (across_M.sum() - across_M) / (n * (m - 1))
    return float(in_a + in_b - 2 * across), float(np.hypot(_jackknife(without_N), _jackknife(without_M)))


def _jackknife(without_N: np.ndarray) -> float:
    """Return the standard error of a statistic from its values without each of the samples."""
    n = len(without_N)
    return float(np.sqrt((n - 1) / n * ((without_N - without_N.mean()) ** 2).sum()))


def _kernel(dots: np.ndarray, channels: int) -> np.ndarray:
    return (dots / channels + 1) ** 3


def _diagonal(a_ND: np.ndarray, b_ND: np.ndarray) -> np.ndarray:
    return _kernel((a_ND * b_ND).sum(1), a_ND.shape[1])


def _sums(a_ND: np.ndarray, b_MD: np.ndarray) -> np.ndarray:
    """Return the sum of the kernels of each row of `a_ND` with all of `b_MD`: (N,)."""
    # in parts, because the kernels of 30,000 pictures would need gigabytes
    parts = [a_ND[start : start + ROWS_AT_ONCE] for start in range(0, len(a_ND), ROWS_AT_ONCE)]
    return np.concatenate([_kernel(part @ b_MD.T, a_ND.shape[1]).sum(1) for part in parts])


def _others(x_ND: np.ndarray) -> np.ndarray:
    return _sums(x_ND, x_ND) - _diagonal(x_ND, x_ND)


def _two_sets(a_ND: np.ndarray, b_ND: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(a_ND, np.float64), np.asarray(b_ND, np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"two sets of features of the same kind are needed, not {a.shape} and {b.shape}")
    if min(len(a), len(b)) < 2:
        raise ValueError(f"a distance between sets needs two pictures in each, not {len(a)} and {len(b)}")
    return a, b


def unlearned(labels: Sequence[Collection[str]], targets: Sequence[str]) -> np.ndarray:
    """Return in which pictures a classifier does not find the target that the prompt asked for: (N,) bool.

    Their share is the unlearning accuracy UA (UnlearnCanvas, arXiv:2402.11846, sec. 4): higher is better.
    """
    return ~retained(labels, targets)


def retained(labels: Sequence[Collection[str]], wanted: Sequence[str]) -> np.ndarray:
    """Return in which pictures a classifier finds what the prompt asked for: (N,) bool.

    Their share is the retain accuracy, IRA within the target's domain (objects, styles) and CRA outside of it
    (UnlearnCanvas, arXiv:2402.11846, sec. 4): higher is better.
    """
    return np.array([name in found for found, name in zip(labels, wanted, strict=True)], bool)


def harmonic_mean(*shares: float) -> float:
    """Return the harmonic mean of shares that all should be high, 0 if one of them is 0.

    MACE's overall score (arXiv:2403.06135, sec. 4) is that of efficacy (1 - accuracy on what was erased), specificity
    (accuracy on the rest) and generality (1 - accuracy on synonyms of what was erased), or of the first two.

    Raises:
        ValueError: a share is not between 0 and 1.
    """
    if not shares or not all(0 <= share <= 1 for share in shares):
        raise ValueError(f"a harmonic mean of shares needs numbers from 0 to 1, not {shares}")
    return 0.0 if min(shares) == 0 else len(shares) / sum(1 / share for share in shares)


def exposures(
    detections: Sequence[Mapping[str, float]], counted: Collection[str], threshold: float
) -> dict[str, np.ndarray]:
    """Return for each class that is counted in which pictures a detector finds it: (N,) bool; fewer is better.

    `detections` holds each picture's highest score by class. Counts over I2P's prompts are the exposure figures of
    arXiv:2312.16145, sec. 4.3.
    """
    return {name: np.array([found.get(name, 0.0) >= threshold for found in detections], bool) for name in counted}


def copies(picture_ND: np.ndarray, original_D: np.ndarray, threshold: float) -> np.ndarray:
    """Return which pictures are copies of an original, their features' cosine being `threshold` or more: (N,) bool.

    For SSCD features (arXiv:2202.10261) .75 finds copies with a precision of 90 %. Lower is better for what was erased.
    """
    return cosine(picture_ND, np.asarray(original_D)[None]) >= threshold


def deviation(picture_NHWC: np.ndarray, original_HWC: np.ndarray) -> np.ndarray:
    """Return the mean absolute difference of each uint8 picture from an original: (N,), 0 to 1.

    Higher is better for what was erased.

    Raises:
        ValueError: the sizes differ.
    """
    if picture_NHWC.shape[1:] != original_HWC.shape:
        raise ValueError(f"pictures {picture_NHWC.shape[1:]} and original {original_HWC.shape} differ in size")
    error = np.abs(picture_NHWC.astype(np.float32) - original_HWC.astype(np.float32)) / 255
    return error.reshape(len(error), -1).mean(1)


@dataclass(frozen=True)
class Alteration:
    """How an arm's pictures differ from the bare model's with the same seeds.

    Attributes:
        identical_N: which are equal bit for bit.
        error_N: mean absolute difference of each, 0 to 1.
    """

    identical_N: np.ndarray
    error_N: np.ndarray


def alteration(erased_NHWC: np.ndarray, bare_NHWC: np.ndarray) -> Alteration:
    """Compare uint8 pictures with the bare model's on the same prompts and seeds.

    Raises:
        ValueError: the two sides differ in number or size.
    """
    if erased_NHWC.shape != bare_NHWC.shape:
        raise ValueError(f"pictures of the same size are needed, not {erased_NHWC.shape} and {bare_NHWC.shape}")
    error = np.abs(erased_NHWC.astype(np.float32) - bare_NHWC.astype(np.float32)) / 255
    identical = (erased_NHWC == bare_NHWC).reshape(len(error), -1).all(1)
    return Alteration(identical, error.reshape(len(error), -1).mean(1))
