"""Names of tensors in LoRA files: kohya's, which flatten a layer's path, and PEFT's, which keep it."""

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from semiperm.errors import MembraneFileError, clipped
from semiperm.files.sgm_names import sgm_names
from semiperm.models.layers import BLOCKS

KOHYA = "lora_unet_"
DOWN, UP, MID, ALPHA = ".lora_down.weight", ".lora_up.weight", ".lora_mid.weight", ".alpha"

# what precedes a layer's path in PEFT's names
TRANSFORMER, UNET, PEFT = "transformer.", "unet.", "base_model.model."
PEFT_DOWN, PEFT_UP = ".lora_A.weight", ".lora_B.weight"

# what precedes flattened and dotted names of a denoiser's layers: sd-scripts, OneTrainer, LyCORIS; diffusers, PEFT,
# ComfyUI. Dotted ones may stand one behind the other.
_FLAT_PREFIXES = (KOHYA, "lora_transformer_", "lycoris_")
_PREFIXES = (TRANSFORMER, UNET, PEFT, "model.diffusion_model.", "diffusion_model.")
_TEXT_ENCODER = re.compile(r"lora_te\d?_|text_encoders?(?:_\d)?\.")

# How tensor names end. PEFT puts the adapter's name before ".weight" while the adapter is in memory; diffusers used to
# keep the pairs of attention in its processors, as `attn1.processor.to_q_lora.down`.
_ADAPTER = r"(?:\.[^.]+)?"
_ENDS = {
    DOWN: rf"\.lora_down\.weight|\.lora_A{_ADAPTER}\.weight|[._]lora(?:_linear_layer)?\.down\.weight",
    UP: rf"\.lora_up\.weight|\.lora_B{_ADAPTER}\.weight|[._]lora(?:_linear_layer)?\.up\.weight",
    MID: r"\.lora_mid\.weight",
    ALPHA: r"(?:[._]lora)?\.alpha",
}
# adapters that are not, or not only, products of an up and a down
_OTHER_ENDS = {
    "LoHa": r"\.hada_\w+",
    "LoKr": r"\.lokr_\w+",
    "DoRA": rf"\.dora_scale|\.lora_magnitude_vector{_ADAPTER}",
    "OFT": r"\.b?oft_\w+(?:\.weight)?",
    "GLoRA": r"\.[ab][12]\.weight",
    "IA3": r"\.on_input",
    "full differences of weights": r"\.diff(?:_b)?|\.[wb]_norm",
    "biases": rf"\.lora_(?:up|B{_ADAPTER})\.bias|\.lora\.up\.bias",
}
_ROLE = re.compile(
    "(?P<layer>.+?)(?:"
    + "|".join(f"(?P<end{index}>{end})" for index, end in enumerate((_ENDS | _OTHER_ENDS).values()))
    + ")",
)
_ROLES = tuple(_ENDS | _OTHER_ENDS)

# The words in the layer names of diffusers' UNets. Kohya joins words, and the parts of one word, by "_".
_WORD = (
    r"down_blocks|up_blocks|mid_block|transformer_blocks|attentions|attn[12]|to_[qkv]|to_out|ff|net|proj_in|proj_out"
    r"|proj|\d+"
)
_LAYER = re.compile(rf"(?:{_WORD})(?:_(?:{_WORD}))*")


class Part(NamedTuple):
    """What a tensor's name says.

    Attributes:
        role: DOWN, UP, MID or ALPHA of a pair, or the kind of another adapter ("LoHa", ...).
        layer: the layer's name as the file has it, with its prefix.
    """

    role: str
    layer: str

    @property
    def supported(self) -> bool:
        """Whether the tensor is part of a pair."""
        return self.role in _ENDS

    @property
    def of_text_encoder(self) -> bool:
        return _TEXT_ENCODER.match(self.layer) is not None


def part(name: str) -> Part | None:
    """Return what a tensor's name says, or None if the tensor is not part of an adapter."""
    found = _ROLE.fullmatch(name)
    if found is None:
        return None
    index, end = next((index, found[f"end{index}"]) for index in range(len(_ROLES)) if found[f"end{index}"])
    layer = found["layer"].replace(".processor.", ".")
    if end.startswith("_lora.") and layer.endswith(".to_out"):
        layer += ".0"
    return Part(_ROLES[index], layer)


