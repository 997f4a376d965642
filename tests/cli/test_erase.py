"""`semiperm erase`, `adopt` and `methods`."""

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import semiperm
from semiperm.cli import erase as command
from semiperm.methods.method import METHODS
from semiperm.methods.spm.settings import LOW_VRAM
from semiperm.methods.training import beside
from tests.cli.command import files, refused, run
from tests.tiny import tiny_sd3_pipeline

FEW = ("--set", "states=2", "--set", "anchors=4", "--set", "trajectories=2", "--set", "trajectory_steps=3")


def card(path: Path) -> semiperm.Card:
    return semiperm.load(path).card


# making


def test_an_instant_membrane(cat: Path) -> None:
    membrane = semiperm.load(cat)
    assert isinstance(membrane, semiperm.Membrane)
    assert membrane.card.concept == semiperm.Concept(name="cat")
    assert membrane.card.settings["steps"] == 0
    assert membrane.card.gate
    assert files(cat.parent) == ["cat.safetensors"]
    # The closed form is for keys and values of cross-attention; all other layers change nothing.
    acting = {path for path, up in membrane.up.items() if up.any()}
    assert acting == {path for path in membrane.up if path.endswith(("attn2.to_k", "attn2.to_v"))}


def test_a_trained_membrane(model: Path, tmp_path: Path) -> None:
    out, preview, settings = tmp_path / "dog.safetensors", tmp_path / "preview.png", tmp_path / "settings.yaml"
    settings.write_text("states: 2\nanchors: 4\ntrajectories: 2\ntrajectory_steps: 3\ncheckpoint_every: 1\n")
    result = run(
        "erase", "dog", "--steps", 2, "--seed", 5, "--settings", settings, "--surrogate", "fox", "--target", "dog",
        "--target", "puppy", "--out", out, "--model", model, "--preview", preview, "--licence", "MIT",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    made = card(out)
    assert made.concept == semiperm.Concept(name="dog", targets=("dog", "puppy"), surrogate="fox")
    assert (made.settings["steps"], made.settings["states"], made.seed, made.licence) == (2, 2, 5, "MIT")
    evaluations = made.effect["denoiser_evaluations"]
    assert evaluations > 0
    assert f"target moved {made.effect['target_moved']:.2f}" in result.output
    assert f"{evaluations:.0f} denoiser evaluations" in result.output
    assert Image.open(preview).width > Image.open(preview).height
    # The checkpoint is gone, because there is nothing to resume.
    assert files(tmp_path) == ["dog.safetensors", "preview.png", "settings.yaml"]


def test_little_memory_is_a_preset(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "dog.safetensors"
    result = run("erase", "dog", "--preset", "low-vram", "--steps", 1, "--out", out, "--model", model)
    assert result.exit_code == 0, result.output
    settings = card(out).settings
    assert {name: settings[name] for name in (*LOW_VRAM, "steps")} == {**LOW_VRAM, "steps": 1}


def test_later_settings_override_earlier_ones(model: Path, tmp_path: Path) -> None:
    out, settings = tmp_path / "dog.safetensors", tmp_path / "settings.yaml"
    settings.write_text("states: 3\nsteps: 9\nseed: 9\neta: 2.0\ntrajectories: 2\ntrajectory_steps: 3\n")
    result = run(
        "erase", "dog", "--preset", "low-vram", "--settings", settings, "--steps", 3, "--seed", 4,
        "--set", "steps=1", "--set", "more_anchors=[a barn]", "--out", out, "--model", model,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    found = card(out).settings
    # from the preset, the file, the options, and --set
    assert (found["anchors"], found["states"], found["eta"], found["seed"], found["steps"]) == (4, 3, 2.0, 4, 1)
    assert found["more_anchors"] == ["a barn"]


def test_another_method(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "dog.safetensors"
    result = run("erase", "dog", "--method", "spm-published", "--steps", 1, "--out", out, "--model", model)
    assert result.exit_code == 0, result.output
    assert card(out).method == "spm-published"
    assert "Did you mean 'spm-published'" in refused(run("erase", "dog", "--method", "spm-publishd", "--out", out))


def test_the_device_is_that_of_the_model(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "dog.safetensors"
    made = run("erase", "dog", "--instant", "--device", "cpu", "--out", out, "--model", model)
    assert made.exit_code == 0, made.output
    other = tmp_path / "other.safetensors"
    assert "'gpu'" in refused(run("erase", "dog", "--instant", "--device", "gpu", "--out", other, "--model", model))


# --like


def test_a_membrane_is_made_again_for_a_model_that_it_cannot_be_carried_to(model: Path, tmp_path: Path) -> None:
    first, second, other = tmp_path / "fox.safetensors", tmp_path / "second.safetensors", tmp_path / "other"
    settings = tmp_path / "settings.yaml"
    settings.write_text("states: 2\nanchors: 3\ntrajectories: 2\ntrajectory_steps: 3\nsteps: 2\nseed: 9\nrank: 2\n")
    made = run(
        "erase", "fox", "--kind", "style", "--surrogate", "a cat", "--target", "fox", "--target", "a small fox",
        "--settings", settings, "--model", model, "--out", first,
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    tiny_sd3_pipeline().save_pretrained(other)
    again = run("erase", "--like", first, "--model", other, "--out", second)
    assert again.exit_code == 0, again.output
    old, new = card(first), card(second)
    wanted = semiperm.Concept(name="fox", kind="style", surrogate="a cat", targets=("fox", "a small fox"))
    assert old.concept == new.concept == wanted
    assert old.method == new.method == "spm"
    assert old.settings == new.settings and new.settings["anchors"] == 3
    # two for each of the two phrases
    assert (new.seed, new.rank) == (9, 4)
    assert (old.base_model, new.base_model) == (str(model), str(other)) and old.fingerprint != new.fingerprint
    assert "does not fit" in refused(run("inspect", first, "--model", other))
    assert run("inspect", second, "--model", other).exit_code == 0
    # Options override the card.
    settings.write_text("anchors: 5\n")
    shorter = run(
        "erase", "--like", first, "--settings", settings, "--steps", 1, "--seed", 3, "--model", other, "--out", second,
        "--force",
    )  # fmt: skip
    assert shorter.exit_code == 0, shorter.output
    assert card(second).settings == {**old.settings, "anchors": 5, "steps": 1, "seed": 3}


def test_what_cannot_be_made_again_is_said_in_a_sentence(model: Path, cat: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    like = ("erase", "--like", cat, "--model", model)
    assert "give no name" in refused(run(*like, "dog", "--out", out))
    assert "give no name" in refused(run(*like, "--kind", "object", "--out", out))
    assert "with --out" in refused(run(*like, "--out", cat))
    assert "name of a concept" in refused(run("erase", "--model", model, "--out", out))
    save_file(load_file(cat), tmp_path / "plain.safetensors")
    for more in ((), ("--method", "spm"), ("--set", "rank=2")):
        message = refused(run("erase", "--like", tmp_path / "plain.safetensors", *more, "--model", model, "--out", out))
        assert "does not say how it was made" in message and "plain LoRA" in message
    tiny_sd3_pipeline().save_pretrained(tmp_path / "sd3")
    assert "no closed form" in refused(run("erase", "--like", cat, "--model", tmp_path / "sd3", "--out", out))
    assert not out.exists()


# settings


@pytest.mark.parametrize(
    ("text", "named"),
    [("stepps: 3", "stepps"), ("rank: 0", "rank"), ("- 1\n- 2", "by name"), ("a: [", "not YAML")],
)
def test_a_bad_settings_file(tmp_path: Path, model: Path, text: str, named: str) -> None:
    settings = tmp_path / "settings.yaml"
    settings.write_text(text)
    message = refused(
        run("erase", "cat", "--settings", settings, "--model", model, "--out", tmp_path / "a.safetensors")
    )
    assert str(settings) in message
    assert named in message


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("stepps=3", "Did you mean 'steps'?"),
        ("rank=0", "--set rank=0: rank: "),
        ("eta=.inf", "--set eta=.inf: eta: "),
        ("rank", "NAME=VALUE"),
        ("=3", "NAME=VALUE"),
        ("rank=[", "not YAML"),
    ],
)
def test_a_bad_setting(text: str, named: str, tmp_path: Path) -> None:
    # before the model is looked for
    out = tmp_path / "cat.safetensors"
    assert named in refused(run("erase", "cat", "--set", text, "--model", "no-such-model", "--out", out))


def test_a_settings_file_that_is_not_there(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "cat.safetensors"
    assert "no-such.yaml" in refused(run("erase", "cat", "--settings", "no-such.yaml", "--model", model, "--out", out))


def test_a_nameless_concept(model: Path, tmp_path: Path) -> None:
    assert "needs a name" in refused(run("erase", " ", "--model", model, "--out", tmp_path / "a.safetensors"))


# the output file


def test_a_file_name_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    # before the model is even looked for: training takes minutes
    message = refused(run("erase", "cat", "--model", "no-such-model", "--out", tmp_path / "cat.pt"))
    assert ".safetensors" in message
    assert "no-such-model" not in message


def test_a_folder_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.safetensors").mkdir()
    for out in (tmp_path / "file" / "cat.safetensors", tmp_path / "folder.safetensors"):
        message = refused(run("erase", "cat", "--model", "no-such-model", "--out", out))
        assert str(out) in message and "cannot be written" in message
    preview = ("--preview", tmp_path / "file" / "preview.png")
    assert "preview.png" in refused(run("erase", "cat", "--model", "no", "--out", tmp_path / "a.safetensors", *preview))


# stopping and resuming


def test_a_stopped_run_that_is_resumed_gives_the_same_file(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = tmp_path / "whole" / "dog.safetensors", tmp_path / "parts" / "dog.safetensors"
    steps = ("erase", "dog", "--steps", 5, *FEW, "--model", model)
    uninterrupted = run(*steps, "--out", whole)
    assert uninterrupted.exit_code == 0, uninterrupted.output
    before = signal.getsignal(signal.SIGINT)

    with monkeypatch.context() as patch:
        interrupting(patch, {3: 1})
        stopped = run(*steps, "--out", parts)
    assert stopped.exit_code == 130
    assert "stopped; the checkpoint is kept, resume with --resume" in stopped.output
    assert files(parts.parent) == [beside(parts).name]
    assert signal.getsignal(signal.SIGINT) is before

    resumed = run(*steps, "--out", parts, "--resume")
    assert resumed.exit_code == 0, resumed.output
    assert parts.read_bytes() == whole.read_bytes()
    assert files(parts.parent) == [parts.name]


def test_a_second_interrupt_stops_at_once(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "dog.safetensors"
    before = signal.getsignal(signal.SIGINT)
    interrupting(monkeypatch, {2: 2})
    stopped = run("erase", "dog", "--steps", 5, *FEW, "--out", out, "--model", model)
    assert stopped.exit_code == 130
    # The step at hand was not finished, so that there is no checkpoint.
    assert stopped.output.strip().splitlines()[-1] == "stopped"
    assert files(tmp_path) == []
    assert signal.getsignal(signal.SIGINT) is before


def test_before_the_first_step_an_interrupt_stops_at_once(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("the interrupt was ignored")

    monkeypatch.setattr(semiperm, "erase", interrupted)
    out = tmp_path / "cat.safetensors"
    stopped = run("erase", "cat", "--out", out, "--model", model)
    assert stopped.exit_code == 130
    assert "--resume" not in stopped.output and "Traceback" not in stopped.output
    # a checkpoint of an earlier run
    beside(out).write_text("")
    stopped = run("erase", "cat", "--out", out, "--resume", "--model", model)
    assert stopped.exit_code == 130
    assert "the checkpoint is kept, resume with --resume" in stopped.output


def interrupting(patch: pytest.MonkeyPatch, presses: Mapping[int, int]) -> None:
    """Press Ctrl-C so many times after some steps."""
    real = command.bar

    def bar() -> Any:
        shown = real()

        class Pressing:
            def __enter__(self) -> Any:
                show = shown.__enter__()

                def pressed(name: str, done: int, total: int, figures: Mapping[str, float]) -> None:
                    show(name, done, total, figures)
                    for _ in range(presses.get(done, 0)):
                        signal.raise_signal(signal.SIGINT)

                return pressed

            def __exit__(self, *exception: Any) -> Any:
                return shown.__exit__(*exception)

        return Pressing()

    patch.setattr(command, "bar", bar)


def test_nothing_to_resume(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "cat.safetensors"
    assert "nothing to resume" in refused(run("erase", "cat", "--resume", "--steps", 2, "--model", model, "--out", out))
    assert files(tmp_path) == []


# adopt and methods


def test_a_foreign_lora_is_adopted_and_opens_for_its_phrases_alone(model: Path, cat: Path, tmp_path: Path) -> None:
    save_file(load_file(cat), tmp_path / "eraser.safetensors")
    out = tmp_path / "felines.safetensors"
    result = run(
        "adopt", tmp_path / "eraser.safetensors", "--concept", "cat", "--target", "cat", "--target", "kitten",
        "--model", model, "--out", out,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    made = card(out)
    assert made.concept.targets == ("cat", "kitten") and made.gate is not None and made.layers == 48
    loaded = semiperm.load_model(model)
    with semiperm.guard(loaded, [out]) as guarded:
        gamma_BK = guarded.permeability(["a cat", "two kittens"]).gamma_BK
        assert torch.equal(gamma_BK, torch.ones(2, 1))


def test_methods_are_listed_with_what_they_need_and_cost() -> None:
    result = run("methods")
    assert result.exit_code == 0, result.output
    for name in METHODS:
        (line,) = (line for line in result.output.splitlines() if f" {name} " in line)
        assert "membrane" in line and "arXiv:2312.16145" in line


def test_a_method_whose_package_is_missing_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "other", "semiperm.no_such_module")
    result = run("methods")
    assert result.exit_code == 0, result.output
    assert "not available here: No module named 'semiperm.no_such_module'" in result.output
