"""Erase concepts from text-to-image diffusion models with semi-permeable membranes (arXiv:2312.16145)."""

# before anything that imports transformers
import semiperm._quiet  # noqa: F401
from semiperm.concept import Concept
from semiperm.erasing.fit import erase
from semiperm.erasing.recipe import Recipe
from semiperm.guard import Guard, guard
from semiperm.membrane.files import load, save
from semiperm.membrane.membrane import Card, Membrane
from semiperm.models.load import load_model

__all__ = ["Card", "Concept", "Guard", "Membrane", "Recipe", "erase", "guard", "load", "load_model", "save"]
