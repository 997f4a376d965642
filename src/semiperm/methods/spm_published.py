"""SPM as its authors published it, with the behaviour of the code where that differs from the paper; for comparison.

A step denoises one picture to a random depth and discards the trajectory. It evaluates the denoiser on that state at a
timestep that is 33 to 42 steps too noisy. The anchors are Gaussian vectors; because of the order in which they are
concatenated, half of the anchors are the empty prompt and half of the vectors are dropped. Facts from the repository
Con6924/SPM.
"""

import math
from collections.abc import Sequence
from itertools import islice
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from semiperm.concept import Concept
from semiperm.membrane import Membrane
from semiperm.methods import trajectories
from semiperm.methods.calibrate import fit_gate
from semiperm.methods.method import Method, Settings, card_of
from semiperm.methods.spm import anchors as anchoring
from semiperm.methods.spm.check import self_check
from semiperm.methods.spm.losses import anchoring_loss, erasing_loss, total_loss
from semiperm.methods.spm.settings import Count, Weight
from semiperm.methods.spm.spm import NAME, Draws, frozen, owner_of
from semiperm.methods.training import Run, Training, descend
from semiperm.methods.trajectories import Counted
from semiperm.models.model import DiffusionModel
from semiperm.models.text import TextFeatures, concatenate
from semiperm.stack import Stack, refuse_other_adapters

WARM_UP = 500
RESTARTS = 3


class PublishedSettings(Settings):
    """The settings of the published code.

    Attributes:
        eta: how far the target is pushed beyond the surrogate (arXiv:2312.16145, eq. 4).
        anchor_weight: lambda of the paper.
        rank: rank of every pair.
        steps: optimiser steps.
        anchors: anchors a step.
        learning_rate: AdamW's, with 500 steps of warm-up and a cosine with three restarts.
        trajectory_steps: DDIM steps of a trajectory.
        guidance: its guidance scale.
        checkpoint_every: optimiser steps between two checkpoints.
    """

    eta: float = 1.0
    anchor_weight: Weight = 1000.0
    rank: Count = 1
    steps: Count = 3000
    anchors: Count = 4
    learning_rate: Weight = 1e-4
    trajectory_steps: Annotated[int, Field(ge=2, le=1000)] = 30
    guidance: float = 3.0
    checkpoint_every: Count = 50


