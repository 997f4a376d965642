"""The judge of the terrarium: a small CNN, trained on rendered scenes only, that names objects and style."""

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from . import WEIGHTS
from .dataset import Dataset
from .loop import choose, fit, pixels
from .recipe import TerrariumRecipe
from .world import MEMORISED, OBJECT_NAMES, STYLE_NAMES

PRESENT = 0.5
SUBJECTS: tuple[str, ...] = (*OBJECT_NAMES, *(picture.name for picture in MEMORISED))


def _layer(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


class OracleNet(nn.Module):
    """Seven convolutions; logits for every subject (independent) and for the style (exclusive)."""

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
        """Return the largest and the mean response of every last channel: (B, 12 channels)."""
        maps = self.body(x_BCHW)
        return torch.cat([maps.amax((-1, -2)), maps.mean((-1, -2))], -1)

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        features = self.embed(x_BCHW)
        return self.subject(features[:, : self.subject.in_features]), self.style(features)


@dataclass(frozen=True)
class Verdict:
    """What the oracle sees in one picture: `found` holds every subject of probability above one half, surest first."""

    found: tuple[str, ...]
    style: str
    probability: dict[str, float]


class Oracle:
    """Names what pictures show; made by `load_oracle`."""

    def __init__(self, net: OracleNet):
        self.net = net.eval()

    @torch.no_grad()
    def __call__(self, pictures: np.ndarray) -> list[Verdict]:
        """Judge (B, 64, 64, 3) uint8 pictures."""
        subject, look = self.net(pixels(pictures))
        chance = subject.sigmoid()
        verdicts = []
        for row, best in zip(chance, look.argmax(-1).tolist(), strict=True):
            order = row.argsort(descending=True).tolist()
            found = tuple(SUBJECTS[i] for i in order if row[i] > PRESENT)
            verdicts.append(Verdict(found, STYLE_NAMES[best], dict(zip(SUBJECTS, row.tolist(), strict=True))))
        return verdicts

    @torch.no_grad()
    def embed(self, pictures: np.ndarray) -> np.ndarray:
        """Return what the judge makes of (B, 64, 64, 3) uint8 pictures before it names anything: (B, D) float32."""
        return self.net.embed(pixels(pictures)).numpy()


def train_oracle(data: Dataset, recipe: TerrariumRecipe, folder: Path) -> OracleNet:
    """Train on the rendered scenes under slight noise, because a judge must not hang on single pixels."""
    torch.manual_seed(recipe.seed)
    net = OracleNet(recipe.oracle.channels)
    wanted = np.zeros((len(data), len(SUBJECTS)), np.float32)
    looks = np.full(len(data), -100)
    for row, scene in enumerate(data.scenes):
        for name in (*scene.objects, *([scene.memorised] if scene.memorised else [])):
            wanted[row, SUBJECTS.index(name)] = 1
        if scene.memorised is None:
            looks[row] = STYLE_NAMES.index(scene.style)

    def loss(step: int) -> Tensor:
        rows = np.sort(choose(recipe.seed + 2, step, recipe.oracle.batch, len(data)))
        x = pixels(data.pictures[rows])
        x = x + torch.rand(len(rows), 1, 1, 1) * 0.1 * torch.randn_like(x)
        x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            subject, look = net(x)
        objects = binary_cross_entropy_with_logits(subject.float(), torch.from_numpy(wanted[rows])) * 10
        return objects + cross_entropy(look.float(), torch.from_numpy(looks[rows]))

    settings = recipe.oracle
    fit(
        "oracle", net.to(memory_format=torch.channels_last), loss, folder=folder,  # pyright: ignore[reportCallIssue]
        steps=settings.steps, learning_rate=settings.learning_rate, seed=recipe.seed,
    )  # fmt: skip
    return net.eval()


def save_oracle(net: OracleNet, folder: Path) -> None:
    """Write the oracle's weights in half precision."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in net.state_dict().items()
    }
    save_file(state, folder / "oracle.safetensors")
    (folder / "config.json").write_text(json.dumps({"channels": net.subject.in_features // 6}) + "\n")


@lru_cache(maxsize=2)
def load_oracle(folder: Path | None = None) -> Oracle:
    """Load the shipped oracle, or the one in `folder`."""
    folder = folder or WEIGHTS / "oracle"
    net = OracleNet(**json.loads((folder / "config.json").read_text()))
    state = load_file(folder / "oracle.safetensors")
    net.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    return Oracle(net)
