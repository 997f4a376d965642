"""A relative is an ordinary diffusers folder, built once; a stopped build resumes to the same weights."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from safetensors.torch import load_file

from semiperm.errors import ModelLoadError, RelativeError
from semiperm.methods.training import Progress
from semiperm.models import names
from semiperm.models.load import load_model
from semiperm.pictures import generate
from semiperm.terrarium import WEIGHTS, scenes
from semiperm.terrarium.captions import prompt
from semiperm.terrarium.making import build as building
from semiperm.terrarium.making import loop
from semiperm.terrarium.oracle import load_oracle
from semiperm.terrarium.relatives import MADE_FROM, RELATIVES, built, is_built
from semiperm.terrarium.world import OBJECT_NAMES
from tests.terrarium.helpers import noise_dataset, tiny

FAMILIES = {
    "fine-tune": ("StableDiffusionPipeline", "epsilon"),
    "v-prediction": ("StableDiffusionPipeline", "v_prediction"),
    "xl": ("StableDiffusionXLPipeline", "epsilon"),
    "flow": ("StableDiffusion3Pipeline", "flow"),
}


@pytest.fixture(autouse=True)
def noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train on noise instead of rendering scenes; a resumed build finds its training set."""

    def render(folder: Path, count: int, seed: int, style: str) -> Any:
        return building.Dataset(folder) if folder.exists() else noise_dataset(folder, 6)

    monkeypatch.setattr(building, "render", render)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_relative_is_an_ordinary_folder_made_once(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    relative = tiny(family)
    folder = building.build(relative, tmp_path)
    # the working folder is gone
    assert [path.name for path in (tmp_path / "terrarium").iterdir()] == [family]
    # diffusers asks for SD3's T5 unless it is None
    absent = {"text_encoder_3": None, "tokenizer_3": None} if family == "flow" else {}
    pipeline: Any = DiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32, **absent)
    pictures = generate(pipeline, ["a cat"], [0], steps=2)
    assert pictures.shape == (1, scenes.SIZE, scenes.SIZE, 3)
    model = load_model(folder, device="cpu")
    assert (type(pipeline).__name__, model.prediction_type) == FAMILIES[family]
    assert np.array_equal(generate(model.pipeline, ["a cat"], [0], steps=2), pictures)

    monkeypatch.setattr(building, "_train", None)
    assert building.build(relative, tmp_path) == folder
    monkeypatch.undo()
    monkeypatch.setitem(RELATIVES, family, relative)
    assert built(family, tmp_path) == folder
    monkeypatch.setitem(RELATIVES, family, relative.model_copy(update={"seed": 5}))
    with pytest.raises(RelativeError, match="was built with other hyperparameters"):
        built(family, tmp_path)


def test_a_fine_tune_has_the_terrariums_architecture_and_other_weights(tmp_path: Path) -> None:
    folder = building.build(tiny("fine-tune"), tmp_path)
    assert load_model(folder, device="cpu").fingerprint() == load_model(device="cpu").fingerprint()
    name = "unet/diffusion_pytorch_model.safetensors"
    base, own = load_file(WEIGHTS / name), load_file(folder / name)
    assert {key: value.shape for key, value in own.items()} == {key: value.shape for key, value in base.items()}
    assert any(not torch.equal(own[key], base[key]) for key in own)
    # two steps change little
    assert all(torch.allclose(own[key].float(), base[key].float(), atol=0.01) for key in own)


def test_a_stopped_build_resumes_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    relative = tiny("fine-tune")
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
    drawn = building.choose
    asked: list[int] = []

    def stopping(seed: int, step: int, *more: int) -> np.ndarray:
        asked.append(step)
        if asked == [0, 1]:
            raise KeyboardInterrupt
        return drawn(seed, step, *more)

    monkeypatch.setattr(building, "choose", stopping)
    with pytest.raises(KeyboardInterrupt):
        building.build(relative, tmp_path / "stopped")
    with pytest.raises(RelativeError):
        built("dusk", tmp_path / "stopped")
    stopped = building.build(relative, tmp_path / "stopped")
    assert asked == [0, 1, 1]
    at_once = building.build(relative, tmp_path / "at once")
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
    building.build("dusk")
    assert load_model("terrarium:dusk", device="cpu").name == "terrarium:dusk"


def test_building_reports_its_progress(tmp_path: Path) -> None:
    progress: list[Progress] = []
    building.build(tiny("xl"), tmp_path, progress.append)
    assert [(one.name, one.step, one.steps) for one in progress] == [
        ("tower", 1, 1),
        ("denoiser", 1, 2),
        ("denoiser", 2, 2),
    ]


def test_a_relative_with_other_fields_counts_as_not_built(tmp_path: Path) -> None:
    record = tmp_path / "terrarium" / "dusk" / MADE_FROM
    record.parent.mkdir(parents=True)
    record.write_text('{"name": "dusk", "look": "dusk"}')
    assert not is_built(RELATIVES["dusk"], tmp_path)
    with pytest.raises(RelativeError, match="was built with other hyperparameters"):
        built("dusk", tmp_path)


def test_the_terrarium_is_a_model_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEMIPERM_CACHE", str(tmp_path))
    assert names.locate("terrarium") == WEIGHTS
    with pytest.raises(RelativeError, match="terrarium:dusk is not built"):
        names.locate("terrarium:dusk")
    monkeypatch.setattr("semiperm.terrarium.WEIGHTS", tmp_path / "none")
    with pytest.raises(
        ModelLoadError, match=r"not at .*none: this installation is incomplete.*semiperm terrarium train"
    ):
        names.locate("terrarium")


def test_importing_the_terrarium_imports_nothing_heavy() -> None:
    code = "import sys, semiperm.terrarium; print(*{'torch', 'diffusers', 'numpy', 'pydantic'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in RELATIVES if name != "flow"])
def test_the_oracle_names_what_a_built_relative_draws(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    pipeline = load_model(building.build(name, tmp_path), device="cpu").pipeline
    seeds = [1000 * number for number in range(len(OBJECT_NAMES))]
    verdicts = load_oracle()(generate(pipeline, [prompt(name) for name in OBJECT_NAMES], seeds))
    assert np.mean([name in verdict.found for name, verdict in zip(OBJECT_NAMES, verdicts, strict=True)]) >= 0.9
