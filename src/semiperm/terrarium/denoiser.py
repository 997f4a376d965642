"""The terrarium's UNet: epsilon prediction under Stable Diffusion's betas, on latents computed once."""

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
from .recipe import TerrariumRecipe
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
    store = folder / "latents.pt"
    if not store.exists():
        with whole(store) as draft:
            torch.save(encode(vae, data), draft)
    latents = torch.load(store, weights_only=True)
    latents = latents * vae.config.scaling_factor  # pyright: ignore[reportAttributeAccessIssue]
    distinct = {"": 0}
    rows = torch.tensor([distinct.setdefault(caption, len(distinct)) for caption in data.captions])
    return latents, text_states(text, tokenizer, list(distinct)), rows


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
    signal, noise_level = kept.sqrt(), (1 - kept).sqrt()
    weight = (kept / (1 - kept)).clamp(max=settings.snr_cap) / (kept / (1 - kept))

    def loss(step: int) -> Tensor:
        rows = torch.from_numpy(choose(recipe.seed + 3, step, settings.batch, len(latents))[rank::together])
        x = latents[rows].float()
        captions = caption_of[rows] * (torch.rand(len(rows)) >= settings.drop_caption)
        t = torch.randint(0, len(kept), (len(rows),))
        # under these betas the last timestep still shows a picture's mean; shifted noise hides it, or else the mean
        # of the noise would decide how dark a picture may be
        noise = torch.randn_like(x) + settings.noise_offset * torch.randn(*x.shape[:2], 1, 1)
        noisy = signal[t].view(-1, 1, 1, 1) * x + noise_level[t].view(-1, 1, 1, 1) * noise
        with torch.autocast("cpu", torch.bfloat16):
            found = model(noisy, t, encoder_hidden_states=states[captions]).sample
        return ((found.float() - noise).square().mean((1, 2, 3)) * weight[t]).mean()

    trained = fit(
        "denoiser", model, loss, folder=folder, steps=settings.steps, learning_rate=settings.learning_rate,
        seed=recipe.seed, warm_up=settings.warm_up, cool_down=settings.cool_down, ema=settings.ema,
    )  # fmt: skip
    assert isinstance(trained, UNet2DConditionModel)
    return trained
