"""Checkpoints that somebody tampered with, with the digest wrong or made right."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from semiperm.errors import CheckpointError
from semiperm.methods import training
from tests.hostile import containers
from tests.hostile.conftest import SHORT
from tests.hostile.law import in_time, refuses, refuses_in_a_sentence, untouched
from tests.hostile.texts import DEEP, LONG, NUMBERS, framed, unframed
from tests.methods.test_training import bits, problem, same, stopped

NAME = "cat.checkpoint.safetensors"

Facts = dict[str, Any]


def forged(checkpoint: bytes, change: Callable[[dict[str, Tensor], Facts], object]) -> bytes:
    """Return a checkpoint with a change and the digest that belongs to it."""
    tensors = load(checkpoint)
    facts = json.loads(unframed(checkpoint)[0]["__metadata__"]["training"])
    change(tensors, facts)
    digest = getattr(training, "_digest")(tensors, facts)  # noqa: B009
    return save(tensors, {"training": json.dumps(facts | {"digest": digest})})


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The checkpoint of a training without a model."""
    path = tmp_path_factory.mktemp("small") / NAME
    stopped(path, 3)
    return path.read_bytes()


def _resized(name: str) -> Callable[[dict[str, Tensor], Facts], object]:
    return lambda tensors, _: tensors.update({name: torch.zeros(3, 5)})


FORGED: dict[str, Callable[[dict[str, Tensor], Facts], object]] = {
    **{
        f"steps are {what}": lambda _, facts, number=number: facts.update(step=json.loads(number))
        for what, number in NUMBERS.items()
        if what not in ("an integer that Python does not convert",)
    },
    "owner is a list": lambda _, facts: facts.update(owner=[1]),
    "owner is null": lambda _, facts: facts.update(owner=None),
    "owner is another": lambda _, facts: facts["owner"].update(problem="cat"),
    "owner is a million characters": lambda _, facts: facts["owner"].update(problem=LONG),
    "owner is an escape": lambda _, facts: facts["owner"].update(problem="\x1b[2J"),
    "owner has thousands of fields": lambda _, facts: facts["owner"]["settings"].update(
        {str(number): 1 for number in range(30_000)}
    ),
    "state is a list": lambda _, facts: facts.update(state=[1]),
    "state is empty": lambda _, facts: facts.update(state={}),
    "a weight is missing": lambda tensors, _: tensors.pop("weight.0"),
    "a weight is too many": lambda tensors, _: tensors.update({"weight.1000": torch.zeros(1)}),
    "a weight has another size": _resized("weight.0"),
    "a moment has another size": _resized("optimizer.0.exp_avg"),
    "the generator is missing": lambda tensors, _: tensors.pop("state.generator"),
    "the generator has another size": _resized("state.generator"),
    "the generator has another type": lambda tensors, _: tensors.update(
        {"state.generator": tensors["state.generator"].float()}
    ),
}
TEXTS = {
    "no JSON": "{cat}", "a list": "[]", "null": "null", "nothing": "", "nested deep": DEEP, "an object": "{}",
    "half": '{"step": 1}',
}  # fmt: skip


def _refused(here: Path, data: bytes) -> str:
    """Check that a checkpoint is refused and that nothing is resumed from it."""
    path = here / NAME
    path.write_bytes(data)
    begun = problem()
    before = bits(begun)
    with untouched(here), in_time(), pytest.raises(CheckpointError) as caught:
        training.restore(path, begun)
    refuses_in_a_sentence(caught.value, path)
    assert same(bits(begun), before)
    return str(caught.value)


@pytest.mark.parametrize("what", FORGED)
def test_a_forged_checkpoint_is_refused(here: Path, what: str, small: bytes) -> None:
    assert "digest" not in _refused(here, forged(small, FORGED[what]))


@pytest.mark.parametrize("what", TEXTS)
def test_facts_that_are_none_are_refused(here: Path, what: str, small: bytes) -> None:
    header, body = unframed(small)
    _refused(here, framed(json.dumps(header | {"__metadata__": {"training": TEXTS[what]}}), body))


@pytest.mark.parametrize("what", containers.SHAPES)
def test_what_is_no_checkpoint_is_refused(here: Path, what: str, cat: bytes) -> None:
    _refused(here, containers.of(cat)[what])


@pytest.mark.parametrize("part", range(24))
def test_a_flipped_bit_is_refused_wherever_it_is(here: Path, part: int, small: bytes) -> None:
    place = part * len(small) // 24
    _refused(here, small[:place] + bytes([small[place] ^ 1 << part % 8]) + small[place + 1 :])


@pytest.mark.parametrize("part", range(24))
def test_a_cut_checkpoint_is_refused(here: Path, part: int, small: bytes) -> None:
    _refused(here, small[: part * len(small) // 24])


def test_the_command_refuses_them_in_a_sentence(here: Path, checkpoint: bytes) -> None:
    words = ("erase", "cat", "--resume", "--out", "cat.safetensors")
    sets = [word for name, value in SHORT.items() for word in ("--set", f"{name}={value}")]
    flipped = checkpoint[:-1] + bytes([checkpoint[-1] ^ 1])
    for data, said in (
        (flipped, "do not match its digest"),
        (forged(checkpoint, lambda _, facts: facts["owner"].update(method="\x1b[2J")), r"method: it has '\x1b[2J'"),
        (forged(checkpoint, lambda _, facts: facts["state"].update(evaluations="cat")), "cannot be resumed"),
    ):
        Path(NAME).write_bytes(data)
        assert said in refuses(here, *words, *sets, names=NAME)


@pytest.mark.parametrize("what", ["a pipe", "a folder", "a link"])
def test_a_checkpoint_that_is_no_file_is_refused(here: Path, what: str, small: bytes) -> None:
    Path("kept").write_bytes(small)
    make = {"a pipe": os.mkfifo, "a folder": os.mkdir, "a link": lambda path: os.symlink("kept", path)}
    make[what](NAME)
    for words in (("--resume",), (), ("--force",)):
        refuses(here, "erase", "cat", "--out", "cat.safetensors", *words, names=NAME)
