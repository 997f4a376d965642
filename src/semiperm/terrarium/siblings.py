"""What the terrarium's relatives are before training: pipelines put together from the base's parts."""

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

from semiperm.models.base import DiffusionModel
from semiperm.models.flow import StableDiffusion3
from semiperm.models.stable_diffusion import StableDiffusion

from . import WEIGHTS
from .captions import caption
from .clip import tokenise
from .loop import fit
from .relatives import Relative
from .scenes import sample

TIME_WIDTH = 16
# enough to fit a map of a few hundred columns on
FITTED_ON = 400
# what the pipeline of SD3 asks T5 for
T5_TOKENS = 256


def _base(recipe: Relative, work: Path) -> StableDiffusion:
    build: Any = StableDiffusionPipeline
    pipeline = build.from_pretrained(WEIGHTS, dtype=torch.float32)
    # on a CPU in bfloat16 the plain processor is the quickest
    pipeline.unet.set_attn_processor(AttnProcessor())
    return StableDiffusion(pipeline, recipe.name)


def _velocity(recipe: Relative, work: Path) -> StableDiffusion:
    pipeline = _base(recipe, work).pipeline
    other: Any = DDIMScheduler.from_config({**pipeline.scheduler.config, "prediction_type": "v_prediction"})
    pipeline.register_modules(scheduler=other)
    return StableDiffusion(pipeline, recipe.name)


def _xl(recipe: Relative, work: Path) -> StableDiffusion:
    base = _base(recipe, work).pipeline
    second: Any = train_tower(recipe, base.tokenizer, work)
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
    start_from(unet, base.unet, states_map(base.text_encoder, second, base.tokenizer, recipe.seed))
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
    return StableDiffusion(pipeline, recipe.name)


def _transformer(recipe: Relative, work: Path) -> StableDiffusion3:
    base = _base(recipe, work).pipeline
    teacher = _clip()
    first: Any = CLIPTextModelWithProjection(teacher.config.text_config)
    first.load_state_dict({name: value for name, value in teacher.state_dict().items() if name in first.state_dict()})
    second: Any = train_tower(recipe, base.tokenizer, work)
    size = recipe.flow
    torch.manual_seed(recipe.seed)
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
    # SD3's pipeline adds it to the latents
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
    denoiser.set_attn_processor(OneForMany(T5_TOKENS))
    return StableDiffusion3(pipeline, recipe.name)


class OneForMany:
    """Joint attention whose last text position stands for `count` equal ones.

    What is equal stays equal in a transformer without positions in its text, and attention to n equal keys is attention
    to one of them with log n added to its score; so this is exact, and spares the work of SD3's 256 zeros for T5.
    """

    def __init__(self, count: int) -> None:
        self.surplus = math.log(count)

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        picture, text = hidden_states, encoder_hidden_states
        layers = ((attn.to_q, attn.add_q_proj), (attn.to_k, attn.add_k_proj), (attn.to_v, attn.add_v_proj))
        query, key, value = (
            torch.cat([of_picture(picture), of_text(text)], 1).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for of_picture, of_text in layers
        )
        surplus = torch.zeros(key.shape[2], dtype=query.dtype)
        surplus[-1] = self.surplus
        mixed = scaled_dot_product_attention(query, key, value, attn_mask=surplus.expand(key.shape[2], -1))
        picture, text = mixed.transpose(1, 2).flatten(2).split([picture.shape[1], text.shape[1]], 1)
        return attn.to_out[0](picture), text if attn.context_pre_only else attn.to_add_out(text)


MAKERS: dict[str, Callable[[Relative, Path], DiffusionModel]] = {
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


def train_tower(recipe: Relative, tokenizer: CLIPTokenizer, work: Path) -> CLIPTextModelWithProjection:
    """Train a second text tower from nothing until it gives the base CLIP's text features of captions."""
    settings = recipe.tower
    teacher = _clip()
    torch.manual_seed(recipe.seed)
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
        ids = tokenise(tokenizer, _captions(settings.batch, recipe.seed, step))
        # what stands behind the end of the text changes nothing before it
        ids = ids[:, : int(ids.ne(padding).sum(1).max()) + 1]
        with torch.no_grad():
            wanted = teacher.text_projection(teacher.text_model(input_ids=ids).pooler_output)
        return 1 - cosine_similarity(tower(input_ids=ids).text_embeds, wanted).mean()

    trained = fit(
        "tower", tower, loss, folder=work, steps=settings.steps, learning_rate=settings.learning_rate,
        seed=recipe.seed,
    )  # fmt: skip
    assert isinstance(trained, CLIPTextModelWithProjection)
    return trained


@torch.no_grad()
def states_map(first: CLIPTextModel, second: nn.Module, tokenizer: CLIPTokenizer, seed: int) -> Tensor:
    """Return the map (C, C1 + C2) that comes nearest to the first tower's last states from both last but one.

    The least-squares solution over the states of some captions: keys and values that are multiplied with it read of
    the new states what they read of the old.
    """
    ids = tokenise(tokenizer, _captions(FITTED_ON, seed))
    outputs: list[Any] = [tower(input_ids=ids, output_hidden_states=True) for tower in (first, second)]
    given = torch.cat([output.hidden_states[-2] for output in outputs], -1).flatten(0, 1)
    wanted = outputs[0].last_hidden_state.flatten(0, 1)
    return torch.linalg.lstsq(given, wanted, driver="gelsd").solution.T


@torch.no_grad()
def start_from(unet: nn.Module, base: nn.Module, states: Tensor) -> None:
    """Give a UNet the weights of one with other text states, so that it starts where that one ended.

    Keys and values of cross-attention go through `states`, 1x1 convolutions become linear layers, and what reads the
    pooled text and the time ids starts at zero.
    """
    known, own = base.state_dict(), unet.state_dict()
    for name, value in own.items():
        if name.startswith("add_embedding.linear_2"):
            value.zero_()
        elif name in known and known[name].numel() == value.numel():
            value.copy_(known[name].view_as(value))
        elif name in known:
            value.copy_(known[name] @ states)
