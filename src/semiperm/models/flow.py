"""Flow transformers: Stable Diffusion 3 and FLUX.1 predict a velocity and attend to text and picture together."""

from typing import Any

import numpy as np
import torch
from diffusers.pipelines.flux.pipeline_flux import FluxPipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from semiperm.models.model import DiffusionModel
from semiperm.models.text import TextFeatures

# B batch, T tokens, C channels, H height, W width

LONGEST = 512
# the default guidance of FLUX.1-dev's pipeline
DISTILLED_GUIDANCE = 3.5


class FlowModel(DiffusionModel):
    """The common base of the flow transformers.

    Of their text features `hidden_BTC` is what joint attention reads, `pooled_BC` what modulates the blocks, and
    `mask_BT` says which positions hold text.
    """

    @property
    def prediction_type(self) -> str:
        return "flow"

    def schedule(self, steps: int, **changes: Any) -> Any:
        """Return Euler's method on the flow, with the timestep shift that the pipeline uses at its default size."""
        scheduler: Any = FlowMatchEulerDiscreteScheduler.from_config(
            {**dict(self.pipeline.scheduler.config), **changes}
        )
        shifted = scheduler.config.use_dynamic_shifting
        scheduler.set_timesteps(
            steps, sigmas=self._sigmas(steps), mu=self._shift(scheduler.config) if shifted else None
        )
        return scheduler

    def _sigmas(self, steps: int) -> np.ndarray | None:
        return None

    def _shift(self, config: Any) -> float:
        # A straight line through two sizes (arXiv:2403.03206, sec. 5.3.2, as in the reference pipelines)
        _, height, width = self.latent_shape()
        squares = height * width // 4
        slope = (config.max_shift - config.base_shift) / (config.max_image_seq_len - config.base_image_seq_len)
        return config.base_shift + slope * (squares - config.base_image_seq_len)

    def _mask(self, prompts: list[str], tokenizer: Any, length: int) -> Tensor:
        tokens = tokenizer(prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        return tokens["attention_mask"].bool()

    def _truncated(self, prompts: list[str], tokenizer: Any) -> list[list[int]]:
        return tokenizer(prompts, truncation=True, max_length=min(tokenizer.model_max_length, LONGEST))["input_ids"]


class StableDiffusion3(FlowModel):
    """Stable Diffusion 3 and 3.5, with or without the T5 text encoder."""

    parts = ("transformer", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "scheduler")
    optional_parts = ("text_encoder_3", "tokenizer_3")
    pipelines = ("StableDiffusion3Pipeline",)
    checkpoint_keys = ("joint_blocks.0.x_block.attn.qkv.weight", "pos_embed.proj.weight")
    denoiser_class = "SD3Transformer2DModel"
    architecture = "stable-diffusion-v3-medium"

    def latent_shape(self) -> tuple[int, int, int]:
        size = int(self._config.sample_size)
        return int(self._config.in_channels), size, size

    def _encode(self, prompts: list[str]) -> TextFeatures:
        # T5 has the pipeline's default length; without T5 there are zeros.
        hidden_BTC, _, pooled_BC, _ = self.pipeline.encode_prompt(
            prompts, None, None, device=self.device, do_classifier_free_guidance=False
        )
        length = self.pipeline.tokenizer_max_length
        mask_BT = torch.zeros(hidden_BTC.shape[:2], dtype=torch.bool)
        mask_BT[:, :length] = self._mask(prompts, self.pipeline.tokenizer, length)
        if getattr(self.pipeline, "text_encoder_3", None) is not None:
            rest = hidden_BTC.shape[1] - length
            mask_BT[:, length:] = self._mask(prompts, self.pipeline.tokenizer_3, rest)
        return TextFeatures(
            hidden_BTC=hidden_BTC,
            pooled_BC=pooled_BC,
            mask_BT=mask_BT.to(hidden_BTC.device),
            ids=self._tokens(prompts),
        )

    def _tokens(self, prompts: list[str]) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(ids[1:-1]) for ids in self._truncated(prompts, self.pipeline.tokenizer))

    def predict(self, x_BCHW: Tensor, t: Tensor, features: TextFeatures) -> Tensor:
        assert features.pooled_BC is not None
        return self.pipeline.transformer(
            hidden_states=x_BCHW,
            timestep=torch.as_tensor(t, device=x_BCHW.device).expand(len(x_BCHW)),
            encoder_hidden_states=features.hidden_BTC.to(x_BCHW),
            pooled_projections=features.pooled_BC.to(x_BCHW),
            return_dict=False,
        )[0]


