"""Real networks, built from their published configurations; on the meta device they take no memory."""

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from diffusers.models.transformers.pixart_transformer_2d import PixArtTransformer2DModel
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from diffusers.models.transformers.transformer_qwenimage import QwenImageTransformer2DModel
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    T5Config,
    T5EncoderModel,
)

from semiperm.models.flow import Flux, StableDiffusion3
from semiperm.models.model import DiffusionModel
from semiperm.models.pixart import PixArt
from semiperm.models.qwen_image import QwenImage
from semiperm.models.stable_diffusion import StableDiffusion
from semiperm.models.text import TextFeatures

_FOUR_LEVELS: dict[str, Any] = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "layers_per_block": 2,
}
UNETS: dict[str, dict[str, Any]] = {
    "sd15": {**_FOUR_LEVELS, "cross_attention_dim": 768, "attention_head_dim": 8},
    "sd21": {
        **_FOUR_LEVELS,
        "sample_size": 96,
        "cross_attention_dim": 1024,
        "attention_head_dim": (5, 10, 20, 20),
        "use_linear_projection": True,
        "upcast_attention": True,
    },
    "sdxl": {
        "sample_size": 128,
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 2,
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20),
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}
SD35_MEDIUM: dict[str, Any] = {
    "sample_size": 128, "patch_size": 2, "in_channels": 16, "num_layers": 24, "attention_head_dim": 64,
    "num_attention_heads": 24, "joint_attention_dim": 4096, "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048, "out_channels": 16, "pos_embed_max_size": 384,
    "dual_attention_layers": tuple(range(13)), "qk_norm": "rms_norm",
}  # fmt: skip
FLUX_DEV: dict[str, Any] = {
    "patch_size": 1, "in_channels": 64, "num_layers": 19, "num_single_layers": 38, "attention_head_dim": 128,
    "num_attention_heads": 24, "joint_attention_dim": 4096, "pooled_projection_dim": 768, "guidance_embeds": True,
    "axes_dims_rope": (16, 56, 56),
}  # fmt: skip
# transformer/config.json of PixArt-alpha/PixArt-Sigma-XL-2-1024-MS on the Hub
PIXART_SIGMA: dict[str, Any] = {
    "sample_size": 128, "patch_size": 2, "in_channels": 4, "out_channels": 8, "num_layers": 28,
    "attention_head_dim": 72, "num_attention_heads": 16, "cross_attention_dim": 1152, "caption_channels": 4096,
    "attention_bias": True, "activation_fn": "gelu-approximate", "norm_type": "ada_norm_single",
    "norm_elementwise_affine": False, "norm_eps": 1e-6, "num_embeds_ada_norm": 1000, "interpolation_scale": 2,
    "use_additional_conditions": False,
}  # fmt: skip
# transformer/config.json of Qwen/Qwen-Image on the Hub
QWEN_IMAGE: dict[str, Any] = {
    "patch_size": 2, "in_channels": 64, "out_channels": 16, "num_layers": 60, "attention_head_dim": 128,
    "num_attention_heads": 24, "joint_attention_dim": 3584, "guidance_embeds": False, "axes_dims_rope": (16, 56, 56),
}  # fmt: skip


def _clip(width: int, layers: int, heads: int, activation: str = "quick_gelu") -> nn.Module:
    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers, num_attention_heads=heads,
            projection_dim=width, hidden_act=activation,
        )
    )  # fmt: skip


def clip_l() -> nn.Module:
    return _clip(768, 12, 12)


def clip_g() -> nn.Module:
    return _clip(1280, 32, 20, "gelu")


def t5_xxl() -> nn.Module:
    return T5EncoderModel(
        T5Config(d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64, feed_forward_proj="gated-gelu")
    )


def qwen_vl() -> nn.Module:
    config: Any = Qwen2_5_VLConfig
    return Qwen2_5_VLForConditionalGeneration(
        config(
            text_config={
                "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
                "num_attention_heads": 28, "num_key_value_heads": 4,
                "rope_parameters": {"mrope_section": [16, 24, 24], "rope_type": "default", "rope_theta": 1e6},
            },
            vision_config={
                "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 3584,
            },
        )
    )  # fmt: skip


