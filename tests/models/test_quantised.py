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


class Int8(Tensor):
    """A weight that is a tensor subclass, as torchao's are: eight-bit numbers that linear() unpacks."""

    packed: Tensor
    scale: float

    @staticmethod
    def __new__(cls, weight: Tensor) -> "Int8":
        make: Any = Tensor._make_wrapper_subclass
        return make(cls, weight.shape, dtype=weight.dtype, device=weight.device, requires_grad=False)

    def __init__(self, weight: Tensor) -> None:
        self.scale = float(weight.detach().abs().max()) / 127
        self.packed = (weight.detach() / self.scale).round().to(torch.int8)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.linear:
            weight = args[1]
            return F.linear(args[0], weight.packed.to(args[0]) * weight.scale, *args[2:], **(kwargs or {}))
        return super().__torch_function__(func, types, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten.detach.default, torch.ops.aten.alias.default):
            return args[0]
        raise NotImplementedError(f"{func} reads an eight-bit weight")


def in_subclasses(denoiser: nn.Module) -> None:
    for module in denoiser.modules():
        if type(module) is nn.Linear:
            module.weight = nn.Parameter(Int8(module.weight), requires_grad=False)


@pytest.fixture(autouse=True)
def few_words(monkeypatch: pytest.MonkeyPatch) -> None:
    use_few_words(monkeypatch)


@pytest.mark.parametrize("quantise", [in_bytes, in_subclasses])
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
