"""Measure erasures on the terrarium and write the tables of docs/erasure.md.

python benchmarks/erasure.py --recipe default --seeds 16
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from semiperm import Concept, load_model
from semiperm.atomic import write
from semiperm.evaluation import grid
from semiperm.evaluation.erasure import Bench, asks_for, beside, measure, table
from semiperm.evaluation.making import maker
from semiperm.terrarium.oracle import load_oracle

CONCEPTS = (
    *(Concept(name=name) for name in ("cat", "dog", "fox", "car", "apple", "bomb", "penguin", "house")),
    *(Concept(name=name, kind="style") for name in ("mosaic", "neon")),
    *(Concept(name=name, kind="memorised") for name in ("The Great Tide", "Moonlit Harvest")),
)


TOGETHER = ("cat", "mosaic", "The Great Tide")


def main(
    recipe: Annotated[str, typer.Option(help="default, instant, authors, or a YAML file")] = "default",
    seeds: Annotated[int, typer.Option()] = 16,
    only: Annotated[
        list[str] | None, typer.Option(help="concepts to measure; repeat it; all of them by default")
    ] = None,
    together: Annotated[bool, typer.Option("--together", help="measure three on one model instead")] = False,
    ordinary: Annotated[int, typer.Option(help="ordinary prompts whose pictures are compared bit for bit")] = 16,
    out: Annotated[Path, typer.Option(help="folder for tables, grids and membranes")] = Path("runs/erasure"),
) -> None:
    """Erase, measure, write a table and a grid for each concept; what the folder holds is not measured again."""
    console = Console()
    out.mkdir(parents=True, exist_ok=True)
    bench = Bench(load_model(), load_oracle())
    make = maker(bench.model, out / "membranes")
    if together:
        trio = [concept for concept in CONCEPTS if concept.name in TOGETHER]
        membranes = [make(concept, recipe) for concept in trio]
        for concept in trio:
            if only and concept.name not in only:
                continue
            where = out / "together" / f"{recipe}-{concept.slug}.json"
            if not where.exists():
                write(where, json.dumps(measure(bench, membranes, concept, seeds, ordinary)))
            _show(recipe, out / "together", trio, console)
        return
    chosen = [concept for concept in CONCEPTS if not only or concept.name in only]
    for concept in chosen:
        where = out / f"{recipe}-{concept.slug}.json"
        if where.exists():
            continue
        membrane = make(concept, recipe)
        figures = measure(bench, [membrane], concept, seeds, ordinary)
        write(where, json.dumps({**figures, "seconds in training": membrane.card.effect["seconds_training"]}))
        rows, _ = bench.compared([membrane], [*asks_for(concept, 6), *beside(concept, 6)])
        grid.save(grid.draw(rows, concept.name), where.with_suffix(".png"))
        _show(recipe, out, CONCEPTS, console)


def _show(recipe: str, folder: Path, concepts: Sequence[Concept], console: Console) -> None:
    files = {concept.name: folder / f"{recipe}-{concept.slug}.json" for concept in concepts}
    text = table({name: json.loads(file.read_text()) for name, file in files.items() if file.exists()})
    write(folder / f"{recipe}.md", text + "\n")
    console.print(text, soft_wrap=True, highlight=False)


if __name__ == "__main__":
    typer.run(main)
