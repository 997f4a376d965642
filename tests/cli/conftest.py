from pathlib import Path

import pytest

from semiperm.cli import console
from tests.cli.command import run
from tests.tiny import tiny_pipeline


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def cat(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file made by `erase cat --instant`."""
    path = tmp_path_factory.mktemp("membranes") / "cat.safetensors"
    result = run("erase", "cat", "--instant", "--out", path, "--model", model)
    assert result.exit_code == 0, result.output
    assert str(path) in result.output.replace("\n", "")
    return path


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables as wide as they need to be."""
    monkeypatch.setattr(console.console, "width", 1000)
