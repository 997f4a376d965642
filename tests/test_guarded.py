"""A guarded pipeline erases what prompts ask for, gives the bare pictures otherwise, and takes what pipelines take."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload_with_hook
from diffusers.callbacks import SDCFGCutoffCallback
from diffusers.pipelines.auto_pipeline import AutoPipelineForImage2Image
from torch import Tensor

from semiperm.concept import Concept
from semiperm.guarded import Guard, GuardError, guard
from semiperm.membrane.files import MembraneFileError, save
from semiperm.membrane.membrane import Card, CoverageError, Membrane
from semiperm.membrane.stack import StackError
from semiperm.models.base import TextFeatures, erasable_layers
from semiperm.models.stable_diffusion import StableDiffusion
from tests.tiny import tiny_pipeline, tiny_xl_pipeline

STEPS = 3
PROMPTS = ["a cat", "a dog", "a cat and a dog", "a house"]


def by_name(card: Card, features: TextFeatures, encode: Callable[[Sequence[str]], TextFeatures]) -> Tensor:
    """Open fully where the concept's word is among the tokens; embeddings without tokens open half."""
    if features.ids is None:
        return torch.full((len(features),), 0.5)
    wanted = encode([card.concept.name]).ids
    assert wanted is not None
    return torch.tensor([float(set(wanted[0]) <= set(row)) for row in features.ids])


def always(_card: Card, features: TextFeatures, _encode: Any) -> Tensor:
    return torch.ones(len(features))


def never(_card: Card, features: TextFeatures, _encode: Any) -> Tensor:
    return torch.zeros(len(features))


def membrane_for(pipeline: Any, name: str, seed: int = 0) -> Membrane:
    """A membrane of random weights, strong enough to change every picture."""
    generator = torch.Generator().manual_seed(seed)
    layers = erasable_layers(pipeline.unet)
    empty = Membrane.zero(layers, Card(concept=Concept(name=name), base_model="tiny"), generator=generator)
    up = {path: 0.5 * torch.randn(tensor.shape, generator=generator) for path, tensor in empty.up.items()}
    return Membrane(empty.card, empty.down, up)


def seeds(count: int, first: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(first + index) for index in range(count)]


def pictures(pipe: Any, *args: Any, **kwargs: Any) -> Tensor:
    return pipe(*args, num_inference_steps=STEPS, output_type="pt", **kwargs).images


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
    with guard(pipeline, [membrane_for(pipeline, name) for name in ("cat", "dog")], transport=by_name) as guarded:
        batch = pictures(guarded, PROMPTS, generator=seeds(4), **arguments)
        assert guarded.last is not None
        assert guarded.last.gamma_BK.tolist() == [[1, 0], [0, 1], [1, 1], [0, 0]]
        for index, prompt in enumerate(PROMPTS):
            alone = pictures(guarded, prompt, generator=seeds(1, index), **arguments)
            assert same(alone, batch[index : index + 1])
    assert [differs(*pair) for pair in zip(batch, bare, strict=True)] == [True, True, True, False]
    # nothing opens for the house: neither in the batch nor alone is a bit changed
    assert torch.equal(batch[3], bare[3])


def test_closed_is_the_bare_pipeline_bit_for_bit(pipeline: Any) -> None:
    bare = pictures(pipeline, PROMPTS, generator=seeds(4))
    guarded = guard(pipeline, [membrane_for(pipeline, "cat")], transport=never)
    assert torch.equal(pictures(guarded, PROMPTS, generator=seeds(4)), bare)
    assert torch.equal(pictures(pipeline, PROMPTS, generator=seeds(4)), bare)


def test_eject_gives_the_pipeline_back_and_inject_the_guard(pipeline: Any) -> None:
    before = {name: tensor.clone() for name, tensor in pipeline.unet.state_dict().items()}
    bare = pictures(pipeline, "a cat", generator=seeds(1))
    guarded = guard(pipeline, [membrane_for(pipeline, "cat")], transport=always)
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
    guarded = guard(pipeline, [membrane_for(pipeline, "cat")], transport=by_name)
    latents = torch.randn(2, 4, 8, 8, generator=seeds(1)[0])
    for pipe in (pipeline, guarded):
        pipe(["a cat", "a dog"], num_inference_steps=1, latents=latents, guidance_scale=5.0, output_type="latent")
    bare, erased = seen
    # negative cat, negative dog, cat, dog
    assert [differs(*pair) for pair in zip(erased, bare, strict=True)] == [True, False, True, False]


