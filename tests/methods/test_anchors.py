"""Anchors: the paper's density, what is drawn by it, and that no anchor asks for the target."""

import math
from collections import Counter
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from semiperm.concept import Concept
from semiperm.methods import sentences
from semiperm.methods.neighbours import candidates
from semiperm.methods.sentences import CARRIERS
from semiperm.methods.spm.anchors import Anchors, by_name, density, in_sentences
from semiperm.models.text import TextFeatures
from tests.methods.word_encoder import WordEncoder, axis

ARTICLES = {"a", "an", "the", "some"}


def some_anchors(similarity: list[float], neighbours: tuple[int, ...] = ()) -> Anchors:
    count = len(similarity)
    prompts = ("", *(f"thing {number}" for number in range(1, count)))
    return Anchors(
        prompts, TextFeatures(torch.zeros(count, 2, 3)), density(torch.tensor(similarity)), neighbours, prompts[1:]
    )


# the density


@given(st.lists(st.floats(-0.99, 0.99), min_size=1, max_size=20), st.sampled_from([0.0, 0.5, 1.0, 2.0]))
@settings(max_examples=50, deadline=None)
def test_the_density_is_equation_6(similarity: list[float], alpha: float) -> None:
    weights = [math.pow(1 - abs(value), alpha) for value in similarity]
    expected = [weight / sum(weights) for weight in weights]
    found = density(torch.tensor(similarity, dtype=torch.float64), alpha)
    assert found.tolist() == pytest.approx(expected)
    assert float(found.sum()) == pytest.approx(1)


def test_rounding_above_a_cosine_of_1_gives_no_negative_probability() -> None:
    found = density(torch.tensor([1.0000001, 0.5, -1.0000002]))
    assert found.tolist() == [0, 1, 0]


# drawing


def test_draws_follow_the_density() -> None:
    held = some_anchors([0.9, 0.2, -0.7, 0.0, 0.5])
    count = 40_000
    rows = held.draw(count + 1, 0.0, torch.Generator().manual_seed(0))
    counted = Counter(rows[1:].tolist())
    weights = [0.1, 0.8, 0.3, 1.0, 0.5]
    for row, weight in enumerate(weights):
        share = weight / sum(weights)
        # Five standard deviations of a binomial.
        assert abs(counted[row] / count - share) < 5 * (share * (1 - share) / count) ** 0.5


def test_a_draw_has_the_empty_prompt_and_the_share_of_neighbours() -> None:
    # Neighbours whose density is 0.
    held = some_anchors([0.0, 0.0, 0.0, 1.0, 1.0], neighbours=(3, 4))
    for seed in range(20):
        rows = held.draw(32, 0.25, torch.Generator().manual_seed(seed)).tolist()
        assert len(rows) == 32
        assert rows[0] == 0
        assert sum(row in (3, 4) for row in rows) == 8
    counted = Counter(held.draw(8001, 1.0, torch.Generator().manual_seed(0)).tolist())
    assert counted[0] == 1
    assert abs(counted[3] - 4000) < 5 * (8000 * 0.25) ** 0.5


@pytest.mark.parametrize(("count", "share"), [(1, 0.0), (1, 1.0), (2, 0.5), (3, 1.0), (7, 0.3)])
@pytest.mark.parametrize("neighbours", [(), (1, 2)])
def test_a_draw_has_the_requested_number_of_rows(count: int, share: float, neighbours: tuple[int, ...]) -> None:
    rows = some_anchors([0.0] * 4, neighbours).draw(count, share, torch.Generator().manual_seed(0))
    assert len(rows) == count and rows.dtype == torch.long
    assert rows[0] == 0


def test_a_seed_reproduces_a_draw() -> None:
    held = some_anchors([0.1 * number for number in range(9)], neighbours=(7, 8))
    first, again, other = (held.draw(50, 0.2, torch.Generator().manual_seed(seed)).tolist() for seed in (3, 3, 4))
    assert first == again != other


# building


def built(concept: Concept, encoder: WordEncoder, more: Sequence[str] = (), variants: int = 1) -> Anchors:
    return in_sentences(by_name(concept, encoder.encode, more), concept, encoder.encode, variants)


@pytest.mark.parametrize("variants", [1, 3])
def test_sentences_are_added_to_the_names_and_the_density_is_that_of_all(variants: int) -> None:
    encoder = WordEncoder()
    names = by_name(Concept(name="cat"), encoder.encode)
    held = built(Concept(name="cat"), encoder, variants=variants)
    assert held.prompts[: len(names.prompts)] == names.prompts
    assert len(held.prompts) == 1 + (1 + variants) * len(names.names)
    for row, prompt in enumerate(held.prompts[1:]):
        assert set(names.names[row % len(names.names)].split()) <= set(prompt.replace(",", " ").split()), prompt
        assert torch.equal(held.features.hidden_BTC[row + 1], encoder.encode([prompt]).hidden_BTC[0])
    assert_density(held, encoder)


