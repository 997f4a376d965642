"""The training loop alone, on a small stochastic quadratic problem.

Stopping and resuming changes no bit; a damaged or foreign checkpoint is refused and changes nothing.
"""

import json
import signal
import struct
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from semiperm.concept import Concept
from semiperm.errors import CheckpointError, MembraneFileError, SemipermError, Stopped
from semiperm.files import safetensors as files
from semiperm.methods import training as module
from semiperm.methods.training import Progress, Run, Training, beside, claim, descend, keep, restore
from tests.helpers import random_membrane

STEPS = 7
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": lambda weights: torch.optim.AdamW(weights, 0.1, weight_decay=0.01),
    "momentum": lambda weights: torch.optim.SGD(weights, 0.1, momentum=0.9),
    "plain": lambda weights: torch.optim.SGD(weights, 0.1),
}


@dataclass
class Draws:
    """The state of the stochastic gradient: a generator, and what it has drawn so far."""

    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(3))
    drawn: int = 0

    def tensors(self) -> dict[str, Tensor]:
        return {"generator": self.generator.get_state()}

    def facts(self) -> dict[str, Any]:
        return {"drawn": self.drawn}

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        self.generator.set_state(tensors["generator"])
        self.drawn = facts["drawn"]


def problem(
    optimizer: str = "adamw", every: int = 100, shapes: Sequence[tuple[int, ...]] = ((3, 2), (4,)), **changes: Any
) -> Training:
    """A fresh training: the mean squared distance of some weights to noisy goals."""
    start = torch.Generator().manual_seed(0)
    weights = [torch.randn(shape, generator=start, requires_grad=True) for shape in shapes]
    draws = Draws()

    def gradients(step: int) -> dict[str, float]:
        loss = torch.zeros(())
        for weight in weights:
            loss = loss + (weight - torch.randn(weight.shape, generator=draws.generator)).square().mean()
            draws.drawn += weight.numel()
        loss.backward()
        return {"loss": float(loss.detach())}

    facts: dict[str, Any] = {
        "name": "quadratic",
        "weights": weights,
        "optimizer": OPTIMIZERS[optimizer](weights),
        "gradients": gradients,
        "steps": STEPS,
        "learning_rate": lambda step: 0.1 / (1 + step),
        "state": draws,
        "owner": {"problem": "quadratic", "settings": {"eta": 1.0, "rank": 2}},
        "due": lambda done: done % every == 0,
    }
    return Training(**{**facts, **changes})


def bits(training: Training) -> dict[str, Tensor]:
    """Everything that the next step depends on."""
    found = {f"weight {number}": weight for number, weight in enumerate(training.weights)}
    for number, weight in enumerate(training.weights):
        for name, value in training.optimizer.state.get(weight, {}).items():
            found[f"{name} {number}"] = torch.as_tensor(value)
    found |= training.state.tensors() | {name: torch.tensor(value) for name, value in training.state.facts().items()}
    return {name: value.detach().clone() for name, value in found.items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        first[name].dtype == second[name].dtype and torch.equal(first[name], second[name]) for name in first
    )


def whole(optimizer: str = "adamw") -> dict[str, Tensor]:
    """The result of a run that is never stopped."""
    training = problem(optimizer)
    descend(training, Run())
    return bits(training)


class StopAfter:
    """Stops a run after a step; used as its `progress` and its `stop`."""

    def __init__(self, step: int) -> None:
        self.step, self.done = step, 0

    def progress(self, found: Progress) -> None:
        self.done = found.step

    def stop(self) -> bool:
        return self.done >= self.step


def stopped(path: Path, at: int, training: Training | None = None, resume: bool = False) -> Training:
    training = training or problem()
    after = StopAfter(at)
    with pytest.raises(Stopped, match=f"quadratic was stopped after {at} of {training.steps} steps"):
        descend(training, Run(checkpoint=path, resume=resume, progress=after.progress, stop=after.stop))
    return training


# the same bits


def test_training_descends() -> None:
    losses: list[float] = []
    training = problem(steps=200)
    descend(training, Run(progress=lambda found: losses.append(found.figures["loss"])))
    assert sum(losses[-20:]) < sum(losses[:20])
    assert training.state.facts()["drawn"] == 200 * (6 + 4)


