"""A protocol and a job give a report: make the pictures, look at them, say what was found."""

import datetime
import hashlib
import json
import subprocess
import time
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from semiperm.atomic import write
from semiperm.concept import file_name
from semiperm.evaluation.estimate import Estimate
from semiperm.evaluation.figures import Seen, efficacy, figures
from semiperm.evaluation.judges import Judge
from semiperm.evaluation.page import Example, page
from semiperm.evaluation.pictures import BATCH, GUIDANCE, STEPS
from semiperm.evaluation.protocol import Job, Protocol, ProtocolError, Subject, Variant
from semiperm.evaluation.report import Part, Proof, Report, Row, save
from semiperm.evaluation.sources import BareSource, FolderSource, GuardSource, Source
from semiperm.evaluation.store import Pictures, Shot, Store, fill
from semiperm.guarded import guard

PROVED = 4
SHOWN = 8
# rows of each role that the page shows pictures of
ROWS_SHOWN = {"erased": 4, "asked otherwise": 8, "not asked": 4, "kept": 3, "other domain": 2}


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
    batch: int | None = None,
    quiet: bool = False,
) -> tuple[Report, list[Example]]:
    """Run a protocol and return its report and some pictures to show; `out` gets report.json and report.html.

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
    batch = batch or BATCH
    steps = steps or (STEPS if small else protocol.steps)
    guidance = (GUIDANCE if small else protocol.guidance) if guidance is None else guidance
    subjects = protocol.subjects(job)
    if not any(subject.shots for subject in subjects):
        raise ProtocolError(f"the protocol {protocol.name!r} has no pictures to make for this job")
    shots = list(dict.fromkeys(shot for subject in subjects for shot in subject.shots))
    variants = [] if pictures or not job.membranes else protocol.variants(job)
    # every model's own pictures, and every variant's
    rounds = max(1, len({id(variant.model) for variant in variants}) + len(variants))
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, disable=quiet) as bar:
        task = bar.add_task("pictures", total=len(shots) * rounds)

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
            own = out / "pictures" / (file_name(variant.name) or "guarded")
            parts.append(measured.guarded(variant, source, store, own))
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
    save(report, out / "report.json")
    write(out / "report.html", page(report, measured.examples))
    return report, measured.examples


class _Measured:
    """Makes one part of a report after the other."""

    def __init__(self, judge: Judge, subjects: list[Subject], metrics: tuple[str, ...], batch: int, done) -> None:  # noqa: ANN001
        self.judge, self.subjects, self.metrics, self.batch, self.done = judge, subjects, metrics, batch, done
        self.shots = list(dict.fromkeys(shot for subject in subjects for shot in subject.shots))
        self.examples: list[Example] = []
        self._known: dict[tuple[Path, int], tuple[Seen, dict[str, Estimate]]] = {}
        # made once, because what was looked at is known by the subject itself
        self._as_kept = {id(subject): replace(subject, role="kept") for subject in subjects}
        self.names = sorted({name for s in subjects for name in (s.label, s.surrogate) if name})

    def bare(self, source: BareSource, store: Store) -> Part:
        return self._part("bare model", source, {}, "", store, None, {}, Proof())

    def folder(self, source: FolderSource, store: Store) -> Part:
        for shot in self.shots:
            source.store.load(shot)
        found = dict.fromkeys(self.shots, source.store)
        return self._part(source.name, source, {}, "", store, found, {}, Proof())

    def guarded(self, variant: Variant, bare: BareSource, store: Store, folder: Path) -> Part:
        guarded = guard(bare.model, variant.membranes, transport=variant.transport)
        guarded.eject()
        source = GuardSource(bare, guarded, variant.transport)
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
        proof = _prove(source, bare, closed)
        return self._part(
            variant.name, source, source.membranes, variant.transport, store, where, opened, proof, variant.spared
        )

    def _bare(self, subject: Subject, store: Store) -> tuple[Seen, dict[str, Estimate]]:
        """Return the bare model's row; what was looked at for one variant is not looked at again for the next."""
        key = (store.folder, id(subject))
        if key not in self._known:
            seen = self._seen(subject, dict.fromkeys(subject.shots, store), None)
            self._known[key] = seen, figures(seen, self.metrics)
        return self._known[key]

    def _seen(self, subject: Subject, where: dict[Shot, Store], bare: Seen | None) -> Seen:
        shots = subject.shots
        pictures = Pictures(lambda number: where[shots[number]].load(shots[number]), len(shots))
        return Seen(subject, pictures, self.judge, self.names, bare)

    def _part(
        self,
        name: str,
        source: Source,
        membranes: dict[str, str],
        transport: str,
        bare: Store,
        where: dict[Shot, Store] | None,
        opened: dict[Shot, dict[str, float]],
        proof: Proof,
        spared: frozenset[str] = frozenset(),
    ) -> Part:
        rows: list[Row] = []
        looked: list[Seen] = []
        histogram: dict[str, list[int]] = {}
        for subject in (self._as_kept[id(one)] if one.name in spared else one for one in self.subjects):
            beside, of_bare = self._bare(subject, bare)
            seen = beside if where is None else self._seen(subject, where, beside)
            looked.append(seen)
            furthest = [max(opened.get(shot, {}).values(), default=0.0) for shot in subject.shots]
            rows.append(
                Row(
                    name=subject.name,
                    role=subject.role,
                    pictures=len(subject.shots),
                    opened=float(np.mean(furthest)),
                    figures=of_bare if where is None else figures(seen, self.metrics),
                    bare=of_bare,
                )
            )
            shown = sum(row.role == subject.role for row in rows)
            if shown <= ROWS_SHOWN[subject.role]:
                self.examples.append(_example(name, beside, None if where is None else seen, opened))
            counts, _ = np.histogram(furthest, bins=10, range=(0, 1))
            known = np.array(histogram.get(subject.role, [0] * 10))
            histogram[subject.role] = [int(n) for n in known + counts]
        return Part(
            name=name,
            model=str(source.settings().get("model", "")),
            membranes=membranes,
            transport=transport,
            rows=rows,
            summary=efficacy(looked, self.metrics),
            bare_summary=efficacy([seen.bare or seen for seen in looked], self.metrics),
            closed=sum(not any(row.values()) for row in opened.values()),
            proof=proof,
            permeability=histogram,
        )


def _example(part: str, bare: Seen, guarded: Seen | None, opened: dict[Shot, dict[str, float]]) -> Example:
    shots = bare.subject.shots[:SHOWN]
    notes = [" ".join(f"{name} {gamma:.2g}" for name, gamma in opened.get(shot, {}).items()) for shot in shots]
    plain = bare.pictures.some(SHOWN)
    made = plain[:0] if guarded is None else guarded.pictures.some(SHOWN)
    return Example(part, bare.subject.name, plain, made, [shot.prompt for shot in shots], notes)


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
    settings = json.dumps(source.settings(), sort_keys=True)
    return Store(cache / "bare" / hashlib.sha256(settings.encode()).hexdigest()[:16], source.settings())


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
