"""PixArt predicts as in its pipelines, with learned variance and picture size, and a guard erases on it."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from diffusers.models.transformers.pixart_transformer_2d import PixArtTransformer2DModel
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks.real import PIXART_SIGMA
from semiperm.api import erase, guard
from semiperm.concept import Concept
from semiperm.erasure import Card
from semiperm.errors import ModelLoadError
from semiperm.files.export import export
from semiperm.files.safetensors import load, save
from semiperm.membrane import Membrane
from semiperm.methods import trajectories
from semiperm.methods.sentences import target_prompts
from semiperm.methods.spm import anchors
from semiperm.methods.spm.instant import instant, reads_text
from semiperm.methods.spm.settings import SpmSettings
from semiperm.models.layers import erasable_layers
from semiperm.models.load import load_model, model_of
from semiperm.models.pixart import PixArt
from tests.models.helpers import (
    TenthOfLength,
    Watched,
    by_name,
    check_against_changed_weights,
    membrane_for,
    seen_by_the_denoiser,
)
from tests.tiny import tiny_pixart_pipeline

KINDS: dict[str, Callable[[], Any]] = {
    "pixart-sigma": tiny_pixart_pipeline,
    "pixart-alpha": lambda: tiny_pixart_pipeline(sigma=False),
}
PROMPTS = ["a cat", "a Dog and a tree", "cat"]
SIZE = {"use_resolution_binning": False, "clean_caption": False}


@pytest.fixture(params=KINDS, scope="module")
def pipeline(request: pytest.FixtureRequest) -> Any:
    return KINDS[request.param]()


def draw(pipe: Any, prompts: list[str], **arguments: Any) -> Tensor:
    count = len(prompts) * arguments.get("num_images_per_prompt", 1)
    generators = [torch.Generator().manual_seed(number) for number in range(count)]
    options = {"num_inference_steps": 2, "output_type": "latent", **SIZE, **arguments}
    return pipe(prompts, generator=generators, **options).images


def test_the_family_is_chosen_by_the_pipelines_class(pipeline: Any, request: pytest.FixtureRequest) -> None:
    model = model_of(pipeline)
    assert isinstance(model, PixArt)
    assert model.architecture == request.node.callspec.params["pipeline"]
    broken = tiny_pixart_pipeline()
    broken.text_encoder = None
    with pytest.raises(ModelLoadError, match="PixArtSigmaPipeline cannot be used: it has no text_encoder"):
        model_of(broken)


def test_features_and_predictions_are_the_pipelines_own(pipeline: Any) -> None:
    model = model_of(pipeline)
    generator = torch.Generator().manual_seed(0)
    # A height that is not the configuration's.
    calls = seen_by_the_denoiser(pipeline, prompt=PROMPTS, generator=generator, height=192, **SIZE)
    asked, empty = model.encode(PROMPTS), model.unconditional(3)
    assert len(calls) == 3
    for call in calls:
        for half, features in ((slice(0, 3), empty), (slice(3, 6), asked)):
            torch.testing.assert_close(features.hidden_BTC, call["encoder_hidden_states"][half])
            mask = features.condition["encoder_attention_mask"]
            assert torch.equal(mask.float(), call["encoder_attention_mask"][half].float())
            with torch.no_grad():
                found = model.predict(call["hidden_states"][half], call["timestep"][0], features)
            assert found.shape == (3, 4, 96, 128)
            torch.testing.assert_close(found, call["found"][half, :4], atol=1e-5, rtol=1e-4)
    # The alpha reads the size, the sigma does not.
    size = calls[0]["added_cond_kwargs"]["resolution"]
    assert size is None if model.architecture == "pixart-sigma" else size[0].tolist() == [192, 256]


def test_encode_predict_and_schedule_draw_the_pipelines_pictures(pipeline: Any) -> None:
    model = model_of(pipeline)
    scheduler = model.schedule(4)
    noise = torch.Generator().manual_seed(0)
    path = list(
        trajectories.denoise(model, model.predict, scheduler, model.encode(["a cat"]), guidance=4.5, generator=noise)
    )
    t, x = path[-1]
    with torch.no_grad():
        empty, asked = (model.predict(x, t, features) for features in (model.unconditional(1), model.encode(["a cat"])))
    x = scheduler.step(empty + 4.5 * (asked - empty), t, x, return_dict=False)[0]
    assert scheduler.timesteps.tolist() == pipeline.scheduler.timesteps.new_tensor([750, 500, 250, 0]).tolist()
    theirs = draw(pipeline, ["a cat"], num_inference_steps=4, guidance_scale=4.5)
    torch.testing.assert_close(x, theirs, atol=1e-4, rtol=1e-3)


def test_the_noise_schedule_is_the_one_of_the_pipelines_own_solver() -> None:
    pipeline = tiny_pixart_pipeline()
    solver: Any = DPMSolverMultistepScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="linear")
    pipeline.scheduler = solver
    model = model_of(pipeline)
    found = model.schedule(10)
    assert model.prediction_type == "epsilon"
    torch.testing.assert_close(found.alphas_cumprod, solver.alphas_cumprod)
    assert len(found.timesteps) == 10 and not found.config.clip_sample


def test_ids_and_mask_are_those_of_the_text_and_its_end(pipeline: Any) -> None:
    found = model_of(pipeline).encode(PROMPTS)
    assert found.ids is not None and found.mask_BT is not None and found.pooled_BC is not None and found.start == 0
    for row, prompt in enumerate(PROMPTS):
        # The pipeline reads everything in lower case.
        tokens = pipeline.tokenizer(prompt.lower(), return_tensors="pt")
        assert (*found.ids[row], pipeline.tokenizer.eos_token_id) == tuple(tokens["input_ids"][0].tolist())
        length = len(found.ids[row]) + 1
        assert found.mask_BT[row, :length].all() and not found.mask_BT[row, length:].any()
        with torch.no_grad():
            states = pipeline.text_encoder(**tokens).last_hidden_state[0]
        torch.testing.assert_close(found.hidden_BTC[row, :length], states, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(found.pooled_BC[row], states.mean(0), atol=1e-5, rtol=1e-4)


def test_padding_is_not_seen(pipeline: Any) -> None:
    model = model_of(pipeline)
    quiet, loud = model.encode(["a cat"]), model.encode(["a cat"])
    assert loud.mask_BT is not None
    loud.hidden_BTC[~loud.mask_BT] = 100.0
    x, t = torch.randn(1, *model.latent_shape(), generator=torch.Generator().manual_seed(0)), torch.tensor(500)
    with torch.no_grad():
        torch.testing.assert_close(model.predict(x, t, loud), model.predict(x, t, quiet), atol=1e-5, rtol=1e-4)


def test_what_keys_read_is_what_they_are_given(pipeline: Any) -> None:
    model = model_of(pipeline)
    features = model.encode(PROMPTS)
    given: list[Tensor] = []
    layer = pipeline.transformer.transformer_blocks[1].attn2.to_k
    handle = layer.register_forward_pre_hook(lambda _, args: given.append(args[0]))
    with torch.no_grad():
        model.predict(torch.zeros(3, *model.latent_shape()), torch.tensor(500), features)
    handle.remove()
    lengths = [len(pipeline.tokenizer(prompt.lower())["input_ids"]) for prompt in PROMPTS]
    for row, found in enumerate(model.keys_read(features)):
        assert found.shape == (lengths[row], 24)
        torch.testing.assert_close(found, given[0][row, : lengths[row]])


def test_an_instant_membrane_is_the_best_change_of_what_keys_read() -> None:
    model = model_of(tiny_pixart_pipeline(sigma=False), "tiny")
    concept, word = Concept(name="cat"), 17
    held = anchors.by_name(concept, model.encode)
    settings = SpmSettings(steps=0, instant_eta=0.0, instant_anchor_weight=2.0, instant_ridge=0.01, rank=24)
    membrane = instant(concept, model, held, settings)
    text_side = {path for path in membrane.up if reads_text(path)}
    assert len(text_side) == 4
    assert {path for path, up in membrane.up.items() if up.any()} == text_side

    moved, wanted = [], []
    for asking, instead in target_prompts(concept, settings.nothing):
        features = model.encode([asking, instead])
        assert features.ids is not None
        target, surrogate = model.keys_read(features)
        for place in range(features.ids[0].index(word), len(target)):
            # As far from the end of its own text.
            beside = max(place - len(target) + len(surrogate), 0)
            moved.append(target[place])
            wanted.append(surrogate[beside] - target[place])
    e, g, p = (
        torch.stack(moved).double(),
        torch.stack(wanted).double(),
        torch.cat(model.keys_read(held.features)).double(),
    )
    for path in text_side:
        weight = cast(nn.Linear, model.erasable_layers()[path]).weight.detach().double()
        change = (membrane.up[path] @ membrane.down[path]).double()
        # There mean |D e - W g|^2 + 2 mean |D p|^2 + 0.01 |D|^2 has no slope.
        pull = (e @ change.T - g @ weight.T).T @ e / len(e)
        slope = pull + 2 * change @ p.T @ p / len(p) + 0.01 * change
        assert slope.norm() < 1e-4 * pull.norm()


def test_a_picture_is_the_one_of_weights_changed_by_hand_in_both_branches() -> None:
    twice = partial(draw, prompts=PROMPTS, num_images_per_prompt=2)
    check_against_changed_weights(tiny_pixart_pipeline(), twice, atol=1e-4, rtol=1e-3)


def test_a_batch_gives_the_pictures_of_its_prompts_alone(pipeline: Any) -> None:
    with guard(pipeline, [membrane_for(pipeline, "cat")], gate=by_name) as guarded:
        together = draw(guarded, PROMPTS)
        for row, prompt in enumerate(PROMPTS):
            options = {"generator": torch.Generator().manual_seed(row), "num_inference_steps": 2, **SIZE}
            alone = guarded(prompt, output_type="latent", **options).images
            torch.testing.assert_close(together[row : row + 1], alone, atol=1e-4, rtol=1e-3)


def test_a_concept_is_erased_saved_loaded_and_guarded(tmp_path: Path) -> None:
    # The alpha reads fewer tokens than the sigma, and the picture's size as well.
    pipeline = tiny_pixart_pipeline(sigma=False)
    before = {name: value.clone() for name, value in pipeline.transformer.state_dict().items()}
    settings = SpmSettings(steps=3, states=2, anchors=2, trajectories=2, trajectory_steps=3, learning_rate=0.05)
    membrane = erase(model_of(pipeline, "tiny"), "cat", "spm", settings, out=tmp_path / "cat.safetensors")
    assert isinstance(membrane, Membrane)
    assert membrane.card.effect["target_moved"] > 0
    assert all(membrane.up[path].any() for path in membrane.up)
    after = pipeline.transformer.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    bare = draw(pipeline, PROMPTS)
    with guard(pipeline, [tmp_path / "cat.safetensors"]) as guarded:
        watched = Watched(guarded)
        found = draw(watched, PROMPTS)
        assert watched.gammas == [1, 0, 1]
    assert torch.equal(found[1], bare[1]) and not torch.equal(found[0], bare[0])
    assert torch.equal(draw(pipeline, PROMPTS), bare)


def test_a_folder_is_loaded_as_its_family(pipeline: Any, tmp_path: Path) -> None:
    pipeline.save_pretrained(tmp_path)
    model = load_model(tmp_path)
    assert isinstance(model, PixArt) and model.architecture == model_of(pipeline).architecture
    torch.testing.assert_close(model.encode(PROMPTS).hidden_BTC, model_of(pipeline).encode(PROMPTS).hidden_BTC)


def test_peft_loads_the_exported_folder_and_draws_the_same(tmp_path: Path) -> None:
    # PixArt's pipelines load no LoRA themselves.
    pipeline = tiny_pixart_pipeline()
    membrane = membrane_for(pipeline, "cat")
    file = save(membrane, tmp_path / "cat.safetensors")
    with guard(pipeline, [file], gate="always") as guarded:
        ours = draw(guarded, PROMPTS)
    bare = draw(pipeline, PROMPTS)
    again = load(file)
    assert isinstance(again, Membrane)
    adapted = PeftModel.from_pretrained(pipeline.transformer, str(export(again, "peft", tmp_path / "adapter")))
    covered = [name for name, _ in adapted.named_modules() if name.endswith("lora_A.default")]
    assert len(covered) == len(membrane.down)
    assert (draw(pipeline, PROMPTS) - ours).abs().max() < 1e-5
    assert (ours - bare).abs().max() > 1e-3


def test_embeddings_are_read_with_their_mask() -> None:
    pipeline = tiny_pixart_pipeline()
    embeds, mask, _, _ = pipeline.encode_prompt(["cat", "a dog"], do_classifier_free_guidance=False)
    with guard(pipeline, [membrane_for(pipeline, "cat")], gate=lambda _: TenthOfLength()) as guarded:
        output = guarded(
            prompt_embeds=embeds, prompt_attention_mask=mask, guidance_scale=1.0, num_inference_steps=1,
            output_type="latent", **SIZE,
        )  # fmt: skip
        assert output.permeability.gamma_BK.flatten().tolist() == pytest.approx([0.2, 0.3])


def test_the_real_network_has_10_layers_in_each_of_28_blocks(tmp_path: Path) -> None:
    with torch.device("meta"):
        layers = erasable_layers(PixArtTransformer2DModel(**PIXART_SIGMA))
    width = 16 * 72
    # Query, key, value and output of both attentions, all of one width because captions are projected before, and a
    # feed-forward of two layers; modulation is one layer for all blocks, outside of them.
    sizes = [(width, width)] * 8 + [(width, 4 * width), (4 * width, width)]
    linear = [cast(nn.Linear, layer) for layer in layers.values()]
    assert sorted((layer.in_features, layer.out_features) for layer in linear) == sorted(sizes * 28)
    membrane = Membrane.zero(layers, Card(concepts=(Concept(name="cat"),)))
    file = save(membrane, tmp_path / "cat.safetensors")
    names = {f"transformer.{path}.lora_{side}.weight" for path in layers for side in "AB"}
    assert set(load_file(file)) == names and len(names) == 2 * 10 * 28
    again = load(file, layers=layers)
    assert isinstance(again, Membrane) and set(again.down) == set(layers)
