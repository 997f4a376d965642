"""The layers of the real Stable Diffusions, built without weights."""

from pathlib import Path

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import nn

from benchmarks.real import UNETS
from semiperm.errors import CoverageError
from semiperm.files.safetensors import load_membrane, save
from semiperm.membrane import Membrane
from semiperm.models.layers import erasable_layers
from semiperm.stack import Stack
from tests.helpers import card

# layers, of which linear, numbers in a membrane of rank 1 (for SD1 the figures of arXiv:2312.16145)
EXPECTED = {"sd15": (192, 160, 423_936), "sd21": (192, 192, 432_128), "sdxl": (722, 722, 2_659_840)}


@pytest.fixture(scope="module")
def unets() -> dict[str, nn.Module]:
    with torch.device("meta"):
        return {name: UNet2DConditionModel(**config) for name, config in UNETS.items()}


@pytest.mark.parametrize("name", list(UNETS))
def test_counts(unets: dict[str, nn.Module], name: str) -> None:
    layers = erasable_layers(unets[name])
    membrane = Membrane.zero(layers, card())
    linear = sum(isinstance(layer, nn.Linear) for layer in layers.values())
    assert (membrane.card.layers, linear, membrane.size) == EXPECTED[name]


@pytest.mark.parametrize("name", list(UNETS))
def test_a_stack_fits(unets: dict[str, nn.Module], name: str) -> None:
    stack = Stack(unets[name])
    stack.add("cat", Membrane.zero(stack.layers, card()))
    with stack:
        assert "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.base.weight" in unets[name].state_dict()
    assert list(erasable_layers(unets[name])) == list(stack.layers)


@pytest.mark.parametrize("name", list(UNETS))
def test_flattened_names_are_found_again_without_the_model(
    unets: dict[str, nn.Module], name: str, tmp_path: Path
) -> None:
    membrane = Membrane.zero(erasable_layers(unets[name]), card())
    tensors = load_file(save(membrane, tmp_path / "own.safetensors"))
    save_file(tensors, tmp_path / "plain.safetensors")
    assert set(load_membrane(tmp_path / "plain.safetensors").down) == set(membrane.down)


def test_a_file_for_sd1_has_the_size_that_the_paper_says(unets: dict[str, nn.Module], tmp_path: Path) -> None:
    file = save(Membrane.zero(erasable_layers(unets["sd15"]), card()), tmp_path / "cat.safetensors")
    assert 4 * 423_936 < file.stat().st_size < 1.85e6


@pytest.mark.parametrize(("made_for", "worn_by"), [("sd15", "sd21"), ("sd21", "sd15"), ("sd15", "sdxl")])
def test_the_families_refuse_each_other(unets: dict[str, nn.Module], made_for: str, worn_by: str) -> None:
    membrane = Membrane.zero(erasable_layers(unets[made_for]), card(base_model=made_for))
    with pytest.raises(CoverageError, match=made_for) as caught:
        Stack(unets[worn_by]).add("cat", membrane)
    assert caught.value.misshapen
