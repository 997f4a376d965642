"""Names of tensors in LoRA files: kohya's, which flatten a layer's path, and PEFT's, which keep it."""

import re
from collections.abc import Iterable
from pathlib import Path

from semiperm.errors import MembraneFileError
from semiperm.models.layers import BLOCKS

KOHYA = "lora_unet_"
DOWN, UP, ALPHA = ".lora_down.weight", ".lora_up.weight", ".alpha"

# what precedes a layer's path in PEFT's names
TRANSFORMER, UNET, PEFT = "transformer.", "unet.", "base_model.model."
PEFT_DOWN, PEFT_UP = ".lora_A.weight", ".lora_B.weight"

_SIDES = {DOWN: DOWN, UP: UP, ALPHA: ALPHA, PEFT_DOWN: DOWN, PEFT_UP: UP}

# The words in the layer names of diffusers' UNets. Kohya joins words, and the parts of one word, by "_".
_WORD = (
    r"down_blocks|up_blocks|mid_block|transformer_blocks|attentions|attn[12]|to_[qkv]|to_out|ff|net|proj_in|proj_out"
    r"|proj|\d+"
)
_LAYER = re.compile(rf"(?:{_WORD})(?:_(?:{_WORD}))*")


def flattened(layer: str) -> str:
    """Return kohya's name of a layer."""
    return KOHYA + layer.replace(".", "_")


def in_transformer(layers: Iterable[str]) -> bool:
    """Return whether these layers belong to a denoiser that is a transformer itself, not a UNet."""
    blocks = tuple(f"{block}." for block in BLOCKS)
    return all(layer.startswith(blocks) for layer in layers)


class LayerNames:
    """Finds the side and the layer of each tensor in a LoRA file by its name.

    Attributes:
        path: the file, for messages.
        layers: the layers that the file must cover, by kohya's name; None if they are unknown.

    Raises:
        MembraneFileError: two layers have the same name in the file.
    """

    def __init__(self, path: Path, layers: Iterable[str] | None) -> None:
        self.path = path
        self.layers: dict[str, str] | None = None
        if layers is not None:
            self.layers = {}
            for layer in layers:
                name = flattened(layer)
                if name in self.layers:
                    raise MembraneFileError(
                        f"{path}: several layers share one flattened name, {name}, so their tensors are ambiguous."
                    )
                self.layers[name] = layer

    def part(self, name: str) -> tuple[str, str]:
        """Return the side (DOWN, UP or ALPHA) and the layer of a tensor.

        Raises:
            MembraneFileError: the tensor is not part of a LoRA, or its layer is not one that a membrane covers.
        """
        end = next((end for end in _SIDES if name.endswith(end)), None)
        if end is None or not name.startswith((KOHYA, TRANSFORMER, UNET, PEFT)):
            raise MembraneFileError(
                f"{self.path}: the tensor {name!r} is not part of a LoRA for a denoiser. Two kinds of names are read: "
                f"kohya's ({KOHYA}<layer>{DOWN}, {UP}, {ALPHA}) and PEFT's "
                f"({TRANSFORMER}<layer>{PEFT_DOWN}, {PEFT_UP})."
            )
        bare = name.removesuffix(end)
        return _SIDES[end], self._from_kohya(bare) if bare.startswith(KOHYA) else self._from_peft(bare)

    def _from_peft(self, name: str) -> str:
        layer = name.removeprefix(next(prefix for prefix in (TRANSFORMER, UNET, PEFT) if name.startswith(prefix)))
        if self.layers is not None and layer not in self.layers.values():
            raise self._foreign(layer)
        return layer

    def _from_kohya(self, name: str) -> str:
        if self.layers is not None:
            if name not in self.layers:
                raise self._foreign(name)
            return self.layers[name]
        if not _LAYER.fullmatch(name.removeprefix(KOHYA)):
            raise MembraneFileError(
                f"{self.path}: {name} is not a layer in the transformer blocks of a diffusers UNet; if the file was "
                "made for another model, pass that model's layers to load()."
            )
        return ".".join(re.findall(_WORD, name.removeprefix(KOHYA)))

    def _foreign(self, name: str) -> MembraneFileError:
        return MembraneFileError(
            f"{self.path}: {name} is no layer that a membrane covers here; the file was made for another "
            "architecture, or for more than the denoiser's transformer blocks."
        )
