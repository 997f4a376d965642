"""How good the terrarium is: the share of prompts whose pictures the oracle recognises."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from semiperm.evaluation.pictures import BATCH, generate
from semiperm.terrarium import WEIGHTS
from semiperm.terrarium.captions import memorised_prompts, prompt, with_article
from semiperm.terrarium.oracle import Oracle, Verdict
from semiperm.terrarium.world import MEMORISED, OBJECT_NAMES, OBJECTS, STYLE_NAMES

BARS = {
    "object named, plain style": 0.95,
    "object named, all styles": 0.90,
    "style named": 0.97,
    "both objects of two": 0.60,
    "object named by synonym": 0.90,
    "memorised: mean absolute error": 0.05,
    "seconds a picture, batch of 8": 0.5,
}
LOWER_IS_BETTER = ("memorised: mean absolute error", "seconds a picture, batch of 8")


@dataclass(frozen=True)
class Figure:
    """A measured figure, its bar, how many pictures it rests on, and what fell short most."""

    name: str
    value: float
    pictures: int
    worst: str = ""

    @property
    def reached(self) -> bool:
        bar = BARS[self.name]
        return self.value <= bar if self.name in LOWER_IS_BETTER else self.value >= bar


def original(name: str) -> np.ndarray:
    """Return a memorised picture as it was shown in training: (64, 64, 3) uint8."""
    return np.asarray(Image.open(WEIGHTS / "memorised" / f"{name}.png").convert("RGB"))


def _share(name: str, about: Sequence[str], right: Sequence[bool]) -> Figure:
    missed: dict[str, int] = {}
    for one, good in zip(about, right, strict=True):
        missed[one] = missed.get(one, 0) + (not good)
    worst = sorted(missed, key=lambda one: -missed[one])[:4]
    told = ", ".join(f"{one} {missed[one]}" for one in worst if missed[one])
    return Figure(name, float(np.mean(right)), len(right), told)


def measure(pipeline: Any, oracle: Oracle, seeds: int = 8) -> list[Figure]:
    """Measure every bar; fewer seeds are quicker and less exact."""

    def judged(prompts: Sequence[str], share: int = 1) -> list[tuple[int, np.ndarray, Verdict]]:
        asked = [(number, text, seed) for number, text in enumerate(prompts) for seed in range(max(1, seeds // share))]
        own_seeds = [1000 * number + seed for number, _, seed in asked]
        pictures = generate(pipeline, [text for _, text, _ in asked], own_seeds)
        return list(zip((number for number, _, _ in asked), pictures, oracle(pictures), strict=True))

    began = time.perf_counter()
    plain = judged([prompt(name) for name in OBJECT_NAMES])
    seconds = (time.perf_counter() - began) / len(plain)
    named = [OBJECT_NAMES[number] for number, _, _ in plain]
    found = [name in verdict.found for name, (_, _, verdict) in zip(named, plain, strict=True)]

    styled = [(name, look) for look in STYLE_NAMES for name in OBJECT_NAMES]
    many = judged([prompt(name, look) for name, look in styled], 4)
    looks = [styled[number][1] for number, _, _ in many]
    found_styled = [styled[number][0] in verdict.found for number, _, verdict in many]
    style_named = [look == verdict.style for look, (_, _, verdict) in zip(looks, many, strict=True)]

    rng = np.random.default_rng(0)
    couples = [tuple(OBJECT_NAMES[i] for i in rng.choice(len(OBJECT_NAMES), 2, replace=False)) for _ in range(52)]
    two = judged([f"{with_article(a)} and {with_article(b)}" for a, b in couples], 4)
    both = [set(couples[number]) <= set(verdict.found) for number, _, verdict in two]

    other = [(item.name, synonym) for item in OBJECTS for synonym in item.synonyms]
    asked = judged([with_article(synonym) for _, synonym in other], 2)
    understood = [other[number][0] in verdict.found for number, _, verdict in asked]

    titles = [(picture.name, text) for picture in MEMORISED for text in memorised_prompts(picture)]
    known = judged([text for _, text in titles], 4)
    errors = [
        float(np.abs(picture.astype(float) - original(titles[number][0])).mean() / 255) for number, picture, _ in known
    ]
    worst = titles[known[int(np.argmax(errors))][0]][1]
    return [
        _share("object named, plain style", named, found),
        _share("object named, all styles", looks, found_styled),
        _share("style named", looks, style_named),
        _share("both objects of two", [" & ".join(couples[number]) for number, _, _ in two], both),
        _share("object named by synonym", [other[number][1] for number, _, _ in asked], understood),
        Figure("memorised: mean absolute error", float(np.mean(errors)), len(known), f"{worst} {max(errors):.3f}"),
        Figure("seconds a picture, batch of 8", seconds, len(plain), f"batches of {BATCH}"),
    ]


def table(figures: Sequence[Figure]) -> str:
    """Return the figures as a Markdown table."""
    lines = ["| figure | measured | bar | reached | pictures | most missed |", "|---|---|---|---|---|---|"]
    for figure in figures:
        sign = "<=" if figure.name in LOWER_IS_BETTER else ">="
        shown = f"{figure.value:.3f}" if figure.name in LOWER_IS_BETTER else f"{figure.value:.1%}"
        bar = BARS[figure.name]
        wanted = f"{sign} {bar}" if figure.name in LOWER_IS_BETTER else f"{sign} {bar:.0%}"
        reached = "yes" if figure.reached else "no"
        lines.append(f"| {figure.name} | {shown} | {wanted} | {reached} | {figure.pictures} | {figure.worst} |")
    return "\n".join(lines)
