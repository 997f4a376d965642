"""`semiperm terrarium`: make the small world that ships with the package, and measure it."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from semiperm.cli import options
from semiperm.cli.console import Commands, bar, resumable, say, table
from semiperm.cli.options import Force, Model
from semiperm.errors import SemipermError, close_match

if TYPE_CHECKING:
    from semiperm.methods.training import Progress

app = typer.Typer(cls=Commands, no_args_is_help=True, help="The small world that ships with the package.")

EVERY = 50
RESUME = "run the same command again to resume"


@app.command()
def train(
    part: Annotated[
        list[str] | None, typer.Option(help="tokenizer, clip, vae, oracle or denoiser; all by default; repeatable")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="folder of the model; the package's own by default")] = None,
    cache: Annotated[Path, typer.Option(help="folder for scenes and checkpoints")] = Path(".cache/terrarium"),
    threads: Annotated[int | None, typer.Option(help="torch threads; torch's own number by default", min=1)] = None,
) -> None:
    """Train the terrarium from scratch; training resumes from the checkpoints in the cache."""
    from semiperm.terrarium import WEIGHTS
    from semiperm.terrarium.making.train import PARTS, train

    for name in part or ():
        if name not in PARTS:
            raise SemipermError(
                f"The terrarium has no part {name!r}; its parts are {', '.join(PARTS)}.{close_match(name, PARTS)}"
            )
    with resumable(RESUME):
        train(out or WEIGHTS, cache, part or PARTS, threads=threads, progress=_Lines())


@app.command()
def build(
    name: Annotated[str | None, typer.Argument(help="a relative, or all; without it they are listed")] = None,
    cache: Annotated[Path | None, typer.Option(help="cache folder; $SEMIPERM_CACHE or the user's by default")] = None,
) -> None:
    """Build a relative of the terrarium, to carry membranes to; what is built already is kept."""
    from semiperm.terrarium.relatives import PREFIX, RELATIVES, find, is_built

    if name is None:
        rows = [
            (PREFIX + one.name, one.what, one.minutes, "yes" if is_built(one, cache) else "")
            for one in RELATIVES.values()
        ]
        table(("model", "what it is", "minutes", "built"), rows)
        return
    wanted = list(RELATIVES.values()) if name == "all" else [find(name.removeprefix(PREFIX))]
    from semiperm.terrarium.making.build import build

    with resumable(RESUME):
        for relative in wanted:
            say(build(relative, cache, progress=_Lines()))


@app.command()
def evaluate(
    model: Model = "terrarium",
    seeds: Annotated[int, typer.Option(help="pictures for each prompt; fewer are quicker and less exact", min=1)] = 8,
    out: Annotated[Path | None, typer.Option(help="write the table (Markdown) here as well")] = None,
    cache: Annotated[Path, typer.Option(help="folder of the pictures")] = Path(".cache/evaluation"),
    force: Force = False,
) -> None:
    """Measure how well the terrarium draws its world, beside the bars that it must reach."""
    from semiperm.evaluation.bars import bars, speed
    from semiperm.evaluation.bars import table as markdown
    from semiperm.evaluation.context import resolve
    from semiperm.evaluation.protocols import find
    from semiperm.evaluation.run import measure
    from semiperm.evaluation.task import Task
    from semiperm.paths import write

    options.quieten()
    if out is not None:
        options.check_writable(out, force=force)
    folder = cache / "fidelity"
    context = resolve(Task(protocol="fidelity", model=model, seeds=seeds), folder)
    with resumable(RESUME), bar() as show:
        report, _ = measure(
            find("fidelity"), context, out=folder, cache=cache,
            progress=lambda done, total: show("pictures", done, total, {}),
        )  # fmt: skip
        found = [*bars(report), speed(context.model)]
    if out is not None:
        write(out, markdown(found) + "\n")
    for line in markdown(found).splitlines():
        say(line)


class _Lines:
    """Prints a line of progress every `EVERY` steps: the mean loss since the last line, and the time left."""

    def __init__(self) -> None:
        self._name = ""
        self._began, self._first = 0.0, 0
        self._losses: list[float] = []

    def __call__(self, now: "Progress") -> None:
        if now.name != self._name:
            # Time is counted from the end of the first step, which is not number 1 where a training resumes.
            self._name, self._began, self._first, self._losses = now.name, time.monotonic(), now.step, []
        self._losses.append(now.figures["loss"])
        if now.step % EVERY and now.step != now.steps:
            return
        line = f"{now.name}: {now.step} of {now.steps} steps, loss {sum(self._losses) / len(self._losses):.4f}"
        if now.step > self._first:
            each = (time.monotonic() - self._began) / (now.step - self._first)
            line += f", {each * (now.steps - now.step) / 60:.1f} minutes left"
        say(line)
        self._losses.clear()
