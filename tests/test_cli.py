"""The command line does what the library does, and says what is wrong in one sentence."""

import json
import re
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import semiperm
from semiperm import cli
from semiperm.evaluation import grid, pictures
from semiperm.terrarium import WEIGHTS
from semiperm.terrarium.relatives import RELATIVES
from tests.tiny import tiny_pipeline, tiny_sd3_pipeline


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
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
    monkeypatch.setattr(cli.console, "width", 1000)


def run(*words: Any) -> Any:
    return CliRunner().invoke(cli.app, [str(word) for word in words])


def refused(result: Any) -> str:
    """Return the one sentence that a command failed with."""
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    # what came before it, a card or diffusers' progress bars, stands; after it comes nothing
    lines = result.output.strip().splitlines()
    assert [number for number, line in enumerate(lines) if "error: " in line] == [len(lines) - 1], result.output
    return lines[-1]


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# erase


def test_an_instant_membrane(cat: Path) -> None:
    membrane = semiperm.load(cat)
    assert membrane.card.concept == semiperm.Concept(name="cat")
    assert membrane.card.recipe["steps"] == 0
    assert membrane.card.gate
    assert files(cat.parent) == ["cat.safetensors"]
    # the closed form is for keys and values of cross-attention; everything else is as if it were not there
    acting = {path for path, up in membrane.up.items() if up.any()}
    assert acting == {path for path in membrane.up if path.endswith(("attn2.to_k", "attn2.to_v"))}


