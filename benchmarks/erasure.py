"""Measure erasures on the terrarium and write the tables of docs/erasure.md.

python benchmarks/erasure.py --recipe default --seeds 16
"""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from semiperm import Concept, erase, load, load_model
from semiperm.atomic import write
from semiperm.evaluation import grid
from semiperm.evaluation.erasure import Bench, asks_for, measure, table
from semiperm.terrarium.oracle import load_oracle

CONCEPTS = (
    *(Concept(name=name) for name in ("cat", "dog", "fox", "car", "apple", "bomb", "penguin", "house")),
    *(Concept(name=name, kind="style") for name in ("mosaic", "neon")),
    *(Concept(name=name, kind="memorised") for name in ("The Great Tide", "Moonlit Harvest")),
)


def main(
    recipe: Annotated[str, typer.Option(help="default, instant, authors, or a YAML file")] = "default",
    seeds: Annotated[int, typer.Option()] = 16,
    only: Annotated[
        list[str] | None, typer.Option(help="concepts to measure; repeat it; all of them by default")
    ] = None,
    together: Annotated[bool, typer.Option(help="measure the first three on one model as well")] = True,
    out: Annotated[Path, typer.Option(help="folder for tables, grids and membranes")] = Path("runs/erasure"),
) -> None:
    """Erase, measure, write a table and a grid for each concept."""
    console = Console()
    out.mkdir(parents=True, exist_ok=True)
    bench = Bench(load_model(), load_oracle())
    chosen = [concept for concept in CONCEPTS if not only or concept.name in only]
    membranes = []
    results: dict[str, dict[str, float]] = {}
    for concept in chosen:
        path = out / f"{recipe}-{concept.slug}.safetensors"
        membrane = load(path) if path.exists() else erase(bench.model, concept, recipe, out=path)
        membranes.append(membrane)
        results[concept.name] = {
            **measure(bench, [membrane], concept, seeds),
            "seconds in training": membrane.card.effect["seconds_training"],
        }
        rows, _ = bench.compared([membrane], asks_for(concept, 8))
        grid.save(grid.draw(rows, concept.name), out / f"{path.stem}.png")
        _show(table(results), out / f"{recipe}.md", console)
    if together and len(membranes) >= 3:
        trio = membranes[:3]
        results = {
            f"{membrane.card.concept.name} (three on)": measure(bench, trio, membrane.card.concept, seeds)
            for membrane in trio
        }
        _show(table(results), out / f"{recipe}-together.md", console)


def _show(text: str, path: Path, console: Console) -> None:
    write(path, text + "\n")
    console.print(text, soft_wrap=True, highlight=False)


if __name__ == "__main__":
    typer.run(main)
