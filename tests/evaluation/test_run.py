"""Runs on a real, tiny pipeline: what is made, what is taken over, what is proved, and what a stopped run leaves."""

import functools
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from semiperm.concept import Concept
from semiperm.evaluation import page, report
from semiperm.evaluation.markdown import markdown
from semiperm.evaluation.page import verdict
from semiperm.evaluation.protocol import Job, Protocol, ProtocolError, Subject, Variant, spread
from semiperm.evaluation.protocols import transfer
from semiperm.evaluation.run import evaluate
from semiperm.evaluation.store import Shot, StoreError
from semiperm.membrane import transport
from semiperm.membrane.membrane import Card, Membrane
from semiperm.models.base import TextFeatures
from semiperm.models.load import model_of
from tests.tiny import tiny_pipeline


def by_name(card: Card, features: TextFeatures, encode: Callable[[Sequence[str]], TextFeatures]) -> Tensor:
    """Open for prompts that hold the concept's token, and for no other."""
    own = encode([card.concept.name]).ids
    assert own is not None and features.ids is not None
    return torch.tensor([float(set(own[0]) <= set(ids)) for ids in features.ids])


class BrightJudge:
    """Sees a cat in pictures whose first pixel is bright; its features are the corners' colours."""

    counted: tuple[str, ...] = ("bright",)
    threshold = 0.5
    copy_threshold = 0.9

    def describe(self) -> dict[str, Any]:
        return {"classifier": "the first pixel"}

    def labels(self, pictures: np.ndarray, among: Sequence[str]) -> list[Collection[str]]:
        return [{"cat"} & {*among} if bright else set() for bright in pictures[:, 0, 0, 0] > 127]

    def features(self, pictures: np.ndarray) -> np.ndarray:
        return pictures[:, ::15, ::15].reshape(len(pictures), -1).astype(np.float64) + 1

    clip_pictures = copy_features = features

    def clip_texts(self, texts: Sequence[str]) -> np.ndarray:
        return np.stack([np.arange(1, 13) % (2 + len(text)) + 1.0 for text in texts])

    def detections(self, pictures: np.ndarray) -> list[dict[str, float]]:
        return [{"bright": float(value)} for value in pictures[:, 0, 0, 0] / 255]


SUBJECTS = [
    Subject("cat", "erased", spread(["a cat", "a photo of a cat"], 5, 0), "cat", "cat"),
    Subject("dog", "kept", spread(["a dog"], 4, 50), "cat", "dog"),
    Subject("tree", "other domain", (Shot("a tree", 9, negative="blue"), Shot("a tree", 10, guidance=1.0)), "cat"),
]
PROTOCOL = Protocol(
    "tiny", 3, "shows", "nothing", ("found", "clip", "clip errors", "frechet", "kernel", "exposures", "alteration"),
    lambda job: list(SUBJECTS),
)  # fmt: skip


@pytest.fixture(autouse=True)
def own_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(transport.RULES, "by name", by_name)


@pytest.fixture(scope="module")
def job() -> Job:
    model = model_of(tiny_pipeline(), "tiny")
    layers = model.erasable_layers()
    generator = torch.Generator().manual_seed(1)
    membrane = Membrane.zero(layers, Card(concept=Concept(name="cat")), 1, generator)
    up = {path: torch.randn(value.shape, generator=generator) * 0.5 for path, value in membrane.up.items()}
    membrane = Membrane(membrane.card, dict(membrane.down), up)
    return Job(model, (membrane,), "by name", "terrarium", (membrane.card.concept,))


def run(job: Job, tmp_path: Path, protocol: Protocol = PROTOCOL, **more: Any) -> tuple[report.Report, list]:
    return evaluate(
        protocol, job, BrightJudge(), out=tmp_path / "run", cache=tmp_path / "cache", steps=2, batch=3, quiet=True,
        **more,
    )  # fmt: skip


def stable(found: report.Report) -> dict[str, Any]:
    return found.model_dump(exclude={"date", "seconds"})


