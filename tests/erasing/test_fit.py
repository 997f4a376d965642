"""Training: the teacher is left alone, every loss teaches, and an interruption changes nothing."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import save_file
from torch import Tensor
from transformers import get_cosine_with_hard_restarts_schedule_with_warmup

from semiperm.concept import Concept
from semiperm.erasing import anchors, authors, fit, gate
from semiperm.erasing.checkpoint import CheckpointError, beside
from semiperm.erasing.fit import erase, frozen
from semiperm.erasing.recipe import Recipe, RecipeError, load_recipe
from semiperm.erasing.run import Counted
from semiperm.membrane.files import load
from semiperm.membrane.membrane import Card, Membrane
from semiperm.membrane.stack import Stack, StackError
from semiperm.models.load import model_of
from tests.membrane.helpers import same_bits
from tests.tiny import WORDS, tiny_pipeline, tiny_xl_pipeline

SHORT = Recipe(steps=4, states=2, anchors=4, trajectories=2, trajectory_steps=3, refresh=3, checkpoint_every=2)
AUTHORS = load_recipe("authors", steps=3, trajectory_steps=30)


@pytest.fixture(autouse=True)
def few_words(monkeypatch: pytest.MonkeyPatch) -> None:
    # the lists of words are tried elsewhere; here they only cost time
    monkeypatch.setattr(anchors, "everyday", lambda: tuple(WORDS[-14:]))
    monkeypatch.setattr(gate, "OTHERS", 30)
    monkeypatch.setattr(gate, "MIXED", 10)


def model(kind: str = "conv") -> Any:
    if kind == "xl":
        return model_of(tiny_xl_pipeline())
    prediction: Any = "v_prediction" if kind == "v" else "epsilon"
    return model_of(tiny_pipeline(linear_projection=kind == "linear", prediction_type=prediction))


def snapshot(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def parts(pipeline: Any) -> list[torch.nn.Module]:
    return [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]


def changed(first: Membrane, second: Membrane) -> list[str]:
    """Layers whose action differs."""
    return [path for path in first.down if not torch.equal(first.delta(path), second.delta(path))]


# the teacher


@pytest.mark.parametrize("kind", ["conv", "linear", "v", "xl"])
def test_training_changes_the_membrane_and_nothing_of_the_model(kind: str) -> None:
    own = model(kind)
    modules = parts(own.pipeline)
    before = [snapshot(module) for module in modules]
    layers = dict(own.denoiser.named_modules())
    next(own.denoiser.parameters()).requires_grad_(False)
    flags = [weight.requires_grad for module in modules for weight in module.parameters()]
    own.denoiser.train()
    made = erase(own, "cat", SHORT, quiet=True)
    for module, state in zip(modules, before, strict=True):
        assert module.state_dict().keys() == state.keys()
        assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    assert [weight.requires_grad for module in modules for weight in module.parameters()] == flags
    assert all(weight.grad is None for module in modules for weight in module.parameters())
    assert all(module is layers[name] for name, module in own.denoiser.named_modules())
    assert own.denoiser.training

    start = erase(own, "cat", SHORT.model_copy(update={"steps": 0}), quiet=True)
    assert set(changed(start, made)) == set(own.erasable_layers())
    assert all(torch.isfinite(tensor).all() for side in (made.down, made.up) for tensor in side.values())
    assert made.card.fingerprint == own.fingerprint() and made.card.gate
    assert made.card.recipe["steps"] == 4 and made.card.effect["target_moved"] > 0


def test_flags_come_back_after_an_error() -> None:
    own = model()
    with pytest.raises(RuntimeError, match="on purpose"), frozen(own):
        assert not any(weight.requires_grad for weight in own.denoiser.parameters())
        raise RuntimeError("on purpose")
    assert all(weight.requires_grad for weight in own.denoiser.parameters())


def test_the_instant_membrane_touches_keys_and_values_of_cross_attention_only() -> None:
    own = model()
    made = erase(own, "cat", "instant", quiet=True)
    acting = {path for path in made.up if made.delta(path).any()}
    assert acting == {path for path in made.up if ".attn2.to_k" in path or ".attn2.to_v" in path}


# the losses


@pytest.mark.parametrize("term", [0, 1])
@pytest.mark.parametrize("kind", ["conv", "v", "xl"])
def test_every_loss_term_has_a_gradient_on_every_layer(monkeypatch: pytest.MonkeyPatch, kind: str, term: int) -> None:
    own = model(kind)
    monkeypatch.setattr(fit, "total_loss", lambda *losses: losses[term])
    found: list[bool] = []
    step = torch.optim.AdamW.step

    def look(optimizer: torch.optim.AdamW, closure: Any = None) -> Any:
        weights = optimizer.param_groups[0]["params"]
        # down and up take turns; a layer whose up is still 0 teaches its down nothing
        pairs = zip(weights[::2], weights[1::2], strict=True)
        found.append(all(up.grad.any() for _, up in pairs))
        return step(optimizer, closure)

    monkeypatch.setattr(torch.optim.AdamW, "step", look)
    erase(own, "cat", SHORT.model_copy(update={"steps": 2}), quiet=True)
    assert found == [True, True]


def erasing_distance(own: Any, made: Membrane, eta: float) -> float:
    """The paper's erasing loss at fixed noise, written without the functions that trained."""
    generator = torch.Generator().manual_seed(77)
    x, t = torch.randn((6, 4, 8, 8), generator=generator), torch.tensor([150, 300, 450, 600, 750, 900])
    target, empty = own.encode(["a cat"] * 6), own.encode([""] * 6)
    with torch.no_grad():
        bare_target, bare_empty = own.predict(x, t, target), own.predict(x, t, empty)
        stack = Stack(own.denoiser)
        stack.add("membrane", made)
        with stack:
            stack.set_permeability(torch.ones(1, 1))
            guarded = own.predict(x, t, target)
    return float((guarded - ((1 + eta) * bare_empty - eta * bare_target)).square().mean())


