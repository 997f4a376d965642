"""The whole of semiperm on the terrarium that ships with it: a cat erased, everything else as it was."""

import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

import semiperm
from semiperm.evaluation.pictures import generate
from semiperm.membrane.membrane import Membrane
from semiperm.models.base import DiffusionModel
from semiperm.models.load import TERRARIUM
from semiperm.terrarium.captions import SINGLE
from semiperm.terrarium.oracle import Oracle, load_oracle

pytestmark = pytest.mark.skipif(
    not all((TERRARIUM / part).is_dir() for part in ("unet", "oracle")),
    reason="the terrarium's weights are not all there: make them with `semiperm terrarium train`",
)

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
def cat(model: DiffusionModel) -> Membrane:
    return semiperm.erase(model, "cat", "instant", quiet=True)


def test_the_bare_model_draws_what_it_is_asked_for(model: DiffusionModel, oracle: Oracle) -> None:
    verdicts = oracle(generate(model.pipeline, ["a cat"] * 8, SEEDS, steps=STEPS))
    assert sum("cat" in verdict.found for verdict in verdicts) >= 7


def test_prompts_that_ask_open_and_the_cat_is_gone(model: DiffusionModel, oracle: Oracle, cat: Membrane) -> None:
    with semiperm.guard(model, [cat]) as guarded:
        opened = guarded.permeability([*ASKING, "a kitten"]).gamma_BK
        assert (opened == 1).all()
        verdicts = oracle(generate(guarded, ASKING, SEEDS, steps=STEPS))
    assert sum("cat" in verdict.found for verdict in verdicts) <= 1


def test_prompts_that_do_not_ask_give_the_bare_pictures(model: DiffusionModel, cat: Membrane) -> None:
    bare = generate(model.pipeline, NOT_ASKING, SEEDS, steps=STEPS)
    with semiperm.guard(model, [cat]) as guarded:
        assert (guarded.permeability(NOT_ASKING).gamma_BK == 0).all()
        assert np.array_equal(generate(guarded, NOT_ASKING, SEEDS, steps=STEPS), bare)


def test_always_open_leaves_a_far_object(model: DiffusionModel, oracle: Oracle, cat: Membrane) -> None:
    prompts = ["a car"] * 4 + ["a pizza"] * 4
    wanted = [prompt.removeprefix("a ") for prompt in prompts]
    with semiperm.guard(model, [cat], transport="always") as guarded:
        verdicts = oracle(generate(guarded, prompts, SEEDS, steps=STEPS))
    assert sum(name in verdict.found for name, verdict in zip(wanted, verdicts, strict=True)) >= 7


def test_the_model_is_what_it_was(model: DiffusionModel, cat: Membrane) -> None:
    before = {name: value.clone() for name, value in model.denoiser.state_dict().items()}
    semiperm.erase(model, "dog", "instant", quiet=True)
    with semiperm.guard(model, [cat], transport="always") as guarded:
        generate(guarded, ["a cat"], [0], steps=1)
    after = model.denoiser.state_dict()
    assert set(after) == set(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_diffusers_reads_the_file_as_a_lora(model: DiffusionModel, cat: Membrane, tmp_path: Path) -> None:
    path = semiperm.save(cat, tmp_path / "cat.safetensors")
    prompts, seeds = ["a cat", "a dog", "a car", "a cat and a tree"], SEEDS[:4]
    with semiperm.guard(model, [path], transport="always") as guarded:
        ours = generate(guarded, prompts, seeds, steps=6).astype(int)
    bare = generate(model.pipeline, prompts, seeds, steps=6).astype(int)

    plain = StableDiffusionPipeline.from_pretrained(TERRARIUM, torch_dtype=torch.float32)
    plain.load_lora_weights(str(tmp_path), weight_name=path.name)
    theirs = generate(plain, prompts, seeds, steps=6).astype(int)
    # the order of the sums differs, and six steps carry that on
    assert np.abs(theirs - ours).max() <= 3
    assert np.abs(bare - ours).max() > 30


@pytest.mark.slow
def test_the_demo_writes_its_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from semiperm import demo

    # few denoising steps: it is the page that is tested, not the pictures
    monkeypatch.setattr(demo, "Bench", partial(demo.Bench, steps=3))
    demo.main(out=tmp_path, steps=2)
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    shown = re.findall(r'<img src="([^"]+)"', page)
    assert len(shown) == len(set(shown)) > 10
    for name in shown:
        assert (tmp_path / name).is_file(), name
    assert {path.name for path in tmp_path.glob("*.png")} == set(shown)
    for concept in demo.CONCEPTS:
        assert f"{concept.name} ({concept.kind})" in page
        slug = concept.name.lower().replace(" ", "-")
        assert semiperm.load(tmp_path / f"{slug}.safetensors").card.concept == concept
    # every table's row of figures has a share for the bare model and both transports
    assert len(re.findall(r'<td class="n">\d+%</td>', page)) % 3 == 0
