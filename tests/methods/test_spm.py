"""Our method: the bare model stays as it is, every loss trains, every setting counts, and resuming changes no bit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from semiperm.api import erase
from semiperm.concept import Concept
from semiperm.erasure import Erasure
from semiperm.errors import CheckpointError, MethodError, SettingsError, Stopped
from semiperm.files.safetensors import load
from semiperm.membrane import Membrane
from semiperm.methods import calibrate, trajectories
from semiperm.methods.spm import spm
from semiperm.methods.spm.settings import SpmSettings
from semiperm.methods.spm.spm import frozen
from semiperm.methods.training import Progress, beside
from semiperm.models.load import model_of
from semiperm.stack import Stack
from tests.helpers import same_bits
from tests.methods.few_words import use_few_words
from tests.tiny import tiny_pipeline, tiny_sd3_pipeline, tiny_xl_pipeline

SHORT = SpmSettings(steps=4, states=2, anchors=4, trajectories=2, trajectory_steps=3, refresh=3, checkpoint_every=2)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    use_few_words(monkeypatch)
    # A test that runs over midnight would have two dates.
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")


def model(kind: str = "conv") -> Any:
    if kind == "xl":
        return model_of(tiny_xl_pipeline())
    prediction: Any = "v_prediction" if kind == "v" else "epsilon"
    return model_of(tiny_pipeline(linear_projection=kind == "linear", prediction_type=prediction))


def make(own: Any, concept: Concept | str = "cat", settings: SpmSettings = SHORT, **arguments: Any) -> Membrane:
    made = erase(own, concept, "spm", settings, **arguments)
    assert isinstance(made, Membrane)
    return made


def changed_by(**changes: Any) -> SpmSettings:
    return SHORT.model_copy(update=changes)


def snapshot(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def parts(pipeline: Any) -> list[torch.nn.Module]:
    return [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]


def changed(first: Membrane, second: Membrane) -> list[str]:
    """Layers whose action differs."""
    return [path for path in first.down if not torch.equal(first.delta(path), second.delta(path))]


# the bare model


@pytest.mark.parametrize("kind", ["conv", "linear", "v", "xl"])
def test_training_changes_the_membrane_and_nothing_of_the_model(kind: str) -> None:
    own = model(kind)
    modules = parts(own.pipeline)
    before = [snapshot(module) for module in modules]
    layers = dict(own.denoiser.named_modules())
    next(own.denoiser.parameters()).requires_grad_(False)
    flags = [weight.requires_grad for module in modules for weight in module.parameters()]
    own.denoiser.train()
    made = make(own)
    for module, state in zip(modules, before, strict=True):
        assert module.state_dict().keys() == state.keys()
        assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    assert [weight.requires_grad for module in modules for weight in module.parameters()] == flags
    assert all(weight.grad is None for module in modules for weight in module.parameters())
    assert all(module is layers[name] for name, module in own.denoiser.named_modules())
    assert own.denoiser.training

    start = make(own, settings=changed_by(steps=0))
    assert set(changed(start, made)) == set(own.erasable_layers())
    assert all(torch.isfinite(tensor).all() for side in (made.down, made.up) for tensor in side.values())
    assert made.card.fingerprint == own.fingerprint() and made.card.gate
    assert made.card.method == "spm" and made.card.settings["steps"] == 4
    assert made.card.effect["target_moved"] > 0


def test_flags_come_back_after_an_error() -> None:
    own = model()
    with pytest.raises(RuntimeError, match="on purpose"), frozen(own):
        assert not any(weight.requires_grad for weight in own.denoiser.parameters())
        raise RuntimeError("on purpose")
    assert all(weight.requires_grad for weight in own.denoiser.parameters())


def test_without_steps_the_membrane_changes_keys_and_values_of_cross_attention_only() -> None:
    own = model()
    made = erase(own, "cat", settings={"steps": 0})
    assert isinstance(made, Membrane)
    acting = {path for path in made.up if made.delta(path).any()}
    assert acting == {path for path in made.up if ".attn2.to_k" in path or ".attn2.to_v" in path}
    assert made.card.method == "spm" and made.card.effect["target_moved"] > 0


def test_without_steps_a_model_without_a_closed_form_is_refused() -> None:
    with pytest.raises(MethodError, match="tiny has no closed form.*set steps to 1 or more"):
        make(model_of(tiny_sd3_pipeline(), "tiny"), settings=changed_by(steps=0))


def test_erasing_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    own = model()
    capfd.readouterr()
    make(own, out=tmp_path / "cat.safetensors")
    assert capfd.readouterr() == ("", "")


# the losses


@pytest.mark.parametrize("term", [0, 1])
@pytest.mark.parametrize("kind", ["conv", "v", "xl"])
def test_every_loss_term_has_a_gradient_on_every_layer(monkeypatch: pytest.MonkeyPatch, kind: str, term: int) -> None:
    own = model(kind)
    monkeypatch.setattr(spm, "total_loss", lambda *losses: losses[term])
    found: list[bool] = []
    step = torch.optim.AdamW.step

    def look(optimizer: torch.optim.AdamW, closure: Any = None) -> Any:
        weights = optimizer.param_groups[0]["params"]
        # Down and up alternate; while a layer's up is 0, its down has no gradient.
        pairs = zip(weights[::2], weights[1::2], strict=True)
        found.append(all(up.grad.any() for _, up in pairs))
        return step(optimizer, closure)

    monkeypatch.setattr(torch.optim.AdamW, "step", look)
    make(own, settings=changed_by(steps=2))
    assert found == [True, True]


def erasing_distance(own: Any, made: Membrane, eta: float = 1.0, prompt: str = "a cat") -> float:
    """The paper's erasing loss at fixed noise, written without the functions that trained."""
    generator = torch.Generator().manual_seed(77)
    x, t = torch.randn((6, 4, 8, 8), generator=generator), torch.tensor([150, 300, 450, 600, 750, 900])
    target, empty = own.encode([prompt] * 6), own.encode([""] * 6)
    with torch.no_grad():
        bare_target, bare_empty = own.predict(x, t, target), own.predict(x, t, empty)
        stack = Stack(own.denoiser)
        stack.add("membrane", made)
        with stack:
            stack.set_permeability(torch.ones(1, 1))
            guarded = own.predict(x, t, target)
    return float((guarded - ((1 + eta) * bare_empty - eta * bare_target)).square().mean())


