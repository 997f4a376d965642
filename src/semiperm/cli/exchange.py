"""`semiperm export`, `push` and `pull`: erasures for other tools and other people."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from semiperm.cli import options
from semiperm.cli.console import say
from semiperm.cli.options import Model
from semiperm.errors import SemipermError


def export(
    membrane: Annotated[list[Path], typer.Argument(help="a membrane; several for a merged model")],
    out: Annotated[Path, typer.Option(help="file or folder to write")],
    form: Annotated[Literal["kohya", "diffusers", "peft", "merged"], typer.Option("--format")] = "diffusers",
    model: Model = "terrarium",
    permeability: Annotated[float, typer.Option(help="how far the membranes of a merged model are open")] = 1.0,
) -> None:
    """Write a membrane for another tool, or a model with membranes merged in, for servers without adapters."""
    from semiperm.files.export import export as write
    from semiperm.files.export import merge
    from semiperm.files.safetensors import load_membrane

    if form == "merged":
        merged = {str(path): (load_membrane(path), permeability) for path in membrane}
        say(merge(options.load_model(model), merged, out))
    elif len(membrane) > 1:
        raise SemipermError(f"The format {form} holds one membrane; only a merged model holds several.")
    else:
        say(write(load_membrane(membrane[0]), form, out))


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
) -> None:
    """Download an erasure from the Hugging Face Hub."""
    from semiperm import load, save
    from semiperm.files import hub

    options.quieten()
    found = hub.find(repo, revision=revision, filename=file)
    # The owner of the repository chose that name, so it must not overwrite a file here.
    if out is None and Path(found.name).exists():
        raise SemipermError(f"{found.name} exists here: give another file with --out.")
    say(save(load(found), out or Path(found.name)))
