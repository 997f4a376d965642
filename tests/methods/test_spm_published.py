"""The published loop: it behaves as the published code does where that differs from the paper."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import get_cosine_with_hard_restarts_schedule_with_warmup

from semiperm.api import erase
from semiperm.concept import Concept
from semiperm.errors import Stopped
from semiperm.files.safetensors import load
from semiperm.membrane import Membrane
from semiperm.methods.spm_published import PublishedSettings, asked_timestep, factor, gaussian_anchors
from semiperm.methods.training import Progress
from semiperm.models.load import model_of
from tests.helpers import same_bits
from tests.methods.few_words import use_few_words
from tests.tiny import tiny_flux_pipeline, tiny_pipeline, tiny_sd3_pipeline, tiny_xl_pipeline

SHORT = PublishedSettings(steps=3, trajectory_steps=3)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    use_few_words(monkeypatch)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")


def make(own: Any, concept: Concept | str = "cat", settings: PublishedSettings = SHORT, **arguments: Any) -> Membrane:
    made = erase(own, concept, "spm-published", settings, **arguments)
    assert isinstance(made, Membrane)
    return made


@pytest.mark.parametrize("seed", range(3))
def test_the_denoiser_is_given_timesteps_that_are_33_to_42_steps_too_noisy(seed: int) -> None:
    own = model_of(tiny_pipeline())
    settings = PublishedSettings(steps=1, seed=seed)
    seen: list[tuple[int, int]] = []
    hook = own.denoiser.register_forward_pre_hook(
        lambda _, arguments: seen.append((len(arguments[0]), int(arguments[1].flatten()[0])))
    )
    make(own, settings=settings)
    hook.remove()
    # One bare and one guarded call end the step; the five calls of the self-check follow.
    depth = len(seen) - 2 - 5
    assert seen[:depth] == [(2, 957 + 33 - 33 * (k + 1)) for k in range(depth)]
    (bare, t), (guarded, t_again) = seen[depth : depth + 2]
    assert (bare, guarded) == (settings.anchors + 2, settings.anchors + 1)
    true = 957 - 33 * depth
    assert t == t_again == 999 - int(1000 * depth / 30)
    assert 33 <= t - true <= 42


def test_the_timestep_is_33_to_42_steps_too_noisy_at_every_depth() -> None:
    offsets = [asked_timestep(k, 30) - (957 - 33 * k) for k in range(1, 30)]
    assert (min(offsets), max(offsets)) == (33, 42)


def test_half_of_the_gaussian_anchors_are_the_empty_prompt() -> None:
    generator = torch.Generator().manual_seed(0)
    target, empty = torch.randn(7, 16, generator=generator), torch.randn(7, 16, generator=generator)
    found = gaussian_anchors(target, empty, 4, generator)
    assert found.shape == (4, 7, 16)
    assert [torch.equal(row, empty) for row in found] == [True, False, True, False]
    for row in found[1::2]:
        assert 0.8 <= float(row.norm() / target.norm()) <= 1.2
        # The flaw: in many dimensions a Gaussian vector is nearly orthogonal to the target.
        assert abs(float(torch.cosine_similarity(row.flatten(), target.flatten(), dim=0))) < 0.5


@pytest.mark.parametrize("steps", [3000, 600, 12])
def test_the_learning_rate_is_that_of_transformers_schedule(steps: int) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = get_cosine_with_hard_restarts_schedule_with_warmup(optimizer, min(500, steps // 6), steps, 3)
    for step in range(steps):
        assert factor(step, steps) == pytest.approx(schedule.get_last_lr()[0], abs=1e-6)
        optimizer.step()
        schedule.step()


def test_the_optimizer_steps_at_that_learning_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    step = torch.optim.AdamW.step

    def look(optimizer: torch.optim.AdamW, closure: Any = None) -> Any:
        rates.append(optimizer.param_groups[0]["lr"])
        return step(optimizer, closure)

    monkeypatch.setattr(torch.optim.AdamW, "step", look)
    make(model_of(tiny_pipeline()), settings=SHORT.model_copy(update={"steps": 12, "learning_rate": 1e-3}))
    assert rates == pytest.approx([1e-3 * factor(number, 12) for number in range(12)])
    assert rates[0] == 0, "the warm-up begins at nothing"


@pytest.mark.parametrize("kind", ["v", "xl"])
def test_every_kind_of_model_is_trained_and_stays_as_it_is(kind: str) -> None:
    own = model_of(tiny_xl_pipeline() if kind == "xl" else tiny_pipeline(prediction_type="v_prediction"))
    before: dict[str, Tensor] = {name: value.clone() for name, value in own.denoiser.state_dict().items()}
    made = make(own)
    assert all(made.delta(path).any() for path in made.up)
    assert all(torch.equal(value, before[name]) for name, value in own.denoiser.state_dict().items())
    assert made.card.method == "spm-published" and made.card.settings["steps"] == 3
    assert made.card.gate and made.card.effect["denoiser_evaluations"] > 0


# Another value for every setting that decides what the membrane becomes.
OTHER: dict[str, Any] = {
    "seed": 1, "eta": 2.0, "anchor_weight": 3.0, "rank": 2, "steps": 4, "anchors": 3, "learning_rate": 1e-3,
    "trajectory_steps": 4, "guidance": 6.0,
}  # fmt: skip


def test_every_setting_is_obeyed() -> None:
    assert OTHER.keys() | {"checkpoint_every"} == PublishedSettings.model_fields.keys()
    own = model_of(tiny_pipeline())
    plain = make(own)
    for name, value in OTHER.items():
        made = make(own, settings=SHORT.model_copy(update={name: value}))
        assert made.card.settings[name] == value and made.rank == (value if name == "rank" else 1)
        assert any(not torch.equal(made.delta(path), plain.delta(path)) for path in plain.up), name


def test_only_the_first_target_is_learned() -> None:
    own = model_of(tiny_pipeline())
    one, two = (make(own, Concept(name="pets", targets=targets)) for targets in (("cat",), ("cat", "dog")))
    assert same_bits(one, two) and two.rank == 1
    assert not same_bits(one, make(own, Concept(name="pets", targets=("dog", "cat"))))
    assert one.card.gate and two.card.gate and one.card.gate.phrases != two.card.gate.phrases, "the gate knows both"


@pytest.mark.parametrize("at", [1, 2])
def test_stopped_and_resumed_equals_uninterrupted(tmp_path: Path, at: int) -> None:
    own = model_of(tiny_pipeline())
    settings = SHORT.model_copy(update={"checkpoint_every": 2, "trajectory_steps": 4})
    out = tmp_path / "cat.safetensors"
    done: list[Progress] = []
    with pytest.raises(Stopped):
        make(own, settings=settings, out=out, progress=done.append, stop=lambda: done[-1].step == at)
    whole, resumed = make(own, settings=settings), make(own, settings=settings, out=out, resume=True)
    assert same_bits(whole, resumed) and whole.card == resumed.card == load(out).card
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("family", [tiny_sd3_pipeline, tiny_flux_pipeline])
def test_the_published_loop_runs_on_flow_transformers(family: Any) -> None:
    made = make(model_of(family()), settings=PublishedSettings(steps=2, trajectory_steps=3))
    assert all(torch.isfinite(up).all() for up in made.up.values()) and any(up.any() for up in made.up.values())
