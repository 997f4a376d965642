"""Membranes that a protocol makes for itself, kept beside its report so that a stopped run does not train twice."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from semiperm.concept import Concept, file_name
from semiperm.erasing.checkpoint import beside
from semiperm.erasing.fit import erase
from semiperm.erasing.recipe import Recipe, load_recipe
from semiperm.membrane.files import load
from semiperm.membrane.membrane import Membrane
from semiperm.models.base import DiffusionModel


def maker(model: DiffusionModel, folder: Path) -> Callable[..., Membrane]:
    """Return a function that makes a concept's membrane by a recipe, or its name, and changes to it, once.

    With `on` it is made on another model, and kept in a folder of that model's name.
    """

    def make(
        concept: Concept, recipe: Recipe | str = "default", *, on: DiffusionModel | None = None, **changes: Any
    ) -> Membrane:
        settings = load_recipe(recipe, **changes)
        told = json.dumps([concept.model_dump(), settings.model_dump()], sort_keys=True)
        where = folder if on is None or on is model else folder / file_name(on.name)
        path = where / f"{concept.slug}-{hashlib.sha256(told.encode()).hexdigest()[:12]}.safetensors"
        if not path.exists():
            erase(on or model, concept, settings, out=path, resume=beside(path).exists())
        # as the file has it, whose gate is rounded: or else a run that goes on would take it for another membrane
        return load(path)

    return make
