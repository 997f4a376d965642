"""Exported membranes do in other tools what they do in ours."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel
from torch import Tensor

from semiperm.errors import CoverageError, MembraneFileError, StackError
from semiperm.files.export import export, merge
from semiperm.files.safetensors import load_membrane
from semiperm.guarded import Guard
from semiperm.membrane import Membrane
from semiperm.models.load import load_model, model_of
from tests.helpers import card, scaled
from tests.tiny import tiny_flux_pipeline, tiny_pipeline, tiny_sd3_pipeline, tiny_xl_pipeline


def membrane_for(pipeline: Any, seed: int = 0, rank: int = 1) -> Membrane:
    generator = torch.Generator().manual_seed(seed)
    model = model_of(pipeline, "tiny")
    empty = Membrane.zero(model.erasable_layers(), card(f"cat {seed}"), rank, generator)
    up = {path: torch.randn(value.shape, generator=generator) * 0.3 for path, value in empty.up.items()}
    return Membrane(empty.card, empty.down, up)


def draw(pipeline: Any) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return pipeline("a cat", generator=generator, num_inference_steps=2, output_type="pt").images


KINDS: dict[str, Callable[[], Any]] = {
    "conv": tiny_pipeline,
    "linear": lambda: tiny_pipeline(linear_projection=True),
    "xl": tiny_xl_pipeline,
    "sd3": tiny_sd3_pipeline,
    "flux": tiny_flux_pipeline,
}


@pytest.fixture(params=KINDS)
def pipeline(request: pytest.FixtureRequest) -> Any:
    return KINDS[request.param]()


@pytest.mark.parametrize("rank", [1, 3])
def test_diffusers_loads_its_form_and_draws_the_same(pipeline: Any, rank: int, tmp_path: Path) -> None:
    membrane = membrane_for(pipeline, rank=rank)
    bare = draw(pipeline)
    with Guard(model_of(pipeline), [membrane], gate="always") as guarded:
        ours = draw(guarded)
    file = export(membrane, "diffusers", tmp_path / "pytorch_lora_weights.safetensors")
    pipeline.load_lora_weights(tmp_path, weight_name=file.name)
    assert (draw(pipeline) - ours).abs().max() < 1e-5
    assert (ours - bare).abs().max() > 1e-2


def test_peft_loads_its_folder_and_predicts_the_same(pipeline: Any, tmp_path: Path) -> None:
    membrane = membrane_for(pipeline, rank=2)
    with Guard(model_of(pipeline), [membrane], gate="always") as guarded:
        ours = draw(guarded)
    folder = export(membrane, "peft", tmp_path / "adapter")
    adapted = PeftModel.from_pretrained(model_of(pipeline).denoiser, str(folder))
    covered = [name for name, _ in adapted.named_modules() if name.endswith("lora_A.default")]
    assert len(covered) == len(membrane.down)
    # PEFT puts its layers into the network that it wraps
    assert (draw(pipeline) - ours).abs().max() < 1e-5
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["r"] == config["lora_alpha"] == 2
    # the order of a set would change from run to run
    assert config["target_modules"] == sorted(membrane.down)
    assert sorted(path.name for path in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]


def test_a_merged_model_is_the_guarded_one_for_every_prompt(pipeline: Any, tmp_path: Path) -> None:
    model = model_of(pipeline, "tiny")
    first, second = membrane_for(pipeline, 1), membrane_for(pipeline, 2)
    before = {name: value.clone() for name, value in model.denoiser.state_dict().items()}
    out = merge(model, {"a": (first, 1.0), "b": (second, 0.25)}, tmp_path / "merged")
    after = model.denoiser.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    with Guard(model, [first, scaled(second, 0.25)], gate="always") as guarded:
        ours = draw(guarded)
    merged = load_model(out).pipeline
    merged.set_progress_bar_config(disable=True)
    merged.default_sample_size = pipeline.default_sample_size if hasattr(pipeline, "default_sample_size") else 8
    assert (draw(merged) - ours).abs().max() < 1e-4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["merged"]
    with pytest.raises(FileExistsError, match="new folder"):
        merge(model, {}, out)


def test_what_does_not_fit_leaves_model_and_folder_alone(tmp_path: Path) -> None:
    pipeline = tiny_pipeline()
    before = {name: value.clone() for name, value in pipeline.unet.state_dict().items()}
    foreign = membrane_for(tiny_xl_pipeline())
    with pytest.raises(CoverageError):
        merge(model_of(pipeline), {"x": (foreign, 1.0)}, tmp_path / "merged")
    assert not list(tmp_path.iterdir())
    assert all(torch.equal(before[name], value) for name, value in pipeline.unet.state_dict().items())


def test_a_model_with_other_adapters_is_not_merged(tmp_path: Path) -> None:
    pipeline = tiny_pipeline()
    membrane = membrane_for(pipeline)
    pipeline.unet.add_adapter(LoraConfig(r=1, target_modules=["to_q"]))
    with pytest.raises(StackError, match=r"LoRA.*to_q"):
        merge(model_of(pipeline), {"x": (membrane, 1.0)}, tmp_path / "merged")
    assert not list(tmp_path.iterdir())


def test_unknown_forms_and_names_are_refused(tmp_path: Path) -> None:
    membrane = membrane_for(tiny_pipeline())
    form: Any = "onnx"
    with pytest.raises(MembraneFileError, match="no form 'onnx'"):
        export(membrane, form, tmp_path / "x")
    with pytest.raises(MembraneFileError, match="must end in .safetensors"):
        export(membrane, "diffusers", tmp_path / "x.bin")


@pytest.mark.parametrize("form", ["diffusers", "kohya"])
def test_what_is_exported_is_read_again_bit_for_bit(pipeline: Any, form: Any, tmp_path: Path) -> None:
    membrane = membrane_for(pipeline, rank=2)
    again = load_membrane(export(membrane, form, tmp_path / "x.safetensors"), layers=membrane.down)
    assert set(again.up) == set(membrane.up)
    assert all(torch.equal(again.up[path], membrane.up[path]) for path in membrane.up)
    assert all(torch.equal(again.down[path], membrane.down[path]) for path in membrane.up)
