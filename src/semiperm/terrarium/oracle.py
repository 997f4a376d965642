"""The oracle: a small CNN, trained on rendered scenes only, that judges which objects and style a picture shows."""

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from semiperm.terrarium import WEIGHTS
from semiperm.terrarium.pixels import pixels
from semiperm.terrarium.world import MEMORISED, OBJECT_NAMES, STYLE_NAMES

# from this probability on a subject counts as shown
PRESENT = 0.5
SUBJECTS: tuple[str, ...] = (*OBJECT_NAMES, *(picture.name for picture in MEMORISED))


def _layer(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


class OracleNet(nn.Module):
    """Seven convolutions, and a head each for subjects (independent labels) and style (one class)."""

    def __init__(self, channels: int = 32):
        super().__init__()
        c = channels
        self.body = nn.Sequential(
            _layer(3, c), _layer(c, c, 2), _layer(c, 2 * c), _layer(2 * c, 2 * c, 2),
            _layer(2 * c, 4 * c), _layer(4 * c, 4 * c, 2), _layer(4 * c, 6 * c),
        )  # fmt: skip
        self.subject = nn.Linear(6 * c, len(SUBJECTS))
        self.style = nn.Linear(12 * c, len(STYLE_NAMES))

    def embed(self, x_BCHW: Tensor) -> Tensor:
        """Return the maximum and the mean of every channel of the last feature map: (B, 12 channels)."""
        maps = self.body(x_BCHW)
        return torch.cat([maps.amax((-1, -2)), maps.mean((-1, -2))], -1)

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits of the subjects (B, S) and of the styles (B, C)."""
        features = self.embed(x_BCHW)
        return self.subject(features[:, : self.subject.in_features]), self.style(features)


@dataclass(frozen=True)
class Verdict:
    """What the oracle sees in one picture.

    Attributes:
        found: subjects whose probability is above one half, the most probable first.
        style: the most probable style.
        probability: every subject's probability.
    """

    found: tuple[str, ...]
    style: str
    probability: dict[str, float]


class Oracle:
    """Judges which subjects and style pictures show; `load_oracle` loads one."""

    def __init__(self, net: OracleNet):
        self.net = net.eval()

    @torch.no_grad()
    def __call__(self, pictures: np.ndarray) -> list[Verdict]:
        """Judge (B, 64, 64, 3) uint8 pictures."""
        subjects, styles = self.net(pixels(pictures))
        verdicts = []
        for row, best in zip(subjects.sigmoid(), styles.argmax(-1).tolist(), strict=True):
            order = row.argsort(descending=True).tolist()
            found = tuple(SUBJECTS[i] for i in order if row[i] > PRESENT)
            verdicts.append(Verdict(found, STYLE_NAMES[best], dict(zip(SUBJECTS, row.tolist(), strict=True))))
        return verdicts

    @torch.no_grad()
    def embed(self, pictures: np.ndarray) -> np.ndarray:
        """Return the features that the oracle computes from (B, 64, 64, 3) uint8 pictures: (B, D) float32."""
        return self.net.embed(pixels(pictures)).numpy()


@lru_cache(maxsize=2)
def load_oracle(folder: Path | None = None) -> Oracle:
    """Load the oracle from `folder`, or the one that ships with the package."""
    folder = folder or WEIGHTS / "oracle"
    net = OracleNet(**json.loads((folder / "config.json").read_text(encoding="utf-8")))
    # the file is in half precision
    state = load_file(folder / "oracle.safetensors")
    net.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    return Oracle(net)