@dataclass(frozen=True)
class Real:
    """A published model.

    Attributes:
        family: class of the DiffusionModel.
        part: the denoiser's name in the pipeline, "unet" or "transformer".
        network: class of the denoiser.
        config: its configuration.
        encoders: the text encoders, each with the number of tokens that it reads.
        text: tokens and channels of the text features that the denoiser reads.
        pooled: channels of the pooled features, if the denoiser reads them.
        condition: shapes of further tensors that it reads, for one prompt.
        scheduler: makes the scheduler.
    """

    family: Callable[..., DiffusionModel]
    part: str
    network: Any
    config: dict[str, Any]
    encoders: tuple[tuple[Callable[[], nn.Module], int], ...]
    text: tuple[int, int]
    pooled: int | None = None
    condition: dict[str, tuple[int, ...]] = field(default_factory=dict)
    scheduler: Callable[[], Any] = DDIMScheduler

    def denoiser(self, device: str, dtype: torch.dtype = torch.bfloat16) -> nn.Module:
        """Build the denoiser, with random weights unless the device is meta."""
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            with torch.device(device):
                return self.network(**self.config).eval()
        finally:
            torch.set_default_dtype(before)

    def model(self, denoiser: nn.Module, device: str) -> DiffusionModel:
        """Return the model around a denoiser; instead of encoding, it draws random text features on the CPU."""
        parts: dict[str, Any] = {
            part: SimpleNamespace(config=SimpleNamespace(projection_dim=self.pooled))
            for part in ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")[: 2 * min(2, len(self.encoders))]
        }
        channels = 4 if self.part == "unet" else 16
        parts["vae"] = SimpleNamespace(config=SimpleNamespace(latent_channels=channels))
        pipeline = SimpleNamespace(
            scheduler=self.scheduler(), _execution_device=torch.device(device), default_sample_size=128,
            vae_scale_factor=8, config=SimpleNamespace(force_zeros_for_empty_prompt=False),
            **{self.part: denoiser}, **parts,
        )  # fmt: skip
        model = self.family(pipeline, "real")
        stand_in: Any = model
        stand_in.encode = lambda prompts: self.features(len(prompts), next(denoiser.parameters()).dtype)
        return model

    def features(self, count: int, dtype: torch.dtype) -> TextFeatures:
        """Return random features of `count` prompts."""
        return TextFeatures(
            hidden_BTC=torch.randn(count, *self.text, dtype=dtype),
            pooled_BC=None if self.pooled is None else torch.randn(count, self.pooled, dtype=dtype),
            condition={name: torch.ones(count, *shape) for name, shape in self.condition.items()},
        )


def _flow() -> Any:
    return FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)


REAL: dict[str, Real] = {
    "SD 1.5": Real(
        StableDiffusion, "unet", UNet2DConditionModel, UNETS["sd15"], ((clip_l, 77),), (77, 768)
    ),
    "SDXL": Real(
        StableDiffusion, "unet", UNet2DConditionModel, UNETS["sdxl"], ((clip_l, 77), (clip_g, 77)), (77, 2048), 1280,
        {"text_embeds": (1280,), "time_ids": (6,)},
    ),
    "SD 3.5 medium": Real(
        StableDiffusion3, "transformer", SD3Transformer2DModel, SD35_MEDIUM,
        ((clip_l, 77), (clip_g, 77), (t5_xxl, 256)), (77 + 256, 4096), 2048,
        scheduler=lambda: FlowMatchEulerDiscreteScheduler(shift=3.0),
    ),
    "PixArt-Σ": Real(
        PixArt, "transformer", PixArtTransformer2DModel, PIXART_SIGMA, ((t5_xxl, 300),), (300, 4096),
        condition={"encoder_attention_mask": (300,)},
    ),
    "FLUX.1 dev": Real(
        Flux, "transformer", FluxTransformer2DModel, FLUX_DEV, ((clip_l, 77), (t5_xxl, 512)), (512, 4096), 768,
        scheduler=_flow,
    ),
    "Qwen-Image": Real(
        QwenImage, "transformer", QwenImageTransformer2DModel, QWEN_IMAGE, ((qwen_vl, 64),), (30, 3584),
        condition={"encoder_hidden_states_mask": (30,)}, scheduler=_flow,
    ),
}  # fmt: skip
