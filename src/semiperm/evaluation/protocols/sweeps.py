"""What one setting of the recipe changes: eta, rank, or the recipe itself."""

from collections.abc import Callable
from typing import Any

from semiperm.evaluation.protocol import Job, Variant
from semiperm.evaluation.protocols.ablation import declared, making


def _over(setting: str, values: tuple[Any, ...]) -> Callable[[Job], list[Variant]]:
    def variants(job: Job) -> list[Variant]:
        concept, make = making(job)
        # always open, because what a gate keeps shut cannot differ
        return [Variant(f"{setting} {value}", (make(concept, **{setting: value}),), "always") for value in values]

    return variants


ETA = declared("eta", "how far the target is pushed: eta 0.5, 1, 3 and 10", _over("eta", (0.5, 1.0, 3.0, 10.0)))
RANK = declared("rank", "whether more than rank 1 gains anything: 1, 2, 4 and 8", _over("rank", (1, 2, 4, 8)))
RECIPES = declared(
    "recipes",
    "our recipe, the closed form alone, and the authors' loop",
    _over("recipe", ("default", "instant", "authors")),
)
