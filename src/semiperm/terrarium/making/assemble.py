"""Untrained relatives: pipelines assembled from parts of the terrarium and of new ones."""

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.attention_processor import AttnProcessor
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import StableDiffusion3Pipeline
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, scaled_dot_product_attention
from transformers import CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from semiperm.models.flow import StableDiffusion3
from semiperm.models.model import DiffusionModel
from semiperm.models.stable_diffusion import StableDiffusion
from semiperm.terrarium import WEIGHTS
from semiperm.terrarium.captions import caption
from semiperm.terrarium.making.clip import tokenise
from semiperm.terrarium.making.loop import OnProgress, fit
from semiperm.terrarium.relatives import Relative
from semiperm.terrarium.scenes import sample

# width of the embedding of each of the six time ids
TIME_WIDTH = 16
# captions that the map between text states is fitted on; they have many more tokens than the map has columns
FITTED_ON = 400
# default length of the T5 text in diffusers' pipeline of SD3
T5_TOKENS = 256


def _base(relative: Relative, work: Path, progress: OnProgress | None) -> StableDiffusion:
    build: Any = StableDiffusionPipeline
    pipeline = build.from_pretrained(WEIGHTS, dtype=torch.float32)
    # on a CPU in bfloat16 the plain processor is the fastest
    pipeline.unet.set_attn_processor(AttnProcessor())
    return StableDiffusion(pipeline, relative.name)


def _velocity(relative: Relative, work: Path, progress: OnProgress | None) -> StableDiffusion:
    pipeline = _base(relative, work, progress).pipeline
    other: Any = DDIMScheduler.from_config({**pipeline.scheduler.config, "prediction_type": "v_prediction"})
    pipeline.register_modules(scheduler=other)
    return StableDiffusion(pipeline, relative.name)


def _xl(relative: Relative, work: Path, progress: OnProgress | None) -> StableDiffusion:
    base = _base(relative, work, progress).pipeline
    second: Any = train_tower(relative, base.tokenizer, work, progress)
    width, wider = base.text_encoder.config.hidden_size, second.config.hidden_size
    make: Any = UNet2DConditionModel
    unet = make.from_config(
        {
            **base.unet.config,
            "cross_attention_dim": width + wider,
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": TIME_WIDTH,
            "projection_class_embeddings_input_dim": 6 * TIME_WIDTH + second.config.projection_dim,
        }
    )
    start_from(unet, base.unet, states_map(base.text_encoder, second, base.tokenizer, relative.seed))
    unet.set_attn_processor(AttnProcessor())
    build: Any = StableDiffusionXLPipeline
    pipeline = build(
        vae=base.vae,
        text_encoder=base.text_encoder,
        text_encoder_2=second,
        tokenizer=base.tokenizer,
        tokenizer_2=copy.deepcopy(base.tokenizer),
        unet=unet,
        scheduler=base.scheduler,
        add_watermarker=False,
    )
    return StableDiffusion(pipeline, relative.name)


def _transformer(relative: Relative, work: Path, progress: OnProgress | None) -> StableDiffusion3:
    base = _base(relative, work, progress).pipeline
    teacher = _clip()
    first: Any = CLIPTextModelWithProjection(teacher.config.text_config)
    first.load_state_dict({name: value for name, value in teacher.state_dict().items() if name in first.state_dict()})
    second: Any = train_tower(relative, base.tokenizer, work, progress)
    size = relative.transformer
    torch.manual_seed(relative.seed)
    transformer: Any = SD3Transformer2DModel
    scheduler: Any = FlowMatchEulerDiscreteScheduler
    denoiser = transformer(
        sample_size=base.unet.config.sample_size,
        in_channels=base.unet.config.in_channels,
        out_channels=base.unet.config.in_channels,
        num_layers=size.layers,
        attention_head_dim=size.head_width,
        num_attention_heads=size.heads,
        caption_projection_dim=size.heads * size.head_width,
        joint_attention_dim=first.config.hidden_size + second.config.hidden_size,
        pooled_projection_dim=first.config.projection_dim + second.config.projection_dim,
        pos_embed_max_size=base.unet.config.sample_size,
    )
    # SD3's pipeline adds the shift to the latents, and the terrarium's config has none
    base.vae.register_to_config(shift_factor=0.0)
    build: Any = StableDiffusion3Pipeline
    pipeline = build(
        transformer=denoiser,
        scheduler=scheduler(shift=1.0),
        vae=base.vae,
        text_encoder=first.eval(),
        tokenizer=base.tokenizer,
        text_encoder_2=second,
        tokenizer_2=copy.deepcopy(base.tokenizer),
        text_encoder_3=None,
        tokenizer_3=None,
    )
    denoiser.set_attn_processor(RepeatedLastToken(T5_TOKENS))
    return StableDiffusion3(pipeline, relative.name)


