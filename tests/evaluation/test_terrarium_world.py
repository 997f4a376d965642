"""What protocols ask of the terrarium: the right things, of the right words, in few pictures."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from semiperm.concept import Concept
from semiperm.errors import ProtocolError
from semiperm.evaluation import worlds
from semiperm.evaluation.protocols import PROTOCOLS
from semiperm.evaluation.protocols.effect import neighbours
from semiperm.evaluation.protocols.paraphrase import misspelt
from semiperm.evaluation.subject import Subject
from semiperm.models.text import TextFeatures
from semiperm.terrarium import world
from semiperm.terrarium.captions import with_article
from tests.evaluation.contexts import rows as rows_of
from tests.terrarium.helpers import fits, says, ways_to_say

CAT, MOSAIC, TIDE = (
    Concept(name="cat", surrogate="dog"),
    Concept(name="mosaic", kind="style"),
    Concept(name="The Great Tide", kind="memorised"),
)
BOMB = Concept(name="bomb")
OF = {"styles": MOSAIC, "memorised": TIDE}
ALL = [CAT, BOMB, Concept(name="orange"), MOSAIC, Concept(name="pixel art", kind="style"), TIDE]
some_concept = pytest.mark.parametrize("concept", ALL, ids=lambda concept: concept.name)
TERRARIUM = worlds.find("terrarium")


def encode(prompts: list[str]) -> TextFeatures:
    """Places each object at its own angle from the cat; lengths differ, because they must not matter."""
    near = ["panda", "tiger", "pizza", "cow"]
    angles = {with_article(name): 1.0 for name in world.OBJECT_NAMES}
    angles |= {with_article(name): 0.1 * number for number, name in enumerate(near, 1)}
    angles["a cat"] = 0.0
    angle = torch.tensor([angles[prompt] for prompt in prompts])
    length = 1 + torch.arange(len(prompts)).float()[:, None]
    return TextFeatures(torch.zeros(len(prompts), 1, 2), length * torch.stack([angle.cos(), angle.sin()], -1))


MODEL: Any = SimpleNamespace(encode=encode)


def rows(name: str, *targets: Concept, **more: Any) -> list[Subject]:
    return rows_of(name, *(targets or (OF.get(name, CAT),)), model=MODEL, **more)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_takes_ten_minutes_on_two_cores(name: str) -> None:
    seeds = 4 if name == "fidelity" else None
    found = rows(name, seeds=seeds)
    shots = {shot for subject in found for shot in subject.shots}
    # half a second a picture, bare and erased if every prompt opened a membrane; fidelity is of the bare model
    assert 0 < len(shots) <= (1200 if name == "fidelity" else 600)
    assert len({subject.name for subject in found}) == len(found)
    assert all(subject.shots or subject.prompts for subject in found)
    assert all(len(subject.wanted) in (0, len(subject.shots)) for subject in found)


@pytest.mark.parametrize("name", ["objects", "styles", "memorised", "unlearncanvas"])
def test_the_target_is_asked_for_and_all_else_is_asked_without_it(name: str) -> None:
    found = rows(name)
    target = OF.get(name, CAT)
    (erased,) = (subject for subject in found if subject.group == "target")
    assert erased.expected == "gone"
    assert all(target.name.lower() in shot.prompt.lower() for shot in erased.shots)
    if name != "unlearncanvas":
        others = [shot.prompt for subject in found if subject.group != "target" for shot in subject.shots]
        assert others and not any(target.name.lower() in prompt.lower() for prompt in others)
    assert {subject.group for subject in found} == {"target", "same kind", "other kinds"}
    assert {subject.expected for subject in found if subject.group != "target"} == {"kept"}


def test_rows_name_only_what_the_oracle_can_find() -> None:
    known = {*world.OBJECT_NAMES, *world.STYLE_NAMES, *(picture.name for picture in world.MEMORISED)}
    for name in PROTOCOLS:
        assert {label for subject in rows(name, seeds=2) for label in subject.names} <= known


def test_seeds_decide_how_many_pictures() -> None:
    few, many = (sum(len(subject.shots) for subject in rows("objects", seeds=seeds)) for seeds in (4, 20))
    assert few < many


def test_rows_of_equal_tasks_are_equal() -> None:
    # or else the bare model's pictures would be judged again for each arm
    for name in ("memorised", "coco", "objects"):
        assert rows(name) == rows(name)
        assert {*rows(name)} == {*rows(name)}


def test_concepts_that_the_world_does_not_know_are_refused() -> None:
    with pytest.raises(ProtocolError, match="no object 'unicorn'"):
        rows("objects", Concept(name="unicorn"))
    with pytest.raises(ProtocolError, match="no style 'baroque'"):
        rows("styles", Concept(name="baroque", kind="style"))
    with pytest.raises(ProtocolError, match="no memorised picture 'Guernica'; it has: The Great Tide"):
        rows("memorised", Concept(name="Guernica", kind="memorised"))
    with pytest.raises(ProtocolError, match="of the kind 'style', and there are only: cat"):
        rows("styles", CAT)


def test_a_surrogate_is_looked_for_without_its_article() -> None:
    found = rows("reconsolidate", Concept(name="cat", surrogate="a dog"))
    assert found[0].surrogate == "dog" and not any(subject.surrogate for subject in found[1:])
    with pytest.raises(ProtocolError, match="--surrogate"):
        rows("reconsolidate", Concept(name="cat"))


# ways of asking


def test_what_is_not_asked_for_is_no_other_target_either() -> None:
    dog = Concept(name="dog")
    found = rows("paraphrase", CAT, dog, MOSAIC, Concept(name="neon", kind="style"), TIDE)
    quiet = [shot.prompt for subject in found if subject.group == "not asked" for shot in subject.shots]
    assert quiet and not any(name in prompt for prompt in quiet for name in ("cat", "dog", "mosaic", "neon", "Tide"))
    assert {subject.name for subject in found if subject.group == "not asked"} >= {
        "cat: near neighbours", "mosaic: other styles", "The Great Tide: other pictures", "dog: in the negative prompt",
    }  # fmt: skip


def test_paraphrases_do_not_say_the_name_and_misspellings_almost_do() -> None:
    ways = {subject.name.split(": ")[1]: subject for subject in rows("paraphrase")}
    assert not any("cat" in shot.prompt for shot in ways["by synonym"].shots)
    assert all(shot.prompt.isupper() for shot in ways["in upper case"].shots)
    assert all("cat" not in shot.prompt for shot in ways["near neighbours"].shots)
    assert ways["near neighbours"].group == "not asked" and ways["near neighbours"].expected == "kept"
    unwanted = ways["in the negative prompt"]
    assert unwanted.group == "not asked"
    assert all("cat" in shot.negative and "cat" not in shot.prompt for shot in unwanted.shots)
    assert not any(shot.negative for name, way in ways.items() if way is not unwanted for shot in way.shots)
    for text in misspelt("umbrella"):
        assert "umbrella" not in text


# what an erasure does


@some_concept
def test_ordinary_prompts_do_not_ask_for_the_concept(concept: Concept) -> None:
    prompts = TERRARIUM.ordinary(1000, [concept])
    assert len(set(prompts)) == len(prompts) == 1000
    for text in prompts:
        if concept.kind == "object":
            assert not any(says(way, text) for way in ways_to_say(concept.name)), text
        elif concept.kind == "style":
            assert not says(concept.name, text), text
            assert not any(fits(form, text) for form in world.style(concept.name).synonyms), text
        else:
            assert concept.name.lower() not in text.lower()


def test_ordinary_prompts_ask_for_neighbours_styles_and_pairs() -> None:
    prompts = TERRARIUM.ordinary(1000, [CAT])
    for word in ("dog", "tiger", "lion", "kitten"):
        assert any(says(word, text) for text in prompts) == (word != "kitten")
    assert any(says("mosaic", text) for text in prompts)
    assert any(says("dog", text) and says("and", text) for text in prompts)
    assert TERRARIUM.ordinary(50, [CAT]) == prompts[:50]


def test_ordinary_prompts_ask_for_none_of_several_concepts() -> None:
    prompts = TERRARIUM.ordinary(1000, [CAT, MOSAIC, TIDE])
    assert not any(says(word, text) for text in prompts for word in ("cat", "kitten", "mosaic", "The Great Tide"))


@some_concept
def test_asking_by_name_asks_by_name_in_every_template(concept: Concept) -> None:
    texts = TERRARIUM.by_name(concept)
    assert len(set(texts)) == len(texts) >= 5
    assert all(says(concept.name, text) for text in texts)
    (asked,) = (row for row in rows("effect", concept, seeds=40) if row.group == "target")
    assert {shot.prompt for shot in asked.shots} == set(texts)
    assert len({shot.seed for shot in asked.shots}) == 40
    assert asked.label == ("great-tide" if concept is TIDE else concept.name)


def test_other_words_are_not_the_name() -> None:
    assert TERRARIUM.other_words(BOMB) == ["an explosive", "a device that blows up"]
    styled = TERRARIUM.other_words(MOSAIC)
    assert styled and not any(says("mosaic", text) for text in styled)
    # an object without synonyms, a title: there are no other words
    assert TERRARIUM.other_words(Concept(name="panda")) == []
    assert TERRARIUM.other_words(TIDE) == []
    assert not any("other words" in row.name for row in rows("effect", TIDE))


@some_concept
def test_rows_about_others_leave_the_concept_out(concept: Concept) -> None:
    found = {row.name: row for row in rows("effect", concept)}
    objects = [found[name] for name in ("nearest neighbours", "other objects") if name in found]
    asked = {label: shot for row in objects for (label,), shot in zip(row.labels, row.shots, strict=True)}
    assert sorted(asked) == sorted(name for name in world.OBJECT_NAMES if name != concept.name)
    assert all(shot.prompt == with_article(name) for name, shot in asked.items())
    assert len({shot.seed for shot in asked.values()}) == len(asked)
    assert {row.group for row in objects} == {"same kind" if concept.kind == "object" else "other kinds"}
    assert all(row.expected == "kept" for row in objects)

    styles = found["other styles"]
    assert {label for (label,) in styles.labels} == set(world.STYLE_NAMES) - {"plain", concept.name}
    assert styles.group == ("same kind" if concept.kind == "style" else "other kinds")
    for (label,), shot in zip(styles.labels, styles.shots, strict=True):
        assert says(label, shot.prompt) and not says(concept.name, shot.prompt)

    ordinary = found["ordinary prompts"]
    assert not ordinary.shots and list(ordinary.prompts) == TERRARIUM.ordinary(1000, [concept])
    # the bare model has nothing that could open
    assert "ordinary prompts" not in {row.name for row in rows("effect", concept, bare=True)}


def test_pairs_hold_the_target_and_are_judged_by_both() -> None:
    found = {row.name: row for row in rows("effect", CAT, seeds=12)}
    target, other = found["cat: beside another"], found["beside cat"]
    assert target.shots == other.shots and len(target.shots) == 12
    assert (target.label, target.expected, other.expected) == ("cat", "gone", "kept")
    for (name,), shot in zip(other.labels, other.shots, strict=True):
        both = ["a cat", with_article(name)]
        assert name != "cat" and shot.prompt in (" and ".join(both), " and ".join(both[::-1]))
    # on both sides
    assert len({shot.prompt.startswith("a cat and") for shot in target.shots}) == 2
    assert not any("beside" in row.name for concept in (MOSAIC, TIDE) for row in rows("effect", concept))


def test_what_another_erasure_erases_need_not_stay() -> None:
    some = [Concept(name=name) for name in world.OBJECT_NAMES[:20]]
    found = rows("effect", *some)
    erased = {concept.name for concept in some}
    kept = {name for row in found if row.expected == "kept" for names in row.labels for name in names}
    assert kept and not kept & erased
    assert len([row for row in found if row.group == "target"]) == 20


def test_neighbours_are_the_nearest_in_the_text_encoders_eyes() -> None:
    assert neighbours(MODEL, TERRARIUM, CAT) == ["panda", "tiger", "pizza", "cow"]
    assert neighbours(MODEL, TERRARIUM, MOSAIC) == []
    assert neighbours(MODEL, TERRARIUM, CAT, [Concept(name="pizza")])[:3] == ["panda", "tiger", "cow"]


# fidelity


def test_fidelity_asks_for_everything_that_the_world_knows() -> None:
    found = rows("fidelity", seeds=8)
    groups: dict[str, list[Subject]] = {}
    for row in found:
        groups.setdefault(row.group, []).append(row)
    assert [len(part) for part in groups.values()] == [52, 7, 7, 52, 30, 4]
    assert [sum(len(row.shots) for row in part) for part in groups.values()] == [416, 728, 728, 104, 120, 40]
    plain, styled, style, two, synonym, memorised = groups.values()
    assert {row.label for row in plain} == set(world.OBJECT_NAMES)
    assert {row.label for row in style} == set(world.STYLE_NAMES)
    for row in styled:
        assert all(says(label, shot.prompt) for (label,), shot in zip(row.labels, row.shots, strict=True))
    for row in two:
        assert all(says(name, shot.prompt) for names, shot in zip(row.labels, row.shots, strict=True) for name in names)
        assert len({*row.labels[0]}) == 2
    assert not any(says(row.label, shot.prompt) for row in synonym for shot in row.shots)
    assert all(row.original is not None and row.original.some(1).shape == (1, 64, 64, 3) for row in memorised)
