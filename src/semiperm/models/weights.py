"""The networks of a model, each with all of its weights: diffusers and transformers only warn about missing ones."""

import inspect
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from torch import nn

from semiperm.errors import ModelLoadError, listed

# what each library calls the precision to load in, in all supported versions
LIBRARIES = {"diffusers": (diffusers, "torch_dtype"), "transformers": (transformers, "dtype")}


def networks(
    pipeline_class: type,
    path: Path,
    index: Mapping[str, Any],
    dtype: torch.dtype,
    variant: str | None,
    without: Collection[str] = (),
) -> dict[str, nn.Module]:
    """Return the networks of a diffusers folder by part; parts of other libraries are left out.

    Args:
        index: what model_index.json says.
        without: parts that are not loaded.

    Raises:
        ModelLoadError: the file of a network lacks weights; the message names the part and the weights.
    """
    found: dict[str, nn.Module] = {}
    # The index may list what this pipeline does not take.
    for part in inspect.signature(pipeline_class.__init__).parameters:
        network = None if part in without else _class(index.get(part))
        if network is None:
            continue
        _, precision = LIBRARIES[index[part][0]]
        found[part], loading = network.from_pretrained(
            str(path / part), use_safetensors=True, variant=variant, output_loading_info=True, **{precision: dtype}
        )
        if missing := sorted(loading["missing_keys"]):
            raise ModelLoadError(_lacking(path / part, missing))
    return found


def check_complete(path: Path, parts: Mapping[str, Any]) -> None:
    """Check that no network lacks weights: those that a single file does not hold are left on the meta device.

    Raises:
        ModelLoadError: one does; the message names the part and the weights.
    """
    for part, network in parts.items():
        if not isinstance(network, nn.Module):
            continue
        if missing := [name for name, weight in network.named_parameters() if weight.is_meta]:
            raise ModelLoadError(_lacking(path, missing, f" of the {part}"))


def _class(entry: Any) -> Any:
    """Return the class of a network that an index names as [library, class]; None for everything else."""
    if not isinstance(entry, list | tuple) or len(entry) != 2 or entry[0] not in LIBRARIES:
        return None
    found = getattr(LIBRARIES[entry[0]][0], str(entry[1]), None)
    return found if isinstance(found, type) and issubclass(found, nn.Module) else None


def _lacking(path: Path, missing: list[str], part: str = "") -> str:
    return (
        f"{path} could not be loaded: it lacks weights{part}, which would be random: {listed(missing)}. "
        "Get the whole model again."
    )
