"""Membranes as LoRA tensors and metadata, and LoRAs of other tools as membranes.

For a UNet the tensors are a kohya LoRA, as diffusers, ComfyUI and A1111 read it; for a transformer a LoRA in PEFT's
names, as diffusers and ComfyUI read it.
"""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from semiperm.concept import Concept
from semiperm.erasure import Card
from semiperm.errors import MembraneFileError, listed
from semiperm.files.container import check_numbers
from semiperm.files.layer_names import (
    ALPHA,
    DOWN,
    PEFT_DOWN,
    PEFT_UP,
    TRANSFORMER,
    UP,
    LayerNames,
    flattened,
    in_transformer,
)
from semiperm.membrane import Membrane

LAYERS_KEY = "semiperm.layers"

# kohya's names of base models, by architecture
BASE_VERSIONS = {
    "stable-diffusion-v1": "sd_v1",
    "stable-diffusion-v2-512": "sd_v2",
    "stable-diffusion-v2-768-v": "sd_v2_v",
    "stable-diffusion-xl-v1-base": "sdxl_base_v1-0",
}


def tensors_of(path: Path, membrane: Membrane, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Return the tensors of a membrane by their names in a file, in the precision `dtype` or in their own.

    Raises:
        MembraneFileError: two layers have the same name in the file.
    """
    if in_transformer(membrane.down):
        return prefixed(membrane, TRANSFORMER, dtype)
    # refuses layers that share a name
    LayerNames(path, membrane.down)
    tensors: dict[str, Tensor] = {}
    for layer, down in membrane.down.items():
        name = flattened(layer)
        tensors[name + DOWN] = down.to(dtype=dtype)
        tensors[name + UP] = membrane.up[layer].to(dtype=dtype)
        tensors[name + ALPHA] = torch.tensor(float(membrane.rank))
    return tensors


def prefixed(membrane: Membrane, prefix: str, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Return the tensors of a membrane in PEFT's names behind a prefix.

    They have no alpha: the scale is 1 unless a configuration sets another.
    """
    tensors: dict[str, Tensor] = {}
    for layer, down in membrane.down.items():
        tensors[prefix + layer + PEFT_DOWN] = down.to(dtype=dtype)
        tensors[prefix + layer + PEFT_UP] = membrane.up[layer].to(dtype=dtype)
    return tensors


def metadata_of(membrane: Membrane, stem: str) -> dict[str, str]:
    """Return what other tools read in the metadata of a membrane's file.

    See [modelspec](https://github.com/Stability-AI/ModelSpec).
    """
    card = membrane.card
    metadata = {
        LAYERS_KEY: json.dumps(list(membrane.down)),
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(membrane.rank),
        "ss_network_alpha": str(membrane.rank),
        "ss_output_name": stem,
        "ss_v2": str(card.architecture.startswith("stable-diffusion-v2")),
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.implementation": "diffusers",
        "modelspec.title": f"{card.title} (membrane)",
        "modelspec.description": f"Erases {card.title!r} at strength 1.",
    }
    optional = {
        "ss_base_model_version": BASE_VERSIONS.get(card.architecture, ""),
        "ss_sd_model_name": card.base_model,
        "modelspec.architecture": f"{card.architecture}/lora" if card.architecture else "",
        "modelspec.date": card.date,
        "modelspec.license": card.licence,
    }
    return metadata | {key: value for key, value in optional.items() if value}


def own_membrane(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], card: Card) -> Membrane:
    """Return the membrane of a file that has a card.

    Raises:
        MembraneFileError: the tensors are not those of such a membrane.
    """
    if card.layers == 0:
        raise MembraneFileError(f"{path}: its card does not say how many layers it covers.")
    return _membrane(path, tensors, metadata, card, _own_layers(path, metadata))


def foreign_membrane(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], layers: Iterable[str] | None
) -> Membrane:
    """Return the membrane of a LoRA without a card; the SPM authors' files are among these.

    The concept is called as the metadata say (the authors' `prompts` whole, commas included), or as the file.

    Raises:
        MembraneFileError: the tensors are not those of a LoRA for a denoiser.
    """
    named = metadata.get("prompts", "").strip() or metadata.get("ss_output_name", "").strip()
    card = Card(
        concepts=(Concept(name=named or path.stem.strip() or "membrane"),),
        base_model=metadata.get("ss_sd_model_name", ""),
        architecture=metadata.get("modelspec.architecture", "").removesuffix("/lora"),
        date=metadata.get("modelspec.date", ""),
        licence=metadata.get("modelspec.license", ""),
    )
    membrane = _membrane(path, tensors, metadata, card, layers)
    if "prompts" in metadata and metadata.get("rank", str(membrane.rank)) != str(membrane.rank):
        raise MembraneFileError(
            f"{path}: its metadata say rank {metadata['rank']}, but its tensors have {membrane.rank}."
        )
    return membrane


