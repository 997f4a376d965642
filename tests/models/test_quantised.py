"""A base with quantised linear layers: membranes are made for it and guard it, and it stays as it is."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semiperm.api import erase, guard
from semiperm.errors import SemipermError
from semiperm.files.export import merge
from semiperm.files.safetensors import load
from semiperm.methods.spm.settings import SpmSettings
from semiperm.models.layers import linear_weight
from semiperm.models.load import model_of
from tests.methods.few_words import use_few_words
from tests.models.helpers import by_name
from tests.tiny import tiny_flux_pipeline, tiny_pipeline

SETTINGS = SpmSettings(steps=3, states=2, anchors=2, trajectories=2, trajectory_steps=3, learning_rate=0.05)


class Bytes(nn.Linear):
    """A linear layer that stores its weight as bitsandbytes does: bytes in one column, unpacked in every call."""

    def __init__(self, layer: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.scale = float(layer.weight.detach().abs().max()) / 127
        packed = (layer.weight.detach() / self.scale).round().to(torch.int8).view(torch.uint8).reshape(-1, 1)
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.bias = layer.bias

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.unpacked().to(input), self.bias)

    def unpacked(self) -> Tensor:
        return self.weight.view(torch.int8).view(self.out_features, self.in_features).float() * self.scale


def in_bytes(denoiser: nn.Module) -> None:
    for module in list(denoiser.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Linear:
                setattr(module, name, Bytes(child))


def by_torchao(denoiser: nn.Module) -> None:
    quantization = pytest.importorskip("torchao.quantization")
    quantization.quantize_(denoiser, quantization.Int8WeightOnlyConfig())


@pytest.fixture(autouse=True)
def few_words(monkeypatch: pytest.MonkeyPatch) -> None:
    use_few_words(monkeypatch)


@pytest.mark.parametrize("quantise", [in_bytes, by_torchao])
@pytest.mark.parametrize("build", [tiny_pipeline, tiny_flux_pipeline])
def test_a_quantised_base_is_erased_from_and_guarded_as_it_is(
    build: Callable[[], Any], quantise: Callable[[nn.Module], None], tmp_path: Path
) -> None:
    pipeline = build()
    model = model_of(pipeline)
    quantise(model.denoiser)
    assert model.dtype == torch.float32

    def draw(pipe: Any) -> Tensor:
        generators = [torch.Generator().manual_seed(number) for number in range(2)]
        return pipe(["a cat", "a dog"], generator=generators, num_inference_steps=2, output_type="pt").images

    bare, layers = draw(pipeline), model.erasable_layers()
    weights = {path: layer.weight for path, layer in layers.items()}
    made = erase(model, "cat", "spm", SETTINGS, out=tmp_path / "cat.safetensors")
    assert made.card.effect["target_moved"] > 0.05
    with guard(pipeline, [load(tmp_path / "cat.safetensors")], gate=by_name) as guarded:
        found = draw(guarded)
    assert (found[0] - bare[0]).abs().max() > 1e-3 and torch.equal(found[1], bare[1])
    assert torch.equal(draw(pipeline), bare)
    assert all(layer.weight is weights[path] for path, layer in model.erasable_layers().items())


def test_the_closed_form_reads_the_matrix_of_a_quantised_layer() -> None:
    plain = nn.Linear(12, 5)
    layer = Bytes(plain)
    torch.testing.assert_close(linear_weight(layer, torch.float32), layer.unpacked())
    assert torch.equal(linear_weight(plain, torch.float32), plain.weight)


def test_nothing_is_merged_into_quantised_weights(tmp_path: Path) -> None:
    model = model_of(tiny_pipeline())
    in_bytes(model.denoiser)
    with pytest.raises(SemipermError, match="quantised in .*to_q"):
        merge(model, {}, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
