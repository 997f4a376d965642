"""What a single .safetensors checkpoint holds, told by the names of its tensors; no tensor is read."""

from dataclasses import dataclass
from pathlib import Path


class ModelLoadError(ValueError):
    """A model cannot be loaded; the message says what was looked for and what to do."""


@dataclass(frozen=True)
class Contents:
    """What a checkpoint is.

    Attributes:
        pipeline: the class of pipeline that it belongs to.
        whole: whether its text encoders are in it; without them it is a denoiser alone.
    """

    pipeline: str
    whole: bool


# the classes of the denoisers that come alone, and the layers that tell them: as published, and in diffusers' names
DENOISERS = {"StableDiffusion3Pipeline": "SD3Transformer2DModel", "FluxPipeline": "FluxTransformer2DModel"}
TELLING = {
    "StableDiffusion3Pipeline": ("joint_blocks.0.x_block.attn.qkv.weight", "pos_embed.proj.weight"),
    "FluxPipeline": (
        "double_blocks.0.img_attn.qkv.weight",
        "single_transformer_blocks.0.proj_mlp.weight",
    ),
}
# descendants that have such blocks too
OTHERS = {
    "distilled_guidance_layer.": "Chroma",
    "single_stream_modulation.": "FLUX.2",
    "txt_in.individual_token_refiner.": "HunyuanVideo",
    # PixArt's, in diffusers' names
    "adaln_single.": "a transformer that diffusers reads from folders only",
}
PREFIX = "model.diffusion_model."


def contents(path: Path) -> Contents:
    """Return what a checkpoint holds.

    Raises:
        ModelLoadError: it is an adapter, of a family that is not known, or no safetensors file.
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
    for pipeline, telling in TELLING.items():
        if not inside.isdisjoint(telling):
            return Contents(pipeline, any(name.startswith("text_encoders.") for name in names))
    if not any(name.startswith("input_blocks.") for name in inside):
        raise ModelLoadError(
            f"{path} holds no denoiser of Stable Diffusion 1, 2, XL or 3 or of FLUX.1: it is no checkpoint of these."
        )
    if not any(name.startswith(("cond_stage_model.", "conditioner.")) for name in names):
        raise ModelLoadError(f"{path} holds a denoiser but no text encoder: a whole checkpoint is needed.")
    xl = any(name.startswith("conditioner.") for name in names)
    return Contents("StableDiffusionXLPipeline" if xl else "StableDiffusionPipeline", whole=True)
