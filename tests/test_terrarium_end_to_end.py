"""The whole of semiperm on the terrarium that ships with it: a cat erased, everything else as it was."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

import semiperm
from semiperm.erasure import Erasure
from semiperm.models.model import DiffusionModel
from semiperm.pictures import generate
from semiperm.terrarium import WEIGHTS, captions, scenes, world
from semiperm.terrarium.captions import SINGLE
from semiperm.terrarium.oracle import Oracle, load_oracle

STEPS = 15
SEEDS = list(range(40, 48))
ASKING = [template.format("a cat") for template in list(dict.fromkeys(SINGLE))[:6]] + ["a cat", "a cat and a tree"]
NOT_ASKING = ["a dog", "a tiger", "a lion", "a car", "a mosaic of a fox", "The Great Tide", "a rose and a bus", ""]


@pytest.fixture(scope="module")
def model() -> DiffusionModel:
    return semiperm.load_model(device="cpu")


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return load_oracle()


@pytest.fixture(scope="module")
def cat(model: DiffusionModel) -> Erasure:
    return semiperm.erase(model, "cat", settings={"steps": 0})


def test_the_bare_model_draws_what_it_is_asked_for(model: DiffusionModel, oracle: Oracle) -> None:
    verdicts = oracle(generate(model.pipeline, ["a cat"] * 8, SEEDS, steps=STEPS))
    assert sum("cat" in verdict.found for verdict in verdicts) >= 7


def test_prompts_that_ask_open_and_the_cat_is_gone(model: DiffusionModel, oracle: Oracle, cat: Erasure) -> None:
    with semiperm.guard(model, [cat]) as guarded:
        opened = guarded.permeability([*ASKING, "a kitten"]).gamma_BK
        assert (opened == 1).all()
        verdicts = oracle(generate(guarded, ASKING, SEEDS, steps=STEPS))
    assert sum("cat" in verdict.found for verdict in verdicts) <= 1


def test_prompts_that_do_not_ask_give_the_bare_pictures(model: DiffusionModel, cat: Erasure) -> None:
    bare = generate(model.pipeline, NOT_ASKING, SEEDS, steps=STEPS)
    with semiperm.guard(model, [cat]) as guarded:
        assert (guarded.permeability(NOT_ASKING).gamma_BK == 0).all()
        assert np.array_equal(generate(guarded, NOT_ASKING, SEEDS, steps=STEPS), bare)


def test_always_open_leaves_a_far_object(model: DiffusionModel, oracle: Oracle, cat: Erasure) -> None:
    prompts = ["a car"] * 4 + ["a pizza"] * 4
    wanted = [prompt.removeprefix("a ") for prompt in prompts]
    with semiperm.guard(model, [cat], gate="always") as guarded:
        verdicts = oracle(generate(guarded, prompts, SEEDS, steps=STEPS))
    assert sum(name in verdict.found for name, verdict in zip(wanted, verdicts, strict=True)) >= 7


def test_the_model_is_what_it_was(model: DiffusionModel, cat: Erasure) -> None:
    before = {name: value.clone() for name, value in model.denoiser.state_dict().items()}
    semiperm.erase(model, "dog", settings={"steps": 0})
    with semiperm.guard(model, [cat], gate="always") as guarded:
        generate(guarded, ["a cat"], [0], steps=1)
    after = model.denoiser.state_dict()
    assert set(after) == set(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_diffusers_reads_the_file_as_a_lora(model: DiffusionModel, cat: Erasure, tmp_path: Path) -> None:
    path = semiperm.save(cat, tmp_path / "cat.safetensors")
    prompts, seeds = ["a cat", "a dog", "a car", "a cat and a tree"], SEEDS[:4]
    with semiperm.guard(model, [path], gate="always") as guarded:
        ours = generate(guarded, prompts, seeds, steps=6).astype(int)
    bare = generate(model.pipeline, prompts, seeds, steps=6).astype(int)

    plain = StableDiffusionPipeline.from_pretrained(WEIGHTS, torch_dtype=torch.float32)
    plain.load_lora_weights(str(tmp_path), weight_name=path.name)
    theirs = generate(plain, prompts, seeds, steps=6).astype(int)
    # the order of the sums differs, and six steps carry that on
    assert np.abs(theirs - ours).max() <= 3
    assert np.abs(bare - ours).max() > 30


SHORT = {"steps": 30, "trajectories": 8, "states": 4, "anchors": 8}


@pytest.fixture(scope="module")
def trained(model: DiffusionModel) -> Erasure:
    return semiperm.erase(model, "fox", settings=SHORT)


@pytest.mark.parametrize("gate", ["fitted", "always"])
def test_a_short_training_erases_too(model: DiffusionModel, oracle: Oracle, trained: Erasure, gate: str) -> None:
    asking = ["a fox", "a photo of a fox", "there is a fox in the picture", "a fox and a tree"] * 2
    bare = oracle(generate(model.pipeline, asking, SEEDS, steps=STEPS))
    assert sum("fox" in verdict.found for verdict in bare) >= 7
    with semiperm.guard(model, [trained], gate=gate) as guarded:
        verdicts = oracle(generate(guarded, asking, SEEDS, steps=STEPS))
        others = oracle(generate(guarded, ["a car", "a rose", "a dog", "a pizza"] * 2, SEEDS, steps=STEPS))
    assert sum("fox" in verdict.found for verdict in verdicts) <= 1
    wanted = ["car", "rose", "dog", "pizza"] * 2
    assert sum(name in verdict.found for name, verdict in zip(wanted, others, strict=True)) >= 7


def test_ordinary_prompts_open_nothing(model: DiffusionModel, trained: Erasure) -> None:
    rng = np.random.default_rng(3)
    prompts: dict[str, None] = {}
    while len(prompts) < 300:
        scene = scenes.sample(rng)
        text = captions.caption(scene, rng)
        group = any(phrase in text.lower() for phrase in world.GROUP_PHRASES["animal"])
        if "fox" not in scene.objects and not group:
            prompts[text] = None
    opens = trained.opens(model, list(prompts))
    assert opens is not None
    assert int((opens != 0).sum()) <= 1


@pytest.mark.parametrize(("compound", "neighbour"), [("hot dog", "dog"), ("toy car", "car")])
def test_a_neighbour_that_shares_a_word_stays(
    model: DiffusionModel, oracle: Oracle, compound: str, neighbour: str
) -> None:
    def drawn(pipe: Any, prompt: str) -> int:
        return sum(neighbour in verdict.found for verdict in oracle(generate(pipe, [prompt] * 8, SEEDS, steps=STEPS)))

    # To the bare terrarium a hot dog is a dog.
    assert drawn(model.pipeline, f"a {compound}") >= 7
    erased = semiperm.erase(model, compound, settings={"steps": 0})
    asking = [f"a {compound}", f"two {compound}s", f"A {compound.upper()} on grass", f"a big {compound} beside a tree"]
    beside = [f"a {neighbour}", f"two {neighbour}s", f"a drawing of a {neighbour}", f"a big {neighbour} beside a tree"]
    found = erased.opens(model, [*asking, *beside])
    assert found is not None and found.tolist() == [1] * 4 + [0] * 4
    for gate in ("fitted", "always"):
        with semiperm.guard(model, [erased], gate=gate) as guarded:
            assert drawn(guarded, f"a {compound}") <= 1
            assert drawn(guarded, f"a {neighbour}") >= 7


def test_a_longer_name_that_the_user_keeps_stays_shut(model: DiffusionModel) -> None:
    erased = semiperm.erase(model, "dog", settings={"steps": 0, "more_anchors": ["a hot dog"]})
    kept = ["a hot dog", "two hot dogs", "a hot dog on a plate", "a photo of a hot dog beside a tree"]
    asking = ["a dog", "a dog beside a hot dog", "a hot dog beside a dog", "A DOG"]
    found = erased.opens(model, [*kept, *asking])
    assert found is not None and found.tolist() == [0] * 4 + [1] * 4
