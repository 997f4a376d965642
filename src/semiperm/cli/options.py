"""Options that several commands share, and what they mean."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from semiperm.errors import SemipermError, SettingsError
from semiperm.paths import claim

if TYPE_CHECKING:
    from semiperm.models.model import DiffusionModel

# Importing semiperm.guarded for its table would import torch, for which `--help` need not wait.
GATES = ("fitted", "paper", "always")


def _models(incomplete: str) -> list[str]:
    from semiperm.terrarium.relatives import PREFIX, RELATIVES

    names = ("terrarium", *(f"{PREFIX}{name}" for name in RELATIVES))
    return [name for name in names if name.startswith(incomplete)]


def _gates(incomplete: str) -> list[str]:
    return [name for name in GATES if name.startswith(incomplete)]


def _methods(incomplete: str) -> list[str]:
    from semiperm.methods.method import METHODS

    return [name for name in METHODS if name.startswith(incomplete)]


Model = Annotated[
    str,
    typer.Option(
        help="terrarium, terrarium:RELATIVE, a Hub id, a diffusers folder or a .safetensors checkpoint",
        autocompletion=_models,
    ),
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps; a GPU by default if there is one")]
Gate = Annotated[
    str,
    typer.Option(
        help="fitted: the gate on each card; paper: the published one; always: open for every prompt",
        autocompletion=_gates,
    ),
]
MethodName = Annotated[
    str | None, typer.Option("--method", help="see `semiperm methods`; spm by default", autocompletion=_methods)
]
Force = Annotated[bool, typer.Option("--force", help="replace files that are there; never those of another concept")]
Erasures = Annotated[
    list[Path] | None, typer.Option("--membrane", "-m", help="file of a membrane or another erasure; repeatable")
]


def load_model(name: str, device: str | None = None, *, low_vram: bool = False) -> "DiffusionModel":
    """Load a model for a command.

    Raises:
        ModelLoadError: the model cannot be loaded.
        SemipermError: there is no such device.
    """
    import torch

    import semiperm

    quieten()
    if device is not None:
        try:
            torch.empty(0, device=device)
        # torch answers with an AssertionError for CUDA where it was built without.
        except (RuntimeError, AssertionError) as error:
            first = str(error).strip().splitlines()[0]
            raise SemipermError(f"The device {device!r} cannot be used: {first}") from None
    return semiperm.load_model(name, device=device, low_vram=low_vram)


def quieten() -> None:
    """Turn off the progress bars of other libraries."""
    from diffusers.utils import logging as diffusers_logging
    from huggingface_hub.utils import disable_progress_bars
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    disable_progress_bars()


def settings(texts: Sequence[str]) -> dict[str, Any]:
    """Return settings by name from `--set` options, "name=value" with the value in YAML; later ones override.

    Raises:
        SettingsError: a text has another form.
    """
    return {name: value for text in texts for name, value in (_setting(text),)}


def _setting(text: str) -> tuple[str, Any]:
    from semiperm.files.strict import from_yaml

    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise SettingsError(f"--set {text}: write NAME=VALUE, for instance --set rank=4.")
    try:
        return name.strip(), from_yaml(value)
    except ValueError as error:
        raise SettingsError(f"--set {text}: the value is not YAML: {error}") from None


def check_writable(path: Path, *, force: bool = False, ours: Callable[[Path], bool] = lambda _: False) -> Path:
    """Check that a picture, page or table may be written, before minutes are spent on it, see `paths.claim`.

    Raises:
        SemipermError: the path cannot be written to, a file is there, or it has the name of an erasure.
    """
    if path.suffix == ".safetensors":
        raise SemipermError(f"{path} cannot be written: {path.suffix} is for erasures; choose another name.")
    return claim(path, force=force, ours=ours)
