"""Recipes: by name, from YAML, changed in Python; whatever is wrong is said with its place."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from semiperm.concept import Concept
from semiperm.erasing.recipe import RECIPES, Recipe, RecipeError, load_recipe, recipe_of
from semiperm.membrane.membrane import Card


def test_the_default_is_a_recipe_without_a_name() -> None:
    assert load_recipe() == load_recipe("default") == Recipe()


def test_the_instant_recipe_takes_no_steps() -> None:
    assert load_recipe("instant") == Recipe(steps=0)


def test_the_authors_recipe_has_the_papers_settings() -> None:
    recipe = load_recipe("authors")
    assert (recipe.loop, recipe.anchor_kind) == ("authors", "gaussian")
    assert (recipe.eta, recipe.anchor_weight, recipe.anchors, recipe.states) == (1.0, 1000.0, 4, 1)
    assert (recipe.steps, recipe.learning_rate, recipe.guidance, recipe.trajectory_steps) == (3000, 1e-4, 3.0, 30)


def test_yaml_gives_what_it_says_and_defaults_for_the_rest(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("eta: 3\nsteps: 12\nmore_anchors: [a dog, a kite]\nlearning_rate: 0.002\nprecision: bfloat16\n")
    recipe = load_recipe(file)
    assert recipe == load_recipe(str(file))
    changed = {"eta": 3.0, "steps": 12, "more_anchors": ("a dog", "a kite")}
    changed |= {"learning_rate": 0.002, "precision": "bfloat16"}
    for name in Recipe.model_fields:
        assert getattr(recipe, name) == changed.get(name, getattr(Recipe(), name))


def test_an_empty_file_is_the_default(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("# nothing yet\n")
    assert load_recipe(tmp_path / "empty.yaml") == Recipe()


def test_changes_win(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("steps: 12\neta: 2.0\n")
    assert load_recipe(tmp_path / "a.yaml", steps=3) == Recipe(steps=3, eta=2.0)
    assert load_recipe("authors", seed=4).seed == 4
    assert load_recipe(Recipe(rank=2), seed=4) == Recipe(rank=2, seed=4)


def test_a_recipe_survives_its_own_yaml(tmp_path: Path) -> None:
    import yaml

    for name, recipe in RECIPES.items():
        (tmp_path / name).write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
        assert load_recipe(tmp_path / name) == recipe


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("stpes: 3\n", "stpes"),
        ("steps: many\n", "steps"),
        ("loop: hula\n", "loop"),
        ("precision: float8\n", "precision"),
        ("steps: -1\n", "steps"),
        ("anchors: 0\n", "anchors"),
        ("states: 0\n", "states"),
        ("rank: 0\n", "rank"),
        ("refresh: 0\n", "refresh"),
        ("checkpoint_every: 0\n", "checkpoint_every"),
        ("neighbours: 1.5\n", "neighbours"),
        # one step has only pure noise, which is not trained on
        ("trajectory_steps: 1\n", "trajectory_steps"),
        ("instant_ridge: 0\n", "instant_ridge"),
        ("eta: .nan\n", "eta"),
        ("eta: .inf\n", "eta"),
        ("3: 4\n", "3"),
        ("- steps\n", "by name"),
        ("just words\n", "by name"),
        ("steps: [1\n", "not YAML"),
    ],
)
def test_a_malformed_file_is_refused_with_file_and_field(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(RecipeError) as refused:
        load_recipe(file)
    assert told in str(refused.value) and str(file) in str(refused.value)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_bytes(b"\xff\xfe\x00steps")
    with pytest.raises(RecipeError, match="not YAML"):
        load_recipe(tmp_path / "bad.yaml")


def test_an_unknown_name_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="default, instant, authors"):
        load_recipe("defualt")
    with pytest.raises(RecipeError):
        load_recipe(tmp_path)


@pytest.mark.parametrize("changes", [{"colour": 1}, {"steps": -3}, {"seed": "x"}])
def test_wrong_changes_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=next(iter(changes))):
        load_recipe(None, **changes)


def test_a_recipe_does_not_change() -> None:
    with pytest.raises(ValidationError):
        Recipe().steps = 3


def test_a_card_of_another_version_is_read_as_far_as_it_is_understood() -> None:
    card = Card(concept=Concept(name="cat"), recipe={"steps": 7, "device": "cuda", "of another version": 1})
    assert recipe_of(card, seed=3) == Recipe(steps=7, seed=3)
    with pytest.raises(RecipeError, match="card of the membrane for 'cat': steps"):
        recipe_of(card.model_copy(update={"recipe": {"steps": -7}}))


def test_phrases_have_a_rank_each_and_share_the_steps_but_in_the_authors_loop() -> None:
    weapons = Concept(name="weapon", targets=("bomb", "knife", "axe"), kind="explicit")
    assert Recipe(rank=3).rank_for(weapons) == 9 and Recipe(rank=3).rank_for(Concept(name="cat")) == 3
    assert RECIPES["authors"].rank_for(weapons) == 1
    assert Recipe(learning_rate=6e-3).learning_rate_for(weapons) == pytest.approx(2e-3)
    assert Recipe().learning_rate_for(Concept(name="cat")) == Recipe().learning_rate
    assert RECIPES["authors"].learning_rate_for(weapons) == 1e-4
