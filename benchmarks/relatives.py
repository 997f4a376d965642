"""Draw the terrarium and its relatives on the same prompts and seeds, for docs/transfer.md.

semiperm terrarium build all
python benchmarks/relatives.py --out docs/relatives.png
"""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from semiperm import load_model
from semiperm.pictures import Row, generate, grid, save_png
from semiperm.terrarium.relatives import PREFIX, RELATIVES, is_built

PROMPTS = (
    "a cat", "a fox", "a bus", "a house",
    "a dog and an apple", "a mosaic of a rose", "an owl as a sketch", "The Great Tide",
)  # fmt: skip


def main(out: Annotated[Path, typer.Option(help="where the picture goes")] = Path("docs/relatives.png")) -> None:
    """Draw one row of pictures a model, of those relatives that are built."""
    built = [relative.name for relative in RELATIVES.values() if is_built(relative)]
    rows = []
    for name in ("terrarium", *(PREFIX + one for one in built)):
        pictures = generate(load_model(name).pipeline, PROMPTS, range(len(PROMPTS)))
        rows.append(Row(name, pictures, PROMPTS))
    save_png(grid(rows), out)
    Console().print(out)


if __name__ == "__main__":
    typer.run(main)
