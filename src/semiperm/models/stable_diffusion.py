"""Stable Diffusion 1, 2 and XL: one denoiser with cross-attention, one or two CLIP text encoders."""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.utils.torch_utils import get_module_execution_device
from torch import Tensor

from semiperm.errors import ModelLoadError
from semiperm.models.model import DiffusionModel
from semiperm.models.text import TextFeatures

# B batch, T tokens, C channels, H height, W width

PREDICTION_TYPES = ("epsilon", "v_prediction")


def ddim(scheduler: Any, steps: int, **changes: Any) -> Any:
    """Return DDIM with the betas and prediction type of any other scheduler.

    Raises:
        ModelLoadError: the scheduler has no betas, for instance because it is EDM's, so its noise is not DDIM's.
    """
    if "beta_schedule" not in scheduler.config and not scheduler.config.get("trained_betas"):
        raise ModelLoadError(
            f"The scheduler {type(scheduler).__name__} has no betas, so noisy states to train on cannot be made with "
            "DDIM: give the pipeline a DDIM, Euler or DPM++ scheduler of the same model for training."
        )
    # DDIM clips by default, which latents must not be; other schedulers have no such setting.
    config = {"clip_sample": False, **dict(scheduler.config), **changes}
    found: Any = DDIMScheduler.from_config(config)
    found.set_timesteps(steps)
    return found


