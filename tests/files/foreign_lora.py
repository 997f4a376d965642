"""LoRAs as other tools write them: any layers, ranks and alphas, in any spelling."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import cycle

import torch
from torch import Tensor, nn

from semiperm.files.sgm_names import sgm_names
from semiperm.models.layers import sizes

# the names of down, up and alpha of a layer
Spelling = Callable[[str], tuple[str, str, str]]


@dataclass
class Lora:
    """What a file of another tool is made of; a layer without alpha has the scale 1."""

    down: dict[str, Tensor]
    up: dict[str, Tensor]
    alpha: dict[str, float] = field(default_factory=dict)

    def delta(self, layer: str) -> Tensor:
        """What the file adds to a weight: alpha / rank * up @ down, in the shape of the weight."""
        down, up = self.down[layer], self.up[layer]
        scale = self.alpha.get(layer, down.shape[0]) / down.shape[0]
        return scale * torch.einsum("or,r...->o...", up.flatten(1).double(), down.double()).float()

    def tensors(self, spelling: Spelling) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for layer in self.down:
            down, up, alpha = spelling(layer)
            found |= {down: self.down[layer].contiguous(), up: self.up[layer].contiguous()}
            if layer in self.alpha:
                found[alpha] = torch.tensor(self.alpha[layer])
        return found


def lora(
    layers: Mapping[str, nn.Module],
    ranks: Iterable[int] = (2,),
    alphas: Iterable[float | None] = (None,),
    *,
    seed: int = 0,
    whole: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Lora:
    """A random LoRA on layers, with the ranks and alphas in turn; `whole` numbers make every product exact."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        if whole:
            return torch.randint(-3, 4, shape, generator=generator).to(dtype)
        return (torch.randn(shape, generator=generator) * 0.4).to(dtype)

    made = Lora({}, {})
    for (path, layer), rank, alpha in zip(layers.items(), cycle(ranks), cycle(alphas), strict=False):
        inputs, outputs, kernel = sizes(path, layer)
        made.down[path] = draw(rank, inputs, *kernel)
        made.up[path] = draw(outputs, rank, *(1 for _ in kernel))
        if alpha is not None:
            made.alpha[path] = alpha
    return made


def flat(prefix: str, name: Callable[[str], str] = str) -> Spelling:
    """kohya's names."""

    def spelling(layer: str) -> tuple[str, str, str]:
        base = prefix + name(layer).replace(".", "_")
        return f"{base}.lora_down.weight", f"{base}.lora_up.weight", f"{base}.alpha"

    return spelling


def dotted(prefix: str, down: str, up: str, name: Callable[[str], str] = str) -> Spelling:
    """The names of PEFT and diffusers."""
    return lambda layer: (prefix + name(layer) + down, prefix + name(layer) + up, prefix + name(layer) + ".alpha")


def sgm(layers: Iterable[str]) -> Callable[[str], str]:
    return sgm_names(list(layers)).__getitem__


def in_processors(layer: str) -> tuple[str, str, str]:
    """The names that diffusers gave to pairs while they were in attention processors."""
    found = re.fullmatch(r"(.*\.attn[12])\.(to_[qkv]|to_out)(\.0)?", layer)
    base = f"unet.{found[1]}.processor.{found[2]}_lora" if found else f"unet.{layer}.lora"
    return f"{base}.down.weight", f"{base}.up.weight", f"{base}.alpha"


KOHYA = flat("lora_unet_")
PEFT = dotted("unet.", ".lora_A.weight", ".lora_B.weight")
