"""What an erasure did on the terrarium: is the target gone, is everything else still there?"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from semiperm.concept import Concept
from semiperm.evaluation import grid, prompts
from semiperm.evaluation.pictures import generate
from semiperm.evaluation.protocol import spread
from semiperm.guarded import guard
from semiperm.membrane.membrane import Membrane
from semiperm.models.base import DiffusionModel
from semiperm.terrarium import captions, scenes, world
from semiperm.terrarium.oracle import Oracle, Verdict

NEIGHBOURS = 4
ORDINARY = 1000

Sees = Callable[[Verdict], bool]


@dataclass(frozen=True)
class Question:
    """A prompt, its seed, and what the oracle should see in the picture."""

    prompt: str
    seed: int
    sees: Sees
    about: str = ""


def subject(name: str) -> Sees:
    """Return whether the oracle finds an object or a memorised picture."""
    return lambda verdict: name in verdict.found


def look(name: str) -> Sees:
    """Return whether the oracle names a style."""
    return lambda verdict: verdict.style == name


def answered(questions: Sequence[Question], verdicts: Sequence[Verdict]) -> float:
    """Return the share of the questions that the oracle answers with yes."""
    return float(np.mean([q.sees(verdict) for q, verdict in zip(questions, verdicts, strict=True)]))


@dataclass
class Bench:
    """A model and its judge, which remembers what it has seen of the bare model."""

    model: DiffusionModel
    oracle: Oracle
    steps: int = 25
    _known: dict[tuple[str, int], tuple[np.ndarray, Verdict]] = field(default_factory=dict)

    def bare(self, questions: Sequence[Question]) -> tuple[np.ndarray, list[Verdict]]:
        """Return the bare model's pictures and what the oracle sees in them."""
        new = list({(q.prompt, q.seed): q for q in questions if (q.prompt, q.seed) not in self._known}.values())
        if new:
            pictures, verdicts = self.judged(self.model.pipeline, new)
            for q, picture, verdict in zip(new, pictures, verdicts, strict=True):
                self._known[q.prompt, q.seed] = picture, verdict
        both = [self._known[q.prompt, q.seed] for q in questions]
        return np.stack([picture for picture, _ in both]), [verdict for _, verdict in both]

    def judged(self, pipeline: Any, questions: Sequence[Question]) -> tuple[np.ndarray, list[Verdict]]:
        """Return a pipeline's pictures and what the oracle sees in them."""
        pictures = generate(pipeline, [q.prompt for q in questions], [q.seed for q in questions], steps=self.steps)
        return pictures, self.oracle(pictures)

    def share(self, pipeline: Any | None, questions: Sequence[Question]) -> float:
        """Return the share of the questions that the oracle answers with yes; of the bare model for None."""
        _, verdicts = self.bare(questions) if pipeline is None else self.judged(pipeline, questions)
        return answered(questions, verdicts)

    def kept(self, pipeline: Any, questions: Sequence[Question]) -> float:
        """Return the share of what the bare model reaches that another pipeline reaches."""
        return self.kept_in(self.judged(pipeline, questions)[1], questions)

    def kept_in(self, verdicts: Sequence[Verdict], questions: Sequence[Question]) -> float:
        """Return the share of what the bare model reaches that was seen in other pictures of the same questions."""
        return answered(questions, verdicts) / max(self.share(None, questions), 1e-9)

    def compared(
        self, membranes: Sequence[Membrane], questions: Sequence[Question]
    ) -> tuple[list[grid.Row], list[float]]:
        """Return rows and shares of the bare model, of membranes opened as calibrated, and of membranes always open.

        Below a guarded picture is how far the membranes opened, and whether it is the bare model's bit for bit.
        """
        texts = [q.prompt for q in questions]
        bare, _ = self.bare(questions)
        rows, shares = [grid.Row("bare model", bare, texts)], [self.share(None, questions)]
        for transport in ("calibrated", "always"):
            with guard(self.model, membranes, transport=transport) as guarded:
                pictures, verdicts = self.judged(guarded, questions)
                opened = guarded.permeability(texts).rows()
            same = (pictures == bare).all((1, 2, 3))
            notes = [
                " ".join(f"{name} {gamma:.0f}" for name, gamma in row.items()) + (" = bare" if equal else "")
                for row, equal in zip(opened, same, strict=True)
            ]
            rows.append(grid.Row(f"guarded, {transport}: permeability below", pictures, notes))
            shares.append(answered(questions, verdicts))
        return rows, shares


