"""Qwen-Image's prompts are read without their chat template, and each pass of guidance is guarded."""

from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from diffusers.models.transformers.transformer_qwenimage import QwenImageTransformer2DModel
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks.real import QWEN_IMAGE
from semiperm.api import guard
from semiperm.concept import Concept
from semiperm.erasure import Card
from semiperm.files.safetensors import load, save
from semiperm.gate import PaperGate, Shown, judge
from semiperm.membrane import Membrane
from semiperm.methods.calibrate import fit_gate
from semiperm.methods.spm_published import gaussian_features
from semiperm.models.layers import erasable_layers
from semiperm.models.load import model_of
from semiperm.models.model import PROMPTS_AT_ONCE
from tests.models.helpers import TenthOfLength, by_name, check_against_changed_weights, membrane_for
from tests.tiny import tiny_qwen_pipeline

PROMPTS = ["a cat", "a dog and a tree", "cat"]


@pytest.fixture(scope="module")
def pipeline() -> Any:
    return tiny_qwen_pipeline()


def draw(pipe: Any, prompts: list[str], guided: bool = True, **arguments: Any) -> Tensor:
    count = len(prompts) * arguments.get("num_images_per_prompt", 1)
    generators = [torch.Generator().manual_seed(number) for number in range(count)]
    guidance: dict[str, Any] = {"negative_prompt": [" "] * len(prompts), "true_cfg_scale": 3.0} if guided else {}
    options = {"num_inference_steps": 2, "output_type": "latent", **guidance, **arguments}
    return pipe(prompts, generator=generators, **options).images


def test_the_chat_template_is_as_long_as_what_the_pipeline_removes(pipeline: Any) -> None:
    before = pipeline.prompt_template_encode.partition("{}")[0]
    assert len(pipeline.tokenizer(before)["input_ids"]) == pipeline.prompt_template_encode_start_idx


def test_features_are_the_language_models_states_in_its_chat(pipeline: Any) -> None:
    found = model_of(pipeline).encode(PROMPTS)
    assert found.ids is not None and found.mask_BT is not None and found.pooled_BC is not None
    attended = found.condition["encoder_hidden_states_mask"]
    for row, prompt in enumerate(PROMPTS):
        tokens = pipeline.tokenizer(pipeline.prompt_template_encode.format(prompt), return_tensors="pt")
        with torch.no_grad():
            states = pipeline.text_encoder(**tokens, output_hidden_states=True).hidden_states[-1][0, 34:]
        own = len(pipeline.tokenizer(prompt)["input_ids"])
        assert found.ids[row] == tuple(pipeline.tokenizer(prompt)["input_ids"])
        assert found.mask_BT[row].tolist() == [True] * own + [False] * (found.mask_BT.shape[1] - own)
        assert int(attended[row].sum()) == len(states) == own + 5
        torch.testing.assert_close(found.hidden_BTC[row, : len(states)], states)
        torch.testing.assert_close(found.pooled_BC[row], states[:own].mean(0))


def test_a_prompt_that_is_too_long_is_truncated_for_the_gate_too(pipeline: Any) -> None:
    found = model_of(pipeline).encode(["cat" + " cat" * 600, "a cat"])
    assert found.ids is not None and found.mask_BT is not None
    assert found.hidden_BTC.shape[1] == len(found.ids[0]) == 512
    assert found.mask_BT.sum(1).tolist() == [512, 2]


