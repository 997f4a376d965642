"""Pictures become tensors."""

import numpy as np

from semiperm.terrarium.pixels import pixels


def test_pixels_go_from_minus_one_to_one() -> None:
    pictures = np.zeros((2, 3, 4, 3), np.uint8)
    pictures[0, 1, 2, 0] = 255
    x = pixels(pictures)
    assert x.shape == (2, 3, 3, 4)
    assert x[0, 0, 1, 2] == 1
    assert float(x.sum()) == -(x.numel() - 2)