class StableDiffusion(DiffusionModel):
    """A Stable Diffusion pipeline of any generation (SD1, SD2, SDXL) as a `DiffusionModel`.

    The pipeline is used as it is: nothing is copied, moved or changed.

    Raises:
        ModelLoadError: the pipeline lacks the parts of Stable Diffusion, or has unsupported ones.
    """

    pipelines = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")

    def __init__(self, pipeline: Any, name: str = "") -> None:
        missing = [part for part in ("unet", "text_encoder", "tokenizer", "scheduler") if not hasattr(pipeline, part)]
        if missing:
            raise ModelLoadError(
                f"{type(pipeline).__name__} is not a Stable Diffusion pipeline: it has no {', '.join(missing)}."
            )
        super().__init__(pipeline, name)
        self.is_xl = hasattr(pipeline, "text_encoder_2")
        if not isinstance(self.denoiser, UNet2DConditionModel):
            raise ModelLoadError(
                f"{self.name}: the denoiser is a {type(self.denoiser).__name__}, not UNet2DConditionModel."
            )
        for part in ("text_encoder", "tokenizer", *(("text_encoder_2", "tokenizer_2") if self.is_xl else ())):
            if getattr(pipeline, part) is None:
                raise ModelLoadError(
                    f"{self.name}: the pipeline was built without its {part}, which reads the prompts."
                )
        if self.prediction_type not in PREDICTION_TYPES:
            raise ModelLoadError(
                f"{self.name}: the scheduler's prediction type is {self.prediction_type!r}; "
                f"supported are {' and '.join(PREDICTION_TYPES)}."
            )
        if self.is_xl:
            self._check_time_ids()
        self.architecture = self._architecture()

    @property
    def prediction_type(self) -> str:
        # Flow schedulers have none.
        return str(self.pipeline.scheduler.config.get("prediction_type"))

    def latent_shape(self) -> tuple[int, int, int]:
        size = self._config.sample_size
        height, width = (size, size) if isinstance(size, int) else tuple(size)
        return int(self.pipeline.vae.config.latent_channels), int(height), int(width)

    def _encode(self, prompts: list[str]) -> TextFeatures:
        """Encode a few prompts, with `clip_skip` None.

        SD: `hidden_BTC` is the last, normalised state, `pooled_BC` the state at the end-of-text token. SDXL:
        `hidden_BTC` are the last but one states of both encoders side by side, `pooled_BC` is the second encoder's
        projection, `condition` holds `text_embeds` and the `time_ids` of an uncropped picture of the model's own size;
        `ids` and `mask_BT` are the first tokenizer's. What SDXL feeds for guidance in place of the empty prompt is in
        `unconditional`.
        """
        return self._encode_xl(prompts) if self.is_xl else self._encode_one(prompts)

    @torch.no_grad()
    def unconditional(self, count: int) -> TextFeatures:
        """Return what guidance is measured against when no negative prompt is given: the empty prompt, `count` times.

        An SDXL pipeline with `force_zeros_for_empty_prompt` takes zeros instead of the encoded empty prompt.
        """
        empty = self.encode([""])
        if self.is_xl and self.pipeline.config.force_zeros_for_empty_prompt:
            zeros = torch.zeros_like(empty.condition["text_embeds"])
            empty = TextFeatures(
                hidden_BTC=torch.zeros_like(empty.hidden_BTC),
                pooled_BC=zeros,
                mask_BT=empty.mask_BT,
                ids=empty.ids,
                condition={**empty.condition, "text_embeds": zeros},
            )
        return empty.select([0] * count)

    def predict(self, x_BCHW: Tensor, t: Tensor, features: TextFeatures) -> Tensor:
        condition = {name: value.to(x_BCHW) for name, value in features.condition.items()}
        return self.pipeline.unet(
            x_BCHW,
            torch.as_tensor(t, device=x_BCHW.device),
            encoder_hidden_states=features.hidden_BTC.to(x_BCHW),
            added_cond_kwargs=condition or None,
            return_dict=False,
        )[0]

    def schedule(self, steps: int, **changes: Any) -> Any:
        return ddim(self.pipeline.scheduler, steps, **changes)

    def _architecture(self) -> str:
        width = self._config.cross_attention_dim
        if self.is_xl:
            return "stable-diffusion-xl-v1-base" if width == 2048 else "stable-diffusion-xl"
        if width == 1024:
            return "stable-diffusion-v2-768-v" if self.prediction_type == "v_prediction" else "stable-diffusion-v2-512"
        return "stable-diffusion-v1" if width == 768 else "stable-diffusion"

    def _check_time_ids(self) -> None:
        config = self._config
        expected = 6 * (config.addition_time_embed_dim or 0) + self.pipeline.text_encoder_2.config.projection_dim
        if config.addition_embed_type != "text_time" or config.projection_class_embeddings_input_dim != expected:
            raise ModelLoadError(
                f"{self.name}: the denoiser does not take SDXL's pooled text and six time ids; "
                "refiners and other descendants with another size conditioning are not supported."
            )

    def _tokens(self, prompts: list[str]) -> tuple[tuple[int, ...], ...]:
        return _ids(self._tokenize(prompts, self.pipeline.tokenizer))

    def _tokenize(self, prompts: list[str], tokenizer: Any) -> Mapping[str, Tensor]:
        # A textual inversion of several vectors is one word for the user and several tokens for the text encoder.
        # Without any, the conversion would only warn about long prompts.
        if any(token.endswith("_1") for token in tokenizer.added_tokens_encoder):
            prompts = self.pipeline.maybe_convert_prompt(prompts, tokenizer)
        return tokenizer(
            prompts, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
        )

    def _encode_one(self, prompts: list[str]) -> TextFeatures:
        encoder = self.pipeline.text_encoder
        tokens = self._tokenize(prompts, self.pipeline.tokenizer)
        where = get_module_execution_device(encoder)
        attended = tokens["attention_mask"].to(where) if getattr(encoder.config, "use_attention_mask", False) else None
        output = encoder(tokens["input_ids"].to(where), attention_mask=attended)
        hidden_BTC = output.last_hidden_state.to(self.device, encoder.dtype)
        return self._features(tokens, hidden_BTC, output.pooler_output.to(hidden_BTC), {})

    def _encode_xl(self, prompts: list[str]) -> TextFeatures:
        first, second = self.pipeline.text_encoder, self.pipeline.text_encoder_2
        tokens = self._tokenize(prompts, self.pipeline.tokenizer)
        tokens_2 = self._tokenize(prompts, self.pipeline.tokenizer_2)
        output = first(tokens["input_ids"].to(get_module_execution_device(first)), output_hidden_states=True)
        output_2 = second(tokens_2["input_ids"].to(get_module_execution_device(second)), output_hidden_states=True)
        states = [states.hidden_states[-2].to(self.device, second.dtype) for states in (output, output_2)]
        hidden_BTC = torch.cat(states, dim=-1)
        pooled_BC = output_2.text_embeds.to(hidden_BTC)
        _, height, width = self.latent_shape()
        height, width = height * self.pipeline.vae_scale_factor, width * self.pipeline.vae_scale_factor
        # original size, top left corner of the crop, target size
        time_ids = torch.tensor([[height, width, 0, 0, height, width]] * len(prompts)).to(hidden_BTC)
        return self._features(tokens, hidden_BTC, pooled_BC, {"text_embeds": pooled_BC, "time_ids": time_ids})

    def _features(
        self, tokens: Mapping[str, Tensor], hidden_BTC: Tensor, pooled_BC: Tensor, condition: Mapping[str, Tensor]
    ) -> TextFeatures:
        return TextFeatures(
            hidden_BTC=hidden_BTC,
            pooled_BC=pooled_BC,
            mask_BT=tokens["attention_mask"].bool().to(hidden_BTC.device),
            ids=_ids(tokens),
            condition=condition,
        )


def _ids(tokens: Mapping[str, Tensor]) -> tuple[tuple[int, ...], ...]:
    # By position, not by value: SD2 and SDXL pad with "!", which is also a word.
    pairs = zip(tokens["input_ids"], tokens["attention_mask"].bool(), strict=True)
    return tuple(tuple(row[mask][1:-1].tolist()) for row, mask in pairs)