def test_prompts_of_several_lengths_are_encoded_as_alone(pipeline: Any) -> None:
    model = model_of(pipeline)
    many = ["a cat"] * PROMPTS_AT_ONCE + ["a large red house in the sky"]
    together, alone = model.encode(many), model.encode(["a cat"])
    length = alone.hidden_BTC.shape[1]
    torch.testing.assert_close(together.hidden_BTC[:1, :length], alone.hidden_BTC)
    assert not together.hidden_BTC[0, length:].any()
    x, t = torch.randn(1, *model.latent_shape(), generator=torch.Generator().manual_seed(0)), torch.tensor(500.0)
    with torch.no_grad():
        padded, short = model.predict(x, t, together.select([0])), model.predict(x, t, alone)
    torch.testing.assert_close(padded, short, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("guided", [True, False])
def test_encode_predict_and_schedule_draw_the_pipelines_pictures(pipeline: Any, guided: bool) -> None:
    model = model_of(pipeline)
    scheduler = model.schedule(4)
    x = torch.cat([torch.randn(1, *model.latent_shape(), generator=torch.Generator().manual_seed(n)) for n in range(3)])
    asked, empty = model.encode(PROMPTS), model.encode([" "] * 3)
    for t in scheduler.timesteps:
        with torch.no_grad():
            found = model.predict(x, t, asked)
            if guided:
                found = model.guided(model.predict(x, t, empty), found, 3.0)
        x = scheduler.step(found, t, x, return_dict=False)[0]
    theirs = draw(pipeline, PROMPTS, guided, num_inference_steps=4)
    theirs = pipeline._unpack_latents(theirs, 16, 16, pipeline.vae_scale_factor).squeeze(2)
    torch.testing.assert_close(x, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("guided", [True, False])
def test_a_picture_is_the_one_of_weights_changed_by_hand_in_every_pass(guided: bool) -> None:
    twice = partial(draw, prompts=PROMPTS, guided=guided, num_images_per_prompt=2)
    check_against_changed_weights(tiny_qwen_pipeline(), twice, atol=1e-5, rtol=1e-4)


def test_one_prompt_needs_no_list(pipeline: Any) -> None:
    with guard(pipeline, [membrane_for(pipeline, "cat")], gate=by_name) as guarded:
        single = guarded("a cat", generator=torch.Generator().manual_seed(0), num_inference_steps=2).images
    assert len(single) == 1


def test_a_batch_gives_the_pictures_of_its_prompts_alone(pipeline: Any) -> None:
    with guard(pipeline, [membrane_for(pipeline, "cat")], gate=by_name) as guarded:
        together = draw(guarded, PROMPTS)
        for row, prompt in enumerate(PROMPTS):
            noise = torch.Generator().manual_seed(row)
            alone = guarded(
                prompt, negative_prompt=" ", true_cfg_scale=3.0, generator=noise, num_inference_steps=2,
                output_type="latent",
            ).images  # fmt: skip
            torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-4)


def test_a_gate_reads_the_words_of_the_prompt_wherever_they_are(pipeline: Any) -> None:
    model = model_of(pipeline)
    fitted = fit_gate(Concept(name="cat"), model)
    asking = ["cat", "a cat", "a photo of a cat and a dog", "cat beside a tree", "two cats"]
    others = ["a dog", "", " ", "a tree in the sky", "a photo"]
    features = model.encode(asking + others)
    assert judge([fitted], Shown(features, model))[:, 0].tolist() == [1] * len(asking) + [0] * len(others)
    # "cats" is another word than "cat".
    assert judge([PaperGate(phrases=("cat",))], Shown(features, model))[:4, 0].tolist() == [1] * 4
    # The chat template is not read.
    loud = model.encode(others)
    assert loud.mask_BT is not None
    loud.hidden_BTC[~loud.mask_BT] = 1e4 * torch.tensor(fitted.weight).sign()
    assert not judge([fitted], Shown(loud, model)).any()


def test_embeddings_are_read_from_their_first_token_to_the_end_of_their_mask(pipeline: Any) -> None:
    embeds, mask = pipeline.encode_prompt(["a cat", "a dog and a tree"])
    with guard(pipeline, [membrane_for(pipeline, "cat")], gate=lambda _: TenthOfLength()) as guarded:
        output = guarded(prompt_embeds=embeds, prompt_embeds_mask=mask, num_inference_steps=2, output_type="latent")
        assert output.permeability.gamma_BK.flatten().tolist() == pytest.approx([0.7, 1.0])


def test_the_published_anchors_are_as_long_as_the_target(pipeline: Any) -> None:
    model = model_of(pipeline)
    target, empty = model.encode(["a large red house"]), model.encode([""])
    found = gaussian_features(target, empty, 2, torch.Generator().manual_seed(0))
    assert found.hidden_BTC.shape == (2, *target.hidden_BTC.shape[1:])


def test_the_real_network_has_14_layers_in_each_of_60_blocks(tmp_path: Path) -> None:
    with torch.device("meta"):
        layers = erasable_layers(QwenImageTransformer2DModel(**QWEN_IMAGE))
    width = 24 * 128
    # Query, key, value and output of picture and text, one modulation and a feed-forward of two layers for each
    sizes = [(width, width)] * 8 + [(width, 6 * width), (width, 4 * width), (4 * width, width)] * 2
    linear = [cast(nn.Linear, layer) for layer in layers.values()]
    assert sorted((layer.in_features, layer.out_features) for layer in linear) == sorted(sizes * 60)
    membrane = Membrane.zero(layers, Card(concepts=(Concept(name="cat"),)))
    file = save(membrane, tmp_path / "cat.safetensors")
    names = {f"transformer.{path}.lora_{side}.weight" for path in layers for side in "AB"}
    assert set(load_file(file)) == names and len(names) == 2 * 14 * 60
    again = load(file, layers=layers)
    assert isinstance(again, Membrane) and set(again.down) == set(layers)