def flattened(layer: str) -> str:
    """Return kohya's name of a layer."""
    return KOHYA + layer.replace(".", "_")


def in_transformer(layers: Iterable[str]) -> bool:
    """Return whether these layers belong to a denoiser that is a transformer itself, not a UNet."""
    blocks = tuple(f"{block}." for block in BLOCKS)
    return all(layer.startswith(blocks) for layer in layers)


def spellings(path: Path, layers: Collection[str]) -> dict[str, str]:
    """Return the paths of a denoiser's layers by every name, without prefix, that files have for them.

    Args:
        path: the file, for messages.

    Raises:
        MembraneFileError: two layers have the same name.
    """
    known: dict[str, str] = {}
    sgm = sgm_names(layers)
    for layer in layers:
        names = {layer, *([sgm[layer]] if layer in sgm else [])}
        for name in names | {name.replace(".", "_") for name in names}:
            if known.setdefault(name, layer) != layer:
                raise MembraneFileError(
                    f"{path}: several layers share one flattened name, {KOHYA}{name.replace('.', '_')}, so their "
                    "tensors are ambiguous."
                )
    return known


def located(name: str, known: Mapping[str, str]) -> str | None:
    """Return the path of the layer that a file calls `name`; None if the denoiser has none of that name.

    Args:
        known: the `spellings` of the denoiser's layers.
    """
    if flat := next((prefix for prefix in _FLAT_PREFIXES if name.startswith(prefix)), None):
        return known.get(name.removeprefix(flat))
    while name not in known:
        prefix = next((prefix for prefix in _PREFIXES if name.startswith(prefix)), None)
        if prefix is None:
            return None
        name = name.removeprefix(prefix)
    return known[name]


class LayerNames:
    """Finds the role and the layer of each tensor in a LoRA file that covers given layers, or any.

    Attributes:
        path: the file, for messages.
        layers: the layers that the file must cover; None if they are unknown.

    Raises:
        MembraneFileError: two layers have the same name in the file.
    """

    def __init__(self, path: Path, layers: Iterable[str] | None) -> None:
        self.path = path
        self.layers = None if layers is None else list(layers)
        self._known = None if self.layers is None else spellings(path, self.layers)

    def part(self, name: str) -> Part:
        """Return the role of a tensor and the path of its layer.

        Raises:
            MembraneFileError: the tensor is not part of a LoRA, or its layer is not one that a membrane covers.
        """
        found = part(name)
        of_denoiser = found is not None and found.layer.startswith((*_FLAT_PREFIXES, *_PREFIXES))
        if found is None or not of_denoiser or found.role not in (DOWN, UP, ALPHA):
            raise MembraneFileError(
                f"{self.path}: the tensor {clipped(name)!r} is not part of a LoRA for a denoiser. Two kinds of names "
                f"are read: kohya's ({KOHYA}<layer>{DOWN}, {UP}, {ALPHA}) and PEFT's "
                f"({TRANSFORMER}<layer>{PEFT_DOWN}, {PEFT_UP})."
            )
        return Part(found.role, self._layer(found.layer))

    def _layer(self, name: str) -> str:
        if self._known is not None:
            if (layer := located(name, self._known)) is None:
                raise MembraneFileError(
                    f"{self.path}: {clipped(name)} is no layer that a membrane covers here; the file was made for "
                    "another architecture, or for more than the denoiser's transformer blocks, which `semiperm adopt` "
                    "can leave out."
                )
            return layer
        if flat := next((prefix for prefix in _FLAT_PREFIXES if name.startswith(prefix)), None):
            bare = name.removeprefix(flat)
            if not _LAYER.fullmatch(bare):
                raise MembraneFileError(
                    f"{self.path}: {clipped(name)} is not a layer in the transformer blocks of a diffusers UNet; if "
                    "the file was made for another model, pass that model's layers to load()."
                )
            return ".".join(re.findall(_WORD, bare))
        while prefix := next((prefix for prefix in _PREFIXES if name.startswith(prefix)), None):
            name = name.removeprefix(prefix)
        return name