class SquaredFlow(FlowModel):
    """The common base of flow transformers that read latents in 2x2 squares: FLUX.1, Qwen-Image."""

    separate_branches = True

    def _sigmas(self, steps: int) -> np.ndarray | None:
        # The pipeline's own sigmas, which end one step before 0.
        return np.linspace(1.0, 1 / steps, steps)

    def latent_shape(self) -> tuple[int, int, int]:
        side = 2 * (int(self.pipeline.default_sample_size) // 2)
        return int(self._config.in_channels) // 4, side, side


def into_squares(x_BCHW: Tensor) -> Tensor:
    """Return the squares of 2x2 as tokens, row by row: (B, H/2 W/2, 4C)."""
    count, channels, height, width = x_BCHW.shape
    squares = x_BCHW.view(count, channels, height // 2, 2, width // 2, 2)
    return squares.permute(0, 2, 4, 1, 3, 5).reshape(count, height // 2 * (width // 2), 4 * channels)


def out_of_squares(tokens: Tensor, shape: torch.Size) -> Tensor:
    """Return tokens (B, H/2 W/2, 4C) as the latents of `shape` (B, C, H, W) that they are the squares of."""
    count, channels, height, width = shape
    squares = tokens.view(count, height // 2, width // 2, channels, 2, 2)
    return squares.permute(0, 3, 1, 4, 2, 5).reshape(shape)


class Flux(SquaredFlow):
    """FLUX.1: dev, whose guidance is an input, and schnell, which needs none."""

    parts = ("transformer", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "scheduler")
    pipelines = ("FluxPipeline",)
    checkpoint_keys = ("double_blocks.0.img_attn.qkv.weight", "single_transformer_blocks.0.proj_mlp.weight")
    denoiser_class = "FluxTransformer2DModel"
    distilled = True
    # T5 has no start token.
    start = 0

    @property
    def architecture(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return "flux-1-dev" if self._config.guidance_embeds else "flux-1-schnell"

    def _encode(self, prompts: list[str]) -> TextFeatures:
        hidden_BTC, pooled_BC, _ = self.pipeline.encode_prompt(prompts, None, device=self.device)
        mask_BT = self._mask(prompts, self.pipeline.tokenizer_2, hidden_BTC.shape[1])
        return TextFeatures(
            hidden_BTC=hidden_BTC,
            pooled_BC=pooled_BC,
            mask_BT=mask_BT.to(hidden_BTC.device),
            ids=self._tokens(prompts),
            start=self.start,
        )

    def _tokens(self, prompts: list[str]) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(ids[:-1]) for ids in self._truncated(prompts, self.pipeline.tokenizer_2))

    def predict(self, x_BCHW: Tensor, t: Tensor, features: TextFeatures) -> Tensor:
        assert features.pooled_BC is not None
        count, _, height, width = x_BCHW.shape
        tools: Any = FluxPipeline
        guidance = None
        if self._config.guidance_embeds:
            guidance = torch.full((count,), DISTILLED_GUIDANCE, device=x_BCHW.device, dtype=torch.float32)
        found = self.pipeline.transformer(
            hidden_states=into_squares(x_BCHW),
            timestep=torch.as_tensor(t, device=x_BCHW.device).expand(count).to(x_BCHW) / 1000,
            guidance=guidance,
            pooled_projections=features.pooled_BC.to(x_BCHW),
            encoder_hidden_states=features.hidden_BTC.to(x_BCHW),
            txt_ids=torch.zeros(features.hidden_BTC.shape[1], 3, device=x_BCHW.device, dtype=x_BCHW.dtype),
            img_ids=tools._prepare_latent_image_ids(count, height // 2, width // 2, x_BCHW.device, x_BCHW.dtype),
            return_dict=False,
        )[0]
        return out_of_squares(found, x_BCHW.shape)
