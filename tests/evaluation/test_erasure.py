"""Questions ask for what they say they ask for, ordinary prompts do not, and shares are counted right."""

import hashlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from semiperm.concept import Concept
from semiperm.evaluation import erasure, prompts
from semiperm.evaluation.erasure import Bench, Question, look, subject
from semiperm.models.base import TextFeatures
from semiperm.terrarium import world
from semiperm.terrarium.captions import with_article
from semiperm.terrarium.oracle import Verdict
from tests.terrarium.helpers import fits, says, ways_to_say

CAT = Concept(name="cat")
BOMB = Concept(name="bomb")
MOSAIC = Concept(name="mosaic", kind="style")
TIDE = Concept(name="The Great Tide", kind="memorised")
ALL = [CAT, BOMB, Concept(name="orange"), MOSAIC, Concept(name="pixel art", kind="style"), TIDE]
some_concept = pytest.mark.parametrize("concept", ALL, ids=lambda concept: concept.name)


def verdict(*found: str, style: str = "plain") -> Verdict:
    return Verdict(found, style, {})


# questions


@some_concept
def test_ordinary_prompts_do_not_ask_for_the_concept(concept: Concept) -> None:
    prompts = erasure.ordinary_prompts(concept, 1000)
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
    prompts = erasure.ordinary_prompts(CAT, 1000)
    for word in ("dog", "tiger", "lion", "kitten"):
        assert any(says(word, text) for text in prompts) == (word != "kitten")
    assert any(says("mosaic", text) for text in prompts)
    assert any(says("dog", text) and says("and", text) for text in prompts)
    assert erasure.ordinary_prompts(CAT, 50) == prompts[:50]


@some_concept
def test_asking_by_name_asks_by_name_in_every_template(concept: Concept) -> None:
    texts, sees = prompts.by_name(concept), erasure.sees(concept)
    assert len(set(texts)) == len(texts) >= 5
    assert all(says(concept.name, text) for text in texts)
    asked = erasure.asks_for(concept, 40)
    assert {q.prompt for q in asked} == set(texts)
    assert len({q.seed for q in asked}) == 40
    wanted = {
        "object": verdict("dog", concept.name),
        "style": verdict(style=concept.name),
        "memorised": verdict("great-tide"),
    }[concept.kind]
    assert sees(wanted)
    assert all(q.sees(wanted) for q in asked)
    assert not sees(verdict("dog"))


def test_other_words_are_not_the_name() -> None:
    asked = erasure.by_other_words(BOMB, 8)
    assert {q.prompt for q in asked} == {"an explosive", "a device that blows up"}
    assert all(q.sees(verdict("bomb")) for q in asked)
    styled = erasure.by_other_words(MOSAIC, 8)
    assert styled and not any(says("mosaic", q.prompt) for q in styled)
    assert all(q.sees(verdict(style="mosaic")) and not q.sees(verdict("mosaic")) for q in styled)
    # an object without synonyms, a title: there are no other words
    assert erasure.by_other_words(Concept(name="panda"), 8) == []
    assert erasure.by_other_words(TIDE, 8) == []


@some_concept
def test_questions_about_others_leave_the_concept_out(concept: Concept) -> None:
    objects = erasure.other_objects(concept, 2)
    others = [name for name in world.OBJECT_NAMES if name != concept.name]
    assert [q.about for q in objects[::2]] == others
    assert all(q.prompt == with_article(q.about) and q.sees(verdict(q.about)) for q in objects)
    assert len({q.seed for q in objects}) == len(objects)

    styles = erasure.other_styles(concept, 4)
    assert {q.about for q in styles} == set(world.STYLE_NAMES) - {"plain", concept.name}
    for q in styles:
        assert says(q.about, q.prompt) and q.sees(verdict(style=q.about))
        assert not says(concept.name, q.prompt)


def test_pairs_hold_the_target_and_are_judged_by_the_other() -> None:
    pairs = erasure.beside(CAT, 12)
    assert len(pairs) == 12
    for q in pairs:
        both = ["a cat", with_article(q.about)]
        assert q.prompt in (" and ".join(both), " and ".join(both[::-1]))
        assert q.sees(verdict(q.about)) and not q.sees(verdict("cat"))
    # on both sides
    assert len({q.prompt.startswith("a cat and") for q in pairs}) == 2
    assert erasure.beside(MOSAIC, 12) == erasure.beside(TIDE, 12) == []


