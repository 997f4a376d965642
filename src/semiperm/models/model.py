"""One interface over the supported diffusers pipelines."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, cast

import torch
from accelerate.hooks import CpuOffload
from accelerate.utils.memory import clear_device_cache
from torch import Tensor, nn

from semiperm.errors import ModelLoadError
from semiperm.models.layers import erasable_layers, fingerprint, unwrapped
from semiperm.models.text import TextFeatures, concatenate

# B batch, T tokens, C channels

# enough to keep the text encoder busy; SDXL's hidden states of several hundred prompts at once would take gigabytes
PROMPTS_AT_ONCE = 32


class DiffusionModel(ABC):
    """A diffusers pipeline and what erasing needs of it: encode prompts, predict, schedule, erasable layers.

    A family is one subclass and one line in `semiperm.models.load.FAMILIES`.

    Attributes:
        name: the name it was loaded under ("terrarium", a Hub id, a path).
        pipeline: the diffusers pipeline, which the caller may go on using.
        architecture: the modelspec architecture without suffix ("stable-diffusion-v1", ...).
        distilled: whether guidance is built in, so that a trajectory needs no empty prompt.
        start: the position of a prompt's first token in the text features.
        separate_branches: whether the pipeline runs the branches of guidance in calls of their own.
        parts: the pipeline's parts that the family needs.
        optional_parts: parts that a checkpoint of the family may lack.
        pipelines: the pipeline classes that `load_model` builds.
        checkpoint_keys: tensor names of single-file checkpoints; one of them tells that a checkpoint is this family's.
        denoiser_class: class of the denoiser, for families whose denoiser is published alone.

    Raises:
        ModelLoadError: the pipeline lacks a part.
    """

    name: str
    pipeline: Any
    architecture: str
    distilled: bool = False
    start: int = 1
    separate_branches: ClassVar[bool] = False
    parts: tuple[str, ...] = ()
    optional_parts: ClassVar[tuple[str, ...]] = ()
    pipelines: ClassVar[tuple[str, ...]] = ()
    checkpoint_keys: ClassVar[tuple[str, ...]] = ()
    denoiser_class: ClassVar[str] = ""

    def __init__(self, pipeline: Any, name: str = "") -> None:
        missing = [part for part in self.parts if getattr(pipeline, part, None) is None]
        if missing:
            raise ModelLoadError(f"{type(pipeline).__name__} cannot be used: it has no {', '.join(missing)}.")
        self.pipeline = pipeline
        self.name = name or str(getattr(pipeline, "name_or_path", "") or type(pipeline).__name__)

    @property
    def denoiser(self) -> nn.Module:
        """The network that membranes sit in."""
        return unwrapped(self.called)

    @property
    def _config(self) -> Any:
        return cast(Any, self.denoiser).config

    @property
    @abstractmethod
    def prediction_type(self) -> str:
        """What the denoiser predicts: "epsilon", "v_prediction" or "flow" (a velocity)."""

    @property
    def called(self) -> nn.Module:
        """The module that the pipeline calls: the denoiser, or the wrapper of `torch.compile` or PEFT around it."""
        unet = getattr(self.pipeline, "unet", None)
        return self.pipeline.transformer if unet is None else unet

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> TextFeatures:
        """Encode as the pipeline encodes its positive prompts, without gradient; long prompts are truncated.

        The empty prompt is encoded like any other, and a repeated prompt once. Under model offloading the denoiser is
        moved to the CPU first and the features are kept there: those of FLUX's anchors take gigabytes.
        """
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        if not prompts:
            raise ValueError("There is no prompt to encode: the list is empty.")
        row = {prompt: index for index, prompt in enumerate(dict.fromkeys(prompts))}
        distinct = list(row)
        chunks = [distinct[start : start + PROMPTS_AT_ONCE] for start in range(0, len(distinct), PROMPTS_AT_ONCE)]
        self._rest()
        features = concatenate([self._encode(chunk).to(self.text_device) for chunk in chunks])
        return features if len(distinct) == len(prompts) else features.select([row[prompt] for prompt in prompts])

    @abstractmethod
    def _encode(self, prompts: list[str]) -> TextFeatures:
        """Encode a few prompts at once."""

    def tokens(self, prompts: Sequence[str]) -> tuple[tuple[int, ...], ...]:
        """Return the token ids of each prompt, without start, end and padding; the text encoder does not run."""
        return self._tokens([prompts] if isinstance(prompts, str) else list(prompts))

    @abstractmethod
    def _tokens(self, prompts: list[str]) -> tuple[tuple[int, ...], ...]:
        """Return token ids as `TextFeatures.ids` has them."""

    def unconditional(self, count: int) -> TextFeatures:
        """Return the unconditional features for guidance without a negative prompt: the empty prompt, `count` times."""
        return self.encode([""] * count)

    @abstractmethod
    def predict(self, x_BCHW: Tensor, t: Tensor, features: TextFeatures) -> Tensor:
        """Return the denoiser's raw output, of its own prediction type, at latents `x` and timesteps `t` (B,) or ()."""

    def guided(self, empty_BCHW: Tensor, asked_BCHW: Tensor, scale: float) -> Tensor:
        """Return the guided prediction, as the pipeline computes it from those for the empty prompt and the prompt."""
        return empty_BCHW + scale * (asked_BCHW - empty_BCHW)

    def keys_read(self, features: TextFeatures) -> list[Tensor]:
        """Return the states of each prompt (T, C) that keys and values of cross-attention read, without masked ones."""
        return list(features.hidden_BTC)

    @abstractmethod
    def schedule(self, steps: int, **changes: Any) -> Any:
        """Return a deterministic diffusers scheduler set to `steps`, on the model's own noise schedule.

        `changes` override entries of the scheduler's configuration.
        """

    @abstractmethod
    def latent_shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of one picture's latents at the model's own size."""

    @property
    def device(self) -> torch.device:
        """The device that the pipeline computes on; under CPU offload the weights are stored elsewhere."""
        return torch.device(self.pipeline._execution_device)

    @property
    def text_device(self) -> torch.device:
        """The device for text features: the CPU under model offloading, otherwise where the model computes."""
        return torch.device("cpu") if self._offload else self.device

    @property
    def _offload(self) -> CpuOffload | None:
        hook = getattr(self.called, "_hf_hook", None)
        return hook if isinstance(hook, CpuOffload) else None

    def wake(self) -> None:
        """Load the denoiser onto its device, as its next call would, and offload the text encoder."""
        if hook := self._offload:
            hook.pre_forward(self.called)

    def _rest(self) -> None:
        # accelerate offloads a part when the next one in the pipeline's order is called; text encoders come before.
        waiting = torch.device("cpu")
        if (hook := self._offload) and next(self.called.parameters()).device != waiting:
            hook.init_hook(self.called)
            clear_device_cache()

    @property
    def dtype(self) -> torch.dtype:
        """The precision that the denoiser computes in, whatever its quantised weights are stored as."""
        return next(weight.dtype for weight in self.denoiser.parameters() if weight.is_floating_point())

    def erasable_layers(self) -> dict[str, nn.Module]:
        """Return the layers that a membrane covers, by path."""
        return erasable_layers(self.denoiser)

    def fingerprint(self) -> str:
        """Return the architecture's fingerprint; equal for all checkpoints that a membrane can be carried to."""
        return fingerprint(self.erasable_layers())
