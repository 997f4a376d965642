"""The command line: thin."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table
from rich.text import Text

from semiperm.atomic import write
from semiperm.concept import Kind

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Erase concepts from text-to-image diffusion models with semi-permeable membranes.",
)
terrarium = typer.Typer(no_args_is_help=True, help="The small world that ships with semiperm: make it, measure it.")
app.add_typer(terrarium, name="terrarium")
library = typer.Typer(no_args_is_help=True, help="A folder of membranes with an index that knows what was put in.")
app.add_typer(library, name="library")
# prompts, names and paths are text: brackets and colons in them mean nothing
console = Console(markup=False, emoji=False)
complaints = Console(stderr=True, markup=False, emoji=False)

Model = Annotated[
    str, typer.Option(help="terrarium, terrarium:RELATIVE, a Hub id, a diffusers folder or a .safetensors checkpoint")
]


@contextlib.contextmanager
def _plainly() -> Iterator[None]:
    """Say what is wrong in a sentence instead of a traceback, and draw no bars but our own."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    of_diffusers.disable_progress_bar()
    of_transformers.disable_progress_bar()
    try:
        yield
    except typer.Exit:
        raise
    except (ValueError, OSError, TypeError, RuntimeError) as error:
        complaints.print(Text.assemble(("error:", "bold red"), f" {_told(error)}"), soft_wrap=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        complaints.print("stopped; the checkpoint is kept, go on with --resume")
        raise typer.Exit(130) from None


def _told(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return error.errors()[0]["msg"].removeprefix("Value error, ")
    return str(error)


@app.command()
def erase(
    concept: Annotated[str | None, typer.Argument(help="what to erase, by its name")] = None,
    out: Annotated[Path | None, typer.Option(help="where to write the membrane (CONCEPT.safetensors)")] = None,
    model: Model = "terrarium",
    kind: Annotated[Kind | None, typer.Option(help="object by default")] = None,
    surrogate: Annotated[str | None, typer.Option(help="what the concept becomes; nothing by default")] = None,
    target: Annotated[list[str] | None, typer.Option(help="a phrase to erase; repeat it; the name by default")] = None,
    like: Annotated[
        Path | None, typer.Option(help="a membrane of another model, whose concept and recipe are taken")
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="default, instant, authors, or a YAML file")] = None,
    steps: Annotated[int | None, typer.Option(help="training steps instead of the recipe's")] = None,
    seed: Annotated[int | None, typer.Option(help="seed instead of the recipe's")] = None,
    instant: Annotated[bool, typer.Option("--instant", help="stop at the closed form, after a second")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="go on from the checkpoint beside --out")] = False,
    preset: Annotated[
        Literal["low-vram"] | None, typer.Option(help="low-vram: bfloat16, parts that rest on the CPU, small batches")
    ] = None,
    preview: Annotated[Path | None, typer.Option(help="draw a grid on fixed seeds here at every checkpoint")] = None,
    licence: Annotated[str, typer.Option(help="SPDX name for the card, for instance Apache-2.0")] = "",
) -> None:
    """Make the membrane that erases a concept, or what another model's membrane erases."""
    with _plainly():
        from semiperm import Concept, load, load_model
        from semiperm import erase as make
        from semiperm.erasing.check import in_words
        from semiperm.erasing.recipe import LOW_VRAM, load_recipe, recipe_of
        from semiperm.evaluation.preview import previews

        changes = (LOW_VRAM if preset else {}) | _given(steps=0 if instant else steps, seed=seed)
        told = _given(name=concept, kind=kind, surrogate=surrogate, targets=tuple(target) if target else None)
        if like is not None:
            if told:
                raise ValueError("--like takes the concept from the membrane: give no name, kind, surrogate or target")
            card = load(like).card
            erased = card.concept
            # without a recipe on its card the concept is only guessed from the file's name
            settings = load_recipe(recipe, **changes) if recipe and card.recipe else recipe_of(card, **changes)
        elif concept is None:
            raise ValueError("name a concept, or give a membrane that erases it with --like")
        else:
            erased, settings = Concept.model_validate(told), load_recipe(recipe, **changes)
        where = out or Path(f"{erased.slug}.safetensors")
        if where.suffix != ".safetensors":
            raise ValueError(f"{where}: a membrane's file name must end in .safetensors")
        if like is not None and where.resolve() == like.resolve():
            raise ValueError(f"{where} is the membrane that --like names: say with --out where the new one goes")
        loaded = load_model(model, low_vram=bool(preset))
        membrane = make(
            loaded, erased, settings, out=where, resume=resume, licence=licence,
            on_step=previews(loaded, erased, preview) if preview else None,
        )  # fmt: skip
        effect = membrane.card.effect
        console.print(f"{where}: {in_words(effect)}; {effect['denoiser_evaluations']:.0f} denoiser evaluations")


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


