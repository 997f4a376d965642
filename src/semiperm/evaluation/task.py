"""A measuring task: names and numbers only, so that it can be pickled, written as JSON and sent to another machine."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from semiperm.concept import Concept

Count = Annotated[int, Field(ge=1)]


class Task(BaseModel):
    """What to measure, and on what.

    Attributes:
        protocol: name of the protocol.
        model: name of the model that the erasures are put on.
        erasures: their files; without any, and without a method, the bare model is measured.
        gate: "fitted", "paper" or "always".
        world: name of the world; the model's own if empty.
        options: options of the world, by name.
        targets: the concepts that count as erased where no erasure names them.
        seeds: pictures a prompt instead of the world's number.
        models: names of further models, for protocols that carry erasures.
        method: makes an erasure of each target where there are no files; protocols that make erasures use it too.
        settings: settings of that method, by name; the others are its defaults.
        pictures: a folder of pictures with a manifest to measure instead of erasures.
        steps, guidance: settings of the sampler instead of the world's.
        batch: pictures that are generated at once.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    protocol: str
    model: str = "terrarium"
    erasures: tuple[Path, ...] = ()
    gate: str = "fitted"
    world: str = ""
    options: dict[str, str] = {}
    targets: tuple[Concept, ...] = ()
    seeds: Count | None = None
    models: tuple[str, ...] = ()
    method: str = ""
    settings: dict[str, Any] = {}
    pictures: Path | None = None
    steps: Count | None = None
    guidance: float | None = None
    batch: Count | None = None
