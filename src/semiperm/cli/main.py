"""The application: all commands, in the order of the help."""

from typing import Annotated

import typer

from semiperm.cli import collection, embedded, erase, evaluate, exchange, generate
from semiperm.cli.console import Commands
from semiperm.cli.demo import demo

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Erase concepts from text-to-image diffusion models with semi-permeable membranes.",
)


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="show the full traceback of an error")] = False,
) -> None:
    """Erase concepts from text-to-image diffusion models with semi-permeable membranes."""


for panel, commands in {
    "Erase": (erase.erase, erase.adopt, erase.methods),
    "Use": (generate.generate, generate.inspect),
    "Measure": (evaluate.evaluate, evaluate.compare, evaluate.protocols),
    "Share": (exchange.export, exchange.push, exchange.pull),
}.items():
    for command in commands:
        app.command(rich_help_panel=panel)(command)
app.add_typer(collection.app, name="library", rich_help_panel="Share")
app.add_typer(embedded.app, name="terrarium", rich_help_panel="The terrarium")
app.command(rich_help_panel="The terrarium")(demo)

if __name__ == "__main__":
    app(prog_name="semiperm")