@app.command()
def generate(
    prompt: Annotated[list[str], typer.Argument(help="one prompt or several")],
    membrane: Annotated[list[Path] | None, typer.Option("--membrane", "-m", help="a membrane; repeat it")] = None,
    out: Annotated[Path, typer.Option(help="folder for the pictures")] = Path("pictures"),
    compare: Annotated[Path | None, typer.Option(help="draw bare and guarded rows here instead")] = None,
    model: Model = "terrarium",
    transport: Annotated[str, typer.Option(help="calibrated, paper or always")] = "calibrated",
    count: Annotated[int, typer.Option(help="pictures a prompt", min=1)] = 4,
    seed: Annotated[int, typer.Option()] = 0,
    steps: Annotated[int, typer.Option(min=1)] = 25,
    guidance: Annotated[float, typer.Option()] = 5.0,
) -> None:
    """Make pictures with membranes on."""
    with _plainly():
        from semiperm import guard, load_model
        from semiperm.evaluation import grid, pictures

        loaded = load_model(model)
        asked = [text for text in prompt for _ in range(count)]
        seeds = [seed + number for _ in prompt for number in range(count)]

        def rows(pipeline: object):  # noqa: ANN202
            return pictures.generate(pipeline, asked, seeds, steps=steps, guidance=guidance)

        bare = rows(loaded.pipeline) if compare else None
        with guard(loaded, membrane or [], transport=transport) as guarded:
            made = rows(guarded)
            opened = guarded.permeability(asked)
        if len(guarded.names):
            console.print(_permeability_table(guarded.names, prompt, opened.rows()[::count]))
        if compare is not None and bare is not None:
            opening = [" ".join(f"{name} {gamma:.2f}" for name, gamma in row.items()) for row in opened.rows()]
            parts = (
                {"": slice(None)}
                if count == 1
                else {f"{text} - ": slice(n * count, (n + 1) * count) for n, text in enumerate(prompt)}
            )
            drawn = []
            for title, part in parts.items():
                drawn.append(grid.Row(f"{title}bare", bare[part], asked[part] if count == 1 else ()))
                drawn.append(grid.Row(f"{title}guarded", made[part], opening[part]))
            console.print(grid.save(grid.draw(drawn), compare))
            return
        from PIL import Image

        for number, picture in enumerate(made):
            name = f"{number // count:02d}-{seeds[number]:04d}.png"
            console.print(grid.save(Image.fromarray(picture), out / name))


def _permeability_table(names: list[str], prompts: list[str], rows: list[dict[str, float]]) -> Table:
    table = Table(*["prompt", *names], title="permeability")
    for text, row in zip(prompts, rows, strict=True):
        table.add_row(text, *(f"{row[name]:.2f}" for name in names))
    return table


@app.command()
def inspect(
    membrane: Path,
    model: Annotated[str | None, typer.Option(help="tell whether it fits this model; terrarium, an id, a path")] = None,
    prompt: Annotated[list[str] | None, typer.Option(help="show how far it opens for this prompt; repeat it")] = None,
    transport: Annotated[str, typer.Option(help="calibrated, paper or always")] = "calibrated",
) -> None:
    """Show a membrane's card, whether it fits a model, and how far prompts open it."""
    with _plainly():
        from semiperm import guard, load, load_model

        loaded = load(membrane)
        card = loaded.card.model_dump(mode="json")
        gate = card.pop("gate")
        if gate:
            card["gate"] = {name: value for name, value in gate.items() if name != "weight"}
        table = Table("field", "value", title=str(membrane), show_lines=False)
        for name, value in card.items():
            table.add_row(name, value if isinstance(value, str) else json.dumps(value))
        table.add_row("size", f"{loaded.size:,} numbers, {membrane.stat().st_size:,} bytes")
        console.print(table)
        if not (model or prompt):
            return
        wanted = load_model(model or "terrarium")
        fitted = load(membrane, layers=wanted.erasable_layers())
        fitted.check_covers(wanted.erasable_layers())
        console.print(f"fits {wanted.name}: {len(fitted.down)} layers, architecture {wanted.architecture}")
        if prompt:
            with guard(wanted, [fitted], transport=transport) as guarded:
                console.print(_permeability_table(guarded.names, prompt, guarded.permeability(prompt).rows()))