def factor(step: int, steps: int) -> float:
    """Return the learning rate's factor: 500 steps of warm-up, then a cosine with three restarts."""
    warm_up = min(WARM_UP, steps // 6)
    if step < warm_up:
        return step / warm_up
    share = (step - warm_up) / max(1, steps - warm_up)
    return 0.5 * (1 + math.cos(math.pi * (share * RESTARTS % 1)))


def asked_timestep(depth: int, steps: int) -> int:
    """Return the timestep that the published code gives the denoiser after `depth` of `steps` denoising steps."""
    return 999 - int(depth * 1000 / steps)


def gaussian_anchors(target_TC: Tensor, empty_TC: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return the embeddings (count, T, C) that the published code anchors: the second half of [u, s1, u, s2, ...]."""
    rows = []
    while len(rows) < 2 * count:
        noise = torch.randn(target_TC.shape, generator=generator)
        noise /= noise.norm()
        similarity = torch.cosine_similarity(target_TC.flatten().float().cpu(), noise.flatten(), dim=0)
        if torch.rand((), generator=generator) < 1 - similarity:
            scale = torch.rand((), generator=generator) * 0.4 + 0.8
            rows += [empty_TC, (scale * noise).to(target_TC) * target_TC.norm()]
    return torch.stack(rows[count:])


def gaussian_features(
    target: TextFeatures, empty: TextFeatures, count: int, generator: torch.Generator
) -> TextFeatures:
    """Return `gaussian_anchors` of the first target prompt, with that prompt's further conditions."""
    both = concatenate([target.select([0]), empty.select([0])])
    vectors = gaussian_anchors(both.hidden_BTC[0], both.hidden_BTC[1], count, generator)
    own = both.select([0] * count)
    return TextFeatures(vectors, pooled_BC=own.pooled_BC, condition=own.condition)


def texts(model: DiffusionModel, concept: Concept) -> tuple[TextFeatures, TextFeatures, TextFeatures]:
    """Return the features of target, surrogate and empty prompt; the published code uses one of each."""
    target, surrogate, empty = (model.encode([text]) for text in (concept.targets[0], concept.surrogate, ""))
    return target, surrogate, empty


def erase(model: DiffusionModel, concepts: Sequence[Concept], settings: PublishedSettings, run: Run) -> Membrane:
    """Make the membrane of one concept by the published loop; it learns the first target phrase alone.

    The gate and the self-check are those of `spm`, so that the two can be compared.

    Raises:
        StackError: the denoiser has other adapters (LoRA) on it.
    """
    (concept,) = concepts
    refuse_other_adapters(model.denoiser)
    gate = fit_gate(concept, model, settings.seed)
    held = anchoring.by_name(concept, model.encode)
    card = card_of("spm-published", model, concepts, settings, gate=gate, licence=run.licence)
    predict = Counted(model)
    generator = torch.Generator().manual_seed(settings.seed)
    start = Membrane.zero(model.erasable_layers(), card, settings.rank, generator)
    with frozen(model):
        held = anchoring.in_sentences(held, concept, model.encode)
        made = _trained(model, start, settings, predict, run)
        effect = self_check(model, made, held, "", settings.seed, predict)
    return made.with_card(effect=effect | {"denoiser_evaluations": float(predict.evaluations)})


METHOD = Method(
    name="spm-published",
    paper="arXiv:2312.16145, as in the authors' repository",
    kind="membrane",
    needs="nothing; learns from text alone",
    cost="3,000 steps of one state; 1.2 A100-hours reported for SD 1.4",
    settings=PublishedSettings,
    make=erase,
)


def _trained(
    model: DiffusionModel, start: Membrane, settings: PublishedSettings, predict: Counted, run: Run
) -> Membrane:
    concept = start.card.concept
    stack = Stack(model.denoiser)
    stack.add(NAME, start)
    empty = None if model.distilled else model.unconditional(1)
    encoded = texts(model, concept)
    with stack:
        model.wake()
        weights = stack.trainable(NAME)
        draws = Draws(torch.Generator().manual_seed(settings.seed), predict, weights[0].device, empty)

        def gradients(_: int) -> dict[str, float]:
            return _gradients(model, stack, settings, draws, encoded)

        training = Training(
            name=concept.name,
            weights=weights,
            optimizer=torch.optim.AdamW(weights, settings.learning_rate, weight_decay=0.01),
            gradients=gradients,
            steps=settings.steps,
            learning_rate=lambda step: settings.learning_rate * factor(step, settings.steps),
            state=draws,
            owner=owner_of(start),
            due=lambda done: done % settings.checkpoint_every == 0 and done < settings.steps,
            snapshot=lambda: stack.membrane(NAME),
        )
        descend(training, run)
        return stack.membrane(NAME)


def _gradients(
    model: DiffusionModel,
    stack: Stack,
    settings: PublishedSettings,
    draws: Draws,
    encoded: tuple[TextFeatures, TextFeatures, TextFeatures],
) -> dict[str, float]:
    target, instead, empty = encoded
    draw, predict, count = draws.generator, draws.predict, settings.anchors
    depth = int(torch.randint(1, settings.trajectory_steps, (1,), generator=draw))
    stack.set_permeability(torch.ones(1, 1))
    # The published code has its own schedule, whatever the model's: states at t = 957 - 33 k.
    schedule = model.schedule(settings.trajectory_steps, steps_offset=0, timestep_spacing="leading")
    path = trajectories.denoise(
        model, predict, schedule, target, guidance=settings.guidance, generator=draw, empty=draws.empty
    )
    _, x = next(islice(path, depth, None))
    t = torch.tensor([asked_timestep(depth, settings.trajectory_steps)], device=model.device)
    anchors = gaussian_features(target, empty, count, draw)
    asked = concatenate([_states(target), anchors])
    stack.close()
    with torch.no_grad():
        both = concatenate([asked, _states(instead)])
        bare = predict(x.expand(count + 2, -1, -1, -1), t.expand(count + 2), both)
    stack.set_permeability(torch.ones(1, 1))
    guarded = predict(x.expand(count + 1, -1, -1, -1), t.expand(count + 1), asked)
    erasing = erasing_loss(guarded[:1], bare[:1], bare[-1:], settings.eta)
    anchored = anchoring_loss(guarded[1:], bare[1:-1])
    total_loss(erasing, anchored, settings.anchor_weight).backward()
    return {
        "erasing": float(erasing.detach()),
        "anchors": float(anchored.detach()),
        "evaluations": predict.evaluations,
    }


def _states(features: TextFeatures) -> TextFeatures:
    return TextFeatures(features.hidden_BTC, pooled_BC=features.pooled_BC, condition=features.condition)