@pytest.mark.parametrize("kind", ["conv", "v"])
def test_training_lowers_the_erasing_loss(kind: str) -> None:
    own = model(kind)
    recipe = SHORT.model_copy(
        update={"steps": 15, "nothing": "", "anchor_weight": 0.0, "learning_rate": 0.05, "refresh": 15}
    )
    made = erase(own, "cat", recipe, quiet=True)
    none = Membrane.zero(own.erasable_layers(), made.card)
    assert erasing_distance(own, made, 1.0) < 0.7 * erasing_distance(own, none, 1.0)


def test_evaluations_are_counted_as_the_denoiser_sees_them() -> None:
    own = model()
    seen: list[int] = []
    hook = own.denoiser.register_forward_pre_hook(lambda _, arguments: seen.append(len(arguments[0])))
    made = erase(own, "cat", SHORT, quiet=True)
    hook.remove()
    assert made.card.effect["denoiser_evaluations"] == sum(seen)


def test_several_targets_share_one_membrane() -> None:
    own = model()
    made = erase(own, Concept(name="pets", targets=("cat", "dog"), surrogate="a tree"), SHORT, quiet=True)
    assert made.card.concept.targets == ("cat", "dog") and made.rank == 2 * SHORT.rank
    alone = erase(own, Concept(name="pets", targets=("cat",), surrogate="a tree"), SHORT, quiet=True)
    assert changed(made, alone)


def test_rank_precision_and_anchor_kind_are_obeyed() -> None:
    own = model()
    plain = erase(own, "cat", SHORT, quiet=True)
    for changes in ({"rank": 3}, {"precision": "bfloat16"}, {"anchor_kind": "gaussian"}):
        made = erase(own, "cat", SHORT.model_copy(update=changes), quiet=True)
        assert made.rank == changes.get("rank", SHORT.rank)
        assert changed(made, plain)
        assert all(tensor.dtype == torch.float32 for tensor in made.up.values())


def test_a_model_in_half_precision_can_be_erased_from() -> None:
    own = model()
    own.pipeline.to(torch.bfloat16)
    made = erase(own, "cat", SHORT, quiet=True)
    assert all(torch.isfinite(tensor).all() for tensor in made.up.values())


def test_a_malformed_recipe_is_refused() -> None:
    with pytest.raises(RecipeError):
        erase(model(), "cat", "no such recipe")


# seeds, interruptions


def test_a_seed_reproduces_a_membrane() -> None:
    own = model()
    first, again = (erase(own, "cat", SHORT, quiet=True) for _ in range(2))
    other = erase(own, "cat", SHORT.model_copy(update={"seed": 1}), quiet=True)
    assert same_bits(first, again) and untimed(first) == untimed(again)
    assert not same_bits(first, other)


def interrupt(at: int) -> Any:
    def on_step(step: int, _: Membrane) -> None:
        if step == at:
            os.kill(os.getpid(), signal.SIGINT)

    return on_step


def untimed(membrane: Membrane) -> Card:
    """The card without how long the making took, which no seed decides."""
    effect = {name: value for name, value in membrane.card.effect.items() if not name.startswith("seconds")}
    return membrane.card.model_copy(update={"effect": effect})


