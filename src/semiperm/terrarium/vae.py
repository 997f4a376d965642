"""The terrarium's AutoencoderKL: sharp enough for eyes and whiskers at a quarter of the resolution."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor

from .dataset import Dataset
from .loop import choose, fit, pixels
from .recipe import TerrariumRecipe
from .scenes import SIZE

CROP = 48


def new_vae(recipe: TerrariumRecipe) -> AutoencoderKL:
    """Build the untrained autoencoder."""
    channels = recipe.vae.channels
    build: Any = AutoencoderKL
    return build(
        sample_size=SIZE,
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        layers_per_block=1,
        latent_channels=recipe.vae.latent_channels,
        norm_num_groups=8,
    )


def reconstruction_loss(found: Tensor, wanted: Tensor, gradient_weight: float) -> Tensor:
    """Return L1 + L2 + the L1 distance of horizontal and vertical differences, which is what keeps edges sharp."""
    error = found - wanted
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return error.abs().mean() + error.square().mean() + gradient_weight * edges


def train_vae(data: Dataset, recipe: TerrariumRecipe, folder: Path) -> AutoencoderKL:
    """Train encoder and decoder, mostly on crops, because flat backgrounds teach nothing; sets the scaling factor."""
    torch.manual_seed(recipe.seed)
    model = new_vae(recipe)
    settings = recipe.vae
    # textures are harder than flat colours, and rarer: every picture in a style is shown three times as often
    pool = np.repeat(np.arange(len(data)), [1 if scene.style == "plain" else 3 for scene in data.scenes])

    def loss(step: int) -> Tensor:
        rows = np.sort(pool[choose(recipe.seed, step, settings.batch, len(pool))])
        x = pixels(data.pictures[rows])
        if step % 8:
            top, left = torch.randint(0, SIZE - CROP + 1, (2,)).tolist()
            x = x[..., top : top + CROP, left : left + CROP]
        with torch.autocast("cpu", torch.bfloat16):
            posterior = model.encode(x).latent_dist  # pyright: ignore[reportAttributeAccessIssue]
            found = model.decode(posterior.sample()).sample  # pyright: ignore[reportAttributeAccessIssue]
        mean, log_variance = posterior.mean.float(), posterior.logvar.float()
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        return reconstruction_loss(found.float(), x, settings.gradient_weight) + settings.kl_weight * divergence

    trained = fit(
        "vae", model, loss, folder=folder, steps=settings.steps, learning_rate=settings.learning_rate,
        seed=recipe.seed, weight_decay=0.0, ema=settings.ema,
    )  # fmt: skip
    assert isinstance(trained, AutoencoderKL)
    trained.register_to_config(scaling_factor=round(1 / float(encode(trained, data, 2000).std()), 4))
    return trained


@torch.no_grad()
def encode(vae: AutoencoderKL, data: Dataset, count: int | None = None, batch: int = 100) -> Tensor:
    """Return the latents' means of the first `count` pictures: (N, 4, 16, 16) float16, not yet scaled."""
    parts = []
    count = min(count or len(data), len(data))
    for start in range(0, count, batch):
        x = pixels(data.pictures[start : min(start + batch, count)])
        with torch.autocast("cpu", torch.bfloat16):
            parts.append(vae.encode(x).latent_dist.mean.half())  # pyright: ignore[reportAttributeAccessIssue]
    return torch.cat(parts).contiguous()
