"""Erase concepts from text-to-image diffusion models with semi-permeable membranes (arXiv:2312.16145)."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

# before anything that imports transformers
import semiperm._quiet  # noqa: F401

if TYPE_CHECKING:
    from semiperm.concept import Concept
    from semiperm.erasing.fit import erase
    from semiperm.erasing.recipe import Recipe
    from semiperm.guarded import Guard, guard
    from semiperm.membrane.files import load, save
    from semiperm.membrane.membrane import Card, Membrane
    from semiperm.models.load import load_model

__all__ = ["Card", "Concept", "Guard", "Membrane", "Recipe", "erase", "guard", "load", "load_model", "save"]

_HOME = {
    "Card": "semiperm.membrane.membrane",
    "Concept": "semiperm.concept",
    "Guard": "semiperm.guarded",
    "Membrane": "semiperm.membrane.membrane",
    "Recipe": "semiperm.erasing.recipe",
    "erase": "semiperm.erasing.fit",
    "guard": "semiperm.guarded",
    "load": "semiperm.membrane.files",
    "load_model": "semiperm.models.load",
    "save": "semiperm.membrane.files",
}


def __getattr__(name: str) -> Any:
    # torch and diffusers take seconds to import, which `semiperm --help` need not wait for
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
