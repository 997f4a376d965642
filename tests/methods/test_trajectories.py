"""Trajectories are those of diffusers' own loop, and every state comes with the timestep that belongs to it."""

from typing import Any

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

from semiperm.methods import trajectories
from semiperm.methods.trajectories import Counted
from semiperm.models.load import model_of
from tests.tiny import tiny_pipeline, tiny_xl_pipeline

STEPS = 5
TARGETS = ["a cat", "a dog and a cat", "cat"]


def sample(model: Any, predict: Any, rows: list[int], guidance: float = 3.0, seed: int = 0) -> trajectories.States:
    return trajectories.sample_states(
        model, predict, model.encode(TARGETS), torch.tensor(rows),
        steps=STEPS, guidance=guidance, generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("guidance", [1.0, 3.0])
@torch.no_grad()
def test_states_and_timesteps_are_those_of_an_explicit_ddim_loop(prediction_type: Any, guidance: float) -> None:
    pipeline = tiny_pipeline(prediction_type=prediction_type)
    model = model_of(pipeline)
    rows = [1, 0, 1]
    states = sample(model, model.predict, rows, guidance)

    scheduler: Any = DDIMScheduler.from_config(pipeline.scheduler.config)
    assert scheduler.config["prediction_type"] == prediction_type
    scheduler.set_timesteps(STEPS)
    text = pipeline.encode_prompt([TARGETS[row] for row in rows], "cpu", 1, False)[0]
    nothing = pipeline.encode_prompt([""] * 3, "cpu", 1, False)[0]
    x = torch.randn((3, 4, 8, 8), generator=torch.Generator().manual_seed(0))
    place = 0
    for number, t in enumerate(scheduler.timesteps):
        if number:
            assert states.t_S[place : place + 3].tolist() == [int(t)] * 3
            torch.testing.assert_close(states.x_SCHW[place : place + 3], x, rtol=1e-4, atol=1e-4)
            assert states.prompt_S[place : place + 3].tolist() == rows
            place += 3
        asked, empty = pipeline.unet(x, t, text).sample, pipeline.unet(x, t, nothing).sample
        x = scheduler.step(empty + guidance * (asked - empty), int(t), x).prev_sample
    assert place == len(states) == 3 * (STEPS - 1)


@pytest.mark.parametrize("xl", [False, True])
def test_evaluations_are_counted_as_the_denoiser_sees_them(xl: bool) -> None:
    pipeline = tiny_xl_pipeline() if xl else tiny_pipeline()
    model = model_of(pipeline)
    predict = Counted(model)
    seen: list[int] = []
    hook = pipeline.unet.register_forward_pre_hook(lambda _, arguments: seen.append(len(arguments[0])))
    states = sample(model, predict, [0, 2])
    hook.remove()
    # Neither pure noise nor the final latents are trained on, so four of the five steps are evaluated.
    assert predict.evaluations == sum(seen) == (STEPS - 1) * 2 * 2
    assert len(states) == (STEPS - 1) * 2
    assert torch.isfinite(states.x_SCHW).all()


def test_a_seed_reproduces_a_trajectory_and_nothing_needs_a_gradient() -> None:
    model = model_of(tiny_pipeline())
    first, again, other = (sample(model, model.predict, [0, 1], seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.x_SCHW, again.x_SCHW) and not torch.equal(first.x_SCHW, other.x_SCHW)
    assert not first.x_SCHW.requires_grad


def test_the_schedule_is_the_models_own_and_leaves_the_pipelines_alone() -> None:
    pipeline = tiny_pipeline()
    before = pipeline.scheduler.num_inference_steps
    scheduler = model_of(pipeline).schedule(7)
    assert torch.equal(scheduler.alphas_cumprod, pipeline.scheduler.alphas_cumprod)
    assert len(scheduler.timesteps) == 7 and pipeline.scheduler.num_inference_steps == before


def test_latents_are_not_clipped_whatever_the_pipelines_scheduler() -> None:
    pipeline: Any = tiny_pipeline()
    pipeline.scheduler = DPMSolverMultistepScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="epsilon"
    )
    scheduler: Any = model_of(pipeline).schedule(5)
    x, noise = torch.full((1, 4, 8, 8), 30.0), torch.zeros(1, 4, 8, 8)
    t = int(scheduler.timesteps[2])
    clean = scheduler.step(noise, t, x).pred_original_sample
    torch.testing.assert_close(clean, x / scheduler.alphas_cumprod[t].sqrt())


def test_evaluations_count_samples_not_calls() -> None:
    model = model_of(tiny_pipeline())
    predict = Counted(model)
    with torch.no_grad():
        for count in (1, 3):
            predict(torch.zeros(count, 4, 8, 8), torch.full((count,), 5), model.encode(["a cat"] * count))
    assert predict.evaluations == 4


@pytest.mark.parametrize("autocast", [False, True])
def test_autocast_computes_layers_in_bfloat16_and_predictions_stay_in_float32(autocast: bool) -> None:
    model = model_of(tiny_pipeline())
    found: list[torch.dtype] = []
    layer = next(iter(model.erasable_layers().values()))
    layer.register_forward_hook(lambda _, args, output: found.append(output.dtype))
    with torch.no_grad():
        output = Counted(model, autocast)(torch.zeros(1, 4, 8, 8), torch.tensor([5]), model.encode(["a cat"]))
    assert found == [torch.bfloat16 if autocast else torch.float32] and output.dtype == torch.float32
