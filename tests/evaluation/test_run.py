"""Runs on a real, tiny pipeline: what is generated, what comes from the bare model, and what a stopped run leaves."""

import functools
import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from semiperm import guarded
from semiperm.api import guard
from semiperm.concept import Concept, Kind
from semiperm.erasure import Card, Sampler, WeightDelta
from semiperm.errors import JudgeError, ProtocolError, StoreError
from semiperm.evaluation import report
from semiperm.evaluation.bench import prove
from semiperm.evaluation.context import Context
from semiperm.evaluation.example import Example
from semiperm.evaluation.protocol import ArmPlan, Protocol
from semiperm.evaluation.protocols import find, transfer
from semiperm.evaluation.run import measure
from semiperm.evaluation.run import run as run_task
from semiperm.evaluation.sources import GuardSource, erasure_digest
from semiperm.evaluation.store import Store
from semiperm.evaluation.subject import Subject
from semiperm.evaluation.task import Task
from semiperm.evaluation.worlds.interface import World
from semiperm.evaluation.worlds.open_world import Open
from semiperm.gate import Gate, Shown
from semiperm.membrane import Membrane
from semiperm.models.load import model_of
from semiperm.models.model import DiffusionModel
from semiperm.pictures import Shot, spread
from semiperm.terrarium import WEIGHTS
from tests.tiny import tiny_pipeline

CAT = Concept(name="cat")
CLIP = WEIGHTS / "clip"


class ByName(Gate):
    """Opens for prompts that hold the concept's token, and for no other."""

    name: str

    def gamma(self, shown: Shown) -> Tensor:
        (own,) = shown.reader.tokens([self.name])
        assert shown.text.ids is not None
        return torch.tensor([float(set(own) <= set(ids)) for ids in shown.text.ids])


class BrightJudge:
    """Sees a cat in pictures whose first pixel is bright; its features are the corners' colours."""

    counted: tuple[str, ...] = ("bright",)
    threshold = 0.5
    copy_threshold = 0.9

    def __init__(self) -> None:
        self.judged = 0

    def describe(self) -> dict[str, Any]:
        return {"classifier": "the first pixel"}

    def labels(self, pictures: np.ndarray, among: Sequence[str]) -> list[Collection[str]]:
        self.judged += len(pictures)
        return [{"cat"} & {*among} if bright else set() for bright in pictures[:, 0, 0, 0] > 127]

    def features(self, pictures: np.ndarray) -> np.ndarray:
        return pictures[:, ::15, ::15].reshape(len(pictures), -1).astype(np.float64) + 1

    clip_pictures = copy_features = features

    def clip_texts(self, texts: Sequence[str]) -> np.ndarray:
        return np.stack([np.arange(1, 13) % (2 + len(text)) + 1.0 for text in texts])

    def detections(self, pictures: np.ndarray) -> list[dict[str, float]]:
        return [{"bright": float(value)} for value in pictures[:, 0, 0, 0] / 255]


class TinyWorld(World):
    name = "tiny"
    steps = 2
    guidance = 5.0

    def __init__(self) -> None:
        self.bright = BrightJudge()

    def judge(self, device: str = "cpu") -> BrightJudge:
        return self.bright


SUBJECTS = [
    Subject("cat", "target", "gone", spread(["a cat", "a photo of a cat"], 5, 0), label="cat", text="cat"),
    Subject("dog", "same kind", "kept", spread(["a dog"], 4, 50), label="cat", text="dog"),
    Subject(
        "tree", "other kinds", "kept", (Shot("a tree", 9, negative="blue"), Shot("a tree", 10, guidance=1.0)),
        label="cat",
    ),
]  # fmt: skip
PROTOCOL = Protocol(
    "tiny", 3, "shows", "nothing", ("found", "clip", "clip errors", "frechet", "kernel", "exposures", "alteration"),
    lambda context, arm: SUBJECTS,
)  # fmt: skip


@pytest.fixture(autouse=True)
def own_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(guarded.GATES, "by name", lambda card: ByName(name=card.concept.name))