class RepeatedLastToken:
    """Joint attention in which the last text token counts `count` times.

    SD3 without T5 has 256 zeros in place of T5's text. Equal text tokens stay equal in a transformer without text
    positions, and attention to n equal keys is attention to one of them with log n added to its score. So one token in
    place of 256 gives exactly the same output for less work.
    """

    def __init__(self, count: int) -> None:
        self.extra = math.log(count)

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        picture, text = hidden_states, encoder_hidden_states
        layers = ((attn.to_q, attn.add_q_proj), (attn.to_k, attn.add_k_proj), (attn.to_v, attn.add_v_proj))
        query, key, value = (
            torch.cat([of_picture(picture), of_text(text)], 1).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for of_picture, of_text in layers
        )
        extra = torch.zeros(key.shape[2], dtype=query.dtype)
        extra[-1] = self.extra
        mixed = scaled_dot_product_attention(query, key, value, attn_mask=extra.expand(key.shape[2], -1))
        picture, text = mixed.transpose(1, 2).flatten(2).split([picture.shape[1], text.shape[1]], 1)
        return attn.to_out[0](picture), text if attn.context_pre_only else attn.to_add_out(text)


ASSEMBLERS: dict[str, Callable[[Relative, Path, OnProgress | None], DiffusionModel]] = {
    "fine-tune": _base,
    "v-prediction": _velocity,
    "xl": _xl,
    "flow": _transformer,
}


def _clip() -> Any:
    return CLIPModel.from_pretrained(WEIGHTS / "clip", dtype=torch.float32).eval()


def _captions(count: int, *seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return [caption(sample(rng), rng) for _ in range(count)]


def train_tower(
    relative: Relative, tokenizer: CLIPTokenizer, work: Path, progress: OnProgress | None = None
) -> CLIPTextModelWithProjection:
    """Distil the text tower of the terrarium's CLIP into a new one of another size."""
    settings = relative.tower
    teacher = _clip()
    torch.manual_seed(relative.seed)
    config = CLIPTextConfig.from_dict(
        {
            **teacher.config.text_config.to_dict(),
            "hidden_size": settings.width,
            "intermediate_size": 4 * settings.width,
            "num_hidden_layers": settings.layers,
            "num_attention_heads": settings.heads,
        }
    )
    tower: Any = CLIPTextModelWithProjection(config)
    padding: Any = tokenizer.pad_token_id

    def loss(step: int) -> Tensor:
        ids = tokenise(tokenizer, _captions(settings.batch, relative.seed, step))
        # attention is causal, so the padding after the end of the text can be cut
        ids = ids[:, : int(ids.ne(padding).sum(1).max()) + 1]
        with torch.no_grad():
            wanted = teacher.text_projection(teacher.text_model(input_ids=ids).pooler_output)
        return 1 - cosine_similarity(tower(input_ids=ids).text_embeds, wanted).mean()

    trained = fit(
        "tower", tower, loss, folder=work, steps=settings.steps, learning_rate=settings.learning_rate,
        seed=relative.seed, progress=progress,
    )  # fmt: skip
    assert isinstance(trained, CLIPTextModelWithProjection)
    return trained


@torch.no_grad()
def states_map(first: CLIPTextModel, second: nn.Module, tokenizer: CLIPTokenizer, seed: int) -> Tensor:
    """Return the least-squares map (C1, C1 + C2) from the penultimate states of both towers to the last of the first.

    It is fitted on some captions. Keys and values multiplied with it read from the new text states about what they read
    from the old ones.
    """
    ids = tokenise(tokenizer, _captions(FITTED_ON, seed))
    outputs: list[Any] = [tower(input_ids=ids, output_hidden_states=True) for tower in (first, second)]
    given = torch.cat([output.hidden_states[-2] for output in outputs], -1).flatten(0, 1)
    wanted = outputs[0].last_hidden_state.flatten(0, 1)
    return torch.linalg.lstsq(given, wanted, driver="gelsd").solution.T


@torch.no_grad()
def start_from(unet: nn.Module, base: nn.Module, states: Tensor) -> None:
    """Initialise a UNet from `base`, which reads other text states, so that both predict almost the same.

    Keys and values of cross-attention are multiplied with the map `states` (C1, C1 + C2), 1x1 convolutions become
    linear layers, and the embedding of pooled text and time ids starts at zero.
    """
    known, own = base.state_dict(), unet.state_dict()
    for name, value in own.items():
        if name.startswith("add_embedding.linear_2"):
            value.zero_()
        elif name in known and known[name].numel() == value.numel():
            value.copy_(known[name].view_as(value))
        elif name in known:
            value.copy_(known[name] @ states)
