"""`semiperm generate` and `inspect`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from semiperm.cli import options
from semiperm.cli.console import say, table
from semiperm.cli.options import Device, Erasures, Force, Gate, Model

if TYPE_CHECKING:
    from semiperm.guarded import Permeability


def generate(
    prompt: Annotated[list[str], typer.Argument(help="one or several prompts")],
    membrane: Erasures = None,
    gate: Gate = "fitted",
    out: Annotated[Path, typer.Option(help="folder for the pictures")] = Path("pictures"),
    compare: Annotated[
        Path | None, typer.Option(help="instead of single pictures, draw bare and guarded rows into this PNG")
    ] = None,
    model: Model = "terrarium",
    device: Device = None,
    count: Annotated[int, typer.Option(help="pictures for each prompt", min=1)] = 4,
    seed: Annotated[int, typer.Option(help="seed of each prompt's first picture; the others follow")] = 0,
    steps: Annotated[int, typer.Option(help="denoising steps", min=1, max=1000)] = 25,
    guidance: Annotated[float, typer.Option(help="guidance scale")] = 5.0,
    force: Force = False,
) -> None:
    """Generate pictures with erasures on."""
    from PIL import Image

    from semiperm import guard, pictures

    asked = [text for text in prompt for _ in range(count)]
    seeds = [seed + number for _ in prompt for number in range(count)]
    paths = [out / f"{number // count:02d}-{each:04d}.png" for number, each in enumerate(seeds)]
    for path in paths if compare is None else [compare]:
        options.check_writable(path, force=force)
    loaded = options.load_model(model, device)
    with guard(loaded, membrane or [], gate=gate) as guarded:
        made = pictures.generate(guarded, asked, seeds, steps=steps, guidance=guidance)
        opened = guarded.permeability(asked)
    if compare is None:
        # Save before anything is printed, which can fail.
        for path, picture in zip(paths, made, strict=True):
            pictures.save_png(Image.fromarray(picture), path)
        if opened.names:
            _show(opened, slice(None, None, count))
        for path in paths:
            say(path)
        return
    bare = pictures.generate(loaded.pipeline, asked, seeds, steps=steps, guidance=guidance)
    notes = [" ".join(f"{name} {gamma:.2f}" for name, gamma in row.items()) for row in opened.rows()]
    drawn: list[pictures.Row] = []
    # One picture of each prompt makes one row; several make a pair of rows for each prompt.
    parts = [("", slice(None))] if count == 1 else [
        (f"{text} - ", slice(number * count, (number + 1) * count)) for number, text in enumerate(prompt)
    ]  # fmt: skip
    for title, part in parts:
        drawn.append(pictures.Row(f"{title}bare", bare[part], asked[part] if count == 1 else ()))
        drawn.append(pictures.Row(f"{title}guarded", made[part], notes[part] if opened.names else ()))
    pictures.save_png(pictures.grid(drawn), compare)
    if opened.names:
        _show(opened, slice(None, None, count))
    say(compare)


def inspect(
    membrane: Annotated[Path, typer.Argument(help="file of a membrane or another erasure")],
    prompt: Annotated[
        list[str] | None, typer.Option(help="show how far the membrane opens for this prompt; repeatable")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="check whether it fits this model; with --prompt the terrarium by default")
    ] = None,
    device: Device = None,
    gate: Gate = "fitted",
) -> None:
    """Show the card of an erasure, whether it fits a model, and how far prompts open it."""
    from semiperm import guard, load
    from semiperm.membrane import Membrane

    loaded = load(membrane)
    card = loaded.card.model_dump(mode="json")
    if card["gate"]:
        # The gate's hundreds of weights are not for reading.
        card["gate"] = {name: value for name, value in card["gate"].items() if name != "weight"}
    rows = [(name, value if isinstance(value, str) else json.dumps(value)) for name, value in card.items()]
    numbers = f"{loaded.size:,} numbers, " if isinstance(loaded, Membrane) else ""
    table(("field", "value"), [*rows, ("size", f"{numbers}{membrane.stat().st_size:,} bytes")], title=str(membrane))
    if not (model or prompt):
        return
    wanted = options.load_model(model or "terrarium", device)
    # A LoRA without a gate can fit as well.
    with guard(wanted, [membrane], gate=gate if prompt else "always") as guarded:
        layers = f"{loaded.card.layers} layers, " if loaded.card.layers else ""
        say(f"fits {wanted.name}: {layers}architecture {wanted.architecture}")
        if not prompt:
            return
        opened = guarded.permeability(prompt)
    if opened.names:
        _show(opened)
    else:
        say("it has no gate: it acts on every prompt")


def _show(opened: "Permeability", rows: slice = slice(None)) -> None:
    lines: Sequence[tuple[str, ...]] = [
        (text, *(f"{row[name]:.2f}" for name in opened.names))
        for text, row in zip(opened.prompts[rows], opened.rows()[rows], strict=True)
    ]
    table(("prompt", *opened.names), lines, title="permeability")