# Five seeds of both kinds leave between 10 and 48 % of the distance.
LONGER = changed_by(steps=60, nothing="", anchor_weight=0.0, learning_rate=0.01, refresh=10)


@pytest.mark.parametrize("kind", ["conv", "v"])
def test_training_lowers_the_erasing_loss(kind: str) -> None:
    own = model(kind)
    made = make(own, settings=LONGER)
    none = Membrane.zero(own.erasable_layers(), made.card)
    assert erasing_distance(own, made) < 0.7 * erasing_distance(own, none)


def left_by_the_closed_form(own: Any, made: Membrane, prompt: str, eta: float) -> float:
    """The share of a target's wanted change in keys and values that a membrane leaves undone."""
    e, s = own.encode([prompt, "a tree"]).hidden_BTC[:, 2:].double()
    wanted = -(1 + eta) * (e - s)
    left = whole = 0.0
    for path, layer in own.erasable_layers().items():
        if path.endswith(("attn2.to_k", "attn2.to_v")):
            full = wanted @ layer.weight.detach().double().T
            left += float((e @ made.delta(path).double().T - full).square().sum())
            whole += float(full.square().sum())
    return left / whole


def test_several_targets_share_one_membrane_and_each_of_them_is_moved() -> None:
    own = model()
    membranes = {
        second: make(own, Concept(name="pets", targets=("cat", second), surrogate="a tree"), changed_by(steps=0))
        for second in ("dog", "house")
    }
    assert {made.rank for made in membranes.values()} == {2 * SHORT.rank}
    assert membranes["dog"].card.concept.targets == ("cat", "dog")
    for second, other in (("dog", "house"), ("house", "dog")):
        left = [
            left_by_the_closed_form(own, membranes[name], f"a {second}", SHORT.instant_eta) for name in (second, other)
        ]
        assert left[0] < left[1] - 0.02, second


