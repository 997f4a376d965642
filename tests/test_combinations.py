"""A guard beside what else a pipeline wears: the erased picture is that of merged weights, all others are untouched.

`docs/combinations.md` is the table of what is tested here.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload, cpu_offload_with_hook
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.pipelines.controlnet.pipeline_controlnet import StableDiffusionControlNetPipeline
from diffusers.pipelines.flux.pipeline_flux_img2img import FluxImg2ImgPipeline
from diffusers.pipelines.flux.pipeline_flux_inpaint import FluxInpaintPipeline
from diffusers.pipelines.pag.pipeline_pag_sd import StableDiffusionPAGPipeline
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_img2img import StableDiffusionImg2ImgPipeline
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_inpaint import StableDiffusionInpaintPipeline
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3_img2img import StableDiffusion3Img2ImgPipeline
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3_inpaint import StableDiffusion3InpaintPipeline
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl_img2img import (
    StableDiffusionXLImg2ImgPipeline,
)
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl_inpaint import (
    StableDiffusionXLInpaintPipeline,
)
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_euler_ancestral_discrete import EulerAncestralDiscreteScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from diffusers.schedulers.scheduling_lcm import LCMScheduler
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from torch import Tensor, nn

from semiperm.api import guard
from semiperm.erasure import Card
from semiperm.errors import StackError
from semiperm.gate import Gate, Shown
from semiperm.guarded import Guard
from semiperm.membrane import Membrane
from semiperm.models.layers import erasable_layers
from semiperm.models.load import model_of
from tests.helpers import random_membrane
from tests.tiny import tiny_flux_pipeline, tiny_pipeline, tiny_sd3_pipeline, tiny_xl_pipeline

# the first of them opens the membrane, the second does not
PROMPTS = ["a cat", "a dog"]

BOTH_ORDERS = pytest.mark.parametrize("guard_first", [False, True], ids=["guard-last", "guard-first"])

Pairs = dict[str, tuple[Tensor, Tensor]]


class First(Gate):
    """Opens for the first prompt alone."""

    def gamma(self, shown: Shown) -> Tensor:
        return (torch.arange(len(shown.text)) == 0).float()


def first_only(_: Card) -> Gate:
    return First()


def denoiser(pipeline: Any) -> nn.Module:
    return model_of(pipeline).denoiser


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def membrane_for(pipeline: Any) -> Membrane:
    return random_membrane(erasable_layers(denoiser(pipeline)), size=0.5)


def merged(pipeline: Any, *adapters: Pairs) -> Any:
    """The reference: the pipeline with each W made W + up @ down."""
    with torch.no_grad():
        for path, (down, up) in (pair for adapter in adapters for pair in adapter.items()):
            weight = denoiser(pipeline).get_parameter(f"{path}.weight")
            weight.add_((up.flatten(1) @ down.flatten(1)).view_as(weight))
    return pipeline


def pairs_of(membrane: Membrane) -> Pairs:
    return {path: (membrane.down[path], membrane.up[path]) for path in membrane.down}


def draw(pipe: Any, **arguments: Any) -> Tensor:
    generators = [torch.Generator().manual_seed(index) for index in range(len(PROMPTS))]
    arguments = {"num_inference_steps": 2, **arguments}
    return pipe(PROMPTS, output_type="pt", generator=generators, **arguments).images


def close(first: Tensor, second: Tensor, tolerance: float) -> bool:
    return (first - second).abs().max().item() < tolerance


def nothing(_pipeline: Any) -> None:
    pass


def check(
    build: Callable[[], Any],
    change: Callable[[Any], object] = nothing,
    guard_first: bool = False,
    **arguments: Any,
) -> None:
    """Change a pipeline before or after it is guarded and compare with a bare and a merged one, changed alike."""
    reference, bare_pipeline, pipeline = build(), build(), build()
    membrane = membrane_for(pipeline)
    merged(reference, pairs_of(membrane))
    for one in (reference, bare_pipeline) if guard_first else (reference, bare_pipeline, pipeline):
        change(one)
    bare = draw(bare_pipeline, **arguments)
    guarded = guard(pipeline, [membrane], gate=first_only)
    if guard_first:
        change(pipeline)
    found = draw(guarded, **arguments)
    assert close(found[0], draw(reference, **arguments)[0], 1e-4)
    assert not close(found[0], bare[0], 1e-2)
    assert torch.equal(found[1], bare[1])
    guarded.eject()
    assert torch.equal(draw(pipeline, **arguments), bare)


# pipelines

IMAGE = {"image": noise(2, 3, 16, 16).sigmoid(), "strength": 1.0}
MASKED = {**IMAGE, "mask_image": (noise(2, 1, 16, 16) > 0).float()}
SIZE = {"height": 16, "width": 16}


def rebuilt(part: Any, **changes: Any) -> Any:
    """A network like this one but for some of its configuration, with new weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return type(part).from_config(part.config, **changes).eval()


