"""A protocol and a job give a report: make the pictures, look at them, say what was found."""

import datetime
import hashlib
import json
import subprocess
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from semiperm.evaluation.figures import BETWEEN_SETS, Seen, efficacy, figures
from semiperm.evaluation.judges import Judge
from semiperm.evaluation.page import Example
from semiperm.evaluation.protocol import Job, Protocol, ProtocolError, Subject, Variant
from semiperm.evaluation.report import Part, Proof, Report, Row
from semiperm.evaluation.sources import BareSource, FolderSource, GuardSource, Source, membrane_digest
from semiperm.evaluation.store import Pictures, Shot, Store, fill
from semiperm.guard import guard

PROVED = 4
BATCH = 8
SHOWN = 8
# rows of each role that the page shows pictures of
ROWS_SHOWN = {"erased": 4, "asked otherwise": 8, "not asked": 4, "kept": 3, "other domain": 2}
TERRARIUM_STEPS, TERRARIUM_GUIDANCE = 25, 5.0


def evaluate(
    protocol: Protocol,
    job: Job,
    judge: Judge,
    *,
    out: Path,
    cache: Path,
    pictures: Path | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    batch: int = BATCH,
    quiet: bool = False,
) -> tuple[Report, list[Example]]:
    """Run a protocol and return its report and some pictures to show.

    What `out` and `cache` hold from a stopped run is not made again.

    Args:
        out: the run's folder; its pictures lie in `out/pictures`.
        cache: where bare pictures are kept for every run with the same model, seeds and settings.
        pictures: a folder of pictures with a manifest to measure instead of membranes.
        steps, guidance: instead of the protocol's.

    Raises:
        ProtocolError: the protocol needs something that was not given.
        StoreError: `out` holds another run, or a picture is missing.
        JudgeError: a metric needs a model or a package that is not there.
    """
    began = time.monotonic()
    small = job.form == "terrarium"
    steps = steps or (TERRARIUM_STEPS if small else protocol.steps)
    guidance = (TERRARIUM_GUIDANCE if small else protocol.guidance) if guidance is None else guidance
    subjects = protocol.subjects(job)
    if not any(subject.shots for subject in subjects):
        raise ProtocolError(f"the protocol {protocol.name!r} has no pictures to make for this job")
    shots = list(dict.fromkeys(shot for subject in subjects for shot in subject.shots))
    variants = [] if pictures or not job.membranes else protocol.variants(job)
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, disable=quiet) as bar:
        task = bar.add_task("pictures", total=len(shots) * (1 + max(1, len(variants)) - (0 if variants else 1)))

        def done(count: int) -> None:
            bar.update(task, advance=count)

        measured = _Measured(judge, subjects, protocol.metrics, batch, done)
        parts = []
        bares: dict[int, tuple[Store, BareSource]] = {}

        def bare_of(variant_model: object) -> tuple[Store, BareSource]:
            model = job.model if variant_model is None else variant_model
            if id(model) not in bares:
                source = BareSource(model, steps, guidance)  # pyright: ignore[reportArgumentType]
                store = _shared(cache, source)
                fill(store, shots, lambda some: (source.make(some), source.opened([s.prompt for s in some])),
                     batch=batch, done=done)  # fmt: skip
                bares[id(model)] = store, source
            return bares[id(model)]

        if pictures:
            store, _ = bare_of(None)
            folder = FolderSource(pictures)
            parts.append(measured.folder(folder, store))
        elif not variants:
            store, source = bare_of(None)
            parts.append(measured.bare(source, store))
        for variant in variants:
            store, source = bare_of(variant.model)
            parts.append(measured.guarded(variant, source, store, out / "pictures" / _slug(variant.name)))
    report = Report(
        protocol=protocol.name,
        protocol_version=protocol.version,
        shows=protocol.shows,
        form=job.form,
        model=job.model.name,
        settings={"steps": steps, "guidance": guidance, "batch": batch, "seeds": job.seeds},
        judge=judge.describe(),
        versions={name: _version(name) for name in ("semiperm", "torch", "diffusers", "transformers", "numpy")},
        revision=revision(),
        device=str(job.model.device),
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - began, 1),
        pictures=len(shots),
        reported=protocol.reported,
        parts=parts,
    )
    return report, measured.examples


