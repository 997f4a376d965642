"""The bench: generates and judges the pictures of one arm after the other."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from semiperm.evaluation.estimate import Estimate
from semiperm.evaluation.example import Example
from semiperm.evaluation.figures import Seen, efficacy, figures
from semiperm.evaluation.judge import Judge
from semiperm.evaluation.protocol import ArmPlan
from semiperm.evaluation.report import Arm, Proof, Row
from semiperm.evaluation.sources import BareSource, FolderSource, GuardSource
from semiperm.evaluation.store import Pictures, Store, fill
from semiperm.evaluation.subject import NOT_ASKED, OTHER_KINDS, PARAPHRASE, SAME_KIND, TARGET, Subject
from semiperm.models.model import DiffusionModel
from semiperm.paths import file_name
from semiperm.pictures import Shot

# pictures of a row and rows of a group that become examples
SHOWN = 8
ROWS_SHOWN = {TARGET: 4, PARAPHRASE: 8, NOT_ASKED: 4, SAME_KIND: 3, OTHER_KINDS: 2}
ROWS_SHOWN_OF_OTHERS = 2
BINS = 10

Plan = tuple[ArmPlan, Sequence[Subject]]
Gammas = Mapping[str, Mapping[str, float]]
"""For each prompt the permeability of each erasure; empty for the bare model."""


@dataclass
class Setup:
    """How pictures are generated, and where they are kept.

    Attributes:
        out: the run's folder.
        cache: folder of the bare pictures of all runs.
        proofs: pictures of closed prompts that are generated again with the erasures on.
    """

    steps: int
    guidance: float
    batch: int
    out: Path
    cache: Path
    proofs: int


@dataclass
class Taken:
    """An arm's pictures.

    Attributes:
        where: the store of each shot.
        closed: shots whose prompts open nothing, so that their pictures are the bare model's.
    """

    where: Mapping[Shot, Store]
    gammas: Gammas = field(default_factory=dict)
    closed: Sequence[Shot] = ()
    proof: Proof = field(default_factory=Proof)
    erasures: Mapping[str, str] = field(default_factory=dict)
    gate: str = ""


class Bench:
    """Measures arms; bare pictures are generated once for each model, and judged once for each row.

    Attributes:
        examples: some pictures of every arm that was measured.
        total: number of pictures that all arms need.
    """

    def __init__(
        self,
        plans: Sequence[Plan],
        model: DiffusionModel,
        judge: Judge,
        metrics: Sequence[str],
        setup: Setup,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self.model, self.judge, self.metrics, self.setup = model, judge, metrics, setup
        self.examples: list[Example] = []
        self.names = sorted({name for _, rows in plans for subject in rows for name in subject.names})
        self._progress, self._done = progress, 0
        self._bare_shots: dict[int, dict[Shot, None]] = {}
        self.total = 0
        for plan, rows in plans:
            shots = shots_of(rows)
            self._bare_shots.setdefault(id(plan.model or model), {}).update(dict.fromkeys(shots))
            self.total += len(shots) if plan.erasures else 0
        self.total += sum(map(len, self._bare_shots.values()))
        self._bare: dict[int, tuple[BareSource, Store]] = {}
        self._seen: dict[tuple[Path, Subject], tuple[Seen, dict[str, Estimate]]] = {}

    def measure(self, plan: ArmPlan, rows: Sequence[Subject]) -> Arm:
        """Measure an arm: of the bare model if it has no erasures."""
        source, store = self._bare_of(plan.model or self.model)
        if not plan.erasures:
            return self._arm(plan.name, rows, source, store, None)
        guarded = GuardSource(source, plan.erasures, plan.gate)
        shots = shots_of(rows)
        alone = [prompt for subject in rows for prompt in subject.prompts]
        prompts = list(dict.fromkeys([*(shot.prompt for shot in shots), *alone]))
        gammas = dict(zip(prompts, guarded.opened(prompts), strict=True))
        # A prompt that opens nothing gives the bare model's picture, so that is not generated twice.
        closed = [shot for shot in shots if not any(gammas[shot.prompt].values())]
        acting = [shot for shot in shots if any(gammas[shot.prompt].values())]
        self._count(len(closed))
        own = Store(self.setup.out / "pictures" / (file_name(plan.name) or "guarded"), guarded.settings())
        fill(
            own, acting, lambda some: (guarded.make(some), [dict(gammas[shot.prompt]) for shot in some]),
            batch=self.setup.batch, done=self._count,
        )  # fmt: skip
        where = dict.fromkeys(closed, store) | dict.fromkeys(acting, own)
        # Prompts that are judged without pictures are proved as well: with one picture each.
        unseen = [Shot(prompt, number) for number, prompt in enumerate(alone) if not any(gammas[prompt].values())]
        proof = prove(guarded, source, [*closed, *unseen], self.setup.proofs, self.setup.batch)
        taken = Taken(where, gammas, closed, proof, guarded.erasures, guarded.gate)
        return self._arm(plan.name, rows, source, store, taken)

    def measure_folder(self, folder: Path, rows: Sequence[Subject]) -> Arm:
        """Measure a folder of pictures as if a guard had made them.

        Raises:
            StoreError: it has no manifest, or lacks a picture.
        """
        found = FolderSource(folder)
        for shot in shots_of(rows):
            found.store.load(shot)
        source, store = self._bare_of(self.model)
        return self._arm(found.name, rows, source, store, Taken(dict.fromkeys(shots_of(rows), found.store)))

    # inside

    def _count(self, pictures: int) -> None:
        self._done += pictures
        if self._progress is not None:
            self._progress(self._done, self.total)

    def _bare_of(self, model: DiffusionModel) -> tuple[BareSource, Store]:
        if id(model) not in self._bare:
            source = BareSource(model, self.setup.steps, self.setup.guidance)
            wanted = json.dumps(source.settings(), sort_keys=True)
            folder = self.setup.cache / "bare" / hashlib.sha256(wanted.encode()).hexdigest()[:16]
            store = Store(folder, source.settings())
            fill(
                store, self._bare_shots[id(model)],
                lambda some: (source.make(some), source.opened([shot.prompt for shot in some])),
                batch=self.setup.batch, done=self._count,
            )  # fmt: skip
            self._bare[id(model)] = source, store
        return self._bare[id(model)]

    def _arm(
        self, name: str, subjects: Sequence[Subject], source: BareSource, store: Store, taken: Taken | None
    ) -> Arm:
        rows: list[Row] = []
        looked: list[Seen] = []
        histogram: dict[str, np.ndarray] = {}
        shown: dict[str, int] = {}
        for subject in subjects:
            bare, of_bare = self._bare_row(subject, store)
            furthest = _furthest(subject, taken)
            seen = bare
            if taken is not None:
                opened = furthest if taken.gammas else None
                seen = Seen(subject, _pictures(subject, taken.where), self.judge, self.names, bare, opened)
            looked.append(seen)
            rows.append(
                Row(
                    name=subject.name,
                    group=subject.group,
                    expected=subject.expected,
                    pictures=len(subject.shots),
                    opened=float(furthest.mean()) if len(furthest) else 0.0,
                    figures=of_bare if taken is None else figures(seen, self.metrics),
                    bare=of_bare,
                )
            )
            if not subject.shots:
                continue
            counts, _ = np.histogram(furthest, bins=BINS, range=(0, 1))
            histogram[subject.group] = histogram.get(subject.group, np.zeros(BINS, int)) + counts
            shown[subject.group] = shown.get(subject.group, 0) + 1
            if shown[subject.group] <= ROWS_SHOWN.get(subject.group, ROWS_SHOWN_OF_OTHERS):
                self.examples.append(_example(name, bare, seen, taken))
        return Arm(
            name=name,
            model=source.model.name,
            erasures=dict(taken.erasures) if taken else {},
            gate=taken.gate if taken else "",
            pictures=len(shots_of(subjects)),
            rows=rows,
            summary=efficacy(looked, self.metrics),
            bare_summary=efficacy([seen.bare or seen for seen in looked], self.metrics),
            closed=len(taken.closed) if taken else 0,
            proof=taken.proof if taken else Proof(),
            permeability={group: counts.tolist() for group, counts in histogram.items()},
        )

    def _bare_row(self, subject: Subject, store: Store) -> tuple[Seen, dict[str, Estimate]]:
        """Return the bare model's row; equal rows of several arms are judged once."""
        key = (store.folder, subject)
        if key not in self._seen:
            where = dict.fromkeys(subject.shots, store)
            seen = Seen(subject, _pictures(subject, where), self.judge, self.names)
            self._seen[key] = seen, figures(seen, self.metrics)
        return self._seen[key]


