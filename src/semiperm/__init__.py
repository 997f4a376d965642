"""Erase concepts from text-to-image diffusion models with semi-permeable membranes (arXiv:2312.16145)."""

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

# Registers the terrarium as a model name; it imports neither torch nor diffusers.
import semiperm.terrarium  # noqa: F401

if TYPE_CHECKING:
    from semiperm.api import erase, guard
    from semiperm.concept import Concept
    from semiperm.erasure import Card, Erasure, WeightDelta
    from semiperm.errors import SemipermError
    from semiperm.files.safetensors import load, save
    from semiperm.guarded import Guard
    from semiperm.membrane import Membrane
    from semiperm.models.load import load_model

__all__ = [
    "Card",
    "Concept",
    "Erasure",
    "Guard",
    "Membrane",
    "SemipermError",
    "WeightDelta",
    "erase",
    "guard",
    "load",
    "load_model",
    "save",
]

_HOME = {
    "Card": "semiperm.erasure",
    "Concept": "semiperm.concept",
    "Erasure": "semiperm.erasure",
    "Guard": "semiperm.guarded",
    "Membrane": "semiperm.membrane",
    "SemipermError": "semiperm.errors",
    "WeightDelta": "semiperm.erasure",
    "erase": "semiperm.api",
    "guard": "semiperm.api",
    "load": "semiperm.files.safetensors",
    "load_model": "semiperm.models.load",
    "save": "semiperm.files.safetensors",
}

# At every start transformers warns that torchvision is missing, which is not needed.
logging.getLogger("transformers.utils.import_utils").addFilter(
    lambda record: "requires torchvision" not in record.getMessage()
)


def __getattr__(name: str) -> Any:
    # Importing torch and diffusers takes seconds that `semiperm --help` need not wait for.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
