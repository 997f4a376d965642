"""A guarded pipeline erases what prompts ask for, gives the bare pictures otherwise, and takes what pipelines take."""

import copy
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload_with_hook
from diffusers.callbacks import SDCFGCutoffCallback
from diffusers.pipelines.auto_pipeline import AutoPipelineForImage2Image
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_instruct_pix2pix import (
    StableDiffusionInstructPix2PixPipeline,
)
from torch import Tensor

from semiperm.api import guard
from semiperm.concept import Concept
from semiperm.erasure import Card, WeightDelta
from semiperm.errors import (
    CoverageError,
    GateError,
    GuardError,
    MembraneFileError,
    ModelLoadError,
    SemipermError,
    StackError,
)
from semiperm.files.safetensors import load, save
from semiperm.gate import Gate, Shown
from semiperm.guarded import Guard
from semiperm.membrane import Membrane
from semiperm.models.layers import erasable_layers
from semiperm.models.load import model_of
from semiperm.models.stable_diffusion import StableDiffusion
from semiperm.models.text import TextFeatures
from semiperm.stack import Stack
from tests.helpers import random_membrane
from tests.tiny import (
    tiny_pipeline,
    tiny_pixart_pipeline,
    tiny_qwen_pipeline,
    tiny_sd3_pipeline,
    tiny_xl_pipeline,
)

STEPS = 3
PROMPTS = ["a cat", "a dog", "a cat and a dog", "a house"]


class ByName(Gate):
    """Opens fully where the concept's word is among the tokens; embeddings without tokens open half."""

    word: str

    def gamma(self, shown: Shown) -> Tensor:
        if shown.text.ids is None:
            return torch.full((len(shown.text),), 0.5)
        (wanted,) = shown.reader.tokens([self.word])
        return torch.tensor([float(set(wanted) <= set(row)) for row in shown.text.ids])


class Shut(Gate):
    def gamma(self, shown: Shown) -> Tensor:
        return torch.zeros(len(shown.text))


def by_name(card: Card) -> Gate:
    return ByName(word=card.concept.name)


def never(_: Card) -> Gate:
    return Shut()


def membrane_for(pipeline: Any, name: str, seed: int = 0) -> Membrane:
    """A membrane of random weights, strong enough to change every picture."""
    generator = torch.Generator().manual_seed(seed)
    layers = erasable_layers(pipeline.unet)
    empty = Membrane.zero(layers, Card(concepts=(Concept(name=name),), base_model="tiny"), generator=generator)
    up = {path: 0.5 * torch.randn(tensor.shape, generator=generator) for path, tensor in empty.up.items()}
    return Membrane(empty.card, empty.down, up)


def scaled(membrane: Membrane, factor: float) -> Membrane:
    return Membrane(membrane.card, membrane.down, {path: factor * up for path, up in membrane.up.items()})


def seeds(count: int, first: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(first + index) for index in range(count)]


def pictures(pipe: Any, *args: Any, **kwargs: Any) -> Tensor:
    return pipe(*args, num_inference_steps=STEPS, output_type="pt", **kwargs).images


def bare_pictures(guarded: Guard, *args: Any, **kwargs: Any) -> Tensor:
    """Call the pipeline without its guard."""
    guarded.eject()
    try:
        return pictures(guarded.pipeline, *args, **kwargs)
    finally:
        guarded.inject()


def differs(first: Tensor, second: Tensor) -> bool:
    return (first - second).abs().max().item() > 1e-3


def same(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and torch.allclose(first, second, atol=1e-5)


@pytest.fixture(params=["epsilon", "v_prediction", "xl"])
def pipeline(request: pytest.FixtureRequest) -> Any:
    return tiny_xl_pipeline() if request.param == "xl" else tiny_pipeline(prediction_type=request.param)


@pytest.mark.parametrize("guidance_scale", [5.0, 1.0])
def test_a_batch_gives_what_the_prompts_give_one_by_one(pipeline: Any, guidance_scale: float) -> None:
    arguments = {"guidance_scale": guidance_scale}
    bare = pictures(pipeline, PROMPTS, generator=seeds(4), **arguments)
    with guard(pipeline, [membrane_for(pipeline, name) for name in ("cat", "dog")], gate=by_name) as guarded:
        output = guarded(PROMPTS, generator=seeds(4), num_inference_steps=STEPS, output_type="pt", **arguments)
        batch = output.images
        assert output.permeability.gamma_BK.tolist() == [[1, 0], [0, 1], [1, 1], [0, 0]]
        for index, prompt in enumerate(PROMPTS):
            alone = pictures(guarded, prompt, generator=seeds(1, index), **arguments)
            assert same(alone, batch[index : index + 1])
    assert [differs(*pair) for pair in zip(batch, bare, strict=True)] == [True, True, True, False]
    # nothing opens for the house: neither in the batch nor alone is a bit changed
    assert torch.equal(batch[3], bare[3])


def test_closed_is_the_bare_pipeline_bit_for_bit(pipeline: Any) -> None:
    bare = pictures(pipeline, PROMPTS, generator=seeds(4))
    guarded = guard(pipeline, [membrane_for(pipeline, "cat")], gate=never)
    assert torch.equal(pictures(guarded, PROMPTS, generator=seeds(4)), bare)


def test_eject_gives_the_pipeline_back_and_inject_the_guard(pipeline: Any) -> None:
    before = {name: tensor.clone() for name, tensor in pipeline.unet.state_dict().items()}
    bare = pictures(pipeline, "a cat", generator=seeds(1))
    guarded = guard(pipeline, [membrane_for(pipeline, "cat")], gate="always")
    erased = pictures(guarded, "a cat", generator=seeds(1))
    guarded.eject()
    after = pipeline.unet.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)
    assert torch.equal(pictures(pipeline, "a cat", generator=seeds(1)), bare)
    with pytest.raises(GuardError, match="ejected"):
        guarded("a cat")
    guarded.inject()
    assert torch.equal(pictures(guarded, "a cat", generator=seeds(1)), erased)
    assert differs(erased, bare)


