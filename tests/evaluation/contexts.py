"""Contexts for the tests of protocols: no model, erasures that do nothing."""

from typing import Any, cast

import torch

from semiperm.concept import Concept
from semiperm.erasure import Card
from semiperm.evaluation import worlds
from semiperm.evaluation.context import Context
from semiperm.evaluation.protocol import ArmPlan
from semiperm.evaluation.protocols import find
from semiperm.evaluation.subject import Subject
from semiperm.evaluation.task import Task
from semiperm.membrane import Membrane


def membrane_of(concept: Concept, **card: Any) -> Membrane:
    return Membrane(Card(concepts=(concept,), **card), {"layer": torch.zeros(1, 2)}, {"layer": torch.zeros(2, 1)})


def context_of(
    *targets: Concept, protocol: str = "objects", world: str = "terrarium", options: dict[str, Any] | None = None,
    seeds: int | None = None, gate: str = "fitted", bare: bool = False, **more: Any,
) -> Context:  # fmt: skip
    task = Task(protocol=protocol, seeds=seeds, gate=gate, settings=more.pop("settings", {}))
    erasures = () if bare else tuple(membrane_of(concept) for concept in targets)
    given = {"model": None, "make": None, "erasures": erasures} | more
    return Context(task, worlds.find(world, options), targets=targets, **cast(dict[str, Any], given))


def rows(name: str, *targets: Concept, **more: Any) -> list[Subject]:
    context = context_of(*targets, protocol=name, **more)
    return list(find(name).rows(context, ArmPlan("guarded", context.erasures, context.gate)))
