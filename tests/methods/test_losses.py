"""The losses are the paper's, element by element, for every prediction type; the bare model gets no gradient."""

from typing import Any

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from semiperm.methods.spm.losses import anchoring_loss, erasing_loss, erasing_target, total_loss

SHAPE = (2, 3, 2, 2)
NUMBER = st.floats(-10, 10, allow_nan=False)
ETA = st.floats(0, 10, allow_nan=False)
SEED = st.integers(0, 10_000)


def draws(seed: int, count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(SHAPE, generator=generator, dtype=torch.float64) for _ in range(count)]


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0, 3.0])
def test_erasing_loss_is_equation_4_in_an_explicit_loop(eta: float) -> None:
    guarded, target, surrogate = draws(0, 3)
    total = 0.0
    for g, t, s in zip(*(x.flatten().tolist() for x in (guarded, target, surrogate)), strict=True):
        total += (g - (s - eta * (t - s))) ** 2
    assert erasing_loss(guarded, target, surrogate, eta).item() == pytest.approx(total / guarded.numel())


def test_anchoring_loss_is_equation_8_in_an_explicit_loop() -> None:
    guarded, bare = draws(1, 2)
    squares = [(g - b) ** 2 for g, b in zip(guarded.flatten().tolist(), bare.flatten().tolist(), strict=True)]
    assert anchoring_loss(guarded, bare).item() == pytest.approx(sum(squares) / len(squares))
    assert anchoring_loss(bare, bare).item() == 0


@given(SEED, ETA, NUMBER, NUMBER)
@settings(max_examples=50, deadline=None)
def test_the_erasing_target_is_linear_in_the_predictions(seed: int, eta: float, a: float, b: float) -> None:
    t1, s1, t2, s2 = draws(seed, 4)
    together = erasing_target(a * t1 + b * t2, a * s1 + b * s2, eta)
    apart = a * erasing_target(t1, s1, eta) + b * erasing_target(t2, s2, eta)
    torch.testing.assert_close(together, apart, rtol=1e-9, atol=1e-9)


@given(SEED, ETA, st.integers(1, 999))
@settings(max_examples=50, deadline=None)
def test_the_erasing_target_is_the_same_for_epsilon_and_v(seed: int, eta: float, timestep: int) -> None:
    noisy, eps_target, eps_surrogate, guarded = draws(seed, 4)
    scheduler: Any = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    alpha = scheduler.alphas_cumprod[timestep].double()
    t = torch.full((SHAPE[0],), timestep)

    def v(eps: Tensor) -> Tensor:
        # The scheduler's own velocity, for the clean picture that belongs to this noise.
        clean = (noisy - (1 - alpha).sqrt() * eps) / alpha.sqrt()
        scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
        return scheduler.get_velocity(clean, eps, t)

    in_v = erasing_target(v(eps_target), v(eps_surrogate), eta)
    torch.testing.assert_close(in_v, v(erasing_target(eps_target, eps_surrogate, eta)), rtol=1e-6, atol=1e-6)
    loss_v = erasing_loss(v(guarded), v(eps_target), v(eps_surrogate), eta)
    loss_eps = erasing_loss(guarded, eps_target, eps_surrogate, eta)
    torch.testing.assert_close(loss_v * alpha, loss_eps, rtol=1e-6, atol=1e-6)


@given(SEED, ETA)
@settings(max_examples=30, deadline=None)
def test_eta_measures_how_far_beyond_the_surrogate(seed: int, eta: float) -> None:
    target, surrogate = draws(seed, 2)
    wanted = erasing_target(target, surrogate, eta)
    torch.testing.assert_close((wanted - surrogate).norm(), eta * (target - surrogate).norm())
    torch.testing.assert_close((wanted - target).norm(), (1 + eta) * (target - surrogate).norm())
    torch.testing.assert_close(erasing_target(target, surrogate, 0.0), surrogate)
    # A concept whose surrogate is itself does not move.
    torch.testing.assert_close(erasing_target(target, target, eta), target)


def test_only_the_guarded_prediction_gets_a_gradient() -> None:
    guarded, target, surrogate, bare = (x.requires_grad_() for x in draws(2, 4))
    loss = total_loss(erasing_loss(guarded, target, surrogate, 1.0), anchoring_loss(guarded, bare), 10.0)
    loss.backward()
    assert target.grad is None and surrogate.grad is None and bare.grad is None
    assert guarded.grad is not None
    by_hand = 2 * (guarded - (2 * surrogate - target)) + 10 * 2 * (guarded - bare)
    torch.testing.assert_close(guarded.grad, (by_hand / guarded.numel()).detach())
