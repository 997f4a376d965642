"""The training loop: batches, learning rate, averaged weights, progress, and that resuming changes nothing."""

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from semiperm.methods.training import Progress
from semiperm.terrarium.making import loop
from semiperm.terrarium.making.loop import choose, fit, rate

STEPS = 12
STOP = 8
EMA = 0.8


class Interrupted(Exception):
    pass


@given(st.integers(0, 2**31), st.integers(0, 2**31), st.integers(1, 64), st.integers(1, 1000))
def test_choose_is_a_function_of_seed_and_step(seed: int, step: int, batch: int, count: int) -> None:
    np.random.seed(1)
    rows = choose(seed, step, batch, count)
    np.random.seed(2)
    assert np.array_equal(rows, choose(seed, step, batch, count))
    assert rows.shape == (batch,)
    assert rows.min() >= 0
    assert rows.max() < count


def test_choose_differs_between_steps_and_seeds() -> None:
    drawn = [tuple(choose(seed, step, 16, 10_000)) for seed in range(4) for step in range(4)]
    assert len(set(drawn)) == len(drawn)


def test_choose_reaches_every_row() -> None:
    assert {int(row) for step in range(200) for row in choose(0, step, 4, 30)} == set(range(30))


def test_the_rate_rises_holds_and_falls() -> None:
    steps, warm_up, cool_down = 1000, 100, 0.3
    factors = [rate(step, steps, warm_up, cool_down) for step in range(steps)]
    rise, plateau, fall = factors[:warm_up], factors[warm_up - 1 : 700], factors[700:]
    assert rise == pytest.approx([n / warm_up for n in range(1, warm_up + 1)])
    assert set(plateau) == {1.0}
    # linear decay, which never reaches 0
    assert fall == pytest.approx([max(0.01, 1 - n / 300) for n in range(300)])
    assert min(factors) == 0.01


@given(st.integers(1, 2000), st.integers(1, 300), st.floats(0, 1))
def test_the_rate_stays_within_bounds(steps: int, warm_up: int, cool_down: float) -> None:
    assert all(0.01 <= rate(step, steps, warm_up, cool_down) <= 1 for step in range(0, steps, max(1, steps // 20)))


def a_model(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))


def a_loss(model: nn.Module, before: Callable[[int], None] = lambda step: None) -> Callable[[int], Tensor]:
    source = np.random.default_rng(5)
    x, y = source.normal(size=(50, 4)).astype(np.float32), source.normal(size=(50, 1)).astype(np.float32)

    def loss(step: int) -> Tensor:
        before(step)
        rows = choose(1, step, 6, len(x))
        # noise from torch's global generator, as the denoiser's loss draws it
        found = model(torch.from_numpy(x[rows]) + 0.1 * torch.randn(6, 4))
        return (found - torch.from_numpy(y[rows])).square().mean()

    return loss


def fitted(model: nn.Module, folder: Path, before: Callable[[int], None] = lambda step: None, **more: Any) -> nn.Module:
    settings: dict[str, Any] = {"steps": STEPS, "learning_rate": 0.05, "seed": 3, "warm_up": 3, **more}
    return fit("part", model, a_loss(model, before), folder=folder, **settings)


def same(one: nn.Module, other: nn.Module) -> bool:
    states = one.state_dict(), other.state_dict()
    assert set(states[0]) == set(states[1])
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("ema", [None, EMA])
def test_interrupted_and_resumed_is_uninterrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ema: float | None
) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "stopped").mkdir()
    uninterrupted = a_model()
    whole = fitted(uninterrupted, tmp_path / "whole", ema=ema)

    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)

    def killed(step: int) -> None:
        if step == STOP - 2:
            # no more checkpoints, so that the steps before the interruption must be done again
            monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", math.inf)
        if step == STOP:
            raise Interrupted

    with pytest.raises(Interrupted):
        fitted(a_model(), tmp_path / "stopped", killed, ema=ema)

    done: list[int] = []
    # with other initial weights, because all state is in the checkpoint
    stopped = a_model(seed=9)
    resumed = fitted(stopped, tmp_path / "stopped", done.append, ema=ema)
    assert done == list(range(STOP - 2, STEPS))
    assert same(resumed, whole)
    assert same(stopped, uninterrupted)
    assert not list(tmp_path.rglob("*.partial"))


def test_finished_training_is_not_repeated(tmp_path: Path) -> None:
    first = fitted(a_model(), tmp_path, ema=EMA)
    done: list[int] = []
    again = fitted(a_model(seed=9), tmp_path, done.append, ema=EMA)
    assert done == []
    assert same(first, again)


def test_training_learns_and_ends_in_evaluation_mode(tmp_path: Path) -> None:
    model, before = a_model(), a_model()
    trained = fitted(model, tmp_path, steps=60)
    assert trained is model
    assert not trained.training

    def error(net: nn.Module) -> float:
        with torch.no_grad():
            net = copy.deepcopy(net).train()
            return sum(float(a_loss(net)(step)) for step in range(20))

    assert error(trained) < error(before)


def test_the_average_follows_every_step(tmp_path: Path) -> None:
    model = a_model()
    seen: list[dict[str, Tensor]] = []

    def remember(_step: int) -> None:
        seen.append({name: value.detach().clone() for name, value in model.named_parameters()})

    averaged = fitted(model, tmp_path, remember, ema=EMA)
    remember(STEPS)
    after_each_step = seen[1:]
    assert len(after_each_step) == STEPS
    wanted = dict(after_each_step[0])
    for weights in after_each_step[1:]:
        wanted = {name: EMA * wanted[name] + (1 - EMA) * weights[name] for name in wanted}
    found = dict(averaged.named_parameters())
    assert averaged is not model
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value)
        assert not torch.equal(found[name], after_each_step[-1][name])


def test_progress_is_reported_after_each_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    progress: list[Progress] = []
    fitted(a_model(), tmp_path, progress=progress.append)
    assert [(one.name, one.step, one.steps) for one in progress] == [("part", n, STEPS) for n in range(1, STEPS + 1)]
    assert all(one.figures["loss"] > 0 for one in progress)
    assert capsys.readouterr() == ("", "")