def test_the_membrane_acts_in_both_branches(pipeline: Any) -> None:
    seen: list[Tensor] = []
    pipeline.unet.register_forward_hook(lambda _module, _args, output: seen.append(output[0]))
    latents = torch.randn(2, 4, 8, 8, generator=seeds(1)[0])
    arguments: dict[str, Any] = {"num_inference_steps": 1, "latents": latents, "guidance_scale": 5.0}
    pipeline(["a cat", "a dog"], output_type="latent", **arguments)
    guarded = guard(pipeline, [membrane_for(pipeline, "cat")], gate=by_name)
    guarded(["a cat", "a dog"], output_type="latent", **arguments)
    bare, erased = seen
    # negative cat, negative dog, cat, dog
    assert [differs(*pair) for pair in zip(erased, bare, strict=True)] == [True, False, True, False]


def test_several_pictures_a_prompt(pipeline: Any) -> None:
    guarded = guard(pipeline, [membrane_for(pipeline, "cat")], gate=by_name)
    shape: dict[str, Any] = {"num_images_per_prompt": 3, "num_inference_steps": STEPS, "output_type": "pt"}
    output = guarded(["a cat", "a dog"], generator=seeds(6), **shape)
    both = output.images
    assert output.permeability.prompts == ("a cat", "a dog")
    for index, prompt in enumerate(["a cat"] * 3 + ["a dog"] * 3):
        alone = pictures(guarded, prompt, generator=seeds(1, index))
        assert same(alone, both[index : index + 1])


@pytest.mark.parametrize("guidance_scale", [5.0, 1.0, 0.0])
def test_one_generator_and_positional_arguments(guidance_scale: float) -> None:
    pipeline = tiny_pipeline()
    guarded = guard(pipeline, [membrane_for(pipeline, "cat")], gate="always")
    named = pictures(guarded, prompt="a cat", height=16, width=16, generator=seeds(1)[0], guidance_scale=guidance_scale)
    # prompt, height, width, steps, timesteps, sigmas, guidance
    given = guarded("a cat", 16, 16, STEPS, None, None, guidance_scale, generator=seeds(1)[0], output_type="pt")
    assert torch.equal(given.images, named)


def test_negative_prompts_open_nothing(pipeline: Any) -> None:
    arguments: dict[str, Any] = {"negative_prompt": ["a cat", "a fox"], "generator": None}
    prompts = ["a dog", "a cat"]
    bare = pictures(pipeline, prompts, **arguments | {"generator": seeds(2)})
    guarded = guard(pipeline, [membrane_for(pipeline, "cat")], gate=by_name)
    erased = pictures(guarded, prompts, **arguments | {"generator": seeds(2)})
    assert torch.equal(erased[0], bare[0])
    assert differs(erased[1], bare[1])
    alone = pictures(guarded, "a cat", negative_prompt="a fox", generator=seeds(1, 1))
    assert same(alone, erased[1:])


def test_prompt_embeddings(pipeline: Any) -> None:
    model = StableDiffusion(pipeline)
    positive, negative = model.encode(["a cat", "a dog"]), model.encode(["", "a fox"])
    arguments = {"prompt_embeds": positive.hidden_BTC, "negative_prompt_embeds": negative.hidden_BTC}
    if model.is_xl:
        arguments |= {
            "pooled_prompt_embeds": positive.pooled_BC,
            "negative_pooled_prompt_embeds": negative.pooled_BC,
        }
    bare = pictures(pipeline, generator=seeds(2), **arguments)
    seen: list[TextFeatures] = []

    class Note(ByName):
        def gamma(self, shown: Shown) -> Tensor:
            seen.append(shown.text)
            return super().gamma(shown)

    guarded = guard(pipeline, [membrane_for(pipeline, "cat")], gate=lambda card: Note(word=card.concept.name))
    output = guarded(generator=seeds(2), num_inference_steps=STEPS, output_type="pt", **arguments)
    erased = output.images
    assert torch.equal(seen[0].hidden_BTC, positive.hidden_BTC)
    assert (seen[0].pooled_BC is not None) == model.is_xl
    assert output.permeability.prompts == ("<embeddings 0>", "<embeddings 1>")
    assert output.permeability.gamma_BK.tolist() == [[0.5], [0.5]]
    assert differs(erased[0], bare[0]) and differs(erased[1], bare[1])


def test_the_second_prompt_of_xl_opens_too() -> None:
    pipeline = tiny_xl_pipeline()
    guarded = guard(pipeline, [membrane_for(pipeline, "cat")], gate=by_name)
    both = guarded(["a dog", "a fox"], prompt_2=["a cat", "a fox"], num_inference_steps=1)
    assert both.permeability.gamma_BK.tolist() == [[1], [0]]
    alone = guarded("a dog", prompt_2="a cat", num_inference_steps=1)
    assert alone.permeability.gamma_BK.tolist() == [[1]]
    with pytest.raises(GuardError, match="prompt_2 has 1"):
        pictures(guarded, ["a dog", "a fox"], prompt_2=["a cat"])


def test_all_membranes_are_closed_after_an_exception(pipeline: Any) -> None:
    bare = pictures(pipeline, "a dog", generator=seeds(1))
    guarded = guard(pipeline, [membrane_for(pipeline, "cat")], gate=by_name)

    def fail(*_: Any) -> dict[str, Any]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pictures(guarded, "a cat", callback_on_step_end=fail)
    assert torch.equal(pictures(guarded, "a dog", generator=seeds(1)), bare)
    with pytest.raises(ValueError, match="callback_on_step_end_tensor_inputs"):
        pictures(guarded, "a cat", callback_on_step_end_tensor_inputs=["nothing"])
    assert torch.equal(pictures(guarded, "a dog", generator=seeds(1)), bare)
    assert not pipeline.unet._forward_pre_hooks


