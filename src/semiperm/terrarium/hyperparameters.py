"""Hyperparameters of the terrarium's networks and their training."""

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """Base of immutable models that refuse unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ClipHyperparameters(Frozen):
    """CLIP: a text and an image tower, trained contrastively."""

    width: int = 128
    layers: int = 4
    heads: int = 4
    patch: int = 16
    steps: int = 1400
    batch: int = 256
    learning_rate: float = 8e-4


class VaeHyperparameters(Frozen):
    """The autoencoder between pictures (3, 64, 64) and latents (4, 16, 16).

    Attributes:
        kl_weight: weight of the KL divergence in the loss.
        gradient_weight: weight of the error of differences between neighbouring pixels, which keeps edges sharp.
        ema: decay of the averaged weights.
    """

    channels: tuple[int, ...] = (24, 56, 96)
    latent_channels: int = 4
    steps: int = 8_000
    batch: int = 16
    learning_rate: float = 1e-3
    kl_weight: float = 1e-4
    gradient_weight: float = 0.6
    ema: float = 0.998


class OracleHyperparameters(Frozen):
    """The oracle, a small CNN that judges which objects and style a picture shows."""

    channels: int = 32
    steps: int = 1100
    batch: int = 96
    learning_rate: float = 2e-3


class DenoiserTraining(Frozen):
    """Training of a denoiser of any architecture.

    Attributes:
        warm_up: steps in which the learning rate rises.
        cool_down: share of the steps, at the end, in which it falls.
        drop_caption: probability that a caption is replaced by the empty one, for classifier-free guidance.
        snr_cap: largest signal-to-noise ratio that weighs the loss (min-SNR, arXiv:2303.09556).
        noise_offset: standard deviation of a constant that is added to the noise of each channel.
        ema: decay of the averaged weights.
    """

    steps: int = 7_500
    batch: int = 64
    learning_rate: float = 8e-4
    warm_up: int = 200
    cool_down: float = 0.3
    drop_caption: float = 0.1
    snr_cap: float = 5.0
    noise_offset: float = 0.1
    ema: float = 0.999


class UNetHyperparameters(DenoiserTraining):
    """The UNet: epsilon prediction with Stable Diffusion's betas; attention at `attention_levels` only."""

    channels: tuple[int, ...] = (64, 128, 192)
    attention_levels: tuple[int, ...] = (1, 2)
    layers_per_block: int = 1
    head_width: int = 32


class Hyperparameters(Frozen):
    """All of the terrarium that ships with the package.

    Attributes:
        scenes: pictures in the training set.
        vocabulary: size of the tokenizer's vocabulary.
        tokens: length that prompts are padded and cut to.
    """

    scenes: int = 80_000
    seed: int = 0
    vocabulary: int = 4096
    tokens: int = 48
    clip: ClipHyperparameters = ClipHyperparameters()
    vae: VaeHyperparameters = VaeHyperparameters()
    oracle: OracleHyperparameters = OracleHyperparameters()
    denoiser: UNetHyperparameters = UNetHyperparameters()
