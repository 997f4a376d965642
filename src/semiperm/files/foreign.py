"""LoRAs of other tools as membranes of a model, whichever of its layers they cover and at whatever ranks.

A layer without a pair gets a pair of zeros, and a pair of lower rank is padded with zeros, so that each layer's weight
changes by exactly what the file changes it by.
"""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from semiperm.errors import MembraneFileError, clipped, listed
from semiperm.files.container import check_numbers
from semiperm.files.layer_names import ALPHA, DOWN, MID, PEFT, UP, Part, located, part, spellings
from semiperm.files.lora import MAX_BYTES, check_authors_rank, foreign_card
from semiperm.files.lora_pairs import folded, grouped, half_a_pair
from semiperm.files.lora_scale import PeftConfig, peft_config
from semiperm.membrane import Membrane
from semiperm.models.layers import sizes

# R rank, I inputs, O outputs, kh kw kernel

Pairs = dict[str, tuple[Tensor, Tensor]]


def fitted_membrane(
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    layers: Mapping[str, nn.Module],
    others: Iterable[str],
    *,
    drop: bool = False,
) -> Membrane:
    """Return the membrane of a LoRA without a card for a model with these layers.

    Args:
        layers: the model's erasable layers.
        others: paths of the denoiser's other layers.
        drop: leave out what cannot be part of a membrane: pairs of text encoders and of `others`.

    Raises:
        CoverageError: a layer has other sizes in the model.
        MembraneFileError: the file is not a LoRA for this model, contradicts itself, or has pairs that would be lost
            while `drop` is False.
    """
    parts = _parts(path, tensors, layers, others, drop)
    check_numbers(path, {name: tensors[name] for name, found in parts.items() if found.role != ALPHA})
    sides = grouped(path, parts, tensors)
    if odd := sorted(layer for layer, side in sides.items() if not {DOWN, UP} <= side.keys()):
        raise half_a_pair(path, odd)
    config = peft_config(path, metadata, of_peft=any(name.startswith(PEFT) for name in tensors))
    pairs = {layer: _pair(path, layer, side, layers[layer], config) for layer, side in sides.items()}
    rank = max(down.shape[0] for down, _ in pairs.values())
    check_authors_rank(path, metadata, rank)
    _check_size(path, pairs, layers, rank)
    down, up = completed(layers, pairs)
    try:
        return Membrane(foreign_card(path, metadata), down, up).fitted_to(layers)
    except ValueError as error:
        raise MembraneFileError(f"{path}: {error}") from None


