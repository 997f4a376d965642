"""Membranes in safetensors files: ours, the SPM authors', and plain LoRAs.

For a UNet ours is a kohya LoRA as diffusers, ComfyUI and A1111 read it, for a transformer a LoRA in PEFT's names as
diffusers and ComfyUI read it; what else a membrane is stands in the metadata.
Formats: [safetensors](https://github.com/huggingface/safetensors#format),
[modelspec](https://github.com/Stability-AI/ModelSpec).
"""

import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from pydantic import ValidationError
from torch import Tensor

from semiperm.atomic import whole
from semiperm.concept import Concept
from semiperm.membrane.membrane import Card, Membrane, listed
from semiperm.models.base import BLOCKS

SUFFIX = ".safetensors"
MAX_BYTES = 2 * 1024**3
MAX_HEADER_BYTES = 16 * 1024**2

PREFIX = "lora_unet_"
DOWN, UP, ALPHA = ".lora_down.weight", ".lora_up.weight", ".alpha"
PEFT_DOWN, PEFT_UP = ".lora_A.weight", ".lora_B.weight"
SIDES = {DOWN: DOWN, UP: UP, ALPHA: ALPHA, PEFT_DOWN: DOWN, PEFT_UP: UP}
# what stands before a layer's own path in PEFT's names
TRANSFORMER = "transformer."
DIRECT = (TRANSFORMER, "unet.", "base_model.model.")
CARD_KEY, LAYERS_KEY = "semiperm.card", "semiperm.layers"

WEIGHT_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl", ".pickle")
BASE_VERSIONS = {
    "stable-diffusion-v1": "sd_v1",
    "stable-diffusion-v2-512": "sd_v2",
    "stable-diffusion-v2-768-v": "sd_v2_v",
    "stable-diffusion-xl-v1-base": "sdxl_base_v1-0",
}

# the words that diffusers' UNets make their layer names of; kohya joins words, and the parts of a word, with "_"
_WORD = (
    r"down_blocks|up_blocks|mid_block|transformer_blocks|attentions|attn[12]|to_[qkv]|to_out|ff|net|proj_in|proj_out"
    r"|proj|\d+"
)
_LAYER = re.compile(rf"(?:{_WORD})(?:_(?:{_WORD}))*")


class MembraneFileError(ValueError):
    """A file that is no membrane, or not a sound one; the message says which file and why."""


def save(membrane: Membrane, path: str | Path, *, dtype: torch.dtype | None = None) -> Path:
    """Write a membrane as one safetensors file, in the layout that its denoiser's tools read, and return its path.

    The same membrane always gives the same bytes, and a file that is there already is replaced in one step or not at
    all. `dtype` (float16, bfloat16, float32) stores another precision than the membrane's own.

    Raises:
        MembraneFileError: the name does not end in .safetensors, or the numbers cannot be stored.
    """
    path = Path(path)
    if path.suffix != SUFFIX:
        raise MembraneFileError(f"{path}: a membrane's file name must end in {SUFFIX}")
    tensors: dict[str, Tensor] = {}
    direct = of_transformer(membrane)
    for layer, down in membrane.down.items():
        name = TRANSFORMER + layer if direct else _flat(layer)
        ends = (PEFT_DOWN, PEFT_UP) if direct else (DOWN, UP)
        if name + ends[0] in tensors:
            raise MembraneFileError(f"{path}: two layers would be stored under one name, {name}")
        tensors[name + ends[0]] = down.detach().to("cpu", dtype).contiguous().clone()
        tensors[name + ends[1]] = membrane.up[layer].detach().to("cpu", dtype).contiguous().clone()
        if not direct:
            # PEFT's names know no alpha: there the scale is 1 unless a file says otherwise
            tensors[name + ALPHA] = torch.tensor(float(membrane.rank))
    for name, tensor in tensors.items():
        _check_numbers(path, name, tensor)
    data = _sorted_header(safetensors.torch.save(tensors, _metadata(membrane, path.stem)))

    with whole(path) as draft:
        draft.write_bytes(data)
    return path


