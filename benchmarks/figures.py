"""Run the protocols on the terrarium and write docs/figures.md with its tables and plots.

python benchmarks/figures.py --out runs/figures --docs docs

From nothing that is many hours on two cores, because the authors' loop alone takes about an hour a concept; a stopped
run goes on where it was.
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from semiperm import Concept, load_model
from semiperm.atomic import write
from semiperm.evaluation import plots, report
from semiperm.evaluation.judges import TerrariumJudge
from semiperm.evaluation.making import maker
from semiperm.evaluation.markdown import markdown, subjects
from semiperm.evaluation.protocol import Job, Variant
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

# the paper's four applications, where the authors' loop stands beside ours, each opened by the prompt and always open
APPLICATIONS = ("objects", "styles", "explicit", "memorised")


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
            protocol = replace(find(name), variants=_beside_the_authors) if name in APPLICATIONS else find(name)
            evaluate(protocol, job, judge, out=folder, cache=out / "cache")
        if finished.exists():
            told.append(_section(report.load(finished), docs))
    write(docs / "figures.md", "\n\n".join(told) + "\n")
    console.print(docs / "figures.md")


def _beside_the_authors(job: Job) -> list[Variant]:
    assert job.make is not None
    theirs = tuple(job.make(concept, "authors") for concept in job.targets)
    return [
        Variant(f"{whose}, {opened}", membranes, transport)
        for whose, membranes in (("ours", job.membranes), ("authors' loop", theirs))
        for opened, transport in (("opened by the prompt", "calibrated"), ("always open", "always"))
    ]


def _section(found: report.Report, docs: Path) -> str:
    said = [f"## {found.protocol}", f"{found.shows[0].upper()}{found.shows[1:]}."]
    drawn = plots.ways(found) if len(found.parts) > 1 else plots.shares(found.parts[0])
    said += _plot(found.protocol, drawn, docs)
    said.append(markdown(found))
    if found.protocol in APPLICATIONS:
        said.append(f"Each subject, {found.parts[0].name}:")
        said += _plot(f"{found.protocol}-subjects", plots.shares(found.parts[0]), docs)
        said.append(subjects(found.parts[0]))
    said.append(f"{found.pictures} pictures, revision {found.revision}, {found.date}.")
    return "\n\n".join(said)


def _plot(name: str, drawn: str | None, docs: Path) -> list[str]:
    if not drawn:
        return []
    write(docs / "figures" / f"{name}.svg", drawn)
    return [f"![{name}](figures/{name}.svg)"]


HEAD = """# Figures

Measured on the terrarium by `make figures`; 25 DDIM steps, guidance 5, judged by the oracle, which has seen no
generated picture. Shares carry 95 % intervals. What a paper reports stands apart and in italics:
other models, other prompts. *authors' loop* is `recipe: authors`, which learns a concept's first phrase alone and
outside of any sentence, as the published code does; its membranes carry the same gate as ours. Its line for *ablation*,
*eta* and *rank*, which ask for the same pictures, stands under *recipes*."""


if __name__ == "__main__":
    typer.run(main)