def test_the_built_density_is_that_of_the_sentences() -> None:
    encoder = WordEncoder()
    held = by_name(Concept(name="cat"), encoder.encode)
    assert_density(held, encoder)
    assert len(held.features) == len(held.prompts)


def assert_density(held: Anchors, encoder: WordEncoder) -> None:
    target = encoder.pooled("a cat")
    weights = []
    for prompt in held.prompts:
        vector = encoder.pooled(prompt)
        cosine = float(target @ vector) / math.sqrt(float(target @ target) * float(vector @ vector))
        weights.append(1 - abs(cosine))
    total = sum(weights)
    assert held.density_N.tolist() == pytest.approx([weight / total for weight in weights], rel=1e-4, abs=1e-7)


def test_the_empty_prompt_and_all_everyday_concepts_are_anchors(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("horse", "ice cream", "mosaic", "robot")
    monkeypatch.setattr(sentences, "everyday", lambda: words)
    held = built(Concept(name="cat"), WordEncoder(), variants=3)
    assert held.prompts[0] == "" and "" not in held.prompts[1:]
    for word in words:
        assert sum(word in prompt for prompt in held.prompts) >= 4


def test_the_neighbours_are_the_concepts_most_like_the_target() -> None:
    # As many everyday words as there are neighbours have a large part of the target's own axis.
    near = ["horse", "sheep", "goat", "duck", "goose", "eagle", "parrot", "swan", "snake", "lizard", "shark", "whale"]
    planted = {word: axis(size=2.7) + axis(number=1 + place, size=2.0) for place, word in enumerate(near)}
    encoder = WordEncoder(planted={**planted, "cat": axis(size=3.0)})
    held = built(Concept(name="cat"), encoder)
    for row, prompt in enumerate(held.prompts):
        has_planted = bool(set(near) & set(prompt.split()))
        assert (row in held.neighbours) == has_planted, prompt


def test_a_name_that_means_the_target_is_no_anchor_unless_the_user_gives_it() -> None:
    planted = {"cat": axis(size=1.0), "horse": axis(size=1.0) + axis(number=1, size=0.1), "sheep": axis(number=1)}
    encoder = WordEncoder(planted=planted)
    prompts = built(Concept(name="cat"), encoder).prompts
    assert not any("horse" in prompt for prompt in prompts)
    assert any("sheep" in prompt for prompt in prompts)
    assert "horse" not in by_name(Concept(name="cat"), encoder.encode).prompts
    assert "a horse" in built(Concept(name="cat"), encoder, more=["a horse"]).prompts


def test_a_name_that_means_any_of_several_targets_is_no_anchor_either() -> None:
    planted = {"cat": axis(size=1.0), "cow": axis(number=1), "horse": axis(number=1, size=1.1), "sheep": axis(number=2)}
    encoder = WordEncoder(planted=planted)
    held = by_name(Concept(name="cattle", targets=("cat", "cow")), encoder.encode)
    assert "a horse" not in held.prompts and "a sheep" in held.prompts
    alone = by_name(Concept(name="cat"), encoder.encode)
    assert "a horse" in alone.prompts


# Every word in the sentences around anchors is the target of one of these.
TARGETS = [
    Concept(name="cat"),
    Concept(name="Car"),
    Concept(name="house", targets=("house", "a tree", "the boat", "an apple")),
    Concept(name="sketch", kind="style"),
    Concept(name="mosaic", kind="style"),
    Concept(name="neon", targets=("neon", "neon lights"), kind="style"),
    Concept(name="a vintage photo", kind="style"),
    Concept(name="pencil drawing", kind="style"),
    Concept(name="Van Gogh", targets=("Van Gogh style", "a picture by Vincent"), kind="style"),
    Concept(name="The Lonely Tree", kind="memorised"),
    Concept(name="people", targets=("person", "man", "woman", "child"), kind="explicit"),
    Concept(name="all carriers", targets=CARRIERS),
]


@pytest.mark.parametrize("concept", TARGETS, ids=lambda concept: concept.name)
def test_no_anchor_names_the_target_but_the_users_own(concept: Concept) -> None:
    own = [" ".join(word for word in target.lower().split() if word not in ARTICLES) for target in concept.targets]
    longer = f"{concept.targets[0]} food"
    held = built(concept, WordEncoder(), more=["a red thing", longer], variants=7)
    assert len(held.prompts) > 2000
    assert {"a red thing", longer} <= set(held.prompts)
    for prompt in held.prompts:
        plain = f" {prompt.lower().replace(',', ' ')} ".replace(longer.lower(), "")
        assert not any(f" {name} " in plain for name in own), prompt


def test_the_users_anchors_are_kept_as_written() -> None:
    given_ = ["Grumpy Mouse", "the quick brown dog jumps", "a mosaic of a horse"]
    held = built(Concept(name="the great wave", kind="memorised"), WordEncoder(), more=given_)
    for text in given_:
        assert text in held.prompts


def test_articles_are_not_a_concepts_own_words() -> None:
    assert "the red barn" in candidates(Concept(name="The Great Wave"), ["the red barn"])
