"""Making the terrarium's relatives: the denoiser of a pipeline is trained on scenes of its own."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from torch import Tensor, nn

from semiperm.models.base import DiffusionModel, TextFeatures, concatenate

from .dataset import Dataset
from .dataset import build as render
from .denoiser import diffusion_loss, distinct_captions, scaled_latents
from .loop import choose, fit
from .recipe import TerrariumRecipe
from .relatives import RECIPE, Relative, find, home, is_built
from .siblings import MAKERS

# captions at once, so that few of SD3's long states are held
ENCODED = 256


def build(relative: Relative | str, cache: Path | None = None) -> Path:
    """Make a relative unless it is there, and return its diffusers folder; a stopped build goes on where it was.

    Args:
        relative: its name, or a recipe.
        cache: where relatives are kept instead of the user's cache folder.

    Raises:
        RelativeError: there is no relative of that name.
    """
    recipe = find(relative) if isinstance(relative, str) else relative
    out = home(cache) / recipe.name
    if is_built(recipe, cache):
        return out
    work = out.with_name(f".{recipe.name}-{recipe.digest}")
    data = render(work / "dataset", TerrariumRecipe(scenes=recipe.scenes, seed=recipe.seed), recipe.look)
    model = MAKERS[recipe.family](recipe, work)
    trained = _trained(model, data, recipe, work)
    _written(model.pipeline, trained, recipe, work / "finished")
    shutil.rmtree(out, ignore_errors=True)
    (work / "finished").replace(out)
    shutil.rmtree(work)
    return out


def _trained(model: DiffusionModel, data: Dataset, recipe: Relative, work: Path) -> nn.Module:
    captions, caption_of = distinct_captions(data)
    features = concatenate([_read(model, recipe, [""]), _read(model, recipe, captions[1:])])
    latents = scaled_latents(data, model.pipeline.vae, work)
    settings = recipe.training
    loss_of = LOSSES[model.prediction_type]

    def loss(step: int) -> Tensor:
        rows = torch.from_numpy(choose(recipe.seed, step, settings.batch, len(latents)))
        asked = features.select(caption_of[rows] * (torch.rand(len(rows)) >= settings.drop_caption))
        return loss_of(model, latents[rows].float(), asked, recipe)

    return fit(
        "denoiser", model.denoiser, loss, folder=work, steps=settings.steps, learning_rate=settings.learning_rate,
        seed=recipe.seed, warm_up=settings.warm_up, cool_down=settings.cool_down, ema=settings.ema,
    )  # fmt: skip


def _read(model: DiffusionModel, recipe: Relative, captions: list[str]) -> TextFeatures:
    if captions == [""]:
        found = [model.unconditional(1)]
    else:
        chunks = [captions[start : start + ENCODED] for start in range(0, len(captions), ENCODED)]
        found = [model.encode(chunk) for chunk in chunks]
    if recipe.family != "flow":
        return concatenate(found)
    # of T5's share, which is zeros, one position stands for all; see OneForMany
    length = model.pipeline.tokenizer_max_length + 1
    return concatenate([replace(part, hidden_BTC=part.hidden_BTC[:, :length].clone()) for part in found])


def _diffusion(model: DiffusionModel, x_BCHW: Tensor, asked: TextFeatures, recipe: Relative) -> Tensor:
    kept = model.pipeline.scheduler.alphas_cumprod
    return diffusion_loss(
        lambda noisy, t: model.predict(noisy, t, asked), x_BCHW, kept, recipe.training, model.prediction_type
    )


def _flow(model: DiffusionModel, x_BCHW: Tensor, asked: TextFeatures, recipe: Relative) -> Tensor:
    # noise levels drawn as in arXiv:2403.03206, sec. 3.1
    level = torch.randn(len(x_BCHW)).sigmoid()
    noise = torch.randn_like(x_BCHW)
    noisy = x_BCHW + level.view(-1, 1, 1, 1) * (noise - x_BCHW)
    with torch.autocast("cpu", torch.bfloat16):
        found = model.predict(noisy, 1000 * level, asked)
    return (found.float() - (noise - x_BCHW)).square().mean()


LOSSES: dict[str, Callable[[DiffusionModel, Tensor, TextFeatures, Relative], Tensor]] = {
    "epsilon": _diffusion,
    "v_prediction": _diffusion,
    "flow": _flow,
}


def _written(pipeline: Any, trained: nn.Module, recipe: Relative, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if isinstance(trained, SD3Transformer2DModel):
        pipeline.register_modules(transformer=trained)
    else:
        pipeline.register_modules(unet=trained)
    for part in pipeline.components.values():
        if isinstance(part, nn.Module):
            part.half()
    pipeline.save_pretrained(folder)
    (folder / RECIPE).write_text(recipe.model_dump_json(indent=1) + "\n", encoding="utf-8")
