"""Measure erasures on the terrarium with the protocol `effect` and write the tables of docs/erasure.md.

python benchmarks/erasure.py --method spm --seeds 16
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console

from semiperm import Concept
from semiperm.evaluation import report
from semiperm.evaluation.context import resolve, with_erasures
from semiperm.evaluation.example import Example
from semiperm.evaluation.protocols import find
from semiperm.evaluation.protocols.effect import ALWAYS, OPENED
from semiperm.evaluation.report import Arm, Report, Row
from semiperm.evaluation.run import REPORT, measure
from semiperm.evaluation.task import Task
from semiperm.methods.method import settings_file
from semiperm.paths import write
from semiperm.pictures import Row as Strip
from semiperm.pictures import grid, save_png

CONCEPTS = (
    *(Concept(name=name) for name in ("cat", "dog", "fox", "car", "apple", "bomb", "penguin", "house")),
    *(Concept(name=name, kind="style") for name in ("mosaic", "neon")),
    *(Concept(name=name, kind="memorised") for name in ("The Great Tide", "Moonlit Harvest")),
)
TOGETHER = ("cat", "mosaic", "The Great Tide")
COLUMNS = 6
WAYS = {"fitted": OPENED, "always": ALWAYS}


def main(
    method: Annotated[str, typer.Option(help="a name that `semiperm methods` lists")] = "spm",
    settings: Annotated[Path | None, typer.Option(help="YAML file of the method's settings")] = None,
    seeds: Annotated[int, typer.Option()] = 16,
    only: Annotated[
        list[str] | None, typer.Option(help="concepts to measure; repeatable; all of them by default")
    ] = None,
    together: Annotated[bool, typer.Option("--together", help="measure three on one model instead")] = False,
    proofs: Annotated[int, typer.Option(help="pictures of closed prompts that are compared bit for bit")] = 16,
    out: Annotated[Path, typer.Option(help="folder of tables, grids, runs and erasures")] = Path("runs/erasure"),
) -> None:
    """Erase, measure, write a table and grids; what the folder holds is not measured again."""
    console = Console()
    label = method if settings is None else f"{method}-{settings.stem}"
    chosen = [concept for concept in CONCEPTS if not only or concept.name in only]
    trio = tuple(concept for concept in CONCEPTS if concept.name in TOGETHER)
    groups = [trio] if together else [(concept,) for concept in chosen]
    protocol = replace(find("effect"), proofs=proofs)
    lines: dict[str, dict[str, str]] = {}
    for concepts in groups:
        folder = out / label / "-".join(concept.slug for concept in concepts)
        if not (folder / REPORT).exists():
            task = Task(
                protocol="effect", targets=concepts, method=method, seeds=seeds,
                settings=settings_file(settings) if settings else {},
            )  # fmt: skip
            context = with_erasures(resolve(task, out / "erasures"))
            found, examples = measure(protocol, context, out=folder, cache=out / "cache")
            _draw(examples, concepts, folder)
        found = report.load(folder / REPORT)
        for concept in concepts:
            lines[concept.name] = _line(found, concept)
        text = table(lines)
        write(out / f"{label}{'-together' if together else ''}.md", text + "\n")
        console.print(text, soft_wrap=True, highlight=False)


def table(lines: dict[str, dict[str, str]]) -> str:
    """Return cells by row and column names as a Markdown table."""
    columns = list(dict.fromkeys(name for cells in lines.values() for name in cells))
    head = [f"| concept | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    rows = [f"| {row} | {' | '.join(cells.get(name, '') for name in columns)} |" for row, cells in lines.items()]
    return "\n".join([*head, *rows])


def _line(found: Report, concept: Concept) -> dict[str, str]:
    """Return what a report says of one of its targets: shares of pictures, and of what the bare model reaches."""
    arms = {arm.name: arm for arm in found.arms}
    name = concept.name
    cells = {"target, bare": _cell(_row(arms[OPENED], f"{name}: by name"), bare=True)}
    for way, arm in ((way, arms[title]) for way, title in WAYS.items()):
        cells[f"target, {way}"] = _cell(_row(arm, f"{name}: by name"))
        cells[f"other words, {way}"] = _cell(_row(arm, f"{name}: in other words"))
        cells[f"target beside, {way}"] = _cell(_row(arm, f"{name}: beside another"))
        cells[f"kept beside, {way}"] = _kept([_row(arm, f"beside {name}")])
        if way == "fitted":
            cells["opened wrongly"] = _opened(_row(arm, "ordinary prompts"))
            cells["changed pictures"] = f"{arm.proof.checked - arm.proof.identical} of {arm.proof.checked}"
    always = arms[ALWAYS]
    cells["kept objects, always"] = _kept([_row(always, "other objects"), _row(always, "nearest neighbours")])
    cells["kept neighbours, always"] = _kept([_row(always, "nearest neighbours")])
    cells["kept styles, always"] = _kept([_row(always, "other styles")])
    return {column: cell for column, cell in cells.items() if cell}


def _row(arm: Arm, name: str) -> Row | None:
    return next((row for row in arm.rows if row.name == name), None)


def _cell(row: Row | None, *, bare: bool = False) -> str:
    return f"{(row.bare if bare else row.figures)['found'].value:.0%}" if row else ""


def _opened(row: Row | None) -> str:
    opens = row.figures["opens"] if row else None
    return f"{opens.value * opens.count:.0f} of {opens.count}" if opens else ""


def _kept(rows: Sequence[Row | None]) -> str:
    """Return how often something is found, as a share of how often the bare model reaches it."""
    some = [row for row in rows if row is not None]
    if not some:
        return ""
    now, before = (
        sum(figures["found"].value * row.pictures for row, figures in ((row, getattr(row, side)) for row in some))
        for side in ("figures", "bare")
    )
    return f"{now / max(before, 1e-9):.0%}"


def _draw(examples: Sequence[Example], concepts: Sequence[Concept], folder: Path) -> None:
    for concept in concepts:
        wanted = (f"{concept.name}: by name", f"{concept.name}: beside another")
        by_arm = {arm: [one for one in examples if one.arm == arm and one.row in wanted] for arm in (OPENED, ALWAYS)}
        shown = by_arm[OPENED]
        prompts = [text for one in shown for text in one.prompts[:COLUMNS]]
        strips = [Strip("bare model", np.concatenate([one.bare[:COLUMNS] for one in shown]), prompts)]
        for arm, some in by_arm.items():
            notes = [text for one in some for text in one.opened[:COLUMNS]]
            strips.append(
                Strip(f"{arm}: permeability below", np.concatenate([one.erased[:COLUMNS] for one in some]), notes)
            )
        save_png(grid(strips, concept.name), folder / f"{concept.slug}.png")


if __name__ == "__main__":
    typer.run(main)