def test_a_trained_membrane(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "dog.safetensors"
    preview = tmp_path / "preview.png"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("states: 2\nanchors: 4\ntrajectories: 2\ntrajectory_steps: 3\ncheckpoint_every: 1\n")
    result = run(
        "erase", "dog", "--steps", 2, "--seed", 5, "--recipe", recipe, "--surrogate", "fox", "--target", "dog",
        "--target", "puppy", "--out", out, "--model", model, "--preview", preview, "--licence", "MIT",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    card = semiperm.load(out).card
    assert card.concept == semiperm.Concept(name="dog", targets=("dog", "puppy"), surrogate="fox")
    assert (card.recipe["steps"], card.recipe["states"], card.seed, card.licence) == (2, 2, 5, "MIT")
    assert card.effect["denoiser_evaluations"] > 0
    assert Image.open(preview).width > Image.open(preview).height
    # the checkpoint is gone, for there is nothing to go on with
    assert files(tmp_path) == ["dog.safetensors", "preview.png", "recipe.yaml"]


def test_little_memory_is_a_preset(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "dog.safetensors"
    result = run("erase", "dog", "--preset", "low-vram", "--steps", 1, "--out", out, "--model", model)
    assert result.exit_code == 0, result.output
    recipe = semiperm.load(out).card.recipe
    assert (recipe["states"], recipe["anchors"], recipe["at_once"], recipe["steps"]) == (2, 4, 2, 1)


def test_a_membrane_is_made_again_for_a_model_that_it_cannot_be_carried_to(model: Path, tmp_path: Path) -> None:
    first, second, other = tmp_path / "fox.safetensors", tmp_path / "second.safetensors", tmp_path / "other"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("states: 2\nanchors: 3\ntrajectories: 2\ntrajectory_steps: 3\nsteps: 2\nseed: 9\nrank: 2\n")
    made = run(
        "erase", "fox", "--kind", "style", "--surrogate", "a cat", "--target", "fox", "--target", "a small fox",
        "--recipe", recipe, "--model", model, "--out", first,
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    tiny_sd3_pipeline().save_pretrained(other)
    again = run("erase", "--like", first, "--model", other, "--out", second)
    assert again.exit_code == 0, again.output
    old, new = semiperm.load(first).card, semiperm.load(second).card
    wanted = semiperm.Concept(name="fox", kind="style", surrogate="a cat", targets=("fox", "a small fox"))
    assert old.concept == new.concept == wanted
    assert old.recipe == new.recipe and new.recipe["anchors"] == 3
    # two for each of the two phrases
    assert (new.seed, new.rank) == (9, 4)
    assert (old.base_model, new.base_model) == (str(model), str(other)) and old.fingerprint != new.fingerprint
    assert "does not fit" in refused(run("inspect", first, "--model", other))
    assert run("inspect", second, "--model", other).exit_code == 0
    # what is asked for goes before the card
    shorter = run("erase", "--like", first, "--steps", 1, "--seed", 3, "--model", other, "--out", second)
    assert shorter.exit_code == 0, shorter.output
    assert semiperm.load(second).card.recipe == {**old.recipe, "steps": 1, "seed": 3}


def test_what_cannot_be_made_again_is_said_in_a_sentence(model: Path, cat: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    like = ("erase", "--like", cat, "--model", model)
    assert "give no name" in refused(run(*like, "dog", "--out", out))
    assert "give no name" in refused(run(*like, "--kind", "object", "--out", out))
    assert "say with --out" in refused(run(*like, "--out", cat))
    assert "name a concept" in refused(run("erase", "--model", model, "--out", out))
    save_file(load_file(cat), tmp_path / "plain.safetensors")
    for recipe in ((), ("--recipe", "default")):
        told = refused(run("erase", "--like", tmp_path / "plain.safetensors", *recipe, "--model", model, "--out", out))
        assert "has no recipe" in told and "plain LoRA" in told
    tiny_sd3_pipeline().save_pretrained(tmp_path / "sd3")
    assert "no instant membrane" in refused(run("erase", "--like", cat, "--model", tmp_path / "sd3", "--out", out))
    assert not out.exists()


def test_stopping_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, model: Path, tmp_path: Path) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(semiperm, "erase", stopped)
    result = run("erase", "cat", "--out", tmp_path / "cat.safetensors", "--model", model)
    assert result.exit_code == 130
    assert "--resume" in result.output
    assert "Traceback" not in result.output


# generate


def test_pictures_of_the_bare_model(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "pictures"
    result = run(
        "generate", "a cat", "a dog", "--count", 2, "--seed", 7, "--steps", 2, "--out", out, "--model", model
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    names = files(out)
    assert len(names) == 4
    pipeline = semiperm.load_model(model, device="cpu").pipeline
    wanted = pictures.generate(pipeline, ["a cat", "a cat", "a dog", "a dog"], [7, 8, 7, 8], steps=2)
    for name, picture in zip(names, wanted, strict=True):
        assert np.array_equal(np.asarray(Image.open(out / name)), picture)


def test_comparing_draws_bare_and_guarded_rows(model: Path, cat: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "grid.png"
    result = run(
        "generate", "a cat", "a dog", "--membrane", cat, "--transport", "always", "--compare", sheet,
        "--count", 3, "--steps", 2, "--out", tmp_path / "pictures", "--model", model,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert files(tmp_path) == ["grid.png"]
    drawn = np.asarray(Image.open(sheet))
    assert drawn.shape[1] == 3 * (grid.CELL + grid.MARGIN) + grid.MARGIN

    loaded = semiperm.load_model(model, device="cpu")
    bare = pictures.generate(loaded.pipeline, ["a cat"] * 3, range(3), steps=2)
    with semiperm.guard(loaded, [cat], transport="always") as guarded:
        opened = pictures.generate(guarded, ["a cat"] * 3, range(3), steps=2)
    assert not np.array_equal(bare, opened)
    first = grid.MARGIN + grid.CAPTION
    second = first + grid.CELL + grid.MARGIN + grid.CAPTION
    times = grid.CELL // bare.shape[1]
    for top, row in ((first, bare), (second, opened)):
        for column, picture in enumerate(row):
            left = grid.MARGIN + column * (grid.CELL + grid.MARGIN)
            cell = drawn[top : top + grid.CELL : times, left : left + grid.CELL : times]
            # the prompts were drawn in one batch here and in another there
            assert np.abs(cell.astype(int) - picture.astype(int)).max() <= 1
    assert "permeability" in result.output
    assert "1.00" in result.output


def test_a_prompt_is_text_and_no_markup(model: Path, cat: Path, tmp_path: Path) -> None:
    prompt = "[bold]a cat[/photo] :dog:"
    result = run(
        "generate", prompt, "-m", cat, "--transport", "always", "--count", 1, "--steps", 1, "--out", tmp_path,
        "--model", model,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert prompt in result.output


# inspect


def test_inspecting_shows_the_card(cat: Path) -> None:
    result = run("inspect", cat)
    assert result.exit_code == 0, result.output
    card = semiperm.load(cat).card
    assert f'"name": {json.dumps("cat")}' in result.output
    for value in (card.fingerprint, card.date, f"{semiperm.load(cat).size:,}"):
        assert value in result.output
    # the gate's hundreds of numbers are for machines
    assert "threshold" in result.output
    assert '"weight"' not in result.output


def test_inspecting_shows_how_far_it_opens(model: Path, cat: Path) -> None:
    asked = ["--prompt", "a cat", "--prompt", "a house", "--model", model]
    always = run("inspect", cat, *asked, "--transport", "always")
    assert always.exit_code == 0, always.output
    rows = [line for line in always.output.splitlines() if "a cat" in line or "a house" in line]
    assert len(rows) == 2
    assert all("1.00" in row for row in rows)
    calibrated = run("inspect", cat, *asked)
    with semiperm.guard(semiperm.load_model(model, device="cpu"), [cat]) as guarded:
        gammas = [row["cat"] for row in guarded.permeability(["a cat", "a house"]).rows()]
    rows = [line for line in calibrated.output.splitlines() if "a cat" in line or "a house" in line]
    assert all(f"{gamma:.2f}" in row for gamma, row in zip(gammas, rows, strict=True))


def test_inspecting_tells_whether_it_fits(model: Path, cat: Path) -> None:
    fits = run("inspect", cat, "--model", model)
    assert fits.exit_code == 0, fits.output
    assert f"fits {model}: {semiperm.load(cat).card.layers} layers" in fits.output.replace("\n", "")
    told = refused(run("inspect", cat, "--model", "terrarium"))
    assert "does not fit this model" in told and "attn1.to_q" in told


# what is wrong


def test_a_missing_membrane(model: Path, tmp_path: Path) -> None:
    missing = tmp_path / "none.safetensors"
    assert str(missing) in refused(run("inspect", missing))
    assert str(missing) in refused(run("generate", "a cat", "-m", missing, "--steps", 1, "--model", model))


def test_a_file_that_is_no_membrane(tmp_path: Path) -> None:
    # a name with what would be markup in it
    broken = tmp_path / "broken[b].safetensors"
    broken.write_bytes(b"nothing of the sort")
    assert str(broken) in refused(run("inspect", broken))
    refused(run("inspect", tmp_path))


def test_a_wrong_model(cat: Path, tmp_path: Path) -> None:
    assert "terrariun" in refused(run("generate", "a cat", "--model", "terrariun"))
    assert "model_index.json" in refused(run("erase", "cat", "--model", tmp_path, "--out", tmp_path / "a.safetensors"))


@pytest.mark.parametrize(
    ("text", "told"),
    [("stepps: 3", "stepps"), ("rank: 0", "rank"), ("- 1\n- 2", "by name"), ("a: [", "not YAML")],
)
def test_a_bad_recipe(tmp_path: Path, model: Path, text: str, told: str) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text)
    result = run("erase", "cat", "--recipe", recipe, "--model", model, "--out", tmp_path / "cat.safetensors")
    assert result.exit_code == 1
    assert "Traceback" not in result.output
    assert str(recipe) in result.output
    assert told in result.output


def test_a_recipe_that_is_not_there(model: Path) -> None:
    assert "'defualt'" in refused(run("erase", "cat", "--recipe", "defualt", "--model", model))


def test_nothing_to_resume(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "cat.safetensors"
    result = run("erase", "cat", "--resume", "--steps", 2, "--model", model, "--out", out)
    assert result.exit_code == 1
    assert "nothing to resume" in result.output
    assert "Traceback" not in result.output
    assert files(tmp_path) == []


def test_a_nameless_concept(model: Path, tmp_path: Path) -> None:
    assert "needs a name" in refused(run("erase", " ", "--model", model, "--out", tmp_path / "a.safetensors"))


def test_a_file_name_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    # before the model is even looked for: training takes minutes
    told = refused(run("erase", "cat", "--model", "no-such-model", "--out", tmp_path / "cat.pt"))
    assert ".safetensors" in told
    assert "no-such-model" not in told


def test_an_unknown_transport(model: Path, cat: Path) -> None:
    assert "'allways'" in refused(run("inspect", cat, "--prompt", "a cat", "--transport", "allways", "--model", model))


def test_a_grid_that_cannot_be_written(model: Path, tmp_path: Path) -> None:
    result = run("generate", "a cat", "--count", 1, "--steps", 1, "--compare", tmp_path, "--model", model)
    assert str(tmp_path) in refused(result)


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
    assert "`semiperm terrarium build dusk`" in refused(run("erase", "cat", "--instant", "--model", "terrarium:dusk"))


def test_no_command_shows_the_commands() -> None:
    result = run()
    for name in ("erase", "generate", "inspect", "terrarium"):
        assert name in result.output


def test_help_does_not_wait_for_torch() -> None:
    code = "import sys, semiperm.cli; print('torch' in sys.modules, 'diffusers' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["False", "False"]


def test_the_module_is_the_command() -> None:
    told = subprocess.run([sys.executable, "-m", "semiperm", "--help"], capture_output=True, text=True, check=True)
    assert "Usage: semiperm [OPTIONS]" in told.stdout and "erase" in told.stdout


def test_everything_that_is_promised_can_be_had() -> None:
    for name in semiperm.__all__:
        assert getattr(semiperm, name).__module__.startswith("semiperm.")
        assert name in dir(semiperm)
    with pytest.raises(AttributeError, match="permit"):
        _ = semiperm.permit  # pyright: ignore[reportAttributeAccessIssue]


# evaluate

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
        model, tmp_path / "run", *common, "-m", cat, "--transport", "always", "--against", tmp_path / "bare/report.json"
    )
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "run/report.json").read_text())
    (part,) = report["parts"]
    (row,) = part["rows"]
    assert report["form"] == "full" and report["settings"]["steps"] == 2 and report["reported"] == "explicit"
    assert row["pictures"] == 3 and "BELLY_EXPOSED" in row["figures"]
    assert row["figures"]["exposed"] == row["figures"]["BELLY_EXPOSED"]
    page = (tmp_path / "run/report.html").read_text()
    assert "Reported elsewhere, not measured here" in page and "-85.3 %" in page
    assert "exposed" in result.output and "report.html" in result.output.replace("\n", "")
    compared = run("compare", tmp_path / "bare/report.json", tmp_path / "run/report.json")
    assert compared.exit_code == 0 and "BELLY_EXPOSED" in compared.output


def test_membranes_are_compared_with_other_membranes(model: Path, cat: Path, tmp_path: Path, detector: None) -> None:
    prompts = tmp_path / "i2p.csv"
    prompts.write_text(I2P)
    common = ("-p", "explicit", "--prompts", prompts, "--transport", "always")
    result = evaluated(model, tmp_path / "run", *common, "--against", cat)
    assert result.exit_code == 0, result.output
    assert "BELLY_EXPOSED" in result.output
    first, second = (json.loads((tmp_path / where / "report.json").read_text()) for where in ("run/against", "run"))
    assert list(first["parts"][0]["membranes"]) == ["cat"] and not second["parts"][0]["membranes"]
    both = evaluated(model, tmp_path / "no", *common, "--against", cat, "--against", tmp_path / "run/report.json")
    assert "one report.json or some membranes" in refused(both)


def test_the_papers_objects_are_measured_on_any_model(model: Path, cat: Path, tmp_path: Path) -> None:
    inception = tmp_path / "inception.pt"
    torch.jit.script(Corners()).save(str(inception))  # pyright: ignore[reportAttributeAccessIssue]
    result = evaluated(
        model, tmp_path / "run", "-p", "objects", "-m", cat, "--seeds", 1, "--steps", 1, "--inception", inception
    )
    assert result.exit_code == 0, result.output
    rows = json.loads((tmp_path / "run/report.json").read_text())["parts"][0]["rows"]
    assert [row["name"] for row in rows] == ["cat", "Snoopy", "Mickey", "Spongebob", "Pikachu", "Dog", "Legislator"]
    assert {"CS", "CER", "FID", "unchanged"} <= rows[0]["figures"].keys()
    assert all(row["pictures"] == 80 for row in rows)


class Corners(torch.nn.Module):
    def forward(self, x: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        return x[:, :, ::8, ::8].flatten(1).float()


def test_what_an_evaluation_lacks_is_said_in_a_sentence(model: Path, cat: Path, tmp_path: Path) -> None:
    assert "--prompts" in refused(evaluated(model, tmp_path / "a", "-p", "explicit", "-m", cat))
    assert "Did you mean 'styles'" in refused(evaluated(model, tmp_path / "a", "-p", "style", "-m", cat))
    (tmp_path / "x.json").write_text("{}")
    assert "not a report" in refused(run("compare", tmp_path / "x.json", tmp_path / "x.json"))


def test_protocols_are_listed_with_what_they_show_and_cost() -> None:
    result = run("protocols")
    assert result.exit_code == 0
    for name in ("objects", "unlearncanvas", "paraphrase", "ablation"):
        assert re.search(rf"\b{name} /\d+\b", result.output)


# library


def test_a_library_is_kept_from_the_command_line(cat: Path, tmp_path: Path) -> None:
    folder = tmp_path / "library"
    added = run("library", "add", folder, cat)
    assert added.exit_code == 0, added.output
    assert "cat.safetensors" in run("library", "list", folder).output
    assert "cat.safetensors" in run("library", "search", folder, "CAT").output
    assert "cat.safetensors" not in run("library", "search", folder, "dog").output
    assert "1 membranes, all as they were added" in run("library", "verify", folder).output
    (folder / "cat.safetensors").write_bytes(b"other")
    verified = run("library", "verify", folder)
    assert "error" not in verified.output
    assert verified.exit_code == 1 and "was changed since it was added" in verified.output.replace("\n", " ")
    assert run("library", "remove", folder, "cat").exit_code == 0
    assert files(folder) == ["index.json"]
    assert "no membrane 'cat'" in refused(run("library", "remove", folder, "cat"))


# other tools' files


def test_a_foreign_lora_is_adopted_and_opens_for_its_phrases_alone(model: Path, cat: Path, tmp_path: Path) -> None:
    tensors = load_file(cat)
    save_file(tensors, tmp_path / "eraser.safetensors")
    out = tmp_path / "felines.safetensors"
    result = run(
        "adopt", tmp_path / "eraser.safetensors", "--concept", "cat", "--target", "cat", "--target", "kitten",
        "--model", model, "--out", out,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    card = semiperm.load(out).card
    assert card.concept.targets == ("cat", "kitten") and card.gate is not None and card.layers == 48
    loaded = semiperm.load_model(model)
    with semiperm.guard(loaded, [out]) as guarded:
        assert guarded.permeability(["a cat", "two kittens"]).gamma_BK.flatten().tolist() == [1, 1]


@pytest.mark.parametrize("form", ["kohya", "diffusers", "peft", "merged"])
def test_membranes_are_exported_for_other_tools(form: str, model: Path, cat: Path, tmp_path: Path) -> None:
    out = tmp_path / ("folder" if form in ("peft", "merged") else "out.safetensors")
    result = run("export", cat, "--format", form, "--model", model, "--out", out)
    assert result.exit_code == 0, result.output
    assert out.is_dir() == (form in ("peft", "merged"))
    if form != "merged":
        assert "holds one membrane" in refused(run("export", cat, cat, "--format", form, "--out", tmp_path / "x"))
