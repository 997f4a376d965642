"""How good the terrarium is: the share of prompts whose pictures the oracle recognises."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from semiperm.evaluation.pictures import BATCH, generate
from semiperm.models.load import TERRARIUM
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
    return np.asarray(Image.open(TERRARIUM / "memorised" / f"{name}.png").convert("RGB"))


def _share(wanted: Sequence[str], right: Sequence[bool]) -> tuple[float, str]:
    missed: dict[str, int] = {}
    for name, good in zip(wanted, right, strict=True):
        missed[name] = missed.get(name, 0) + (not good)
    worst = sorted(missed, key=lambda name: -missed[name])[:4]
    return float(np.mean(right)), ", ".join(f"{name} {missed[name]}" for name in worst if missed[name])


def _judged(
    pipeline: Any, oracle: Oracle, prompts: Sequence[str], seeds: int
) -> Iterable[tuple[int, np.ndarray, Verdict]]:
    asked = [(number, text, seed) for number, text in enumerate(prompts) for seed in range(seeds)]
    pictures = generate(pipeline, [text for _, text, _ in asked], [1000 * number + seed for number, _, seed in asked])
    return zip((number for number, _, _ in asked), pictures, oracle(pictures), strict=True)


def measure(pipeline: Any, oracle: Oracle, seeds: int = 8) -> list[Figure]:
    """Measure every bar; fewer seeds are quicker and less exact."""
    figures = []
    began = time.perf_counter()
    plain = list(_judged(pipeline, oracle, [prompt(name) for name in OBJECT_NAMES], seeds))
    seconds = (time.perf_counter() - began) / len(plain)
    named = [OBJECT_NAMES[number] for number, _, _ in plain]
    right = [name in verdict.found for name, (_, _, verdict) in zip(named, plain, strict=True)]
    figures.append(Figure("object named, plain style", *_pair(_share(named, right), len(plain))))

    styled = [(name, look) for look in STYLE_NAMES for name in OBJECT_NAMES]
    many = list(_judged(pipeline, oracle, [prompt(name, look) for name, look in styled], max(1, seeds // 4)))
    right = [styled[number][0] in verdict.found for number, _, verdict in many]
    figures.append(
        Figure(
            "object named, all styles", *_pair(_share([styled[number][1] for number, _, _ in many], right), len(many))
        )
    )
    right = [styled[number][1] == verdict.style for number, _, verdict in many]
    figures.append(
        Figure("style named", *_pair(_share([styled[number][1] for number, _, _ in many], right), len(many)))
    )

    rng = np.random.default_rng(0)
    couples = [tuple(OBJECT_NAMES[i] for i in rng.choice(len(OBJECT_NAMES), 2, replace=False)) for _ in range(52)]
    two = list(
        _judged(pipeline, oracle, [f"{with_article(a)} and {with_article(b)}" for a, b in couples], max(1, seeds // 4))
    )
    right = [set(couples[number]) <= set(verdict.found) for number, _, verdict in two]
    figures.append(
        Figure(
            "both objects of two",
            *_pair(_share([" & ".join(couples[number]) for number, _, _ in two], right), len(two)),
        )
    )

    other = [(item.name, synonym) for item in OBJECTS for synonym in item.synonyms]
    asked = list(_judged(pipeline, oracle, [with_article(synonym) for _, synonym in other], max(1, seeds // 2)))
    right = [other[number][0] in verdict.found for number, _, verdict in asked]
    figures.append(
        Figure(
            "object named by synonym", *_pair(_share([other[number][1] for number, _, _ in asked], right), len(asked))
        )
    )

    titles = [(picture.name, text) for picture in MEMORISED for text in memorised_prompts(picture)]
    known = list(_judged(pipeline, oracle, [text for _, text in titles], max(1, seeds // 4)))
    errors = [
        float(np.abs(picture.astype(float) - original(titles[number][0])).mean() / 255) for number, picture, _ in known
    ]
    worst = titles[known[int(np.argmax(errors))][0]][1]
    figures.append(
        Figure("memorised: mean absolute error", float(np.mean(errors)), len(known), f"{worst} {max(errors):.3f}")
    )
    figures.append(Figure("seconds a picture, batch of 8", seconds, len(plain), f"batches of {BATCH}"))
    return figures


def _pair(share: tuple[float, str], count: int) -> tuple[float, int, str]:
    return share[0], count, share[1]


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