def test_neighbours_are_the_nearest_in_the_text_encoders_eyes() -> None:
    # every object points away from the cat by its own angle
    near = ["panda", "tiger", "pizza", "cow"]
    angles = {with_article(name): 1.0 for name in world.OBJECT_NAMES}
    angles |= {with_article(name): 0.1 * number for number, name in enumerate(near, 1)}
    angles["a cat"] = 0.0

    def encode(prompts: list[str]) -> TextFeatures:
        angle = torch.tensor([angles[prompt] for prompt in prompts])
        # lengths must not matter
        length = 1 + torch.arange(len(prompts)).float()[:, None]
        return TextFeatures(torch.zeros(len(prompts), 1, 2), length * torch.stack([angle.cos(), angle.sin()], -1))

    model: Any = SimpleNamespace(encode=encode, pipeline=None)
    oracle: Any = None
    assert erasure.neighbours(CAT, Bench(model, oracle)) == near
    assert erasure.neighbours(MOSAIC, Bench(model, oracle)) == []


# counting


def code(prompt: str, seed: int) -> int:
    return hashlib.sha256(f"{prompt} {seed}".encode()).digest()[0]


class FakePipeline:
    """Paints one shade for each prompt and seed, plus a shift, and remembers what it was asked."""

    def __init__(self, shift: int = 0) -> None:
        self.shift, self.asked = shift, []

    def set_progress_bar_config(self, **_: Any) -> None: ...

    def __call__(self, *, prompt: list[str], generator: list[torch.Generator], **_: Any) -> Any:
        some = [(text, g.initial_seed()) for text, g in zip(prompt, generator, strict=True)]
        self.asked += some
        return SimpleNamespace(images=[Image.new("RGB", (4, 4), self.shade(*one)) for one in some])

    def shade(self, prompt: str, seed: int) -> tuple[int, int, int]:
        return ((code(prompt, seed) + self.shift) % 256, 0, 0)


def dark_is_cat(pictures: np.ndarray) -> list[Verdict]:
    return [verdict("cat") if picture[0, 0, 0] < 100 else verdict("dog") for picture in pictures]


def a_bench(pipeline: FakePipeline) -> Bench:
    model: Any = SimpleNamespace(pipeline=pipeline)
    oracle: Any = dark_is_cat
    return Bench(model, oracle, steps=1)


ASKED = [Question(f"prompt {number % 7}", number % 5, subject("cat")) for number in range(35)]


def test_the_bare_model_is_asked_once() -> None:
    pipeline = FakePipeline()
    bench = a_bench(pipeline)
    pictures, verdicts = bench.bare([*ASKED[:10], *ASKED[:3]])
    assert pipeline.asked == [(q.prompt, q.seed) for q in ASKED[:10]]
    again, verdicts_again = bench.bare(ASKED[8:12])
    assert pipeline.asked == [(q.prompt, q.seed) for q in ASKED[:12]]
    assert np.array_equal(pictures[:3], pictures[10:])
    assert np.array_equal(again[:2], pictures[8:10])
    assert verdicts_again[:2] == verdicts[8:10]
    for q, picture in zip(ASKED, pictures[:10], strict=False):
        assert tuple(picture[0, 0]) == pipeline.shade(q.prompt, q.seed)


def test_shares_are_counted() -> None:
    bare, other = FakePipeline(), FakePipeline(shift=40)
    bench = a_bench(bare)
    of_bare = sum(bare.shade(q.prompt, q.seed)[0] < 100 for q in ASKED)
    of_other = sum(other.shade(q.prompt, q.seed)[0] < 100 for q in ASKED)
    assert 0 < of_bare != of_other
    assert bench.share(None, ASKED) == pytest.approx(of_bare / len(ASKED))
    assert bench.share(other, ASKED) == pytest.approx(of_other / len(ASKED))
    assert bench.kept(other, ASKED) == pytest.approx(of_other / of_bare)
    assert bench.kept(bare, ASKED) == pytest.approx(1)


def test_each_question_has_its_own_answer() -> None:
    bench = a_bench(FakePipeline())
    mixed = [Question(q.prompt, q.seed, subject(("cat", "dog")[n % 2])) for n, q in enumerate(ASKED)]
    is_cat = [code(q.prompt, q.seed) < 100 for q in mixed]
    right = sum(cat if n % 2 == 0 else not cat for n, cat in enumerate(is_cat))
    assert bench.share(None, mixed) == pytest.approx(right / len(mixed))


def test_what_the_oracle_is_asked() -> None:
    assert subject("cat")(verdict("dog", "cat")) and not subject("cat")(verdict("dog"))
    assert look("neon")(verdict("cat", style="neon")) and not look("neon")(verdict("neon"))


def test_the_table_has_a_cell_for_everything() -> None:
    text = erasure.table(
        {
            "cat": {"target, bare": 1.0, "opened wrongly": 3.0},
            "mosaic": {"target, bare": 0.375, "kept styles, always": 0.5, "seconds": 12.4},
        }
    )
    head, rule, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.split("\n")]
    assert head == ["concept", "target, bare", "opened wrongly", "kept styles, always", "seconds"]
    assert len(rule) == len(head)
    # shares in per cent, counts as they are, nothing where nothing was measured
    assert rows == [["cat", "100%", "3", "", ""], ["mosaic", "38%", "", "50%", "12"]]