@app.command()
def adopt(
    adapter: Annotated[Path, typer.Argument(help="an erasing LoRA of another tool, or the SPM authors' file")],
    concept: Annotated[str, typer.Option(help="what it erases")],
    out: Annotated[Path | None, typer.Option(help="where to write the membrane (CONCEPT.safetensors)")] = None,
    model: Model = "terrarium",
    kind: Annotated[Kind, typer.Option()] = "object",
    target: Annotated[list[str] | None, typer.Option(help="a phrase that asks for it; repeat it")] = None,
) -> None:
    """Make a membrane of any erasing LoRA: give it a card and a gate for the phrases that ask for the concept."""
    with _plainly():
        from semiperm import Concept, load, load_model, save
        from semiperm.erasing.gate import adopted

        loaded = load_model(model)
        erased = Concept(name=concept, targets=tuple(target or ()), kind=kind)
        membrane = adopted(load(adapter, layers=loaded.erasable_layers()), erased, loaded)
        console.print(save(membrane, out or Path(f"{erased.slug}.safetensors")))


@app.command()
def export(
    membrane: Annotated[list[Path], typer.Argument(help="a membrane; several for a merged model")],
    out: Annotated[Path, typer.Option(help="file or folder to write")],
    form: Annotated[Literal["kohya", "diffusers", "peft", "merged"], typer.Option("--format")] = "diffusers",
    model: Model = "terrarium",
    permeability: Annotated[float, typer.Option(help="how far a merged model's membranes are open")] = 1.0,
) -> None:
    """Write a membrane for another tool, or a model with membranes baked in for servers that know no adapters."""
    with _plainly():
        from semiperm import load, load_model
        from semiperm.membrane.export import export as write
        from semiperm.membrane.export import merge

        if form == "merged":
            worn = {str(path): (load(path), permeability) for path in membrane}
            console.print(merge(load_model(model), worn, out))
        elif len(membrane) > 1:
            raise ValueError(f"the format {form} holds one membrane; only a merged model holds several")
        else:
            console.print(write(load(membrane[0]), form, out))


@app.command()
def push(
    membrane: Path,
    repo: Annotated[str, typer.Argument(help="user/repo on the Hugging Face Hub; made if it does not exist")],
    grid: Annotated[Path | None, typer.Option(help="PNG of pictures before and after, for the page")] = None,
    private: Annotated[bool, typer.Option("--private", help="let only those see it who may")] = False,
) -> None:
    """Publish a membrane on the Hugging Face Hub, with a page that says what it does."""
    with _plainly():
        from semiperm import load

        console.print(load(membrane).push_to_hub(repo, grid=grid, private=private))


@app.command()
def pull(
    repo: Annotated[str, typer.Argument(help="user/repo on the Hugging Face Hub")],
    out: Annotated[Path | None, typer.Option(help="where to write the membrane (the name it has there)")] = None,
    revision: Annotated[str | None, typer.Option(help="branch, tag or commit")] = None,
    file: Annotated[str | None, typer.Option(help="which membrane, where the repository has several")] = None,
) -> None:
    """Fetch a membrane from the Hugging Face Hub."""
    with _plainly():
        from semiperm import load, save
        from semiperm.membrane.hub import find

        found = find(repo, revision=revision, filename=file)
        # a stranger chose that name
        if out is None and Path(found.name).exists():
            raise FileExistsError(f"{found.name} exists: say with --out where to write the membrane")
        console.print(save(load(found), out or Path(found.name)))


@app.command()
def protocols() -> None:
    """List what can be measured: what each protocol shows and what it costs."""
    from semiperm.evaluation.protocols import PROTOCOLS

    table = Table("protocol", "shows", "cost")
    for protocol in PROTOCOLS.values():
        table.add_row(f"{protocol.name} /{protocol.version}", protocol.shows, protocol.cost)
    console.print(table)


