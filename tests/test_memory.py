"""The estimate of memory against the allocator's own record, on a network that is small enough to run."""

from typing import Any

import pytest
import torch
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from torch import nn
from torch.profiler import ProfilerActivity, profile

from benchmarks import memory, real
from benchmarks.meter import Meter
from semiperm.methods.spm.settings import SpmSettings
from semiperm.models.flow import StableDiffusion3

SETTINGS = SpmSettings(steps=1, states=2, anchors=4, trajectories=2, trajectory_steps=2)
NARROW = real.Real(
    StableDiffusion3,
    "transformer",
    SD3Transformer2DModel,
    {
        "sample_size": 32, "patch_size": 2, "in_channels": 16, "num_layers": 4, "attention_head_dim": 16,
        "num_attention_heads": 4, "joint_attention_dim": 32, "caption_projection_dim": 64,
        "pooled_projection_dim": 32, "out_channels": 16, "pos_embed_max_size": 16,
    },
    ((real.clip_l, 77), (real.clip_g, 77)),
    (8, 32),
    32,
    scheduler=real.REAL["SD 3.5 medium"].scheduler,
)  # fmt: skip


def allocated(run: Any) -> int:
    """Return the peak of bytes that the CPU's allocator records."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        run()
    profiler: Any = seen.profiler
    record = [
        (event.start_ns(), event.nbytes()) for event in profiler.kineto_results.events() if "memory" in event.name()
    ]
    now = most = 0
    for _, size in sorted(record):
        now += size
        most = max(most, now)
    return most


@pytest.mark.parametrize("at_once", [None, 1])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_estimate_is_what_training_takes(checkpointing: bool, at_once: int | None) -> None:
    settings = SETTINGS.model_copy(update={"at_once": at_once})
    networks: list[Any] = [NARROW.denoiser(device, torch.float32) for device in ("cpu", "meta")]
    if checkpointing:
        for network in networks:
            network.enable_gradient_checkpointing()
    here, nowhere = (NARROW.model(network, network.device.type) for network in networks)
    estimate = memory.estimated(nowhere, settings)
    assert estimate == pytest.approx(allocated(lambda: memory.train(here, settings)), rel=0.1)
    # The settings differ by more than the error of the estimate.
    if checkpointing or at_once:
        assert estimate < 0.6 * memory.estimated(NARROW.model(NARROW.denoiser("meta", torch.float32), "meta"), SETTINGS)


def test_the_meter_counts_storages_and_not_views_until_they_are_freed() -> None:
    layer = nn.Linear(100, 100)
    with Meter("cpu", [layer]) as meter, torch.no_grad():
        x = torch.zeros(50, 100)
        y = layer(x)
        assert meter.now == 2 * 50 * 100 * 4
        views = [y.view(-1), y.t(), layer.weight.t()]
        assert meter.now == 2 * 50 * 100 * 4
        del x, y, views
        assert meter.now == 0
    assert meter.peak == 2 * 50 * 100 * 4


def test_weights_are_counted_by_their_precision() -> None:
    module = nn.Sequential(nn.Linear(64, 8), nn.Conv2d(4, 4, 3), nn.Linear(8, 4))
    rest, linear = 8 + 4 * 4 * 9 + 4 + 4, 64 * 8 + 8 * 4
    assert memory.weights(module) == 2 * (rest + linear)
    assert memory.weights(module, 0.5) == 2 * rest + linear // 2 + 2 * 64 * 8


@pytest.mark.parametrize(
    ("name", "billions"), [("SD 1.5", 0.86), ("SDXL", 2.57), ("FLUX.1 dev", 11.9), ("PixArt-Σ", 0.61)]
)
def test_the_configurations_are_the_published_ones(name: str, billions: float) -> None:
    count = sum(weight.numel() for weight in real.REAL[name].denoiser("meta").parameters())
    assert count / 1e9 == pytest.approx(billions, rel=0.01)