def test_guidance_that_ends_half_way_keeps_the_membranes_open() -> None:
    pipeline = tiny_pipeline()
    guarded = guard(pipeline, [membrane_for(pipeline, "cat")], gate=by_name)
    batches: list[int] = []

    def cut(pipe: Any, step: int, _t: Any, state: dict[str, Any]) -> dict[str, Any]:
        if step == 1:
            pipe._guidance_scale = 0.0
            state["prompt_embeds"] = state["prompt_embeds"].chunk(2)[1]
        return state

    cutting: dict[str, Any] = {
        "callback_on_step_end": cut,
        "callback_on_step_end_tensor_inputs": ["latents", "prompt_embeds"],
    }
    handle = pipeline.unet.register_forward_pre_hook(lambda _module, args: batches.append(args[0].shape[0]))
    both = pictures(guarded, ["a cat", "a dog"], generator=seeds(2), **cutting)
    handle.remove()
    assert batches == [4, 4, 2]
    assert same(pictures(guarded, "a cat", generator=seeds(1), **cutting), both[:1])
    assert torch.equal(bare_pictures(guarded, ["a cat", "a dog"], generator=seeds(2), **cutting)[1], both[1])
    pictures(guarded, "a cat", callback_on_step_end=SDCFGCutoffCallback(cutoff_step_ratio=0.4))


def test_image_to_image_pipelines_are_guarded_as_well() -> None:
    pipeline = AutoPipelineForImage2Image.from_pipe(tiny_pipeline())
    pipeline.set_progress_bar_config(disable=True)
    image = torch.rand(1, 3, 16, 16, generator=seeds(1)[0])
    arguments: dict[str, Any] = {"image": image, "num_inference_steps": 4, "strength": 1.0, "output_type": "pt"}
    bare = pipeline(["a cat", "a dog"], generator=seeds(2), **arguments).images
    guarded = guard(pipeline, [membrane_for(pipeline, "cat")], gate=by_name)
    erased = guarded(["a cat", "a dog"], generator=seeds(2), **arguments).images
    assert differs(erased[0], bare[0])
    assert torch.equal(erased[1], bare[1])


def compiled(pipeline: Any) -> None:
    pipeline.unet = torch.compile(pipeline.unet, backend="eager", fullgraph=True)


def compiled_in_place(pipeline: Any) -> None:
    pipeline.unet.compile(backend="eager")


def offloaded_by_model(pipeline: Any) -> None:
    # what enable_model_cpu_offload() does, which itself wants an accelerator
    for part in (pipeline.text_encoder, pipeline.unet, pipeline.vae):
        cpu_offload_with_hook(part, "cpu")


def offloaded_by_group(pipeline: Any) -> None:
    cpu = torch.device("cpu")
    pipeline.unet.enable_group_offload(onload_device=cpu, offload_device=cpu, offload_type="leaf_level")


@pytest.mark.parametrize(
    ("change", "guard_first"),
    [
        (compiled, True),
        (compiled_in_place, False),
        (offloaded_by_model, True),
        (offloaded_by_model, False),
        (offloaded_by_group, True),
        (offloaded_by_group, False),
    ],
)
def test_compiled_and_offloaded_denoisers_are_guarded(change: Callable[[Any], None], guard_first: bool) -> None:
    torch.compiler.reset()
    pipeline = tiny_pipeline()
    membrane = membrane_for(pipeline, "cat")
    with guard(pipeline, [membrane], gate=by_name) as guarded:
        plain = pictures(guarded, ["a cat", "a dog"], generator=seeds(2))
    if not guard_first:
        change(pipeline)
    with guard(pipeline, [membrane], gate=by_name) as guarded:
        if guard_first:
            change(pipeline)
        assert same(pictures(guarded, ["a cat", "a dog"], generator=seeds(2)), plain)
        assert same(pictures(guarded, ["a dog", "a cat"], generator=seeds(2)[::-1]), plain.flip(0))


def test_a_denoiser_whose_calls_are_hidden_gives_no_pictures() -> None:
    pipeline = tiny_pipeline()
    guarded = guard(pipeline, [membrane_for(pipeline, "cat")], gate=by_name)
    # a call that runs no hooks
    pipeline.unet._compiled_call_impl = pipeline.unet.forward
    with pytest.raises(GuardError, match="may not have acted"):
        pictures(guarded, "a cat")
    assert len(pictures(guarded, "a dog")) == 1


def test_another_denoiser_wants_another_guard() -> None:
    pipeline = tiny_pipeline()
    guarded = guard(pipeline, [membrane_for(pipeline, "cat")], gate=by_name)
    pipeline.unet = tiny_pipeline(seed=1).unet
    with pytest.raises(GuardError, match="another denoiser"):
        guarded("a cat")


def test_a_batch_that_no_prompt_accounts_for_is_refused() -> None:
    pipeline = tiny_pipeline()
    guarded = guard(pipeline, [membrane_for(pipeline, "cat")], gate="always")
    with pytest.raises(GuardError, match="batch of 3"), guarded.opened(torch.ones(2, 1)):
        pipeline.unet(torch.zeros(3, 4, 8, 8), 1, torch.zeros(3, 77, 16))


def test_half_precision_takes_float_membranes() -> None:
    pipeline = tiny_pipeline().to(torch.bfloat16)
    bare = pictures(pipeline, ["a cat", "a dog"], generator=seeds(2))
    guarded = guard(pipeline, [membrane_for(pipeline, "cat")], gate=by_name)
    erased = pictures(guarded, ["a cat", "a dog"], generator=seeds(2))
    assert differs(erased[0], bare[0])
    assert torch.equal(erased[1], bare[1])


def test_the_precision_may_change_under_the_guard() -> None:
    pipeline = tiny_pipeline()
    guarded = guard(pipeline, [membrane_for(pipeline, "cat")], gate=by_name)
    pictures(guarded, "a cat")
    pipeline.to(torch.bfloat16)
    bare = bare_pictures(guarded, "a cat", generator=seeds(1))
    assert differs(pictures(guarded, "a cat", generator=seeds(1)), bare)