def test_training_samples_trajectories_of_every_target(monkeypatch: pytest.MonkeyPatch) -> None:
    own = model()
    seen: list[tuple[int, ...]] = []
    sample = trajectories.sample_states

    def look(model: Any, predict: Any, target: Any, prompts: Tensor, **arguments: Any) -> Any:
        seen.extend(target.select(prompts).ids)
        return sample(model, predict, target, prompts, **arguments)

    monkeypatch.setattr(trajectories, "sample_states", look)
    concept = Concept(name="pets", targets=("fox", "puppy", "tree"))
    make(own, concept, changed_by(steps=2, trajectories=24))
    (fox,), (puppy,), (tree,) = own.tokens(concept.targets)
    assert len(seen) == 24
    for own_id in (fox, puppy, tree):
        assert 4 <= sum(own_id in ids for ids in seen) <= 16


def test_evaluations_are_counted_as_the_denoiser_sees_them() -> None:
    own = model()
    seen: list[int] = []
    hook = own.denoiser.register_forward_pre_hook(lambda _, arguments: seen.append(len(arguments[0])))
    made = make(own)
    hook.remove()
    assert made.card.effect["denoiser_evaluations"] == sum(seen)


# the settings


# Another value for every setting that decides what the membrane becomes.
OTHER: dict[str, Any] = {
    "seed": 1, "eta": 2.0, "nothing": "a plain sky", "anchor_weight": 3.0, "rank": 3, "instant_eta": 1.0,
    "instant_anchor_weight": 2.0, "instant_ridge": 0.1, "steps": 3, "states": 3, "anchors": 5, "neighbours": 1.0,
    "learning_rate": 0.01, "trajectories": 3, "trajectory_steps": 4, "guidance": 6.0, "refresh": 1,
    "more_anchors": ("a quick brown fox",), "precision": "bfloat16",
}  # fmt: skip
# These decide how it is computed; their tests are below.
ALIKE = {"at_once", "checkpoint_every"}


def test_every_setting_is_obeyed() -> None:
    assert OTHER.keys() | ALIKE == SpmSettings.model_fields.keys()
    own = model()
    plain = make(own)
    for name, value in OTHER.items():
        made = make(own, settings=changed_by(**{name: value}))
        assert made.card.settings[name] == (list(value) if isinstance(value, tuple) else value)
        assert made.rank == (3 if name == "rank" else SHORT.rank)
        assert changed(made, plain), f"{name} = {value} changes nothing"
        assert all(tensor.dtype == torch.float32 for side in (made.down, made.up) for tensor in side.values())


def test_precision_is_that_of_the_denoisers_arithmetic() -> None:
    own = model()
    seen: set[torch.dtype] = set()
    layer = next(iter(own.erasable_layers().values()))
    layer.register_forward_hook(lambda _, args, output: seen.add(output.dtype))
    make(own, settings=changed_by(precision="bfloat16"))
    assert seen == {torch.bfloat16}


@pytest.mark.parametrize("phrases", [("cat",), ("cat", "dog", "fox")])
def test_the_learning_rate_falls_linearly_to_nothing_and_phrases_share_it(
    monkeypatch: pytest.MonkeyPatch, phrases: tuple[str, ...]
) -> None:
    rates: list[float] = []
    step = torch.optim.AdamW.step

    def look(optimizer: torch.optim.AdamW, closure: Any = None) -> Any:
        rates.append(optimizer.param_groups[0]["lr"])
        return step(optimizer, closure)

    monkeypatch.setattr(torch.optim.AdamW, "step", look)
    make(model(), Concept(name="pets", targets=phrases), changed_by(learning_rate=0.06))
    first = 0.06 / len(phrases)
    assert rates == pytest.approx([first, first * 3 / 4, first / 2, first / 4])


