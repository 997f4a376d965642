"""Every number that the terrarium is made with, in one place."""

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """Settings that know their names and stay as they are."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ClipRecipe(Frozen):
    """The contrastive text and image towers."""

    width: int = 128
    layers: int = 4
    heads: int = 4
    patch: int = 16
    steps: int = 1400
    batch: int = 256
    learning_rate: float = 8e-4


class VaeRecipe(Frozen):
    """The autoencoder: pictures of 64x64 pixels to latents of 4x16x16 and back."""

    channels: tuple[int, ...] = (24, 56, 96)
    latent_channels: int = 4
    steps: int = 8_000
    batch: int = 16
    learning_rate: float = 1e-3
    kl_weight: float = 1e-4
    gradient_weight: float = 0.6
    ema: float = 0.998


class OracleRecipe(Frozen):
    """The judge: a small CNN that names objects and style."""

    channels: int = 32
    steps: int = 1100
    batch: int = 96
    learning_rate: float = 2e-3


class DenoiserTraining(Frozen):
    """How a denoiser is trained, whatever its architecture."""

    steps: int = 7_500
    batch: int = 64
    learning_rate: float = 8e-4
    warm_up: int = 200
    cool_down: float = 0.3
    drop_caption: float = 0.1
    snr_cap: float = 5.0
    noise_offset: float = 0.1
    ema: float = 0.999


class DenoiserRecipe(DenoiserTraining):
    """The UNet: epsilon prediction under Stable Diffusion's betas."""

    channels: tuple[int, ...] = (64, 128, 192)
    attention_levels: tuple[int, ...] = (1, 2)
    layers_per_block: int = 1
    head_width: int = 32


class TerrariumRecipe(Frozen):
    """How the shipped terrarium is trained."""

    scenes: int = 80_000
    seed: int = 0
    vocabulary: int = 4096
    tokens: int = 48
    clip: ClipRecipe = ClipRecipe()
    vae: VaeRecipe = VaeRecipe()
    oracle: OracleRecipe = OracleRecipe()
    denoiser: DenoiserRecipe = DenoiserRecipe()
