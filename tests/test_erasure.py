"""The three kinds of erasures: what each leaves behind (nothing), what it refuses, and any mix of them on one guard."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from semiperm.concept import Concept
from semiperm.erasure import Card, Erasure, Sampler, WeightDelta, base_digest, named_weights
from semiperm.errors import BaseModelError, CoverageError, GuardError
from semiperm.gate import ProbeGate
from semiperm.guarded import Guard
from semiperm.models.load import model_of
from semiperm.models.model import DiffusionModel
from tests.helpers import card, random_membrane
from tests.tiny import tiny_pipeline, tiny_sd3_pipeline, tiny_xl_pipeline

NAMES = ("unet.conv_in.weight", "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight")
TEXT = "text_encoder.final_layer_norm.weight"


def bits(model: DiffusionModel) -> dict[str, Tensor]:
    parts = {name: part for name, part in model.pipeline.components.items() if isinstance(part, nn.Module)}
    return {f"{name}.{key}": value.clone() for name, part in parts.items() for key, value in part.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def delta_for(model: DiffusionModel, *names: str, size: float = 0.5, concept: str = "cat") -> WeightDelta:
    weights = named_weights(model, names)
    generator = torch.Generator().manual_seed(len(names))
    changes = {name: size * torch.randn(weight.shape, generator=generator) for name, weight in weights.items()}
    card = Card(concepts=(Concept(name=concept),), kind="delta", base_model="tiny")
    return WeightDelta(card, changes, base_digest(weights))


def pictures(pipeline: Any, prompt: str = "a cat") -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return pipeline(prompt, num_inference_steps=2, generator=generator, output_type="pt").images


@dataclass(frozen=True)
class Halved(Sampler):
    """Halves the guidance scale of every call of the pipeline's denoiser, for the sake of an example."""

    card: Card = Card(concepts=(Concept(name="loud"),), kind="sampler")

    @contextmanager
    def on(self, model: DiffusionModel) -> Iterator[Any]:
        handle = model.called.register_forward_hook(lambda _module, _args, output: (output[0] / 2,))
        try:
            yield model.pipeline
        finally:
            handle.remove()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_delta_adds_to_the_named_weights_and_takes_back_every_bit(dtype: torch.dtype) -> None:
    model = model_of(tiny_pipeline().to(dtype))
    delta = delta_for(model, *NAMES, TEXT)
    before = bits(model)
    objects = dict(named_weights(model, delta.deltas))
    with delta.on(model) as pipeline:
        assert pipeline is model.pipeline
        inside = bits(model)
        for name, value in inside.items():
            if name in delta.deltas:
                expected = before[name].double() + delta.deltas[name].double()
                assert torch.allclose(value.double(), expected, rtol=1e-2, atol=1e-3)
                assert not torch.equal(value, before[name])
            else:
                assert torch.equal(value, before[name])
    assert same(bits(model), before)
    assert all(named_weights(model, [name])[name] is weight for name, weight in objects.items())


def test_a_delta_is_taken_back_after_an_error() -> None:
    model = model_of(tiny_pipeline())
    before = bits(model)
    with pytest.raises(KeyboardInterrupt), delta_for(model, *NAMES).on(model):
        raise KeyboardInterrupt
    assert same(bits(model), before)


def test_a_delta_of_other_weights_is_refused_unless_any_base_is_allowed() -> None:
    model, other = model_of(tiny_pipeline()), model_of(tiny_pipeline(seed=1), "another")
    delta, before = delta_for(model, *NAMES), bits(other)
    with pytest.raises(BaseModelError, match="made for the weights of tiny, and another has others"), delta.on(other):
        pass
    assert same(bits(other), before)
    with delta.for_any_base().on(other):
        assert not same(bits(other), before)
    assert same(bits(other), before)


def test_one_changed_number_of_the_base_is_noticed() -> None:
    model = model_of(tiny_pipeline())
    delta = delta_for(model, *NAMES)
    with torch.no_grad():
        named_weights(model, NAMES[:1])[NAMES[0]].view(-1)[-1] += 1e-6
    with pytest.raises(BaseModelError), delta.on(model):
        pass


def test_a_delta_that_does_not_fit_names_the_weights() -> None:
    model, xl = model_of(tiny_pipeline()), model_of(tiny_xl_pipeline())
    delta = delta_for(model, *NAMES).for_any_base()
    with pytest.raises(CoverageError, match=r"no weight unet.mid_block"), delta.on(model_of(tiny_sd3_like())):
        pass
    with pytest.raises(CoverageError, match="sizes differ of unet.mid_block") as refused, delta.on(xl):
        pass
    assert refused.value.misshapen == (NAMES[1],)


def tiny_sd3_like() -> Any:
    pipeline = tiny_pipeline()
    pipeline.unet.mid_block = None
    return pipeline


def test_a_delta_of_a_transformer() -> None:
    model = model_of(tiny_sd3_pipeline())
    name = next(f"transformer.{name}" for name, _ in model.denoiser.named_parameters() if "attn.to_q.weight" in name)
    before = bits(model)
    with delta_for(model, name).on(model):
        assert not same(bits(model), before)
    assert same(bits(model), before)


