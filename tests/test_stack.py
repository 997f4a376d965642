"""The stack: exact sums, exact silence, on and off without a trace, and what it refuses."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import HRAConfig, LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from torch._dynamo.utils import counters

from semiperm.errors import CoverageError, StackError
from semiperm.membrane import Membrane
from semiperm.stack import Stack, StackedLayer
from tests.helpers import card, inputs, random_membrane, same_bits
from tests.tiny import tiny_pipeline, tiny_xl_pipeline

GRID = st.sampled_from([0.0, 0.0, 0.25, 0.5, 1.0, 1.5, 2.0])


def wearing(denoiser: nn.Module, *membranes: Membrane) -> Stack:
    stack = Stack(denoiser)
    for index, membrane in enumerate(membranes):
        stack.add(f"m{index}", membrane)
    stack.inject()
    return stack


def predict(unet: Any, x: Tensor, t: int, text: Tensor) -> Tensor:
    with torch.no_grad():
        return unet(x, t, text).sample


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def merged(denoiser: nn.Module, membranes: list[Membrane], gamma: list[float]) -> nn.Module:
    """The reference: a copy of the denoiser whose weights are W + sum of gamma u v^T."""
    other = copy.deepcopy(denoiser)
    with torch.no_grad():
        for membrane, openness in zip(membranes, gamma, strict=True):
            for path in membrane.down:
                other.get_parameter(f"{path}.weight").add_(openness * membrane.delta(path))
    return other


# one layer: the laws

SHAPES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear, 2-D": (lambda: nn.Linear(6, 4), (6,)),
    "linear, 3-D": (lambda: nn.Linear(6, 4, bias=False), (5, 6)),
    "linear, 4-D": (lambda: nn.Linear(6, 4), (2, 3, 6)),
    "conv": (lambda: nn.Conv2d(6, 4, 1), (6, 5, 5)),
    "strided conv": (lambda: nn.Conv2d(6, 4, 3, stride=2, padding=1), (6, 7, 8)),
    "dilated conv": (lambda: nn.Conv2d(6, 4, (3, 2), padding="same", dilation=2), (6, 7, 8)),
    "circular conv": (lambda: nn.Conv2d(6, 4, 3, padding=1, padding_mode="circular"), (6, 7, 8)),
}


def one_layer(make: Callable[[], nn.Module]) -> tuple[nn.Sequential, dict[str, nn.Module]]:
    torch.manual_seed(0)
    model = nn.Sequential(make()).double()
    return model, {"0": model[0]}


@pytest.mark.parametrize("shape", list(SHAPES))
@given(
    ranks=st.lists(st.integers(1, 3), min_size=1, max_size=4),
    data=st.data(),
)
@settings(max_examples=15)
def test_superposition_is_exact_sample_by_sample(shape: str, ranks: list[int], data: st.DataObject) -> None:
    make, size = SHAPES[shape]
    model, layers = one_layer(make)
    membranes = [random_membrane(layers, rank=rank, seed=seed) for seed, rank in enumerate(ranks)]
    membranes = [membrane.to(dtype=torch.float64) for membrane in membranes]
    row = st.lists(GRID, min_size=len(ranks), max_size=len(ranks))
    gamma = data.draw(st.lists(row, min_size=3, max_size=3))
    x = torch.randn(3, *size, dtype=torch.float64)
    bare = model(x)

    stack = Stack(model, layers)
    for index, membrane in enumerate(membranes):
        stack.add(str(index), membrane)
    with stack:
        stack.set_permeability(torch.tensor(gamma))
        together = model(x)
    for sample, openness in enumerate(gamma):
        expected = merged(model, membranes, openness)(x[sample : sample + 1])[0]
        assert torch.allclose(together[sample], expected, rtol=1e-12, atol=1e-12)
        if not any(openness):
            assert torch.equal(together[sample], bare[sample])


@pytest.mark.parametrize("shape", list(SHAPES))
@given(a=GRID, b=GRID, first=GRID, second=GRID)
@settings(max_examples=10)
def test_the_change_is_linear_in_gamma(shape: str, a: float, b: float, first: float, second: float) -> None:
    make, size = SHAPES[shape]
    model, layers = one_layer(make)
    x = torch.randn(2, *size, dtype=torch.float64)
    bare = model(x)
    stack = Stack(model, layers)
    stack.add("it", random_membrane(layers, rank=2).to(dtype=torch.float64))
    stack.inject()

    def change(gamma: float) -> Tensor:
        stack.set_permeability(torch.full((1, 1), gamma))
        return model(x) - bare

    assert torch.allclose(change(a * first + b * second), a * change(first) + b * change(second), atol=1e-12)


def test_overflow_in_a_closed_membrane_leaks_nowhere() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    layers = {"0": model[0]}
    huge = Membrane(card(), {"0": torch.full((1, 4), 3e38)}, {"0": torch.full((4, 1), 3e38)})
    mild = random_membrane(layers)
    stack = Stack(model, layers)
    stack.add("mild", mild)
    x = torch.ones(3, 4)
    bare = model(x)
    with stack:
        stack.set_permeability(torch.tensor([[0.0], [1.0], [1.0]]))
        alone = model(x)
        stack.add("huge", huge)
        stack.set_permeability(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
        both = model(x)
    assert torch.equal(both[0], bare[0])
    assert torch.allclose(both[1], alone[1]) and torch.isfinite(both[1]).all()
    assert not torch.isfinite(both[2]).all()


# a whole denoiser


@pytest.fixture(params=[False, True], ids=["conv", "linear"])
def unet(request: pytest.FixtureRequest) -> Any:
    return tiny_pipeline(linear_projection=request.param).unet


def test_a_zero_membrane_is_the_identity(unet: Any) -> None:
    bare = predict(unet, *inputs())
    stack = wearing(unet, Membrane.zero(Stack(unet).layers, card()))
    stack.set_permeability(torch.ones(2, 1))
    assert torch.equal(predict(unet, *inputs()), bare)
    stack.trainable("m0")
    stack.set_permeability(torch.ones(2, 1))
    assert torch.equal(predict(unet, *inputs()), bare)


def test_a_stack_is_the_merged_denoiser_sample_by_sample(unet: Any) -> None:
    layers = Stack(unet).layers
    membranes = [random_membrane(layers, rank=rank, seed=rank) for rank in (1, 2, 3)]
    gamma = [[1.0, 0.0, 0.5], [0.0, 0.0, 0.0], [0.25, 1.0, 2.0]]
    x, t, text = inputs(3)
    bare = predict(unet, x, t, text)
    expected = [
        predict(merged(unet, membranes, row), x[i : i + 1], t, text[i : i + 1])[0] for i, row in enumerate(gamma)
    ]
    stack = wearing(unet, *membranes)
    stack.set_permeability(torch.tensor(gamma))
    found = predict(unet, x, t, text)
    assert torch.allclose(found, torch.stack(expected), atol=1e-4)
    assert torch.equal(found[1], bare[1])
    assert (found[0] - bare[0]).abs().max() > 1e-2


def test_closed_means_bit_identical(unet: Any) -> None:
    bare = predict(unet, *inputs())
    stack = wearing(unet, random_membrane(Stack(unet).layers))
    assert torch.equal(predict(unet, *inputs()), bare), "before anything is set"
    stack.set_permeability(torch.ones(2, 1))
    assert not torch.equal(predict(unet, *inputs()), bare)
    stack.set_permeability(torch.zeros(2, 1))
    assert torch.equal(predict(unet, *inputs()), bare)
    stack.set_permeability(torch.ones(2, 1))
    stack.close()
    assert torch.equal(predict(unet, *inputs()), bare)


def test_one_row_of_gamma_serves_every_batch(unet: Any) -> None:
    stack = wearing(unet, random_membrane(Stack(unet).layers))
    stack.set_permeability(torch.full((1, 1), 0.5))
    broadcast = predict(unet, *inputs(3))
    stack.set_permeability(torch.full((3, 1), 0.5))
    assert torch.equal(predict(unet, *inputs(3)), broadcast)


def test_membranes_that_are_zero_in_a_layer_cost_it_nothing(unet: Any) -> None:
    layers = Stack(unet).layers
    full = random_membrane(layers)
    up = {path: up if ".attn2.to_k" in path else torch.zeros_like(up) for path, up in full.up.items()}
    stack = wearing(unet, Membrane(full.card, full.down, up))
    busy = {path for path, module in unet.named_modules() if isinstance(module, StackedLayer) and not module.idle}
    assert busy == {path for path in layers if ".attn2.to_k" in path}
    stack.set_permeability(torch.ones(1, 1))
    expected = predict(merged_of(stack), *inputs())
    assert torch.allclose(predict(unet, *inputs()), expected, atol=1e-5)


def merged_of(stack: Stack) -> nn.Module:
    membranes = [stack.membrane(name) for name in stack.names]
    bare = copy.deepcopy(stack.denoiser)
    for path in stack.layers:
        parent, _, child = path.rpartition(".")
        setattr(bare.get_submodule(parent), child, bare.get_submodule(path).base)
    return merged(bare, membranes, [1.0] * len(membranes))


# on and off


def test_eject_leaves_no_trace(unet: Any) -> None:
    before, modules = snapshot(unet), dict(unet.named_modules())
    bare = predict(unet, *inputs())
    stack = wearing(unet, random_membrane(Stack(unet).layers))
    stack.set_permeability(torch.ones(2, 1))
    predict(unet, *inputs())
    stack.eject()
    assert not stack.injected
    after = unet.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)
    assert {name: id(module) for name, module in unet.named_modules()} == {n: id(m) for n, m in modules.items()}
    assert torch.equal(predict(unet, *inputs()), bare)


def test_the_base_weights_do_not_change_while_it_is_worn(unet: Any) -> None:
    before = snapshot(unet)
    stack = wearing(unet, random_membrane(Stack(unet).layers))
    stack.set_permeability(torch.ones(2, 1))
    predict(unet, *inputs())
    after = {name.replace(".base.", "."): value for name, value in unet.state_dict().items()}
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)


def test_injecting_twice_and_ejecting_twice_is_harmless(unet: Any) -> None:
    stack = Stack(unet)
    stack.add("cat", random_membrane(stack.layers))
    stack.eject()
    with stack:
        stack.inject()
        assert stack.injected
    stack.eject()
    assert not any(isinstance(module, StackedLayer) for module in unet.modules())


def test_it_ejects_when_something_fails(unet: Any) -> None:
    with pytest.raises(RuntimeError, match="mishap"), Stack(unet) as stack:
        assert stack.injected
        raise RuntimeError("mishap")
    assert not any(isinstance(module, StackedLayer) for module in unet.modules())


class Wrapper(nn.Module):
    """Somebody else's wrapper."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: Any) -> Any:
        return self.inner(*args)


