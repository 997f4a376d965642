"""Training the oracle, and writing it."""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from semiperm.terrarium.hyperparameters import Hyperparameters
from semiperm.terrarium.making.dataset import Dataset
from semiperm.terrarium.making.loop import OnProgress, choose, fit
from semiperm.terrarium.oracle import SUBJECTS, OracleNet
from semiperm.terrarium.pixels import pixels
from semiperm.terrarium.world import STYLE_NAMES

# the target that cross_entropy ignores
NO_STYLE = -100


def train_oracle(
    data: Dataset, hyperparameters: Hyperparameters, folder: Path, progress: OnProgress | None = None
) -> OracleNet:
    """Train on the rendered scenes, with a little noise so that verdicts do not depend on single pixels."""
    torch.manual_seed(hyperparameters.seed)
    net = OracleNet(hyperparameters.oracle.channels)
    shown = np.zeros((len(data), len(SUBJECTS)), np.float32)
    styles = np.full(len(data), NO_STYLE)
    for row, scene in enumerate(data.scenes):
        for name in (*scene.objects, *([scene.memorised] if scene.memorised else [])):
            shown[row, SUBJECTS.index(name)] = 1
        if scene.memorised is None:
            styles[row] = STYLE_NAMES.index(scene.style)

    def loss(step: int) -> Tensor:
        # sorted, for sequential reads of the memory map
        rows = np.sort(choose(hyperparameters.seed + 2, step, hyperparameters.oracle.batch, len(data)))
        x = pixels(data.pictures[rows])
        x = x + torch.rand(len(rows), 1, 1, 1) * 0.1 * torch.randn_like(x)
        x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            subject_logits, style_logits = net(x)
        objects = binary_cross_entropy_with_logits(subject_logits.float(), torch.from_numpy(shown[rows])) * 10
        return objects + cross_entropy(style_logits.float(), torch.from_numpy(styles[rows]))

    settings = hyperparameters.oracle
    fit(
        "oracle", net.to(memory_format=torch.channels_last), loss, folder=folder,  # pyright: ignore[reportCallIssue]
        steps=settings.steps, learning_rate=settings.learning_rate, seed=hyperparameters.seed, progress=progress,
    )  # fmt: skip
    return net.eval()


def save_oracle(net: OracleNet, folder: Path) -> None:
    """Write the oracle in half precision, for `load_oracle`."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in net.state_dict().items()
    }
    save_file(state, folder / "oracle.safetensors")
    (folder / "config.json").write_text(json.dumps({"channels": net.subject.in_features // 6}) + "\n")
