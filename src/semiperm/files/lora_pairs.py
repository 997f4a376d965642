"""The pairs in a LoRA file, each with its scale folded in."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor

from semiperm.errors import MembraneFileError, clipped, listed
from semiperm.files.container import check_numbers
from semiperm.files.layer_names import Part
from semiperm.files.lora_scale import PeftConfig, alpha_of


def grouped(path: Path, parts: Mapping[str, Part], tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Return the tensors by layer and role.

    Args:
        parts: role and path of the layer by the tensor's name.

    Raises:
        MembraneFileError: a layer has two tensors of one role.
    """
    first: dict[Part, str] = {}
    sides: dict[str, dict[str, Tensor]] = {}
    for name, part in sorted(parts.items()):
        if (other := first.setdefault(part, name)) != name:
            raise MembraneFileError(
                f"{path}: {clipped(part.layer)} is stored twice, as {clipped(other)!r} and as {clipped(name)!r}; "
                "remove one of them."
            )
        sides.setdefault(part.layer, {})[part.role] = tensors[name]
    return sides


def half_a_pair(path: Path, layers: Iterable[str]) -> MembraneFileError:
    """Return the error about layers that have only one side of a pair."""
    names = listed(map(clipped, layers))
    return MembraneFileError(f"{path}: each layer needs both lora_down and lora_up, but one is missing: {names}.")


def folded(
    path: Path, layer: str, down: Tensor, up: Tensor, alpha: Tensor | None, config: PeftConfig | None
) -> tuple[Tensor, Tensor]:
    """Return a pair of scale 1: alpha / rank is folded into up.

    Raises:
        MembraneFileError: down is no matrix, or the scale is given twice or cannot be used.
    """
    if down.ndim < 2 or down.shape[0] == 0:
        raise MembraneFileError(
            f"{path}: the lora_down of {clipped(layer)} has shape {tuple(down.shape)} and is no matrix."
        )
    scale = 1.0
    if alpha is not None and config is not None:
        raise MembraneFileError(
            f"{path}: {clipped(layer)} has two scales, its own alpha and that of {config.source}; remove one of them."
        )
    if alpha is not None:
        scale = alpha_of(path, layer, alpha) / down.shape[0]
    elif config is not None:
        scale = config.scale(layer, down.shape[0])
    if scale == 1:
        return down, up
    scaled = up.float() * scale
    check_numbers(path, {f"lora_up of {clipped(layer)} times alpha / rank": scaled})
    return down.float(), scaled
