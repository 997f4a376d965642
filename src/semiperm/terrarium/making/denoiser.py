"""The terrarium's UNet: epsilon prediction with Stable Diffusion's betas, on latents that are encoded once."""

import multiprocessing
from collections.abc import Callable
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from diffusers.models.attention_processor import AttnProcessor
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor
from torch.multiprocessing.spawn import spawn
from transformers import CLIPTextModel, CLIPTokenizer

from semiperm.methods.training import Progress
from semiperm.paths import whole
from semiperm.terrarium.hyperparameters import DenoiserTraining, Hyperparameters
from semiperm.terrarium.making.clip import tokenise
from semiperm.terrarium.making.dataset import Dataset
from semiperm.terrarium.making.loop import OnProgress, choose, fit, share
from semiperm.terrarium.making.vae import encode

# the file at which the processes that train together find each other
RENDEZVOUS = "rendezvous"


def new_scheduler() -> DDIMScheduler:
    """Return a DDIM scheduler with Stable Diffusion's betas."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def new_denoiser(hyperparameters: Hyperparameters, sample_size: int = 16) -> UNet2DConditionModel:
    """Return an untrained UNet, with attention at `attention_levels` only."""
    settings = hyperparameters.denoiser
    down = tuple(
        "CrossAttnDownBlock2D" if level in settings.attention_levels else "DownBlock2D"
        for level in range(len(settings.channels))
    )
    up = tuple(name.replace("Down", "Up") for name in reversed(down))
    build: Any = UNet2DConditionModel
    return build(
        sample_size=sample_size,
        block_out_channels=settings.channels,
        down_block_types=down,
        up_block_types=up,
        layers_per_block=settings.layers_per_block,
        cross_attention_dim=hyperparameters.clip.width,
        attention_head_dim=tuple(c // settings.head_width for c in settings.channels),
        norm_num_groups=32,
    )


@torch.no_grad()
def text_states(text: CLIPTextModel, tokenizer: CLIPTokenizer, captions: list[str], batch: int = 500) -> Tensor:
    """Return the last hidden states of captions, (N, T, C) bfloat16."""
    parts = []
    for start in range(0, len(captions), batch):
        ids = tokenise(tokenizer, captions[start : start + batch])
        parts.append(text(ids).last_hidden_state.bfloat16())
    return torch.cat(parts)


def prepare(
    data: Dataset, vae: AutoencoderKL, text: CLIPTextModel, tokenizer: CLIPTokenizer, folder: Path
) -> tuple[Tensor, Tensor, Tensor]:
    """Return scaled latents, text states of the distinct captions (0: the empty one), each picture's caption."""
    distinct, rows = distinct_captions(data)
    return scaled_latents(data, vae, folder), text_states(text, tokenizer, distinct), rows


def scaled_latents(data: Dataset, vae: AutoencoderKL, folder: Path) -> Tensor:
    """Return the latents (N, 4, 16, 16) that a denoiser is trained on, cached in `folder`."""
    store = folder / "latents.pt"
    if not store.exists():
        with whole(store) as draft:
            torch.save(encode(vae, data), draft)
    return torch.load(store, weights_only=True) * vae.config.scaling_factor  # pyright: ignore[reportAttributeAccessIssue]


def distinct_captions(data: Dataset) -> tuple[list[str], Tensor]:
    """Return the distinct captions, the empty one first, and each picture's index into them (N,)."""
    distinct = {"": 0}
    rows = torch.tensor([distinct.setdefault(caption, len(distinct)) for caption in data.captions])
    return list(distinct), rows