@app.command()
def evaluate(
    protocol: Annotated[str, typer.Option("--protocol", "-p", help="see `semiperm protocols`")],
    out: Annotated[Path, typer.Option(help="folder of report.json, report.html and the pictures")],
    membrane: Annotated[list[Path] | None, typer.Option("--membrane", "-m", help="a membrane; repeat it")] = None,
    model: Model = "terrarium",
    transport: Annotated[str, typer.Option(help="calibrated, paper or always")] = "calibrated",
    target: Annotated[list[str] | None, typer.Option(help="what counts as erased, where no membrane says so")] = None,
    seeds: Annotated[int | None, typer.Option(help="pictures a prompt; the protocol's own by default", min=1)] = None,
    pictures: Annotated[Path | None, typer.Option(help="measure a folder of pictures with a manifest instead")] = None,
    prompts: Annotated[Path | None, typer.Option(help="CSV of prompts, for the full forms")] = None,
    reference: Annotated[Path | None, typer.Option(help="folder of real or original pictures")] = None,
    on: Annotated[list[str] | None, typer.Option(help="a further model, for `transfer`; repeat it")] = None,
    against: Annotated[
        list[Path] | None, typer.Option(help="compare with a run's report.json, or with other membranes; repeat it")
    ] = None,
    clip: Annotated[str | None, typer.Option(help="CLIP model for the full forms (the paper's)")] = None,
    inception: Annotated[Path | None, typer.Option(help="TorchScript of Inception, for FID and KID")] = None,
    sscd: Annotated[Path | None, typer.Option(help="TorchScript of SSCD, for copies")] = None,
    steps: Annotated[int | None, typer.Option(min=1)] = None,
    guidance: Annotated[float | None, typer.Option()] = None,
    batch: Annotated[int | None, typer.Option(min=1)] = None,
    cache: Annotated[Path, typer.Option(help="where bare pictures are kept for all runs")] = Path(".cache/evaluation"),
) -> None:
    """Measure membranes, or the bare model, by a protocol; a stopped run goes on where it was."""
    with _plainly():
        from semiperm import Concept, load, load_model
        from semiperm.evaluation import page
        from semiperm.evaluation.judges import CLIP_NAME, OpenJudge, TerrariumJudge
        from semiperm.evaluation.making import maker
        from semiperm.evaluation.protocol import Job
        from semiperm.evaluation.protocols import find
        from semiperm.evaluation.run import evaluate as run
        from semiperm.terrarium.relatives import is_terrarium

        declared = find(protocol)
        others = [path for path in against or [] if path.suffix == ".safetensors"]
        if len(against or []) > (len(others) or 1):
            raise ValueError("--against takes one report.json or some membranes")
        loaded = load_model(model)
        small = is_terrarium(model)
        judge = TerrariumJudge() if small else OpenJudge(clip or CLIP_NAME, inception, sscd, str(loaded.device))
        asked = tuple(Concept(name=name, kind=declared.kind) for name in target or ())
        further = tuple(load_model(name) for name in on or ())

        def measure(paths: list[Path], folder: Path, pictures: Path | None = None) -> Path:
            worn = tuple(load(path) for path in paths)
            concepts = tuple(m.card.concept for m in worn) or asked
            job = Job(
                loaded, worn, transport, "terrarium" if small else "full", concepts, seeds, prompts, reference,
                further, maker(loaded, folder / "membranes"),
            )  # fmt: skip
            found, _ = run(
                declared, job, judge,
                out=folder, cache=cache, pictures=pictures, steps=steps, guidance=guidance, batch=batch,
            )  # fmt: skip
            for part in found.parts:
                for line in page.verdict(found, part):
                    console.print(line, highlight=False)
            console.print(folder / "report.html")
            return folder / "report.json"

        measured = measure(membrane or [], out, pictures)
        if against:
            console.print(_differences(measure(others, out / "against") if others else against[0], measured))


@app.command()
def compare(first: Path, second: Path) -> None:
    """Show how the second report.json differs from the first."""
    with _plainly():
        console.print(_differences(first, second))


def _differences(first: Path, second: Path) -> Table:
    from semiperm.evaluation import report
    from semiperm.evaluation.compare import compare as differ
    from semiperm.evaluation.page import told

    table = Table("part", "subject", "figure", "first", "second", "change (95 %)", title=f"{first} -> {second}")
    for found in differ(report.load(first), report.load(second)):
        table.add_row(
            found.part, found.row, found.figure, told(found.figure, found.first), told(found.figure, found.second),
            told(found.figure, found.change), style="bold" if found.certain else None,
        )  # fmt: skip
    return table


