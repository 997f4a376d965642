"""Flow transformers predict as in their pipelines, and a guard erases on them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from semiperm.api import erase, guard
from semiperm.errors import MembraneFileError, ModelLoadError
from semiperm.files.safetensors import load, save
from semiperm.membrane import Membrane
from semiperm.methods import trajectories
from semiperm.methods.spm.settings import SpmSettings
from semiperm.models.flow import Flux, SquaredFlow, StableDiffusion3
from semiperm.models.load import load_model, model_of
from semiperm.models.qwen_image import QwenImage
from tests.models.helpers import Watched, by_name, membrane_for, seen_by_the_denoiser
from tests.tiny import tiny_flux_pipeline, tiny_qwen_pipeline, tiny_sd3_pipeline

KINDS: dict[str, Callable[[], Any]] = {
    "sd3": tiny_sd3_pipeline,
    "sd3 without t5": lambda: tiny_sd3_pipeline(t5=False),
    "flux dev": tiny_flux_pipeline,
    "flux schnell": lambda: tiny_flux_pipeline(dev=False),
    "qwen image": tiny_qwen_pipeline,
}
PROMPTS = ["a cat", "a dog and a tree", "a large red house"]


@pytest.fixture(params=KINDS)
def pipeline(request: pytest.FixtureRequest) -> Any:
    return KINDS[request.param]()


def unpacked(pipeline: Any, tokens: Tensor) -> Tensor:
    """Return what the pipeline's denoiser reads or returns as latents (B, C, H, W)."""
    if not isinstance(model_of(pipeline), SquaredFlow):
        return tokens
    side = pipeline.default_sample_size * pipeline.vae_scale_factor
    # Qwen-Image's latents have one frame.
    return pipeline._unpack_latents(tokens, side, side, pipeline.vae_scale_factor).squeeze(2)


def test_the_family_is_chosen_by_the_pipelines_class() -> None:
    assert isinstance(model_of(tiny_sd3_pipeline()), StableDiffusion3)
    assert isinstance(model_of(tiny_flux_pipeline()), Flux)
    assert model_of(tiny_flux_pipeline()).architecture == "flux-1-dev"
    assert model_of(tiny_flux_pipeline(dev=False)).architecture == "flux-1-schnell"
    with pytest.raises(ModelLoadError, match="StableDiffusion3Pipeline cannot be used: it has no text_encoder_2"):
        broken = tiny_sd3_pipeline()
        broken.text_encoder_2 = None
        model_of(broken)


def test_features_and_predictions_are_the_pipelines_own(pipeline: Any) -> None:
    model = model_of(pipeline)
    calls = seen_by_the_denoiser(pipeline, prompt="a cat", generator=torch.Generator().manual_seed(0))
    features = model.encode(["a cat"])
    channels, height, width = model.latent_shape()
    for call in calls:
        positive = call["encoder_hidden_states"][-1:]
        torch.testing.assert_close(features.hidden_BTC, positive)
        assert features.pooled_BC is not None
        if "pooled_projections" in call:
            torch.testing.assert_close(features.pooled_BC, call["pooled_projections"][-1:])
        x, found = unpacked(pipeline, call["hidden_states"][-1:]), unpacked(pipeline, call["found"][-1:])
        t = call["timestep"][-1:] * (1000 if isinstance(model, SquaredFlow) else 1)
        assert x.shape == (1, channels, height, width)
        with torch.no_grad():
            torch.testing.assert_close(model.predict(x, t, features), found, atol=1e-5, rtol=1e-4)


def test_a_trajectory_is_the_pipelines(pipeline: Any) -> None:
    model = model_of(pipeline)
    guidance: dict[str, Any] = {"guidance_scale": 3.5}
    if isinstance(model, QwenImage):
        guidance = {"true_cfg_scale": 3.5, "negative_prompt": ""}
    calls = seen_by_the_denoiser(pipeline, prompt="a cat", generator=torch.Generator().manual_seed(0), **guidance)
    # Where the pipeline calls the denoiser once more for guidance, that is the second call.
    calls = calls[:: 2 if isinstance(model, QwenImage) else 1]
    times = [float(call["timestep"][0]) * (1000 if isinstance(model, SquaredFlow) else 1) for call in calls]
    schedule = model.schedule(3)
    assert times == pytest.approx(schedule.timesteps.tolist(), rel=1e-4)
    path = list(
        trajectories.denoise(
            model, model.predict, schedule, model.encode(["a cat"]), guidance=3.5,
            generator=torch.Generator().manual_seed(0),
        )
    )  # fmt: skip
    for call, (_, x) in zip(calls, path, strict=True):
        torch.testing.assert_close(x, unpacked(pipeline, call["hidden_states"][:1]), atol=1e-4, rtol=1e-3)


def test_ids_point_at_the_states_of_their_tokens(pipeline: Any) -> None:
    model = model_of(pipeline)
    found = model.encode(PROMPTS)
    assert found.ids is not None and found.mask_BT is not None
    alone = model.encode([" cat"]).ids
    assert alone is not None
    assert [alone[0] == ids[-1:] for ids in found.ids] == [True, False, False]
    assert found.start == (0 if isinstance(model, SquaredFlow) else 1)
    # The positions of the text, with its end token unless that is the chat template's.
    end = 0 if isinstance(model, QwenImage) else 1
    for ids, mask in zip(found.ids, found.mask_BT, strict=True):
        assert mask[: found.start + len(ids) + end].all() and not mask[found.start + len(ids) + end]


