"""A training run: a model that counts what it is asked, and all that the next step depends on."""

from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor

from semiperm.erasing.trajectories import States
from semiperm.models.base import DiffusionModel, TextFeatures


@dataclass
class Counted:
    """A model's `predict` that counts the samples it was asked about."""

    model: DiffusionModel
    autocast: bool = False
    evaluations: int = 0

    def __call__(self, x: Tensor, t: Tensor, features: TextFeatures) -> Tensor:
        self.evaluations += len(x)
        with torch.autocast(x.device.type, torch.bfloat16) if self.autocast else nullcontext():
            # a scheduler's arithmetic leaves half precision
            return self.model.predict(x.to(self.model.dtype), t, features).float()


@dataclass
class Run:
    """What training has come to: everything that the next step depends on.

    `empty` is what guidance is measured against, encoded once: under offloading the text encoder would take the
    denoiser's place for it.
    """

    weights: list[Tensor]
    optimizer: torch.optim.Optimizer
    predict: Counted
    generator: torch.Generator
    empty: TextFeatures | None = None
    step: int = 0
    states: States | None = None
    losses: list[tuple[float, float]] = field(default_factory=list)
