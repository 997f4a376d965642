"""Membranes as LoRA tensors and metadata, and LoRAs of other tools as membranes.

For a UNet the tensors are a kohya LoRA, as diffusers, ComfyUI and A1111 read it; for a transformer a LoRA in PEFT's
names, as diffusers and ComfyUI read it.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from semiperm.concept import Concept
from semiperm.erasure import Card
from semiperm.errors import MembraneFileError, clipped, listed
from semiperm.files.container import check_numbers
from semiperm.files.layer_names import (
    ALPHA,
    DOWN,
    PEFT,
    PEFT_DOWN,
    PEFT_UP,
    TRANSFORMER,
    UP,
    LayerNames,
    flattened,
    in_transformer,
)
from semiperm.files.lora_pairs import folded, grouped, half_a_pair
from semiperm.files.lora_scale import PeftConfig, peft_config
from semiperm.files.strict import from_json
from semiperm.membrane import Membrane

LAYERS_KEY = "semiperm.layers"
# A membrane is small.
MAX_BYTES = 2 * 1024**3

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
    """Return the membrane of a LoRA without a card that covers what a membrane covers, such as the SPM authors' files.

    Raises:
        MembraneFileError: the tensors are not those of such a LoRA.
    """
    membrane = _membrane(path, tensors, metadata, foreign_card(path, metadata), layers)
    check_authors_rank(path, metadata, membrane.rank)
    return membrane


def foreign_card(path: Path, metadata: Mapping[str, str]) -> Card:
    """Return a card with what the metadata of another tool's LoRA say.

    The concept is called as the metadata say (the authors' `prompts` whole, commas included), or as the file.
    """
    named = metadata.get("prompts", "").strip() or metadata.get("ss_output_name", "").strip()
    return Card(
        concepts=(Concept(name=named or path.stem.strip() or "membrane"),),
        base_model=metadata.get("ss_sd_model_name", ""),
        architecture=metadata.get("modelspec.architecture", "").removesuffix("/lora"),
        date=metadata.get("modelspec.date", ""),
        licence=metadata.get("modelspec.license", ""),
    )


def check_authors_rank(path: Path, metadata: Mapping[str, str], rank: int) -> None:
    """Check the rank that the metadata of the SPM authors' files say.

    Raises:
        MembraneFileError: the tensors have another.
    """
    if "prompts" in metadata and metadata.get("rank", str(rank)) != str(rank):
        told = clipped(metadata["rank"])
        raise MembraneFileError(f"{path}: its metadata say rank {told}, but its tensors have {rank}.")


def _membrane(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], card: Card, layers: Iterable[str] | None
) -> Membrane:
    config = peft_config(path, metadata, of_peft=any(name.startswith(PEFT) for name in tensors))
    down, up = _pairs(path, tensors, LayerNames(path, layers), config)
    try:
        return Membrane(card, down, up)
    except ValueError as error:
        raise MembraneFileError(f"{path}: {clipped(str(error), 500)}") from None


def _pairs(
    path: Path, tensors: Mapping[str, Tensor], names: LayerNames, config: PeftConfig | None
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    found = {name: names.part(name) for name in tensors}
    check_numbers(path, {name: tensor for name, tensor in tensors.items() if found[name].role != ALPHA})
    sides = grouped(path, found, tensors)
    if not any(side.keys() & {DOWN, UP} for side in sides.values()):
        raise MembraneFileError(f"{path}: there are no adapter tensors in it.")
    if odd := sorted(layer for layer, side in sides.items() if not {DOWN, UP} <= side.keys()):
        raise half_a_pair(path, odd)
    if names.layers is not None and (lacking := [layer for layer in names.layers if layer not in sides]):
        raise MembraneFileError(f"{path}: there are no tensors for {listed(map(clipped, lacking))}.")
    down: dict[str, Tensor] = {}
    up: dict[str, Tensor] = {}
    # The order of tensors in a file means nothing, so it is that of the given layers.
    for layer in sorted(sides) if names.layers is None else names.layers:
        side = sides[layer]
        down[layer], up[layer] = folded(path, layer, side[DOWN], side[UP], side.get(ALPHA), config)
    return down, up


def _own_layers(path: Path, metadata: Mapping[str, str]) -> list[str]:
    try:
        layers = from_json(metadata.get(LAYERS_KEY, "null"))
    except ValueError:
        layers = None
    if not isinstance(layers, list) or not all(isinstance(layer, str) for layer in layers):
        raise MembraneFileError(f"{path}: its metadata {LAYERS_KEY!r} are not a list of layer names.")
    if len(set(layers)) < len(layers):
        raise MembraneFileError(f"{path}: its metadata {LAYERS_KEY!r} name a layer twice.")
    return layers
