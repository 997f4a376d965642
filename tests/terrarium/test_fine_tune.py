"""A relative is an ordinary diffusers folder, made once; a stopped build goes on, and all start from the base."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from safetensors.torch import load_file

from semiperm.evaluation.pictures import generate
from semiperm.evaluation.terrarium import measure
from semiperm.models.load import TERRARIUM, ModelLoadError, load_model
from semiperm.terrarium import fine_tune, loop, scenes
from semiperm.terrarium.oracle import load_oracle
from semiperm.terrarium.relatives import RELATIVES, RelativeError, built
from tests.terrarium.helpers import needs_font, noise_dataset, tiny

FAMILIES = {
    "fine-tune": ("StableDiffusionPipeline", "epsilon"),
    "v-prediction": ("StableDiffusionPipeline", "v_prediction"),
    "xl": ("StableDiffusionXLPipeline", "epsilon"),
    "flow": ("StableDiffusion3Pipeline", "flow"),
}


@pytest.fixture(autouse=True)
def noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train on noise, so that no font is needed; a stopped build finds what it has rendered."""

    def render(folder: Path, recipe: object, look: str) -> Any:
        return fine_tune.Dataset(folder) if folder.exists() else noise_dataset(folder, 6)

    monkeypatch.setattr(fine_tune, "render", render)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_relative_is_an_ordinary_folder_made_once(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny(family)
    folder = fine_tune.build(recipe, tmp_path)
    # nothing of the making is left
    assert [path.name for path in (tmp_path / "terrarium").iterdir()] == [family]
    # diffusers wants to be told that SD3's T5 was left out
    absent = {"text_encoder_3": None, "tokenizer_3": None} if family == "flow" else {}
    pipeline: Any = DiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32, **absent)
    pictures = generate(pipeline, ["a cat"], [0], steps=2)
    assert pictures.shape == (1, scenes.SIZE, scenes.SIZE, 3)
    model = load_model(folder, device="cpu")
    assert (type(pipeline).__name__, model.prediction_type) == FAMILIES[family]
    assert np.array_equal(generate(model.pipeline, ["a cat"], [0], steps=2), pictures)

    monkeypatch.setattr(fine_tune, "_trained", None)
    assert fine_tune.build(recipe, tmp_path) == folder
    monkeypatch.undo()
    monkeypatch.setitem(RELATIVES, family, recipe)
    assert built(family, tmp_path) == folder
    monkeypatch.setitem(RELATIVES, family, recipe.model_copy(update={"seed": 5}))
    with pytest.raises(RelativeError, match="older recipe"):
        built(family, tmp_path)


def test_a_fine_tune_has_the_bases_architecture_and_other_weights(tmp_path: Path) -> None:
    folder = fine_tune.build(tiny("fine-tune"), tmp_path)
    assert load_model(folder, device="cpu").fingerprint() == load_model(device="cpu").fingerprint()
    name = "unet/diffusion_pytorch_model.safetensors"
    base, own = load_file(TERRARIUM / name), load_file(folder / name)
    assert {key: value.shape for key, value in own.items()} == {key: value.shape for key, value in base.items()}
    assert any(not torch.equal(own[key], base[key]) for key in own)
    # two steps do not lead far
    assert all(torch.allclose(own[key].float(), base[key].float(), atol=0.01) for key in own)


def test_a_stopped_build_goes_on_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tiny("fine-tune")
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
    drawn = fine_tune.choose
    asked: list[int] = []

    def stopping(seed: int, step: int, *more: int) -> np.ndarray:
        asked.append(step)
        if asked == [0, 1]:
            raise KeyboardInterrupt
        return drawn(seed, step, *more)

    monkeypatch.setattr(fine_tune, "choose", stopping)
    with pytest.raises(KeyboardInterrupt):
        fine_tune.build(recipe, tmp_path / "stopped")
    with pytest.raises(RelativeError):
        built("dusk", tmp_path / "stopped")
    stopped = fine_tune.build(recipe, tmp_path / "stopped")
    assert asked == [0, 1, 1]
    at_once = fine_tune.build(recipe, tmp_path / "at once")
    name = "unet/diffusion_pytorch_model.safetensors"
    one, other = load_file(stopped / name), load_file(at_once / name)
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_relatives_load_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEMIPERM_CACHE", str(tmp_path))
    with pytest.raises(ModelLoadError, match=r"terrarium:dusk is not built .*semiperm terrarium build dusk"):
        load_model("terrarium:dusk")
    with pytest.raises(ModelLoadError, match="no relative 'dawn'; it has: dusk, .*xl"):
        load_model("terrarium:dawn")
    monkeypatch.setitem(RELATIVES, "dusk", tiny("fine-tune").model_copy(update={"name": "dusk"}))
    fine_tune.build("dusk")
    assert load_model("terrarium:dusk", device="cpu").name == "terrarium:dusk"


@needs_font
@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in RELATIVES if name != "flow"])
def test_the_oracle_names_what_a_built_relative_draws(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    found = measure(load_model(fine_tune.build(name, tmp_path), device="cpu").pipeline, load_oracle(), 1)
    assert found[0].value >= 0.9
