"""`semiperm export`, `push` and `pull`: erasures for other tools and other people."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from semiperm import paths
from semiperm.cli import options
from semiperm.cli.console import say
from semiperm.cli.options import Force, Model
from semiperm.errors import SemipermError


def export(
    membrane: Annotated[list[Path], typer.Argument(help="a membrane; several for a merged model")],
    out: Annotated[Path, typer.Option(help="file or folder to write")],
    form: Annotated[Literal["kohya", "diffusers", "peft", "merged"], typer.Option("--format")] = "diffusers",
    model: Model = "terrarium",
    permeability: Annotated[float, typer.Option(help="how far the membranes of a merged model are open")] = 1.0,
    force: Force = False,
) -> None:
    """Write a membrane for another tool, or a model with membranes merged in, for servers without adapters."""
    from semiperm.files.export import export as write
    from semiperm.files.export import merge, written
    from semiperm.files.safetensors import claim, load_membrane

    if form == "merged":
        # Before the model is loaded.
        if out.exists():
            raise SemipermError(f"{out} exists and is not replaced: a merged model is written to a new folder.")
        paths.claim(out)
        merged = {str(path): (load_membrane(path), permeability) for path in membrane}
        say(merge(options.load_model(model), merged, out))
    elif len(membrane) > 1:
        raise SemipermError(f"The format {form} holds one membrane; only a merged model holds several.")
    else:
        loaded = load_membrane(membrane[0])
        for path in written(form, out):
            if path.suffix == ".json":
                options.check_writable(path, force=force)
            else:
                claim(path, loaded.card.concepts, force=force)
        say(write(loaded, form, out))


def push(
    membrane: Annotated[Path, typer.Argument(help="file of a membrane or another erasure")],
    repo: Annotated[str, typer.Argument(help="user/repo on the Hugging Face Hub; created if it does not exist")],
    grid: Annotated[Path | None, typer.Option(help="PNG of pictures before and after, for the card page")] = None,
    private: Annotated[bool, typer.Option("--private", help="create a private repository")] = False,
) -> None:
    """Publish an erasure on the Hugging Face Hub, with a card page that says what it does."""
    from semiperm import load
    from semiperm.files import hub

    options.quieten()
    say(hub.push(load(membrane), repo, grid=grid, private=private))


def pull(
    repo: Annotated[str, typer.Argument(help="user/repo on the Hugging Face Hub")],
    out: Annotated[Path | None, typer.Option(help="file to write; its name in the repository by default")] = None,
    revision: Annotated[str | None, typer.Option(help="branch, tag or commit")] = None,
    file: Annotated[str | None, typer.Option(help="which file, where the repository has several")] = None,
    force: Force = False,
) -> None:
    """Download an erasure from the Hugging Face Hub."""
    from semiperm import load, save
    from semiperm.files import hub
    from semiperm.files.safetensors import claim

    options.quieten()
    if out is not None and not force:
        # before a download
        claim(out, ())
    found = hub.find(repo, revision=revision, filename=file)
    loaded = load(found)
    say(save(loaded, claim(out or Path(found.name), loaded.card.concepts, force=force)))