def test_several_pictures_a_prompt(pipeline: Any) -> None:
    guarded = guard(pipeline, [membrane_for(pipeline, "cat")], transport=by_name)
    both = pictures(guarded, ["a cat", "a dog"], num_images_per_prompt=3, generator=seeds(6))
    assert guarded.last is not None and guarded.last.prompts == ("a cat", "a dog")
    for index, prompt in enumerate(["a cat"] * 3 + ["a dog"] * 3):
        alone = pictures(guarded, prompt, generator=seeds(1, index))
        assert same(alone, both[index : index + 1])


@pytest.mark.parametrize("guidance_scale", [5.0, 1.0, 0.0])
def test_one_generator_and_positional_arguments(guidance_scale: float) -> None:
    pipeline = tiny_pipeline()
    guarded = guard(pipeline, [membrane_for(pipeline, "cat")], transport=always)
    named = pictures(guarded, prompt="a cat", height=16, width=16, generator=seeds(1)[0], guidance_scale=guidance_scale)
    # prompt, height, width, steps, timesteps, sigmas, guidance
    given = guarded("a cat", 16, 16, STEPS, None, None, guidance_scale, generator=seeds(1)[0], output_type="pt")
    assert torch.equal(given.images, named)


def test_negative_prompts_open_nothing(pipeline: Any) -> None:
    arguments: dict[str, Any] = {"negative_prompt": ["a cat", "a fox"], "generator": None}
    prompts = ["a dog", "a cat"]
    bare = pictures(pipeline, prompts, **arguments | {"generator": seeds(2)})
    guarded = guard(pipeline, [membrane_for(pipeline, "cat")], transport=by_name)
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

    def note(card: Card, features: TextFeatures, encode: Any) -> Tensor:
        seen.append(features)
        return by_name(card, features, encode)

    guarded = guard(pipeline, [membrane_for(pipeline, "cat")], transport=note)
    erased = pictures(guarded, generator=seeds(2), **arguments)
    assert torch.equal(seen[0].hidden_BTC, positive.hidden_BTC)
    assert (seen[0].pooled_BC is not None) == model.is_xl
    assert guarded.last is not None
    assert guarded.last.prompts == ("<embeddings 0>", "<embeddings 1>")
    assert guarded.last.gamma_BK.tolist() == [[0.5], [0.5]]
    assert differs(erased[0], bare[0]) and differs(erased[1], bare[1])


def test_the_second_prompt_of_xl_opens_too() -> None:
    pipeline = tiny_xl_pipeline()
    guarded = guard(pipeline, [membrane_for(pipeline, "cat")], transport=by_name)
    pictures(guarded, ["a dog", "a fox"], prompt_2=["a cat", "a fox"])
    assert guarded.last is not None and guarded.last.gamma_BK.tolist() == [[1], [0]]
    pictures(guarded, "a dog", prompt_2="a cat")
    assert guarded.last.gamma_BK.tolist() == [[1]]
    with pytest.raises(ValueError, match="prompt_2 has 1"):
        pictures(guarded, ["a dog", "a fox"], prompt_2=["a cat"])


def test_all_membranes_are_closed_after_an_exception(pipeline: Any) -> None:
    bare = pictures(pipeline, "a cat", generator=seeds(1))
    guarded = guard(pipeline, [membrane_for(pipeline, "cat")], transport=always)

    def fail(*_: Any) -> dict[str, Any]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pictures(guarded, "a cat", callback_on_step_end=fail)
    assert torch.equal(pictures(pipeline, "a cat", generator=seeds(1)), bare)
    with pytest.raises(ValueError, match="callback_on_step_end_tensor_inputs"):
        pictures(guarded, "a cat", callback_on_step_end_tensor_inputs=["nothing"])
    assert torch.equal(pictures(pipeline, "a cat", generator=seeds(1)), bare)
    assert not pipeline.unet._forward_pre_hooks


def test_guidance_that_ends_half_way_keeps_the_membranes_open() -> None:
    pipeline = tiny_pipeline()
    guarded = guard(pipeline, [membrane_for(pipeline, "cat")], transport=by_name)
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
    assert torch.equal(pictures(pipeline, ["a cat", "a dog"], generator=seeds(2), **cutting)[1], both[1])
    pictures(guarded, "a cat", callback_on_step_end=SDCFGCutoffCallback(cutoff_step_ratio=0.4))


