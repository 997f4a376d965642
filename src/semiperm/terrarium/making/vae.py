"""The terrarium's AutoencoderKL, from (3, 64, 64) to (4, 16, 16) and back."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor

from semiperm.terrarium.hyperparameters import Hyperparameters
from semiperm.terrarium.making.dataset import Dataset
from semiperm.terrarium.making.loop import OnProgress, choose, fit
from semiperm.terrarium.pixels import pixels
from semiperm.terrarium.scenes import SIZE

CROP = 48


def new_vae(hyperparameters: Hyperparameters) -> AutoencoderKL:
    """Return an untrained autoencoder."""
    channels = hyperparameters.vae.channels
    build: Any = AutoencoderKL
    return build(
        sample_size=SIZE,
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        layers_per_block=1,
        latent_channels=hyperparameters.vae.latent_channels,
        norm_num_groups=8,
    )


def reconstruction_loss(decoded: Tensor, picture: Tensor, gradient_weight: float) -> Tensor:
    """Return L1 + L2 + weighted L1 of the horizontal and vertical differences; the last term keeps edges sharp."""
    error = decoded - picture
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return error.abs().mean() + error.square().mean() + gradient_weight * edges


def train_vae(
    data: Dataset, hyperparameters: Hyperparameters, folder: Path, progress: OnProgress | None = None
) -> AutoencoderKL:
    """Train encoder and decoder, and set the scaling factor; mostly on crops, as flat backgrounds teach little."""
    torch.manual_seed(hyperparameters.seed)
    model = new_vae(hyperparameters)
    settings = hyperparameters.vae
    # textures are harder than flat colours, and rarer, so pictures in a style are drawn three times as often
    pool = np.repeat(np.arange(len(data)), [1 if scene.style == "plain" else 3 for scene in data.scenes])

    def loss(step: int) -> Tensor:
        # sorted, for sequential reads of the memory map
        rows = np.sort(pool[choose(hyperparameters.seed, step, settings.batch, len(pool))])
        x = pixels(data.pictures[rows])
        if step % 8:
            top, left = torch.randint(0, SIZE - CROP + 1, (2,)).tolist()
            x = x[..., top : top + CROP, left : left + CROP]
        with torch.autocast("cpu", torch.bfloat16):
            posterior = model.encode(x).latent_dist  # pyright: ignore[reportAttributeAccessIssue]
            decoded = model.decode(posterior.sample()).sample  # pyright: ignore[reportAttributeAccessIssue]
        mean, log_variance = posterior.mean.float(), posterior.logvar.float()
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        return reconstruction_loss(decoded.float(), x, settings.gradient_weight) + settings.kl_weight * divergence

    trained = fit(
        "vae", model, loss, folder=folder, steps=settings.steps, learning_rate=settings.learning_rate,
        seed=hyperparameters.seed, weight_decay=0.0, ema=settings.ema, progress=progress,
    )  # fmt: skip
    assert isinstance(trained, AutoencoderKL)
    trained.register_to_config(scaling_factor=round(1 / float(encode(trained, data, 2000).std()), 4))
    return trained


@torch.no_grad()
def encode(vae: AutoencoderKL, data: Dataset, count: int | None = None, batch: int = 100) -> Tensor:
    """Return the mean latents of the first `count` pictures: (N, 4, 16, 16) float16, not scaled."""
    parts = []
    count = min(count or len(data), len(data))
    for start in range(0, count, batch):
        x = pixels(data.pictures[start : min(start + batch, count)])
        with torch.autocast("cpu", torch.bfloat16):
            parts.append(vae.encode(x).latent_dist.mean.half())  # pyright: ignore[reportAttributeAccessIssue]
    return torch.cat(parts).contiguous()
