"""`semiperm library`: a folder of membranes with an index."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from semiperm.cli.console import Commands, say, table, warn

if TYPE_CHECKING:
    from semiperm.files.library import Entry

app = typer.Typer(cls=Commands, no_args_is_help=True, help="A folder of membranes with an index of their hashes.")

Folder = Annotated[Path, typer.Argument(help="folder of the library")]


@app.command()
def add(folder: Folder, membranes: Annotated[list[Path], typer.Argument(help="files of membranes")]) -> None:
    """Copy membranes into a library."""
    from semiperm.files.library import Library

    _show(Library(folder).add(membranes))


@app.command("list")
def list_entries(folder: Folder) -> None:
    """List a library."""
    from semiperm.files.library import Library

    _show(Library(folder).entries())


@app.command()
def search(folder: Folder, text: Annotated[str, typer.Argument(help="part of a name, kind or base model")]) -> None:
    """List the membranes whose name, kind or base model contains a text."""
    from semiperm.files.library import Library

    _show(Library(folder).search(text))


@app.command()
def verify(folder: Folder) -> None:
    """Check that each file is the one that was added; the exit status is 1 if one is not."""
    from semiperm.files.library import Library

    held = Library(folder)
    wrong = held.verify()
    for file, what in wrong.items():
        warn(f"{folder / file} {what}")
    if wrong:
        raise typer.Exit(1)
    say(f"{len(held)} {'erasure' if len(held) == 1 else 'erasures'}, all as they were added")


@app.command()
def remove(folder: Folder, name: Annotated[str, typer.Argument(help="a file's name or a concept's")]) -> None:
    """Delete a membrane from a library."""
    from semiperm.files.library import Library

    say(f"{folder / Library(folder).remove(name).file} removed")


def _show(entries: "Sequence[Entry]") -> None:
    rows = [
        (
            entry.name, entry.kind, entry.base_model or entry.architecture, f"{entry.bytes:,}", entry.date,
            entry.licence, entry.file, entry.sha256[:12],
        )
        for entry in entries
    ]  # fmt: skip
    table(("name", "kind", "made for", "bytes", "date", "licence", "file", "sha256"), rows)
