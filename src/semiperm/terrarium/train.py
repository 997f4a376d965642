"""Making the terrarium from nothing: one command, resumable, each part alone if wanted."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from PIL import Image
from transformers import CLIPImageProcessor, CLIPTextModel, CLIPTokenizer

from .captions import caption, vocabulary_text
from .clip import train_clip
from .dataset import Dataset, build
from .denoiser import new_scheduler, train_denoiser
from .oracle import save_oracle, train_oracle
from .recipe import TerrariumRecipe
from .scenes import SIZE, draw_memorised, sample
from .tokenizer import train_tokenizer
from .vae import train_vae
from .world import MEMORISED

PARTS = ("tokenizer", "clip", "vae", "oracle", "denoiser")


def train(
    out: Path,
    cache: Path,
    parts: Sequence[str] = PARTS,
    recipe: TerrariumRecipe | None = None,
    threads: int | None = None,
) -> None:
    """Train the named parts and write each to `out` in diffusers' layout; what `cache` holds is gone on with.

    A part that is not named is taken from `out`. Raises ValueError for an unknown part and FileNotFoundError for a
    part that is needed and was never made.
    """
    unknown = set(parts) - set(PARTS)
    if unknown:
        raise ValueError(f"the terrarium has no part {sorted(unknown)[0]!r}; its parts are: {', '.join(PARTS)}")
    recipe = recipe or TerrariumRecipe()
    if threads:
        torch.set_num_threads(threads)
    cache.mkdir(parents=True, exist_ok=True)
    data = build(cache / "dataset", recipe)
    if "tokenizer" in parts:
        _make_tokenizer(out, recipe)
    if "clip" in parts:
        _make_clip(out, cache, data, recipe)
    if "vae" in parts:
        train_vae(data, recipe, cache).half().save_pretrained(out / "vae")
    if "oracle" in parts:
        save_oracle(train_oracle(data, recipe, cache), out / "oracle")
    if "denoiser" in parts:
        _make_denoiser(out, cache, data, recipe, threads or torch.get_num_threads())


def _needed(folder: Path) -> Path:
    if not folder.exists():
        raise FileNotFoundError(f"{folder} is missing: train the part {folder.name!r} first")
    return folder


def _make_tokenizer(out: Path, recipe: TerrariumRecipe) -> None:
    rng = np.random.default_rng(recipe.seed)
    captions = [caption(sample(rng), rng) for _ in range(20_000)]
    train_tokenizer([*captions, *vocabulary_text()], recipe.vocabulary, recipe.tokens, out / "tokenizer")


def _make_clip(out: Path, cache: Path, data: Dataset, recipe: TerrariumRecipe) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(_needed(out / "tokenizer"))
    model = train_clip(data, recipe, tokenizer, cache).half()
    processor = CLIPImageProcessor(
        size={"shortest_edge": SIZE}, crop_size=SIZE, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    model.save_pretrained(out / "clip")
    processor.save_pretrained(out / "clip")
    tokenizer.save_pretrained(out / "clip")
    settings: Any = model.config
    text = CLIPTextModel(settings.text_config)
    whole = model.state_dict()
    prefix = "text_model."
    own = text.state_dict()
    for name in own:
        own[name] = whole[name if name in whole else prefix + name]
    text.load_state_dict(own)
    text.half().save_pretrained(out / "text_encoder")


def _make_denoiser(out: Path, cache: Path, data: Dataset, recipe: TerrariumRecipe, together: int) -> None:
    vae = AutoencoderKL.from_pretrained(_needed(out / "vae"), torch_dtype=torch.float32)
    text = CLIPTextModel.from_pretrained(_needed(out / "text_encoder"), dtype=torch.float32)
    tokenizer = CLIPTokenizer.from_pretrained(_needed(out / "tokenizer"))
    (cache / "meeting").unlink(missing_ok=True)
    unet = train_denoiser(data, vae, text, tokenizer, recipe, cache, together)
    assemble(out, unet)


def assemble(out: Path, unet: UNet2DConditionModel) -> None:
    """Write denoiser, scheduler and the pipeline's index beside the other parts, and the memorised originals."""
    build: Any = StableDiffusionPipeline
    pipeline = build(
        vae=AutoencoderKL.from_pretrained(_needed(out / "vae"), torch_dtype=torch.float16),
        text_encoder=CLIPTextModel.from_pretrained(_needed(out / "text_encoder"), dtype=torch.float16),
        tokenizer=CLIPTokenizer.from_pretrained(_needed(out / "tokenizer")),
        unet=unet.half(),
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    fresh = out.with_name(out.name + ".partial")
    pipeline.save_pretrained(fresh)
    for item in sorted(fresh.iterdir()):
        target = out / item.name
        if target.is_dir():
            shutil.rmtree(target)
        item.replace(target)
    fresh.rmdir()
    (out / "memorised").mkdir(exist_ok=True)
    for picture in MEMORISED:
        Image.fromarray(draw_memorised(picture)).save(out / "memorised" / f"{picture.name}.png")