def with_unet(**changes: Any) -> Any:
    pipeline = tiny_pipeline()
    pipeline.unet = rebuilt(pipeline.unet, **changes)
    return pipeline


def sd3_with_16_channels() -> Any:
    # its inpainting takes no others
    pipeline = tiny_sd3_pipeline()
    pipeline.transformer = rebuilt(pipeline.transformer, in_channels=16, out_channels=16)
    pipeline.vae = rebuilt(pipeline.vae, latent_channels=16)
    return pipeline


def with_controlnet() -> Any:
    pipeline = tiny_pipeline()
    net = ControlNetModel.from_unet(pipeline.unet, conditioning_embedding_out_channels=(8, 16))
    # it starts from zeros, which would add nothing
    for index, weight in enumerate(net.parameters()):
        weight.data = 0.3 * noise(*weight.shape, seed=index)
    return StableDiffusionControlNetPipeline.from_pipe(pipeline, controlnet=net.eval())


def variant(kind: Any, source: Callable[[], Any], **parts: Any) -> Callable[[], Any]:
    def build() -> Any:
        pipeline = kind.from_pipe(source(), **parts)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    return build


PIPELINES: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "sd-img2img": (variant(StableDiffusionImg2ImgPipeline, tiny_pipeline), IMAGE),
    "sd-inpaint": (variant(StableDiffusionInpaintPipeline, tiny_pipeline), MASKED | SIZE),
    "sd-inpaint-9": (variant(StableDiffusionInpaintPipeline, lambda: with_unet(in_channels=9)), MASKED | SIZE),
    "xl-img2img": (variant(StableDiffusionXLImg2ImgPipeline, tiny_xl_pipeline), IMAGE),
    "xl-inpaint": (variant(StableDiffusionXLInpaintPipeline, tiny_xl_pipeline), MASKED | SIZE),
    "sd3-img2img": (variant(StableDiffusion3Img2ImgPipeline, tiny_sd3_pipeline), IMAGE | SIZE),
    "sd3-inpaint": (variant(StableDiffusion3InpaintPipeline, sd3_with_16_channels), MASKED | SIZE),
    "flux-img2img": (variant(FluxImg2ImgPipeline, tiny_flux_pipeline), IMAGE | SIZE),
    "flux-inpaint": (variant(FluxInpaintPipeline, tiny_flux_pipeline), MASKED | SIZE),
    "controlnet": (with_controlnet, {"image": IMAGE["image"]}),
}


@pytest.mark.parametrize("kind", list(PIPELINES))
def test_pipelines(kind: str) -> None:
    build, arguments = PIPELINES[kind]
    check(build, **arguments)


def test_perturbed_attention_is_refused() -> None:
    # its attention splits the batch, and a part of it does not say which prompts it belongs to
    pipeline = variant(StableDiffusionPAGPipeline, tiny_pipeline, pag_applied_layers=["mid"])()
    guarded = guard(pipeline, [membrane_for(pipeline)], gate=first_only)
    with pytest.raises(StackError, match="for a batch of 6, but the denoiser got one of 4"):
        draw(guarded)


