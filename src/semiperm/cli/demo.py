"""`semiperm demo`: erase an object, a style and a memorised picture from the terrarium, and show what happened."""

import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from semiperm.cli import options
from semiperm.cli.console import bar, say
from semiperm.concept import Concept
from semiperm.errors import SemipermError

if TYPE_CHECKING:
    from semiperm.cli.demo_page import Measured
    from semiperm.erasure import Erasure
    from semiperm.evaluation.context import Context
    from semiperm.evaluation.protocol import Protocol
    from semiperm.evaluation.subject import Subject

CONCEPTS = (
    Concept(name="cat"),
    Concept(name="mosaic", kind="style"),
    Concept(name="The Great Tide", kind="memorised"),
)
# pictures a row, and steps of the sampler
PICTURES = 8
# name of the report of all erasures
TOGETHER = "all-three-together"
SAMPLER_STEPS = 25


def demo(
    out: Annotated[Path, typer.Option(help="folder for the page, the membranes and the reports")] = Path("demo"),
    steps: Annotated[int | None, typer.Option(help="training steps; the method's own by default", min=0)] = None,
    force: options.Force = False,
) -> None:
    """Erase three concepts from the terrarium, measure them alone and together, and write a page with pictures."""
    from semiperm.cli.demo_page import page
    from semiperm.evaluation.context import resolve
    from semiperm.evaluation.task import Task
    from semiperm.methods.training import claim
    from semiperm.paths import write

    began = time.perf_counter()
    force = force or _is_demo(out)
    for concept in CONCEPTS:
        claim(out / f"{concept.slug}.safetensors", [concept], force=force)
    for name in ("index.html", f"{TOGETHER}.json", *(f"{concept.slug}.json" for concept in CONCEPTS)):
        options.check_writable(out / name, force=force)
    options.quieten()
    task = Task(protocol="effect", seeds=PICTURES, steps=SAMPLER_STEPS)
    with tempfile.TemporaryDirectory(prefix="semiperm-demo-") as folder:
        pictures = Path(folder)
        context = resolve(task, pictures)
        erasures: list[Erasure] = []
        alone: list[Measured] = []
        for concept in CONCEPTS:
            erasure, seconds = _erased(context, concept, out / f"{concept.slug}.safetensors", steps)
            found = _measured(concept.name, replace_erasures(context, [erasure]), both_ways(), out, pictures)
            alone.append(replace(found, erasing=seconds))
            erasures.append(erasure)
        together = _measured("all three together", replace_erasures(context, erasures), by_prompt(), out, pictures)
    path = out / "index.html"
    write(path, page(CONCEPTS, alone, together, time.perf_counter() - began))
    say(f"look at {path}")


def _is_demo(out: Path) -> bool:
    """Return whether a folder is that of an earlier demo, whose files may be replaced."""
    from semiperm.evaluation.report import load

    try:
        return load(out / f"{TOGETHER}.json").protocol == "demo"
    except (SemipermError, OSError, ValueError):
        return False


def both_ways() -> "Protocol":
    """Return the protocol `effect` with few pictures a row: as the gate opens, and always open."""
    from semiperm.evaluation.protocols import effect

    def rows(context: "Context", arm: Any) -> "list[Subject]":
        return [_some(row) for row in effect.PROTOCOL.rows(context, arm)]

    return replace(effect.PROTOCOL, name="demo", rows=rows, proofs=PICTURES)


def by_prompt() -> "Protocol":
    """Return the same, only as the gate opens."""
    from semiperm.evaluation.protocols import effect

    return replace(both_ways(), arms=lambda context: effect.PROTOCOL.arms(context)[:1])


def replace_erasures(context: "Context", erasures: "list[Erasure]") -> "Context":
    """Return the context with other erasures, whose concepts are the targets."""
    targets = tuple(concept for erasure in erasures for concept in erasure.card.concepts)
    return replace(context, erasures=tuple(erasures), targets=targets)


def _some(row: "Subject") -> "Subject":
    every = -(-len(row.shots) // PICTURES) or 1
    return replace(row, shots=row.shots[::every], labels=row.labels[::every])


def _erased(context: "Context", concept: Concept, path: Path, steps: int | None) -> "tuple[Erasure, float]":
    """Erase a concept, and return the erasure as its file has it and the seconds that it took."""
    from semiperm import erase, load

    began = time.perf_counter()
    settings: Mapping[str, Any] = {} if steps is None else {"steps": steps}
    with bar() as show:
        erase(
            context.model, concept, settings=dict(settings), out=path, force=True,
            progress=lambda now: show(now.name, now.step, now.steps, now.figures),
        )  # fmt: skip
    return load(path), time.perf_counter() - began


def _measured(title: str, context: "Context", protocol: "Protocol", out: Path, pictures: Path) -> "Measured":
    """Measure erasures, write the report, and print the verdict."""
    from semiperm.cli.demo_page import Measured, finding
    from semiperm.evaluation.report import save
    from semiperm.evaluation.run import measure
    from semiperm.paths import file_name

    began = time.perf_counter()
    name = file_name(title)
    with bar() as show:
        report, examples = measure(
            protocol, context, out=pictures / name, cache=pictures,
            progress=lambda done, total: show(f"{title}: pictures", done, total, {}),
        )  # fmt: skip
    save(report, out / f"{name}.json")
    found = Measured(title, report, examples, measuring=time.perf_counter() - began)
    say(f"{title}: {finding(found).sentence}")
    return found
