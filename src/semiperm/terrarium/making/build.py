"""Make relatives of the terrarium: assemble a pipeline, and train its denoiser on scenes in the relative's style."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from torch import Tensor, nn

from semiperm.models.model import DiffusionModel
from semiperm.models.text import TextFeatures, concatenate
from semiperm.terrarium.making.assemble import ASSEMBLERS
from semiperm.terrarium.making.dataset import Dataset, render
from semiperm.terrarium.making.denoiser import diffusion_loss, distinct_captions, scaled_latents
from semiperm.terrarium.making.loop import OnProgress, choose, fit
from semiperm.terrarium.relatives import MADE_FROM, Relative, find, home, is_built

# captions that are encoded at once; few, because SD3's text states are long
ENCODE_BATCH = 256


def build(relative: Relative | str, cache: Path | None = None, progress: OnProgress | None = None) -> Path:
    """Make a relative unless it is built, and return its diffusers folder; a stopped build is resumed.

    Args:
        relative: its name or its definition.
        cache: where relatives are kept instead of the user's cache folder.

    Raises:
        RelativeError: there is no relative of that name.
    """
    relative = find(relative) if isinstance(relative, str) else relative
    out = home(cache) / relative.name
    if is_built(relative, cache):
        return out
    work = out.with_name(f".{relative.name}-{relative.digest}")
    data = render(work / "dataset", relative.scenes, relative.seed, relative.style)
    model = ASSEMBLERS[relative.family](relative, work, progress)
    trained = _train(model, data, relative, work, progress)
    _save(model.pipeline, trained, relative, work / "finished")
    shutil.rmtree(out, ignore_errors=True)
    (work / "finished").replace(out)
    shutil.rmtree(work)
    return out


def _train(
    model: DiffusionModel, data: Dataset, relative: Relative, work: Path, progress: OnProgress | None
) -> nn.Module:
    captions, caption_of = distinct_captions(data)
    features = concatenate([_encode(model, relative, [""]), _encode(model, relative, captions[1:])])
    latents = scaled_latents(data, model.pipeline.vae, work)
    settings = relative.training
    loss_of = LOSSES[model.prediction_type]

    def loss(step: int) -> Tensor:
        rows = torch.from_numpy(choose(relative.seed, step, settings.batch, len(latents)))
        # row 0 is the empty caption
        some = features.select(caption_of[rows] * (torch.rand(len(rows)) >= settings.drop_caption))
        return loss_of(model, latents[rows].float(), some, relative)

    return fit(
        "denoiser", model.denoiser, loss, folder=work, steps=settings.steps, learning_rate=settings.learning_rate,
        seed=relative.seed, warm_up=settings.warm_up, cool_down=settings.cool_down, ema=settings.ema,
        progress=progress,
    )  # fmt: skip


def _encode(model: DiffusionModel, relative: Relative, captions: list[str]) -> TextFeatures:
    if captions == [""]:
        encoded = [model.unconditional(1)]
    else:
        chunks = [captions[start : start + ENCODE_BATCH] for start in range(0, len(captions), ENCODE_BATCH)]
        encoded = [model.encode(chunk) for chunk in chunks]
    if relative.family != "flow":
        return concatenate(encoded)
    # keep one of the 256 zeros in place of T5's text, for RepeatedLastToken
    length = model.pipeline.tokenizer_max_length + 1
    return concatenate([replace(part, hidden_BTC=part.hidden_BTC[:, :length].clone()) for part in encoded])


def _diffusion(model: DiffusionModel, x_BCHW: Tensor, features: TextFeatures, relative: Relative) -> Tensor:
    kept = model.pipeline.scheduler.alphas_cumprod
    return diffusion_loss(
        lambda noisy, t: model.predict(noisy, t, features), x_BCHW, kept, relative.training, model.prediction_type
    )


def _flow(model: DiffusionModel, x_BCHW: Tensor, features: TextFeatures, relative: Relative) -> Tensor:
    # noise levels are logit-normal, as in arXiv:2403.03206, sec. 3.1
    level = torch.randn(len(x_BCHW)).sigmoid()
    noise = torch.randn_like(x_BCHW)
    noisy = x_BCHW + level.view(-1, 1, 1, 1) * (noise - x_BCHW)
    with torch.autocast("cpu", torch.bfloat16):
        velocity = model.predict(noisy, 1000 * level, features)
    return (velocity.float() - (noise - x_BCHW)).square().mean()


LOSSES: dict[str, Callable[[DiffusionModel, Tensor, TextFeatures, Relative], Tensor]] = {
    "epsilon": _diffusion,
    "v_prediction": _diffusion,
    "flow": _flow,
}


def _save(pipeline: Any, trained: nn.Module, relative: Relative, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if isinstance(trained, SD3Transformer2DModel):
        pipeline.register_modules(transformer=trained)
    else:
        pipeline.register_modules(unet=trained)
    for part in pipeline.components.values():
        if isinstance(part, nn.Module):
            part.half()
    pipeline.save_pretrained(folder)
    (folder / MADE_FROM).write_text(relative.model_dump_json(indent=1) + "\n", encoding="utf-8")
