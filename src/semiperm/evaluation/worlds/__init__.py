"""The worlds by name; a new one is one file and one line in the table."""

from collections.abc import Mapping
from inspect import signature
from typing import Any

from semiperm.errors import ProtocolError, close_match
from semiperm.evaluation.worlds.interface import World
from semiperm.evaluation.worlds.open_world import Open
from semiperm.evaluation.worlds.terrarium_world import Terrarium
from semiperm.terrarium.relatives import is_terrarium

WORLDS: dict[str, type[World]] = {world.name: world for world in (Terrarium, Open)}


def find(name: str, options: Mapping[str, Any] | None = None) -> World:
    """Return a world by its name, with its options.

    Raises:
        ProtocolError: there is none of that name, or it has no such option.
    """
    if name not in WORLDS:
        raise ProtocolError(f"there is no world {name!r}; there are: {', '.join(WORLDS)}.{close_match(name, WORLDS)}")
    allowed = list(signature(WORLDS[name]).parameters)
    unknown = sorted(set(options or {}) - set(allowed))
    if unknown:
        raise ProtocolError(f"the world {name!r} has no option {unknown[0]!r}; it has: {', '.join(allowed) or 'none'}")
    return WORLDS[name](**(options or {}))


def world_of(model: str) -> str:
    """Return the name of the world that a model is measured in: its own for the terrarium, open for all others."""
    return Terrarium.name if is_terrarium(model) else Open.name
