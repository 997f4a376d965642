"""The metrics as plain functions on features, scores, labels and pictures.

Every docstring gives the unit and which direction is better for an erasure. Nothing here knows of models or files.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

# N pictures, D feature channels, H height, W width, C colours

CLIP_SCALE = 2.5


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


def kernel_distance(
    a_ND: np.ndarray, b_ND: np.ndarray, *, subsets: int = 100, size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Return the kernel distance between two sets of features and its standard error: 0 is the same.

    The unbiased squared maximum mean discrepancy under the kernel (x.y / D + 1)^3, averaged over random subsets
    (KID, arXiv:1801.01401, sec. 4). It may be slightly negative, because it is unbiased.

    Raises:
        ValueError: a set has fewer than two pictures, or the sets differ in their number of channels.
    """
    a, b = _two_sets(a_ND, b_ND)
    size = min(size, len(a), len(b))
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(subsets):
        x, y = (s[rng.choice(len(s), size, replace=False)] for s in (a, b))
        within = sum((k.sum() - np.trace(k)) / (size * (size - 1)) for k in (_kernel(x, x), _kernel(y, y)))
        found.append(within - 2 * _kernel(x, y).mean())
    error = float(np.std(found, ddof=1) / np.sqrt(subsets)) if subsets > 1 else 0.0
    return float(np.mean(found)), error


def _kernel(x_ND: np.ndarray, y_ND: np.ndarray) -> np.ndarray:
    return (x_ND @ y_ND.T / x_ND.shape[1] + 1) ** 3


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
