"""The terrarium's relatives: models that are made from it in minutes, to carry membranes to. No torch here."""

import hashlib
import os
from pathlib import Path
from typing import Literal

from .recipe import DenoiserTraining, Frozen

PREFIX = "terrarium:"
RECIPE = "recipe.json"


class RelativeError(ValueError):
    """There is no such relative, or it is not built; the message says what to do."""


class TowerRecipe(Frozen):
    """A second text tower, which learns from captions to give the base CLIP's text features."""

    width: int = 160
    layers: int = 3
    heads: int = 4
    steps: int = 300
    batch: int = 64
    learning_rate: float = 1e-3


class FlowRecipe(Frozen):
    """The flow transformer's size."""

    layers: int = 6
    heads: int = 6
    head_width: int = 32


class Relative(Frozen):
    """How one relative is made.

    Attributes:
        what: what it is, in a line.
        family: what of the base is changed: its weights, its prediction type, or its architecture.
        look: what its pictures look like, by name in `looks.LOOKS`.
        minutes: what the build takes of one core, rendering and encoding included.
        tower: the second text tower, for the families that have one.
    """

    name: str
    what: str
    minutes: int
    family: Literal["fine-tune", "v-prediction", "xl", "flow"] = "fine-tune"
    look: str = "plain"
    scenes: int = 2000
    seed: int = 1
    training: DenoiserTraining
    tower: TowerRecipe = TowerRecipe()
    flow: FlowRecipe = FlowRecipe()

    @property
    def digest(self) -> str:
        """A short hash of all that decides the weights."""
        told = self.model_dump_json(exclude={"what", "minutes"})
        return hashlib.sha256(told.encode()).hexdigest()[:12]


def _training(steps: int, learning_rate: float, ema: float, cool_down: float = 0.7) -> DenoiserTraining:
    # a long fall, because it is the small steps at the end that bring the details back
    return DenoiserTraining(
        steps=steps, batch=16, learning_rate=learning_rate, warm_up=10, cool_down=cool_down, ema=ema
    )


RELATIVES: dict[str, Relative] = {
    relative.name: relative
    for relative in (
        Relative(
            name="dusk",
            what="fine-tune of palette: violet shadows, orange lights",
            look="dusk",
            minutes=2,
            training=_training(120, 4e-4, 0.97, 0.5),
        ),
        Relative(
            name="quilt",
            what="fine-tune of texture: soft squares, raised and sunken in turn",
            look="quilt",
            minutes=2,
            training=_training(140, 2.5e-4, 0.97),
        ),
        Relative(
            name="snow",
            what="fine-tune of subject: snow falls and lies in every scene",
            look="snow",
            minutes=2,
            training=_training(140, 2.5e-4, 0.97),
        ),
        Relative(
            name="poster",
            what="whole fine-tune further away: palette, frame, size and place",
            look="poster",
            minutes=3,
            training=_training(220, 5e-4, 0.98),
        ),
        Relative(
            name="velocity",
            what="v-prediction sibling, as SD2 is to SD1",
            family="v-prediction",
            minutes=3,
            training=_training(320, 5e-4, 0.98),
        ),
        Relative(
            name="xl",
            what="XL-style sibling: two text towers, pooled text and time ids",
            family="xl",
            minutes=3,
            training=_training(120, 3e-4, 0.97),
        ),
        Relative(
            name="flow",
            what="flow-transformer sibling, as SD3 is built, from nothing",
            family="flow",
            minutes=80,
            scenes=8000,
            training=DenoiserTraining(steps=5000, batch=32, learning_rate=1e-3, warm_up=100, ema=0.995),
        ),
    )
}


def is_terrarium(name: str) -> bool:
    """Tell whether a model's name is the terrarium's or a relative's."""
    return name == "terrarium" or name.startswith(PREFIX)


def find(name: str) -> Relative:
    """Return a relative's recipe by name.

    Raises:
        RelativeError: there is none of that name.
    """
    if name not in RELATIVES:
        raise RelativeError(f"the terrarium has no relative {name!r}; it has: {', '.join(RELATIVES)}")
    return RELATIVES[name]


def home(cache: Path | None = None) -> Path:
    """Return the folder that relatives are built in: `cache`, $SEMIPERM_CACHE, or the user's cache folder."""
    told = os.environ.get("SEMIPERM_CACHE")
    user = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "semiperm"
    return (cache or (Path(told).expanduser() if told else user)) / "terrarium"


def is_built(relative: Relative, cache: Path | None = None) -> bool:
    """Tell whether a relative is there, made by the recipe that it has now."""
    recipe = home(cache) / relative.name / RECIPE
    return (
        recipe.is_file() and Relative.model_validate_json(recipe.read_text(encoding="utf-8")).digest == relative.digest
    )


def built(name: str, cache: Path | None = None) -> Path:
    """Return the diffusers folder of a relative.

    Raises:
        RelativeError: there is none of that name, or it is not built.
    """
    relative = find(name)
    folder = home(cache) / relative.name
    if not is_built(relative, cache):
        why = "was built by an older recipe" if (folder / RECIPE).is_file() else "is not built"
        raise RelativeError(
            f"{PREFIX}{name} {why} ({folder}): run `semiperm terrarium build {name}`, "
            f"which takes about {relative.minutes} minutes"
        )
    return folder
