"""A picture belongs to its prompt and seed, whatever else is in its batch."""

from typing import Any

import numpy as np
import pytest
import torch

from semiperm.api import guard
from semiperm.pictures import generate
from tests.tiny import tiny_pipeline

PROMPTS = ["a cat", "a dog", "a cat and a dog", "a house", "a tree"]
SEEDS = [3, 1, 4, 1, 5]


@pytest.fixture(scope="module")
def pipeline() -> Any:
    return tiny_pipeline()


@pytest.fixture(scope="module")
def pictures(pipeline: Any) -> np.ndarray:
    return generate(pipeline, PROMPTS, SEEDS, steps=2)


def alike(one: np.ndarray, other: np.ndarray) -> bool:
    # arithmetic may round differently in batches of another size, by a level of 255 at most
    return one.shape == other.shape and np.abs(one.astype(int) - other.astype(int)).max() <= 1


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_how_the_prompts_are_split_into_batches_does_not_matter(
    pipeline: Any, pictures: np.ndarray, batch: int
) -> None:
    assert pictures.shape == (5, 16, 16, 3)
    assert pictures.dtype == np.uint8
    assert alike(generate(pipeline, PROMPTS, SEEDS, steps=2, batch=batch), pictures)


def test_a_picture_is_the_pipelines_own_for_its_generator(pipeline: Any, pictures: np.ndarray) -> None:
    for prompt, seed, picture in zip(PROMPTS, SEEDS, pictures, strict=True):
        image = pipeline(
            prompt, generator=torch.Generator().manual_seed(seed), num_inference_steps=2, guidance_scale=5.0
        ).images[0]
        assert alike(np.asarray(image), picture)


def test_seeds_decide(pipeline: Any) -> None:
    one, other, again = generate(pipeline, ["a cat"] * 3, [1, 2, 1], steps=2)
    assert alike(one, again)
    assert not alike(one, other)


def test_a_guard_is_as_good_as_a_pipeline(pipeline: Any, pictures: np.ndarray) -> None:
    with guard(pipeline, []) as guarded:
        assert np.array_equal(generate(guarded, PROMPTS, SEEDS, steps=2), pictures)


def test_further_arguments_reach_the_pipeline(pipeline: Any, pictures: np.ndarray) -> None:
    assert not alike(generate(pipeline, PROMPTS, SEEDS, steps=2, negative_prompt=["a fox"] * 5), pictures)


def test_a_seed_for_every_prompt(pipeline: Any) -> None:
    with pytest.raises(ValueError, match="3 prompts, but 2 seeds"):
        generate(pipeline, ["a cat"] * 3, [1, 2])