# at 2 the next step uses the old trajectories, at 3 it runs new ones
@pytest.mark.parametrize(("kind", "at", "every"), [("conv", 2, 2), ("xl", 3, 3), ("conv", 1, 1)])
def test_interrupted_and_resumed_equals_uninterrupted(tmp_path: Path, kind: str, at: int, every: int) -> None:
    own = model(kind)
    recipe = SHORT.model_copy(update={"steps": 5, "checkpoint_every": every})
    out = tmp_path / "cat.safetensors"
    handler = signal.getsignal(signal.SIGINT)
    whole = erase(own, "cat", recipe, quiet=True)
    with pytest.raises(KeyboardInterrupt):
        erase(own, "cat", recipe, out=out, quiet=True, on_step=interrupt(at))
    assert signal.getsignal(signal.SIGINT) is handler
    assert beside(out).is_file() and all(weight.requires_grad for weight in own.denoiser.parameters())
    resumed = erase(own, "cat", recipe, out=out, resume=True, quiet=True)
    assert same_bits(whole, resumed)
    assert untimed(whole) == untimed(resumed) == untimed(load(out))
    assert list(tmp_path.iterdir()) == [out], "the checkpoint goes when training is done"


def test_the_authors_loop_resumes_as_well(tmp_path: Path) -> None:
    own = model()
    recipe = AUTHORS.model_copy(update={"checkpoint_every": 2, "trajectory_steps": 4})
    out = tmp_path / "cat.safetensors"
    with pytest.raises(KeyboardInterrupt):
        erase(own, "cat", recipe, out=out, quiet=True, on_step=interrupt(2))
    assert same_bits(erase(own, "cat", recipe, quiet=True), erase(own, "cat", recipe, out=out, resume=True, quiet=True))


def test_on_step_sees_the_membrane_as_it_is() -> None:
    own = model()
    seen: dict[int, Membrane] = {}
    made = erase(own, "cat", SHORT, quiet=True, on_step=seen.__setitem__)
    assert list(seen) == [2]
    assert changed(seen[2], made)


