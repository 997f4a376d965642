"""The layers of a denoiser that a membrane covers: finding them, their sizes and their fingerprint."""

import hashlib
from collections.abc import Mapping
from typing import Any, cast

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from semiperm.errors import CoverageError

BLOCKS = ("transformer_blocks", "single_transformer_blocks")


def unwrapped(denoiser: nn.Module) -> nn.Module:
    """Return the network inside the wrappers of `torch.compile` and `peft.PeftModel`."""
    # The wrappers' names would become part of every layer's path.
    inner: Any = getattr(denoiser, "_orig_mod", denoiser)
    return inner.get_base_model() if hasattr(inner, "get_base_model") else inner


def erasable_layers(denoiser: nn.Module) -> dict[str, nn.Module]:
    """Return every Linear and Conv2d inside the denoiser's transformer blocks, by path.

    In a UNet these are its `Transformer2DModel` blocks, which are the layers of arXiv:2312.16145, sec. 4.1; a denoiser
    that is a transformer itself has them in `transformer_blocks` and `single_transformer_blocks`. Other
    adapters (LoRA, IP-Adapter) are skipped: the layers are the denoiser's own, under its own paths.
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
    # An IP-Adapter keeps its own layers in the attention processors.
    children = [(name, child) for name, child in module.named_children() if name != "processor"]
    return {own: layer for name, child in children for own, layer in _own_layers(f"{path}.{name}", child).items()}


def is_adapted(module: nn.Module) -> bool:
    """Whether this is PEFT's wrapper around a layer, such as a LoRA's."""
    return isinstance(module, BaseTunerLayer)


def adapted_layers(denoiser: nn.Module) -> list[str]:
    """Return the paths of the layers that PEFT has wrapped, for instance with a LoRA."""
    return [path for path, module in denoiser.named_modules() if is_adapted(module)]


def is_quantised(layer: nn.Module) -> bool:
    """Whether a layer stores its weight in another form than a plain matrix or kernel."""
    return not is_plain(cast(Tensor, layer.weight))


def is_plain(weight: Tensor) -> bool:
    """Whether a weight is stored as plain floating-point numbers."""
    # torchao's weights are tensor subclasses, those of bitsandbytes are bytes of another shape
    return type(weight.data) is Tensor and weight.is_floating_point()


@torch.no_grad()
def linear_weight(layer: nn.Linear, dtype: torch.dtype) -> Tensor:
    """Return the weight of a linear layer, quantised or not: (O, I) float32 on the CPU."""
    if not is_quantised(layer):
        return layer.weight.detach().float().cpu()
    # Every quantisation library unpacks in its own way, but every layer can be called.
    eye = torch.eye(layer.in_features, device=layer.weight.device, dtype=dtype)
    return (layer(eye).float() - layer(torch.zeros_like(eye)).float()).T.cpu()


def fingerprint(layers: Mapping[str, nn.Module]) -> str:
    """Return a short hash of the layers' names and sizes, equal for every checkpoint of one architecture.

    A 1x1 convolution counts as a linear layer, so that both forms of `proj_in` agree.
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


def sizes(path: str, layer: nn.Module) -> tuple[int, int, tuple[int, ...]]:
    """Return inputs, outputs and kernel of a layer; the kernel is () for a linear layer.

    Raises:
        CoverageError: the layer is neither an `nn.Linear` nor an `nn.Conv2d`.
    """
    # Read the declared sizes: a quantised weight has another shape.
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features, ()
    if isinstance(layer, nn.Conv2d):
        return layer.in_channels, layer.out_channels, tuple(layer.kernel_size)
    raise CoverageError(
        f"layer {path} is a {type(layer).__name__}; membranes sit on linear layers and 2-D convolutions only",
        misshapen=[path],
    )
