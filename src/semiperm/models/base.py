"""A diffusion model, seen through one door."""

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from accelerate.hooks import CpuOffload
from accelerate.utils.memory import clear_device_cache
from torch import Tensor, nn
from torch.nn import functional as F

# B batch, T tokens, C channels

# enough to keep the text encoder busy; SDXL's hidden states of several hundred prompts at once would take gigabytes
PROMPTS_AT_ONCE = 32
BLOCKS = ("transformer_blocks", "single_transformer_blocks")
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


@dataclass(frozen=True)
class TextFeatures:
    """What the text side of a model makes of a list of prompts.

    Attributes:
        hidden_BTC: what the denoiser reads; behind a shorter prompt's end there may be zeros.
        pooled_BC: one vector a prompt: the encoder's own, or the mean over `mask_BT` where it has none.
        mask_BT: True from the start token to the end-of-text token, never for a chat template's tokens; None if the
            prompts came as embeddings without a mask.
        ids: token ids of each prompt without start, end and padding; None if the prompts came as embeddings.
        start: the position of the first of `ids`: 1 behind a start token, 0 where there is none.
        condition: further tensors for the denoiser (SDXL's `text_embeds` and `time_ids`, T5's attention mask), batch
            first.
    """

    hidden_BTC: Tensor
    pooled_BC: Tensor | None = None
    mask_BT: Tensor | None = None
    ids: tuple[tuple[int, ...], ...] | None = None
    condition: Mapping[str, Tensor] = field(default_factory=dict)
    start: int = 1

    def __len__(self) -> int:
        return self.hidden_BTC.shape[0]

    def select(self, index: Sequence[int] | Tensor) -> "TextFeatures":
        """Return the features of the prompts at `index`, in that order, repeats allowed."""
        rows = torch.as_tensor(index, dtype=torch.long, device=self.hidden_BTC.device)
        return TextFeatures(
            hidden_BTC=self.hidden_BTC[rows],
            pooled_BC=None if self.pooled_BC is None else self.pooled_BC[rows],
            mask_BT=None if self.mask_BT is None else self.mask_BT[rows],
            ids=None if self.ids is None else tuple(self.ids[row] for row in rows.tolist()),
            condition={name: value[rows] for name, value in self.condition.items()},
            start=self.start,
        )

    def to(self, device: torch.device) -> "TextFeatures":
        """Return the features in another place; what is there already is shared, not copied."""
        return TextFeatures(
            hidden_BTC=self.hidden_BTC.to(device),
            pooled_BC=None if self.pooled_BC is None else self.pooled_BC.to(device),
            mask_BT=None if self.mask_BT is None else self.mask_BT.to(device),
            ids=self.ids,
            condition={name: value.to(device) for name, value in self.condition.items()},
            start=self.start,
        )


def concatenate(parts: Sequence[TextFeatures]) -> TextFeatures:
    """Return the prompts of all parts as one list; what one part lacks (pooled features, mask, ids) the whole lacks.

    Parts that hold fewer positions than the longest get zeros behind.
    """
    pooled = [part.pooled_BC for part in parts if part.pooled_BC is not None]
    masks = [part.mask_BT for part in parts if part.mask_BT is not None]
    ids = [part.ids for part in parts if part.ids is not None]
    return TextFeatures(
        hidden_BTC=_stacked([part.hidden_BTC for part in parts]),
        pooled_BC=torch.cat(pooled) if len(pooled) == len(parts) else None,
        mask_BT=_stacked(masks) if len(masks) == len(parts) else None,
        ids=tuple(row for part in ids for row in part) if len(ids) == len(parts) else None,
        condition={name: _stacked([part.condition[name] for part in parts]) for name in parts[0].condition},
        start=parts[0].start,
    )


def is_hub_id(name: str) -> bool:
    """Tell whether a name is written like a repository's on the Hub, `user/repo`, and not like a checkpoint's."""
    return HUB_ID.fullmatch(name) is not None and not name.lower().endswith(".safetensors")


