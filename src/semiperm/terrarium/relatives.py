"""Relatives of the terrarium: models that are fine-tuned or distilled from it, to carry membranes to.

This module knows how each is made and where it is kept, and imports no torch; `making.build` makes them.
"""

import hashlib
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from semiperm.errors import RelativeError
from semiperm.paths import cache_folder
from semiperm.terrarium.hyperparameters import DenoiserTraining, Frozen

PREFIX = "terrarium:"
# in a built relative's folder: the `Relative` that it was made from
MADE_FROM = "relative.json"


class TowerHyperparameters(Frozen):
    """A second text tower, distilled from the terrarium's CLIP: it learns to give the same text features."""

    width: int = 160
    layers: int = 3
    heads: int = 4
    steps: int = 300
    batch: int = 64
    learning_rate: float = 1e-3


class TransformerSize(Frozen):
    """The size of the flow transformer."""

    layers: int = 6
    heads: int = 6
    head_width: int = 32


class Relative(Frozen):
    """How one relative is made.

    Attributes:
        what: what it is, in one line.
        minutes: time that making it takes on one core, rendering and encoding included.
        family: what differs from the terrarium: the weights, the prediction type, or the architecture.
        style: the transform of all its pictures, by name in `styles.TRANSFORMS`.
        scenes: pictures in its training set.
        tower: the second text tower, for the families "xl" and "flow".
        transformer: the denoiser of the family "flow".
    """

    name: str
    what: str
    minutes: int
    family: Literal["fine-tune", "v-prediction", "xl", "flow"] = "fine-tune"
    style: str = "plain"
    scenes: int = 2000
    seed: int = 1
    training: DenoiserTraining
    tower: TowerHyperparameters = TowerHyperparameters()
    transformer: TransformerSize = TransformerSize()

    @property
    def digest(self) -> str:
        """A short hash of everything that determines the weights."""
        return hashlib.sha256(self.model_dump_json(exclude={"what", "minutes"}).encode()).hexdigest()[:12]


def _training(steps: int, learning_rate: float, ema: float, cool_down: float = 0.7) -> DenoiserTraining:
    # a long cool-down, because the small steps at the end restore details
    return DenoiserTraining(
        steps=steps, batch=16, learning_rate=learning_rate, warm_up=10, cool_down=cool_down, ema=ema
    )


RELATIVES: dict[str, Relative] = {
    relative.name: relative
    for relative in (
        Relative(
            name="dusk",
            what="fine-tune of palette: violet shadows, orange lights",
            style="dusk",
            minutes=2,
            training=_training(120, 4e-4, 0.97, 0.5),
        ),
        Relative(
            name="quilt",
            what="fine-tune of texture: soft squares, raised and sunken in turn",
            style="quilt",
            minutes=2,
            training=_training(140, 2.5e-4, 0.97),
        ),
        Relative(
            name="snow",
            what="fine-tune of subject: snow falls and lies in every scene",
            style="snow",
            minutes=2,
            training=_training(140, 2.5e-4, 0.97),
        ),
        Relative(
            name="poster",
            what="fine-tune further away: palette, frame, size and place",
            style="poster",
            minutes=3,
            training=_training(220, 5e-4, 0.98),
        ),
        Relative(
            name="velocity",
            what="v-prediction, as SD2 is to SD1",
            family="v-prediction",
            minutes=3,
            training=_training(320, 5e-4, 0.98),
        ),
        Relative(
            name="xl",
            what="XL-style: two text towers, pooled text and time ids",
            family="xl",
            minutes=3,
            training=_training(120, 3e-4, 0.97),
        ),
        Relative(
            name="flow",
            what="flow transformer, built as SD3 is, trained from scratch",
            family="flow",
            minutes=80,
            scenes=8000,
            training=DenoiserTraining(steps=5000, batch=32, learning_rate=1e-3, warm_up=100, ema=0.995),
        ),
    )
}


def is_terrarium(name: str) -> bool:
    """Return whether a model's name means the terrarium or a relative of it."""
    return name == "terrarium" or name.startswith(PREFIX)


def find(name: str) -> Relative:
    """Return a relative by name.

    Raises:
        RelativeError: there is none of that name.
    """
    if name not in RELATIVES:
        raise RelativeError(f"The terrarium has no relative {name!r}; it has: {', '.join(RELATIVES)}.")
    return RELATIVES[name]


def home(cache: Path | None = None) -> Path:
    """Return the folder that relatives are built in, in `cache` or in the user's cache folder."""
    return (cache or cache_folder()) / "terrarium"


def is_built(relative: Relative, cache: Path | None = None) -> bool:
    """Return whether a relative is in the cache, made as it is now defined."""
    record = home(cache) / relative.name / MADE_FROM
    if not record.is_file():
        return False
    try:
        return Relative.model_validate_json(record.read_text(encoding="utf-8")).digest == relative.digest
    except ValidationError:
        # an older version of the package had other fields
        return False


def built(name: str, cache: Path | None = None) -> Path:
    """Return the diffusers folder of a relative.

    Raises:
        RelativeError: there is none of that name, or it is not built.
    """
    relative = find(name)
    folder = home(cache) / relative.name
    if not is_built(relative, cache):
        why = "was built with other hyperparameters" if (folder / MADE_FROM).is_file() else "is not built"
        raise RelativeError(
            f"{PREFIX}{name} {why} ({folder}): run `semiperm terrarium build {name}`, "
            f"which takes about {relative.minutes} minutes."
        )
    return folder
