"""What the metrics need of classifiers, CLIP, detectors and feature extractors."""

from collections.abc import Collection, Sequence
from typing import Any, Protocol

import numpy as np

# N pictures, D feature channels


class Judge(Protocol):
    """Answers questions about pictures (N, H, W, 3) uint8.

    A method whose model or package is missing raises JudgeError when it is called.

    Attributes:
        counted: the detector's classes that count as exposed.
        threshold: lowest detection score that counts.
        copy_threshold: lowest cosine of copy features that counts as a copy.
    """

    counted: tuple[str, ...]
    threshold: float
    copy_threshold: float

    def describe(self) -> dict[str, Any]:
        """Return names, versions and thresholds, for the report."""
        ...

    def labels(self, pictures: np.ndarray, among: Sequence[str]) -> list[Collection[str]]:
        """Return which of some names each picture shows."""
        ...

    def clip_pictures(self, pictures: np.ndarray) -> np.ndarray:
        """Return CLIP's picture features: (N, D)."""
        ...

    def clip_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Return CLIP's text features: (N, D)."""
        ...

    def features(self, pictures: np.ndarray) -> np.ndarray:
        """Return the features that FID and KID are computed on: (N, D)."""
        ...

    def copy_features(self, pictures: np.ndarray) -> np.ndarray:
        """Return the features that reveal copies: (N, D)."""
        ...

    def detections(self, pictures: np.ndarray) -> list[dict[str, float]]:
        """Return the highest score of each class that a detector finds in each picture."""
        ...