class _Measured:
    """Makes one part of a report after the other."""

    def __init__(self, judge: Judge, subjects: list[Subject], metrics: tuple[str, ...], batch: int, done) -> None:  # noqa: ANN001
        self.judge, self.subjects, self.metrics, self.batch, self.done = judge, subjects, metrics, batch, done
        self.shots = list(dict.fromkeys(shot for subject in subjects for shot in subject.shots))
        self.examples: list[Example] = []
        self.names = sorted({name for s in subjects for name in (s.label, s.surrogate) if name})

    def bare(self, source: BareSource, store: Store) -> Part:
        return self._part("bare model", source, {}, "", store, dict.fromkeys(self.shots, store), {}, Proof())

    def folder(self, source: FolderSource, store: Store) -> Part:
        for shot in self.shots:
            source.store.load(shot)
        found = dict.fromkeys(self.shots, source.store)
        return self._part(source.name, source, {}, "", store, found, {}, Proof())

    def guarded(self, variant: Variant, bare: BareSource, store: Store, folder: Path) -> Part:
        guarded = guard(bare.model, variant.membranes, transport=variant.transport)
        guarded.eject()
        source = GuardSource(guarded, variant.transport, bare.steps, bare.guidance)
        own = Store(folder, source.settings())
        rows = source.opened([shot.prompt for shot in self.shots])
        opened = dict(zip(self.shots, rows, strict=True))
        # a prompt that opens nothing gives the bare model's picture, so it is not made twice
        closed = [shot for shot in self.shots if not any(opened[shot].values())]
        acting = [shot for shot in self.shots if any(opened[shot].values())]
        self.done(len(closed))
        fill(own, acting, lambda some: (source.make(some), [opened[shot] for shot in some]),
             batch=self.batch, done=self.done)  # fmt: skip
        where = dict.fromkeys(closed, store) | dict.fromkeys(acting, own)
        worn = {name: membrane_digest(guarded.stack.membrane(name)) for name in guarded.names}
        return self._part(
            variant.name, source, worn, variant.transport, store, where, opened, _prove(source, bare, closed)
        )

    def _part(
        self,
        name: str,
        source: Source,
        membranes: dict[str, str],
        transport: str,
        bare: Store,
        where: dict[Shot, Store],
        opened: dict[Shot, dict[str, float]],
        proof: Proof,
    ) -> Part:
        rows, seen_labels, bare_labels = [], [], []
        histogram: dict[str, list[int]] = {}
        is_bare = isinstance(source, BareSource) and not isinstance(source, GuardSource)
        for subject in self.subjects:
            there = _pictures(where, subject.shots)
            plain = _pictures(dict.fromkeys(subject.shots, bare), subject.shots)
            guarded = Seen(subject, there, plain, self.judge, self.names)
            beside = Seen(subject, plain, plain, self.judge, self.names)
            alone = [n for n in self.metrics if n != "alteration" and not (n in BETWEEN_SETS and not subject.reference)]
            of_bare = figures(beside, alone)
            furthest = [max(opened.get(shot, {}).values(), default=0.0) for shot in subject.shots]
            rows.append(
                Row(
                    name=subject.name,
                    role=subject.role,
                    pictures=len(subject.shots),
                    opened=float(np.mean(furthest)),
                    figures=of_bare if is_bare else figures(guarded, self.metrics),
                    bare=of_bare,
                )
            )
            if subject.label:
                bare_labels.append((subject, beside.labels))
                seen_labels.append((subject, beside.labels if is_bare else guarded.labels))
            shown = sum(row.role == subject.role for row in rows)
            if shown <= ROWS_SHOWN[subject.role]:
                self.examples.append(_example(name, subject, plain, there, opened, is_bare))
            counts, _ = np.histogram(furthest, bins=10, range=(0, 1))
            known = np.array(histogram.get(subject.role, [0] * 10))
            histogram[subject.role] = [int(n) for n in known + counts]
        return Part(
            name=name,
            model=str(source.settings().get("model", "")),
            membranes=membranes,
            transport=transport,
            rows=rows,
            summary=efficacy(seen_labels),
            bare_summary=efficacy(bare_labels),
            closed=sum(not any(row.values()) for row in opened.values()),
            proof=proof,
            permeability=histogram,
        )


def _example(
    part: str, subject: Subject, bare: Pictures, there: Pictures, opened: dict[Shot, dict[str, float]], is_bare: bool
) -> Example:
    shots = subject.shots[:SHOWN]
    notes = [" ".join(f"{name} {gamma:.2g}" for name, gamma in opened.get(shot, {}).items()) for shot in shots]
    plain = bare.some(SHOWN)
    guarded = plain[:0] if is_bare else there.some(SHOWN)
    return Example(part, subject.name, plain, guarded, [shot.prompt for shot in shots], notes)


def _pictures(where: dict[Shot, Store], shots: Sequence[Shot]) -> Pictures:
    return Pictures(lambda number: where[shots[number]].load(shots[number]), len(shots))


def _prove(source: GuardSource, bare: BareSource, closed: list[Shot]) -> Proof:
    """Make some of the pictures that were taken over, with membranes on and without, and compare them bit for bit."""
    plain = [shot for shot in closed if not shot.negative and shot.guidance is None]
    rng = np.random.default_rng(0)
    picked = [plain[int(i)] for i in rng.choice(len(plain), min(PROVED, len(plain)), replace=False)] if plain else []
    if not picked:
        return Proof()
    same = (source.make(picked) == bare.make(picked)).reshape(len(picked), -1).all(1)
    return Proof(checked=len(picked), identical=int(same.sum()))


def _shared(cache: Path, source: BareSource) -> Store:
    settings = source.settings()
    key = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:16]
    return Store(cache / "bare" / key, json.loads(json.dumps(settings, default=str)))


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name.lower()).strip("-") or "guarded"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "source"


def revision() -> str:
    """Return the git revision of the source that runs, or nothing where there is no checkout."""
    here = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=5,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return found.stdout.strip() if found.returncode == 0 else ""
