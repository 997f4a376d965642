"""The settings of `spm`."""

from typing import Annotated, Any, Literal

from pydantic import Field

from semiperm.concept import Concept
from semiperm.methods.method import Settings

Count = Annotated[int, Field(ge=1)]
Weight = Annotated[float, Field(ge=0)]


class SpmSettings(Settings):
    """How a membrane is made; the defaults suit every concept that we have tried.

    Attributes:
        eta: how far the target is pushed beyond the surrogate (arXiv:2312.16145, eq. 4).
        nothing: the prompt that stands in for an empty surrogate. The paper uses the empty prompt, which guidance
            cannot follow, so that the picture is an unguided blend; a neutral prompt gives a clean picture.
        anchor_weight: lambda of the paper.
        rank: rank of every pair for each phrase that is erased, because each phrase moves by itself; the paper's is 1.
        instant_eta: eta of the closed form that training starts from.
        instant_anchor_weight: how much more the anchors' features weigh than the target's in the closed form, at least.
        instant_ridge: ridge of the closed form.
        steps: optimiser steps after the closed form; 0 stops there.
        states: noisy states a step.
        anchors: anchor prompts a step, spread over the states.
        at_once: samples in one call of the denoiser; all of a step by default.
        neighbours: share of the anchors that is drawn from the target's nearest neighbours.
        learning_rate: AdamW's for one phrase, falling linearly to 0; for n phrases it is n times smaller, because a
            step then sees n times fewer sentences of each.
        trajectories: denoising trajectories in one batch.
        trajectory_steps: DDIM steps of each.
        guidance: their guidance scale.
        refresh: optimiser steps between two batches of trajectories.
        more_anchors: further anchor prompts of the user.
        precision: arithmetic of the denoiser in training.
        checkpoint_every: optimiser steps between two checkpoints.
    """

    eta: float = 1.0
    nothing: str = "an empty background"
    anchor_weight: Weight = 100.0
    rank: Count = 2
    instant_eta: float = 0.3
    instant_anchor_weight: Weight = 10.0
    # Without a ridge the anchors' covariance need not be invertible.
    instant_ridge: Annotated[float, Field(gt=0)] = 1e-3
    steps: Annotated[int, Field(ge=0)] = 100
    states: Count = 8
    anchors: Count = 16
    at_once: Count | None = None
    neighbours: Annotated[float, Field(ge=0, le=1)] = 0.25
    learning_rate: Weight = 1.5e-3
    trajectories: Count = 16
    # The first state is pure noise, which is not trained on.
    trajectory_steps: Annotated[int, Field(ge=2, le=1000)] = 15
    guidance: float = 3.0
    refresh: Count = 25
    more_anchors: tuple[str, ...] = ()
    precision: Literal["float32", "bfloat16"] = "float32"
    checkpoint_every: Count = 50

    def rank_for(self, concept: Concept) -> int:
        """Return the rank of a concept's membrane."""
        return self.rank * len(concept.targets)

    def learning_rate_for(self, concept: Concept) -> float:
        """Return the learning rate that a concept's training begins with."""
        return self.learning_rate / len(concept.targets)


# For little memory: a step sees less, two samples in one call, as when a guided picture is generated.
LOW_VRAM: dict[str, Any] = {"states": 2, "anchors": 4, "trajectories": 4, "at_once": 2}
