"""The terminal: what commands print, how errors look, and progress bars."""

import io
import os
import platform
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from semiperm.errors import SemipermError, Stopped, clipped, printable

# Prompts, names and paths are text: brackets and colons in them are not markup.
console = Console(markup=False, emoji=False, highlight=False)
errors = Console(stderr=True, markup=False, emoji=False, highlight=False)

# characters of a message and of a table's cell
LONGEST = 2000
LONGEST_CELL = 500


# printing


def escape_unprintable() -> None:
    """Print characters that the terminal's encoding lacks as escapes, so that no table or name is an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def say(text: object) -> None:
    """Print a line."""
    console.print(Text(printable(text)), soft_wrap=True)


def warn(text: object) -> None:
    """Print a line to the standard error; no line is worth losing work where it cannot be printed."""
    with suppress(OSError):
        errors.print(Text(printable(text)), soft_wrap=True)


def table(head: Sequence[str], rows: Sequence[Sequence[object]], *, title: str = "", bold: Sequence[int] = ()) -> None:
    """Print a table; `bold` are the numbers of the rows that stand out."""
    drawn = Table(title=printable(title) or None)
    for name in head:
        # Fold instead of cutting: names and hashes are there to be copied.
        drawn.add_column(printable(name), overflow="fold")
    for number, row in enumerate(rows):
        cells = [printable(clipped(cell, LONGEST_CELL)) for cell in row]
        drawn.add_row(*cells, style="bold" if number in bold else None)
    console.print(drawn)


# errors


class Commands(TyperGroup):
    """The application: shows users' errors as one sentence, and says of all others that they are bugs.

    The exit status is 1 for errors and 130 for a command that was stopped.
    """

    def main(self, *args: Any, **more: Any) -> Any:
        escape_unprintable()
        return super().main(*args, **more)

    def make_context(self, *args: Any, **more: Any) -> Any:
        try:
            return super().make_context(*args, **more)
        except Exception as error:
            _print_safely(error)
            raise

    def invoke(self, ctx: Any) -> Any:
        try:
            found = super().invoke(ctx)
            # An output that cannot be written is an error now, not when Python exits.
            sys.stdout.flush()
            return found
        except (Stopped, KeyboardInterrupt):
            raise stopped() from None
        except BrokenPipeError:
            # `semiperm ... | head` is no error; typer exits quietly.
            raise
        except Exception as error:
            # Typer's own exceptions (exits, wrong usage) have an exit status; some versions of typer bring their own
            # copy of click, so that these cannot be named by click's classes.
            if hasattr(error, "exit_code") or isinstance(error, typer.Abort):
                _print_safely(error)
                raise
            if ctx.params.get("debug"):
                for line in "".join(traceback.format_exception(error)).splitlines():
                    warn(line)
            text = Text.assemble(("error: ", "bold red"), printable(clipped(_sentence(error) or _bug(error), LONGEST)))
            errors.print(text, soft_wrap=True)
            _drop_unwritten()
            raise typer.Exit(1) from None


def _drop_unwritten() -> None:
    """Drop what the standard output cannot take, or Python would report it again when it exits."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_safely(usage: Any) -> None:
    """Escape what the parser repeats of a command that it does not understand."""
    if isinstance(getattr(usage, "message", None), str):
        usage.message = printable(clipped(usage.message, LONGEST))


def stopped(note: str = "") -> typer.Exit:
    """Print that a command was stopped, and return the exception that ends it."""
    warn(f"stopped; {note}" if note else "stopped")
    return typer.Exit(130)


@contextmanager
def resumable(note: str) -> Iterator[None]:
    """Print how to resume if the command is stopped within the context."""
    try:
        yield
    except (Stopped, KeyboardInterrupt):
        raise stopped(note) from None


def _sentence(error: Exception) -> str:
    """Return the message of an error that a user can cause; empty for all others."""
    if isinstance(error, SemipermError):
        return _one_line(error)
    if isinstance(error, OSError):
        where = clipped(error.filename, LONGEST_CELL)
        return f"{where}: {error.strerror}" if error.filename and error.strerror else _one_line(error)
    # Only concepts are made from what a user types without a check of their own.
    if isinstance(error, ValidationError) and error.title == "Concept":
        return _one_line(error.errors()[0]["msg"].removeprefix("Value error, "))
    # torch.OutOfMemoryError and MemoryError; torch need not be imported to tell.
    if type(error).__name__ in ("OutOfMemoryError", "MemoryError"):
        return (
            f"There is not enough memory: {_one_line(error)} Use a smaller --batch or fewer pictures, "
            "`erase --preset low-vram`, or another --device."
        )
    return ""


def _bug(error: Exception) -> str:
    versions = [f"{name} {found}" for name in ("semiperm", "torch", "diffusers") if (found := _version(name))]
    return (
        f"semiperm failed unexpectedly ({type(error).__name__}: {_one_line(error)}). This is a bug. Run the command "
        "again as `semiperm --debug ...` and report the command and its whole output to the maintainers "
        f"({', '.join(versions)}, Python {platform.python_version()}, {platform.system()})."
    )


def _one_line(error: object) -> str:
    return re.sub(r"\s*\n\s*", " ", str(error).strip())


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


# progress


@contextmanager
def bar() -> Iterator[Callable[[str, int, int, Mapping[str, float]], None]]:
    """Show a progress bar on a terminal; yields a function of the name, steps done, steps in all, and figures."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}", markup=False),
    )
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as drawn:
        task = drawn.add_task("", total=None, figures="")

        def show(name: str, done: int, total: int, figures: Mapping[str, float]) -> None:
            shown = "  ".join(
                f"{figure} {value:,}" if isinstance(value, int) else f"{figure} {value:.3g}"
                for figure, value in figures.items()
            )
            drawn.update(task, description=printable(name), completed=done, total=total, figures=printable(shown))

        yield show