def test_a_checkpoint_of_another_erasure_is_refused(tmp_path: Path) -> None:
    own = model()
    out = tmp_path / "cat.safetensors"
    with pytest.raises(CheckpointError, match="nothing to resume"):
        erase(own, "cat", SHORT, out=out, resume=True, quiet=True)
    with pytest.raises(CheckpointError, match="say where"):
        erase(own, "cat", SHORT, resume=True, quiet=True)
    with pytest.raises(KeyboardInterrupt):
        erase(own, "cat", SHORT, out=out, quiet=True, on_step=interrupt(2))
    kept = beside(out).read_bytes()
    with pytest.raises(CheckpointError, match="another concept"):
        erase(own, "dog", SHORT, out=out, resume=True, quiet=True)
    with pytest.raises(CheckpointError, match="another recipe"):
        erase(own, "cat", SHORT.model_copy(update={"eta": 2.0}), out=out, resume=True, quiet=True)
    own.name, name = "another model", own.name
    with pytest.raises(CheckpointError, match="another base model"):
        erase(own, "cat", SHORT, out=out, resume=True, quiet=True)
    own.name = name
    assert beside(out).read_bytes() == kept, "a refusal must not cost the work"
    for damaged in (kept[: len(kept) // 2], b"", b"no safetensors at all"):
        beside(out).write_bytes(damaged)
        with pytest.raises(CheckpointError, match="damaged"):
            erase(own, "cat", SHORT, out=out, resume=True, quiet=True)
    for run in (None, "{}", "3"):
        save_file({"x": torch.zeros(1)}, beside(out), None if run is None else {"run": run})
        with pytest.raises(CheckpointError):
            erase(own, "cat", SHORT, out=out, resume=True, quiet=True)


def test_nothing_is_erased_beside_other_adapters() -> None:
    own = model()
    own.denoiser.add_adapter(LoraConfig(r=1, target_modules=["to_q"]))
    with pytest.raises(StackError, match=r"PEFT's \(LoRA\).*to_q"):
        erase(own, "cat", "instant", quiet=True)


# little memory


@pytest.mark.parametrize("kind", ["conv", "xl"])
def test_activations_that_are_computed_again_change_nothing(kind: str) -> None:
    kept = erase(model(kind), "cat", SHORT, quiet=True)
    own = model(kind)
    own.denoiser.enable_gradient_checkpointing()
    again = erase(own.pipeline, "cat", SHORT, quiet=True)
    for path in kept.down:
        torch.testing.assert_close(again.down[path], kept.down[path], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(again.up[path], kept.up[path], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("at_once", [1, 3])
def test_samples_in_parts_teach_what_they_teach_together(at_once: int) -> None:
    recipe = SHORT.model_copy(update={"learning_rate": 0.05})
    whole = erase(model(), "cat", recipe, quiet=True)
    calls: list[int] = []
    parted = model()
    parted.denoiser.register_forward_pre_hook(lambda _, args: calls.append(len(args[0])))
    made = erase(parted, "cat", recipe.model_copy(update={"at_once": at_once}), quiet=True)
    # two steps of two guided trajectories; 8 samples without a gradient, then 6 with one
    assert calls[:2] == [4, 4]
    assert calls[2:][: 14 if at_once == 1 else 5] == ([1] * 14 if at_once == 1 else [3, 3, 2, 3, 3])
    for path in whole.up:
        torch.testing.assert_close(made.delta(path), whole.delta(path), atol=2e-4, rtol=1e-2)


def test_a_base_in_half_precision_trains_a_membrane_in_full() -> None:
    own = model()
    own.pipeline.to(torch.bfloat16)
    before = snapshot(own.denoiser)
    made = erase(own, "cat", SHORT, quiet=True)
    assert {tensor.dtype for side in (made.down, made.up) for tensor in side.values()} == {torch.float32}
    assert all(torch.equal(value, before[name]) for name, value in own.denoiser.state_dict().items())
    start = erase(own, "cat", SHORT.model_copy(update={"steps": 0}), quiet=True)
    assert changed(start, made)


# the authors' loop


@pytest.mark.parametrize("seed", range(3))
def test_the_authors_ask_33_to_42_steps_too_noisy(seed: int) -> None:
    own = model()
    recipe = AUTHORS.model_copy(update={"steps": 1, "seed": seed})
    asked: list[tuple[int, int]] = []
    hook = own.denoiser.register_forward_pre_hook(
        lambda _, arguments: asked.append((len(arguments[0]), int(arguments[1].flatten()[0])))
    )
    erase(own, "cat", recipe, quiet=True)
    hook.remove()
    # the teacher's and the student's call end the step; the self-check's five calls come after it
    depth = len(asked) - 2 - 5
    assert asked[:depth] == [(2, 957 + 33 - 33 * (k + 1)) for k in range(depth)]
    (bare, t), (guarded, t_again) = asked[depth : depth + 2]
    assert (bare, guarded) == (recipe.anchors + 2, recipe.anchors + 1)
    true = 957 - 33 * depth
    assert t == t_again == 999 - int(1000 * depth / 30)
    assert 33 <= t - true <= 42


def test_the_offsets_of_all_depths() -> None:
    offsets = [authors.asked_timestep(k, 30) - (957 - 33 * k) for k in range(1, 30)]
    assert (min(offsets), max(offsets)) == (33, 42)


def test_half_of_the_gaussian_anchors_are_the_empty_prompt() -> None:
    generator = torch.Generator().manual_seed(0)
    target, empty = torch.randn(7, 16, generator=generator), torch.randn(7, 16, generator=generator)
    found = authors.gaussian_anchors(target, empty, 4, generator)
    assert found.shape == (4, 7, 16)
    assert [torch.equal(row, empty) for row in found] == [True, False, True, False]
    for row in found[1::2]:
        assert 0.8 <= float(row.norm() / target.norm()) <= 1.2
        # the flaw: in many dimensions a Gaussian vector is nothing like the target
        assert abs(float(torch.cosine_similarity(row.flatten(), target.flatten(), dim=0))) < 0.5


@pytest.mark.parametrize("steps", [3000, 600, 12])
def test_the_authors_learning_rate_is_transformers_own(steps: int) -> None:
    recipe = load_recipe("authors", steps=steps)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = get_cosine_with_hard_restarts_schedule_with_warmup(optimizer, min(500, steps // 6), steps, 3)
    for step in range(steps):
        assert fit.factor(recipe, step) == pytest.approx(schedule.get_last_lr()[0], abs=1e-6)
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize("kind", ["v", "xl"])
@pytest.mark.parametrize("anchor_kind", ["gaussian", "text"])
def test_the_authors_loop_trains_every_kind_of_model(kind: str, anchor_kind: str) -> None:
    own = model(kind)
    recipe = AUTHORS.model_copy(update={"trajectory_steps": 3, "anchor_kind": anchor_kind})
    made = erase(own, "cat", recipe, quiet=True)
    assert all(made.delta(path).any() for path in made.up)


def test_our_learning_rate_falls_in_a_line_to_nothing() -> None:
    recipe = Recipe(steps=10)
    assert [fit.factor(recipe, step) for step in range(10)] == pytest.approx([1 - 0.1 * step for step in range(10)])


def test_counted_counts_samples_not_calls() -> None:
    own = model()
    predict = Counted(own)
    with torch.no_grad():
        for count in (1, 3):
            predict(torch.zeros(count, 4, 8, 8), torch.full((count,), 5), own.encode(["a cat"] * count))
    assert predict.evaluations == 4
