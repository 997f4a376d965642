"""Run the protocols on the terrarium and write docs/figures.md with its tables and plots.

python benchmarks/figures.py --out runs/figures --docs docs

From nothing that is many hours on two cores, because the published loop alone takes about an hour a concept; a stopped
run resumes.
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from semiperm import Concept
from semiperm.evaluation import report
from semiperm.evaluation.context import Context, resolve, with_erasures
from semiperm.evaluation.protocol import ArmPlan
from semiperm.evaluation.protocols import find
from semiperm.evaluation.run import REPORT, measure
from semiperm.evaluation.task import Task
from semiperm.paths import write
from semiperm.reports import plots
from semiperm.reports.markdown import markdown, rows
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
INSTANT = {"steps": 0}

# protocol, concepts, settings, pictures a prompt; those that measure many arms take fewer of each
RUNS: tuple[tuple[str, tuple[Concept, ...], dict[str, Any], int | None], ...] = (
    ("objects", (CAT,), {}, None),
    ("styles", (MOSAIC,), {}, None),
    ("explicit", (WEAPON,), {}, None),
    ("memorised", (TIDE,), {}, None),
    ("paraphrase", (CAT, MOSAIC, TIDE), {}, None),
    ("unlearncanvas", (CAT,), {}, None),
    ("reconsolidate", (INTO_DOG,), {}, None),
    ("ablation", (CAT,), {}, 4),
    ("methods", (CAT,), {}, 4),
    ("eta", (CAT,), {}, 4),
    ("rank", (CAT,), {}, 4),
    ("multi", MANY, INSTANT, 2),
    ("transfer", (CAT,), {}, 4),
)

# the paper's four applications, where the published loop stands beside ours, each opened by the prompt and always open
APPLICATIONS = ("objects", "styles", "explicit", "memorised")


def main(
    out: Annotated[Path, typer.Option(help="folder of the runs; what it holds is not measured again")] = Path(
        "runs/figures"
    ),
    docs: Annotated[Path, typer.Option(help="folder of figures.md and its plots")] = Path("docs"),
    only: Annotated[list[str] | None, typer.Option(help="protocols to run; repeatable; all by default")] = None,
) -> None:
    """Run everything that is not done yet and write the page."""
    console = Console()
    sections = [HEAD]
    for name, concepts, settings, seeds in RUNS:
        folder = out / name
        finished = folder / REPORT
        if not finished.exists() and (not only or name in only):
            console.print(f"[bold]{name}[/bold]: {', '.join(concept.name for concept in concepts)}")
            # `semiperm terrarium build all` makes them
            built = [PREFIX + relative.name for relative in RELATIVES.values() if is_built(relative)]
            if name == "transfer" and not built:
                console.print("there is no relative to carry erasures to: run `semiperm terrarium build all`")
                continue
            task = Task(
                protocol=name, targets=concepts, method="" if find(name).makes else "spm", settings=settings,
                seeds=seeds, models=tuple(built) if name == "transfer" else (),
            )  # fmt: skip
            protocol = replace(find(name), arms=_beside_the_published) if name in APPLICATIONS else find(name)
            context = with_erasures(resolve(task, out / "erasures"))
            measure(protocol, context, out=folder, cache=out / "cache")
        if finished.exists():
            sections.append(_section(report.load(finished), docs))
    write(docs / "figures.md", "\n\n".join(sections) + "\n")
    console.print(docs / "figures.md")


def _beside_the_published(context: Context) -> list[ArmPlan]:
    theirs = tuple(context.make(concept, "spm-published") for concept in context.targets)
    return [
        ArmPlan(f"{whose}, {opened}", erasures, gate)
        for whose, erasures in (("ours", context.erasures), ("published loop", theirs))
        for opened, gate in (("opened by the prompt", "fitted"), ("always open", "always"))
    ]


def _section(found: report.Report, docs: Path) -> str:
    parts = [f"## {found.protocol}", f"{found.shows[0].upper()}{found.shows[1:]}."]
    drawn = plots.arms(found) if len(found.arms) > 1 else plots.rows(found.arms[0])
    parts += _plot(found.protocol, drawn, docs)
    parts.append(markdown(found))
    if found.protocol in APPLICATIONS:
        parts.append(f"Each row, {found.arms[0].name}:")
        parts += _plot(f"{found.protocol}-rows", plots.rows(found.arms[0]), docs)
        parts.append(rows(found.arms[0]))
    parts.append(f"{found.pictures} pictures, revision {found.revision}, {found.date}.")
    return "\n\n".join(part for part in parts if part)


def _plot(name: str, drawn: str | None, docs: Path) -> list[str]:
    if not drawn:
        return []
    write(docs / "figures" / f"{name}.svg", drawn)
    return [f"![{name}](figures/{name}.svg)"]


HEAD = """# Figures

Measured on the terrarium by `make figures`; 25 DDIM steps, guidance 5, judged by the oracle, which has seen no
generated picture. Shares carry 95 % intervals. What a paper reports stands apart and in italics:
other models, other prompts. The *published loop* is the method `spm-published`, which learns a concept's first phrase
alone and outside of any sentence, as the published code does; its membranes carry the same gate as ours. Its line for
*ablation*, *eta* and *rank*, which ask for the same pictures, stands under *methods*."""


if __name__ == "__main__":
    typer.run(main)