# settings


def sliced_attention(pipeline: Any) -> None:
    pipeline.enable_attention_slicing(1)


def sliced_vae(pipeline: Any) -> None:
    pipeline.vae.enable_slicing()


def free_u(pipeline: Any) -> None:
    pipeline.enable_freeu(s1=0.9, s2=0.2, b1=1.5, b2=1.6)


def offloaded_by_model(pipeline: Any) -> None:
    # what enable_model_cpu_offload() does, which itself wants an accelerator
    for part in (pipeline.text_encoder, pipeline.unet, pipeline.vae):
        cpu_offload_with_hook(part, "cpu")


def offloaded_by_layer(pipeline: Any) -> None:
    # what enable_sequential_cpu_offload() does, which itself wants an accelerator
    for part in (pipeline.text_encoder, pipeline.unet, pipeline.vae):
        cpu_offload(part, torch.device("cpu"))


def offloaded_by_group(pipeline: Any) -> None:
    cpu = torch.device("cpu")
    pipeline.unet.enable_group_offload(onload_device=cpu, offload_device=cpu, offload_type="leaf_level")


def channels_last(pipeline: Any) -> None:
    pipeline.unet.to(memory_format=torch.channels_last)


def scheduled(kind: Any, **changes: Any) -> Callable[[Any], None]:
    def change(pipeline: Any) -> None:
        pipeline.scheduler = kind.from_config(pipeline.scheduler.config, **changes)

    return change