def test_it_ejects_from_under_other_wrappers(unet: Any) -> None:
    bare = predict(unet, *inputs())
    stack = wearing(unet, random_membrane(Stack(unet).layers))
    path = list(stack.layers)[3]
    parent, _, child = path.rpartition(".")
    owner = unet.get_submodule(parent)
    setattr(owner, child, Wrapper(getattr(owner, child)))
    unet.conv_in = Wrapper(unet.conv_in)
    stack.eject()
    assert getattr(owner, child).inner is stack.layers[path]
    assert not any(isinstance(module, StackedLayer) for module in unet.modules())
    assert torch.equal(predict(unet, *inputs()), bare)


@given(steps=st.lists(st.tuples(st.sampled_from(["add", "remove", "replace", "toggle"]), st.integers(0, 3))))
@settings(max_examples=20, deadline=None)
def test_members_come_and_go_in_any_order(steps: list[tuple[str, int]]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
    layers = {"0": model[0], "2": model[2]}
    stack = Stack(model, layers)
    expected: dict[str, Membrane] = {}
    for index, (step, which) in enumerate(steps):
        name, membrane = f"m{which}", random_membrane(layers, rank=1 + index % 3, seed=index)
        if step == "toggle":
            stack.eject() if stack.injected else stack.inject()
        elif step == "add" and name not in expected:
            stack.add(name, membrane)
            expected[name] = membrane
        elif step == "remove" and name in expected:
            stack.remove(name)
            del expected[name]
        elif step == "replace" and name in expected:
            stack.replace(name, membrane)
            expected[name] = membrane
    assert stack.names == list(expected)
    assert all(same_bits(stack.membrane(name), expected[name]) for name in expected)
    stack.eject()
    bare, x = copy.deepcopy(model), torch.randn(2, 4)
    with stack:
        assert torch.equal(model(x), bare(x))
        stack.set_permeability(torch.full((1, len(expected)), 0.5))
        reference = merged(bare, list(expected.values()), [0.5] * len(expected))
        assert torch.allclose(model(x), reference(x), atol=1e-5)
    assert torch.equal(model(x), bare(x))


def test_a_change_of_members_closes_the_stack(unet: Any) -> None:
    bare = predict(unet, *inputs())
    stack = wearing(unet, random_membrane(Stack(unet).layers))
    stack.set_permeability(torch.ones(1, 1))
    stack.add("other", random_membrane(stack.layers, seed=1))
    assert torch.equal(predict(unet, *inputs()), bare)


def test_reading_a_worn_layer_reads_the_layer(unet: Any) -> None:
    stack = wearing(unet, random_membrane(Stack(unet).layers))
    for path, layer in stack.layers.items():
        worn = unet.get_submodule(path)
        assert isinstance(worn, StackedLayer)
        assert worn.weight is layer.weight and worn.bias is layer.bias
        names = ("in_features", "out_features") if isinstance(layer, nn.Linear) else ("in_channels", "kernel_size")
        assert all(getattr(worn, name) == getattr(layer, name) for name in names)
        with pytest.raises(AttributeError, match="no_such_thing"):
            _ = worn.no_such_thing


def test_a_worn_denoiser_can_be_copied(unet: Any) -> None:
    stack = wearing(unet, random_membrane(Stack(unet).layers))
    stack.set_permeability(torch.ones(1, 1))
    twin = copy.deepcopy(unet)
    expected = predict(unet, *inputs())
    stack.eject()
    assert torch.equal(predict(twin, *inputs()), expected)


# training


def test_training_reaches_the_membrane_and_nothing_else(unet: Any) -> None:
    unet.requires_grad_(False)
    before = snapshot(unet)
    start = Membrane.zero(Stack(unet).layers, card(), generator=torch.Generator().manual_seed(0))
    stack = wearing(unet, start)
    weights = stack.trainable("m0")
    assert len(weights) == 2 * 48 and all(weight.is_leaf and weight.requires_grad for weight in weights)
    stack.set_permeability(torch.ones(1, 1))
    optimizer = torch.optim.SGD(weights, lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        unet(*inputs()).sample.square().sum().backward()
        assert all(weight.grad is not None for weight in weights)
        optimizer.step()
    now = stack.membrane("m0")
    assert all(now.up[path].any() for path in now.up)
    assert not any(tensor.requires_grad for tensor in (*now.up.values(), *now.down.values()))
    optimizer.step()
    assert not same_bits(now, stack.membrane("m0")), "a copy does not move"
    worn = stack.membrane("m0")
    stack.eject()
    assert same_bits(stack.membrane("m0"), worn), "what was learnt stays after ejection"
    assert all(torch.equal(unet.state_dict()[name], before[name]) for name in before)


def test_training_survives_new_members(unet: Any) -> None:
    stack = wearing(unet, random_membrane(Stack(unet).layers))
    with torch.no_grad():
        stack.trainable("m0")[0].add_(1.0)
    trained = stack.membrane("m0")
    stack.add("other", random_membrane(stack.layers, seed=1))
    assert same_bits(stack.membrane("m0"), trained)
    stack.remove("m0")
    assert stack.names == ["other"]


def test_half_precision_is_trained_in_full(unet: Any) -> None:
    unet.to(torch.bfloat16)
    stack = wearing(unet, random_membrane(Stack(unet).layers).to(dtype=torch.float16))
    weights = stack.trainable("m0")
    assert {weight.dtype for weight in weights} == {torch.float32}
    stack.set_permeability(torch.ones(1, 1))
    x, t, text = inputs()
    unet(x.bfloat16(), t, text.bfloat16()).sample.float().sum().backward()
    assert all(weight.grad is not None and weight.grad.dtype == torch.float32 for weight in weights)


def test_only_a_lone_injected_membrane_can_be_trained(unet: Any) -> None:
    stack = Stack(unet)
    stack.add("a", random_membrane(stack.layers))
    with pytest.raises(StackError, match="while it is injected"):
        stack.trainable("a")
    stack.inject()
    stack.add("b", random_membrane(stack.layers))
    with pytest.raises(StackError, match="trained alone, but this stack has a, b"):
        stack.trainable("a")


# precision, places, compilers


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("first", ["cast", "wear"])
def test_half_precision(unet: Any, dtype: torch.dtype, first: str) -> None:
    membrane = random_membrane(Stack(unet).layers)
    x, t, text = inputs()
    stack = wearing(unet, membrane)
    stack.set_permeability(torch.ones(2, 1))
    expected = predict(unet, x, t, text)
    if first == "cast":
        stack.eject()
        unet.to(dtype)
        stack.inject()
    else:
        unet.to(dtype)
    stack.set_permeability(torch.ones(2, 1))
    found = predict(unet, x.to(dtype), t, text.to(dtype))
    assert found.dtype == dtype
    assert torch.allclose(found.float(), expected, atol=0.1 if dtype == torch.bfloat16 else 0.02)
    assert same_bits(stack.membrane("m0"), membrane), "the membrane itself keeps its precision"
    stack.close()
    closed = predict(unet, x.to(dtype), t, text.to(dtype))
    stack.set_permeability(torch.tensor([[1.0], [0.0]]))
    assert torch.equal(predict(unet, x.to(dtype), t, text.to(dtype))[1], closed[1])


def test_autocast(unet: Any) -> None:
    stack = wearing(unet, random_membrane(Stack(unet).layers))
    stack.set_permeability(torch.ones(2, 1))
    expected = predict(unet, *inputs())
    with torch.autocast("cpu", torch.bfloat16):
        found = predict(unet, *inputs())
    assert torch.allclose(found.float(), expected, atol=0.1)


def test_everything_moves_with_the_denoiser(unet: Any) -> None:
    # a second device that every machine has
    stack = wearing(unet, random_membrane(Stack(unet).layers))
    stack.set_permeability(torch.ones(2, 1))
    unet.to("meta")
    x, t, text = inputs()
    assert unet(x.to("meta"), t, text.to("meta")).sample.is_meta
    buffers = [buffer for module in unet.modules() if isinstance(module, StackedLayer) for buffer in module.buffers()]
    assert len(buffers) == 3 * 48 and all(buffer.is_meta for buffer in buffers)


def test_offloading_the_whole_model_between_calls() -> None:
    from accelerate import cpu_offload_with_hook

    unet = tiny_pipeline().unet
    stack = wearing(unet, random_membrane(Stack(unet).layers))
    stack.set_permeability(torch.full((2, 1), 0.5))
    expected = predict(unet, *inputs())
    _, hook = cpu_offload_with_hook(unet, torch.device("cpu"))
    assert torch.equal(predict(unet, *inputs()), expected)
    hook.offload()
    stack.set_permeability(torch.full((2, 1), 0.5))
    assert torch.equal(predict(unet, *inputs()), expected)


@pytest.mark.parametrize("first", ["offload", "wear"])
def test_sequential_offloading_with_weights_on_the_meta_device(first: str) -> None:
    from accelerate import cpu_offload

    unet = tiny_pipeline().unet
    membrane = random_membrane(Stack(unet).layers)
    stack = wearing(unet, membrane)
    stack.set_permeability(torch.full((2, 1), 0.5))
    expected = predict(unet, *inputs())
    if first == "offload":
        stack.eject()
        cpu_offload(unet, torch.device("cpu"))
        stack.inject()
    else:
        cpu_offload(unet, torch.device("cpu"))
    stack.set_permeability(torch.full((2, 1), 0.5))
    assert next(iter(stack.layers.values())).weight.is_meta
    assert torch.allclose(predict(unet, *inputs()), expected, atol=1e-6)


def test_layerwise_casting_leaves_the_membranes_alone() -> None:
    unet = tiny_pipeline().unet
    x, t, text = inputs()
    unet.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    stack = wearing(unet, random_membrane(Stack(unet).layers))
    bare = predict(unet, x, t, text)
    stack.set_permeability(torch.ones(2, 1))
    assert not torch.equal(predict(unet, x, t, text), bare)
    layers = [module for module in unet.modules() if isinstance(module, StackedLayer)]
    assert {layer.down.dtype for layer in layers} == {torch.float32}
    assert {layer.base.weight.dtype for layer in layers} == {torch.float8_e4m3fn}


def test_gradient_checkpointing() -> None:
    unet = tiny_pipeline().unet.train()
    stack = wearing(unet, random_membrane(Stack(unet).layers))
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            unet.enable_gradient_checkpointing()
        weights = stack.trainable("m0")
        stack.set_permeability(torch.ones(1, 1))
        unet(*inputs()).sample.square().sum().backward()
        gradients.append([weight.grad for weight in weights])
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*gradients, strict=True))