def completed(
    layers: Mapping[str, nn.Module], pairs: Mapping[str, tuple[Tensor, Tensor]]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return down and up with a pair of one rank and precision for every layer; up @ down stays what it is.

    Args:
        pairs: down (R, ...) and up (O, R, ...) of at least one layer, the ranks differing; layers that the model lacks
            are kept.
    """
    rank = max(down.shape[0] for down, _ in pairs.values())
    dtype = _dtype(pairs)
    device = next(iter(pairs.values()))[0].device
    downs: dict[str, Tensor] = {}
    ups: dict[str, Tensor] = {}
    for path in [*layers, *(path for path in pairs if path not in layers)]:
        if path in pairs:
            down, up = pairs[path]
        else:
            inputs, outputs, kernel = sizes(path, layers[path])
            down = torch.zeros(rank, inputs, *kernel, device=device)
            up = torch.zeros(outputs, rank, *(1 for _ in kernel), device=device)
        more = rank - down.shape[0]
        downs[path] = torch.cat([down, down.new_zeros(more, *down.shape[1:])]).to(dtype)
        ups[path] = torch.cat([up, up.new_zeros(up.shape[0], more, *up.shape[2:])], dim=1).to(dtype)
    return downs, ups


def _parts(
    path: Path, tensors: Collection[str], layers: Collection[str], others: Iterable[str], drop: bool
) -> dict[str, Part]:
    """Return role and layer of each tensor of a pair on an erasable layer."""
    known = spellings(path, [*layers, *others])
    parts: dict[str, Part] = {}
    of_text, outside, unknown = set[str](), set[str](), set[str]()
    unsupported: dict[str, set[str]] = {}
    for name in sorted(tensors):
        found = part(name)
        if found is None:
            raise MembraneFileError(f"{path}: the tensor {clipped(name)!r} is not part of a LoRA.")
        if found.of_text_encoder:
            of_text.add(found.layer)
        elif (layer := located(found.layer, known)) is None:
            unknown.add(found.layer)
        elif layer not in layers:
            outside.add(layer)
        elif not found.supported:
            unsupported.setdefault(found.role, set()).add(layer)
        else:
            parts[name] = Part(found.role, layer)
    if unknown:
        raise MembraneFileError(
            f"{path}: this model has no layer {_named(unknown)}. The file was made for another architecture, or names "
            "the layers as the original code of a transformer does; diffusers rewrites such names "
            "(`load_lora_weights`, then `save_lora_weights`)."
        )
    if unsupported:
        found = "; ".join(f"{kind} on {_named(where)}" for kind, where in unsupported.items())
        raise MembraneFileError(
            f"{path}: only plain LoRA pairs (lora_down and lora_up, or lora_A and lora_B) can become a membrane, but "
            f"the file has {found}."
        )
    if not drop and (of_text or outside):
        raise _lost(path, of_text, outside, kept=len({found.layer for found in parts.values()}))
    if not parts:
        raise MembraneFileError(f"{path}: there is no pair for a layer in the denoiser's transformer blocks in it.")
    return parts


def _lost(path: Path, of_text: set[str], outside: set[str], kept: int) -> MembraneFileError:
    count = len(of_text) + len(outside)
    told = " and ".join(
        f"{len(names)} {where} ({_named(names)})"
        for names, where in (
            (of_text, "of text encoders"),
            (outside, "of the denoiser outside of its transformer blocks"),
        )
        if names
    )
    return MembraneFileError(
        f"{path}: a membrane covers the denoiser's transformer blocks alone, so {count} of the {count + kept} layers "
        f"in this file would be lost: {told}. Without them the adapter may erase less; to leave them out, give "
        "--drop-other-layers (drop=True)."
    )


def _pair(
    path: Path, layer: str, side: Mapping[str, Tensor], module: nn.Module, config: PeftConfig | None
) -> tuple[Tensor, Tensor]:
    down, up = folded(path, layer, side[DOWN], side[UP], side.get(ALPHA), config)
    # Padding would hide ranks that differ.
    if up.ndim != down.ndim or up.shape[1] != down.shape[0]:
        raise MembraneFileError(
            f"{path}: layer {layer}: down {tuple(down.shape)} and up {tuple(up.shape)} are not a pair of one rank."
        )
    if MID not in side:
        return down, up
    # LyCORIS (Tucker): the kernel stands between two 1x1 convolutions, and can be multiplied into the first.
    mid = side[MID]
    rank = down.shape[0]
    inputs, _, kernel = sizes(layer, module)
    if mid.shape != (rank, rank, *kernel) or down.shape != (rank, inputs, 1, 1):
        raise MembraneFileError(
            f"{path}: layer {layer}: lora_mid {tuple(mid.shape)} and lora_down {tuple(down.shape)} do not fit a layer "
            f"with {inputs} inputs and the kernel {kernel}."
        )
    whole = torch.einsum("rshw,si->rihw", mid.float(), down[:, :, 0, 0].float())
    check_numbers(path, {f"lora_mid times lora_down of {layer}": whole})
    return whole, up.float()


def _dtype(pairs: Mapping[str, tuple[Tensor, Tensor]]) -> torch.dtype:
    found = {tensor.dtype for pair in pairs.values() for tensor in pair}
    return found.pop() if len(found) == 1 else torch.float32


def _check_size(path: Path, pairs: Pairs, layers: Mapping[str, nn.Module], rank: int) -> None:
    """Check the size before anything is padded: one pair of huge rank would make all others huge."""
    each = 0
    for layer, module in layers.items():
        inputs, outputs, kernel = sizes(layer, module)
        each += inputs * (kernel[0] * kernel[1] if kernel else 1) + outputs
    total = each * rank * _dtype(pairs).itemsize
    if total > MAX_BYTES:
        largest = max(pairs, key=lambda layer: pairs[layer][0].shape[0])
        raise MembraneFileError(
            f"{path}: padded to the rank {rank} of {largest}, the membrane would take {total:,} bytes, and at most "
            f"{MAX_BYTES:,} are allowed."
        )


def _named(names: Iterable[str]) -> str:
    return listed([clipped(name) for name in sorted(names)], limit=3)