def test_offloaded_weights_are_refused() -> None:
    model = model_of(tiny_pipeline())
    delta = delta_for(model, *NAMES)
    model.pipeline.unet.conv_in.to("meta")
    with pytest.raises(BaseModelError, match="conv_in.weight .* quantised or offloaded"), delta.on(model):
        pass


# any mix on one guard


def test_a_guard_takes_any_mix_and_leaves_no_trace() -> None:
    model = model_of(tiny_pipeline())
    membrane = random_membrane(model.erasable_layers(), name="dog")
    delta, sampler = delta_for(model, *NAMES, TEXT), Halved()
    before, bare = bits(model), pictures(model.pipeline)
    alone = {}
    for erasure in (membrane, delta, sampler):
        with Guard(model, [erasure], gate="always") as guarded:
            alone[erasure.card.title] = pictures(guarded)
            assert not torch.equal(alone[erasure.card.title], bare)
        assert same(bits(model), before)
    with Guard(model, [sampler, membrane, delta], gate="always") as guarded:
        assert guarded.names == ["dog", "loud", "cat"]
        assert guarded.stack.names == ["dog"]
        together = pictures(guarded)
        assert guarded.opens("a cat") is None
        guarded.remove("loud")
        two = pictures(guarded)
        guarded.remove("dog")
        assert torch.equal(pictures(guarded), alone["cat"])
        guarded.add(membrane)
        assert torch.equal(pictures(guarded), two)
        guarded.add(sampler)
        assert torch.equal(pictures(guarded), together)
        guarded.eject()
        assert torch.equal(pictures(model.pipeline), bare)
        guarded.inject()
        assert torch.equal(pictures(guarded), together)
    assert same(bits(model), before)
    assert torch.equal(pictures(model.pipeline), bare)
    assert not model.called._forward_hooks and not model.called._forward_pre_hooks


def test_an_erasure_that_is_refused_changes_nothing() -> None:
    model = model_of(tiny_pipeline())
    foreign, own = delta_for(model_of(tiny_pipeline(seed=1)), *NAMES), delta_for(model, *NAMES)
    membrane = random_membrane(model.erasable_layers(), name="dog")
    before = bits(model)
    with pytest.raises(BaseModelError):
        Guard(model, [membrane, foreign], gate="always")
    assert same(bits(model), before)
    with Guard(model, [membrane], gate="always") as guarded:
        erased = pictures(guarded)
        with pytest.raises(BaseModelError):
            guarded.add(foreign)
        assert guarded.names == ["dog"]
        assert torch.equal(pictures(guarded), erased)
        with pytest.raises(GuardError, match="called 'dog' already"):
            guarded.add(own, name="dog")
    assert same(bits(model), before)


# one interface


def erasures(model: DiffusionModel) -> list[Erasure]:
    gate = ProbeGate(weight=(0.0,) * 16, bias=0.0, threshold=1.0, phrases=("cat",))
    membrane = random_membrane(model.erasable_layers()).with_card(gate=gate)
    return [membrane, delta_for(model, *NAMES), Halved()]


@pytest.mark.parametrize("number", range(3))
def test_on_erases_and_opens_says_for_which_prompts(number: int) -> None:
    model = model_of(tiny_pipeline())
    erasure = erasures(model)[number]
    before = bits(model)
    bare = {prompt: pictures(model.pipeline, prompt) for prompt in ("a cat", "a dog")}
    opens = erasure.opens(model, list(bare))
    assert (opens is None) == (erasure.kind != "membrane")
    gammas = [1.0, 1.0] if opens is None else opens.tolist()
    assert gammas == ([1.0, 0.0] if erasure.kind == "membrane" else [1.0, 1.0])
    with erasure.on(model) as pipeline:
        for (prompt, picture), gamma in zip(bare.items(), gammas, strict=True):
            assert torch.equal(pictures(pipeline, prompt), picture) == (gamma == 0)
    assert same(bits(model), before)
    assert torch.equal(pictures(model.pipeline), bare["a cat"])
    assert erasure.kind == erasure.card.kind


@pytest.mark.parametrize(("build", "part"), [(tiny_pipeline, "text_encoder"), (tiny_xl_pipeline, "text_encoder_2")])
@pytest.mark.parametrize("prefix", ["", "text_model."])
def test_deltas_name_text_encoder_weights_in_both_layouts(build: Callable[[], Any], part: str, prefix: str) -> None:
    model = model_of(build())
    network = getattr(model.pipeline, part)
    own = next(name for name, _ in network.named_parameters() if "q_proj.weight" in name)
    name = f"{part}.{prefix}{own.removeprefix('text_model.')}"
    weight = network.get_parameter(own)
    before = weight.data.clone()
    delta = WeightDelta(card("cat"), {name: torch.ones_like(before)}, base_digest(named_weights(model, [name])))
    with delta.on(model):
        assert torch.equal(weight.data, before + 1)
    assert torch.equal(weight.data, before)


def test_two_names_of_one_weight_are_refused() -> None:
    names = [f"text_encoder.{prefix}final_layer_norm.bias" for prefix in ("", "text_model.")]
    with pytest.raises(CoverageError, match="are the same weight"):
        named_weights(model_of(tiny_pipeline()), names)