class OneBlock(nn.Module):
    """A denoiser that compiles in a second."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.block = Transformer2DModel(
            num_attention_heads=1, attention_head_dim=8, in_channels=8, cross_attention_dim=16, norm_num_groups=4
        )

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        return self.block(x, encoder_hidden_states=text, return_dict=False)[0]


@pytest.fixture
def compiling() -> None:
    torch._dynamo.reset()
    counters.clear()


@pytest.mark.usefixtures("compiling")
@torch.no_grad()
def test_a_compiled_denoiser_keeps_one_graph_while_gamma_changes() -> None:
    denoiser, (x, text) = OneBlock().eval(), (torch.randn(2, 8, 4, 4), torch.randn(2, 3, 16))
    stack = wearing(denoiser, *(random_membrane(Stack(denoiser).layers, seed=seed) for seed in (0, 1)))
    compiled = torch.compile(denoiser, backend="eager", fullgraph=True)
    for gamma in [[[0.1, 0.2], [0.3, 0.4]], [[1.0, 0.0], [0.5, 1.0]], [[0.0, 1.0], [1.0, 1.0]]]:
        stack.set_permeability(torch.tensor(gamma))
        assert torch.equal(compiled(x, text), denoiser(x, text))
    assert counters["stats"]["unique_graphs"] == 1
    stack.set_permeability(torch.tensor([[0.0, 0.0], [0.5, 1.0]]))
    assert torch.equal(compiled(x, text), denoiser(x, text))
    stack.close()
    closed = compiled(x, text)
    stack.eject()
    assert torch.equal(closed, denoiser(x, text))
    assert torch.equal(compiled(x, text), closed)


@pytest.mark.usefixtures("compiling")
@torch.no_grad()
def test_a_denoiser_that_is_compiled_already_can_be_worn() -> None:
    denoiser, (x, text) = OneBlock().eval(), (torch.randn(2, 8, 4, 4), torch.randn(2, 3, 16))
    compiled: Any = torch.compile(denoiser, backend="aot_eager")
    bare = compiled(x, text)
    stack = wearing(compiled, random_membrane(Stack(compiled).layers))
    stack.set_permeability(torch.ones(2, 1))
    found = compiled(x, text)
    assert torch.allclose(found, denoiser(x, text), atol=1e-6)
    assert (found - bare).abs().max() > 1e-3


def test_permeabilities_set_under_inference_mode_can_change_later(unet: Any) -> None:
    stack = Stack(unet)
    with torch.inference_mode():
        stack.add("cat", random_membrane(stack.layers))
        stack.inject()
        stack.set_permeability(torch.ones(2, 1))
        first = unet(*inputs()).sample
    stack.set_permeability(torch.ones(2, 1) * 1.0)
    assert torch.equal(predict(unet, *inputs()), first)


def test_an_xl_denoiser() -> None:
    unet = tiny_xl_pipeline().unet
    x, t, text = inputs(width=32)
    added = {"text_embeds": torch.randn(2, 16), "time_ids": torch.ones(2, 6)}

    def draw(module: nn.Module) -> Tensor:
        with torch.no_grad():
            return module(x, t, text, added_cond_kwargs=added).sample

    membrane = random_membrane(Stack(unet).layers)
    expected = draw(merged(unet, [membrane], [1.0]))
    stack = wearing(unet, membrane)
    stack.set_permeability(torch.ones(1, 1))
    assert torch.allclose(draw(unet), expected, atol=1e-4)


# what is refused


def test_many_are_added_as_one_by_one_or_not_at_all(unet: Any) -> None:
    members = {f"m{seed}": random_membrane(Stack(unet).layers, seed=seed) for seed in range(3)}
    gamma = torch.tensor([[0.2, 0.0, 1.0], [0.0, 0.7, 0.1]])
    found = []
    for together in (False, True):
        stack = Stack(unet)
        with stack:
            if together:
                stack.add_all(members)
                with pytest.raises(StackError, match="'m1' already"):
                    stack.add_all({"new": members["m0"], "m1": members["m1"]})
                with pytest.raises(CoverageError):
                    stack.add_all({"new": members["m0"], "xl": random_membrane(Stack(tiny_xl_pipeline().unet).layers)})
            else:
                for name, membrane in members.items():
                    stack.add(name, membrane)
            assert stack.names == ["m0", "m1", "m2"]
            stack.set_permeability(gamma)
            found.append(predict(unet, *inputs()))
    assert torch.equal(*found)


def test_names_are_taken_once_and_must_be_known(unet: Any) -> None:
    stack = Stack(unet)
    stack.add("cat", random_membrane(stack.layers))
    with pytest.raises(StackError, match="'cat' already"):
        stack.add("cat", random_membrane(stack.layers))
    for call in (stack.remove, stack.membrane, stack.trainable):
        with pytest.raises(StackError, match="called 'dog'; there are cat"):
            call("dog")
    with pytest.raises(StackError, match="called 'dog'"):
        stack.replace("dog", random_membrane(stack.layers))


def test_partial_and_foreign_membranes_are_refused_and_change_nothing(unet: Any) -> None:
    stack = wearing(unet, random_membrane(Stack(unet).layers))
    stack.set_permeability(torch.ones(1, 1))
    before = predict(unet, *inputs())
    path, *rest = stack.layers
    with pytest.raises(CoverageError, match=path):
        stack.add("partial", random_membrane({key: stack.layers[key] for key in rest}))
    with pytest.raises(CoverageError, match="does not fit"):
        stack.replace("m0", random_membrane(Stack(tiny_xl_pipeline().unet).layers))
    assert stack.names == ["m0"]
    assert torch.equal(predict(unet, *inputs()), before)


def test_a_denoiser_without_transformer_blocks_is_refused() -> None:
    with pytest.raises(StackError, match="Sequential has no transformer blocks"):
        Stack(nn.Sequential(nn.Linear(2, 2)))


def test_a_second_stack_is_refused(unet: Any) -> None:
    early = Stack(unet)
    stack = wearing(unet, random_membrane(early.layers))
    for attempt in (lambda: Stack(unet), early.inject):
        with pytest.raises(StackError, match=r"already has a stack .*down_blocks"):
            attempt()
    stack.eject()
    early.inject()
    assert early.injected


def test_layers_that_were_exchanged_are_named(unet: Any) -> None:
    stack = Stack(unet)
    path = next(iter(stack.layers))
    parent, _, child = path.rpartition(".")
    setattr(unet.get_submodule(parent), child, copy.deepcopy(stack.layers[path]))
    with pytest.raises(StackError, match=f"exchanged since the stack was made: {path}"):
        stack.inject()


def test_fused_projections_are_refused_before_and_after() -> None:
    unet = tiny_pipeline().unet
    early = Stack(unet)
    early.add("cat", random_membrane(early.layers))
    unet.fuse_qkv_projections()
    for attempt in (lambda: Stack(unet), early.inject):
        with pytest.raises(StackError, match=r"fused in .*attn1.*unfuse_qkv_projections"):
            attempt()
    unet.unfuse_qkv_projections()
    early = Stack(unet)
    early.add("cat", random_membrane(early.layers))
    early.inject()
    unet.fuse_qkv_projections()
    with pytest.raises(StackError, match="fused in"):
        early.set_permeability(torch.ones(1, 1))


def test_a_membrane_is_not_trained_beside_other_adapters() -> None:
    unet = tiny_pipeline().unet
    stack = wearing(unet, random_membrane(Stack(unet).layers))
    unet.add_adapter(LoraConfig(r=1, target_modules=["to_q"]))
    with pytest.raises(StackError, match=r"PEFT's \(LoRA\).*to_q.*fuse_lora"):
        stack.trainable("m0")


def test_adapters_that_may_bypass_the_layers_are_refused_before_and_after() -> None:
    unet = tiny_pipeline().unet
    early = wearing(unet, random_membrane(Stack(unet).layers))
    inject_adapter_in_model(HRAConfig(r=2, target_modules=["to_q"]), unet)
    with pytest.raises(StackError, match=r"not LoRAs.*to_q.*bypass"):
        early.set_permeability(torch.ones(1, 1))
    early.eject()
    for attempt in (lambda: Stack(unet), early.inject):
        with pytest.raises(StackError, match=r"not LoRAs.*to_q.*bypass"):
            attempt()


def test_membranes_that_were_cast_to_eight_bits_are_refused() -> None:
    unet = tiny_pipeline().unet
    stack = wearing(unet, random_membrane(Stack(unet).layers))
    unet.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    with pytest.raises(StackError, match="float8_e4m3fn.*before the guard"):
        stack.set_permeability(torch.ones(1, 1))


@pytest.mark.parametrize(
    ("gamma", "said"),
    [
        (torch.ones(2), r"\(batch, 1\).*not \(2,\)"),
        (torch.ones(2, 2), r"\(batch, 1\).*not \(2, 2\)"),
        (torch.ones(0, 1), r"not \(0, 1\)"),
        (torch.tensor([[torch.nan]]), "finite"),
        (torch.tensor([[torch.inf]]), "finite"),
    ],
)
def test_permeabilities_of_a_wrong_kind_are_refused(unet: Any, gamma: Tensor, said: str) -> None:
    stack = wearing(unet, random_membrane(Stack(unet).layers))
    with pytest.raises(StackError, match=said):
        stack.set_permeability(gamma)


def test_permeabilities_need_an_injected_stack(unet: Any) -> None:
    stack = Stack(unet)
    stack.add("cat", random_membrane(stack.layers))
    with pytest.raises(StackError, match="call inject"):
        stack.set_permeability(torch.ones(1, 1))


def test_a_batch_of_another_size_is_refused(unet: Any) -> None:
    stack = wearing(unet, random_membrane(Stack(unet).layers))
    stack.set_permeability(torch.ones(2, 1))
    with pytest.raises(StackError, match="for a batch of 2, but the denoiser got one of 4"):
        predict(unet, *inputs(4))


def test_an_empty_stack_is_the_bare_denoiser(unet: Any) -> None:
    bare = predict(unet, *inputs())
    with Stack(unet) as stack:
        stack.set_permeability(torch.zeros(2, 0))
        assert torch.equal(predict(unet, *inputs()), bare)