def _stacked(parts: Sequence[Tensor]) -> Tensor:
    longest = max(part.shape[1] for part in parts)
    # F.pad is told of the last dimension first
    return torch.cat([F.pad(part, (0, 0) * (part.ndim - 2) + (0, longest - part.shape[1])) for part in parts])


def mean_state(hidden_BTC: Tensor, mask_BT: Tensor) -> Tensor:
    """Return the mean of each prompt's states where the mask is True (B, C); 0 where it never is."""
    weight_BT1 = mask_BT.unsqueeze(-1).to(hidden_BTC)
    return (hidden_BTC * weight_BT1).sum(1) / weight_BT1.sum(1).clamp_min(1)


def unwrapped(denoiser: nn.Module) -> nn.Module:
    """Return the network behind the shells of `torch.compile` and `peft.PeftModel`."""
    # their names would become part of every layer's path
    inner: Any = getattr(denoiser, "_orig_mod", denoiser)
    return inner.get_base_model() if hasattr(inner, "get_base_model") else inner


def erasable_layers(denoiser: nn.Module) -> dict[str, nn.Module]:
    """Return every Linear and Conv2d inside the denoiser's transformer blocks, by path.

    In a UNet these are its `Transformer2DModel` blocks, which are the layers of arXiv:2312.16145, sec. 4.1; a denoiser
    that is a transformer itself has them in `transformer_blocks` and `single_transformer_blocks`. Adapters of others
    (LoRA, IP-Adapter) are looked through: the layers are the denoiser's own, under its own paths.
    """
    from diffusers.models.transformers.transformer_2d import Transformer2DModel

    found: dict[str, nn.Module] = {}
    whole = [getattr(denoiser, name, None) for name in BLOCKS]
    for prefix, block in denoiser.named_modules():
        if isinstance(block, Transformer2DModel) or any(block is one for one in whole):
            found |= _own_layers(prefix, block)
    return found


def _own_layers(path: str, module: nn.Module) -> dict[str, nn.Module]:
    if is_adapted(module):
        return _own_layers(path, cast(nn.Module, module.base_layer))
    if isinstance(module, nn.Linear | nn.Conv2d):
        return {path: module}
    # an IP-Adapter keeps layers of its own in attention's processors
    children = [(name, child) for name, child in module.named_children() if name != "processor"]
    return {own: layer for name, child in children for own, layer in _own_layers(f"{path}.{name}", child).items()}


def is_adapted(module: nn.Module) -> bool:
    """Whether this is PEFT's wrapper around a layer, such as a LoRA's."""
    return "base_layer" in module._modules


def adapted_layers(denoiser: nn.Module) -> list[str]:
    """Return the paths of the layers that wear adapters of PEFT, such as a LoRA."""
    return [path for path, module in denoiser.named_modules() if is_adapted(module)]


def is_quantised(layer: nn.Module) -> bool:
    """Whether a layer keeps its weight in another form than the matrix or kernel that it is."""
    weight: Any = layer.weight
    # torchao's are tensors of a class of their own, bitsandbytes' are bytes of another shape
    return type(weight.data) is not Tensor or not weight.is_floating_point()


@torch.no_grad()
def linear_weight(layer: nn.Linear, dtype: torch.dtype) -> Tensor:
    """Return what a linear layer multiplies with, (O, I) in float32 on the CPU, quantised or not."""
    if not is_quantised(layer):
        return layer.weight.detach().float().cpu()
    # every library has its own way to unpack, but all of them can be called
    eye = torch.eye(layer.in_features, device=layer.weight.device, dtype=dtype)
    return (layer(eye).float() - layer(torch.zeros_like(eye)).float()).T.cpu()


