"""Some of a row's pictures, to show beside its figures."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Example:
    """The first pictures of a row, bare and erased, on the same prompts and seeds.

    Attributes:
        arm, row, group: where the pictures belong, by the names in the report.
        bare: the bare model's pictures: (N, H, W, 3) uint8.
        erased: the arm's pictures; none (N = 0) where the bare model itself was measured.
        prompts: one a picture.
        opened: how far the erasures open for each prompt, as text; empty where nothing is gated.
    """

    arm: str
    row: str
    group: str
    bare: np.ndarray
    erased: np.ndarray
    prompts: Sequence[str]
    opened: Sequence[str]
