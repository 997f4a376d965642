"""Pictures as the tensors that networks read."""

import numpy as np
import torch
from torch import Tensor


def pixels(pictures: np.ndarray) -> Tensor:
    """Return (B, H, W, 3) uint8 as (B, 3, H, W) float32 from -1 to 1."""
    # a copy, because torch warns of read-only memory maps
    return torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)
