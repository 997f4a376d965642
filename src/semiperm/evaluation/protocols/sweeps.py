"""What one setting of `spm` changes, and what the method itself changes."""

from collections.abc import Callable
from typing import Any

from semiperm.evaluation.context import Context
from semiperm.evaluation.protocol import ArmPlan, the_target
from semiperm.evaluation.protocols.ablation import declared

# Erasures are always open in these protocols: behind a closed gate they would all be equal.
GATE = "always"
# name of the arm, method, settings
METHODS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("spm", "spm", {}),
    ("instant", "spm", {"steps": 0}),
    ("spm-published", "spm-published", {}),
)


def _over(setting: str, values: tuple[Any, ...]) -> Callable[[Context], list[ArmPlan]]:
    def arms(context: Context) -> list[ArmPlan]:
        concept, given = the_target(context), context.task.settings
        return [
            ArmPlan(f"{setting} {value}", (context.make(concept, settings={**given, setting: value}),), GATE)
            for value in values
        ]

    return arms


def _methods(context: Context) -> list[ArmPlan]:
    concept = the_target(context)
    return [ArmPlan(name, (context.make(concept, method, settings),), GATE) for name, method, settings in METHODS]


ETA = declared(
    "eta", "the target is gone and all else is kept at every eta: 0.5, 1, 3 and 10",
    _over("eta", (0.5, 1.0, 3.0, 10.0)), published="eta",
)  # fmt: skip
RANK = declared(
    "rank", "the target is gone and all else is kept at every rank: 1, 2, 4 and 8", _over("rank", (1, 2, 4, 8))
)
COMPARED = declared(
    "methods", "the target is gone and all else is kept with our method, its closed form alone, and the published loop",
    _methods,
)  # fmt: skip
