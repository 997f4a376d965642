"""`semiperm terrarium`."""

from pathlib import Path
from typing import Any

import pytest

from semiperm.methods.training import Progress
from semiperm.terrarium.making import build as making
from semiperm.terrarium.relatives import RELATIVES
from tests.cli.command import refused, run


def test_an_unknown_part_of_the_terrarium(tmp_path: Path) -> None:
    result = run("terrarium", "train", "--part", "nose", "--out", tmp_path / "out", "--cache", tmp_path / "cache")
    assert "'nose'" in refused(result)
    assert list(tmp_path.iterdir()) == []


def test_relatives_are_listed_with_what_they_are_and_cost(tmp_path: Path) -> None:
    listed = run("terrarium", "build", "--cache", tmp_path)
    assert listed.exit_code == 0
    for relative in RELATIVES.values():
        (line,) = (line for line in listed.output.splitlines() if f"terrarium:{relative.name} " in line)
        assert relative.what in line and f" {relative.minutes} " in line and "yes" not in line
    assert "no relative 'dawn'" in refused(run("terrarium", "build", "dawn", "--cache", tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_relative_that_is_not_built_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEMIPERM_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert "`semiperm terrarium build dusk`" in refused(run("erase", "cat", "--instant", "--model", "terrarium:dusk"))


def test_making_prints_its_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(relative: Any, cache: Path, progress: Any) -> Path:
        for step in range(30, 121):
            progress(Progress("denoiser", step, 120, {"loss": float(step > 50)}))
        return cache / relative.name

    monkeypatch.setattr(making, "build", build)
    result = run("terrarium", "build", "terrarium:dusk", "--cache", tmp_path)
    assert result.exit_code == 0, result.output
    assert result.output.splitlines() == [
        "denoiser: 50 of 120 steps, loss 0.0000, 0.0 minutes left",
        "denoiser: 100 of 120 steps, loss 1.0000, 0.0 minutes left",
        "denoiser: 120 of 120 steps, loss 1.0000, 0.0 minutes left",
        str(tmp_path / "dusk"),
    ]


def test_a_stopped_making_says_how_to_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(*_: Any, **__: Any) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(making, "build", build)
    result = run("terrarium", "build", "dusk", "--cache", tmp_path)
    assert (result.exit_code, result.output) == (130, "stopped; run the same command again to resume\n")
