"""PixArt-alpha and PixArt-sigma: a transformer with cross-attention to a T5 text encoder, which predicts noise."""

import inspect
from typing import Any, cast

import torch
from diffusers.utils.import_utils import is_bs4_available, is_ftfy_available
from torch import Tensor

from semiperm.models.model import DiffusionModel
from semiperm.models.stable_diffusion import ddim
from semiperm.models.text import TextFeatures, mean_state

# B batch, T tokens, C channels, H height, W width


class PixArt(DiffusionModel):
    """PixArt-alpha or PixArt-sigma (arXiv:2310.00426, arXiv:2403.04692) in any of its sizes.

    Of the text features `hidden_BTC` are T5's states of the cleaned prompt, which the denoiser projects before its
    cross-attention reads them; padding is masked.
    """

    parts = ("transformer", "text_encoder", "tokenizer", "scheduler")
    pipelines = ("PixArtAlphaPipeline", "PixArtSigmaPipeline")
    # T5 has no start token.
    start = 0

    @property
    def architecture(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return "pixart-sigma" if type(self.pipeline).__name__.startswith("PixArtSigma") else "pixart-alpha"

    @property
    def prediction_type(self) -> str:
        return str(self.pipeline.scheduler.config.get("prediction_type"))

    def latent_shape(self) -> tuple[int, int, int]:
        size = int(self._config.sample_size)
        return int(self._config.in_channels), size, size

    def _encode(self, prompts: list[str]) -> TextFeatures:
        hidden_BTC, attended_BT, _, _ = self.pipeline.encode_prompt(
            prompts, do_classifier_free_guidance=False, device=self.device, clean_caption=_cleans()
        )
        mask_BT = attended_BT.bool()
        return TextFeatures(
            hidden_BTC=hidden_BTC,
            pooled_BC=mean_state(hidden_BTC, mask_BT),
            mask_BT=mask_BT,
            ids=self._tokens(prompts),
            condition={"encoder_attention_mask": attended_BT},
            start=self.start,
        )

    def _tokens(self, prompts: list[str]) -> tuple[tuple[int, ...], ...]:
        texts = self.pipeline._text_preprocessing(prompts, clean_caption=_cleans())
        # The pipeline truncates to its own default, which differs between alpha and sigma.
        limit = inspect.signature(self.pipeline.encode_prompt).parameters["max_sequence_length"].default
        tokens = self.pipeline.tokenizer(texts, truncation=True, max_length=limit)["input_ids"]
        return tuple(tuple(ids[:-1]) for ids in tokens)

    def predict(self, x_BCHW: Tensor, t: Tensor, features: TextFeatures) -> Tensor:
        count, channels = x_BCHW.shape[:2]
        found = self.pipeline.transformer(
            x_BCHW,
            encoder_hidden_states=features.hidden_BTC.to(x_BCHW),
            timestep=torch.as_tensor(t, device=x_BCHW.device).expand(count),
            added_cond_kwargs=self._size(x_BCHW),
            return_dict=False,
            **{name: value.to(x_BCHW) for name, value in features.condition.items()},
        )[0]
        # The second half of the channels is the learned variance, which no sampler here needs.
        return found[:, :channels]

    def schedule(self, steps: int, **changes: Any) -> Any:
        return ddim(self.pipeline.scheduler, steps, **changes)

    def keys_read(self, features: TextFeatures) -> list[Tensor]:
        attended_BT = features.condition["encoder_attention_mask"].bool()
        texts = [states[seen] for states, seen in zip(features.hidden_BTC, attended_BT, strict=True)]
        project = cast(Any, self.denoiser).caption_projection
        if project is None:
            return texts
        # Under CPU offload the denoiser is on another device than the text.
        weight = next(project.parameters())
        with torch.no_grad():
            return [project(text.to(weight)) for text in texts]

    def _size(self, x_BCHW: Tensor) -> dict[str, Tensor | None]:
        if not cast(Any, self.denoiser).use_additional_conditions:
            return {"resolution": None, "aspect_ratio": None}
        count, _, height, width = x_BCHW.shape
        size = torch.tensor([[height, width]] * count).to(x_BCHW) * self.pipeline.vae_scale_factor
        return {"resolution": size, "aspect_ratio": size[:, :1] / size[:, 1:]}


def _cleans() -> bool:
    # Asked to clean without the packages for it, the pipeline warns and does not.
    return is_bs4_available() and is_ftfy_available()
