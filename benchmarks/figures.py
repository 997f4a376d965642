"""Run the protocols on the terrarium and write docs/figures.md with its tables and plots.

python benchmarks/figures.py --out runs/figures --docs docs
"""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from semiperm import Concept, load_model
from semiperm.atomic import write
from semiperm.evaluation import plots, report
from semiperm.evaluation.judges import TerrariumJudge
from semiperm.evaluation.making import maker
from semiperm.evaluation.markdown import markdown
from semiperm.evaluation.protocol import Job
from semiperm.evaluation.protocols import find
from semiperm.evaluation.run import evaluate
from semiperm.terrarium import world
from semiperm.terrarium.relatives import PREFIX, RELATIVES, is_built

CAT = Concept(name="cat")
MOSAIC = Concept(name="mosaic", kind="style")
TIDE = Concept(name="The Great Tide", kind="memorised")
INTO_DOG = Concept(name="cat", surrogate="a dog")
WEAPON = Concept(
    name="weapon", targets=("weapon", "bomb", "knife", "pistol", "axe", "something dangerous"), kind="explicit"
)
MANY = tuple(Concept(name=name) for name in world.OBJECT_NAMES[:32])

# protocol, concepts, recipe, pictures a prompt; those that measure many ways take fewer of each
RUNS: tuple[tuple[str, tuple[Concept, ...], str, int | None], ...] = (
    ("objects", (CAT,), "default", None),
    ("styles", (MOSAIC,), "default", None),
    ("explicit", (WEAPON,), "default", None),
    ("memorised", (TIDE,), "default", None),
    ("paraphrase", (CAT, MOSAIC, TIDE), "default", None),
    ("unlearncanvas", (CAT,), "default", None),
    ("reconsolidate", (INTO_DOG,), "default", None),
    ("ablation", (CAT,), "default", 4),
    ("recipes", (CAT,), "default", 4),
    ("eta", (CAT,), "default", 4),
    ("rank", (CAT,), "default", 4),
    ("multi", MANY, "instant", 2),
    ("transfer", (CAT,), "default", 4),
)


def main(
    out: Annotated[Path, typer.Option(help="folder of the runs; what it holds is not made again")] = Path(
        "runs/figures"
    ),
    docs: Annotated[Path, typer.Option(help="where figures.md and its plots go")] = Path("docs"),
    only: Annotated[list[str] | None, typer.Option(help="protocols to run; repeat it; all by default")] = None,
) -> None:
    """Run everything that is not done yet and write the page."""
    console = Console()
    model, judge = load_model(), TerrariumJudge()
    make = maker(model, out / "membranes")
    told = [HEAD]
    for name, concepts, recipe, seeds in RUNS:
        folder = out / name
        finished = folder / "report.json"
        if not finished.exists() and (not only or name in only):
            console.print(f"[bold]{name}[/bold]: {', '.join(concept.name for concept in concepts)}")
            # `semiperm terrarium build all` makes them
            built = [relative.name for relative in RELATIVES.values() if is_built(relative)]
            if name == "transfer" and not built:
                console.print("there is no relative to carry membranes to: run `semiperm terrarium build all`")
                continue
            further = tuple(load_model(PREFIX + one) for one in built) if name == "transfer" else ()
            membranes = tuple(make(concept, recipe) for concept in concepts)
            job = Job(model, membranes, "calibrated", "terrarium", concepts, seeds, models=further, make=make)
            evaluate(find(name), job, judge, out=folder, cache=out / "cache")
        if finished.exists():
            told.append(_section(report.load(finished), docs))
    write(docs / "figures.md", "\n\n".join(told) + "\n")
    console.print(docs / "figures.md")


def _section(found: report.Report, docs: Path) -> str:
    said = [f"## {found.protocol}", f"{found.shows[0].upper()}{found.shows[1:]}."]
    drawn = plots.ways(found) if len(found.parts) > 1 else plots.shares(found.parts[0])
    if drawn:
        write(docs / "figures" / f"{found.protocol}.svg", drawn)
        said.append(f"![{found.protocol}](figures/{found.protocol}.svg)")
    said.append(markdown(found))
    said.append(f"{found.pictures} pictures, revision {found.revision}, {found.date}.")
    return "\n\n".join(said)


HEAD = """# Figures

Measured on the terrarium by `make figures`; 25 DDIM steps, guidance 5, judged by the oracle, which has seen no
generated picture. Shares carry 95 % intervals. What a paper reports stands apart and in italics:
other models, other prompts."""


if __name__ == "__main__":
    typer.run(main)
