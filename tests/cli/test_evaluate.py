"""`semiperm evaluate`, `compare` and `protocols`."""

import json
import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from semiperm.terrarium import WEIGHTS
from tests.cli.command import files, refused, run

I2P = "prompt,sd_seed,sd_guidance_scale\na cat in a red house,4261553411,7\na dog,7,7.5\na photo of a cat,8,3\n"


class Detector:
    """Sees a belly where a picture is bright."""

    def detect(self, picture: Any) -> list[dict[str, Any]]:
        return [{"class": "BELLY_EXPOSED", "score": float(picture.mean() / 255 > 0.45), "box": [0, 0, 1, 1]}]


@pytest.fixture
def detector(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("nudenet")
    module.NudeDetector = Detector  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "nudenet", module)


class Corners(torch.nn.Module):
    def forward(self, x: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        return x[:, :, ::8, ::8].flatten(1).float()


def evaluated(model: Path, out: Path, *words: Any) -> Any:
    return run(
        "evaluate", "--model", model, "--out", out, "--cache", out.parent / "cache", "--clip", WEIGHTS / "clip",
        "--steps", 2, *words,
    )  # fmt: skip


def test_i2p_is_counted_on_any_model_by_one_command(model: Path, cat: Path, tmp_path: Path, detector: None) -> None:
    prompts = tmp_path / "i2p.csv"
    prompts.write_text(I2P)
    common = ("-p", "explicit", "--prompts", prompts)
    bare = evaluated(model, tmp_path / "bare", *common)
    assert bare.exit_code == 0, bare.output
    result = evaluated(
        model, tmp_path / "run", *common, "-m", cat, "--gate", "always", "--against", tmp_path / "bare/report.json"
    )
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "run/report.json").read_text())
    (arm,) = report["arms"]
    (row,) = arm["rows"]
    assert report["world"] == "open" and report["settings"]["steps"] == 2 and report["published"] == "explicit"
    assert row["pictures"] == 3 and "BELLY_EXPOSED" in row["figures"]
    assert row["figures"]["exposed"] == row["figures"]["BELLY_EXPOSED"]
    page = (tmp_path / "run/report.html").read_text()
    assert "Reported elsewhere" in page and "not measured here" in page and "-85.3" in page
    assert "exposed" in result.output and "report.html" in result.output.replace("\n", "")
    assert "BELLY_EXPOSED" in result.output
    page = tmp_path / "differences.html"
    compared = run("compare", tmp_path / "bare/report.json", tmp_path / "run/report.json", "--out", page)
    assert compared.exit_code == 0 and "BELLY_EXPOSED" in compared.output and str(page) in compared.output
    assert str(tmp_path / "bare/report.json") in page.read_text()


def test_membranes_are_compared_with_other_membranes(model: Path, cat: Path, tmp_path: Path, detector: None) -> None:
    prompts = tmp_path / "i2p.csv"
    prompts.write_text(I2P)
    common = ("-p", "explicit", "--prompts", prompts, "--gate", "always")
    result = evaluated(model, tmp_path / "run", *common, "--against", cat)
    assert result.exit_code == 0, result.output
    assert "BELLY_EXPOSED" in result.output
    first, second = (json.loads((tmp_path / where / "report.json").read_text()) for where in ("run/against", "run"))
    assert list(first["arms"][0]["erasures"]) == ["cat"] and not second["arms"][0]["erasures"]
    both = evaluated(model, tmp_path / "no", *common, "--against", cat, "--against", tmp_path / "run/report.json")
    assert "one report.json or some erasures" in refused(both)


def test_the_papers_objects_are_measured_on_any_model(model: Path, cat: Path, tmp_path: Path) -> None:
    inception = tmp_path / "inception.pt"
    torch.jit.script(Corners()).save(str(inception))  # pyright: ignore[reportAttributeAccessIssue]
    result = evaluated(
        model, tmp_path / "run", "-p", "objects", "-m", cat, "--seeds", 1, "--steps", 1, "--inception", inception,
        "--trust",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    rows = json.loads((tmp_path / "run/report.json").read_text())["arms"][0]["rows"]
    assert [row["name"] for row in rows] == ["cat", "Snoopy", "Mickey", "Spongebob", "Pikachu", "Dog", "Legislator"]
    assert {"CS", "CER", "KID", "unchanged"} <= rows[0]["figures"].keys()
    assert all(row["pictures"] == 80 for row in rows)


def test_erasures_that_are_missing_are_made(model: Path, tmp_path: Path, detector: None) -> None:
    prompts = tmp_path / "i2p.csv"
    prompts.write_text(I2P)
    asked = ("-p", "explicit", "--prompts", prompts, "--target", "cat", "--method", "spm", "--set", "steps=0")
    result = evaluated(model, tmp_path / "run", *asked)
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "run/report.json").read_text())
    assert list(report["arms"][0]["erasures"]) == ["cat"]
    assert "--method" in refused(evaluated(model, tmp_path / "no", "-p", "explicit", "--set", "steps=0"))


def test_what_an_evaluation_lacks_is_said_in_a_sentence(model: Path, cat: Path, tmp_path: Path) -> None:
    assert "--prompts" in refused(evaluated(model, tmp_path / "a", "-p", "explicit", "-m", cat))
    assert "Did you mean 'styles'" in refused(evaluated(model, tmp_path / "a", "-p", "style", "-m", cat))
    assert "'clip'" in refused(evaluated(model, tmp_path / "a", "-p", "styles", "--world", "terrarium"))
    (tmp_path / "x.json").write_text("{}")
    assert "not a report" in refused(run("compare", tmp_path / "x.json", tmp_path / "x.json"))


def test_torchscript_needs_trust_before_a_picture_is_made(model: Path, cat: Path, tmp_path: Path) -> None:
    inception = tmp_path / "inception.pt"
    torch.jit.script(Corners()).save(str(inception))  # pyright: ignore[reportAttributeAccessIssue]
    asked = ("-p", "objects", "-m", cat)
    assert "--inception" in refused(evaluated(model, tmp_path / "a", *asked))
    told = refused(evaluated(model, tmp_path / "a", *asked, "--inception", inception))
    assert "runs code that the file contains: add --trust" in told
    assert files(tmp_path / "a") == files(tmp_path / "cache") == []


def test_a_stopped_evaluation_says_how_to_resume(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, detector: None
) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("semiperm.evaluation.run.run", stopped)
    result = evaluated(model, tmp_path / "run", "-p", "explicit")
    assert (result.exit_code, result.output) == (130, "stopped; run the same command again to resume\n")


def test_protocols_are_listed_with_what_they_show_and_cost() -> None:
    result = run("protocols")
    assert result.exit_code == 0
    for name in ("objects", "unlearncanvas", "paraphrase", "ablation"):
        assert re.search(rf"\b{name} /\d+\b", result.output)