def test_closed_prompts_take_the_bare_pictures_and_open_ones_their_own(job: Job, tmp_path: Path) -> None:
    found, examples = run(job, tmp_path)
    (part,) = found.parts
    assert found.pictures == 11 and part.closed == 6
    assert (part.proof.checked, part.proof.identical) == (4, 4)
    rows = {row.name: row for row in part.rows}
    assert rows["cat"].opened == 1 and rows["dog"].opened == 0
    assert rows["cat"].figures["unchanged"].value < 1
    assert rows["dog"].figures["unchanged"].value == 1 and rows["dog"].figures["error"].value == 0
    assert rows["dog"].figures["found"] == rows["dog"].bare["found"]
    assert rows["dog"].figures["FID"].value == pytest.approx(0, abs=1e-3)
    assert rows["cat"].figures["FID"].value > 1
    assert "CER" in rows["cat"].figures and "CER" not in rows["dog"].figures
    assert part.permeability["erased"] == [0] * 9 + [5]
    assert part.permeability["kept"] == [4] + [0] * 9
    assert part.summary["UA"].value == pytest.approx(1 - rows["cat"].figures["found"].value)
    assert part.summary["IRA"].count == 4 and part.summary["CRA"].count == 2
    made = [json.loads(line) for line in (tmp_path / "run/pictures/guarded/manifest.jsonl").read_text().splitlines()]
    assert sorted(line["prompt"] for line in made) == sorted(shot.prompt for shot in SUBJECTS[0].shots)
    assert all(line["permeability"] == {"cat": 1.0} for line in made)
    assert {example.row for example in examples} == {"cat", "dog", "tree"}


def test_what_one_way_spares_counts_as_kept_there_and_as_erased_elsewhere(job: Job, tmp_path: Path) -> None:
    subjects = [*SUBJECTS, Subject("fox", "erased", spread(["a fox"], 3, 80), "cat", "fox")]
    ways = [
        Variant("one", job.membranes, "by name", spared=frozenset({"fox"})),
        Variant("both", job.membranes, "by name"),
    ]
    protocol = replace(PROTOCOL, subjects=lambda job: subjects, variants=lambda job: ways)
    one, both = run(job, tmp_path, protocol)[0].parts
    assert [row.role for row in one.rows] == ["erased", "kept", "other domain", "kept"]
    assert [row.role for row in both.rows] == ["erased", "kept", "other domain", "erased"]
    assert (one.summary["UA"].count, one.summary["IRA"].count) == (5, 7)
    assert (both.summary["UA"].count, both.summary["IRA"].count) == (8, 4)
    assert (one.bare_summary["UA"].count, both.bare_summary["UA"].count) == (5, 8)
    assert [sum(one.permeability[role]) for role in ("erased", "kept")] == [5, 7]


def test_a_picture_is_what_the_guard_makes_of_its_prompt_alone(job: Job, tmp_path: Path) -> None:
    from semiperm.evaluation.store import Store
    from semiperm.guarded import guard

    run(job, tmp_path)
    store = Store(tmp_path / "run/pictures/guarded")
    with guard(job.model, job.membranes, transport="by name") as guarded:
        for shot in SUBJECTS[0].shots[:2]:
            image = guarded(
                shot.prompt,
                generator=torch.Generator().manual_seed(shot.seed),
                num_inference_steps=2,
                guidance_scale=5.0,
            ).images[0]
            apart = np.abs(np.asarray(image).astype(int) - store.load(shot).astype(int))
            # another batch size may round another way in the last place
            assert apart.max() <= 1