def shots_of(rows: Sequence[Subject]) -> list[Shot]:
    """Return the distinct shots of rows, in their order."""
    return list(dict.fromkeys(shot for subject in rows for shot in subject.shots))


def prove(guarded: GuardSource, bare: BareSource, closed: Sequence[Shot], count: int, batch: int) -> Proof:
    """Generate some pictures of closed prompts with the erasures on and without, and compare them bit for bit.

    Both sides are generated in the same batches, because rounding depends on them.
    """
    plain = [shot for shot in closed if not shot.negative and shot.guidance is None]
    rng = np.random.default_rng(0)
    picked = [plain[int(i)] for i in rng.choice(len(plain), min(count, len(plain)), replace=False)] if plain else []
    identical = 0
    for start in range(0, len(picked), batch):
        some = picked[start : start + batch]
        identical += int((guarded.make(some) == bare.make(some)).reshape(len(some), -1).all(1).sum())
    return Proof(checked=len(picked), identical=identical)


def _furthest(subject: Subject, taken: Taken | None) -> np.ndarray:
    """Return the permeability of what opens furthest, for each shot of a row or for each of its prompts."""
    prompts = [shot.prompt for shot in subject.shots] or subject.prompts
    gammas = taken.gammas if taken else {}
    return np.array([max(gammas.get(prompt, {}).values(), default=0.0) for prompt in prompts])


def _pictures(subject: Subject, where: Mapping[Shot, Store]) -> Pictures:
    shots = subject.shots
    return Pictures(lambda number: where[shots[number]].load(shots[number]), len(shots))


def _example(arm: str, bare: Seen, seen: Seen, taken: Taken | None) -> Example:
    subject = bare.subject
    shots = subject.shots[:SHOWN]
    gammas = taken.gammas if taken else {}
    notes = [" ".join(f"{name} {gamma:.2g}" for name, gamma in gammas.get(shot.prompt, {}).items()) for shot in shots]
    plain = bare.pictures.some(SHOWN)
    erased = plain[:0] if taken is None else seen.pictures.some(SHOWN)
    prompts = [shot.prompt for shot in shots]
    return Example(arm, subject.name, subject.group, plain, erased, prompts, notes)