def ip_adapter(pipeline: Any) -> None:
    """Load an IP-Adapter of four tokens for a picture whose embedding has 8 numbers."""
    unet = pipeline.unet
    width = unet.config.cross_attention_dim
    projection = {
        "proj.weight": (4 * width, 8),
        "proj.bias": (4 * width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    image_proj = {name: noise(*shape, seed=seed) for seed, (name, shape) in enumerate(projection.items())}
    readers = [name for name in unet.attn_processors if name.endswith("attn2.processor")]
    layers: dict[str, Tensor] = {}
    for index, name in enumerate(readers):
        rows = unet.get_submodule(name.removesuffix(".processor")).to_k.out_features
        for side in ("k", "v"):
            layers[f"{2 * index + 1}.to_{side}_ip.weight"] = noise(rows, width, seed=index)
    state = {"image_proj": image_proj, "ip_adapter": layers}
    pipeline.load_ip_adapter(state, subfolder="", weight_name="", image_encoder_folder=None)


PICTURE = {"ip_adapter_image_embeds": [noise(4, 1, 8)]}
DISTILLED = {"guidance_scale": 1.0}
TURBO = {"guidance_scale": 0.0, "num_inference_steps": 1}

SETTINGS: dict[str, tuple[Callable[[Any], object], dict[str, Any]]] = {
    "attention-slicing": (sliced_attention, {}),
    "vae-slicing": (sliced_vae, {}),
    "freeu": (free_u, {}),
    "channels-last": (channels_last, {}),
    "euler": (scheduled(EulerDiscreteScheduler), {}),
    "dpm++": (scheduled(DPMSolverMultistepScheduler), {}),
    "lcm": (scheduled(LCMScheduler), DISTILLED),
    "turbo": (scheduled(EulerAncestralDiscreteScheduler, timestep_spacing="trailing"), TURBO),
}
# these reach into the denoiser, so that it matters what is there first
INTRUSIONS: dict[str, tuple[Callable[[Any], object], dict[str, Any]]] = {
    "ip-adapter": (ip_adapter, PICTURE),
    "offload-model": (offloaded_by_model, {}),
    "offload-sequential": (offloaded_by_layer, {}),
    "offload-group": (offloaded_by_group, {}),
}


@pytest.mark.parametrize("setting", list(SETTINGS))
def test_settings(setting: str) -> None:
    change, arguments = SETTINGS[setting]
    check(tiny_pipeline, change, guard_first=True, **arguments)


@BOTH_ORDERS
@pytest.mark.parametrize("intrusion", list(INTRUSIONS))
def test_intrusions(intrusion: str, guard_first: bool) -> None:
    change, arguments = INTRUSIONS[intrusion]
    check(tiny_pipeline, change, guard_first, **arguments)


def test_an_ip_adapter_leaves_the_guard_as_it_was() -> None:
    pipeline = tiny_pipeline()
    layers, bare = erasable_layers(pipeline.unet), draw(pipeline)
    membrane = membrane_for(pipeline)
    ip_adapter(pipeline)
    assert erasable_layers(pipeline.unet) == layers
    guarded = guard(pipeline, [membrane], gate=first_only)
    pipeline.unload_ip_adapter()
    found = draw(guarded)
    assert close(found[0], draw(merged(tiny_pipeline(), pairs_of(membrane)))[0], 1e-4)
    assert torch.equal(found[1], bare[1])


@pytest.mark.parametrize("guidance_scale", [1.0, 8.0])
def test_a_distilled_checkpoint_that_reads_its_guidance(guidance_scale: float) -> None:
    check(partial(with_unet, time_cond_proj_dim=8), scheduled(LCMScheduler), guidance_scale=guidance_scale)


def test_a_compiled_denoiser() -> None:
    torch.compiler.reset()
    pipeline = tiny_pipeline()
    membrane, bare = membrane_for(pipeline), draw(pipeline)
    expected = draw(merged(tiny_pipeline(), pairs_of(membrane)))
    guarded = guard(pipeline, [membrane], gate=first_only)
    pipeline.unet.compile_repeated_blocks(backend="eager", fullgraph=True)
    found = draw(guarded)
    assert close(found[0], expected[0], 1e-4)
    assert torch.equal(found[1], bare[1])
    guarded.eject()
    assert torch.equal(draw(pipeline), bare)


# a style LoRA

FAMILIES = {"sd": tiny_pipeline, "xl": tiny_xl_pipeline, "sd3": tiny_sd3_pipeline, "flux": tiny_flux_pipeline}
STYLED = ("to_q", "to_k", "to_v", "to_out.0", "proj_in", "conv1", "net.0.proj", "norm1.linear", "proj_mlp")


def style_for(pipeline: Any) -> Pairs:
    """A LoRA of rank 2 on attention, feed-forward and, in a UNet, on convolutions inside and outside of its blocks."""
    pairs: Pairs = {}
    for path, layer in denoiser(pipeline).named_modules():
        if path.endswith(STYLED) and isinstance(layer, nn.Linear | nn.Conv2d):
            shape = layer.weight.shape
            down, up = noise(2, *shape[1:], seed=len(pairs)), noise(shape[0], 2, *(1 for _ in shape[2:]))
            pairs[path] = (0.1 * down, 0.3 * up)
    return pairs


def load_style(pipeline: Any, style: Pairs) -> None:
    prefix = "unet" if hasattr(pipeline, "unet") else "transformer"
    state = {
        f"{prefix}.{path}.lora_{side}.weight": weight
        for path, pair in style.items()
        for side, weight in zip("AB", pair, strict=True)
    }
    pipeline.load_lora_weights(state, adapter_name="style")


def wrap_in_peft(pipeline: Any, style: Pairs) -> None:
    model: Any = get_peft_model(pipeline.unet, LoraConfig(r=2, lora_alpha=2, target_modules=list(style)))
    state = {
        f"base_model.model.{path}.lora_{side}.weight": weight
        for path, pair in style.items()
        for side, weight in zip("AB", pair, strict=True)
    }
    assert not set_peft_model_state_dict(model, state).unexpected_keys
    pipeline.unet = model.eval()


def modules(pipeline: Any) -> dict[str, int]:
    return {path: id(module) for path, module in denoiser(pipeline).named_modules()}


@pytest.fixture(params=list(FAMILIES))
def build(request: pytest.FixtureRequest) -> Callable[[], Any]:
    return FAMILIES[request.param]


def guarded_and_styled(pipeline: Any, membrane: Membrane, style: Pairs, guard_first: bool) -> Guard:
    if not guard_first:
        load_style(pipeline, style)
    guarded = guard(pipeline, [membrane], gate=first_only)
    if guard_first:
        load_style(pipeline, style)
    return guarded


@BOTH_ORDERS
def test_a_lora_and_a_membrane_both_act(build: Callable[[], Any], guard_first: bool) -> None:
    pipeline, styled_pipeline = build(), build()
    membrane, style = membrane_for(pipeline), style_for(pipeline)
    load_style(styled_pipeline, style)
    styled = draw(styled_pipeline)
    expected = draw(merged(build(), style, pairs_of(membrane)))
    guarded = guarded_and_styled(pipeline, membrane, style, guard_first)
    both = draw(guarded)
    assert close(both[0], expected[0], 1e-5) and not close(both[0], styled[0], 1e-2)
    assert torch.equal(both[1], styled[1])
    guarded.eject()
    assert torch.equal(draw(pipeline), styled)
    guarded.inject()
    assert torch.equal(draw(guarded), both)


@BOTH_ORDERS
def test_unloading_a_lora_leaves_the_membrane(build: Callable[[], Any], guard_first: bool) -> None:
    pipeline = build()
    membrane, style = membrane_for(pipeline), style_for(pipeline)
    before, bare = modules(pipeline), draw(pipeline)
    guarded = guarded_and_styled(pipeline, membrane, style, guard_first)
    styled = draw(guarded)[1]
    assert not close(styled, bare[1], 1e-2)
    assert close(styled, draw(merged(build(), style))[1], 1e-5)
    pipeline.unload_lora_weights()
    alone = draw(guarded)
    assert close(alone[0], draw(merged(build(), pairs_of(membrane)))[0], 1e-5)
    assert torch.equal(alone[1], bare[1])
    guarded.eject()
    assert torch.equal(draw(pipeline), bare)
    assert modules(pipeline) == before


@BOTH_ORDERS
def test_a_lora_can_be_fused_under_the_guard(guard_first: bool) -> None:
    pipeline, fused_pipeline = tiny_pipeline(), tiny_pipeline()
    membrane, style = membrane_for(pipeline), style_for(pipeline)
    load_style(fused_pipeline, style)
    guarded = guarded_and_styled(pipeline, membrane, style, guard_first)
    for one in (fused_pipeline, pipeline):
        one.fuse_lora()
        one.unload_lora_weights()
    fused, found = draw(fused_pipeline), draw(guarded)
    assert close(found[0], draw(merged(tiny_pipeline(), style, pairs_of(membrane)))[0], 1e-5)
    assert torch.equal(found[1], fused[1])
    guarded.eject()
    assert torch.equal(draw(pipeline), fused)


@BOTH_ORDERS
def test_a_lora_may_be_scaled_and_switched_off_under_the_guard(guard_first: bool) -> None:
    pipeline = tiny_pipeline()
    membrane, style = membrane_for(pipeline), style_for(pipeline)
    guarded = guarded_and_styled(pipeline, membrane, style, guard_first)
    half = {path: (0.5 * down, up) for path, (down, up) in style.items()}
    expected = draw(merged(tiny_pipeline(), half, pairs_of(membrane)))[0]
    assert close(draw(guarded, cross_attention_kwargs={"scale": 0.5})[0], expected, 1e-5)
    pipeline.set_adapters("style", 0.5)
    assert close(draw(guarded)[0], expected, 1e-5)
    pipeline.disable_lora()
    assert close(draw(guarded)[0], draw(merged(tiny_pipeline(), pairs_of(membrane)))[0], 1e-5)


@BOTH_ORDERS
def test_a_model_of_peft(guard_first: bool) -> None:
    style = style_for(tiny_pipeline())
    check(tiny_pipeline, partial(wrap_in_peft, style=style), guard_first)


def test_unloading_a_model_of_peft_leaves_the_membrane() -> None:
    pipeline = tiny_pipeline()
    before, bare = modules(pipeline), draw(pipeline)
    membrane = membrane_for(pipeline)
    guarded = guard(pipeline, [membrane], gate=first_only)
    wrap_in_peft(pipeline, style_for(pipeline))
    pipeline.unet = pipeline.unet.unload()
    found = draw(guarded)
    assert close(found[0], draw(merged(tiny_pipeline(), pairs_of(membrane)))[0], 1e-5)
    assert torch.equal(found[1], bare[1])
    guarded.eject()
    assert torch.equal(draw(pipeline), bare)
    assert modules(pipeline) == before


def normalised(pipeline: Any) -> None:
    """Put a DoRA on the queries, as PEFT does for a LoRA's file with magnitudes in it."""
    config = LoraConfig(r=2, lora_alpha=2, target_modules=["to_q"], use_dora=True, init_lora_weights=False)
    pipeline.unet.add_adapter(config, adapter_name="style")


def test_a_lora_that_rescales_its_layers_is_refused_before_and_after() -> None:
    pipeline = tiny_pipeline()
    membrane = membrane_for(pipeline)
    guarded = guard(pipeline, [membrane], gate=first_only)
    normalised(pipeline)
    with pytest.raises(StackError, match=r"DoRA\) are on .*to_q"):
        draw(guarded)
    guarded.eject()
    with pytest.raises(StackError, match="DoRA"):
        guard(pipeline, [membrane], gate=first_only)
    pipeline.unet.delete_adapters("style")
    with guard(pipeline, [membrane], gate=first_only) as guarded:
        found = draw(guarded)[0]
    assert close(found, draw(merged(tiny_pipeline(), pairs_of(membrane)))[0], 1e-4)


def test_a_lora_of_the_text_encoder_changes_what_the_phrases_are_read_as() -> None:
    def cosine(pipeline: Any) -> float:
        # by hand: the paper's rule for a prompt that shares no token with the concept
        found = [pipeline.text_encoder(**tokens(pipeline, text)).pooler_output for text in ("a dog", "cat", " cat")]
        return max(float(torch.cosine_similarity(found[0], other)) for other in found[1:])

    def tokens(pipeline: Any, text: str) -> dict[str, Tensor]:
        options: dict[str, Any] = {"padding": "max_length", "max_length": 77, "return_tensors": "pt"}
        return {"input_ids": pipeline.tokenizer(text, **options)["input_ids"]}

    pipeline = tiny_pipeline()
    guarded = guard(pipeline, [membrane_for(pipeline)], gate="paper")
    with torch.no_grad():
        before = cosine(pipeline)
        assert guarded.permeability("a dog").rows()[0]["cat"] == pytest.approx(before, abs=1e-5)
        pairs = {
            path: (noise(2, layer.in_features, seed=1), 3 * noise(layer.out_features, 2, seed=2))
            for path, layer in pipeline.text_encoder.named_modules()
            if path.endswith(("q_proj", "fc1"))
        }
        state = {
            f"text_encoder.{path}.lora_{side}.weight": weight
            for path, pair in pairs.items()
            for side, weight in zip("AB", pair, strict=True)
        }
        pipeline.load_lora_weights(state, adapter_name="style")
        after = cosine(pipeline)
        assert abs(after - before) > 1e-3
        assert guarded.permeability("a dog").rows()[0]["cat"] == pytest.approx(after, abs=1e-5)
        pipeline.unload_lora_weights()
        assert guarded.permeability("a dog").rows()[0]["cat"] == pytest.approx(before, abs=1e-5)


# files


def test_a_guarded_denoiser_is_not_saved(tmp_path: Path) -> None:
    pipeline = tiny_pipeline()
    with (
        guard(pipeline, [membrane_for(pipeline)], gate="always"),
        pytest.raises(StackError, match=r"call eject\(\) first"),
    ):
        pipeline.save_pretrained(tmp_path / "guarded")
    pipeline.save_pretrained(tmp_path / "ejected")
    again = StableDiffusionPipeline.from_pretrained(tmp_path / "ejected")
    assert torch.equal(draw(again), draw(pipeline))
