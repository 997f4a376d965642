"""The terrarium's UNet: epsilon prediction under Stable Diffusion's betas, on latents computed once."""

from collections.abc import Callable
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

from semiperm.atomic import whole

from .clip import tokenise
from .dataset import Dataset
from .loop import choose, fit, share
from .recipe import DenoiserTraining, TerrariumRecipe
from .vae import encode


def new_scheduler() -> DDIMScheduler:
    """Return Stable Diffusion's DDIM schedule."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def new_denoiser(recipe: TerrariumRecipe, sample_size: int = 16) -> UNet2DConditionModel:
    """Build the untrained UNet; attention only at the levels that the recipe names."""
    settings = recipe.denoiser
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
        cross_attention_dim=recipe.clip.width,
        attention_head_dim=tuple(c // settings.head_width for c in settings.channels),
        norm_num_groups=32,
    )


@torch.no_grad()
def text_states(text: CLIPTextModel, tokenizer: CLIPTokenizer, captions: list[str], batch: int = 500) -> Tensor:
    """Return last hidden states (N, tokens, C) in bfloat16."""
    parts = []
    for start in range(0, len(captions), batch):
        ids = tokenise(tokenizer, captions[start : start + batch])
        parts.append(text(ids).last_hidden_state.bfloat16())
    return torch.cat(parts)


def prepare(
    data: Dataset, vae: AutoencoderKL, text: CLIPTextModel, tokenizer: CLIPTokenizer, folder: Path
) -> tuple[Tensor, Tensor, Tensor]:
    """Return scaled latents, the distinct captions' states (row 0: the empty prompt) and each picture's caption row."""
    distinct, rows = distinct_captions(data)
    return scaled_latents(data, vae, folder), text_states(text, tokenizer, distinct), rows


def scaled_latents(data: Dataset, vae: AutoencoderKL, folder: Path) -> Tensor:
    """Return the latents that a denoiser is trained on (N, 4, 16, 16), computed once and kept in `folder`."""
    store = folder / "latents.pt"
    if not store.exists():
        with whole(store) as draft:
            torch.save(encode(vae, data), draft)
    return torch.load(store, weights_only=True) * vae.config.scaling_factor  # pyright: ignore[reportAttributeAccessIssue]


def distinct_captions(data: Dataset) -> tuple[list[str], Tensor]:
    """Return the distinct captions, the empty one first, and each picture's row among them (N,)."""
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
    """Return the mean squared error of `predict(noisy, t)`, each timestep weighed by its capped signal-to-noise ratio.

    Args:
        kept: the share of the signal's variance that each timestep keeps (the schedule's `alphas_cumprod`).
        prediction_type: "epsilon", or "v_prediction" as in arXiv:2202.00512.
    """
    t = torch.randint(0, len(kept), (len(x_BCHW),))
    # under these betas the last timestep still shows a picture's mean; shifted noise hides it, or else the mean
    # of the noise would decide how dark a picture may be
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
    recipe: TerrariumRecipe,
    folder: Path,
    together: int = 1,
) -> UNet2DConditionModel:
    """Train the UNet and return its averaged weights.

    `together` processes of one thread each share every batch, which a small network on a CPU uses better than threads.
    """
    prepared = prepare(data, vae, text, tokenizer, folder)
    # a process without a picture would have no loss
    together = min(together, recipe.denoiser.batch)
    if together > 1:
        spawn(_work, (together, *prepared, recipe, folder), nprocs=together)
    return _train(*prepared, recipe, folder)


def _work(
    rank: int, together: int, latents: Tensor, states: Tensor, caption_of: Tensor, recipe: TerrariumRecipe, folder: Path
) -> None:
    torch.set_num_threads(1)
    meeting = folder / "meeting"
    dist.init_process_group("gloo", init_method=f"file://{meeting.resolve()}", rank=rank, world_size=together)
    _train(latents, states, caption_of, recipe, folder)
    dist.destroy_process_group()


def _train(
    latents: Tensor, states: Tensor, caption_of: Tensor, recipe: TerrariumRecipe, folder: Path
) -> UNet2DConditionModel:
    rank, together = share()
    torch.manual_seed(recipe.seed)
    settings = recipe.denoiser
    model = new_denoiser(recipe, latents.shape[-1])
    model.set_attn_processor(AttnProcessor())
    kept = new_scheduler().alphas_cumprod

    def loss(step: int) -> Tensor:
        rows = torch.from_numpy(choose(recipe.seed + 3, step, settings.batch, len(latents))[rank::together])
        captions = caption_of[rows] * (torch.rand(len(rows)) >= settings.drop_caption)
        asked = states[captions]
        return diffusion_loss(
            lambda noisy, t: model(noisy, t, encoder_hidden_states=asked).sample, latents[rows].float(), kept, settings
        )

    trained = fit(
        "denoiser", model, loss, folder=folder, steps=settings.steps, learning_rate=settings.learning_rate,
        seed=recipe.seed, warm_up=settings.warm_up, cool_down=settings.cool_down, ema=settings.ema,
    )  # fmt: skip
    assert isinstance(trained, UNet2DConditionModel)
    return trained
