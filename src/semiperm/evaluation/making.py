"""Erasures that a run makes itself: made once, and kept beside its report."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from semiperm.api import erase
from semiperm.concept import Concept
from semiperm.erasure import Erasure
from semiperm.files.safetensors import load
from semiperm.methods.method import find, settings_of
from semiperm.methods.training import Progress, beside
from semiperm.models.model import DiffusionModel
from semiperm.paths import file_name


class Make(Protocol):
    """Makes the erasure of a concept, or reads the one that it made before."""

    def __call__(
        self,
        concept: Concept,
        method: str = "spm",
        settings: Mapping[str, Any] | None = None,
        *,
        on: DiffusionModel | None = None,
    ) -> Erasure:
        """Return the erasure of a concept by a method and its settings, made on another model if `on` is given."""
        ...


def maker(
    model: DiffusionModel,
    folder: Path,
    *,
    progress: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Make:
    """Return a function that makes erasures in a folder; those on another model get a subfolder of its name.

    A training that was stopped resumes from its checkpoint.

    Args:
        progress, stop: as for `semiperm.erase`.
    """

    def make(
        concept: Concept,
        method: str = "spm",
        settings: Mapping[str, Any] | None = None,
        *,
        on: DiffusionModel | None = None,
    ) -> Erasure:
        wanted = settings_of(find(method), dict(settings or {}))
        decides = json.dumps([concept.model_dump(), method, wanted.model_dump()], sort_keys=True)
        where = folder if on is None or on is model else folder / file_name(on.name)
        path = where / f"{concept.slug}-{hashlib.sha256(decides.encode()).hexdigest()[:12]}.safetensors"
        if not path.exists():
            erase(
                on or model, concept, method, wanted, out=path, resume=beside(path).exists(),
                progress=progress, stop=stop,
            )  # fmt: skip
        # Files hold rounded numbers, so only what was read back is the same in a run that resumes.
        return load(path, layers=(on or model).erasable_layers())

    return make
