"""Noisy states to train on: all states of whole denoising trajectories of the target, not one of each."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from semiperm.models.model import DiffusionModel
from semiperm.models.text import TextFeatures, concatenate

# B trajectories, S states, C channels, H height, W width

Predict = Callable[[Tensor, Tensor, TextFeatures], Tensor]


@dataclass
class Counted:
    """A model's `predict` that counts the samples that it evaluates."""

    model: DiffusionModel
    autocast: bool = False
    evaluations: int = 0

    def __call__(self, x: Tensor, t: Tensor, features: TextFeatures) -> Tensor:
        self.evaluations += len(x)
        with torch.autocast(x.device.type, torch.bfloat16) if self.autocast else nullcontext():
            # The arithmetic of a scheduler leaves half precision.
            return self.model.predict(x.to(self.model.dtype), t, features).float()


@dataclass(frozen=True)
class States:
    """Noisy latents (S, C, H, W), the timestep that each belongs to, and the target prompt that it came from."""

    x_SCHW: Tensor
    t_S: Tensor
    prompt_S: Tensor

    def __len__(self) -> int:
        return len(self.t_S)


@torch.no_grad()
def denoise(
    model: DiffusionModel,
    predict: Predict,
    scheduler: Any,
    prompts: TextFeatures,
    *,
    guidance: float,
    generator: torch.Generator,
    empty: TextFeatures | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (timestep, latents (B, C, H, W)) from pure noise on; the timestep belongs to the latents.

    `empty` are the unconditional features of one prompt; they are encoded if not given.
    """
    count = len(prompts)
    # A generator draws on its own device only.
    x = torch.randn((count, *model.latent_shape()), generator=generator, device=generator.device)
    x = x.to(model.device, model.dtype)
    x = x * getattr(scheduler, "init_noise_sigma", 1.0)
    features = prompts
    if not model.distilled:
        nothing = model.unconditional(count) if empty is None else empty.select([0] * count)
        features = concatenate([nothing, prompts])
    yield scheduler.timesteps[0], x
    for t, after in pairwise(scheduler.timesteps):
        if model.distilled:
            found = predict(x, t.expand(count), features)
        else:
            unasked, asked = predict(torch.cat([x, x]), t.expand(2 * count), features).chunk(2)
            found = model.guided(unasked, asked, guidance)
        x = scheduler.step(found, t, x, return_dict=False)[0]
        yield after, x


def sample_states(
    model: DiffusionModel,
    predict: Predict,
    target: TextFeatures,
    prompts: Tensor,
    *,
    steps: int,
    guidance: float,
    generator: torch.Generator,
    empty: TextFeatures | None = None,
) -> States:
    """Denoise one trajectory for each row of `target` named in `prompts` and return all its states but pure noise."""
    scheduler = model.schedule(steps)
    path = denoise(
        model, predict, scheduler, target.select(prompts), guidance=guidance, generator=generator, empty=empty
    )
    _, *states = path
    x_SCHW = torch.cat([x for _, x in states])
    t_S = torch.cat([t.expand(len(prompts)) for t, _ in states])
    return States(x_SCHW, t_S, prompts.repeat(len(states)))