def diffusion_loss(
    predict: Callable[[Tensor, Tensor], Tensor],
    x_BCHW: Tensor,
    kept: Tensor,
    settings: DenoiserTraining,
    prediction_type: str = "epsilon",
) -> Tensor:
    """Return the mean squared error of `predict(noisy, t)`, weighted by the capped signal-to-noise ratio.

    Args:
        predict: a denoiser, from (B, C, H, W) and timesteps (B,) to (B, C, H, W).
        x_BCHW: scaled latents without noise.
        kept: the scheduler's `alphas_cumprod` (T,), the share of the signal's variance that each timestep keeps.
        prediction_type: "epsilon", or "v_prediction" as in arXiv:2202.00512.
    """
    t = torch.randint(0, len(kept), (len(x_BCHW),))
    # with these betas the last timestep still shows the mean of a picture; without offset noise the denoiser learns
    # to read brightness from it, and sampling from pure noise then gives medium brightness only
    noise = torch.randn_like(x_BCHW) + settings.noise_offset * torch.randn(*x_BCHW.shape[:2], 1, 1)
    signal, level = kept[t].sqrt().view(-1, 1, 1, 1), (1 - kept[t]).sqrt().view(-1, 1, 1, 1)
    noisy = signal * x_BCHW + level * noise
    with torch.autocast("cpu", torch.bfloat16):
        found = predict(noisy, t)
    ratio = kept[t] / (1 - kept[t])
    capped = ratio.clamp(max=settings.snr_cap)
    if prediction_type == "v_prediction":
        wanted, weight = signal * noise - level * x_BCHW, capped / (ratio + 1)
    else:
        wanted, weight = noise, capped / ratio
    return ((found.float() - wanted).square().mean((1, 2, 3)) * weight).mean()


def train_denoiser(
    data: Dataset,
    vae: AutoencoderKL,
    text: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    hyperparameters: Hyperparameters,
    folder: Path,
    together: int = 1,
    progress: OnProgress | None = None,
) -> UNet2DConditionModel:
    """Train the UNet and return the module with its averaged weights.

    Args:
        together: processes of one thread each that share every batch; on a CPU a small network trains faster in several
            processes than in several threads.
        progress: called in this process.
    """
    prepared = prepare(data, vae, text, tokenizer, folder)
    # every process needs a picture to compute a loss
    together = min(together, hyperparameters.denoiser.batch)
    if together > 1:
        _train_together(together, prepared, hyperparameters, folder, progress)
        # the checkpoint is complete, and what follows only loads it
        progress = None
    return _train(*prepared, hyperparameters, folder, progress)


def _train_together(
    together: int,
    prepared: tuple[Tensor, Tensor, Tensor],
    hyperparameters: Hyperparameters,
    folder: Path,
    progress: OnProgress | None,
) -> None:
    # a callback cannot be sent to another process, but what it is called with can
    queue: SimpleQueue[Progress] = multiprocessing.get_context("spawn").SimpleQueue()
    context: Any = spawn(_work, (together, *prepared, hyperparameters, folder, queue), nprocs=together, join=False)
    finished = False
    try:
        while not finished:
            finished = context.join(timeout=1)
            while not queue.empty():
                message = queue.get()
                if progress is not None:
                    progress(message)
    finally:
        for process in context.processes:
            process.terminate()


def _work(
    rank: int,
    together: int,
    latents: Tensor,
    states: Tensor,
    caption_of: Tensor,
    hyperparameters: Hyperparameters,
    folder: Path,
    queue: SimpleQueue[Progress],
) -> None:
    torch.set_num_threads(1)
    rendezvous = folder / RENDEZVOUS
    dist.init_process_group("gloo", init_method=f"file://{rendezvous.resolve()}", rank=rank, world_size=together)
    _train(latents, states, caption_of, hyperparameters, folder, queue.put)
    dist.destroy_process_group()


def _train(
    latents: Tensor,
    states: Tensor,
    caption_of: Tensor,
    hyperparameters: Hyperparameters,
    folder: Path,
    progress: OnProgress | None,
) -> UNet2DConditionModel:
    rank, together = share()
    torch.manual_seed(hyperparameters.seed)
    settings = hyperparameters.denoiser
    model = new_denoiser(hyperparameters, latents.shape[-1])
    model.set_attn_processor(AttnProcessor())
    kept = new_scheduler().alphas_cumprod

    def loss(step: int) -> Tensor:
        rows = torch.from_numpy(choose(hyperparameters.seed + 3, step, settings.batch, len(latents))[rank::together])
        captions = caption_of[rows] * (torch.rand(len(rows)) >= settings.drop_caption)
        hidden = states[captions]
        return diffusion_loss(
            lambda noisy, t: model(noisy, t, encoder_hidden_states=hidden).sample, latents[rows].float(), kept, settings
        )

    trained = fit(
        "denoiser", model, loss, folder=folder, steps=settings.steps, learning_rate=settings.learning_rate,
        seed=hyperparameters.seed, warm_up=settings.warm_up, cool_down=settings.cool_down, ema=settings.ema,
        progress=progress,
    )  # fmt: skip
    assert isinstance(trained, UNet2DConditionModel)
    return trained
