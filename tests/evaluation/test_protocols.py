"""Protocols declare what there is, and plan the arms that they compare."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from inspect import signature
from typing import Any, cast

import pytest

from semiperm.concept import Concept
from semiperm.errors import ProtocolError, SettingsError
from semiperm.evaluation.figures import FIGURES
from semiperm.evaluation.protocols import PROTOCOLS, find
from semiperm.evaluation.worlds.open_world import Open
from semiperm.membrane import Membrane
from semiperm.reports.published import names as published_names
from semiperm.terrarium import world
from tests.evaluation.contexts import context_of, membrane_of, rows

CAT, MOSAIC, TIDE = (
    Concept(name="cat", surrogate="dog"),
    Concept(name="mosaic", kind="style"),
    Concept(name="The Great Tide", kind="memorised"),
)


class Maker:
    """Makes nothing, and remembers what it should have made."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, dict[str, Any], str]] = []

    def __call__(
        self, concept: Concept, method: str = "spm", settings: Mapping[str, Any] | None = None, *, on: Any = None
    ) -> Membrane:
        self.asked.append((concept.name, method, dict(settings or {}), on.name if on else ""))
        return membrane_of(concept, method=method, settings={"steps": 7})


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_protocol_measures_what_there_is(name: str) -> None:
    protocol = find(name)
    assert protocol.name == name and protocol.version >= 1
    assert set(protocol.metrics) <= FIGURES.keys()
    assert protocol.published in {"", *published_names()}
    # the open world has such options
    assert set(protocol.files) <= signature(Open).parameters.keys()
    # half a sentence: reports begin it with a capital and end it with a full stop
    assert protocol.cost and 30 < len(protocol.shows) < 120
    assert not protocol.shows.endswith(".") and not protocol.shows[0].isupper()
    assert not protocol.shows.startswith(("how ", "what ", "which ", "whether "))


def test_a_protocol_that_does_not_exist_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ProtocolError, match="Did you mean 'objects'"):
        find("object")


@pytest.mark.parametrize("name", PROTOCOLS)
def test_without_erasures_a_protocol_measures_the_bare_model_or_makes_them_of_its_target(name: str) -> None:
    make = Maker()
    model: Any = Named("base", "a")
    context = context_of(CAT, protocol=name, bare=True, make=make, model=model, models=(model,))
    arms = find(name).arms(context)
    assert bool(make.asked) == bool(arms) == (name in ("ablation", "eta", "rank", "methods", "transfer"))
    if arms:
        nothing = replace(context, targets=())
        with pytest.raises(ProtocolError, match=r"name one with --target|name a concept to erase"):
            find(name).arms(nothing)


@dataclass
class Named:
    """As much of a model as transfer needs."""

    name: str
    print: str

    def fingerprint(self) -> str:
        return self.print


def test_a_transfer_carries_where_it_can_and_makes_native_erasures_everywhere() -> None:
    base, dusk, xl = (cast(Any, Named(*facts)) for facts in (("base", "a"), ("dusk", "a"), ("xl", "b")))
    settings = {"steps": 7, "eta": 0.5, "of an older version": 1}
    carried = membrane_of(CAT, method="spm", settings=settings)
    make = Maker()
    given = replace(context_of(CAT), model=base, erasures=(carried,), models=(dusk, xl), make=make)
    found = [(arm.name, arm.erasures[0] is carried, arm.model) for arm in find("transfer").arms(given)]
    assert found == [
        ("native on base", True, None),
        ("carried to dusk", True, dusk),
        ("native on dusk", False, dusk),
        # of another architecture: nothing to carry
        ("native on xl", False, xl),
    ]
    # with the carried one's method and settings
    assert make.asked == [("cat", "spm", {"steps": 7, "eta": 0.5}, name) for name in ("dusk", "xl")]
    with pytest.raises(ProtocolError, match="--on"):
        find("transfer").arms(replace(given, models=()))
    with pytest.raises(SettingsError, match="does not say how it was made"):
        find("transfer").arms(replace(given, erasures=(membrane_of(CAT),)))


def test_numbers_of_erasures_double_up_to_all() -> None:
    concepts = [Concept(name=name) for name in world.OBJECT_NAMES[:11]]
    given = context_of(*concepts)
    found = find("multi").arms(given)
    assert [len(arm.erasures) for arm in found] == [1, 2, 4, 8, 11]
    for arm in found:
        subjects = find("multi").rows(given, arm)
        groups = {subject.name: (subject.group, subject.expected) for subject in subjects}
        for concept in concepts:
            # what is not erased yet must stay
            worn = concept in arm.concepts
            assert groups[concept.name] == (("target", "gone") if worn else ("same kind", "kept"))
    mixed = rows("multi", CAT, MOSAIC, TIDE)
    assert {subject.name for subject in mixed if subject.group == "target"} == {"cat", "mosaic", "The Great Tide"}
    assert [len(arm.erasures) for arm in find("multi").arms(context_of(CAT))] == [1]
    with pytest.raises(ProtocolError, match="give several"):
        rows("multi")


def test_an_ablation_makes_the_four_arms() -> None:
    make = Maker()
    given = context_of(CAT, make=make, settings={"steps": 5})
    found = find("ablation").arms(given)
    assert [(arm.name, arm.gate) for arm in found] == [
        ("neither", "always"),
        ("anchoring", "always"),
        ("gate", "fitted"),
        ("both", "fitted"),
    ]
    assert make.asked == [
        ("cat", "spm", {"steps": 5, "anchor_weight": 0.0, "instant_anchor_weight": 0.0}, ""),
        ("cat", "spm", {"steps": 5}, ""),
    ]
    assert found[0].erasures[0] is found[2].erasures[0] is not found[1].erasures[0]
    with pytest.raises(ProtocolError, match="one concept and compares them, but there are 2"):
        find("rank").arms(context_of(CAT, MOSAIC, make=make))


def test_sweeps_change_one_setting_or_the_method() -> None:
    made: dict[str, list[Any]] = {}
    for name in ("eta", "rank", "methods"):
        make = Maker()
        arms = find(name).arms(context_of(CAT, make=make))
        assert {arm.gate for arm in arms} == {"always"}
        made[name] = [(arm.name, *call[1:3]) for arm, call in zip(arms, make.asked, strict=True)]
    assert made["eta"] == [(f"eta {value}", "spm", {"eta": value}) for value in (0.5, 1.0, 3.0, 10.0)]
    assert made["rank"] == [(f"rank {value}", "spm", {"rank": value}) for value in (1, 2, 4, 8)]
    assert made["methods"] == [
        ("spm", "spm", {}), ("instant", "spm", {"steps": 0}), ("spm-published", "spm-published", {}),
    ]  # fmt: skip


def test_an_erasure_is_measured_as_the_gate_opens_it_and_always_open() -> None:
    arms = find("effect").arms(context_of(CAT, gate="paper"))
    assert [(arm.name, arm.gate) for arm in arms] == [("opened by the prompt", "paper"), ("always open", "always")]