def test_malformed_settings_and_unknown_methods_are_refused() -> None:
    with pytest.raises(SettingsError, match="Did you mean 'steps'"):
        erase(model(), "cat", settings={"stpes": 3})
    with pytest.raises(MethodError, match="Did you mean 'spm'"):
        erase(model(), "cat", "spn")


def test_a_model_in_half_precision_can_be_erased_from() -> None:
    own = model()
    own.pipeline.to(torch.bfloat16)
    before = snapshot(own.denoiser)
    made = make(own)
    assert {tensor.dtype for side in (made.down, made.up) for tensor in side.values()} == {torch.float32}
    assert all(torch.isfinite(tensor).all() for side in (made.down, made.up) for tensor in side.values())
    assert all(torch.equal(value, before[name]) for name, value in own.denoiser.state_dict().items())
    assert changed(make(own, settings=changed_by(steps=0)), made)


# seeds, stopping, resuming


def test_equal_seeds_give_equal_membranes_and_equal_cards() -> None:
    own = model()
    first, again = make(own), make(own)
    other = make(own, settings=changed_by(seed=1))
    assert same_bits(first, again) and first.card == again.card
    assert not same_bits(first, other) and other.card.seed == 1


def stopping_at(step: int) -> dict[str, Any]:
    """Arguments for `erase` that stop it after a step."""
    done: list[int] = [0]

    def progress(found: Progress) -> None:
        done[0] = found.step

    return {"progress": progress, "stop": lambda: done[0] >= step}


# After 2 steps the next one reuses its trajectories, after 3 it samples new ones; 3 is no checkpoint of its own.
@pytest.mark.parametrize(("kind", "at", "every"), [("conv", 2, 2), ("xl", 3, 2), ("conv", 1, 1)])
def test_stopped_and_resumed_equals_uninterrupted(tmp_path: Path, kind: str, at: int, every: int) -> None:
    own = model(kind)
    settings = changed_by(steps=5, checkpoint_every=every)
    out = tmp_path / "cat.safetensors"
    whole = make(own, settings=settings)
    with pytest.raises(Stopped, match=f"cat was stopped after {at} of 5 steps"):
        make(own, settings=settings, out=out, **stopping_at(at))
    assert list(tmp_path.iterdir()) == [beside(out)]
    assert all(weight.requires_grad for weight in own.denoiser.parameters()), "the model is as it was"
    resumed = make(own, settings=settings, out=out, resume=True)
    written = load(out)
    assert isinstance(written, Membrane)
    assert same_bits(whole, resumed) and same_bits(whole, written)
    assert whole.card == resumed.card == written.card
    assert list(tmp_path.iterdir()) == [out], "the checkpoint goes when training is done"


def test_a_resumed_run_may_have_another_number_of_steps(tmp_path: Path) -> None:
    own, out = model(), tmp_path / "cat.safetensors"
    with pytest.raises(Stopped):
        make(own, out=out, **stopping_at(3))
    kept = beside(out).read_bytes()
    with pytest.raises(CheckpointError, match="has 3 steps done, but this training has only 2"):
        make(own, settings=changed_by(steps=2), out=out, resume=True)
    assert beside(out).read_bytes() == kept
    seen: list[int] = []
    longer = changed_by(steps=6, checkpoint_every=5)
    made = make(own, settings=longer, out=out, resume=True, progress=lambda found: seen.append(found.step))
    assert seen == [4, 5, 6] and made.card.settings["steps"] == 6


def test_progress_names_the_concept_the_losses_and_the_cost() -> None:
    seen: list[Progress] = []
    own = model()
    make(own, progress=seen.append)
    assert [(found.name, found.step, found.steps) for found in seen] == [("cat", done, 4) for done in (1, 2, 3, 4)]
    assert all(found.figures.keys() == {"erasing", "anchors", "evaluations"} for found in seen)
    counts = [found.figures["evaluations"] for found in seen]
    # 8 samples of a batch of trajectories at steps 1 and 4; in each step 8 samples without gradients and 6 with them.
    assert counts == [8 + 14, 8 + 28, 8 + 42, 16 + 56]


