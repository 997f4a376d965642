"""Erasures in safetensors files: save one, load one.

Files hold membranes and weight deltas; plain LoRAs and the SPM authors' files are read as membranes.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from semiperm import paths
from semiperm.concept import Concept
from semiperm.erasure import Card, Erasure, WeightDelta
from semiperm.errors import MembraneFileError, clipped
from semiperm.files import container, foreign, lora, weight_delta
from semiperm.files.container import check_name as check_name
from semiperm.files.strict import from_json
from semiperm.membrane import Membrane
from semiperm.models.model import DiffusionModel

CARD_KEY = "semiperm.card"
CHECKPOINT = ".checkpoint.safetensors"
# A weight delta can be as large as the model.
MAX_BYTES = {"membrane": lora.MAX_BYTES, "delta": 64 * 1024**3}
KINDS = {"membrane": "a membrane", "delta": "a weight delta", "sampler": "a sampler"}
# what version 0.1 called its methods
_LOOPS = {"membrane": "spm", "authors": "spm-published"}


def claim(path: Path, concepts: Sequence[Concept], *, force: bool = False) -> Path:
    """Check that an erasure of some concepts may be written at `path`, see `paths.claim`, and return the path.

    Not even force replaces the erasure of other concepts.

    Raises:
        MembraneFileError: the name does not end in .safetensors, or the erasure of other concepts is there.
        SemipermError: the path cannot be written to, or a file is there.
    """
    check_name(path)
    if path.name.endswith(CHECKPOINT):
        raise MembraneFileError(f"{path}: names that end in {CHECKPOINT} are for checkpoints; choose another name.")
    paths.claim(path, force=force)
    if force and (card := _card_at(path)) is not None and _names(card.concepts) != _names(concepts):
        raise MembraneFileError(
            f"{path} is the erasure of {card.title!r} and is not replaced by that of another concept: name another "
            "file, or delete it yourself."
        )
    return path


def _card_at(path: Path) -> Card | None:
    """Return the card of the file at `path`, or None if there is no such file or it has no card that can be read."""
    try:
        return _read(path)[2]
    except (MembraneFileError, OSError):
        return None


def _names(concepts: Sequence[Concept]) -> set[str]:
    return {concept.name.casefold() for concept in concepts}


def save(erasure: Erasure, path: str | Path, *, dtype: torch.dtype | None = None) -> Path:
    """Write an erasure as one safetensors file and return its path.

    A membrane is written in the layout that the tools of its denoiser read; a weight delta has its tensors under the
    names of the weights. The same erasure always gives the same bytes. An existing file is replaced whole or not at
    all.

    Args:
        dtype: precision of the stored tensors, float16, bfloat16 or float32; the erasure's own by default.

    Raises:
        MembraneFileError: the name does not end in .safetensors, or this erasure cannot be stored.
    """
    path = check_name(Path(path))
    tensors, metadata = contents(path, erasure, dtype)
    return container.write(path, tensors, metadata)


def contents(
    path: Path, erasure: Erasure, dtype: torch.dtype | None = None
) -> tuple[Mapping[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of an erasure's file, see `save`.

    Raises:
        MembraneFileError: this erasure cannot be stored.
    """
    card = erasure.card
    if card.kind != erasure.kind:
        raise MembraneFileError(
            f"{path}: {card.title!r} is {KINDS[erasure.kind]}, but its card says that it is {KINDS[card.kind]}."
        )
    if isinstance(erasure, Membrane):
        tensors, metadata = lora.tensors_of(path, erasure, dtype), lora.metadata_of(erasure, path.stem)
    elif isinstance(erasure, WeightDelta):
        tensors, metadata = weight_delta.tensors_of(path, erasure, dtype), weight_delta.metadata_of(path, erasure)
    else:
        raise MembraneFileError(
            f"{path}: {card.title!r} is {KINDS[erasure.kind]}, which has no tensors and cannot be stored in a file; "
            "files hold membranes and weight deltas."
        )
    return tensors, {"format": "pt", CARD_KEY: _card_text(path, card), **metadata}


def load(path: str | Path, layers: Iterable[str] | None = None) -> Erasure:
    """Read an erasure from a safetensors file.

    In a LoRA, a scale alpha / rank other than 1 is folded into up.

    Args:
        layers: the model's erasable layers. They are needed for LoRAs of other tools whose layers are not named as in
            a diffusers UNet, and checked for all LoRAs of other tools.

    Raises:
        FileNotFoundError: there is no such file.
        MembraneFileError: the file is not a sound erasure; nothing in it is ever executed.
    """
    path = Path(path)
    tensors, metadata, card = _read(path)
    if card is None:
        return lora.foreign_membrane(path, tensors, metadata, layers)
    return _own(path, tensors, metadata, card)


