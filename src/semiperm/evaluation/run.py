"""A task gives a report: resolve its names, generate the pictures, judge them, write report.json."""

import datetime
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from semiperm.errors import ProtocolError
from semiperm.evaluation.bench import Bench, Setup, shots_of
from semiperm.evaluation.context import Context, resolve, with_erasures, world_of
from semiperm.evaluation.example import Example
from semiperm.evaluation.protocol import ArmPlan, Protocol
from semiperm.evaluation.protocols import find
from semiperm.evaluation.report import Report, save
from semiperm.evaluation.task import Task
from semiperm.methods.training import Progress
from semiperm.pictures import BATCH

REPORT = "report.json"


def run(
    task: Task,
    *,
    out: Path,
    cache: Path,
    progress: Callable[[int, int], None] | None = None,
    training: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> tuple[Report, list[Example]]:
    """Run a task and return its report and some pictures to show; `out` gets report.json.

    A stopped run resumes from what `out` and `cache` hold.

    Args:
        out: the run's folder: its pictures, and the erasures that it makes.
        cache: the folder of bare pictures, for all runs with the same model, shots and settings.
        progress: called with the number of pictures done and in all.
        training: called after each training step of erasures that the run makes.
        stop: asked after each of these steps; if it returns True, a checkpoint is written and Stopped is raised.

    Raises:
        ProtocolError: there is no such protocol, or it lacks something.
        StoreError: `out` holds another run, or a picture is missing.
        JudgeError: a model, a package or a file of a metric is missing; raised before anything is made.
        SemipermError: what `resolve` raises.
        Stopped: `stop` returned True.
    """
    protocol = find(task.protocol)
    if protocol.makes and task.method:
        raise ProtocolError(
            f"the protocol {protocol.name!r} compares erasures that it makes itself, so a method would be ignored: "
            "leave --method out"
        )
    world_of(task).require(protocol.metrics, protocol.files)
    context = resolve(task, out / "erasures", progress=training, stop=stop)
    # Rows read the world's files: what is wrong with them is found before hours of training.
    protocol.rows(context, ArmPlan("bare"))
    context = with_erasures(context)
    return measure(protocol, context, out=out, cache=cache, progress=progress)


def measure(
    protocol: Protocol,
    context: Context,
    *,
    out: Path,
    cache: Path,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Report, list[Example]]:
    """Run a protocol in a context; the rest is as in `run`."""
    began = time.monotonic()
    task, world = context.task, context.world
    setup = Setup(
        steps=task.steps or world.steps,
        guidance=world.guidance if task.guidance is None else task.guidance,
        batch=task.batch or BATCH,
        out=out,
        cache=cache,
        proofs=protocol.proofs,
    )
    plans = [(plan, tuple(protocol.rows(context, plan))) for plan in _arms(protocol, context)]
    shots = shots_of([subject for _, rows in plans for subject in rows])
    if not shots:
        raise ProtocolError(f"the protocol {protocol.name!r} has no pictures to generate for this task")
    judge = world.judge(str(context.model.device))
    bench = Bench(plans, context.model, judge, protocol.metrics, setup, progress)
    arms = [
        bench.measure(plan, rows) if task.pictures is None else bench.measure_folder(task.pictures, rows)
        for plan, rows in plans
    ]
    report = Report(
        protocol=protocol.name,
        protocol_version=protocol.version,
        shows=protocol.shows,
        world=world.name,
        model=context.model.name,
        settings={
            "steps": setup.steps, "guidance": setup.guidance, "batch": setup.batch, "seeds": task.seeds,
        },
        judge=judge.describe(),
        versions={name: _version(name) for name in ("semiperm", "torch", "diffusers", "transformers", "numpy")},
        revision=revision(),
        device=str(context.model.device),
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - began, 1),
        pictures=len(shots),
        published=protocol.published,
        arms=arms,
    )  # fmt: skip
    save(report, out / REPORT)
    return report, bench.examples


def _arms(protocol: Protocol, context: Context) -> list[ArmPlan]:
    if context.task.pictures is not None:
        return [ArmPlan(context.task.pictures.name)]
    return list(protocol.arms(context)) or [ArmPlan("bare model")]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "source"


def revision() -> str:
    """Return the git revision of the running source, or nothing outside of a checkout."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=5,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return found.stdout.strip() if found.returncode == 0 else ""
