"""Names of models: Hub ids, and names that a package registers for models that it brings along."""

import re
from collections.abc import Callable
from pathlib import Path

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
Locate = Callable[[str], Path]

_LOCATORS: dict[str, Locate] = {}


def register(name: str, locate: Locate) -> None:
    """Let `name` and `name:variant` mean the diffusers folder that `locate(variant)` returns, "" for no variant."""
    _LOCATORS[name] = locate


def registered() -> list[str]:
    """Return the registered names."""
    return sorted(_LOCATORS)


def locate(name: str) -> Path | None:
    """Return the diffusers folder of a registered name, or None if the name is not registered.

    Raises:
        ModelLoadError: the name is registered, but there is no such variant.
    """
    first, _, variant = name.partition(":")
    return _LOCATORS[first](variant) if first in _LOCATORS else None


def is_hub_id(name: str) -> bool:
    """Tell whether a name is written like a repository's on the Hub, `user/repo`, and not like a checkpoint's."""
    return HUB_ID.fullmatch(name) is not None and not name.lower().endswith(".safetensors")
