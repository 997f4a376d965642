"""The loop: Concept + DiffusionModel -> Membrane."""

import datetime
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from semiperm.concept import Concept
from semiperm.erasing import anchors as anchoring
from semiperm.erasing import authors, checkpoint, gate, trajectories
from semiperm.erasing.check import in_words, self_check
from semiperm.erasing.instant import instant, reads_text
from semiperm.erasing.objective import anchoring_loss, erasing_loss, total_loss
from semiperm.erasing.prompts import target_prompts
from semiperm.erasing.recipe import Recipe, RecipeError, load_recipe
from semiperm.erasing.run import Counted, Run
from semiperm.membrane import files
from semiperm.membrane.membrane import Card, Membrane
from semiperm.membrane.stack import Stack, refuse_other_adapters
from semiperm.models.base import DiffusionModel, TextFeatures, concatenate
from semiperm.models.load import model_of

# S states, A anchors, C channels, H height, W width


def erase(
    model_or_pipeline: Any,
    concept: Concept | str,
    recipe: Recipe | str | Path | None = None,
    *,
    out: Path | None = None,
    resume: bool = False,
    quiet: bool = False,
    on_step: Callable[[int, Membrane], None] | None = None,
    licence: str = "",
) -> Membrane:
    """Make the membrane that erases a concept from a model; the model itself is not changed.

    First the instant membrane (closed form, a second), then `recipe.steps` optimiser steps from there on all layers.
    The membrane's card holds the gate of the calibrated transport and a self-check: how far the predictions for the
    target and for the anchors moved, both as a share of the distance between target and empty prompt.

    Args:
        model_or_pipeline: a DiffusionModel or a diffusers pipeline, quantised or offloaded as it may be.
        concept: what to erase; a string is an object's name.
        recipe: a Recipe, the name of one ("default", "instant", "authors"), or a YAML file.
        out: where to write the membrane; training keeps its checkpoint beside it. Without it nothing is written.
        resume: go on from that checkpoint, exactly as if training had never stopped.
        quiet: draw no progress bar.
        on_step: called after each checkpoint with the number of steps done and the membrane as it is.
        licence: SPDX name for the card.

    Raises:
        RecipeError: the recipe is malformed, or stops at an instant membrane that this model cannot have.
        StackError: the denoiser wears other adapters (LoRA).
        CheckpointError: there is nothing to resume, or it belongs to another erasure.
        KeyboardInterrupt: Ctrl-C was pressed; the step at hand was finished and a checkpoint written.
    """
    model = model_of(model_or_pipeline)
    concept = Concept(name=concept) if isinstance(concept, str) else concept
    recipe = load_recipe(recipe)
    refuse_other_adapters(model.denoiser)
    if not recipe.steps and not any(map(reads_text, model.erasable_layers())):
        raise RecipeError(
            f"{model.name} has no instant membrane, because no layer of it reads the text alone: give the recipe steps"
        )
    if recipe.device:
        model.pipeline.to(recipe.device)
    where = checkpoint.beside(out) if out else None
    if resume:
        checkpoint.existing(where)
    began = time.perf_counter()
    fitted = gate.fit(concept, model, recipe.seed)
    gated = time.perf_counter()
    held = anchoring.by_name(concept, model.encode, recipe.more_anchors)
    card = _card(concept, model, recipe, fitted, licence)
    predict = Counted(model, recipe.precision == "bfloat16")
    with frozen(model):
        if recipe.loop == "authors":
            generator = torch.Generator().manual_seed(recipe.seed)
            start = Membrane.zero(model.erasable_layers(), Card(concept=concept), recipe.rank_for(concept), generator)
        else:
            start = instant(concept, model, held, recipe)
        start = Membrane(card.model_copy(update={"fingerprint": model.fingerprint()}), start.down, start.up)
        ready = time.perf_counter()
        if recipe.steps:
            # the closed form does as well without them, in half the time
            held = anchoring.in_sentences(held, concept, model.encode)
        if recipe.steps and not resume and not quiet and any(bool(up.any()) for up in start.up.values()):
            reached = self_check(model, start, held, recipe, Counted(model, predict.autocast))
            Console().print(f"instant membrane in {ready - gated:.1f} s: {in_words(reached)}", soft_wrap=True)
        made = _train(model, start, held, recipe, predict, where, resume, quiet, on_step) if recipe.steps else start
        trained = time.perf_counter()
        effect = self_check(model, made, held, recipe, predict)
    effect |= {
        "denoiser_evaluations": float(predict.evaluations),
        "seconds_gate": round(gated - began, 2),
        "seconds_instant": round(ready - gated, 2),
        "seconds_training": round(trained - ready, 2),
    }
    made = made.with_card(effect=effect)
    if out and where:
        files.save(made, out)
        where.unlink(missing_ok=True)
    return made


@contextmanager
def frozen(model: DiffusionModel) -> Iterator[None]:
    """Give the denoiser's own weights no gradients meanwhile, and restore what was."""
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