def load(path: str | Path, layers: Iterable[str] | None = None) -> Membrane:
    """Read a membrane from a safetensors file: one of ours, one of the SPM authors', or a plain kohya LoRA.

    A scale alpha / rank other than 1 is folded into up. `layers` are the model's erasable layers, needed for foreign
    files whose layers are not named as in a diffusers UNet. The concept of a foreign file is called as its metadata
    says (the authors' `prompts` whole, commas included), or as the file.

    Raises:
        FileNotFoundError: there is no such file.
        MembraneFileError: the file is not a sound membrane; nothing in it is ever executed.
    """
    path = Path(path)
    tensors, metadata = _read(path)
    own = CARD_KEY in metadata
    paths = _own_layers(path, metadata) if own else None if layers is None else list(layers)
    down, up = _pairs(path, tensors, _Names(path, paths))
    if (scale := _peft_scale(path, metadata)) != 1:
        up = {layer: value.float() * scale for layer, value in up.items()}
    card = _own_card(path, metadata) if own else _foreign_card(path, metadata)
    try:
        membrane = Membrane(card, down, up)
    except ValueError as error:
        raise MembraneFileError(f"{path}: {error}") from None
    if not own and "prompts" in metadata and metadata.get("rank", str(membrane.rank)) != str(membrane.rank):
        raise MembraneFileError(
            f"{path}: its metadata say rank {metadata['rank']}, but its tensors have {membrane.rank}"
        )
    return membrane


def of_transformer(membrane: Membrane) -> bool:
    """Tell whether a membrane's denoiser is a transformer itself, and no UNet that has some inside."""
    blocks = tuple(f"{block}." for block in BLOCKS)
    return all(layer.startswith(blocks) for layer in membrane.down)


# writing


def _flat(layer: str) -> str:
    return PREFIX + layer.replace(".", "_")


def _metadata(membrane: Membrane, stem: str) -> dict[str, str]:
    card = membrane.card
    metadata = {
        "format": "pt",
        CARD_KEY: json.dumps(card.model_dump(mode="json"), sort_keys=True, allow_nan=False),
        LAYERS_KEY: json.dumps(list(membrane.down)),
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(membrane.rank),
        "ss_network_alpha": str(membrane.rank),
        "ss_output_name": stem,
        "ss_v2": str(card.architecture.startswith("stable-diffusion-v2")),
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.implementation": "diffusers",
        "modelspec.title": f"{card.concept.name} (membrane)",
        "modelspec.description": f"Erases {card.concept.name!r}; strength 1 takes it away.",
    }
    optional = {
        "ss_base_model_version": BASE_VERSIONS.get(card.architecture, ""),
        "ss_sd_model_name": card.base_model,
        "modelspec.architecture": f"{card.architecture}/lora" if card.architecture else "",
        "modelspec.date": card.date,
        "modelspec.license": card.licence,
    }
    return metadata | {key: value for key, value in optional.items() if value}


def _sorted_header(data: bytes) -> bytes:
    # safetensors writes the metadata in an order that changes from run to run
    length = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


# reading


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if path.suffix.lower() in PICKLES:
        raise MembraneFileError(
            f"{path}: {path.suffix} files can run code when they are read, so they are never opened; ask for the "
            "same adapter as .safetensors"
        )
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_BYTES:
            raise MembraneFileError(f"{path}: {size:,} bytes are more than a membrane can have ({MAX_BYTES:,})")
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or (length > size - 8 and length <= MAX_HEADER_BYTES):
            raise MembraneFileError(f"{path}: the file is truncated, or is no safetensors file; fetch it again")
        if length > MAX_HEADER_BYTES:
            raise MembraneFileError(
                f"{path}: this is no safetensors file: its header would have {length:,} bytes, more than the "
                f"{MAX_HEADER_BYTES:,} allowed"
            )
        file.seek(0)
        # whole into memory, checked there: a mapped file could change after the check
        data = file.read(size)
    try:
        tensors = safetensors.torch.load(data)
        metadata = json.loads(data[8 : 8 + length]).get("__metadata__") or {}
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, RecursionError, RuntimeError) as error:
        raise MembraneFileError(
            f"{path}: not a sound safetensors file ({_short(error)}); it is truncated, damaged or made to harm"
        ) from None
    return tensors, metadata


