"""`semiperm demo`."""

import re
from pathlib import Path

import pytest

import semiperm
from semiperm.cli import demo
from semiperm.evaluation.report import load
from tests.cli.command import files, run


@pytest.mark.slow
def test_the_demo_writes_its_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Few steps and pictures: this tests the page, not the pictures.
    monkeypatch.setattr(demo, "SAMPLER_STEPS", 2)
    monkeypatch.setattr(demo, "PICTURES", 2)
    result = run("demo", "--out", tmp_path, "--steps", 1)
    assert result.exit_code == 0, result.output
    assert str(tmp_path / "index.html") in result.output.splitlines()[-1]
    names = [concept.slug for concept in demo.CONCEPTS]
    assert files(tmp_path) == sorted(
        ["index.html", "all-three-together.json"]
        + [name + ending for name in names for ending in (".json", ".safetensors")]
    )
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    # The verdicts and the table come first.
    assert page.index("is found in") < page.index("What the oracle finds") < page.index("<img")
    # Two arms of five or six rows of two pairs for each concept, and those of all three together.
    assert len(re.findall(r"<img[^>]+data:image/png", page)) > 100
    assert "http" not in page.lower().replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")
    for concept, name in zip(demo.CONCEPTS, names, strict=True):
        assert f"{concept.name} ({concept.kind})" in page
        assert semiperm.load(tmp_path / f"{name}.safetensors").card.concept == concept
        report = load(tmp_path / f"{name}.json")
        assert [arm.gate for arm in report.arms] == ["fitted", "always"]
        assert report.arms[0].proof.checked == report.arms[0].proof.identical > 0
        # Shares are of the pictures of this run.
        for share in (report.arms[0].rows[0].bare["found"], report.arms[1].rows[0].figures["found"]):
            assert f"{100 * share.value:.0f}" in page
    together = load(tmp_path / "all-three-together.json")
    assert list(together.arms[0].erasures) == [concept.name for concept in demo.CONCEPTS]


def test_a_folder_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = run("demo", "--out", tmp_path / "file")
    assert result.exit_code == 1 and "cannot be written" in result.output