def test_membranes_come_and_go(tmp_path: Path) -> None:
    pipeline = tiny_pipeline()
    bare = pictures(pipeline, "a cat", generator=seeds(1))
    cat, dog = membrane_for(pipeline, "cat"), membrane_for(pipeline, "dog", seed=1)
    path = save(cat, tmp_path / "cat.safetensors")
    guarded = guard(pipeline, [path, str(path), dog], gate=by_name)
    assert guarded.names == ["cat", "cat (2)", "dog"]
    assert guarded.add(cat) == "cat (3)"
    assert guarded.add(cat, name="mine") == "mine"
    for name in ("cat (2)", "cat (3)", "mine"):
        guarded.remove(name)
    erased = pictures(guarded, "a cat", generator=seeds(1))
    guarded.replace("cat", scaled(cat, 0.5))
    assert differs(pictures(guarded, "a cat", generator=seeds(1)), erased)
    guarded.replace("cat", load(path))
    assert torch.equal(pictures(guarded, "a cat", generator=seeds(1)), erased)
    guarded.remove("cat")
    assert torch.equal(pictures(guarded, "a cat", generator=seeds(1)), bare)
    guarded.remove("dog")
    assert torch.equal(pictures(guarded, "a cat", generator=seeds(1)), bare)
    with pytest.raises(StackError, match="no membrane called 'dog'"):
        guarded.remove("dog")


def test_two_membranes_of_one_concept_both_act() -> None:
    pipeline = tiny_pipeline()
    cat = membrane_for(pipeline, "cat")
    with guard(pipeline, [cat, cat], gate="always") as guarded:
        twice = pictures(guarded, "a cat", generator=seeds(1))
    with guard(pipeline, [scaled(cat, 2)], gate="always") as guarded:
        assert same(pictures(guarded, "a cat", generator=seeds(1)), twice)


def test_the_table() -> None:
    pipeline = tiny_pipeline()
    guarded = guard(pipeline, [membrane_for(pipeline, name) for name in ("cat", "dog")], gate=by_name)
    table = guarded.permeability(PROMPTS)
    assert table.prompts == tuple(PROMPTS) and table.names == ("cat", "dog")
    assert table.rows()[0] == {"cat": 1.0, "dog": 0.0}
    assert table.opened() == [{"cat": 1.0}, {"dog": 1.0}, {"cat": 1.0, "dog": 1.0}, {}]
    assert str(table).splitlines()[:3] == [" cat   dog  prompt", "1.00  0.00  a cat", "0.00  1.00  a dog"]
    assert guarded.permeability("a dog").gamma_BK.tolist() == [[0, 1]]
    assert guard(tiny_pipeline(), [], gate="always").permeability("a dog").gamma_BK.shape == (1, 0)


def test_membranes_of_other_architectures_are_refused_and_leave_nothing_behind(tmp_path: Path) -> None:
    pipeline = tiny_pipeline()
    foreign = membrane_for(tiny_xl_pipeline(), "cat")
    with pytest.raises(CoverageError, match=r"fingerprint.*only the model has.*transformer_blocks") as refusal:
        guard(pipeline, [membrane_for(pipeline, "dog"), foreign], gate="always")
    assert refusal.value.missing and refusal.value.foreign
    assert not any("base" in name for name, _ in pipeline.unet.named_modules())
    path = save(foreign, tmp_path / "foreign.safetensors")
    with pytest.raises(CoverageError, match="fingerprint"):
        guard(pipeline, [path], gate="always")
    (tmp_path / "nothing.safetensors").write_bytes(b"nothing")
    with pytest.raises(MembraneFileError):
        guard(pipeline, [tmp_path / "nothing.safetensors"], gate="always")
    guard(pipeline, [], gate="always")


def test_a_membrane_fits_both_spellings_of_projections() -> None:
    made_for_convolutions = membrane_for(tiny_pipeline(), "cat")
    pipeline = tiny_pipeline(linear_projection=True)
    bare = pictures(pipeline, "a cat", generator=seeds(1))
    guarded = guard(pipeline, [made_for_convolutions], gate="always")
    assert differs(pictures(guarded, "a cat", generator=seeds(1)), bare)


def test_one_pipeline_takes_one_guard() -> None:
    pipeline = tiny_pipeline()
    first = guard(pipeline, [membrane_for(pipeline, "cat")], gate="always")
    with pytest.raises(GuardError, match="has a guard already; add to that one, or eject it first"):
        guard(pipeline, [], gate="always")
    first.eject()
    guard(StableDiffusion(pipeline), [], gate="always")


def test_gates_have_names() -> None:
    pipeline = tiny_pipeline()
    with guard(pipeline, [membrane_for(pipeline, "cat")], gate="always") as guarded:
        assert guarded.permeability(PROMPTS).gamma_BK.flatten().tolist() == [1, 1, 1, 1]
    with pytest.raises(GuardError, match="no gate 'alway'; there are fitted, .* Did you mean 'always'"):
        guard(pipeline, [], gate="alway")


def test_a_membrane_without_a_fitted_gate_is_refused_at_once() -> None:
    pipeline = tiny_pipeline()
    with pytest.raises(GateError, match="'cat' has no fitted gate"):
        guard(pipeline, [membrane_for(pipeline, "cat")])
    with guard(pipeline, []) as guarded, pytest.raises(GateError, match="'cat' has no fitted gate"):
        guarded.add(membrane_for(pipeline, "cat"))


def test_a_tuple_has_the_permeabilities_as_its_last_item() -> None:
    pipeline = tiny_pipeline()
    guarded = guard(pipeline, [membrane_for(pipeline, "cat")], gate=by_name)
    *output, asked = guarded(["a cat", "a dog"], num_inference_steps=1, return_dict=False)
    assert len(output[0]) == 2
    assert asked.gamma_BK.tolist() == [[1], [0]]


def test_opens_is_the_membrane_that_opens_furthest() -> None:
    pipeline = tiny_pipeline()
    with guard(pipeline, [membrane_for(pipeline, name) for name in ("cat", "dog")], gate=by_name) as guarded:
        opens = guarded.opens(PROMPTS)
        assert opens is not None and opens.tolist() == [1, 1, 1, 0]
    with guard(pipeline, []) as guarded:
        opens = guarded.opens(PROMPTS)
        assert opens is not None and opens.tolist() == [0, 0, 0, 0]


