"""Weight deltas as tensors and metadata."""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from semiperm.erasure import Card, WeightDelta
from semiperm.errors import MembraneFileError
from semiperm.files.container import check_numbers

DIGEST_KEY = "semiperm.base_digest"

# "<part of the pipeline>.<name in its state dict>"
_NAME = re.compile(r"[A-Za-z]\w*(\.\w+)+", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{64}")


def tensors_of(path: Path, delta: WeightDelta, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Return the tensors of a delta by their names in a file, in the precision `dtype` or in their own.

    Raises:
        MembraneFileError: a name is not that of a weight, or there are no tensors.
    """
    _check_names(path, delta.deltas)
    return {name: tensor.to(dtype=dtype) for name, tensor in delta.deltas.items()}


def metadata_of(path: Path, delta: WeightDelta) -> dict[str, str]:
    """Return the metadata that only weight deltas have.

    Raises:
        MembraneFileError: the delta has no hash of the base weights.
    """
    return {DIGEST_KEY: _checked_digest(path, delta.base_digest)}


def delta_of(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], card: Card) -> WeightDelta:
    """Return the weight delta of a file, its weights in the order of their names.

    Raises:
        MembraneFileError: the tensors are not differences of named weights, or the hash of the base weights is missing.
    """
    _check_names(path, tensors)
    check_numbers(path, tensors)
    digest = _checked_digest(path, metadata.get(DIGEST_KEY, ""))
    return WeightDelta(card, {name: tensors[name] for name in sorted(tensors)}, digest)


def _check_names(path: Path, tensors: Mapping[str, Tensor]) -> None:
    if not tensors:
        raise MembraneFileError(f"{path}: the weight delta has no tensors.")
    if wrong := next((name for name in tensors if not _NAME.fullmatch(name)), None):
        raise MembraneFileError(
            f"{path}: the tensor {wrong!r} is not named like a weight of a pipeline, for instance "
            "'unet.conv_in.weight': a part of the pipeline, a dot, and the name in that part's state dict."
        )


def _checked_digest(path: Path, digest: str) -> str:
    # Only the user may waive the check of the base, by for_any_base(); a file may not.
    if not _DIGEST.fullmatch(digest):
        raise MembraneFileError(
            f"{path}: the weight delta has no hash of the base weights that it was made for ({DIGEST_KEY}, a SHA-256)."
        )
    return digest
