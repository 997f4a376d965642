"""What a single .safetensors checkpoint holds, judged by its tensor names; no tensor is read."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from semiperm.errors import ModelLoadError
from semiperm.models.model import DiffusionModel


@dataclass(frozen=True)
class Contents:
    """What a checkpoint holds.

    Attributes:
        pipeline: name of the pipeline class that it belongs to.
        denoiser_class: name of the denoiser's class if the checkpoint is a denoiser alone, otherwise empty.
    """

    pipeline: str
    denoiser_class: str = ""


# Related models whose checkpoints have keys of a supported family too.
OTHERS = {
    "distilled_guidance_layer.": "Chroma",
    "single_stream_modulation.": "FLUX.2",
    "txt_in.individual_token_refiner.": "HunyuanVideo",
    # PixArt's keys in diffusers' layout.
    "adaln_single.": "a transformer that diffusers reads from folders only",
}
PREFIX = "model.diffusion_model."


def contents(path: Path, families: Iterable[type[DiffusionModel]]) -> Contents:
    """Return what a checkpoint of one of some families holds.

    Raises:
        ModelLoadError: it is an adapter, of an unsupported family, or not a safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
    except (SafetensorError, OSError) as error:
        raise ModelLoadError(f"{path} is not a readable safetensors file: {error}") from error
    if any(".lora_" in name or name.startswith("lora_") for name in names):
        raise ModelLoadError(f"{path} is an adapter (LoRA or membrane), not a model: give the model it belongs to.")
    inside = {name.removeprefix(PREFIX) for name in names}
    for begins, what in OTHERS.items():
        if any(name.startswith(begins) for name in inside):
            raise ModelLoadError(f"{path} is a checkpoint of {what}, which is not supported as a single file.")
    for family in families:
        if not inside.isdisjoint(family.checkpoint_keys):
            whole = any(name.startswith("text_encoders.") for name in names)
            return Contents(family.pipelines[0], "" if whole else family.denoiser_class)
    if not any(name.startswith("input_blocks.") for name in inside):
        raise ModelLoadError(
            f"{path} holds no denoiser of Stable Diffusion 1, 2, XL or 3 or of FLUX.1: it is no checkpoint of these."
        )
    if not any(name.startswith(("cond_stage_model.", "conditioner.")) for name in names):
        raise ModelLoadError(f"{path} holds a denoiser but no text encoder: a whole checkpoint is needed.")
    xl = any(name.startswith("conditioner.") for name in names)
    return Contents("StableDiffusionXLPipeline" if xl else "StableDiffusionPipeline")
