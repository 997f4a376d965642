"""`semiperm erase`, `adopt` and `methods`."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from semiperm.cli import options
from semiperm.cli.console import bar, say, stopped, table, warn
from semiperm.cli.interrupt import interruptible
from semiperm.cli.options import Device, Force, MethodName, Model
from semiperm.concept import Concept, Kind
from semiperm.errors import SemipermError, Stopped

if TYPE_CHECKING:
    from semiperm.erasure import Card, Erasure
    from semiperm.methods.method import Method, Settings
    from semiperm.methods.training import Progress
    from semiperm.models.model import DiffusionModel

PREVIEWED = 6


def erase(
    concept: Annotated[str | None, typer.Argument(help="name of the concept")] = None,
    out: Annotated[Path | None, typer.Option(help="file to write; CONCEPT.safetensors by default")] = None,
    method: MethodName = None,
    settings: Annotated[Path | None, typer.Option(help="YAML file of the method's settings, by name")] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="a setting of the method; the value is YAML; repeatable"),
    ] = None,
    instant: Annotated[bool, typer.Option("--instant", help="stop after the closed form: steps=0")] = False,
    steps: Annotated[int | None, typer.Option(help="training steps", min=0)] = None,
    seed: Annotated[int | None, typer.Option(help="seed of everything that is drawn")] = None,
    model: Model = "terrarium",
    device: Device = None,
    kind: Annotated[Kind | None, typer.Option(help="kind of the concept; object by default")] = None,
    surrogate: Annotated[str | None, typer.Option(help="what the concept becomes; nothing by default")] = None,
    target: Annotated[
        list[str] | None, typer.Option(help="a phrase that asks for the concept; its name by default; repeatable")
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(help="an erasure of another model: take its concept, method and settings instead of a name"),
    ] = None,
    preset: Annotated[
        Literal["low-vram"] | None,
        typer.Option(help="low-vram: bfloat16, idle networks offloaded to the CPU, smaller batches"),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="resume from the checkpoint beside --out")] = False,
    force: Force = False,
    preview: Annotated[
        Path | None, typer.Option(help="PNG: at each checkpoint, add a row of pictures of the target on fixed seeds")
    ] = None,
    licence: Annotated[str, typer.Option(help="SPDX name for the card, for instance Apache-2.0")] = "",
) -> None:
    """Erase a concept: write the membrane (or another erasure) that removes it from a model.

    Settings come from the method's defaults, --like, --preset, --settings, --steps and --seed, --set; the last wins.
    """
    from semiperm import erase as make
    from semiperm import load
    from semiperm.files.safetensors import check_name
    from semiperm.methods.method import find
    from semiperm.methods.training import beside, claim

    described = _given(name=concept, kind=kind, surrogate=surrogate, targets=tuple(target) if target else None)
    card: Card | None = None
    if like is not None:
        if described:
            raise SemipermError(
                "--like takes the concept from the other erasure: give no name, --kind, --surrogate or --target."
            )
        card = load(like).card
        wanted = list(card.concepts)
    elif concept is None:
        raise SemipermError("Give the name of a concept, or an erasure that erases it with --like.")
    else:
        wanted = [Concept.model_validate(described)]
    found = find(method or (card.method if card else "") or "spm")
    chosen = _settings(
        found, like=like, card=card, low_vram=preset is not None, file=settings,
        given=_given(steps=0 if instant else steps, seed=seed), sets=sets or (),
    )  # fmt: skip
    where = check_name(out or Path(f"{wanted[0].slug}.safetensors"))
    # Path.resolve() raises where links lead in a circle.
    if like is not None and os.path.realpath(where) == os.path.realpath(like):
        raise SemipermError(f"{where} is the erasure that --like names: give another file with --out.")
    claim(where, wanted, resume=resume, force=force)
    if preview is not None:
        # A run that resumes writes the preview of its first part again.
        options.check_writable(preview, force=force or resume)
    loaded = options.load_model(model, device, low_vram=preset is not None)
    try:
        with interruptible() as interrupt, bar() as show:

            def progress(now: "Progress") -> None:
                interrupt.waits = True
                show(now.name, now.step, now.steps, now.figures)

            erasure = make(
                loaded, wanted, found.name, chosen, out=where, resume=resume, force=force, licence=licence, warn=warn,
                progress=progress, stop=interrupt.pressed,
                on_checkpoint=previews(loaded, wanted[0], preview) if preview else None,
            )  # fmt: skip
    except (Stopped, KeyboardInterrupt):
        kept = beside(where).is_file()
        raise stopped("the checkpoint is kept, resume with --resume" if kept else "") from None
    say(f"{where}: {_effect(erasure.card.effect)}")


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _settings(
    method: "Method",
    *,
    like: Path | None,
    card: "Card | None",
    low_vram: bool,
    file: Path | None,
    given: Mapping[str, Any],
    sets: Sequence[str],
) -> "Settings":
    """Return the settings of a method; later layers override earlier ones, and errors name the layer."""
    from semiperm.methods.method import settings_file, settings_of, settings_on
    from semiperm.methods.spm.settings import LOW_VRAM, SpmSettings

    layers: list[tuple[str, Mapping[str, Any]]] = []
    if card is not None:
        own = settings_on(card)
        # The settings of another method are of no use to this one.
        layers.append((str(like), own if card.method == method.name else {}))
    if low_vram and method.settings is SpmSettings:
        layers.append(("--preset", LOW_VRAM))
    if file is not None:
        layers.append((str(file), settings_file(file)))
    layers.append(("the options", given))
    layers += [(f"--set {text}", options.settings([text])) for text in sets]
    merged: dict[str, Any] = {}
    for where, values in layers:
        merged |= values
        settings_of(method, merged, where)
    return settings_of(method, merged)


def _effect(effect: Mapping[str, float]) -> str:
    from semiperm.methods.spm.check import in_words

    parts = [in_words(effect)] if {"target_moved", "anchors_moved"} <= effect.keys() else []
    if "denoiser_evaluations" in effect:
        parts.append(f"{effect['denoiser_evaluations']:.0f} denoiser evaluations")
    return "; ".join(parts) or "written"


def previews(model: "DiffusionModel", concept: Concept, path: Path) -> "Callable[[int, Erasure], None]":
    """Return a callback for `erase` that adds a row to the grid at `path`: the target, always open."""
    from semiperm.pictures import Row, generate, grid, save_png

    rows: list[Row] = []

    def draw(step: int, _: "Erasure") -> None:
        # While a method trains, its erasure is on the model and open.
        pictures = generate(model.pipeline, [concept.targets[0]] * PREVIEWED, range(PREVIEWED))
        rows.append(Row(f"{concept.name}, step {step}", pictures))
        try:
            save_png(grid(rows), path)
        except OSError as error:
            warn(f"The preview {path} cannot be written ({error.strerror or error}); the training goes on.")

    return draw


def adopt(
    adapter: Annotated[Path, typer.Argument(help="an erasing LoRA of another tool, or a file of the SPM authors")],
    concept: Annotated[str, typer.Option(help="name of the concept that it erases")],
    out: Annotated[Path | None, typer.Option(help="file to write; CONCEPT.safetensors by default")] = None,
    model: Model = "terrarium",
    device: Device = None,
    kind: Annotated[Kind, typer.Option(help="kind of the concept")] = "object",
    target: Annotated[
        list[str] | None, typer.Option(help="a phrase that asks for the concept; its name by default; repeatable")
    ] = None,
    drop_other_layers: Annotated[
        bool,
        typer.Option(
            "--drop-other-layers",
            help="leave out what cannot be part of a membrane: pairs of text encoders, and of the denoiser outside of "
            "its transformer blocks",
        ),
    ] = False,
    force: Force = False,
) -> None:
    """Make a membrane of any erasing LoRA: add a card, and a gate for the phrases that ask for the concept."""
    from semiperm import save
    from semiperm.files.safetensors import claim
    from semiperm.methods.calibrate import adopted

    erased = Concept(name=concept, targets=tuple(target or ()), kind=kind)
    where = claim(out or Path(f"{erased.slug}.safetensors"), [erased], force=force)
    if not adapter.is_file():
        raise SemipermError(f"There is no file {adapter}.")
    loaded = options.load_model(model, device)
    say(save(adopted(adapter, erased, loaded, drop=drop_other_layers), where))


def methods() -> None:
    """List the methods: what they return, where they were published, what they need and cost."""
    from semiperm.methods.method import METHODS, find

    rows = []
    for name in METHODS:
        try:
            method = find(name)
            rows.append((name, method.kind, method.paper, method.needs, method.cost))
        except ImportError as error:
            rows.append((name, "", "", f"not available here: {error}", ""))
    table(("method", "returns", "paper", "needs", "cost"), rows)