def test_nothing_to_judge_by_and_wrong_arguments() -> None:
    guarded = Guard(StableDiffusion(tiny_pipeline()), gate="always")
    with pytest.raises(GuardError, match="nothing to judge"):
        guarded(num_inference_steps=1)
    with pytest.raises(ModelLoadError, match="not a Stable Diffusion pipeline"):
        guard("a path", [], gate="always")


# calls


def test_threads_take_turns_on_one_guard() -> None:
    pipeline = tiny_pipeline()
    guarded = guard(pipeline, [membrane_for(pipeline, name) for name in ("cat", "dog")], gate=by_name)
    prompts = ["a cat", "a dog", "a house", "a cat and a dog"] * 3
    alone = [pictures(guarded, prompt, generator=seeds(1, seed)) for seed, prompt in enumerate(prompts)]
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(pictures, guarded, text, generator=seeds(1, seed)) for seed, text in enumerate(prompts)]
    for job, expected in zip(jobs, alone, strict=True):
        assert torch.equal(job.result(), expected)


def test_copies_with_schedulers_of_their_own_take_turns_too() -> None:
    pipeline = tiny_pipeline()
    guarded = guard(pipeline, [membrane_for(pipeline, "cat")], gate=by_name)
    prompts = ["a cat", "a house"] * 4

    def scoped(number: int) -> Tensor:
        mine = copy.copy(guarded)
        mine.pipeline = copy.copy(pipeline)
        mine.pipeline.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config)
        return pictures(mine, prompts[number], generator=seeds(1, number))

    alone = [scoped(number) for number in range(len(prompts))]
    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(*pair) for pair in zip(pool.map(scoped, range(len(prompts))), alone, strict=True))