def _membrane(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], card: Card, layers: Iterable[str] | None
) -> Membrane:
    down, up = _pairs(path, tensors, LayerNames(path, layers), _peft_scale(path, metadata))
    try:
        return Membrane(card, down, up)
    except ValueError as error:
        raise MembraneFileError(f"{path}: {error}") from None


def _pairs(
    path: Path, tensors: Mapping[str, Tensor], names: LayerNames, scale: float
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    sides: dict[str, dict[str, Tensor]] = {DOWN: {}, UP: {}, ALPHA: {}}
    for name, tensor in tensors.items():
        side, layer = names.part(name)
        sides[side][layer] = tensor
    check_numbers(path, {name: tensor for name, tensor in tensors.items() if not name.endswith(ALPHA)})
    downs, ups, alphas = sides[DOWN], sides[UP], sides[ALPHA]
    if not downs and not ups:
        raise MembraneFileError(f"{path}: there are no adapter tensors in it.")
    if odd := sorted((downs.keys() | ups.keys() | alphas.keys()) ^ (downs.keys() & ups.keys())):
        raise MembraneFileError(
            f"{path}: each layer needs both lora_down and lora_up, but one is missing: {listed(odd)}."
        )
    if names.layers is not None and (lacking := [layer for layer in names.layers.values() if layer not in downs]):
        raise MembraneFileError(f"{path}: there are no tensors for {listed(lacking)}.")
    # The order of tensors in a file means nothing, so it is that of the given layers.
    order = sorted(downs) if names.layers is None else list(names.layers.values())
    down: dict[str, Tensor] = {}
    up: dict[str, Tensor] = {}
    for layer in order:
        down[layer], up[layer] = _folded(path, layer, downs[layer], ups[layer], alphas.get(layer), scale)
    return down, up


def _folded(
    path: Path, layer: str, down: Tensor, up: Tensor, alpha: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """Return a pair of scale 1: alpha / rank and a further scale are folded into up."""
    if down.ndim < 2 or down.shape[0] == 0:
        raise MembraneFileError(f"{path}: the lora_down of {layer} has shape {tuple(down.shape)} and is no matrix.")
    if alpha is not None:
        scale *= _alpha(path, layer, alpha) / down.shape[0]
    if scale == 1:
        return down, up
    folded = up.float() * scale
    check_numbers(path, {f"lora_up of {layer} times alpha / rank": folded})
    return down.float(), folded


def _alpha(path: Path, layer: str, alpha: Tensor) -> float:
    if alpha.numel() != 1 or alpha.dtype.is_complex:
        raise MembraneFileError(f"{path}: the alpha of {layer} must be one number.")
    value = float(alpha.item())
    if not math.isfinite(value):
        raise MembraneFileError(f"{path}: the alpha of {layer} is {value}, which is not finite.")
    if value == 0:
        raise MembraneFileError(f"{path}: the alpha of {layer} must be one number, and not 0.")
    return value


def _peft_scale(path: Path, metadata: Mapping[str, str]) -> float:
    # diffusers keeps PEFT's configuration in the metadata, each key behind the name of the pipeline's part.
    text = metadata.get("lora_adapter_metadata")
    if text is None:
        return 1.0
    try:
        facts = {key.split(".")[-1]: value for key, value in json.loads(text).items()}
        scale = float(facts["lora_alpha"]) / float(facts["r"])
    except (ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError, RecursionError):
        raise MembraneFileError(f"{path}: its metadata 'lora_adapter_metadata' names no rank and alpha.") from None
    if not math.isfinite(scale) or scale == 0:
        raise MembraneFileError(f"{path}: its metadata 'lora_adapter_metadata' has a scale of {scale}.")
    return scale


def _own_layers(path: Path, metadata: Mapping[str, str]) -> list[str]:
    try:
        layers = json.loads(metadata.get(LAYERS_KEY, "null"))
    except (ValueError, RecursionError):
        layers = None
    if not isinstance(layers, list) or not all(isinstance(layer, str) for layer in layers):
        raise MembraneFileError(f"{path}: its metadata {LAYERS_KEY!r} are not a list of layer names.")
    return layers