Folder = Annotated[Path, typer.Argument(help="the library's folder")]


def _entries_table(entries: list) -> Table:
    table = Table("name", "kind", "made for", "bytes", "date", "licence", "file", "sha256")
    for entry in entries:
        made_for = entry.base_model or entry.architecture
        table.add_row(
            entry.name, entry.kind, made_for, f"{entry.bytes:,}", entry.date, entry.licence, entry.file,
            entry.sha256[:12],
        )  # fmt: skip
    return table


@library.command("add")
def library_add(folder: Folder, membranes: Annotated[list[Path], typer.Argument(help="membranes' files")]) -> None:
    """Copy membranes into a library."""
    with _plainly():
        from semiperm.membrane.library import Library

        console.print(_entries_table(Library(folder).add(membranes)))


@library.command("list")
def library_list(folder: Folder) -> None:
    """List a library."""
    with _plainly():
        from semiperm.membrane.library import Library

        console.print(_entries_table(Library(folder).entries()))


@library.command("search")
def library_search(folder: Folder, text: str) -> None:
    """List what has a text in its name, kind or base model."""
    with _plainly():
        from semiperm.membrane.library import Library

        console.print(_entries_table(Library(folder).search(text)))


@library.command("verify")
def library_verify(folder: Folder) -> None:
    """Check that every file is what was added; the exit status is 1 if one is not."""
    with _plainly():
        from semiperm.membrane.library import Library

        held = Library(folder)
        wrong = held.verify()
        for file, what in wrong.items():
            complaints.print(f"{folder / file} {what}")
        if wrong:
            raise typer.Exit(1)
        console.print(f"{len(held)} membranes, all as they were added")


@library.command("remove")
def library_remove(folder: Folder, name: Annotated[str, typer.Argument(help="a file or a concept")]) -> None:
    """Delete a membrane from a library."""
    with _plainly():
        from semiperm.membrane.library import Library

        console.print(f"{folder / Library(folder).remove(name).file} removed")


@terrarium.command("train")
def train_terrarium(
    part: Annotated[list[str] | None, typer.Option(help="tokenizer, clip, vae, oracle or denoiser; repeat it")] = None,
    out: Annotated[Path | None, typer.Option(help="where to write the model (the package's own weights)")] = None,
    cache: Annotated[Path, typer.Option(help="scenes and checkpoints")] = Path(".cache/terrarium"),
    threads: Annotated[int | None, typer.Option()] = None,
) -> None:
    """Make the terrarium from nothing; what the cache holds is gone on with."""
    with _plainly():
        from semiperm.terrarium import WEIGHTS
        from semiperm.terrarium.train import PARTS, train

        train(out or WEIGHTS, cache, part or PARTS, threads=threads)


@terrarium.command("build")
def build_terrarium(
    name: Annotated[str | None, typer.Argument(help="a relative, or all; without it they are listed")] = None,
    cache: Annotated[Path | None, typer.Option(help="folder instead of $SEMIPERM_CACHE or the user's cache")] = None,
) -> None:
    """Make a relative of the terrarium, to carry membranes to; what the cache holds is not made again."""
    with _plainly():
        from semiperm.terrarium.relatives import PREFIX, RELATIVES, is_built

        if name is None:
            table = Table("model", "what it is", "minutes", "built")
            for relative in RELATIVES.values():
                there = "yes" if is_built(relative, cache) else ""
                table.add_row(PREFIX + relative.name, relative.what, str(relative.minutes), there)
            console.print(table)
            return
        from semiperm.terrarium.fine_tune import build

        for one in RELATIVES if name == "all" else (name.removeprefix(PREFIX),):
            console.print(build(one, cache), soft_wrap=True)


@terrarium.command("evaluate")
def evaluate_terrarium(
    model: Model = "terrarium",
    seeds: Annotated[int, typer.Option(help="pictures a prompt", min=1)] = 8,
    out: Annotated[Path | None, typer.Option(help="write the table here as Markdown")] = None,
) -> None:
    """Measure the terrarium against its bars."""
    with _plainly():
        from semiperm import load_model
        from semiperm.evaluation.terrarium import measure, table
        from semiperm.terrarium.oracle import load_oracle

        text = table(measure(load_model(model).pipeline, load_oracle(), seeds))
        console.print(text, highlight=False, soft_wrap=True)
        if out:
            write(out, text + "\n")


if __name__ == "__main__":
    app()
