"""Our method: a closed form for the text side, then a short training on whole denoising trajectories."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from semiperm.concept import Concept
from semiperm.errors import MethodError
from semiperm.membrane import Membrane
from semiperm.methods import trajectories
from semiperm.methods.calibrate import fit_gate
from semiperm.methods.method import Method, card_of
from semiperm.methods.sentences import target_prompts
from semiperm.methods.spm import anchors as anchoring
from semiperm.methods.spm.check import self_check
from semiperm.methods.spm.instant import instant, reads_text
from semiperm.methods.spm.losses import anchoring_loss, erasing_loss, total_loss
from semiperm.methods.spm.settings import SpmSettings
from semiperm.methods.training import Run, Training, descend
from semiperm.methods.trajectories import Counted, States
from semiperm.models.model import DiffusionModel
from semiperm.models.text import TextFeatures, concatenate
from semiperm.stack import Stack, refuse_other_adapters

# S states, A anchors, C channels, H height, W width

NAME = "membrane"


def erase(model: DiffusionModel, concepts: Sequence[Concept], settings: SpmSettings, run: Run) -> Membrane:
    """Make the membrane of one concept: the closed form, then `settings.steps` optimiser steps on all layers.

    The card holds the fitted gate and a self-check: how far the predictions for the target and for the anchors moved.

    Raises:
        MethodError: the model has no closed form, and the settings ask for no training; or one of `more_anchors` asks
            for the concept itself.
        StackError: the denoiser has other adapters (LoRA) on it.
    """
    (concept,) = concepts
    refuse_other_adapters(model.denoiser)
    if not settings.steps and not any(map(reads_text, model.erasable_layers())):
        raise MethodError(
            f"{model.name} has no closed form, because none of its layers reads the text alone: set steps to 1 or more."
        )
    gate = fit_gate(concept, model, settings.seed, settings.more_anchors)
    held = anchoring.by_name(concept, model.encode, settings.more_anchors)
    card = card_of("spm", model, concepts, settings, gate=gate, licence=run.licence)
    predict = Counted(model, settings.precision == "bfloat16")
    with frozen(model):
        start = instant(concept, model, held, settings)
        made = Membrane(card, start.down, start.up)
        if settings.steps:
            # The closed form does as well without them, in half the time.
            held = anchoring.in_sentences(held, concept, model.encode)
            made = _trained(model, made, held, settings, predict, run)
        effect = self_check(model, made, held, settings.nothing, settings.seed, predict)
    return made.with_card(effect=effect | {"denoiser_evaluations": float(predict.evaluations)})


METHOD = Method(
    name="spm",
    paper="arXiv:2312.16145, with a closed form and training on trajectories",
    kind="membrane",
    needs="nothing; learns from text alone",
    cost="closed form: a second after loading; training: 100 steps of 8 states",
    settings=SpmSettings,
    make=erase,
)


@contextmanager
def frozen(model: DiffusionModel) -> Iterator[None]:
    """Turn off the gradients of the denoiser's own weights, and its training mode, within the context."""
    wanted = [(weight, weight.requires_grad) for weight in model.denoiser.parameters()]
    training = model.denoiser.training
    try:
        for weight, _ in wanted:
            weight.requires_grad_(False)
        model.denoiser.eval()
        yield
    finally:
        for weight, flag in wanted:
            weight.requires_grad_(flag)
        model.denoiser.train(training)