def test_a_stopped_run_goes_on_and_gives_the_same_report(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = run(job, tmp_path / "whole")
    pipeline = type(job.model.pipeline)
    calls: list[int] = []
    real = pipeline.__call__

    @functools.wraps(real)
    def stopping(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(len(kwargs["prompt"]))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    monkeypatch.setattr(pipeline, "__call__", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(job, tmp_path / "parts")
    before = sum(calls[:2])
    again, _ = run(job, tmp_path / "parts")
    assert stable(again) == stable(whole)
    # 11 bare, 5 guarded, 4 proved on both sides; those of the first two batches were not made again
    assert sum(calls[3:]) == 11 + 5 + 8 - before


def test_bare_pictures_are_shared_between_runs(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(replace(job, membranes=()), tmp_path)
    pipeline = type(job.model.pipeline)
    asked: list[str] = []
    real = pipeline.__call__

    @functools.wraps(real)
    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        asked.extend(kwargs["prompt"])
        return real(self, *args, **kwargs)

    monkeypatch.setattr(pipeline, "__call__", counted)
    run(job, tmp_path)
    assert len(asked) == 5 + 8


def test_without_membranes_the_bare_model_is_measured(job: Job, tmp_path: Path) -> None:
    found, examples = run(replace(job, membranes=()), tmp_path)
    (part,) = found.parts
    assert part.name == "bare model" and not part.membranes
    for row in part.rows:
        assert row.figures == row.bare
        assert "FID" not in row.figures and "unchanged" not in row.figures
    assert all(not len(example.guarded) for example in examples)


def test_a_folder_of_pictures_is_measured_like_a_guard(job: Job, tmp_path: Path) -> None:
    guarded, _ = run(job, tmp_path)
    made = tmp_path / "run/pictures/guarded"
    missing = replace(PROTOCOL, subjects=lambda job: SUBJECTS[:1])
    only, _ = run(job, tmp_path / "again", missing, pictures=made)
    wanted = next(row for row in guarded.parts[0].rows if row.name == "cat")
    found = only.parts[0].rows[0]
    assert found.figures == wanted.figures
    assert only.parts[0].closed == 0
    with pytest.raises(StoreError, match="no picture of 'a dog'"):
        run(job, tmp_path / "more", pictures=made)
    with pytest.raises(FileNotFoundError, match="manifest"):
        run(job, tmp_path / "none", pictures=tmp_path)


def test_a_folder_of_another_run_is_refused(job: Job, tmp_path: Path) -> None:
    run(job, tmp_path)
    with pytest.raises(StoreError, match="another transport"):
        run(replace(job, transport="always"), tmp_path)


def test_variants_are_measured_side_by_side(job: Job, tmp_path: Path) -> None:
    (membrane,) = job.membranes

    def both(job: Job) -> list[Variant]:
        return [Variant("asked only", (membrane,), "by name"), Variant("open", (membrane,), "always")]

    found, _ = run(job, tmp_path, replace(PROTOCOL, variants=both))
    asked, opened = found.parts
    assert (asked.name, opened.name) == ("asked only", "open")
    dogs = [next(row for row in part.rows if row.name == "dog") for part in found.parts]
    assert dogs[0].figures["unchanged"].value == 1 and dogs[1].figures["unchanged"].value < 1
    assert asked.rows[0].figures == opened.rows[0].figures
    assert (opened.closed, opened.proof.checked) == (0, 0)


def test_what_was_carried_stands_beside_what_was_made_there(job: Job, tmp_path: Path) -> None:
    other = model_of(tiny_pipeline(), "other")
    with torch.no_grad():
        next(other.denoiser.parameters()).mul_(2)
    (membrane,) = (made.with_card(recipe={"steps": 2}) for made in job.membranes)
    weak = Membrane(membrane.card, dict(membrane.down), {path: up * 0 for path, up in membrane.up.items()})
    carrying = replace(job, membranes=(membrane,), models=(other,), make=lambda concept, recipe, *, on: weak)
    found, _ = run(carrying, tmp_path, replace(PROTOCOL, variants=transfer.variants))
    base, carried, native = found.parts
    assert [part.model for part in found.parts] == ["tiny", "other", "other"]
    assert carried.bare_summary == native.bare_summary == native.summary != base.bare_summary
    assert report.native_of(found, carried) == native
    assert report.native_of(found, native) is None
    (apart,) = (line for line in verdict(found, carried) if line.startswith("Beside"))
    gap = 100 * (carried.summary["UA"].value - native.summary["UA"].value)
    assert f"UA {gap:+.1f}" in apart and "IRA +0.0" in apart
    assert not any(line.startswith("Beside") for line in verdict(found, native))
    # the bare model's figures stand above each model's
    titles = [line.split(" | ")[0] for line in markdown(found).splitlines()[2:7]]
    assert titles == ["| bare tiny", "| native on tiny", "| bare other", "| carried to other", "| native on other"]


def test_a_guard_that_is_not_the_bare_model_when_closed_is_found_out(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from semiperm.evaluation.sources import GuardSource

    real = GuardSource.make
    monkeypatch.setattr(GuardSource, "make", lambda self, shots: real(self, shots) ^ 1)
    found, examples = run(job, tmp_path)
    assert (found.parts[0].proof.checked, found.parts[0].proof.identical) == (4, 0)
    assert "do not trust this run" in page.page(found, examples)


def test_a_job_without_pictures_is_refused(job: Job, tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match="no pictures"):
        run(job, tmp_path, replace(PROTOCOL, subjects=lambda job: []))


def test_reports_are_read_as_they_were_written(job: Job, tmp_path: Path) -> None:
    found, examples = run(job, tmp_path)
    report.save(found, tmp_path / "report.json")
    assert report.load(tmp_path / "report.json") == found
    assert found.versions["torch"] == torch.__version__ and found.protocol_version == 3
    (tmp_path / "wrong.json").write_text('{"protocol": "tiny"}')
    with pytest.raises(report.ReportError, match=r"wrong.json is not a report"):
        report.load(tmp_path / "wrong.json")
    text = page.page(found, examples)
    assert 'src="http' not in text and "href=" not in text.replace("xlink:href", "")
    assert text.index("What was erased") < text.index("<table>")