def test_a_checkpoint_shows_the_membrane_as_it_is() -> None:
    own = model()
    seen: dict[int, Erasure] = {}
    made = make(own, on_checkpoint=seen.__setitem__)
    assert list(seen) == [2]
    early = seen[2]
    assert isinstance(early, Membrane) and early.card.gate == made.card.gate
    assert changed(early, made)
    assert changed(early, make(own, settings=changed_by(steps=0)))


def test_a_checkpoint_of_another_erasure_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = model()
    out = tmp_path / "cat.safetensors"
    with pytest.raises(CheckpointError, match="nothing to resume"):
        make(own, out=out, resume=True)
    with pytest.raises(CheckpointError, match="name the output file"):
        make(own, resume=True)
    with pytest.raises(Stopped):
        make(own, out=out, **stopping_at(2))
    kept = beside(out).read_bytes()
    with pytest.raises(CheckpointError, match="another concept: it has name = 'cat', not 'dog'"):
        make(own, "dog", out=out, resume=True)
    with pytest.raises(CheckpointError, match=r"another settings: it has eta = 1\.0, not 2\.0\."):
        make(own, settings=changed_by(eta=2.0), out=out, resume=True)
    with pytest.raises(CheckpointError, match="another method: it has 'spm', not 'spm-published'"):
        erase(own, "cat", "spm-published", {"trajectory_steps": 2}, out=out, resume=True)
    monkeypatch.setattr(own, "name", "another model")
    with pytest.raises(CheckpointError, match="another base model"):
        make(own, out=out, resume=True)
    monkeypatch.undo()
    assert beside(out).read_bytes() == kept, "a refusal must not cost the work"


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    own = model()
    out = tmp_path / "cat.safetensors"
    with pytest.raises(Stopped):
        make(own, out=out, **stopping_at(2))
    kept = beside(out).read_bytes()
    flipped = bytearray(kept)
    flipped[-len(kept) // 3] ^= 1
    for damaged in (kept[: len(kept) // 2], b"", b"no safetensors at all", flipped):
        beside(out).write_bytes(damaged)
        with pytest.raises(CheckpointError, match="damaged"):
            make(own, out=out, resume=True)
        assert beside(out).read_bytes() == damaged
    save_file({"x": torch.zeros(1)}, beside(out))
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        make(own, out=out, resume=True)


# little memory


@pytest.mark.parametrize("kind", ["conv", "xl"])
def test_activations_that_are_computed_again_change_nothing(kind: str) -> None:
    kept = make(model(kind))
    own = model(kind)
    own.denoiser.enable_gradient_checkpointing()
    again = make(own.pipeline)
    for path in kept.down:
        torch.testing.assert_close(again.down[path], kept.down[path], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(again.up[path], kept.up[path], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("at_once", [1, 3])
def test_samples_in_parts_train_as_they_do_together(at_once: int) -> None:
    settings = changed_by(learning_rate=0.05)
    whole = make(model(), settings=settings)
    calls: list[int] = []
    parted = model()
    parted.denoiser.register_forward_pre_hook(lambda _, args: calls.append(len(args[0])))
    made = make(parted, settings=settings.model_copy(update={"at_once": at_once}))
    # Two steps of two guided trajectories; 8 samples without gradients, then 6 with gradients.
    assert calls[:2] == [4, 4]
    assert calls[2:][: 14 if at_once == 1 else 5] == ([1] * 14 if at_once == 1 else [3, 3, 2, 3, 3])
    for path in whole.up:
        torch.testing.assert_close(made.delta(path), whole.delta(path), atol=2e-4, rtol=1e-2)


def test_the_gate_is_the_one_that_is_fitted_without_training() -> None:
    own = model()
    assert make(own).card.gate == calibrate.fit_gate(Concept(name="cat"), own)
