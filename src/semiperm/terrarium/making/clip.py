"""The terrarium's CLIP: text and image towers trained contrastively on scenes and their captions."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig

from semiperm.terrarium.captions import caption
from semiperm.terrarium.hyperparameters import Hyperparameters
from semiperm.terrarium.making.dataset import Dataset
from semiperm.terrarium.making.loop import OnProgress, choose, fit
from semiperm.terrarium.pixels import pixels
from semiperm.terrarium.scenes import SIZE


def new_clip(hyperparameters: Hyperparameters, tokenizer: CLIPTokenizer) -> CLIPModel:
    """Return an untrained model for a tokenizer."""
    clip = hyperparameters.clip
    shared: dict[str, Any] = {
        "hidden_size": clip.width,
        "intermediate_size": 4 * clip.width,
        "num_hidden_layers": clip.layers,
        "num_attention_heads": clip.heads,
        "projection_dim": clip.width,
    }
    ids: Any = tokenizer
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=hyperparameters.tokens,
        bos_token_id=ids.bos_token_id,
        eos_token_id=ids.eos_token_id,
        pad_token_id=ids.pad_token_id,
        **shared,
    )
    vision = CLIPVisionConfig(image_size=SIZE, patch_size=clip.patch, **shared)
    config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=clip.width)
    return CLIPModel._from_config(config, attn_implementation="eager")


def tokenise(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """Return token ids (B, T), padded and cut to the length T of the model."""
    return tokenizer(
        texts, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
    ).input_ids


def train_clip(
    data: Dataset,
    hyperparameters: Hyperparameters,
    tokenizer: CLIPTokenizer,
    folder: Path,
    progress: OnProgress | None = None,
) -> CLIPModel:
    """Train both towers; every batch gets new captions for its scenes."""
    torch.manual_seed(hyperparameters.seed)
    model = new_clip(hyperparameters, tokenizer)
    padding: Any = tokenizer.pad_token_id

    def loss(step: int) -> Tensor:
        # sorted, for sequential reads of the memory map
        rows = np.sort(choose(hyperparameters.seed, step, hyperparameters.clip.batch, len(data)))
        rng = np.random.default_rng([hyperparameters.seed, step, 1])
        ids = tokenise(tokenizer, [caption(data.scenes[row], rng) for row in rows])
        used = int(ids.ne(padding).sum(1).max()) + 1
        with torch.autocast("cpu", torch.bfloat16):
            out = model(input_ids=ids[:, :used], pixel_values=pixels(data.pictures[rows]))
        logits = out.logits_per_text.float()
        truth = torch.arange(len(rows))
        return (cross_entropy(logits, truth) + cross_entropy(logits.T, truth)) / 2

    settings = hyperparameters.clip
    fit(
        "clip", model, loss, folder=folder, steps=settings.steps, learning_rate=settings.learning_rate,
        seed=hyperparameters.seed, weight_decay=0.05, progress=progress,
    )  # fmt: skip
    return model
