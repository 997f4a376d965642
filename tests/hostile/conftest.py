"""One tiny model and one sound file of each kind, from which hostile ones are made."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import semiperm
from semiperm.cli import console
from semiperm.models.load import model_of
from tests.helpers import random_membrane
from tests.tiny import tiny_pipeline

SHORT = {"steps": 2, "states": 1, "anchors": 1, "trajectories": 1, "trajectory_steps": 2}


@pytest.fixture(scope="session")
def model() -> Any:
    return model_of(tiny_pipeline(), "tiny")


@pytest.fixture(scope="session")
def cat(model: Any, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file of a sound membrane."""
    path = tmp_path_factory.mktemp("sound") / "cat.safetensors"
    return semiperm.save(random_membrane(model.erasable_layers()), path).read_bytes()


@pytest.fixture(scope="session")
def checkpoint(model: Any, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The checkpoint of a training of two steps that was stopped after the first."""
    path = tmp_path_factory.mktemp("sound") / "cat.safetensors"
    with pytest.raises(semiperm.errors.Stopped):
        semiperm.erase(model, "cat", settings=SHORT, out=path, stop=lambda: True)
    return path.with_name("cat.checkpoint.safetensors").read_bytes()


@pytest.fixture(autouse=True)
def same_model(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Load no model, where the model is not what is hostile."""
    monkeypatch.setattr(semiperm, "load_model", lambda *_, **__: model)


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables as wide as they need to be, so that names are not broken."""
    monkeypatch.setattr(console.console, "width", 1000)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder; whatever leads out of it leads to a folder of this test."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    yield folder
    assert [path.name for path in tmp_path.iterdir()] == ["here"]
