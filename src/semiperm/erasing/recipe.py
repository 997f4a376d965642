"""Every setting of an erasure, in one place."""

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from semiperm.concept import Concept
from semiperm.membrane.membrane import Card

Count = Annotated[int, Field(ge=1)]
Weight = Annotated[float, Field(ge=0)]


class RecipeError(ValueError):
    """A recipe cannot be read; the message names the file and the field."""


class Recipe(BaseModel):
    """How a membrane is made; the defaults suit every concept that we have tried.

    Attributes:
        eta: how far the target is pushed beyond the surrogate (arXiv:2312.16145, eq. 4).
        nothing: the prompt that an empty surrogate stands for. The paper takes the empty prompt, which guidance cannot
            follow, so that the picture is an unguided blend; a prompt that asks for nothing gives a clean picture.
        anchor_weight: the paper's lambda.
        rank: rank of every pair for each phrase that is erased, because each moves by itself; the paper's is 1.
        instant_eta: eta of the instant membrane that training starts from.
        instant_anchor_weight: how much more the anchors' features weigh than the target's in the closed form,
            at least.
        instant_ridge: the closed form's ridge.
        steps: optimiser steps after the instant membrane; 0 stops there.
        states: noisy states a step.
        anchors: anchor prompts a step, spread over the states.
        at_once: how many of all these the denoiser is asked about at once; all, if not given. "authors" has few anyway.
        neighbours: share of the anchors that is drawn from the target's nearest neighbours.
        learning_rate: AdamW's for one phrase, falling linearly to 0; for n phrases it is n times smaller, because a
            step sees so many times fewer sentences of each ("authors" makes no difference).
        trajectories: denoising trajectories that are run at once.
        trajectory_steps: DDIM steps of each.
        guidance: their guidance scale.
        refresh: optimiser steps between two batches of trajectories.
        more_anchors: further anchor prompts of the user.
        anchor_kind: "text" draws anchors from prompts; "gaussian" is the authors' random embeddings.
        loop: "membrane" is ours; "authors" reproduces the behaviour of the published code.
        seed: seed of everything that is drawn.
        precision: arithmetic of the denoiser while training.
        device: where to train; where the model is, if not given.
        checkpoint_every: optimiser steps between two checkpoints.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    eta: float = 1.0
    nothing: str = "an empty background"
    anchor_weight: Weight = 100.0
    rank: Count = 2
    instant_eta: float = 0.3
    instant_anchor_weight: Weight = 10.0
    # without a ridge the anchors' covariance need not be invertible
    instant_ridge: Annotated[float, Field(gt=0)] = 1e-3
    steps: Annotated[int, Field(ge=0)] = 100
    states: Count = 8
    anchors: Count = 16
    at_once: Count | None = None
    neighbours: Annotated[float, Field(ge=0, le=1)] = 0.25
    learning_rate: Weight = 1.5e-3
    trajectories: Count = 16
    # the first state is pure noise, which is not trained on
    trajectory_steps: Annotated[int, Field(ge=2, le=1000)] = 15
    guidance: float = 3.0
    refresh: Count = 25
    more_anchors: tuple[str, ...] = ()
    anchor_kind: Literal["text", "gaussian"] = "text"
    loop: Literal["membrane", "authors"] = "membrane"
    seed: int = 0
    precision: Literal["float32", "bfloat16"] = "float32"
    device: str | None = None
    checkpoint_every: Count = 50

    def rank_for(self, concept: Concept) -> int:
        """Return the rank of a concept's membrane."""
        return self.rank * self._phrases(concept)

    def learning_rate_for(self, concept: Concept) -> float:
        """Return the learning rate that a concept's training begins with."""
        return self.learning_rate / self._phrases(concept)

    def _phrases(self, concept: Concept) -> int:
        # the authors' loop trains the first phrase alone
        return 1 if self.loop == "authors" else len(concept.targets)


RECIPES: dict[str, Recipe] = {
    "default": Recipe(),
    "instant": Recipe(steps=0),
    "authors": Recipe(
        loop="authors",
        nothing="",
        rank=1,
        anchor_kind="gaussian",
        anchor_weight=1000.0,
        steps=3000,
        states=1,
        anchors=4,
        learning_rate=1e-4,
        trajectories=1,
        trajectory_steps=30,
    ),
}


# a step sees less, and two at a time, as a guided picture is made
LOW_VRAM = {"states": 2, "anchors": 4, "trajectories": 4, "at_once": 2}


def load_recipe(source: Recipe | str | Path | None = None, **changes: Any) -> Recipe:
    """Return a recipe by name ("default", "instant", "authors"), from a YAML file, or as it is, with `changes` made.

    Raises:
        RecipeError: no such name or file, or a field that is unknown or out of range.
    """
    if isinstance(source, Recipe):
        values, where = source.model_dump(), "the recipe"
    elif source is None or str(source) in RECIPES:
        values, where = RECIPES[str(source or "default")].model_dump(), "the recipe"
    else:
        path = Path(source)
        if not path.is_file():
            raise RecipeError(f"there is no recipe {str(source)!r}: neither a file nor one of {', '.join(RECIPES)}")
        try:
            values, where = yaml.safe_load(path.read_text(encoding="utf-8")) or {}, str(path)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise RecipeError(f"{path} is not YAML: {error}") from None
        if not isinstance(values, dict):
            raise RecipeError(f"{path} must hold settings by name, one a line")
    return _checked({**values, **changes}, where)


def recipe_of(card: Card, **changes: Any) -> Recipe:
    """Return the recipe that a membrane was made by, as its card says, with `changes` made.

    The device is left out: it was another model's, and perhaps another machine's. So is what only another version of
    semiperm understands.

    Raises:
        RecipeError: the card says none, or one whose values are out of range.
    """
    title = f"the card of the membrane for {card.concept.name!r}"
    if not card.recipe:
        raise RecipeError(
            f"{title} has no recipe: it is a plain LoRA, or was adopted from one, so how it was made is not known; "
            "erase the concept by its name instead"
        )
    known = {name: value for name, value in card.recipe.items() if name in Recipe.model_fields}
    return _checked({**known, "device": None, **changes}, title)


def _checked(values: dict[str, Any], where: str) -> Recipe:
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise RecipeError(f"{where}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