@pytest.fixture(scope="module")
def model() -> DiffusionModel:
    return model_of(tiny_pipeline(), "tiny")


@pytest.fixture(scope="module")
def membrane(model: DiffusionModel) -> Membrane:
    generator = torch.Generator().manual_seed(1)
    zero = Membrane.zero(model.erasable_layers(), Card(concepts=(CAT,)), 1, generator)
    up = {path: torch.randn(value.shape, generator=generator) * 0.5 for path, value in zero.up.items()}
    return Membrane(zero.card, dict(zero.down), up)


@pytest.fixture
def context(model: DiffusionModel, membrane: Membrane) -> Context:
    def make(*_: Any, **__: Any) -> Membrane:
        raise AssertionError("nothing is made here")

    task = Task(protocol="tiny", gate="by name", batch=3)
    return Context(task, TinyWorld(), model, make, (membrane,), (CAT,))


def run(
    context: Context, tmp_path: Path, protocol: Protocol = PROTOCOL, **more: Any
) -> tuple[report.Report, list[Example]]:
    return measure(protocol, context, out=tmp_path / "run", cache=tmp_path / "cache", **more)


def of_task(context: Context, **changes: Any) -> Context:
    return replace(context, task=context.task.model_copy(update=changes))


def stable(found: report.Report) -> dict[str, Any]:
    return found.model_dump(exclude={"date", "seconds"})


def test_closed_prompts_take_the_bare_pictures_and_open_ones_their_own(context: Context, tmp_path: Path) -> None:
    found, examples = run(context, tmp_path)
    (arm,) = found.arms
    assert found.pictures == 11 and arm.closed == 6
    assert (arm.proof.checked, arm.proof.identical) == (4, 4)
    rows = {row.name: row for row in arm.rows}
    assert rows["cat"].opened == 1 and rows["dog"].opened == 0
    assert rows["cat"].figures["unchanged"].value < 1
    assert rows["dog"].figures["unchanged"].value == 1 and rows["dog"].figures["error"].value == 0
    assert rows["dog"].figures["found"] == rows["dog"].bare["found"]
    # too few pictures for a distance
    assert not {"FID", "KID"} & {name for row in arm.rows for name in row.figures}
    assert "CER" in rows["cat"].figures and "CER" not in rows["dog"].figures
    assert arm.permeability["target"] == [0] * 9 + [5]
    assert arm.permeability["same kind"] == [4] + [0] * 9
    assert arm.summary["UA"].value == pytest.approx(1 - rows["cat"].figures["found"].value)
    assert arm.summary["IRA"].count == 4 and arm.summary["CRA"].count == 2
    made = [json.loads(line) for line in (tmp_path / "run/pictures/guarded/manifest.jsonl").read_text().splitlines()]
    assert sorted(line["prompt"] for line in made) == sorted(shot.prompt for shot in SUBJECTS[0].shots)
    assert all(line["permeability"] == {"cat": 1.0} for line in made)
    assert [(example.row, example.group) for example in examples] == [
        ("cat", "target"), ("dog", "same kind"), ("tree", "other kinds"),
    ]  # fmt: skip
    assert found.world == "tiny" and arm.gate == "by name"