def test_image_to_image_pipelines_are_guarded_as_well() -> None:
    pipeline = AutoPipelineForImage2Image.from_pipe(tiny_pipeline())
    pipeline.set_progress_bar_config(disable=True)
    image = torch.rand(1, 3, 16, 16, generator=seeds(1)[0])
    arguments: dict[str, Any] = {"image": image, "num_inference_steps": 4, "strength": 1.0, "output_type": "pt"}
    guarded = guard(pipeline, [membrane_for(pipeline, "cat")], transport=by_name)
    bare = pipeline(["a cat", "a dog"], generator=seeds(2), **arguments).images
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
    with guard(pipeline, [membrane], transport=by_name) as guarded:
        plain = pictures(guarded, ["a cat", "a dog"], generator=seeds(2))
    if not guard_first:
        change(pipeline)
    with guard(pipeline, [membrane], transport=by_name) as guarded:
        if guard_first:
            change(pipeline)
        assert same(pictures(guarded, ["a cat", "a dog"], generator=seeds(2)), plain)
        assert same(pictures(guarded, ["a dog", "a cat"], generator=seeds(2)[::-1]), plain.flip(0))


def test_a_denoiser_whose_calls_are_hidden_gives_no_pictures() -> None:
    pipeline = tiny_pipeline()
    guarded = guard(pipeline, [membrane_for(pipeline, "cat")], transport=by_name)
    # a call that runs no hooks
    pipeline.unet._compiled_call_impl = pipeline.unet.forward
    with pytest.raises(GuardError, match="may not have acted"):
        pictures(guarded, "a cat")
    assert len(pictures(guarded, "a dog")) == 1


def test_another_denoiser_wants_another_guard() -> None:
    pipeline = tiny_pipeline()
    guarded = guard(pipeline, [membrane_for(pipeline, "cat")], transport=by_name)
    pipeline.unet = tiny_pipeline(seed=1).unet
    with pytest.raises(GuardError, match="another denoiser"):
        guarded("a cat")


def test_a_batch_that_no_prompt_accounts_for_is_refused() -> None:
    pipeline = tiny_pipeline()
    guarded = guard(pipeline, [membrane_for(pipeline, "cat")], transport=always)
    with pytest.raises(GuardError, match="batch of 3"), guarded._opened(torch.ones(2, 1)):
        pipeline.unet(torch.zeros(3, 4, 8, 8), 1, torch.zeros(3, 77, 16))


def test_half_precision_takes_float_membranes() -> None:
    pipeline = tiny_pipeline().to(torch.bfloat16)
    bare = pictures(pipeline, ["a cat", "a dog"], generator=seeds(2))
    guarded = guard(pipeline, [membrane_for(pipeline, "cat")], transport=by_name)
    erased = pictures(guarded, ["a cat", "a dog"], generator=seeds(2))
    assert differs(erased[0], bare[0])
    assert torch.equal(erased[1], bare[1])


def test_the_precision_may_change_under_the_guard() -> None:
    pipeline = tiny_pipeline()
    guarded = guard(pipeline, [membrane_for(pipeline, "cat")], transport=by_name)
    pictures(guarded, "a cat")
    pipeline.to(torch.bfloat16)
    bare = pictures(pipeline, "a cat", generator=seeds(1))
    assert differs(pictures(guarded, "a cat", generator=seeds(1)), bare)


def test_membranes_come_and_go(tmp_path: Path) -> None:
    pipeline = tiny_pipeline()
    bare = pictures(pipeline, "a cat", generator=seeds(1))
    cat, dog = membrane_for(pipeline, "cat"), membrane_for(pipeline, "dog", seed=1)
    path = save(cat, tmp_path / "cat.safetensors")
    guarded = guard(pipeline, [path, str(path), dog], transport=by_name)
    assert guarded.names == ["cat", "cat (2)", "dog"]
    assert guarded.add(cat) == "cat (3)"
    assert guarded.add(cat, name="mine") == "mine"
    for name in ("cat (2)", "cat (3)", "mine"):
        guarded.remove(name)
    erased = pictures(guarded, "a cat", generator=seeds(1))
    guarded.replace("cat", cat.scaled(0.5))
    assert differs(pictures(guarded, "a cat", generator=seeds(1)), erased)
    guarded.replace("cat", path)
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
    with guard(pipeline, [cat, cat], transport=always) as guarded:
        twice = pictures(guarded, "a cat", generator=seeds(1))
    with guard(pipeline, [cat.scaled(2)], transport=always) as guarded:
        assert same(pictures(guarded, "a cat", generator=seeds(1)), twice)