def load_adapter(path: str | Path, model: DiffusionModel, *, drop: bool = False) -> Membrane:
    """Read a LoRA of any tool as a membrane of a model.

    It may cover any of the model's erasable layers, at a rank of its own each; `load` reads only files that cover all
    of them at one rank. A layer without a pair gets a pair of zeros, a lower rank is padded with zeros. Without alphas
    and configuration the scale is 1; PEFT's configuration is also looked for in an adapter_config.json beside a file
    of PEFT. Files of semiperm are read as `load_membrane` does.

    Args:
        drop: leave out what cannot be part of a membrane: pairs of text encoders, and of the denoiser outside of its
            transformer blocks. By default they are an error.

    Raises:
        CoverageError: a layer has other sizes in the model.
        FileNotFoundError: there is no such file.
        MembraneFileError: the file is not a LoRA for this model, is another kind of adapter, contradicts itself, or
            has pairs that would be lost.
    """
    path = Path(path)
    tensors, metadata, card = _read(path)
    if card is not None:
        return _only_membrane(path, _own(path, tensors, metadata, card))
    layers = model.erasable_layers()
    others = [name for name, _ in model.denoiser.named_modules() if name and name not in layers]
    return foreign.fitted_membrane(path, tensors, metadata, layers, others, drop=drop)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str], Card | None]:
    tensors, metadata = container.read(path, lambda size, metadata: check_size(path, size, metadata))
    return tensors, metadata, _card(path, metadata)


def _own(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], card: Card) -> Erasure:
    if card.kind == "membrane":
        return lora.own_membrane(path, tensors, metadata, card)
    if card.kind == "delta":
        return weight_delta.delta_of(path, tensors, metadata, card)
    raise MembraneFileError(f"{path}: its card says that it is {KINDS[card.kind]}, which no file can hold.")


def load_membrane(path: str | Path, layers: Iterable[str] | None = None) -> Membrane:
    """Read a membrane from a safetensors file, see `load`.

    Raises:
        FileNotFoundError: there is no such file.
        MembraneFileError: the file is not a sound membrane.
    """
    return _only_membrane(path, load(path, layers))


def _only_membrane(path: str | Path, erasure: Erasure) -> Membrane:
    if not isinstance(erasure, Membrane):
        raise MembraneFileError(f"{path}: this is {KINDS[erasure.kind]}, and only a membrane can be used here.")
    return erasure


def check_size(where: str | Path, size: int, metadata: Mapping[str, str]) -> None:
    """Check that a file is not larger than its kind of erasure can be.

    Args:
        where: what to call the file in messages.
        size: bytes of the file.
        metadata: the metadata in its header.

    Raises:
        MembraneFileError: it is larger, or its card cannot be read.
    """
    card = _card(where, metadata)
    kind = "delta" if card is not None and card.kind == "delta" else "membrane"
    if size > MAX_BYTES[kind]:
        raise MembraneFileError(
            f"{where}: {size:,} bytes are more than {KINDS[kind]} can have ({MAX_BYTES[kind]:,}); this is another kind "
            "of file."
        )


def _card_text(path: Path, card: Card) -> str:
    try:
        return json.dumps(card.model_dump(mode="json"), sort_keys=True, allow_nan=False)
    except ValueError:
        raise MembraneFileError(f"{path}: the card of {card.title!r} has numbers that are not finite.") from None


def _card(where: str | Path, metadata: Mapping[str, str]) -> Card | None:
    text = metadata.get(CARD_KEY)
    if text is None:
        return None
    try:
        # Strict, because true is no number and "1" is not 1; and with every number finite, because a gate with such
        # a threshold would never open.
        card = Card.model_validate_json(json.dumps(_upgraded(from_json(text))), strict=True)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        found = ".".join(str(part) for part in first["loc"]) or "JSON"
        raise _unreadable(where, f"{clipped(found)}: {clipped(first['msg'])}") from None
    except (ValueError, RecursionError) as error:
        raise _unreadable(where, clipped(error)) from None
    return card


def _unreadable(where: str | Path, why: str) -> MembraneFileError:
    return MembraneFileError(
        f"{where}: its card cannot be read ({why}); the file is damaged, or was written by a newer semiperm."
    )


def _upgraded(facts: Any) -> Any:
    """Return the fields of a card of version 0.1, which had one concept and a recipe, under their names now."""
    if not isinstance(facts, dict) or "concept" not in facts or "concepts" in facts:
        return facts
    facts = {**facts, "concepts": [facts["concept"]]}
    del facts["concept"]
    settings = facts.pop("recipe", None)
    if isinstance(settings, dict) and settings:
        facts["method"] = _LOOPS.get(str(settings.get("loop")), "")
        facts["settings"] = {name: value for name, value in settings.items() if name != "loop"}
    return facts
