"""Exported membranes do in other tools what they do in ours."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from semiperm.errors import CoverageError, MembraneFileError, StackError
from semiperm.files.export import export, merge
from semiperm.files.safetensors import load_membrane, save
from semiperm.guarded import Guard
from semiperm.membrane import Membrane
from semiperm.models.load import load_model, model_of
from tests.helpers import card, random_membrane, scaled
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
@pytest.mark.parametrize("form", ["diffusers", "kohya"])
def test_diffusers_loads_both_forms_and_draws_the_same(pipeline: Any, form: Any, rank: int, tmp_path: Path) -> None:
    membrane = membrane_for(pipeline, rank=rank)
    bare = draw(pipeline)
    with Guard(model_of(pipeline), [membrane], gate="always") as guarded:
        ours = draw(guarded)
    file = export(membrane, form, tmp_path / "pytorch_lora_weights.safetensors")
    pipeline.load_lora_weights(tmp_path, weight_name=file.name)
    assert (draw(pipeline) - ours).abs().max() < 1e-5
    assert (ours - bare).abs().max() > 1e-2


def tensors_and_metadata(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(path, framework="pt") as file:
        return load_file(path), file.metadata()


def test_kohyas_form_of_an_xl_membrane_has_the_names_of_sd_scripts(tmp_path: Path) -> None:
    membrane = membrane_for(tiny_xl_pipeline(), rank=2)
    saved, facts = tensors_and_metadata(save(membrane, tmp_path / "cat.safetensors"))
    exported, same_facts = tensors_and_metadata(export(membrane, "kohya", tmp_path / "out" / "cat.safetensors"))
    # the names of the file itself are diffusers'
    assert all(name.startswith(("lora_unet_down", "lora_unet_up", "lora_unet_mid")) for name in saved)
    assert all(name.startswith(("lora_unet_input", "lora_unet_output", "lora_unet_middle")) for name in exported)
    assert len(saved) == len(exported) and facts == same_facts
    pairs = {
        "down_blocks_1_attentions_0_proj_out": "input_blocks_3_1_proj_out",
        "down_blocks_1_attentions_0_transformer_blocks_1_ff_net_2": "input_blocks_3_1_transformer_blocks_1_ff_net_2",
        "mid_block_attentions_0_proj_in": "middle_block_1_proj_in",
        "up_blocks_0_attentions_1_transformer_blocks_0_attn2_to_k":
            "output_blocks_1_1_transformer_blocks_0_attn2_to_k",
    }  # fmt: skip
    for ours, theirs in pairs.items():
        for side in ("lora_down.weight", "lora_up.weight", "alpha"):
            assert torch.equal(saved[f"lora_unet_{ours}.{side}"], exported[f"lora_unet_{theirs}.{side}"])


@pytest.mark.parametrize(
    ("architecture", "renamed"), [("stable-diffusion-xl-v1-base", True), ("", True), ("other", False)]
)
def test_an_xl_membrane_is_known_by_its_card_or_else_by_its_layers(
    architecture: str, renamed: bool, tmp_path: Path
) -> None:
    membrane = membrane_for(tiny_xl_pipeline()).with_card(architecture=architecture)
    exported = load_file(export(membrane, "kohya", tmp_path / "cat.safetensors"))
    assert any("input_blocks" in name for name in exported) == renamed


@pytest.mark.parametrize("kind", ["conv", "linear", "sd3"])
def test_kohyas_form_of_other_membranes_is_the_file_itself(kind: str, tmp_path: Path) -> None:
    membrane = membrane_for(KINDS[kind]())
    saved = save(membrane, tmp_path / "cat.safetensors")
    exported = export(membrane, "kohya", tmp_path / "out" / "cat.safetensors")
    assert exported.read_bytes() == saved.read_bytes()


def test_layers_without_a_name_in_sd_scripts_are_refused(tmp_path: Path) -> None:
    odd = random_membrane({"odd.layer": nn.Linear(3, 2)}).with_card(architecture="stable-diffusion-xl")
    with pytest.raises(MembraneFileError, match=r"sd-scripts has no names for odd.layer; use the form diffusers"):
        export(odd, "kohya", tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())


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
