"""A minute of tests that use every library below semiperm; CI runs them with the lowest supported versions as well."""

import importlib
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from peft import PeftModel

import semiperm
from semiperm.evaluation import estimate
from semiperm.files import hub
from semiperm.files.export import export
from semiperm.membrane import Membrane
from semiperm.models.load import model_of
from semiperm.models.model import DiffusionModel
from semiperm.pictures import generate
from semiperm.reports import page
from semiperm.terrarium import WEIGHTS
from semiperm.terrarium.oracle import load_oracle
from tests import tiny
from tests.helpers import card, random_membrane, same_bits
from tests.reports.helpers import cat_erased, report_of

FAMILIES: dict[str, Callable[[], Any]] = {
    "sd": tiny.tiny_pipeline,
    "xl": tiny.tiny_xl_pipeline,
    "sd3": tiny.tiny_sd3_pipeline,
    "flux": tiny.tiny_flux_pipeline,
    "pixart": tiny.tiny_pixart_pipeline,
    "qwen": tiny.tiny_qwen_pipeline,
}


@pytest.fixture(scope="module")
def terrarium() -> DiffusionModel:
    return semiperm.load_model(device="cpu")


@pytest.fixture(scope="module")
def cat(terrarium: DiffusionModel) -> Membrane:
    made = semiperm.erase(terrarium, "cat", settings={"steps": 0})
    assert isinstance(made, Membrane)
    return made


def test_every_module_imports() -> None:
    for module in pkgutil.walk_packages(semiperm.__path__, "semiperm."):
        importlib.import_module(module.name)


def test_the_terrarium_draws_what_it_is_asked_for(terrarium: DiffusionModel) -> None:
    # Weights that a library did not recognise would be random, and it only warns of that.
    verdicts = load_oracle()(generate(terrarium.pipeline, ["a cat", "a car"], [1, 2], steps=12))
    assert [found in verdict.found for found, verdict in zip(("cat", "car"), verdicts, strict=True)] == [True, True]


def test_an_instant_membrane_erases_and_leaves_the_rest(terrarium: DiffusionModel, cat: Membrane) -> None:
    prompts, seeds = ["a cat", "a kitten", "a car", "a dog"], [1, 1, 2, 3]
    bare = generate(terrarium.pipeline, prompts, seeds, steps=12)
    with semiperm.guard(terrarium, [cat]) as guarded:
        assert guarded.permeability(prompts).gamma_BK.flatten().tolist() == [1, 1, 0, 0]
        made = generate(guarded, prompts, seeds, steps=12)
    assert not any("cat" in verdict.found for verdict in load_oracle()(made[:2]))
    assert np.array_equal(made[2:], bare[2:])


def test_a_file_gives_back_the_membrane(cat: Membrane, tmp_path: Path) -> None:
    found = semiperm.load(semiperm.save(cat, tmp_path / "cat.safetensors"))
    assert isinstance(found, Membrane)
    assert same_bits(found, cat) and found.card == cat.card


def test_diffusers_loads_the_file(terrarium: DiffusionModel, cat: Membrane, tmp_path: Path) -> None:
    path = semiperm.save(cat, tmp_path / "cat.safetensors")
    plain: Any = StableDiffusionPipeline.from_pretrained(WEIGHTS, torch_dtype=torch.float32)
    plain.load_lora_weights(str(tmp_path), weight_name=path.name)
    with semiperm.guard(terrarium, [path], gate="always") as guarded:
        ours = generate(guarded, ["a cat"], [1], steps=4).astype(int)
    theirs = generate(plain, ["a cat"], [1], steps=4).astype(int)
    # The sums are in another order.
    assert np.abs(ours - theirs).max() <= 3


def test_peft_loads_the_adapter(tmp_path: Path) -> None:
    model = model_of(tiny.tiny_pipeline())
    unet: Any = model.denoiser
    membrane = random_membrane(model.erasable_layers())
    sample = (torch.ones(1, 4, 8, 8), 301, torch.ones(1, 5, tiny.HIDDEN))
    with torch.no_grad(), semiperm.guard(model, [membrane], gate="always") as guarded, guarded.opened(torch.ones(1, 1)):
        ours = unet(*sample).sample
    with torch.no_grad():
        bare = unet(*sample).sample
    adapted = PeftModel.from_pretrained(unet, str(export(membrane, "peft", tmp_path / "adapter")))
    with torch.no_grad():
        theirs = adapted(*sample).sample
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-5)
    assert (ours - bare).abs().max() > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_a_membrane_of_zeros_changes_no_bit(family: str) -> None:
    pipeline = FAMILIES[family]()
    call: dict[str, Any] = {"prompt": ["a cat", "a dog"], "num_inference_steps": 2, "output_type": "np"}
    if family == "pixart":
        # Otherwise the pipeline generates pictures of 1024 pixels and scales them down.
        call["use_resolution_binning"] = False

    def pictures(made_by: Any) -> np.ndarray:
        generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
        return np.asarray(made_by(**call, generator=generators).images)

    bare = pictures(pipeline)
    zero = Membrane.zero(model_of(pipeline).erasable_layers(), card())
    with semiperm.guard(pipeline, [zero], gate="always") as guarded:
        assert np.array_equal(pictures(guarded), bare)
    assert np.array_equal(pictures(pipeline), bare)


def test_two_steps_of_training_give_finite_weights() -> None:
    settings = {"steps": 2, "trajectories": 2, "trajectory_steps": 3, "states": 2, "anchors": 2, "refresh": 2}
    made = semiperm.erase(tiny.tiny_pipeline(), "cat", settings=settings)
    assert isinstance(made, Membrane)
    assert all(torch.isfinite(tensor).all() for tensor in [*made.up.values(), *made.down.values()])
    assert any(tensor.any() for tensor in made.up.values())


def test_intervals_are_computed() -> None:
    values = np.array([0.1, 0.4, 0.4, 0.8])
    for found in (estimate.mean(values), estimate.mean(values > 0.3), estimate.mean(values > 0)):
        assert 0 <= found.low <= found.value <= found.high <= 1
    between = estimate.between(lambda a, b: float(abs(a.mean() - b.mean())), values[:, None], values[:, None] + 1)
    assert between.low <= between.value <= between.high


def test_a_report_and_a_card_become_pages() -> None:
    text = page.page(report_of(cat_erased()), [])
    assert text.startswith("<!") and "<svg" in text
    assert "cat" in hub.page(card(), "me/cat", pictured=False)


def test_the_command_line_starts() -> None:
    from typer.testing import CliRunner

    from semiperm.cli.main import app

    outcome = CliRunner().invoke(app, ["--help"])
    assert outcome.exit_code == 0 and "erase" in outcome.output