def test_every_linear_layer_of_the_blocks_is_erasable(pipeline: Any) -> None:
    layers = model_of(pipeline).erasable_layers()
    wanted = {
        name
        for name, module in pipeline.transformer.named_modules()
        if isinstance(module, nn.Linear) and "transformer_blocks." in f"{name}."
    }
    assert set(layers) == wanted
    assert all(path.startswith(("transformer_blocks.", "single_transformer_blocks.")) for path in layers)


def test_a_guard_erases_the_concept_and_nothing_else(pipeline: Any) -> None:
    def draw(pipe: Any, prompts: list[str]) -> Tensor:
        generators = [torch.Generator().manual_seed(number) for number in range(len(prompts))]
        return pipe(prompts, generator=generators, num_inference_steps=2, output_type="pt").images

    bare = draw(pipeline, PROMPTS)
    with guard(pipeline, [membrane_for(pipeline, "cat")], gate=by_name) as guarded:
        watched = Watched(guarded)
        found = draw(watched, PROMPTS)
        assert watched.gammas == [1, 0, 0]
    assert (found[0] - bare[0]).abs().max() > 1e-3
    assert torch.equal(found[1:], bare[1:])
    assert torch.equal(draw(pipeline, PROMPTS), bare)


def test_a_prompt_for_another_encoder_opens_too() -> None:
    pipeline = tiny_sd3_pipeline()
    with guard(pipeline, [membrane_for(pipeline, "cat")], gate=by_name) as guarded:
        output = guarded("a dog", prompt_3="a cat", num_inference_steps=1, output_type="latent")
        assert output.permeability.gamma_BK.tolist() == [[1]]


def test_a_concept_is_erased_saved_and_guarded(pipeline: Any, tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in pipeline.transformer.state_dict().items()}
    settings = SpmSettings(steps=3, states=2, anchors=2, trajectories=2, trajectory_steps=3, learning_rate=0.05)
    made = erase(model_of(pipeline, "tiny"), "cat", "spm", settings, out=tmp_path / "cat.safetensors")
    assert made.card.effect["target_moved"] > 0
    after = pipeline.transformer.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    with guard(pipeline, [tmp_path / "cat.safetensors"], gate="always") as guarded:
        erased = guarded("a cat", generator=torch.Generator().manual_seed(0), num_inference_steps=2).images[0]
    bare = pipeline("a cat", generator=torch.Generator().manual_seed(0), num_inference_steps=2).images[0]
    assert list(erased.getdata()) != list(bare.getdata())


def test_a_folder_is_loaded_as_its_family(pipeline: Any, tmp_path: Path) -> None:
    pipeline.save_pretrained(tmp_path)
    model = load_model(tmp_path)
    assert type(model) is type(model_of(pipeline))
    torch.testing.assert_close(model.encode(PROMPTS).hidden_BTC, model_of(pipeline).encode(PROMPTS).hidden_BTC)


def test_other_tools_load_the_file_as_a_plain_lora(pipeline: Any, tmp_path: Path) -> None:
    membrane = membrane_for(pipeline, "cat")
    file = save(membrane, tmp_path / "cat.safetensors")
    assert all(name.startswith("transformer.") and ".lora_" in name for name in load_file(file))
    again = load(file)
    assert isinstance(again, Membrane)
    assert all(torch.equal(again.up[path], membrane.up[path]) for path in membrane.up)

    def draw(pipe: Any) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        return pipe("a cat", generator=generator, num_inference_steps=2, output_type="pt").images

    with guard(pipeline, [file], gate="always") as guarded:
        ours = draw(guarded)
    bare = draw(pipeline)
    pipeline.load_lora_weights(tmp_path, weight_name=file.name)
    assert (draw(pipeline) - ours).abs().max() < 1e-5
    assert (ours - bare).abs().max() > 1e-3


def test_a_scale_beside_the_tensors_is_folded_in(tmp_path: Path) -> None:
    membrane = membrane_for(tiny_sd3_pipeline(), "cat")
    tensors = load_file(save(membrane, tmp_path / "cat.safetensors"))
    peft_config = {"transformer.r": 1, "transformer.lora_alpha": 0.5}
    save_file(tensors, tmp_path / "half.safetensors", {"lora_adapter_metadata": json.dumps(peft_config)})
    half = load(tmp_path / "half.safetensors")
    assert isinstance(half, Membrane)
    for path in membrane.up:
        torch.testing.assert_close(half.up[path], membrane.up[path] / 2)
    save_file(tensors, tmp_path / "none.safetensors", {"lora_adapter_metadata": "[]"})
    with pytest.raises(MembraneFileError, match="names no rank and alpha"):
        load(tmp_path / "none.safetensors")


def test_a_layer_that_no_membrane_covers_is_refused(tmp_path: Path) -> None:
    model = model_of(tiny_sd3_pipeline())
    tensors = load_file(save(membrane_for(model.pipeline, "cat"), tmp_path / "cat.safetensors"))
    tensors["transformer.proj_out.lora_A.weight"] = torch.zeros(1, 16)
    tensors["transformer.proj_out.lora_B.weight"] = torch.zeros(16, 1)
    save_file(tensors, tmp_path / "more.safetensors")
    with pytest.raises(MembraneFileError, match="proj_out is no layer that a membrane covers"):
        load(tmp_path / "more.safetensors", layers=model.erasable_layers())