class _Names:
    """Maps the flattened names of a file back to layer paths."""

    def __init__(self, path: Path, layers: list[str] | None) -> None:
        self.path = path
        self.known: dict[str, str] | None = None if layers is None else {_flat(layer): layer for layer in layers}
        if layers is not None and self.known is not None and len(self.known) != len(layers):
            raise MembraneFileError(f"{path}: several layers share one flattened name, so their tensors are ambiguous")

    def part(self, name: str) -> tuple[str, str]:
        """Return which side of which layer a tensor is.

        Raises:
            MembraneFileError: it is no part of an adapter, or belongs to no layer that a membrane covers.
        """
        end = next((end for end in SIDES if name.endswith(end)), None)
        if end is None or not name.startswith((PREFIX, *DIRECT)):
            raise MembraneFileError(
                f"{self.path}: tensor {name!r} is no part of a LoRA for a denoiser, neither in kohya's names "
                f"({PREFIX}<layer>{DOWN}, {UP}, {ALPHA}) nor in PEFT's "
                f"({TRANSFORMER}<layer>{PEFT_DOWN}, {PEFT_UP}), the only ones that are read"
            )
        bare = name.removesuffix(end)
        return SIDES[end], self.layer(bare) if bare.startswith(PREFIX) else self._direct(bare)

    def _direct(self, name: str) -> str:
        layer = name.removeprefix(next(prefix for prefix in DIRECT if name.startswith(prefix)))
        if self.known is not None and layer not in self.known.values():
            raise MembraneFileError(
                f"{self.path}: {layer} is no layer that a membrane covers here; the file was made for another "
                "architecture, or for more than the denoiser's transformer blocks"
            )
        return layer

    def layer(self, name: str) -> str:
        if self.known is not None:
            if name not in self.known:
                raise MembraneFileError(
                    f"{self.path}: {name} belongs to no layer that a membrane covers here; the file was made for "
                    "another architecture, or for more than the denoiser's transformer blocks"
                )
            return self.known[name]
        if not _LAYER.fullmatch(name.removeprefix(PREFIX)):
            raise MembraneFileError(
                f"{self.path}: {name} is no layer of a diffusers UNet's transformer blocks; give load() the model's "
                "layers if the file was made for another model"
            )
        return ".".join(re.findall(_WORD, name.removeprefix(PREFIX)))


def _pairs(path: Path, tensors: Mapping[str, Tensor], names: _Names) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    sides: dict[str, dict[str, Tensor]] = {DOWN: {}, UP: {}, ALPHA: {}}
    _check_all_numbers(path, tensors)
    for name, tensor in tensors.items():
        side, layer = names.part(name)
        sides[side][layer] = tensor
    downs, ups, alphas = sides[DOWN], sides[UP], sides[ALPHA]
    if not downs and not ups:
        raise MembraneFileError(f"{path}: there are no adapter tensors in it")
    if odd := sorted((downs.keys() | ups.keys() | alphas.keys()) ^ (downs.keys() & ups.keys())):
        raise MembraneFileError(
            f"{path}: each layer needs both lora_down and lora_up, but one is missing: {listed(odd)}"
        )
    if names.known is not None and (lacking := [layer for layer in names.known.values() if layer not in downs]):
        raise MembraneFileError(f"{path}: there are no tensors for {listed(lacking)}")
    # in the order of the names that were given, since the order of tensors in a file means nothing
    order = sorted(downs) if names.known is None else list(names.known.values())
    folded = {layer: _folded(path, layer, downs[layer], ups[layer], alphas.get(layer)) for layer in order}
    return {layer: pair[0] for layer, pair in folded.items()}, {layer: pair[1] for layer, pair in folded.items()}