def fingerprint(layers: Mapping[str, nn.Module]) -> str:
    """Return a short hash of the layers' names and sizes, equal for every checkpoint of one architecture.

    A 1x1 convolution counts as the linear layer that it is, so that both spellings of `proj_in` agree.
    """
    lines = []
    for path in sorted(layers):
        layer = layers[path]
        if isinstance(layer, nn.Conv2d):
            kernel = "" if layer.kernel_size == (1, 1) else f" {layer.kernel_size}"
            lines.append(f"{path} {layer.in_channels} {layer.out_channels}{kernel}")
        else:
            lines.append(f"{path} {layer.in_features} {layer.out_features}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


class DiffusionModel(ABC):
    """A text-to-image diffusion model: encode prompts, predict, schedule, erasable layers, pipeline.

    Attributes:
        name: the name it was loaded under ("terrarium", a Hub id, a path).
        pipeline: the diffusers pipeline, which stays the caller's to use.
        architecture: the modelspec architecture without suffix ("stable-diffusion-v1", ...).
        distilled: whether guidance is built in, so that a trajectory needs no empty prompt.
        start: the position of a prompt's first token in the text features.
        parts: the pipeline's parts that the family cannot do without.

    Raises:
        TypeError: the pipeline lacks a part.
    """

    name: str
    pipeline: Any
    architecture: str
    distilled: bool = False
    start: int = 1
    parts: tuple[str, ...] = ()

    def __init__(self, pipeline: Any, name: str = "") -> None:
        missing = [part for part in self.parts if getattr(pipeline, part, None) is None]
        if missing:
            raise TypeError(f"{type(pipeline).__name__} cannot be used: it has no {', '.join(missing)}.")
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
        """The module that the pipeline calls: the denoiser, or what `torch.compile` or PEFT put around it."""
        unet = getattr(self.pipeline, "unet", None)
        return self.pipeline.transformer if unet is None else unet

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> TextFeatures:
        """Encode as the pipeline encodes its positive prompts, without gradient; too long ones are cut quietly.

        The empty prompt is encoded like any other, and a repeated prompt once. Under model offloading the denoiser goes
        to the CPU first, and the features are kept there: those of FLUX's anchors are gigabytes.
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

    def unconditional(self, count: int) -> TextFeatures:
        """Return what guidance is measured against without a negative prompt: the empty prompt, `count` times."""
        return self.encode([""] * count)

    @abstractmethod
    def predict(self, x_BCHW: Tensor, t: Tensor, features: TextFeatures) -> Tensor:
        """Return the denoiser's raw output, of its own prediction type, at latents `x` and timesteps `t` (B,) or ()."""

    def guided(self, empty_BCHW: Tensor, asked_BCHW: Tensor, scale: float) -> Tensor:
        """Return what the pipeline's guidance makes of the predictions for the empty prompt and for the prompt."""
        return empty_BCHW + scale * (asked_BCHW - empty_BCHW)

    def keys_read(self, features: TextFeatures) -> list[Tensor]:
        """Return what keys and values of cross-attention read of each prompt (T, C), without what is masked."""
        return list(features.hidden_BTC)

    @abstractmethod
    def schedule(self, steps: int, **changes: Any) -> Any:
        """Return a diffusers scheduler set to `steps`, deterministic, on the model's own noise schedule.

        `changes` are to the scheduler's configuration.
        """

    @abstractmethod
    def latent_shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of one picture's latents at the model's own size."""

    @property
    def device(self) -> torch.device:
        """Where the pipeline computes, which under CPU offload is not where the weights wait."""
        return torch.device(self.pipeline._execution_device)

    @property
    def text_device(self) -> torch.device:
        """Where text features are kept: on the CPU where the parts wait there, otherwise where the model computes."""
        return torch.device("cpu") if self._offload else self.device

    @property
    def _offload(self) -> CpuOffload | None:
        hook = getattr(self.called, "_hf_hook", None)
        return hook if isinstance(hook, CpuOffload) else None

    def wake(self) -> None:
        """Bring the denoiser to where it computes, as its next call would, and let the text encoder wait instead."""
        if hook := self._offload:
            hook.pre_forward(self.called)

    def _rest(self) -> None:
        # accelerate lets a part go when the next one in the pipeline's order comes, and the text encoders come before
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