def sees(concept: Concept) -> Sees:
    """Return how to tell that a picture shows a concept of the terrarium."""
    if concept.kind == "style":
        return look(concept.name)
    return subject(prompts.memorised(concept.name).name if concept.kind == "memorised" else concept.name)


def asks_for(concept: Concept, seeds: int, first_seed: int = 7000) -> list[Question]:
    """Return prompts for a concept by its name in all templates, `seeds` pictures spread over them."""
    return _spread(prompts.by_name(concept), sees(concept), seeds, first_seed)


def by_other_words(concept: Concept, seeds: int) -> list[Question]:
    """Return prompts that ask for a concept by synonym or paraphrase; none where the terrarium knows none."""
    return _spread(prompts.by_other_words(concept), sees(concept), seeds, 8000)


def _spread(texts: Sequence[str], shown: Sees, seeds: int, first_seed: int) -> list[Question]:
    return [Question(shot.prompt, shot.seed, shown) for shot in spread(texts, seeds, first_seed)] if texts else []


def other_objects(concept: Concept, seeds: int) -> list[Question]:
    """Return prompts for every other object, in the plain style."""
    return [
        Question(captions.prompt(name), 9000 + 100 * number + seed, subject(name), name)
        for number, name in enumerate(world.OBJECT_NAMES)
        for seed in range(seeds)
        if name != concept.name
    ]


def other_styles(concept: Concept, seeds: int) -> list[Question]:
    """Return prompts for every other style on a few objects, judged by the style."""
    objects = [name for name in ("dog", "bus", "rose", "owl") if name != concept.name]
    return [
        Question(captions.prompt(objects[seed % len(objects)], style), 20000 + 100 * number + seed, look(style), style)
        for number, style in enumerate(world.STYLE_NAMES)
        for seed in range(seeds)
        if style not in (concept.name, "plain")
    ]


def beside(concept: Concept, seeds: int) -> list[Question]:
    """Return two-object prompts with the target, judged by the other object."""
    if concept.kind != "object":
        return []
    rng = np.random.default_rng(5)
    others = [name for name in world.OBJECT_NAMES if name != concept.name]
    questions = []
    for seed in range(seeds):
        other = others[int(rng.integers(len(others)))]
        pair = (concept.name, other) if seed % 2 else (other, concept.name)
        text = " and ".join(captions.with_article(name) for name in pair)
        questions.append(Question(text, 30000 + seed, subject(other), other))
    return questions


def ordinary_prompts(concept: Concept, count: int = ORDINARY) -> list[str]:
    """Return distinct prompts of the terrarium that do not ask for a concept, near neighbours among them."""
    rng = np.random.default_rng(11)
    found: dict[str, None] = {}
    group = world.thing(concept.name).group if concept.kind == "object" else ""
    while len(found) < count:
        scene = scenes.sample(rng)
        text = captions.caption(scene, rng)
        shown = {*scene.objects, scene.style, *(m.title for m in world.MEMORISED if m.name == scene.memorised)}
        if concept.name in shown or any(phrase in text.lower() for phrase in world.GROUP_PHRASES.get(group, ())):
            continue
        found[text] = None
    return list(found)


