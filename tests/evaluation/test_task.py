"""Tasks are names and numbers: they survive pickling and JSON, and are resolved where they run."""

import pickle
from pathlib import Path
from typing import Any

import pytest

from semiperm.concept import Concept
from semiperm.errors import ProtocolError
from semiperm.evaluation import context as contexts
from semiperm.evaluation import worlds
from semiperm.evaluation.context import resolve, with_erasures
from semiperm.evaluation.task import Task
from semiperm.evaluation.worlds.open_world import Open
from semiperm.files.safetensors import save
from semiperm.models.load import model_of
from tests.helpers import random_membrane
from tests.tiny import tiny_pipeline

TASK = Task(
    protocol="transfer",
    model="terrarium:dusk",
    erasures=(Path("cat.safetensors"),),
    gate="paper",
    world="open",
    options={"prompts": "coco.csv"},
    targets=(Concept(name="mosaic", kind="style"),),
    seeds=3,
    models=("terrarium",),
    method="spm",
    settings={"steps": 2, "more_anchors": ["a dog"]},
    steps=4,
    guidance=2.0,
    batch=2,
)


def test_a_task_survives_pickle_and_json() -> None:
    assert pickle.loads(pickle.dumps(TASK)) == TASK
    assert Task.model_validate_json(TASK.model_dump_json()) == TASK


def test_a_task_is_checked_when_it_is_written() -> None:
    for wrong in ({"seeds": 0}, {"batch": 0}, {"erasure": ("x",)}):
        with pytest.raises(ValueError):
            Task.model_validate({"protocol": "objects", **wrong})


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    loaded: list[str] = []

    def load_model(name: str) -> Any:
        loaded.append(name)
        return model_of(tiny_pipeline(), name)

    monkeypatch.setattr(contexts, "load_model", load_model)
    return loaded


def test_names_become_live_objects(tiny: list[str], tmp_path: Path) -> None:
    model = model_of(tiny_pipeline(), "tiny")
    path = save(random_membrane(model.erasable_layers(), name="fox"), tmp_path / "fox.safetensors")
    task = Task(
        protocol="transfer", model="some/model", erasures=(path,), models=("other/model",),
        targets=(Concept(name="cat"),), options={"clip": "a folder"},
    )  # fmt: skip
    found = resolve(pickle.loads(pickle.dumps(task)), tmp_path)
    assert tiny == ["some/model", "other/model"]
    assert found.model.name == "some/model" and [one.name for one in found.models] == ["other/model"]
    assert isinstance(found.world, Open) and found.world.clip == "a folder"
    # the erasures' concepts count, not the task's
    assert [concept.name for concept in found.targets] == ["fox"] and len(found.erasures) == 1
    assert (found.seeds, found.gate, found.method) == (10, "fitted", "spm")


def test_without_erasures_the_targets_are_the_tasks(tiny: list[str], tmp_path: Path) -> None:
    bare = resolve(Task(protocol="objects", targets=(Concept(name="cat"),)), tmp_path)
    assert not bare.erasures and [concept.name for concept in bare.targets] == ["cat"]
    assert bare.world.name == "terrarium"


def test_a_method_makes_an_erasure_of_each_target(tiny: list[str], tmp_path: Path) -> None:
    concepts = (Concept(name="cat"), Concept(name="dog"))
    asked = resolve(Task(protocol="objects", targets=concepts, method="spm", settings={"steps": 0}), tmp_path)
    assert not asked.erasures and asked.targets == concepts and not list(tmp_path.iterdir())
    made = with_erasures(asked)
    assert [erasure.card.concepts for erasure in made.erasures] == [(concept,) for concept in concepts]
    assert made.targets == concepts and len(list(tmp_path.glob("*.safetensors"))) == 2


def test_worlds_are_found_by_name_and_by_model() -> None:
    assert [worlds.world_of(name) for name in ("terrarium", "terrarium:dusk", "user/sd15")] == [
        "terrarium", "terrarium", "open",
    ]  # fmt: skip
    with pytest.raises(ProtocolError, match="Did you mean 'open'"):
        worlds.find("opem")
    with pytest.raises(ProtocolError, match="'terrarium' has no option 'clip'; it has: none"):
        worlds.find("terrarium", {"clip": "x"})
    with pytest.raises(ProtocolError, match="'open' has no option 'fid'; it has: clip, inception"):
        worlds.find("open", {"fid": "x"})
