"""StableDiffusion encodes what the pipeline feeds its denoiser, and predicts what the denoiser returns."""

from typing import Any

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_edm_euler import EDMEulerScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_lcm import LCMScheduler
from diffusers.schedulers.scheduling_pndm import PNDMScheduler

from semiperm.errors import ModelLoadError
from semiperm.models.model import PROMPTS_AT_ONCE
from semiperm.models.stable_diffusion import StableDiffusion
from semiperm.models.text import TextFeatures
from tests.tiny import tiny_pipeline, tiny_xl_pipeline

PROMPTS = ["a cat on a street", "", "no dog, a fox!"]


def what_the_denoiser_sees(pipeline: Any, **arguments: Any) -> dict[str, Any]:
    seen: dict[str, Any] = {}

    def look(_module: Any, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        seen.update(kwargs, sample=args[0], t=args[1], output=output[0])

    handle = pipeline.unet.register_forward_hook(look, with_kwargs=True)
    pipeline(num_inference_steps=1, output_type="latent", **arguments)
    handle.remove()
    return seen


def assert_same_prompts(features: TextFeatures, seen: dict[str, Any], rows: slice) -> None:
    assert torch.equal(features.hidden_BTC, seen["encoder_hidden_states"][rows])
    for name, value in features.condition.items():
        assert torch.equal(value, seen["added_cond_kwargs"][name][rows])


@pytest.mark.parametrize("build", [tiny_pipeline, tiny_xl_pipeline])
def test_encode_gives_what_the_pipeline_feeds_its_denoiser(build: Any) -> None:
    pipeline = build()
    model = StableDiffusion(pipeline)
    seen = what_the_denoiser_sees(pipeline, prompt=PROMPTS, guidance_scale=5.0)
    assert_same_prompts(model.encode(PROMPTS), seen, slice(3, None))
    assert_same_prompts(model.unconditional(3), seen, slice(None, 3))


def test_unconditional_of_xl_is_zero_only_where_the_pipeline_says_so() -> None:
    pipeline = tiny_xl_pipeline()
    assert not StableDiffusion(pipeline).unconditional(2).hidden_BTC.any()
    pipeline.register_to_config(force_zeros_for_empty_prompt=False)
    model = StableDiffusion(pipeline)
    seen = what_the_denoiser_sees(pipeline, prompt=PROMPTS, guidance_scale=5.0)
    features = model.unconditional(3)
    assert features.hidden_BTC.any()
    # The pipeline encodes the empty prompt three times, which rounds differently from once.
    assert torch.allclose(features.hidden_BTC, seen["encoder_hidden_states"][:3], atol=1e-6)
    assert torch.allclose(features.condition["text_embeds"], seen["added_cond_kwargs"]["text_embeds"][:3], atol=1e-6)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_predict_is_the_raw_output_of_the_denoiser(prediction_type: Any) -> None:
    pipeline = tiny_pipeline(prediction_type=prediction_type)
    model = StableDiffusion(pipeline)
    seen = what_the_denoiser_sees(pipeline, prompt=PROMPTS, guidance_scale=1.0)
    with torch.no_grad():
        output = model.predict(seen["sample"], seen["t"], model.encode(PROMPTS))
        one_t_each = model.predict(seen["sample"], seen["t"].expand(3), model.encode(PROMPTS))
    assert model.prediction_type == prediction_type
    assert torch.equal(output, seen["output"])
    assert torch.equal(one_t_each, seen["output"])


def test_predict_of_xl_is_the_raw_output_of_the_denoiser() -> None:
    pipeline = tiny_xl_pipeline()
    model = StableDiffusion(pipeline)
    seen = what_the_denoiser_sees(pipeline, prompt=PROMPTS, guidance_scale=1.0)
    with torch.no_grad():
        assert torch.equal(model.predict(seen["sample"], seen["t"], model.encode(PROMPTS)), seen["output"])


def test_predict_lets_gradients_through_and_encode_does_not() -> None:
    model = StableDiffusion(tiny_pipeline())
    features = model.encode(["a cat"])
    assert not features.hidden_BTC.requires_grad
    x_BCHW = torch.randn(1, *model.latent_shape(), requires_grad=True)
    model.predict(x_BCHW, torch.tensor(500), features).sum().backward()
    assert x_BCHW.grad is not None


@pytest.mark.parametrize("build", [tiny_pipeline, tiny_xl_pipeline])
def test_ids_are_the_words_and_the_mask_ends_at_the_end_of_text(build: Any) -> None:
    model = StableDiffusion(build())
    features = model.encode(PROMPTS)
    tokenizer = model.pipeline.tokenizer
    assert features.ids is not None and features.mask_BT is not None and features.pooled_BC is not None
    assert features.ids == tuple(tuple(tokenizer(prompt, add_special_tokens=False).input_ids) for prompt in PROMPTS)
    assert features.mask_BT.sum(1).tolist() == [len(row) + 2 for row in features.ids]
    assert features.pooled_BC.shape[0] == 3


def test_pooled_is_the_state_at_the_end_of_text() -> None:
    features = StableDiffusion(tiny_pipeline()).encode(PROMPTS)
    assert features.pooled_BC is not None and features.mask_BT is not None
    last = features.mask_BT.sum(1) - 1
    assert torch.equal(features.pooled_BC, features.hidden_BTC[torch.arange(3), last])


def test_a_prompt_that_is_too_long_is_truncated_without_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    model = StableDiffusion(tiny_pipeline())
    features = model.encode(["cat " * 200])
    assert features.hidden_BTC.shape[1] == 77
    assert features.ids is not None and len(features.ids[0]) == 75
    assert features.mask_BT is not None and features.mask_BT.all()
    assert not caplog.records


def test_many_prompts_give_what_few_give() -> None:
    model = StableDiffusion(tiny_xl_pipeline())
    many = model.encode(PROMPTS * PROMPTS_AT_ONCE)
    few = model.encode(PROMPTS)
    assert len(many) == 3 * PROMPTS_AT_ONCE
    assert many.ids is not None and many.ids[-3:] == few.ids
    assert torch.allclose(many.hidden_BTC[-3:], few.hidden_BTC, atol=1e-6)
    assert torch.allclose(many.condition["text_embeds"][-3:], few.condition["text_embeds"], atol=1e-6)


def test_a_single_string_is_one_prompt_and_no_prompt_is_refused() -> None:
    model = StableDiffusion(tiny_pipeline())
    assert len(model.encode("a cat")) == 1
    with pytest.raises(ValueError, match="no prompt"):
        model.encode([])


def test_multi_vector_textual_inversions_are_expanded_as_in_the_pipeline() -> None:
    pipeline = tiny_pipeline()
    words = ["<thing>", "<thing>_1"]
    pipeline.tokenizer.add_tokens(words)
    pipeline.text_encoder.resize_token_embeddings(len(pipeline.tokenizer))
    seen = what_the_denoiser_sees(pipeline, prompt=["a <thing>"], guidance_scale=1.0)
    features = StableDiffusion(pipeline).encode(["a <thing>"])
    assert_same_prompts(features, seen, slice(None))
    assert features.ids is not None
    assert features.ids[0][1:] == tuple(pipeline.tokenizer.convert_tokens_to_ids(words))


def test_text_in_half_precision_is_read_in_the_precision_of_the_latents() -> None:
    pipeline = tiny_pipeline()
    pipeline.text_encoder.to(torch.float16)
    model = StableDiffusion(pipeline)
    features = model.encode(["a cat"])
    assert features.hidden_BTC.dtype == torch.float16
    with torch.no_grad():
        assert model.predict(torch.randn(1, 4, 8, 8), torch.tensor(5), features).dtype == torch.float32


def test_layers_and_fingerprint_agree_between_convolutions_and_linear_projections() -> None:
    by_convolution = StableDiffusion(tiny_pipeline())
    by_linear = StableDiffusion(tiny_pipeline(linear_projection=True, prediction_type="v_prediction"))
    assert len(by_convolution.erasable_layers()) == 48
    assert by_convolution.fingerprint() == by_linear.fingerprint()
    assert by_convolution.fingerprint() != StableDiffusion(tiny_xl_pipeline()).fingerprint()


def test_a_compiled_denoiser_keeps_its_layers_names() -> None:
    pipeline = tiny_pipeline()
    names = list(StableDiffusion(pipeline).erasable_layers())
    pipeline.unet = torch.compile(pipeline.unet, backend="eager")
    assert list(StableDiffusion(pipeline).erasable_layers()) == names


def test_shape_device_and_names() -> None:
    model = StableDiffusion(tiny_pipeline(), "tiny")
    assert (model.name, model.architecture, model.latent_shape()) == ("tiny", "stable-diffusion", (4, 8, 8))
    assert model.device == torch.device("cpu") and model.dtype == torch.float32
    assert StableDiffusion(tiny_xl_pipeline()).architecture == "stable-diffusion-xl"


def test_other_pipelines_and_schedulers_are_refused() -> None:
    with pytest.raises(ModelLoadError, match="no unet, text_encoder"):
        StableDiffusion(object())
    pipeline = tiny_pipeline()
    pipeline.scheduler = DDIMScheduler(prediction_type="sample")
    with pytest.raises(ModelLoadError, match="'sample'"):
        StableDiffusion(pipeline)
    pipeline = tiny_xl_pipeline()
    pipeline.text_encoder = None
    with pytest.raises(ModelLoadError, match="text_encoder"):
        StableDiffusion(pipeline)


def test_a_repeated_prompt_is_encoded_once_and_returned_in_its_places(monkeypatch: pytest.MonkeyPatch) -> None:
    model = StableDiffusion(tiny_pipeline())
    asked: list[str] = []
    encode = model._encode
    monkeypatch.setattr(model, "_encode", lambda prompts: (asked.extend(prompts), encode(prompts))[1])
    features = model.encode(["a cat", "", "a cat", "a fox", ""])
    alone = [model.encode([prompt]) for prompt in ("a cat", "", "a cat", "a fox", "")]
    assert asked[:3] == ["a cat", "", "a fox"]
    for row, one in enumerate(alone):
        assert torch.allclose(features.hidden_BTC[row], one.hidden_BTC[0], atol=1e-6)
        assert features.ids is not None and one.ids is not None and features.ids[row] == one.ids[0]


def test_noise_that_ddim_does_not_have_is_refused_for_training() -> None:
    pipeline = tiny_pipeline()
    pipeline.scheduler = EDMEulerScheduler()
    model = StableDiffusion(pipeline)
    with pytest.raises(ModelLoadError, match="EDMEulerScheduler has no betas"):
        model.schedule(10)


def test_a_flow_scheduler_under_a_unet_is_refused() -> None:
    pipeline = tiny_pipeline()
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler()
    with pytest.raises(ModelLoadError, match="prediction type is 'None'"):
        StableDiffusion(pipeline)


@pytest.mark.parametrize(
    "scheduler", [EulerDiscreteScheduler, DPMSolverMultistepScheduler, PNDMScheduler, LCMScheduler]
)
def test_schedulers_with_betas_are_trained_on_their_own(scheduler: Any) -> None:
    pipeline = tiny_pipeline()
    pipeline.scheduler = scheduler(beta_start=0.002, beta_end=0.02, beta_schedule="linear", prediction_type="epsilon")
    found = StableDiffusion(pipeline).schedule(10)
    expected = torch.cumprod(1 - torch.linspace(0.002, 0.02, 1000), 0)
    torch.testing.assert_close(found.alphas_cumprod, expected)
