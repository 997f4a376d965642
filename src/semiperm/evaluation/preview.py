"""A grid on fixed seeds, drawn while a membrane is trained."""

from collections.abc import Callable
from pathlib import Path

from semiperm.concept import Concept
from semiperm.evaluation import grid
from semiperm.evaluation.pictures import generate
from semiperm.membrane.membrane import Membrane
from semiperm.models.base import DiffusionModel

COLUMNS = 6


def previews(model: DiffusionModel, concept: Concept, path: Path) -> Callable[[int, Membrane], None]:
    """Return a callback for `erase` that adds a row to the grid at `path`: the target, always open."""
    rows: list[grid.Row] = []

    def draw(step: int, membrane: Membrane) -> None:
        prompts = [concept.targets[0]] * COLUMNS
        pictures = generate(model.pipeline, prompts, range(COLUMNS))
        rows.append(grid.Row(f"{concept.name}, step {step}", pictures))
        grid.save(grid.draw(rows), path)

    return draw
