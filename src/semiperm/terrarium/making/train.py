"""Train the terrarium from scratch: all parts or some, resumable."""

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

from semiperm.terrarium.captions import caption, vocabulary_text
from semiperm.terrarium.hyperparameters import Hyperparameters
from semiperm.terrarium.making.clip import train_clip
from semiperm.terrarium.making.dataset import Dataset, render
from semiperm.terrarium.making.denoiser import RENDEZVOUS, new_scheduler, train_denoiser
from semiperm.terrarium.making.loop import OnProgress
from semiperm.terrarium.making.oracle_training import save_oracle, train_oracle
from semiperm.terrarium.making.tokenizer import train_tokenizer
from semiperm.terrarium.making.vae import train_vae
from semiperm.terrarium.scenes import SIZE, draw_memorised, sample
from semiperm.terrarium.world import MEMORISED

PARTS = ("tokenizer", "clip", "vae", "oracle", "denoiser")


def train(
    out: Path,
    cache: Path,
    parts: Sequence[str] = PARTS,
    hyperparameters: Hyperparameters | None = None,
    threads: int | None = None,
    progress: OnProgress | None = None,
) -> None:
    """Train the named parts, write them to `out` in diffusers' layout, and read the other parts from there.

    Args:
        cache: folder of the training set and the checkpoints; training resumes from what it holds.
        threads: torch threads, and processes that train the denoiser; torch's own number by default.

    Raises:
        ValueError: there is no such part.
        FileNotFoundError: a part that another one needs is not in `out`.
    """
    unknown = set(parts) - set(PARTS)
    if unknown:
        raise ValueError(f"the terrarium has no part {sorted(unknown)[0]!r}; its parts are: {', '.join(PARTS)}")
    hyperparameters = hyperparameters or Hyperparameters()
    if threads:
        torch.set_num_threads(threads)
    cache.mkdir(parents=True, exist_ok=True)
    data = render(cache / "dataset", hyperparameters.scenes, hyperparameters.seed)
    if "tokenizer" in parts:
        _make_tokenizer(out, hyperparameters)
    if "clip" in parts:
        _make_clip(out, cache, data, hyperparameters, progress)
    if "vae" in parts:
        train_vae(data, hyperparameters, cache, progress).half().save_pretrained(out / "vae")
    if "oracle" in parts:
        save_oracle(train_oracle(data, hyperparameters, cache, progress), out / "oracle")
    if "denoiser" in parts:
        _make_denoiser(out, cache, data, hyperparameters, threads or torch.get_num_threads(), progress)


def _needed(folder: Path) -> Path:
    if not folder.exists():
        raise FileNotFoundError(f"{folder} is missing: train the part {folder.name!r} first")
    return folder


def _make_tokenizer(out: Path, hyperparameters: Hyperparameters) -> None:
    rng = np.random.default_rng(hyperparameters.seed)
    captions = [caption(sample(rng), rng) for _ in range(20_000)]
    texts = [*captions, *vocabulary_text()]
    train_tokenizer(texts, hyperparameters.vocabulary, hyperparameters.tokens, out / "tokenizer")


def _make_clip(
    out: Path, cache: Path, data: Dataset, hyperparameters: Hyperparameters, progress: OnProgress | None
) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(_needed(out / "tokenizer"))
    model = train_clip(data, hyperparameters, tokenizer, cache, progress).half()
    processor = CLIPImageProcessor(
        size={"shortest_edge": SIZE}, crop_size=SIZE, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    model.save_pretrained(out / "clip")
    processor.save_pretrained(out / "clip")
    tokenizer.save_pretrained(out / "clip")
    config: Any = model.config
    text = CLIPTextModel(config.text_config)
    both = model.state_dict()
    own = text.state_dict()
    for name in own:
        # in some versions of transformers the names in CLIPTextModel lack the prefix
        own[name] = both[name if name in both else f"text_model.{name}"]
    text.load_state_dict(own)
    text.half().save_pretrained(out / "text_encoder")


def _make_denoiser(
    out: Path,
    cache: Path,
    data: Dataset,
    hyperparameters: Hyperparameters,
    together: int,
    progress: OnProgress | None,
) -> None:
    vae = AutoencoderKL.from_pretrained(_needed(out / "vae"), torch_dtype=torch.float32)
    text = CLIPTextModel.from_pretrained(_needed(out / "text_encoder"), dtype=torch.float32)
    tokenizer = CLIPTokenizer.from_pretrained(_needed(out / "tokenizer"))
    # a stopped run leaves it behind, and torch.distributed would wait for the processes of that run
    (cache / RENDEZVOUS).unlink(missing_ok=True)
    unet = train_denoiser(data, vae, text, tokenizer, hyperparameters, cache, together, progress)
    _save_pipeline(out, unet)


def _save_pipeline(out: Path, unet: UNet2DConditionModel) -> None:
    """Write the denoiser, the scheduler and `model_index.json` beside the other parts, and the memorised pictures."""
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