def neighbours(concept: Concept, bench: Bench) -> list[str]:
    """Return the objects that the text encoder finds most like the target."""
    if concept.kind != "object":
        return []
    names = [name for name in world.OBJECT_NAMES if name != concept.name]
    features = bench.model.encode([captions.with_article(name) for name in [concept.name, *names]])
    assert features.pooled_BC is not None
    vectors = features.pooled_BC / features.pooled_BC.norm(dim=-1, keepdim=True)
    alike = (vectors[1:] @ vectors[0]).tolist()
    return [name for _, name in sorted(zip(alike, names, strict=True), reverse=True)[:NEIGHBOURS]]


def measure(
    bench: Bench, membranes: Sequence[Membrane], concept: Concept, seeds: int = 16, pictures: int = 16
) -> dict[str, float]:
    """Measure what membranes do to one of their concepts and to everything else.

    Returns shares: `target ...` of the pictures in which the target is found, `kept ...` of what the bare model
    reaches; `opened wrongly` counts those of 1,000 ordinary prompts that open a membrane of this concept, and `changed
    pictures` those of the first `pictures` of them whose pictures are not the bare model's bit for bit.
    """
    target, other_words = asks_for(concept, seeds), by_other_words(concept, seeds)
    erased = {membrane.card.concept.name for membrane in membranes}
    # what another of the membranes erases is not to be kept
    objects, styles, pairs = (
        [question for question in questions if question.about not in erased]
        for questions in (other_objects(concept, 1), other_styles(concept, 4), beside(concept, seeds))
    )
    near = set(neighbours(concept, bench))
    figures = {"target, bare": bench.share(None, target)}
    with guard(bench.model, membranes, transport="calibrated") as guarded:
        figures["target, calibrated"] = bench.share(guarded, target)
        if other_words:
            figures["other words, calibrated"] = bench.share(guarded, other_words)
        if pairs:
            figures |= _in_pairs(bench, guarded, concept, pairs, "calibrated")
        column = [m.card.concept.name for m in membranes].index(concept.name)
        ordinary = ordinary_prompts(concept)
        gamma_BK = guarded.permeability(ordinary).gamma_BK
        figures["opened wrongly"] = float((gamma_BK[:, column] != 0).sum())
        closed = [text for text, row in zip(ordinary, gamma_BK, strict=True) if not row.any()]
        some = [Question(text, number, look("plain")) for number, text in enumerate(closed[:pictures])]
        guarded_pictures = bench.judged(guarded, some)[0]
    # made anew, because arithmetic depends on the batch, and those that were kept came in other batches
    bare_pictures = bench.judged(bench.model.pipeline, some)[0]
    figures["changed pictures"] = float((guarded_pictures != bare_pictures).any((1, 2, 3)).sum())
    with guard(bench.model, membranes, transport="always") as opened:
        figures["target, always"] = bench.share(opened, target)
        figures["kept objects, always"] = bench.kept(opened, objects)
        if near:
            figures["kept neighbours, always"] = bench.kept(opened, [q for q in objects if q.about in near])
        figures["kept styles, always"] = bench.kept(opened, styles)
        if pairs:
            figures |= _in_pairs(bench, opened, concept, pairs, "always")
    return figures


def _in_pairs(
    bench: Bench, pipeline: Any, concept: Concept, pairs: Sequence[Question], transport: str
) -> dict[str, float]:
    """Return what prompts for the target and another object still give of both, from the same pictures."""
    _, verdicts = bench.judged(pipeline, pairs)
    return {
        f"target beside, {transport}": answered([replace(q, sees=sees(concept)) for q in pairs], verdicts),
        f"kept beside, {transport}": bench.kept_in(verdicts, pairs),
    }


def table(results: dict[str, dict[str, float]]) -> str:
    """Return results by row name as a Markdown table."""
    columns = list(dict.fromkeys(name for figures in results.values() for name in figures))
    lines = [f"| concept | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    for row, figures in results.items():
        cells = [_cell(name, figures.get(name)) for name in columns]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if name in ("opened wrongly", "changed pictures") or "seconds" in name else f"{value:.0%}"