def test_rows_may_depend_on_the_arm(context: Context, tmp_path: Path) -> None:
    """As those of an attack do, whose prompts are searched for against what the arm wears."""

    def rows(context: Context, arm: ArmPlan) -> list[Subject]:
        prompts = {"weak": ["a cat"], "strong": ["a kitten", "a cat on a car"]}[arm.name]
        shots = spread(prompts, 4, 0)
        return [Subject("attack", "attack", "gone", shots, label="cat"), SUBJECTS[1]]

    arms = [ArmPlan("weak", context.erasures, "by name"), ArmPlan("strong", context.erasures, "always")]
    protocol = replace(PROTOCOL, rows=rows, arms=lambda context: arms)
    done: list[tuple[int, int]] = []
    found, examples = run(context, tmp_path, protocol, progress=lambda *count: done.append(count))
    weak, strong = found.arms
    # 4 and 4 of the attacks, and the dog's 4 once
    assert (found.pictures, weak.pictures, strong.pictures) == (12, 8, 8)
    asked = {
        arm: {json.loads(line)["prompt"] for line in (tmp_path / f"run/pictures/{arm}/manifest.jsonl").open()}
        for arm in ("weak", "strong")
    }
    assert asked == {"weak": {"a cat"}, "strong": {"a kitten", "a cat on a car", "a dog"}}
    assert (weak.closed, strong.closed) == (4, 0)
    # each is compared with the bare model on its own prompts
    assert weak.rows[0].bare != strong.rows[0].bare
    assert weak.rows[1].bare == strong.rows[1].bare
    assert (weak.summary["UA"].count, weak.bare_summary["UA"].count) == (4, 4)
    assert {(one.arm, one.row, one.prompts[0]) for one in examples if one.row == "attack"} == {
        ("weak", "attack", "a cat"), ("strong", "attack", "a kitten"),
    }  # fmt: skip
    # 12 bare pictures and 8 of each arm
    assert done[-1] == (28, 28) and [count for count, _ in done] == sorted(count for count, _ in done)


def test_a_row_counts_as_what_its_arm_expects(context: Context, tmp_path: Path) -> None:
    fox = Subject("fox", "target", "gone", spread(["a fox"], 3, 80), label="cat", text="fox")
    spared = replace(fox, group="same kind", expected="kept")
    arms = [ArmPlan("one", context.erasures, "by name"), ArmPlan("both", context.erasures, "by name")]
    protocol = replace(
        PROTOCOL,
        rows=lambda context, arm: [*SUBJECTS, spared if arm.name == "one" else fox],
        arms=lambda context: arms,
    )
    one, both = run(context, tmp_path, protocol)[0].arms
    assert [row.group for row in one.rows] == ["target", "same kind", "other kinds", "same kind"]
    assert [row.expected for row in both.rows] == ["gone", "kept", "kept", "gone"]
    assert (one.summary["UA"].count, one.summary["IRA"].count) == (5, 7)
    assert (both.summary["UA"].count, both.summary["IRA"].count) == (8, 4)
    assert (one.bare_summary["UA"].count, both.bare_summary["UA"].count) == (5, 8)
    assert [sum(one.permeability[group]) for group in ("target", "same kind")] == [5, 7]


def test_equal_rows_of_the_bare_model_are_judged_once(context: Context, tmp_path: Path) -> None:
    # Rows are equal by value, so a protocol may make them again for each arm.
    arms = [ArmPlan(name, context.erasures, "by name") for name in ("one", "two", "three")]
    protocol = replace(
        PROTOCOL, metrics=("found",), rows=lambda context, arm: [replace(row) for row in SUBJECTS],
        arms=lambda context: arms,
    )  # fmt: skip
    run(context, tmp_path, protocol)
    assert isinstance(context.world, TinyWorld)
    assert context.world.bright.judged == 11 + 3 * 11


def test_a_row_of_prompts_is_judged_by_the_gates_without_pictures(context: Context, tmp_path: Path) -> None:
    prompts = Subject("ordinary", "not asked", "kept", prompts=("a dog", "a cat", "a tree", "a house"))
    protocol = replace(
        PROTOCOL, metrics=("found", "opens", "alteration"), rows=lambda context, arm: [*SUBJECTS, prompts], proofs=99
    )
    found, examples = run(context, tmp_path, protocol)
    row = found.arms[0].rows[-1]
    assert (row.pictures, row.opened) == (0, 0.25)
    assert set(row.figures) == {"opens"} and not row.bare
    assert (row.figures["opens"].value, row.figures["opens"].count) == (0.25, 4)
    assert found.pictures == 11 and "not asked" not in found.arms[0].permeability
    assert {example.row for example in examples} == {"cat", "dog", "tree"}
    # the 6 closed pictures but those with a negative prompt or their own guidance, and the 3 closed prompts
    assert found.arms[0].proof.checked == found.arms[0].proof.identical == 7
    cat = found.arms[0].rows[0]
    assert cat.figures["opens"].value == 1 and "opens" not in cat.bare