def _folded(path: Path, layer: str, down: Tensor, up: Tensor, alpha: Tensor | None) -> tuple[Tensor, Tensor]:
    if down.ndim < 2 or down.shape[0] == 0:
        raise MembraneFileError(f"{path}: the lora_down of {layer} has shape {tuple(down.shape)}, which is no matrix")
    if alpha is None:
        return down, up
    if alpha.numel() != 1 or alpha.item() == 0:
        raise MembraneFileError(f"{path}: the alpha of {layer} must be one number, and not 0")
    scale = float(alpha.item()) / down.shape[0]
    if scale == 1:
        return down, up
    folded = up.float() * scale
    _check_numbers(path, f"{layer} times alpha / rank", folded)
    return down.float(), folded


def _check_all_numbers(path: Path, tensors: Mapping[str, Tensor]) -> None:
    # hundreds of tiny tensors are looked at together, and one by one only to say which is wrong
    together = [tensor.flatten() for tensor in tensors.values() if tensor.dtype in WEIGHT_DTYPES]
    sound = len(together) == len(tensors) and (not together or bool(torch.cat(together).isfinite().all()))
    for name, tensor in () if sound else tensors.items():
        _check_numbers(path, name, tensor)


def _check_numbers(path: Path, name: str, tensor: Tensor) -> None:
    if not name.endswith(ALPHA) and tensor.dtype not in WEIGHT_DTYPES:
        raise MembraneFileError(
            f"{path}: tensor {name} has the type {tensor.dtype}; float16, bfloat16 and float32 are read"
        )
    if tensor.dtype.is_complex or not torch.isfinite(tensor).all():
        raise MembraneFileError(f"{path}: tensor {name} has numbers that are not finite")


def _peft_scale(path: Path, metadata: Mapping[str, str]) -> float:
    # diffusers keeps PEFT's configuration beside the tensors, each key under the part that it is for
    text = metadata.get("lora_adapter_metadata")
    if text is None:
        return 1.0
    try:
        facts = {key.split(".")[-1]: value for key, value in json.loads(text).items()}
        scale = float(facts["lora_alpha"]) / float(facts["r"])
    except (ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError, RecursionError):
        raise MembraneFileError(f"{path}: its metadata 'lora_adapter_metadata' names no rank and alpha") from None
    if not math.isfinite(scale) or scale == 0:
        raise MembraneFileError(f"{path}: its metadata 'lora_adapter_metadata' has a scale of {scale}")
    return scale


def _own_card(path: Path, metadata: Mapping[str, str]) -> Card:
    try:
        card = Card.model_validate_json(metadata[CARD_KEY])
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "JSON"
        raise MembraneFileError(
            f"{path}: its card cannot be read ({where}: {first['msg']}); it is damaged, or written by a newer semiperm"
        ) from None
    if card.layers == 0:
        raise MembraneFileError(f"{path}: its card does not say how many layers it covers")
    return card


def _own_layers(path: Path, metadata: Mapping[str, str]) -> list[str]:
    try:
        layers = json.loads(metadata.get(LAYERS_KEY, "null"))
    except (ValueError, RecursionError):
        layers = None
    if not isinstance(layers, list) or not all(isinstance(layer, str) for layer in layers):
        raise MembraneFileError(f"{path}: its metadata {LAYERS_KEY!r} is not a list of layer names")
    return layers


def _foreign_card(path: Path, metadata: Mapping[str, str]) -> Card:
    name = metadata.get("prompts", "").strip() or metadata.get("ss_output_name", "").strip() or path.stem
    facts: dict[str, Any] = {
        "base_model": metadata.get("ss_sd_model_name", ""),
        "architecture": metadata.get("modelspec.architecture", "").removesuffix("/lora"),
        "date": metadata.get("modelspec.date", ""),
        "licence": metadata.get("modelspec.license", ""),
    }
    return Card(concept=Concept(name=name), **facts)


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 160 else f"{text[:160]}..."