@given(
    stops=st.lists(st.integers(1, STEPS), min_size=1, max_size=4, unique=True).map(sorted),
    every=st.integers(1, STEPS + 1),
    optimizer=st.sampled_from(sorted(OPTIMIZERS)),
)
@settings(max_examples=40, deadline=None)
def test_a_run_that_is_stopped_and_resumed_equals_one_that_is_not(stops: list[int], every: int, optimizer: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cat.checkpoint.safetensors"
        for number, at in enumerate(stops):
            stopped(path, at, problem(optimizer, every), resume=number > 0)
        last = problem(optimizer, every)
        descend(last, Run(checkpoint=path, resume=True))
        assert same(bits(last), whole(optimizer))


@given(crash=st.integers(1, STEPS), every=st.integers(1, STEPS))
@settings(max_examples=25, deadline=None)
def test_a_run_that_dies_resumes_from_its_last_checkpoint(crash: int, every: int) -> None:
    def die(found: Progress) -> None:
        if found.step == crash:
            raise RuntimeError("power cut")

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cat.checkpoint.safetensors"
        with pytest.raises(RuntimeError, match="power cut"):
            descend(problem(every=every), Run(checkpoint=path, progress=die))
        kept = (crash - 1) // every * every
        assert path.exists() == (kept > 0)
        if kept:
            last = problem(every=every)
            steps: list[int] = []
            descend(last, Run(checkpoint=path, resume=True, progress=lambda found: steps.append(found.step)))
            assert steps == list(range(kept + 1, STEPS + 1))
            assert same(bits(last), whole())


def test_a_resumed_run_may_have_more_steps(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    stopped(path, 3)
    longer = problem(steps=STEPS + 5)
    descend(longer, Run(checkpoint=path, resume=True))
    uninterrupted = problem(steps=STEPS + 5)
    descend(uninterrupted, Run())
    assert same(bits(longer), bits(uninterrupted))


def test_a_checkpoint_that_is_past_the_last_step_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    stopped(path, 3)
    shorter = problem(steps=2)
    before = bits(shorter)
    with pytest.raises(CheckpointError, match="has 3 steps done, but this training has only 2"):
        descend(shorter, Run(checkpoint=path, resume=True))
    assert same(bits(shorter), before)


def test_a_run_that_is_stopped_after_its_last_step_has_nothing_left_to_do(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    stopped(path, STEPS)
    last = problem(gradients=lambda step: pytest.fail("no step is left"))
    descend(last, Run(checkpoint=path, resume=True))
    assert same(bits(last), whole())


# what is called, and when


def test_learning_rate_gradients_and_callbacks_are_called_as_documented(tmp_path: Path) -> None:
    seen: list[tuple[str, int]] = []
    rates: list[float] = []
    membrane = random_membrane({"layer": torch.nn.Linear(2, 3)})
    training = problem(every=3)
    optimizer: Any = training.optimizer
    draw, step_of = training.gradients, optimizer.step

    def learning_rate(step: int) -> float:
        seen.append(("learning rate", step))
        return 0.5 / (1 + step)

    def gradients(step: int) -> Mapping[str, float]:
        seen.append(("gradients", step))
        assert all(weight.grad is None for weight in training.weights), "gradients of the step before are gone"
        return draw(step)

    def optimizer_step(*_: Any) -> Any:
        seen.append(("optimizer", len(rates)))
        rates.append(training.optimizer.param_groups[0]["lr"])
        return step_of()

    def progress(found: Progress) -> None:
        seen.append(("progress", found.step))
        assert (found.name, found.steps, found.figures.keys()) == ("quadratic", STEPS, {"loss"})

    def stop() -> bool:
        seen.append(("stop", len(rates)))
        return False

    def on_checkpoint(done: int, erasure: Any) -> None:
        seen.append(("checkpoint", done))
        assert erasure is membrane
        assert (tmp_path / "kept.safetensors").exists(), "the checkpoint is on the disk before the callback sees it"

    training.learning_rate, training.gradients = learning_rate, gradients
    optimizer.step = optimizer_step
    training.after_step = lambda: seen.append(("after step", len(rates)))
    training.snapshot = lambda: membrane
    run = Run(tmp_path / "kept.safetensors", progress=progress, stop=stop, on_checkpoint=on_checkpoint)
    descend(training, run)
    expected: list[tuple[str, int]] = []
    for step in range(STEPS):
        done = step + 1
        expected += [("learning rate", step), ("gradients", step), ("optimizer", step), ("after step", done)]
        expected += [("progress", done), ("stop", done)]
        if done % 3 == 0:
            # After the callback too, because that may be what asks for the stop.
            expected += [("checkpoint", done), ("stop", done)]
    assert seen == expected
    assert rates == [0.5 / (1 + step) for step in range(STEPS)]


def test_a_callback_at_a_checkpoint_may_stop_the_run(tmp_path: Path) -> None:
    reached: list[int] = []
    training = problem(every=2, snapshot=lambda: random_membrane({"layer": torch.nn.Linear(2, 3)}))
    run = Run(
        tmp_path / "kept.safetensors", stop=lambda: bool(reached), on_checkpoint=lambda done, _: reached.append(done)
    )
    with pytest.raises(Stopped):
        descend(training, run)
    assert reached == [2]
    last = problem()
    assert restore(tmp_path / "kept.safetensors", last) == 2 and same(bits(last), bits(training))


def test_without_a_path_nothing_is_kept_and_the_run_can_still_be_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "keep", lambda *_: pytest.fail("nothing is to be kept"))
    after = StopAfter(2)
    with pytest.raises(Stopped):
        descend(problem(every=1), Run(progress=after.progress, stop=after.stop))
    assert list(tmp_path.iterdir()) == []


def test_no_signal_handler_is_installed_and_nothing_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: pytest.fail("a signal handler was installed"))
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    inside: list[bool] = []

    def look(_: Progress) -> None:
        inside.append([signal.getsignal(number) for number in signal.valid_signals()] == handlers)

    descend(problem(every=2), Run(checkpoint=tmp_path / "kept.safetensors", progress=look))
    stopped(tmp_path / "stopped.safetensors", 2)
    assert inside == [True] * STEPS
    assert capfd.readouterr() == ("", "")


def test_ctrl_c_outside_of_a_step_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    def press(found: Progress) -> None:
        if found.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        descend(problem(every=4), Run(checkpoint=tmp_path / "kept.safetensors", progress=press))
    last = problem()
    assert restore(tmp_path / "kept.safetensors", last) == 4


# checkpoints


def test_a_checkpoint_lies_beside_the_output() -> None:
    assert beside(Path("a/cat.safetensors")) == Path("a/cat.checkpoint.safetensors")
    assert beside(Path("a/cat")) == Path("a/cat.checkpoint.safetensors")


def test_a_checkpoint_is_safetensors_and_holds_all_that_the_next_step_needs(tmp_path: Path) -> None:
    training = stopped(tmp_path / "kept.safetensors", 3)
    kept = load_file(tmp_path / "kept.safetensors")
    moments = {f"optimizer.{number}.{name}" for number in (0, 1) for name in ("exp_avg", "exp_avg_sq", "step")}
    assert kept.keys() == {"weight.0", "weight.1", "state.generator"} | moments
    assert torch.equal(kept["weight.0"], training.weights[0].detach())


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "kept.safetensors"
    stopped(path, 3)
    before = path.read_bytes()

    def full(*_: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(OSError, match="no space left"):
        keep(path, problem(), 5)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def full(*_: Any) -> None:
    """What safetensors does on a full disk."""
    raise SafetensorError("I/O error: No space left on device (os error 28)")


def test_a_checkpoint_that_cannot_be_written_does_not_end_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "kept.safetensors"
    warned: list[str] = []
    writable = {2}

    def save(tensors: Any, draft: Path, metadata: Any) -> None:
        step = json.loads(metadata["training"])["step"]
        (save_file if step in writable else full)(tensors, draft, metadata)

    monkeypatch.setattr(module, "save_file", save)
    reached: list[int] = []
    training = problem(every=1, snapshot=lambda: random_membrane({"layer": torch.nn.Linear(2, 3)}))
    run = Run(path, warn=warned.append, on_checkpoint=lambda done, _: reached.append(done))
    descend(training, run)
    assert same(bits(training), whole()) and reached == list(range(1, STEPS + 1))
    assert len(warned) == STEPS - 1
    for step, text in zip([1, *range(3, STEPS + 1)], warned, strict=True):
        assert f"goes on, but the checkpoint of step {step} of {STEPS} cannot be written to {path}" in text
        assert "No space left on device" in text
        assert ("there is none before it" in text) == (step == 1)
    # That of step 2 is kept, and no draft.
    assert list(tmp_path.iterdir()) == [path]
    last = problem()
    assert restore(path, last) == 2


def test_without_a_function_for_warnings_there_is_a_python_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "save_file", full)
    with pytest.warns(RuntimeWarning, match=f"checkpoint of step 5 of {STEPS} cannot be written"):
        descend(problem(every=5), Run(tmp_path / "kept.safetensors"))


@pytest.mark.parametrize("kept", [False, True])
def test_a_stop_without_a_checkpoint_is_an_error_that_says_so(
    kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "kept.safetensors"
    if kept:
        stopped(path, 2)
    monkeypatch.setattr(module, "save_file", full)
    after, warned = StopAfter(4), []
    run = Run(path, resume=kept, progress=after.progress, stop=after.stop, warn=warned.append)
    with pytest.raises(CheckpointError, match=f"was stopped, and the checkpoint of step 4 of {STEPS} cannot") as error:
        descend(problem(), run)
    assert ("the checkpoint before it is kept" if kept else "there is none before it") in str(error.value)
    assert warned == []
    assert list(tmp_path.iterdir()) == ([path] if kept else [])


# what may be replaced

CAT, DOG = Concept(name="cat"), Concept(name="dog")


def finished(path: Path, name: str = "cat") -> Path:
    return files.save(random_membrane({"mid_block.attentions.0.attn2.to_k": torch.nn.Linear(2, 3)}, name=name), path)


def test_a_finished_erasure_is_replaced_by_force_alone_and_never_by_another_concept(tmp_path: Path) -> None:
    out = finished(tmp_path / "cat.safetensors")
    with pytest.raises(SemipermError, match="exists and is not replaced"):
        claim(out, [CAT])
    assert claim(out, [CAT], force=True) == out
    assert claim(out, [Concept(name="Cat")], force=True) == out
    with pytest.raises(MembraneFileError, match="is the erasure of 'cat'"):
        claim(out, [DOG], force=True)
    with pytest.raises(MembraneFileError, match="is the erasure of 'cat'"):
        claim(out, [CAT, DOG], force=True)
    # a LoRA of another tool, and any other file
    save_file(load_file(out), out)
    assert claim(out, [DOG], force=True) == out
    out.write_bytes(b"no erasure")
    assert claim(out, [DOG], force=True) == out
    with pytest.raises(SemipermError, match="exists and is not replaced"):
        claim(out, [DOG])


def test_resuming_what_is_finished_says_so(tmp_path: Path) -> None:
    out = finished(tmp_path / "cat.safetensors")
    for force in (False, True):
        with pytest.raises(CheckpointError, match="nothing to resume: .*cat.safetensors is finished"):
            claim(out, [CAT], resume=True, force=force)


def test_a_checkpoint_is_resumed_or_replaced_by_force(tmp_path: Path) -> None:
    out = tmp_path / "cat.safetensors"
    stopped(beside(out), 3, problem(owner={"concept": CAT.model_dump(mode="json")}))
    assert claim(out, [CAT], resume=True) == out
    assert claim(out, [CAT], force=True) == out
    with pytest.raises(CheckpointError, match="would be lost: resume it with --resume"):
        claim(out, [CAT])
    with pytest.raises(CheckpointError, match="is the checkpoint of a training for 'cat'"):
        claim(out, [DOG], force=True)
    beside(out).write_bytes(b"damaged")
    assert claim(out, [DOG], force=True) == out


def test_a_checkpoint_that_can_not_be_written_is_found_out_first(tmp_path: Path) -> None:
    out = tmp_path / "cat.safetensors"
    beside(out).symlink_to("/dev/null")
    for flag in ("resume", "force"):
        with pytest.raises(SemipermError, match="checkpoint.safetensors cannot be written: it is a link"):
            claim(out, [CAT], **{flag: True})
    with pytest.raises(MembraneFileError, match="for checkpoints"):
        claim(beside(out), [CAT])


def assert_refused(path: Path, match: str, training: Training | None = None) -> None:
    """A checkpoint must be refused, and neither training nor file may change."""
    training = training or problem()
    before, data = bits(training), path.read_bytes()
    with pytest.raises(CheckpointError, match=match):
        descend(training, Run(checkpoint=path, resume=True))
    assert same(bits(training), before)
    assert path.read_bytes() == data


def test_a_flipped_bit_is_refused_wherever_it_is(tmp_path: Path) -> None:
    path = tmp_path / "kept.safetensors"
    stopped(path, 3)
    sound = path.read_bytes()
    training = problem()
    before = bits(training)
    header = 8 + struct.unpack("<Q", sound[:8])[0]
    # All of the header, and a sample of the tensors, most of which is the generator's state.
    for place in [*range(header), *range(header, len(sound), 23)]:
        damaged = bytearray(sound)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            restore(path, training)
    assert same(bits(training), before)
    path.write_bytes(sound)
    assert restore(path, training) == 3


@given(place=st.floats(0, 1, exclude_max=True), change=st.integers(1, 255))
@settings(max_examples=60, deadline=None)
def test_a_changed_byte_of_a_tensor_is_refused_with_the_digest(place: float, change: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kept.safetensors"
        stopped(path, 3)
        data = bytearray(path.read_bytes())
        begin = 8 + struct.unpack("<Q", data[:8])[0]
        data[begin + int(place * (len(data) - begin))] ^= change
        path.write_bytes(data)
        assert_refused(path, "damaged: its contents do not match its digest")


@pytest.mark.parametrize("fact", ["step", "owner", "state"])
def test_a_changed_fact_is_refused_with_the_digest(tmp_path: Path, fact: str) -> None:
    path = tmp_path / "kept.safetensors"
    training = stopped(path, 3)
    facts = metadata(path)
    facts[fact] = {"step": 2, "owner": {**training.owner, "more": 1}, "state": {"drawn": 0}}[fact]
    save_file(load_file(path), path, {"training": json.dumps(facts)})
    assert_refused(path, "damaged: its contents do not match its digest")


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "longer"])
def test_a_damaged_file_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "kept.safetensors"
    stopped(path, 3)
    data = path.read_bytes()
    path.write_bytes({"cut": data[:-1], "empty": b"", "text": b"no safetensors at all", "longer": data + b"\0"}[damage])
    assert_refused(path, f"{path} is damaged and cannot be resumed")


@pytest.mark.parametrize("facts", [None, "{}", "3", "[]", '{"step": 3, "owner": {}, "state": {}}', "not JSON"])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, facts: str | None) -> None:
    path = tmp_path / "kept.safetensors"
    save_file({"x": torch.zeros(1)}, path, None if facts is None else {"training": facts})
    assert_refused(path, "is damaged" if facts == "not JSON" else "is not a checkpoint of semiperm")


