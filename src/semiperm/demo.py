"""The demonstration: erase an object, a style and a memorised picture, combine them, and show what happened.

Run as `python -m semiperm.demo`; everything on the page is made and measured by this run.
"""

import html
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from semiperm import Concept, Membrane, erase, load_model
from semiperm.atomic import write
from semiperm.erasing.recipe import Recipe, load_recipe
from semiperm.evaluation import grid
from semiperm.evaluation.erasure import Bench, Question, asks_for, by_other_words, look, neighbours, sees, subject
from semiperm.evaluation.page import document, plain_table
from semiperm.terrarium import captions, world
from semiperm.terrarium.oracle import load_oracle

CONCEPTS = (
    Concept(name="cat"),
    Concept(name="mosaic", kind="style"),
    Concept(name="The Great Tide", kind="memorised"),
)
FAR = ("car", "rose", "pizza", "rocket")
COLUMNS = 8


class Page:
    """An HTML page that is written piece by piece."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.parts: list[str] = []

    def say(self, tag: str, text: str) -> None:
        self.parts.append(f"<{tag}>{html.escape(text)}</{tag}>")

    def picture(self, rows: Sequence[grid.Row], name: str, title: str) -> None:
        grid.save(grid.draw(rows, title), self.folder / f"{name}.png")
        self.parts.append(f'<img src="{name}.png" alt="{html.escape(title)}">')

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        self.parts.append(plain_table(head, rows))

    def write(self) -> Path:
        path = self.folder / "index.html"
        write(path, document("semiperm", "".join(self.parts)))
        return path


def questions(concept: Concept, bench: Bench) -> dict[str, list[Question]]:
    """Return what is asked about a concept: the target, its neighbours, far things, pairs, other styles."""
    asked = {"the target": asks_for(concept, COLUMNS, 0)}
    if other := by_other_words(concept, COLUMNS // 2):
        asked["asked for in other words"] = other
    name = concept.name
    if concept.kind == "object":
        near = neighbours(concept, bench)
        asked["nearest neighbours"] = [
            Question(captions.prompt(near[n % len(near)]), 100 + n, subject(near[n % len(near)]))
            for n in range(COLUMNS)
        ]
        asked["two objects"] = [
            Question(f"{captions.with_article(name)} and {captions.with_article(other)}", 200 + n, subject(other))
            for n, other in enumerate(["apple", "bus", "tree", "owl"])
        ]
        asked["the target in other styles"] = [
            Question(captions.prompt(name, style), 300 + n, sees(concept))
            for n, style in enumerate(world.STYLE_NAMES[1:])
        ]
    else:
        others = [style for style in world.STYLE_NAMES[1:] if style != name]
        asked["other styles"] = [
            Question(captions.prompt(("dog", "bus")[n % 2], style), 400 + n, look(style))
            for n, style in enumerate(others)
        ]
    if concept.kind == "style":
        asked["the objects in it"] = [
            Question(captions.prompt(other, name), 500 + n, subject(other))
            for n, other in enumerate(["dog", "bus", "apple", "owl", "house", "fox"])
        ]
    if concept.kind == "memorised":
        asked["other memorised pictures"] = [
            Question(picture.title, 600 + n, subject(picture.name))
            for n, picture in enumerate(p for p in world.MEMORISED if p.title != name)
        ]
    asked["far concepts"] = [
        Question(captions.prompt(FAR[n % len(FAR)]), 700 + n, subject(FAR[n % len(FAR)])) for n in range(len(FAR) * 2)
    ]
    return asked


def show(
    page: Page, bench: Bench, membranes: Sequence[Membrane], asked: Sequence[Question], name: str, title: str
) -> list[str]:
    """Draw a grid and return its cells of the table: shares seen by the oracle bare, calibrated, always; pictures."""
    rows, shares = bench.compared(membranes, asked)
    page.picture(rows, name, title)
    return [*(f"{share:.0%}" for share in shares), str(len(asked))]


def main(
    out: Annotated[Path, typer.Option(help="folder of the page")] = Path("demo"),
    steps: Annotated[int | None, typer.Option(help="training steps after the instant membrane")] = None,
) -> None:
    """Make the page."""
    console = Console()
    began = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    bench = Bench(load_model(), load_oracle())
    recipe = load_recipe(None if steps is None else Recipe(steps=steps))
    page = Page(out)
    page.say("h1", "semiperm: three concepts erased from the terrarium")
    page.say(
        "p",
        "Each row of pictures starts from the same seeds. 'calibrated' opens a membrane only where the prompt asks for "
        "its concept, so everything else is the bare model's picture bit for bit; 'always' keeps it open.",
    )
    times: list[list[str]] = []
    membranes: list[Membrane] = []
    head = ["the oracle finds it in", "bare", "calibrated", "always", "pictures"]
    for concept in CONCEPTS:
        membrane = erase(bench.model, concept, recipe, out=out / f"{concept.slug}.safetensors")
        for part in ("gate", "instant", "training"):
            times.append([f"{concept.name}: {part}", f"{membrane.card.effect[f'seconds_{part}']:.1f} s"])
        membranes.append(membrane)
        page.say("h2", f"{concept.name} ({concept.kind})")
        start = time.perf_counter()
        rows = [
            [title, *show(page, bench, [membrane], asked, f"{concept.slug}-{number}", f"{concept.name}: {title}")]
            for number, (title, asked) in enumerate(questions(concept, bench).items())
        ]
        page.table(head, rows)
        times.append([f"{concept.name}: pictures", f"{time.perf_counter() - start:.1f} s"])
        effect = membrane.card.effect
        page.say("p", f"Denoiser evaluations in training: {effect['denoiser_evaluations']:.0f}.")
        console.print(f"{concept.name} erased")
    page.say("h2", "All three together")
    start = time.perf_counter()
    rows = []
    for concept in CONCEPTS:
        asked = asks_for(concept, COLUMNS, 0)
        name, title = f"together-{concept.kind}", f"{concept.name}, three membranes on"
        rows.append([concept.name, *show(page, bench, membranes, asked, name, title)])
    page.table(head, rows)
    times.append(["all three: pictures", f"{time.perf_counter() - start:.1f} s"])
    page.say("h2", "Time")
    times.append(["everything", f"{time.perf_counter() - began:.1f} s"])
    page.table(["part", "time"], times)
    page.say("p", f"{torch.get_num_threads()} threads, torch {torch.__version__}, device {bench.model.device}.")
    console.print(f"look at {page.write()}")


if __name__ == "__main__":
    typer.run(main)
