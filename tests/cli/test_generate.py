"""`semiperm generate` and `inspect`."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

import semiperm
from semiperm import pictures
from semiperm.pictures import CAPTION, CELL, MARGIN
from tests.cli.command import files, refused, run

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
        "generate", "a cat", "a dog", "--membrane", cat, "--gate", "always", "--compare", sheet,
        "--count", 3, "--steps", 2, "--out", tmp_path / "pictures", "--model", model,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert files(tmp_path) == ["grid.png"]
    drawn = np.asarray(Image.open(sheet))
    assert drawn.shape[1] == 3 * (CELL + MARGIN) + MARGIN

    loaded = semiperm.load_model(model, device="cpu")
    bare = pictures.generate(loaded.pipeline, ["a cat"] * 3, range(3), steps=2)
    with semiperm.guard(loaded, [cat], gate="always") as guarded:
        opened = pictures.generate(guarded, ["a cat"] * 3, range(3), steps=2)
    assert not np.array_equal(bare, opened)
    first = MARGIN + CAPTION
    second = first + CELL + MARGIN + CAPTION
    times = CELL // bare.shape[1]
    for top, row in ((first, bare), (second, opened)):
        for column, picture in enumerate(row):
            left = MARGIN + column * (CELL + MARGIN)
            cell = drawn[top : top + CELL : times, left : left + CELL : times]
            # The batches differ, and arithmetic depends on the batch.
            assert np.abs(cell.astype(int) - picture.astype(int)).max() <= 1
    assert "permeability" in result.output
    assert "1.00" in result.output


def test_a_prompt_is_text_and_no_markup(model: Path, cat: Path, tmp_path: Path) -> None:
    prompt = "[bold]a cat[/photo] :dog:"
    result = run(
        "generate", prompt, "-m", cat, "--gate", "always", "--count", 1, "--steps", 1, "--out", tmp_path,
        "--model", model,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert prompt in result.output


def test_a_grid_that_cannot_be_written(model: Path, tmp_path: Path) -> None:
    result = run("generate", "a cat", "--count", 1, "--steps", 1, "--compare", tmp_path, "--model", model)
    assert str(tmp_path) in refused(result)


# inspect


def test_inspecting_shows_the_card(cat: Path) -> None:
    result = run("inspect", cat)
    assert result.exit_code == 0, result.output
    loaded = semiperm.load(cat)
    assert isinstance(loaded, semiperm.Membrane)
    assert f'"name": {json.dumps("cat")}' in result.output
    for value in ("spm", loaded.card.fingerprint, loaded.card.date, f"{loaded.size:,}"):
        assert value in result.output
    # The gate's hundreds of weights are not for reading.
    assert "threshold" in result.output
    assert '"weight"' not in result.output


def test_inspecting_shows_how_far_it_opens(model: Path, cat: Path) -> None:
    asked = ["--prompt", "a cat", "--prompt", "a house", "--model", model]
    always = run("inspect", cat, *asked, "--gate", "always")
    assert always.exit_code == 0, always.output
    rows = [line for line in always.output.splitlines() if "a cat" in line or "a house" in line]
    assert len(rows) == 2
    assert all("1.00" in row for row in rows)
    fitted = run("inspect", cat, *asked)
    with semiperm.guard(semiperm.load_model(model, device="cpu"), [cat]) as guarded:
        gammas = [row["cat"] for row in guarded.permeability(["a cat", "a house"]).rows()]
    rows = [line for line in fitted.output.splitlines() if "a cat" in line or "a house" in line]
    assert all(f"{gamma:.2f}" in row for gamma, row in zip(gammas, rows, strict=True))


def test_inspecting_shows_whether_it_fits(model: Path, cat: Path, tmp_path: Path) -> None:
    fits = run("inspect", cat, "--model", model)
    assert fits.exit_code == 0, fits.output
    assert f"fits {model}: {semiperm.load(cat).card.layers} layers" in fits.output.replace("\n", "")
    message = refused(run("inspect", cat, "--model", "terrarium"))
    assert "does not fit this model" in message and "attn1.to_q" in message
    # without a gate
    save_file(load_file(cat), tmp_path / "plain.safetensors")
    assert "fits" in run("inspect", tmp_path / "plain.safetensors", "--model", model).output


@pytest.mark.parametrize("command", [("inspect",), ("generate", "a cat", "-m")])
def test_an_unknown_gate(command: tuple[str, ...], model: Path, cat: Path) -> None:
    more = ("--prompt", "a cat") if command == ("inspect",) else ()
    message = refused(run(*command, cat, *more, "--gate", "allways", "--model", model))
    assert "'allways'" in message and "Did you mean 'always'?" in message