@dataclass
class Draws:
    """What a step depends on beside the weights: the generator, the present states, and counters.

    `empty` are the unconditional features, encoded once: under offloading the text encoder would displace the denoiser.
    """

    generator: torch.Generator
    predict: Counted
    device: torch.device
    empty: TextFeatures | None = None
    states: States | None = None

    def tensors(self) -> dict[str, Tensor]:
        """Return the generator's state and the noisy states."""
        found = {"generator": self.generator.get_state()}
        if self.states is not None:
            found |= {"x": self.states.x_SCHW, "t": self.states.t_S, "prompt": self.states.prompt_S}
        return found

    def facts(self) -> dict[str, Any]:
        """Return the number of denoiser evaluations so far."""
        return {"evaluations": self.predict.evaluations}

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Continue from kept tensors and facts."""
        self.generator.set_state(tensors["generator"])
        self.predict.evaluations = int(facts["evaluations"])
        if "x" in tensors:
            self.states = States(tensors["x"].to(self.device), tensors["t"], tensors["prompt"])


def owner_of(membrane: Membrane) -> dict[str, Any]:
    """Return what a checkpoint belongs to; the number of steps may change when it is resumed."""
    card = membrane.card
    settings = {name: value for name, value in card.settings.items() if name not in ("steps", "checkpoint_every")}
    return {
        "method": card.method,
        "concept": card.concept.model_dump(mode="json"),
        "settings": settings,
        "base model": card.base_model,
        "fingerprint": card.fingerprint,
    }


def _trained(
    model: DiffusionModel,
    start: Membrane,
    held: anchoring.Anchors,
    settings: SpmSettings,
    predict: Counted,
    run: Run,
) -> Membrane:
    concept = start.card.concept
    stack = Stack(model.denoiser)
    stack.add(NAME, start)
    # Encode everything before the denoiser is loaded onto its device; the text encoder is not needed again.
    empty = None if model.distilled else model.unconditional(1)
    pairs = target_prompts(concept, settings.nothing)
    target, instead = model.encode([prompt for prompt, _ in pairs]), model.encode([prompt for _, prompt in pairs])
    with stack:
        model.wake()
        weights = stack.trainable(NAME)
        rate = settings.learning_rate_for(concept)
        draws = Draws(torch.Generator().manual_seed(settings.seed), predict, weights[0].device, empty)

        def gradients(step: int) -> dict[str, float]:
            return _gradients(model, stack, settings, draws, target, instead, held, step)

        training = Training(
            name=concept.name,
            weights=weights,
            optimizer=torch.optim.AdamW(weights, rate, weight_decay=0.01),
            gradients=gradients,
            steps=settings.steps,
            learning_rate=lambda step: rate * (1 - step / settings.steps),
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
    settings: SpmSettings,
    draws: Draws,
    target: TextFeatures,
    instead: TextFeatures,
    held: anchoring.Anchors,
    step: int,
) -> dict[str, float]:
    draw, predict = draws.generator, draws.predict
    if draws.states is None or step % settings.refresh == 0:
        prompts = torch.randint(len(target), (settings.trajectories,), generator=draw)
        stack.set_permeability(torch.ones(1, 1))
        draws.states = trajectories.sample_states(
            model, predict, target, prompts,
            steps=settings.trajectory_steps, guidance=settings.guidance, generator=draw, empty=draws.empty,
        )  # fmt: skip
    picks = torch.randint(len(draws.states), (settings.states,), generator=draw)
    x_SCHW, t_S, prompt_S = (part[picks] for part in (draws.states.x_SCHW, draws.states.t_S, draws.states.prompt_S))
    anchors = held.features.select(held.draw(settings.anchors, settings.neighbours, draw))
    spread = torch.arange(settings.anchors) % settings.states
    x = torch.cat([x_SCHW, x_SCHW[spread]])
    t = torch.cat([t_S, t_S[spread]]).to(model.device)
    asked = concatenate([target.select(prompt_S), anchors])
    stack.close()
    with torch.no_grad():
        every_x, every_t = torch.cat([x, x_SCHW]), torch.cat([t, t_S.to(model.device)])
        read = concatenate([asked, instead.select(prompt_S)])
        bare = torch.cat([predict(every_x[rows], every_t[rows], read.select(rows)) for rows in _parts(read, settings)])
    bare_target, bare_anchors, surrogate = bare.split([settings.states, settings.anchors, settings.states])
    stack.set_permeability(torch.ones(1, 1))
    losses = [0.0, 0.0]
    for rows in _parts(asked, settings):
        guarded = predict(x[rows], t[rows], asked.select(rows))
        # Each part counts by its share of the means over all targets and over all anchors.
        own, held_rows = rows[rows < settings.states], rows[rows >= settings.states] - settings.states
        erasing = anchored = guarded.new_zeros(())
        if len(own):
            erasing = erasing_loss(guarded[: len(own)], bare_target[own], surrogate[own], settings.eta)
            erasing = erasing * (len(own) / settings.states)
        if len(held_rows):
            anchored = anchoring_loss(guarded[len(own) :], bare_anchors[held_rows])
            anchored = anchored * (len(held_rows) / settings.anchors)
        total_loss(erasing, anchored, settings.anchor_weight).backward()
        losses = [losses[0] + float(erasing.detach()), losses[1] + float(anchored.detach())]
    return {"erasing": losses[0], "anchors": losses[1], "evaluations": predict.evaluations}


def _parts(features: TextFeatures, settings: SpmSettings) -> Sequence[Tensor]:
    return torch.arange(len(features)).split(settings.at_once or len(features))