def test_a_picture_is_what_the_guard_makes_of_its_prompt_alone(context: Context, tmp_path: Path) -> None:
    run(context, tmp_path)
    store = Store(tmp_path / "run/pictures/guarded")
    with guard(context.model, context.erasures, gate="by name") as worn:
        for shot in SUBJECTS[0].shots[:2]:
            image = worn(
                shot.prompt,
                generator=torch.Generator().manual_seed(shot.seed),
                num_inference_steps=2,
                guidance_scale=5.0,
            ).images[0]
            apart = np.abs(np.asarray(image).astype(int) - store.load(shot).astype(int))
            # another batch size may round differently in the last place
            assert apart.max() <= 1


def test_a_stopped_run_resumes_and_gives_the_same_report(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = run(context, tmp_path / "whole")
    pipeline = type(context.model.pipeline)
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
        run(context, tmp_path / "parts")
    before = sum(calls[:2])
    again, _ = run(context, tmp_path / "parts")
    assert stable(again) == stable(whole)
    # 11 bare, 5 guarded, 4 proved on both sides; those of the first two batches were not made again
    assert sum(calls[3:]) == 11 + 5 + 8 - before


def test_bare_pictures_are_shared_between_runs(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(replace(context, erasures=()), tmp_path)
    pipeline = type(context.model.pipeline)
    asked: list[str] = []
    real = pipeline.__call__

    @functools.wraps(real)
    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        asked.extend(kwargs["prompt"])
        return real(self, *args, **kwargs)

    monkeypatch.setattr(pipeline, "__call__", counted)
    run(context, tmp_path)
    assert len(asked) == 5 + 8


def test_without_erasures_the_bare_model_is_measured(context: Context, tmp_path: Path) -> None:
    found, examples = run(replace(context, erasures=()), tmp_path)
    (arm,) = found.arms
    assert arm.name == "bare model" and not arm.erasures and not arm.gate
    for row in arm.rows:
        assert row.figures == row.bare
        assert "unchanged" not in row.figures
    assert all(not len(example.erased) for example in examples)


class Darker(Sampler):
    """Makes everything darker, whatever the prompt."""

    def __init__(self, by: float) -> None:
        self.card = Card(concepts=(Concept(name="light"),), kind="sampler", method="darker", settings={"by": by})

    @contextmanager
    def on(self, model: DiffusionModel) -> Iterator[Any]:
        vae = model.pipeline.vae
        handle = vae.decoder.register_forward_hook(lambda _, __, output: output - self.card.settings["by"])
        try:
            yield model.pipeline
        finally:
            handle.remove()


def test_erasures_of_all_kinds_are_measured_and_those_without_a_gate_act_on_every_prompt(
    context: Context, membrane: Membrane, tmp_path: Path
) -> None:
    weights = {"unet.conv_in.bias": torch.full_like(context.model.pipeline.unet.conv_in.bias, 0.3)}
    delta = WeightDelta(Card(concepts=(Concept(name="tree"),), kind="delta"), weights, "")
    arms = [
        ArmPlan("delta", (delta,), "by name"),
        ArmPlan("sampler", (Darker(0.2),), "by name"),
        ArmPlan("mixed", (delta, membrane), "by name"),
    ]
    before = {name: value.clone() for name, value in context.model.pipeline.unet.state_dict().items()}
    found, _ = run(context, tmp_path, replace(PROTOCOL, arms=lambda context: arms))
    for arm in found.arms:
        assert (arm.closed, arm.proof.checked) == (0, 0)
        assert all(row.opened == 1 and row.figures["unchanged"].value < 1 for row in arm.rows)
    assert [arm.gate for arm in found.arms] == ["", "", "by name"]
    assert [list(arm.erasures) for arm in found.arms] == [["tree"], ["light"], ["cat", "tree"]]
    assert found.arms[2].erasures == {"cat": erasure_digest(membrane), "tree": erasure_digest(delta)}
    assert found.arms[0].rows[1].figures == found.arms[2].rows[1].figures
    after = context.model.pipeline.unet.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_erasures_have_the_same_hash_only_if_they_act_the_same(context: Context, membrane: Membrane) -> None:
    weights = {"unet.conv_in.bias": torch.full((4,), 0.3)}
    delta = WeightDelta(Card(concepts=(CAT,), kind="delta"), weights, "")
    other = WeightDelta(delta.card, {"unet.conv_in.bias": torch.full((4,), 0.2)}, "")
    relicensed = membrane.with_card(licence="MIT")
    found = [erasure_digest(one) for one in (membrane, delta, other, Darker(0.2), Darker(0.3))]
    assert len(set(found)) == len(found)
    assert erasure_digest(relicensed) == erasure_digest(membrane)


def test_a_folder_of_pictures_is_measured_like_a_guard(context: Context, tmp_path: Path) -> None:
    guarded_run, _ = run(context, tmp_path)
    folder = of_task(context, pictures=tmp_path / "run/pictures/guarded")
    missing = replace(PROTOCOL, rows=lambda context, arm: SUBJECTS[:1])
    only, _ = run(folder, tmp_path / "again", missing)
    wanted = next(row for row in guarded_run.arms[0].rows if row.name == "cat")
    found = only.arms[0].rows[0]
    assert found.figures == wanted.figures
    assert only.arms[0].closed == 0
    with pytest.raises(StoreError, match="no picture of 'a dog'"):
        run(folder, tmp_path / "more")
    with pytest.raises(StoreError, match="manifest"):
        run(of_task(context, pictures=tmp_path), tmp_path / "none")


def test_a_folder_of_another_run_is_refused(context: Context, tmp_path: Path) -> None:
    run(context, tmp_path)
    with pytest.raises(StoreError, match="another gate"):
        run(of_task(context, gate="always"), tmp_path)


def test_arms_are_measured_side_by_side(context: Context, tmp_path: Path) -> None:
    def both(context: Context) -> list[ArmPlan]:
        return [ArmPlan("asked only", context.erasures, "by name"), ArmPlan("open", context.erasures, "always")]

    found, _ = run(context, tmp_path, replace(PROTOCOL, arms=both))
    asked, opened = found.arms
    assert (asked.name, opened.name) == ("asked only", "open")
    dogs = [next(row for row in arm.rows if row.name == "dog") for arm in found.arms]
    assert dogs[0].figures["unchanged"].value == 1 and dogs[1].figures["unchanged"].value < 1
    assert asked.rows[0].figures == opened.rows[0].figures
    assert (opened.closed, opened.proof.checked) == (0, 0)


@pytest.mark.parametrize("name", ["ablation", "eta", "rank", "methods"])
def test_protocols_that_make_their_erasures_measure_them_and_never_the_bare_model(
    context: Context, membrane: Membrane, tmp_path: Path, name: str
) -> None:
    made: list[Concept] = []

    def make(concept: Concept, method: str = "", settings: Any = None, *, on: Any = None) -> Membrane:
        made.append(concept)
        return membrane

    protocol = replace(find(name), rows=lambda context, arm: SUBJECTS, proofs=0)
    found, _ = run(replace(context, erasures=(), make=make), tmp_path, protocol)
    assert {concept.name for concept in made} == {"cat"} and len(found.arms) >= 3
    for arm in found.arms:
        assert arm.erasures == {"cat": erasure_digest(membrane)}
        assert arm.rows[0].figures["unchanged"].value < 1
    with pytest.raises(ProtocolError, match="name one with --target"):
        run(replace(context, erasures=(), targets=(), make=make), tmp_path, protocol)


@pytest.mark.parametrize("name", ["ablation", "eta", "rank", "methods"])
def test_a_method_that_would_be_ignored_is_refused(tmp_path: Path, name: str) -> None:
    task = Task(protocol=name, model="terrarium", targets=(CAT,), method="spm-published")
    with pytest.raises(ProtocolError, match=f"{name}.*leave --method out"):
        run_task(task, out=tmp_path, cache=tmp_path)


@pytest.mark.parametrize("protocol", ["multi", "transfer"])
def test_files_that_the_targets_need_are_read_before_anything_is_made(
    model: DiffusionModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    def never(*_: Any, **__: Any) -> Context:
        raise AssertionError("made")

    monkeypatch.setattr("semiperm.evaluation.context.load_model", lambda _: model)
    monkeypatch.setattr("semiperm.evaluation.run.with_erasures", never)
    monkeypatch.setattr(Open, "require", lambda *_: None)
    needed: dict[Kind, str] = {"memorised": "--reference", "style": "--prompts"}
    for kind, option in needed.items():
        concept = Concept(name="Starry Night", kind=kind)
        task = Task(protocol=protocol, model="some/model", targets=(concept,), method="spm", models=("other/model",))
        with pytest.raises(ProtocolError, match=option):
            run_task(task, out=tmp_path, cache=tmp_path)


def test_what_the_world_lacks_is_said_before_anything_is_loaded_or_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> Context:
        raise AssertionError("resolved")

    monkeypatch.setattr("semiperm.evaluation.run.resolve", never)
    task = Task(protocol="objects", model="some/model", targets=(CAT,), method="spm", options={"clip": str(CLIP)})
    with pytest.raises(JudgeError, match="--inception"):
        run_task(task, out=tmp_path, cache=tmp_path)
    with pytest.raises(ProtocolError, match="--prompts"):
        run_task(task.model_copy(update={"protocol": "styles"}), out=tmp_path, cache=tmp_path)
    with pytest.raises(AssertionError, match="resolved"):
        run_task(task.model_copy(update={"protocol": "unlearncanvas"}), out=tmp_path, cache=tmp_path)


def test_what_was_carried_stands_beside_what_was_made_there(context: Context, tmp_path: Path) -> None:
    other = model_of(tiny_pipeline(), "other")
    with torch.no_grad():
        next(other.denoiser.parameters()).mul_(2)
    (membrane,) = (
        erasure.with_card(method="spm", settings={"steps": 2})
        for erasure in context.erasures
        if isinstance(erasure, Membrane)
    )
    weak = Membrane(membrane.card, dict(membrane.down), {path: up * 0 for path, up in membrane.up.items()})
    carrying = replace(
        context, erasures=(membrane,), models=(other,), make=lambda concept, method="", settings=None, *, on=None: weak
    )
    found, _ = run(carrying, tmp_path, replace(PROTOCOL, arms=transfer.arms))
    base, carried, native = found.arms
    assert [arm.model for arm in found.arms] == ["tiny", "other", "other"]
    assert carried.bare_summary == native.bare_summary == native.summary != base.bare_summary
    assert report.native_of(found, carried) == native
    assert report.native_of(found, native) is None


def test_a_guard_that_is_not_the_bare_model_when_closed_is_found_out(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = GuardSource.make
    monkeypatch.setattr(GuardSource, "make", lambda self, shots: real(self, shots) ^ 1)
    found, _ = run(context, tmp_path)
    assert (found.arms[0].proof.checked, found.arms[0].proof.identical) == (4, 0)
    many, _ = run(context, tmp_path / "many", replace(PROTOCOL, proofs=2))
    assert many.arms[0].proof.checked == 2


def test_nothing_is_proved_where_nothing_was_taken_over() -> None:
    nothing: Any = None
    assert prove(nothing, nothing, [], 4, 8) == report.Proof()


def test_a_task_without_pictures_is_refused(context: Context, tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match="no pictures"):
        run(context, tmp_path, replace(PROTOCOL, rows=lambda context, arm: []))


def test_reports_are_read_as_they_were_written(context: Context, tmp_path: Path) -> None:
    found, _ = run(context, tmp_path)
    assert report.load(tmp_path / "run/report.json") == found
    assert found.versions["torch"] == torch.__version__ and found.protocol_version == 3
    (tmp_path / "wrong.json").write_text('{"protocol": "tiny"}')
    with pytest.raises(report.ReportError, match=r"wrong.json is not a report"):
        report.load(tmp_path / "wrong.json")
