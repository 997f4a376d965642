"""The verbs of the library: load, guard and erase, with names, files and pipelines as arguments."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from semiperm.concept import Concept
from semiperm.erasure import Erasure
from semiperm.errors import SemipermError
from semiperm.files import safetensors as files
from semiperm.guarded import GateOf, Guard
from semiperm.methods import method as methods
from semiperm.methods.training import Progress, Run, beside, claim
from semiperm.models.load import model_of


def guard(pipeline_or_model: Any, erasures: Sequence[Erasure | Path | str], *, gate: str | GateOf = "fitted") -> Guard:
    """Put erasures (or their files) on a diffusers pipeline and return the guarded pipeline.

    Args:
        pipeline_or_model: a pipeline of a supported family, or a DiffusionModel.
        gate: "fitted" (the gate on each membrane's card), "paper", "always", or a function from a card to a gate.

    Raises:
        CoverageError: an erasure was made for another architecture or covers other layers.
        MembraneFileError: a file is not an erasure.
        GateError: a membrane has no fitted gate.
        GuardError: there is no gate of that name.
    """
    model = model_of(pipeline_or_model)
    layers = model.erasable_layers()
    loaded = [one if isinstance(one, Erasure) else files.load(one, layers=layers) for one in erasures]
    return Guard(model, loaded, gate=gate)


def erase(
    pipeline_or_model: Any,
    concept: Concept | str | Sequence[Concept | str],
    method: str = "spm",
    settings: BaseModel | dict[str, Any] | None = None,
    *,
    out: Path | str | None = None,
    resume: bool = False,
    force: bool = False,
    progress: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] | None = None,
    on_checkpoint: Callable[[int, Erasure], None] | None = None,
    licence: str = "",
    warn: Callable[[str], None] | None = None,
) -> Erasure:
    """Make the erasure of a concept from a model; the model itself is not changed.

    Args:
        pipeline_or_model: a diffusers pipeline or a DiffusionModel, quantised or offloaded as it may be.
        concept: what to erase; a string is an object's name. Several concepts are for methods that take several.
        method: a name that `semiperm methods` lists.
        settings: the method's Settings, or some of them by name; the rest are defaults.
        out: where to write the erasure. Training keeps its checkpoint beside it. Without `out` nothing is written.
        resume: resume from that checkpoint; the result equals that of a run that was never stopped.
        force: replace an erasure of this concept, any other file, or this concept's checkpoint that stands at `out`;
            never the erasure of another concept, a link or a device.
        progress: called after each training step.
        stop: asked after each training step; if it returns True, a checkpoint is written and Stopped is raised.
        on_checkpoint: called at each checkpoint with the number of steps done and the erasure so far.
        licence: SPDX name for the card.
        warn: called with a sentence for each checkpoint that cannot be written; a RuntimeWarning without it. The
            training goes on.

    Raises:
        SemipermError: `out` cannot be written or would replace a file, which is found out first; or it cannot be
            written at the end, and the erasure was written to a temporary folder instead.
        MethodError: there is no such method, or it cannot erase this concept from this model.
        SettingsError: a setting is unknown or out of range.
        StackError: the denoiser has other adapters (LoRA) on it.
        CheckpointError: there is nothing to resume, the checkpoint belongs to another erasure, or there is one that
            would be lost; or `stop` returned True and no checkpoint can be written.
        Stopped: `stop` returned True.
    """
    found = methods.find(method)
    concepts = [concept] if isinstance(concept, Concept | str) else list(concept)
    wanted = [Concept(name=one) if isinstance(one, str) else one for one in concepts]
    chosen = methods.settings_of(found, settings)
    path = None if out is None else claim(Path(out), wanted, resume=resume, force=force)
    run = Run(
        checkpoint=None if path is None else beside(path),
        resume=resume,
        progress=progress,
        stop=stop,
        on_checkpoint=on_checkpoint,
        licence=licence,
        warn=warn,
    )
    model = model_of(pipeline_or_model)
    if not resume:
        # By force. Later it would be taken for the checkpoint of this training.
        run.discard()
    made = found.erase(model, wanted, chosen, run)
    if path is not None:
        _save(made, path)
        run.discard()
    return made


def _save(erasure: Erasure, path: Path) -> None:
    """Save an erasure, which cost training, in a temporary folder if it cannot be saved at `path`."""
    try:
        files.save(erasure, path)
    except OSError as error:
        rescued = Path(tempfile.mkdtemp(prefix="semiperm-")) / path.name
        try:
            files.save(erasure, rescued)
        except OSError:
            raise error from None
        raise SemipermError(
            f"{path} cannot be written ({error.strerror or error}); the erasure is in {rescued} instead."
        ) from None
