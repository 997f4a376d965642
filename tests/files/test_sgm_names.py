"""The names of a UNet's layers in sd-scripts and in Stability's own code, against the layout and against diffusers."""

from typing import Any

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
from diffusers.utils.state_dict_utils import convert_unet_state_dict_to_peft

from benchmarks.real import UNETS
from semiperm.files.sgm_names import sgm_names
from semiperm.models.layers import erasable_layers
from tests.tiny import tiny_sd3_pipeline

# SDXL in SGM's numbering: which modules hold transformer blocks, and how many
SDXL_BLOCKS = {
    "input_blocks.4.1": 2, "input_blocks.5.1": 2, "input_blocks.7.1": 10, "input_blocks.8.1": 10,
    "middle_block.1": 10,
    "output_blocks.0.1": 10, "output_blocks.1.1": 10, "output_blocks.2.1": 10,
    "output_blocks.3.1": 2, "output_blocks.4.1": 2, "output_blocks.5.1": 2,
}  # fmt: skip
IN_BLOCK = (
    *(f"attn{number}.{name}" for number in (1, 2) for name in ("to_q", "to_k", "to_v", "to_out.0")),
    "ff.net.0.proj",
    "ff.net.2",
)


@pytest.fixture(scope="module")
def unets() -> dict[str, Any]:
    with torch.device("meta"):
        return {name: UNet2DConditionModel(**config) for name, config in UNETS.items()}


def test_the_erasable_layers_of_sdxl_have_the_names_that_sd_scripts_loads(unets: dict[str, Any]) -> None:
    expected = {
        f"{module}.{name}"
        for module, depth in SDXL_BLOCKS.items()
        for name in (
            "proj_in", "proj_out", *(f"transformer_blocks.{at}.{name}" for at in range(depth) for name in IN_BLOCK)
        )
    }  # fmt: skip
    names = sgm_names(erasable_layers(unets["sdxl"]))
    assert len(names) == len(expected) == 722 and set(names.values()) == expected


def test_diffusers_maps_the_names_in_a_lora_back_to_the_paths(unets: dict[str, Any]) -> None:
    names = sgm_names(erasable_layers(unets["sdxl"]))
    theirs = {
        f"lora_unet_{name.replace('.', '_')}.lora_{side}.weight": torch.empty(0, device="meta")
        for name in names.values()
        for side in ("down", "up")
    }
    loaded = StableDiffusionXLPipeline.lora_state_dict(theirs, unet_config=unets["sdxl"].config)
    found = convert_unet_state_dict_to_peft(loaded[0])
    assert found.keys() == {f"unet.{path}.lora_{side}.weight" for path in names for side in "AB"}


@pytest.mark.parametrize("kind", list(UNETS))
def test_diffusers_converts_a_checkpoint_of_these_names_to_the_paths(unets: dict[str, Any], kind: str) -> None:
    parameters = [name.rpartition(".") for name, _ in unets[kind].named_parameters()]
    layers = list(dict.fromkeys(layer for layer, _, _ in parameters))
    names = sgm_names(layers)
    # every layer with a weight, in blocks or not, has a name of its own
    assert list(names) == layers and len(set(names.values())) == len(layers)
    # the values are anything that can be recognised again
    theirs: Any = {f"model.diffusion_model.{names[layer]}.{end}": f"{layer}.{end}" for layer, _, end in parameters}
    converted = convert_ldm_unet_checkpoint(theirs, dict(unets[kind].config))
    assert converted == {name: name for name in theirs.values()}


def test_a_transformer_has_no_such_names() -> None:
    assert sgm_names(erasable_layers(tiny_sd3_pipeline().transformer)) == {}
    assert sgm_names([]) == {}
    assert sgm_names(["down_blocks.99999.resnets.0.conv1", "mid_block.attentions.0.proj_in"]) == {}