CHANGES: dict[str, Callable[[Guard, Membrane], object]] = {
    "add": lambda guarded, membrane: guarded.add(membrane),
    "remove": lambda guarded, membrane: guarded.remove("cat"),
    "replace": lambda guarded, membrane: guarded.replace("cat", membrane),
    "eject": lambda guarded, membrane: guarded.eject(),
    "with": lambda guarded, membrane: guarded.__exit__(),
    "call": lambda guarded, membrane: guarded("a dog", num_inference_steps=1),
    "copy": lambda guarded, membrane: copy.copy(guarded)("a dog", num_inference_steps=1),
    "close": lambda guarded, membrane: guarded.stack.close(),
    "set": lambda guarded, membrane: guarded.stack.set_permeability(torch.zeros(1, 1)),
    "stack": lambda guarded, membrane: guarded.stack.remove("cat"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_within_a_call_is_an_error_and_the_call_stays_guarded(change: str) -> None:
    pipeline = tiny_pipeline()
    guarded = guard(pipeline, [membrane_for(pipeline, "cat")], gate=by_name)
    other = membrane_for(pipeline, "dog", seed=1)
    expected = pictures(guarded, "a cat", generator=seeds(1))
    raised: list[StackError] = []

    def swallow(*_: Any) -> dict[str, Any]:
        try:
            CHANGES[change](guarded, other)
        except StackError as error:
            raised.append(error)
        return {}

    assert torch.equal(pictures(guarded, "a cat", generator=seeds(1), callback_on_step_end=swallow), expected)
    assert len(raised) == STEPS and all("while a guarded call is running" in str(error) for error in raised)
    assert guarded.names == ["cat"] and guarded.stack.injected
    assert torch.equal(pictures(guarded, "a cat", generator=seeds(1)), expected)


def test_a_change_from_another_thread_waits_for_the_call() -> None:
    pipeline = tiny_pipeline()
    bare = pictures(pipeline, "a cat", generator=seeds(1))
    guarded = guard(pipeline, [membrane_for(pipeline, "cat")], gate=by_name)
    expected = pictures(guarded, "a cat", generator=seeds(1))
    started = threading.Event()
    remover = threading.Thread(target=lambda: (started.wait(), guarded.remove("cat")))
    remover.start()

    def begin(*_: Any) -> dict[str, Any]:
        started.set()
        return {}

    assert torch.equal(pictures(guarded, "a cat", generator=seeds(1), callback_on_step_end=begin), expected)
    remover.join()
    assert guarded.names == []
    assert torch.equal(pictures(guarded, "a cat", generator=seeds(1)), bare)


def test_a_thread_that_calls_the_denoiser_without_the_guard_is_an_error() -> None:
    pipeline = tiny_pipeline()
    guarded = guard(pipeline, [membrane_for(pipeline, "cat")], gate=by_name)
    seen: list[str] = []

    def beside(*_: Any) -> dict[str, Any]:
        def intrude() -> None:
            with pytest.raises(GuardError) as refused:
                pipeline.unet(torch.zeros(1, 4, 8, 8), 1, torch.zeros(1, 77, 16))
            seen.append(str(refused.value))

        thread = threading.Thread(target=intrude)
        thread.start()
        thread.join()
        return {}

    pictures(guarded, "a cat", callback_on_step_end=beside)
    assert len(seen) == STEPS and "Another thread" in seen[0]


# conditioning


class Asked(Gate):
    """Opens where the concept's word is in the prompt, and for embeddings without a prompt, as the fitted gate does."""

    word: str

    def gamma(self, shown: Shown) -> Tensor:
        if shown.text.ids is None:
            return torch.ones(len(shown.text))
        # To a byte-level tokenizer a word behind a space is another word.
        wanted = shown.reader.tokens([self.word, f" {self.word}"])
        return torch.tensor([float(any(set(one) <= set(row) for one in wanted)) for row in shown.text.ids])


def asked(card: Card) -> Gate:
    return Asked(word=card.concept.name)


def encoded(pipeline: Any, prompt: str) -> dict[str, Tensor]:
    """What the pipeline makes of a prompt, as arguments of its call."""
    parts = pipeline.encode_prompt(prompt, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=True)
    names = ["prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds"]
    return dict(zip(names, parts, strict=False))


def gamma_of(output: Any) -> list[list[float]]:
    return output.permeability.gamma_BK.tolist()


CHANGED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "scaled": lambda cat, _: 0.5 * cat,
    "barely scaled": lambda cat, _: 1.0001 * cat,
    "blended": lambda cat, dog: 0.6 * cat + 0.4 * dog,
    "one position": lambda cat, dog: torch.cat([dog[:, :2], cat[:, 2:3], dog[:, 3:]], dim=1),
    "the start": lambda cat, dog: torch.cat([cat[:, :1] + 1, dog[:, 1:]], dim=1),
    "nan": lambda cat, _: torch.full_like(cat, torch.nan),
    "permuted": lambda cat, _: cat.flip(1),
}


@pytest.mark.parametrize("change", CHANGED)
def test_embeddings_that_are_no_prompts_encoding_open(pipeline: Any, change: str) -> None:
    guarded = guard(pipeline, [membrane_for(pipeline, "cat")], gate=asked)
    given, dog = encoded(pipeline, "a cat"), encoded(pipeline, "a dog")
    given["prompt_embeds"] = CHANGED[change](given["prompt_embeds"], dog["prompt_embeds"])
    if "pooled_prompt_embeds" in given:
        given["pooled_prompt_embeds"] = dog["pooled_prompt_embeds"]
    output = guarded(**given, num_inference_steps=1, output_type="latent")
    assert output.permeability.prompts == ("<embeddings 0>",)
    assert gamma_of(output) == [[1]]


def test_a_pipelines_own_encodings_are_judged_by_their_prompts(pipeline: Any) -> None:
    early = encoded(pipeline, "a dog")
    guarded = guard(pipeline, [membrane_for(pipeline, "cat")], gate=asked)
    cat, dog = encoded(pipeline, "a cat"), encoded(pipeline, "a dog")
    bare = bare_pictures(guarded, generator=seeds(1), **dog)
    by_prompt = pictures(guarded, "a cat", generator=seeds(1))
    assert torch.equal(pictures(guarded, generator=seeds(1), **cat), by_prompt)
    output = guarded(generator=seeds(1), num_inference_steps=STEPS, output_type="pt", **dog)
    assert gamma_of(output) == [[0]] and torch.equal(output.images, bare)
    # The same bits were recognised, whenever they were made.
    assert gamma_of(guarded(generator=seeds(1), num_inference_steps=1, **early)) == [[0]]


def test_a_pooled_vector_of_another_prompt_opens_too() -> None:
    pipeline = tiny_xl_pipeline()
    guarded = guard(pipeline, [membrane_for(pipeline, "cat")], gate=asked)
    cat, dog = encoded(pipeline, "a cat"), encoded(pipeline, "a dog")
    for pooled, gamma in ((dog, 0), (cat, 1)):
        given = dog | {"pooled_prompt_embeds": pooled["pooled_prompt_embeds"]}
        assert gamma_of(guarded(**given, num_inference_steps=1, output_type="latent")) == [[gamma]]
    unknown = dog | {"pooled_prompt_embeds": 0.9 * dog["pooled_prompt_embeds"]}
    assert gamma_of(guarded(**unknown, num_inference_steps=1, output_type="latent")) == [[1]]


@pytest.mark.parametrize("in_place", [False, True])
def test_a_callback_that_swaps_the_embeddings_is_seen(in_place: bool) -> None:
    pipeline = tiny_pipeline()
    guarded = guard(pipeline, [membrane_for(pipeline, "cat")], gate=asked)
    cat, fox = (encoded(pipeline, prompt)["prompt_embeds"] for prompt in ("a cat", "a fox"))

    def swapping(new: Tensor) -> Callable[..., dict[str, Any]]:
        def swap(_pipe: Any, step: int, _t: Any, state: dict[str, Any]) -> dict[str, Any]:
            if step == 0:
                both = torch.cat([state["prompt_embeds"].chunk(2)[0], new])
                state["prompt_embeds"] = state["prompt_embeds"].copy_(both) if in_place else both
            return state

        return swap

    def run(pipe: Any, new: Tensor) -> Any:
        return pipe(
            "a dog",
            generator=seeds(1),
            num_inference_steps=STEPS,
            output_type="pt",
            callback_on_step_end=swapping(new),
            callback_on_step_end_tensor_inputs=["prompt_embeds"],
        )

    guarded.eject()
    bare_cat, bare_fox = (run(pipeline, swapped).images for swapped in (cat, fox))
    guarded.inject()
    assert gamma_of(run(guarded, cat)) == [[1]]
    assert differs(run(guarded, cat).images, bare_cat)
    assert gamma_of(run(guarded, 0.5 * cat)) == [[1]]
    kept = run(guarded, fox)
    assert gamma_of(kept) == [[0]] and torch.equal(kept.images, bare_fox)


def test_negative_embeddings_in_the_place_of_positive_ones_open() -> None:
    pipeline = tiny_pipeline()
    guarded = guard(pipeline, [membrane_for(pipeline, "cat")], gate=asked)

    def swap(_pipe: Any, _step: int, _t: Any, state: dict[str, Any]) -> dict[str, Any]:
        state["prompt_embeds"] = state["prompt_embeds"].flip(0)
        return state

    cut: dict[str, Any] = {"callback_on_step_end": swap, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
    output = guarded("a dog", negative_prompt="a cat", num_inference_steps=STEPS, **cut)
    assert gamma_of(output) == [[1]]


def three_branches() -> Any:
    """InstructPix2Pix: [prompt; negative; negative] on latents beside the latents of an image."""
    pipeline = tiny_pipeline()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet: Any = type(pipeline.unet).from_config(pipeline.unet.config, in_channels=8)
    parts = {**pipeline.components, "unet": unet, "safety_checker": None, "image_encoder": None}
    found: Any = StableDiffusionInstructPix2PixPipeline(**parts, requires_safety_checker=False)
    found.set_progress_bar_config(disable=True)
    return found


def test_three_branches_are_guarded_alike() -> None:
    pipeline = three_branches()
    image = torch.rand(1, 3, 16, 16, generator=seeds(1)[0])
    given: dict[str, Any] = {"image": image, "image_guidance_scale": 2.0, "num_inference_steps": 2, "output_type": "pt"}
    bare = pipeline("a dog", generator=seeds(1), **given).images
    bare_cat = pipeline("a cat", generator=seeds(1), **given).images
    guarded = guard(pipeline, [membrane_for(pipeline, "cat")], gate=asked)
    dog, cat = (guarded(prompt, generator=seeds(1), **given) for prompt in ("a dog", "a cat"))
    assert gamma_of(dog) == [[0]] and torch.equal(dog.images, bare)
    assert gamma_of(cat) == [[1]] and differs(cat.images, bare_cat)
    # The negative prompt fills the last branch here, where a positive one could stand: it is judged.
    assert gamma_of(guarded("a dog", negative_prompt="a cat", **given)) == [[1]]
    assert gamma_of(guarded("a dog", negative_prompt="a fox", **given)) == [[0]]


@pytest.mark.parametrize("words", [30, 200])
def test_a_concept_behind_the_token_limit_opens(words: int) -> None:
    pipeline = tiny_pipeline()
    guarded = guard(pipeline, [membrane_for(pipeline, name) for name in ("cat", "dog")], gate=asked)
    filler = " ".join(["a house and a tree in the street"] * (words // 4))
    assert guarded.permeability(f"{filler} and a cat").gamma_BK.tolist() == [[1, 0]]
    assert guarded.permeability(f"a dog and {filler}").gamma_BK.tolist() == [[0, 1]]
    assert guarded.permeability(filler).gamma_BK.tolist() == [[0, 0]]


@pytest.mark.parametrize("limit", [16, 40, 128])
@pytest.mark.parametrize("build", [tiny_sd3_pipeline, tiny_pixart_pipeline, tiny_qwen_pipeline])
def test_a_prompt_opens_the_same_at_any_sequence_length(build: Callable[[], Any], limit: int) -> None:
    pipeline = build()
    pipeline.set_progress_bar_config(disable=True)
    arguments: dict[str, Any] = {"num_inference_steps": 2, "output_type": "latent", "max_sequence_length": limit}
    if build is tiny_pixart_pipeline:
        arguments["use_resolution_binning"] = False
    prompts = ["a cat", "a dog", " ".join(["a house and a tree"] * 10) + " and a cat"]
    bare = pipeline(prompts, generator=seeds(3), **arguments).images
    guarded = guard(pipeline, [random_membrane(model_of(pipeline).erasable_layers())], gate=asked)
    output = guarded(prompts, generator=seeds(3), **arguments)
    assert gamma_of(output) == [[1], [0], [1]]
    assert torch.equal(output.images[1], bare[1])
    assert not torch.equal(output.images[0], bare[0])


def test_a_denoiser_without_text_is_refused() -> None:
    pipeline = tiny_pipeline()
    guarded = guard(pipeline, [membrane_for(pipeline, "cat")], gate=asked)
    forward = pipeline.unet.forward
    unet = pipeline.unet

    class Blind(type(unet)):
        def __call__(self, sample: Tensor, t: Any, **kwargs: Any) -> Any:
            kwargs["hidden"] = kwargs.pop("encoder_hidden_states")
            return super().__call__(sample, t, **kwargs)

    unet.__class__ = Blind
    unet.forward = lambda sample, t, hidden, **kwargs: forward(sample, t, encoder_hidden_states=hidden, **kwargs)
    with pytest.raises(GuardError, match="conditioning cannot be judged"):
        pictures(guarded, "a cat")


def test_nothing_of_the_watching_is_left_behind() -> None:
    pipeline = tiny_pipeline()
    with guard(pipeline, [membrane_for(pipeline, "cat")], gate=asked) as guarded:
        pictures(guarded, "a cat")
    assert "encode_prompt" not in pipeline.__dict__


# what bypasses or blocks


def test_a_block_that_was_exchanged_under_the_guard_is_an_error_that_names_it() -> None:
    pipeline = tiny_pipeline()
    guarded = guard(pipeline, [membrane_for(pipeline, "cat")], gate=by_name)
    pipeline.unet.mid_block = tiny_pipeline(seed=1).unet.mid_block
    with pytest.raises(StackError, match="exchanged .*mid_block.attentions.0"):
        pictures(guarded, "a cat")


class ReadsWeights:
    """An attention processor that multiplies with the weights of to_q itself."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __call__(self, attn: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        layer = attn.to_q

        def product(x: Tensor) -> Tensor:
            return torch.nn.functional.linear(x, layer.weight, layer.bias)

        attn.to_q = Calls(product)
        try:
            return self.inner(attn, hidden_states, *args, **kwargs)
        finally:
            attn.to_q = layer


class Calls(torch.nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def test_a_processor_that_reads_weights_is_an_error_that_names_the_layers() -> None:
    pipeline = tiny_pipeline()
    bare = pictures(pipeline, "a dog", generator=seeds(1))
    guarded = guard(pipeline, [membrane_for(pipeline, "cat")], gate=by_name)
    for module in pipeline.unet.modules():
        if hasattr(module, "to_q"):
            module.processor = ReadsWeights(module.processor)
    with pytest.raises(GuardError, match="did not call the layers .*to_q"):
        pictures(guarded, "a cat")
    assert torch.equal(pictures(guarded, "a dog", generator=seeds(1)), bare)


def test_a_forgotten_guard_does_not_block_the_next() -> None:
    pipeline = tiny_pipeline()
    guard(pipeline, [membrane_for(pipeline, "cat")], gate=by_name)
    again = guard(pipeline, [membrane_for(pipeline, "dog")], gate=by_name)
    assert again.names == ["dog"]


def image_to_image(pipeline: Any) -> Any:
    beside = AutoPipelineForImage2Image.from_pipe(pipeline)
    beside.set_progress_bar_config(disable=True)
    return beside


def test_a_pipeline_that_wears_membranes_runs_in_its_guard_only() -> None:
    pipeline = tiny_pipeline()
    guarded = guard(pipeline, [], gate=by_name)
    bare = pictures(pipeline, "a cat", generator=seeds(1))
    guarded.add(membrane_for(pipeline, "cat"))
    arguments = {"image": torch.rand(1, 3, 16, 16)}
    for unguarded, given in ((pipeline, {}), (image_to_image(pipeline), arguments)):
        with pytest.raises(StackError, match="outside of a guarded call.* a guard of its own"):
            pictures(unguarded, "a cat", **given)
    copied = copy.deepcopy(pipeline.unet)
    with pytest.raises(StackError, match="outside of a guarded call"):
        copied(torch.randn(1, 4, 8, 8), 0, encoded(pipeline, "a cat")["prompt_embeds"])
    guarded.remove("cat")
    assert torch.equal(pictures(pipeline, "a cat", generator=seeds(1)), bare)


@pytest.mark.parametrize("first_off", [0, 1])
def test_pipelines_that_share_a_denoiser_get_a_guard_each(first_off: int) -> None:
    pipeline = tiny_pipeline()
    beside = image_to_image(pipeline)
    layers = dict(pipeline.unet.named_modules())
    given: dict[str, Any] = {"image": torch.rand(1, 3, 16, 16, generator=seeds(1)[0]), "strength": 1.0}
    arguments: list[dict[str, Any]] = [{}, given]
    pipes = [pipeline, beside]
    names = ["cat", "dog"]

    def drawn(pipe: Any, place: int) -> list[Tensor]:
        return [pictures(pipe, f"a {name}", generator=seeds(1), **arguments[place]) for name in names]

    bare = [drawn(pipe, place) for place, pipe in enumerate(pipes)]
    alone: list[list[Tensor]] = []
    for place, pipe in enumerate(pipes):
        with guard(pipe, [membrane_for(pipeline, names[place], seed=place)], gate=by_name) as guarded:
            alone.append(drawn(guarded, place))
    guards = [
        guard(pipe, [membrane_for(pipeline, names[place], seed=place)], gate=by_name)
        for place, pipe in enumerate(pipes)
    ]
    # Each guard erases in its own pipeline what it erases alone, and nothing else.
    for place, guarded in enumerate(guards):
        for picture, name in enumerate(names):
            found = drawn(guarded, place)[picture]
            assert torch.equal(found, alone[place][picture])
            assert torch.equal(found, bare[place][picture]) == (name != names[place])
    with pytest.raises(StackError, match="cannot start another guarded call"):
        pictures(guards[0], "a cat", callback_on_step_end=lambda *_: pictures(guards[1], "a dog", **given))
    # in any order
    guards[first_off].eject()
    other = 1 - first_off
    assert torch.equal(drawn(guards[other], other)[other], alone[other][other])
    guards[first_off].inject()
    guards[other].eject()
    assert torch.equal(drawn(guards[first_off], first_off)[first_off], alone[first_off][first_off])
    guards[first_off].eject()
    assert dict(pipeline.unet.named_modules()) == layers
    assert "save_pretrained" not in pipeline.unet.__dict__
    assert torch.equal(drawn(pipeline, 0)[0], bare[0][0])


def test_guards_of_pipelines_that_share_a_denoiser_take_turns() -> None:
    pipeline = tiny_pipeline()
    given: dict[str, Any] = {"image": torch.rand(1, 3, 16, 16, generator=seeds(1)[0]), "strength": 1.0}
    first = guard(pipeline, [membrane_for(pipeline, "cat")], gate=by_name)
    second = guard(image_to_image(pipeline), [membrane_for(pipeline, "cat", seed=1)], gate=by_name)

    def draw(number: int) -> Tensor:
        arguments = given if number % 2 else {}
        return pictures((first, second)[number % 2], "a cat", generator=seeds(1), **arguments)

    one_by_one = [draw(number) for number in range(2)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(draw, range(8)))
    assert all(torch.equal(found, one_by_one[number % 2]) for number, found in enumerate(together))


def test_training_and_a_guard_do_not_share_a_denoiser() -> None:
    pipeline = tiny_pipeline()
    guarded = guard(pipeline, [membrane_for(pipeline, "cat")], gate=by_name)
    with pytest.raises(StackError, match="already has a stack"):
        Stack(pipeline.unet)
    guarded.eject()
    with Stack(pipeline.unet), pytest.raises(StackError, match="already has a stack"):
        guarded.inject()


def a_delta(pipeline: Any) -> WeightDelta:
    weight = pipeline.unet.conv_in.weight
    inner = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    deltas = {
        "unet.conv_in.weight": torch.ones_like(weight),
        inner: torch.ones_like(pipeline.unet.get_parameter(inner[5:])),
    }
    return WeightDelta(Card(concepts=(Concept(name="cat"),)), deltas, "")


def test_weight_deltas_of_two_guards_do_not_mix() -> None:
    pipeline = tiny_pipeline()
    delta = a_delta(pipeline)
    before = {name: weight.detach().clone() for name, weight in pipeline.unet.named_parameters()}
    first = guard(pipeline, [membrane_for(pipeline, "cat")], gate=by_name)
    # The second guard finds the weights under the first one's membranes.
    second = guard(image_to_image(pipeline), [delta])
    third = guard(image_to_image(pipeline), [], gate=by_name)
    with pytest.raises(GuardError, match="give all to one guard"):
        third.add(delta)
    first.eject()
    second.eject()
    third.add(delta)
    third.eject()
    now = dict(pipeline.unet.named_parameters())
    assert now.keys() == before.keys() and all(torch.equal(now[name], weight) for name, weight in before.items())


def test_clip_skip_is_explained_where_the_libraries_cannot_do_it() -> None:
    pipeline = tiny_pipeline()
    # transformers keeps the encoder's layers in a part of this name up to 5.5 only
    works = hasattr(pipeline.text_encoder, "text_model")
    guarded = guard(pipeline, [], gate=by_name)
    if works:
        pictures(guarded, "a cat", clip_skip=1)
    else:
        with pytest.raises(SemipermError, match="clip_skip=1 does not work with diffusers .* and transformers"):
            pictures(guarded, "a cat", clip_skip=1)
