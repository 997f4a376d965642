"""Erase concepts from text-to-image diffusion models with semi-permeable membranes (arXiv:2312.16145)."""

import logging

import lazy_loader

# Registers the terrarium as a model name; it imports neither torch nor diffusers.
import semiperm.terrarium  # noqa: F401

# The public names stand in __init__.pyi. They are imported on demand, because importing torch and diffusers takes
# seconds that `semiperm --help` need not wait for.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

# At every start transformers warns that torchvision is missing, which is not needed.
logging.getLogger("transformers.utils.import_utils").addFilter(
    lambda record: "requires torchvision" not in record.getMessage()
)