def test_the_table() -> None:
    pipeline = tiny_pipeline()
    guarded = guard(pipeline, [membrane_for(pipeline, name) for name in ("cat", "dog")], transport=by_name)
    assert guarded.last is None
    table = guarded.permeability(PROMPTS)
    assert guarded.last is None
    assert table.prompts == tuple(PROMPTS) and table.names == ("cat", "dog")
    assert table.rows()[0] == {"cat": 1.0, "dog": 0.0}
    assert table.opened() == [{"cat": 1.0}, {"dog": 1.0}, {"cat": 1.0, "dog": 1.0}, {}]
    assert str(table).splitlines()[:3] == [" cat   dog  prompt", "1.00  0.00  a cat", "0.00  1.00  a dog"]
    assert guarded.permeability("a dog").gamma_BK.tolist() == [[0, 1]]
    assert guard(tiny_pipeline(), [], transport=always).permeability("a dog").gamma_BK.shape == (1, 0)


def test_membranes_of_other_architectures_are_refused_and_leave_nothing_behind(tmp_path: Path) -> None:
    pipeline = tiny_pipeline()
    foreign = membrane_for(tiny_xl_pipeline(), "cat")
    with pytest.raises(CoverageError, match=r"fingerprint.*only the model has.*transformer_blocks") as refusal:
        guard(pipeline, [membrane_for(pipeline, "dog"), foreign], transport=always)
    assert refusal.value.missing and refusal.value.foreign
    assert not any("base" in name for name, _ in pipeline.unet.named_modules())
    path = save(foreign, tmp_path / "foreign.safetensors")
    with pytest.raises(CoverageError, match="fingerprint"):
        guard(pipeline, [path], transport=always)
    (tmp_path / "nothing.safetensors").write_bytes(b"nothing")
    with pytest.raises(MembraneFileError):
        guard(pipeline, [tmp_path / "nothing.safetensors"], transport=always)
    guard(pipeline, [], transport=always)


def test_a_membrane_fits_both_spellings_of_projections() -> None:
    made_for_convolutions = membrane_for(tiny_pipeline(), "cat")
    pipeline = tiny_pipeline(linear_projection=True)
    bare = pictures(pipeline, "a cat", generator=seeds(1))
    guarded = guard(pipeline, [made_for_convolutions], transport=always)
    assert differs(pictures(guarded, "a cat", generator=seeds(1)), bare)


def test_one_denoiser_takes_one_guard() -> None:
    pipeline = tiny_pipeline()
    first = guard(pipeline, [membrane_for(pipeline, "cat")], transport=always)
    with pytest.raises(StackError, match="already"):
        guard(pipeline, [], transport=always)
    first.eject()
    guard(StableDiffusion(pipeline), [], transport=always)


def test_what_a_transport_must_give() -> None:
    pipeline = tiny_pipeline()
    for given in (torch.ones(3), torch.tensor([float("nan")]), torch.tensor(1.0)):
        with (
            guard(pipeline, [membrane_for(pipeline, "cat")], transport=lambda *_, given=given: given) as guarded,
            pytest.raises(GuardError, match="one finite permeability for each of 1 prompts"),
        ):
            guarded("a cat")


def test_transports_have_names() -> None:
    pipeline = tiny_pipeline()
    with guard(pipeline, [membrane_for(pipeline, "cat")], transport="always") as guarded:
        assert guarded.permeability(PROMPTS).gamma_BK.flatten().tolist() == [1, 1, 1, 1]
    with pytest.raises(ValueError, match="no transport 'alway'; there are always, .* Did you mean 'always'"):
        guard(pipeline, [], transport="alway")


def test_nothing_to_judge_by_and_wrong_arguments() -> None:
    guarded = Guard(tiny_pipeline(), transport=always)
    with pytest.raises(TypeError, match="nothing to judge by"):
        guarded(num_inference_steps=1)
    with pytest.raises(TypeError, match="not a Stable Diffusion pipeline"):
        guard("a path", [], transport=always)