def test_nothing_to_resume_is_refused(tmp_path: Path) -> None:
    training = problem()
    before = bits(training)
    with pytest.raises(CheckpointError, match="nothing to resume: .*none.safetensors does not exist"):
        descend(training, Run(checkpoint=tmp_path / "none.safetensors", resume=True))
    with pytest.raises(CheckpointError, match="name the output file"):
        descend(training, Run(resume=True))
    assert same(bits(training), before)


@pytest.mark.parametrize(
    ("owner", "message"),
    [
        ({"problem": "cubic"}, "another problem: it has 'quadratic', not 'cubic'"),
        ({"settings": {"eta": 2.0, "rank": 2}}, "another settings: it has eta = 1.0, not 2.0"),
        ({"settings": {"eta": 1.0}}, "another settings: it has rank = 2, not None"),
        ({"seed": 4}, "another seed: it has None, not 4"),
    ],
)
def test_another_owners_checkpoint_is_refused_with_the_field_that_differs(
    tmp_path: Path, owner: dict[str, Any], message: str
) -> None:
    path = tmp_path / "kept.safetensors"
    stopped(path, 3)
    other = problem()
    other.owner = {**other.owner, **owner}
    assert_refused(path, f"belongs to {message}", other)


def test_an_owner_is_compared_as_json(tmp_path: Path) -> None:
    path = tmp_path / "kept.safetensors"
    stopped(path, 3, problem(owner={"targets": ("cat", "kitten")}))
    assert restore(path, problem(owner={"targets": ["cat", "kitten"]})) == 3


def test_weights_of_another_size_or_number_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "kept.safetensors"
    stopped(path, 3)
    for shapes in (((3, 2), (5,)), ((3, 2), (4,), (1,)), ((3, 2),), ((2, 3), (4,))):
        assert_refused(path, "other weights: weight.[012] has another size or is missing", problem(shapes=shapes))


def metadata(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
    return json.loads(header["__metadata__"]["training"])
