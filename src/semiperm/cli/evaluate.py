"""`semiperm evaluate`, `compare` and `protocols`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from semiperm.cli import options
from semiperm.cli.console import bar, resumable, say, table
from semiperm.cli.interrupt import interruptible
from semiperm.cli.options import Erasures, Force, Gate, MethodName, Model
from semiperm.concept import Concept
from semiperm.errors import SemipermError

if TYPE_CHECKING:
    from semiperm.evaluation.report import Report
    from semiperm.evaluation.task import Task
    from semiperm.methods.training import Progress


def evaluate(
    protocol: Annotated[str, typer.Option("--protocol", "-p", help="see `semiperm protocols`")],
    out: Annotated[Path, typer.Option(help="folder for report.json, report.html and the pictures")],
    membrane: Erasures = None,
    gate: Gate = "fitted",
    model: Model = "terrarium",
    world: Annotated[str, typer.Option(help="terrarium or open: who asks and judges; the model's own by default")] = "",
    target: Annotated[
        list[str] | None, typer.Option(help="a concept that counts as erased, without --membrane; repeatable")
    ] = None,
    method: MethodName = None,
    sets: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="a setting of --method; repeatable")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(help="pictures for each prompt; the world's number by default", min=1)
    ] = None,
    pictures: Annotated[
        Path | None, typer.Option(help="measure a folder of pictures with a manifest instead of erasures")
    ] = None,
    prompts: Annotated[Path | None, typer.Option(help="open world: CSV of prompts")] = None,
    reference: Annotated[Path | None, typer.Option(help="open world: folder of photographs or originals")] = None,
    clip: Annotated[str | None, typer.Option(help="open world: CLIP model; the paper's by default")] = None,
    inception: Annotated[
        Path | None, typer.Option(help="open world: TorchScript of Inception, for FID and KID")
    ] = None,
    sscd: Annotated[Path | None, typer.Option(help="open world: TorchScript of SSCD, for copies")] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="open world: load --inception and --sscd; TorchScript files run their code")
    ] = False,
    on: Annotated[list[str] | None, typer.Option(help="a further model, for `transfer`; repeatable")] = None,
    against: Annotated[
        list[Path] | None,
        typer.Option(help="compare with the report.json of another run, or with other erasures; repeatable"),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="denoising steps", min=1, max=1000)] = None,
    guidance: Annotated[float | None, typer.Option(help="guidance scale")] = None,
    batch: Annotated[int | None, typer.Option(help="pictures that are generated at once", min=1)] = None,
    cache: Annotated[Path, typer.Option(help="folder of bare pictures, for all runs")] = Path(".cache/evaluation"),
    force: Force = False,
) -> None:
    """Measure erasures, or the bare model, by a protocol. The same command resumes a run that was stopped."""
    from semiperm.evaluation import report
    from semiperm.evaluation.protocols import find
    from semiperm.evaluation.task import Task

    others = [path for path in against or () if path.suffix == ".safetensors"]
    if len(against or ()) > (len(others) or 1):
        raise SemipermError("--against takes either one report.json or some erasures.")
    if sets and not method:
        raise SemipermError("--set gives settings of a method: name it with --method.")
    kind = find(protocol).kind
    given = {
        "prompts": prompts, "reference": reference, "clip": clip, "inception": inception, "sscd": sscd,
        "trust": "yes" if trust else None,
    }  # fmt: skip
    task = Task(
        protocol=protocol,
        model=model,
        erasures=tuple(membrane or ()),
        gate=gate,
        world=world,
        options={name: str(value) for name, value in given.items() if value is not None},
        targets=tuple(Concept(name=name, kind=kind) for name in target or ()),
        seeds=seeds,
        models=tuple(on or ()),
        method=method or "",
        settings=options.settings(sets or ()),
        pictures=pictures,
        steps=steps,
        guidance=guidance,
        batch=batch,
    )
    options.quieten()
    for folder in (out, out / "against") if others else (out,):
        _claim(folder, task, force)
    with resumable("run the same command again to resume"):
        measured = _run(task, out, cache)
        if others:
            first = _run(task.model_copy(update={"erasures": tuple(others), "pictures": None}), out / "against", cache)
        elif against:
            first = report.load(against[0])
        else:
            return
    _show(first, measured)


def compare(
    first: Annotated[Path, typer.Argument(help="report.json of a run")],
    second: Annotated[Path, typer.Argument(help="report.json of another run of the same protocol")],
    out: Annotated[Path | None, typer.Option(help="write the comparison as a page (HTML) here as well")] = None,
    force: Force = False,
) -> None:
    """Show how the second report differs from the first."""
    from semiperm.evaluation import report
    from semiperm.paths import write
    from semiperm.reports.compare import page

    before, after = report.load(first), report.load(second)
    if out is not None:
        write(options.check_writable(out, force=force), page(before, after, (str(first), str(second))))
    _show(before, after, (str(first), str(second)))
    if out is not None:
        say(out)


def protocols() -> None:
    """List the protocols: what a good result shows, and what each costs."""
    from semiperm.evaluation.protocols import PROTOCOLS

    rows = [(f"{one.name} /{one.version}", one.shows, one.cost) for one in PROTOCOLS.values()]
    table(("protocol", "shows", "cost"), rows)


def _claim(out: Path, task: "Task", force: bool) -> None:
    """Check that a run may write its report and its page; those of an earlier run of this protocol need no force."""
    from semiperm.evaluation import report
    from semiperm.evaluation.run import REPORT

    def ours(_: Path) -> bool:
        try:
            return report.load(out / REPORT).protocol == task.protocol
        except (SemipermError, OSError, ValueError):
            return False

    for name in (REPORT, "report.html"):
        options.check_writable(out / name, force=force, ours=ours)


def _run(task: "Task", out: Path, cache: Path) -> "Report":
    """Run a task with a progress bar, write its page, and print its verdicts."""
    from semiperm.evaluation.run import run
    from semiperm.paths import write
    from semiperm.reports.page import page
    from semiperm.reports.verdict import verdict

    with interruptible() as interrupt, bar() as show:

        def pictures(done: int, total: int) -> None:
            # Finished batches are on the disk, so a batch is not worth waiting for.
            interrupt.waits = False
            if interrupt.pressed():
                raise KeyboardInterrupt
            show("pictures", done, total, {})

        def training(now: "Progress") -> None:
            interrupt.waits = True
            show(now.name, now.step, now.steps, now.figures)

        report, examples = run(task, out=out, cache=cache, progress=pictures, training=training, stop=interrupt.pressed)
    write(out / "report.html", page(report, examples))
    for arm in report.arms:
        for line in verdict(report, arm).lines:
            say(line)
    say(out / "report.html")
    return report


def _show(first: "Report", second: "Report", names: Sequence[str] = ("first", "second")) -> None:
    from semiperm.reports.compare import HEAD, summed_up
    from semiperm.reports.compare import compare as differ

    found = differ(first, second)
    certain = [number for number, one in enumerate(found) if one.certain]
    table(HEAD, [one.cells for one in found], title=f"{names[0]} -> {names[1]}", bold=certain)
    say(summed_up(found))