def _card(concept: Concept, model: DiffusionModel, recipe: Recipe, fitted: dict, licence: str) -> Card:
    def found(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "source"

    return Card(
        concept=concept,
        base_model=model.name,
        architecture=model.architecture,
        recipe=recipe.model_dump(),
        gate=fitted,
        versions={package: found(package) for package in ("semiperm", "torch", "diffusers", "transformers")},
        seed=recipe.seed,
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        licence=licence,
    )


def _train(
    model: DiffusionModel,
    start: Membrane,
    held: anchoring.Anchors,
    recipe: Recipe,
    predict: Counted,
    where: Path | None,
    resume: bool,
    quiet: bool,
    on_step: Callable[[int, Membrane], None] | None,
) -> Membrane:
    stack = Stack(model.denoiser)
    stack.add("membrane", start)
    # what is read is all encoded before the denoiser comes to where it computes; the text encoder is not asked again
    empty = None if model.distilled else model.unconditional(1)
    if recipe.loop == "authors":
        read = authors.texts(model, start.card.concept)
    else:
        pairs = target_prompts(start.card.concept, recipe.nothing)
        read = model.encode([prompt for prompt, _ in pairs]), model.encode([prompt for _, prompt in pairs])
    with stack, interruptible() as interrupted:
        model.wake()
        weights = stack.trainable("membrane")
        rate = recipe.learning_rate_for(start.card.concept)
        optimizer = torch.optim.AdamW(weights, rate, weight_decay=0.01)
        run = Run(weights, optimizer, predict, torch.Generator().manual_seed(recipe.seed), empty)
        if resume:
            checkpoint.load(checkpoint.existing(where), start.card, run)
        step = partial(authors.step if recipe.loop == "authors" else _step, model, stack, recipe, run, read, held)

        def save() -> None:
            if where is not None:
                checkpoint.save(where, start.card, run)
            if on_step is not None:
                on_step(run.step, stack.membrane("membrane"))

        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[told]}"),
            TimeRemainingColumn(),
            disable=quiet,
        ) as bar:
            task = bar.add_task(f"erasing {start.card.concept.name}", total=recipe.steps, completed=run.step, told="")
            while run.step < recipe.steps:
                for group in optimizer.param_groups:
                    group["lr"] = rate * factor(recipe, run.step)
                optimizer.zero_grad(set_to_none=True)
                losses = step()
                optimizer.step()
                run.step += 1
                run.losses.append(losses)
                told = f"erasing {losses[0]:.4f} anchors {losses[1]:.6f} evaluations {predict.evaluations}"
                bar.update(task, advance=1, told=told)
                if interrupted() or (run.step % recipe.checkpoint_every == 0 and run.step < recipe.steps):
                    save()
                if interrupted():
                    raise KeyboardInterrupt
        return stack.membrane("membrane")


def factor(recipe: Recipe, step: int) -> float:
    """Return the learning rate's factor at a step: a linear fall, or the authors' cosine with restarts."""
    return authors.factor(recipe, step) if recipe.loop == "authors" else 1 - step / recipe.steps


def _step(
    model: DiffusionModel,
    stack: Stack,
    recipe: Recipe,
    run: Run,
    encoded: tuple[TextFeatures, TextFeatures],
    held: anchoring.Anchors,
) -> tuple[float, float]:
    target, instead = encoded
    draw, predict = run.generator, run.predict
    if run.states is None or run.step % recipe.refresh == 0:
        prompts = torch.randint(len(target), (recipe.trajectories,), generator=draw)
        stack.set_permeability(torch.ones(1, 1))
        run.states = trajectories.run(
            model, predict, target, prompts,
            steps=recipe.trajectory_steps, guidance=recipe.guidance, generator=draw, empty=run.empty,
        )  # fmt: skip
    picks = torch.randint(len(run.states), (recipe.states,), generator=draw)
    x_SCHW, t_S, prompt_S = run.states.x_SCHW[picks], run.states.t_S[picks], run.states.prompt_S[picks]
    if recipe.anchor_kind == "gaussian":
        anchors = authors.gaussian_features(target, held.features.select([0]), recipe.anchors, draw)
    else:
        anchors = held.features.select(held.draw(recipe.anchors, recipe.neighbours, draw))
    spread = torch.arange(recipe.anchors) % recipe.states
    x = torch.cat([x_SCHW, x_SCHW[spread]])
    t = torch.cat([t_S, t_S[spread]]).to(model.device)
    asked = concatenate([target.select(prompt_S), anchors])
    stack.close()
    with torch.no_grad():
        every_x, every_t = torch.cat([x, x_SCHW]), torch.cat([t, t_S.to(model.device)])
        read = concatenate([asked, instead.select(prompt_S)])
        bare = torch.cat([predict(every_x[rows], every_t[rows], read.select(rows)) for rows in _parts(read, recipe)])
    bare_target, bare_anchors, surrogate = bare.split([recipe.states, recipe.anchors, recipe.states])
    stack.set_permeability(torch.ones(1, 1))
    losses = [0.0, 0.0]
    for rows in _parts(asked, recipe):
        guarded = predict(x[rows], t[rows], asked.select(rows))
        # the part's share of the means over all targets and over all anchors
        own, held_rows = rows[rows < recipe.states], rows[rows >= recipe.states] - recipe.states
        erasing = anchored = guarded.new_zeros(())
        if len(own):
            erasing = erasing_loss(guarded[: len(own)], bare_target[own], surrogate[own], recipe.eta)
            erasing = erasing * (len(own) / recipe.states)
        if len(held_rows):
            anchored = anchoring_loss(guarded[len(own) :], bare_anchors[held_rows])
            anchored = anchored * (len(held_rows) / recipe.anchors)
        total_loss(erasing, anchored, recipe.anchor_weight).backward()
        losses = [losses[0] + float(erasing.detach()), losses[1] + float(anchored.detach())]
    return losses[0], losses[1]


def _parts(features: TextFeatures, recipe: Recipe) -> Sequence[Tensor]:
    return torch.arange(len(features)).split(recipe.at_once or len(features))


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Turn Ctrl-C into a question that the loop asks between steps, so that no step is torn."""
    pressed = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield pressed.is_set
        return
    before = signal.signal(signal.SIGINT, lambda *_: pressed.set())
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)
