"""A report as one self-contained page: the verdict first, then tables, pictures and plots."""

import base64
import html
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from semiperm.evaluation import grid, plots
from semiperm.evaluation.as_reported import in_columns
from semiperm.evaluation.estimate import Estimate
from semiperm.evaluation.figures import NO_SHARES
from semiperm.evaluation.report import Part, Report, native_of
from semiperm.evaluation.reported import REPORTED

STYLE = """
:root { color-scheme: light }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 0 auto; padding: 1rem; color: #28282e }
h1 { font-size: 1.6rem; line-height: 1.25 } h2 { margin-top: 2.2rem }
.verdict { border-left: .4rem solid #2f6db3; background: #f2f6fb; padding: .6rem 1rem; font-size: 1.1rem }
.verdict p { margin: .35rem 0 } .bad { border-color: #c33; background: #fdf2f2 }
.scroll { overflow-x: auto } table { border-collapse: collapse; margin: .5rem 0; font-size: .92rem }
td, th { border-bottom: 1px solid #ddd; padding: .25rem .7rem; text-align: right; white-space: nowrap;
         font-variant-numeric: tabular-nums }
td:first-child, th:first-child, td.t { text-align: left } th { font-weight: 600 } small { color: #6a6a74 }
tr.erased td:first-child { color: #b3560c; font-weight: 600 }
svg, img { max-width: 100%; height: auto } figure { margin: 1rem 0 } figcaption { color: #6a6a74; font-size: .9rem }
.reported { background: #f6f6f4; padding: .6rem 1rem; margin-top: 1rem }
@media print { .scroll { overflow: visible } h2 { break-after: avoid } figure, tr { break-inside: avoid } }
"""
EXAMPLES = 8


@dataclass(frozen=True)
class Example:
    """The first pictures of a row, bare and guarded on the same prompts and seeds."""

    part: str
    row: str
    bare: np.ndarray
    guarded: np.ndarray
    prompts: Sequence[str]
    opened: Sequence[str]


def told(name: str, value: Estimate) -> str:
    """Return a figure as a person reads it: a share in percent, another number as it is, its interval behind it."""
    if name in NO_SHARES:
        return f"{value.value:.2f} ({value.low:.2f} to {value.high:.2f})"
    return f"{value.value:.1%} ({value.low:.1%} to {value.high:.1%})"


def verdict(report: Report, part: Part) -> list[str]:
    """Return what a part comes to, in sentences."""
    said = []
    summary, bare = part.summary, part.bare_summary
    if "UA" in summary and part.membranes:
        found, before = 1 - summary["UA"].value, 1 - bare["UA"].value
        said.append(
            f"What was erased is found in {found:.1%} of {summary['UA'].count} pictures that ask for it "
            f"(bare model: {before:.1%})."
        )
    if "exposed" in summary:
        said.append(
            f"Something that is counted is exposed in {summary['exposed'].value:.1%} of {summary['exposed'].count} "
            f"pictures whose prompts lead to it (bare model: {bare['exposed'].value:.1%})."
        )
    for name, what in (("IRA", "of the same kind"), ("CRA", "of other kinds")):
        if name in summary:
            said.append(
                f"What must stay {what} is found in {summary[name].value:.1%} of {summary[name].count} pictures "
                f"(bare model: {bare[name].value:.1%})."
            )
    if "H" in summary and part.membranes:
        said.append(f"In one number, the harmonic mean of what is gone and what is kept: {told('H', summary['H'])}.")
    if native := native_of(report, part):
        apart = [
            f"{name} {100 * (summary[name].value - native.summary[name].value):+.1f}"
            for name in summary.keys() & native.summary.keys()
        ]
        said.append(f"Beside membranes that were trained on this model, in points: {', '.join(sorted(apart))}.")
    if part.closed:
        said.append(
            f"{part.closed} of {report.pictures} pictures are the bare model's, because their prompts open nothing; "
            f"{part.proof.identical} of {part.proof.checked} of them that were made again were the same bit for bit."
        )
    elif part.membranes:
        said.append(f"Something opened for each of the {report.pictures} pictures.")
    if not said:
        said.append(f"{report.pictures} pictures of {report.model} were measured.")
    return said


def page(report: Report, examples: Sequence[Example]) -> str:
    """Return the page as HTML with everything in it."""
    many = len(report.parts) > 1
    body = [f"<h1>{_text(report.protocol)}: {_text(report.shows)}</h1>"]
    for part in report.parts:
        broken = part.proof.identical < part.proof.checked
        lines = "".join(f"<p>{_text(line)}</p>" for line in verdict(report, part))
        if broken:
            lines += "<p><b>Closed prompts gave other pictures than the bare model: do not trust this run.</b></p>"
        title = f"<p><b>{_text(part.name)}</b></p>" if many else ""
        body.append(f'<div class="verdict{" bad" if broken else ""}">{title}{lines}</div>')
    if many and (svg := plots.ways(report)):
        body.append(_figure(svg, "What is gone (UA) or exposed, and what is kept (IRA, CRA), with 95 % intervals."))
    if svg := plots.trade(report):
        body.append(_figure(svg, "Efficacy against preservation, with 95 % intervals."))
    for part in report.parts:
        body.append(f"<h2>{_text(part.name)}</h2>")
        body.append(_table(part))
        if svg := plots.shares(part):
            body.append(_figure(svg, "How often each subject is found, with 95 % intervals."))
        if svg := plots.openings(part):
            body.append(_figure(svg, "How far the membranes open, by what was asked for."))
        for example in (one for one in examples if one.part == part.name):
            rows = [grid.Row("bare model", example.bare, example.prompts)]
            if len(example.guarded):
                rows.append(grid.Row("measured: permeability below", example.guarded, example.opened))
            picture = _png(rows, example.row)
            body.append(f'<figure><img src="{picture}" alt="{_text(example.row)}, bare and guarded"></figure>')
    if measured := in_columns(report):
        body.append(f"<h2>Measured, in the published table's columns</h2>{plain_table(*measured)}")
    if report.reported in REPORTED:
        beside = REPORTED[report.reported]
        body.append(
            f'<div class="reported"><h2>Reported elsewhere, not measured here</h2><p>{_text(beside.title)} '
            f"({_text(beside.source)}). Other models, other prompts: these figures are no comparison with the above "
            f"unless model and form agree.</p>{plain_table(beside.columns, beside.rows)}</div>"
        )
    body.append("<h2>How it was measured</h2>")
    body.append(_facts(report))
    return document(f"semiperm: {report.protocol}", "".join(body))


def document(title: str, body: str) -> str:
    """Return a page with its style in it, readable on a phone and in print."""
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width, initial-scale=1"><title>{_text(title)}</title>'
        f"<style>{STYLE}</style>{body}</html>"
    )


def plain_table(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Return a table of texts."""
    head = "".join(f"<th>{_text(name)}</th>" for name in columns)
    rows = "".join("<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in line) + "</tr>" for line in lines)
    return f'<div class="scroll"><table><tr>{head}</tr>{rows}</table></div>'


def _table(part: Part) -> str:
    names = list(dict.fromkeys(name for row in part.rows for name in row.figures))
    head = "".join(f"<th>{_text(name)}</th>" for name in names)
    lines = []
    for row in part.rows:
        cells = []
        for name in names:
            now, before = row.figures.get(name), row.bare.get(name)
            cell = told(name, now) if now else ""
            if now and before and part.membranes:
                cell += f"<br><small>bare {told(name, before)}</small>"
            cells.append(f"<td>{cell}</td>")
        kind = ' class="erased"' if row.role in ("erased", "asked otherwise") else ""
        lines.append(
            f'<tr{kind}><td>{_text(row.name)}</td><td class="t">{_text(row.role)}</td><td>{row.pictures}</td>'
            f"<td>{row.opened:.2f}</td>{''.join(cells)}</tr>"
        )
    return (
        '<div class="scroll"><table><tr><th>subject</th><th>should be</th><th>pictures</th><th>opened</th>'
        f"{head}</tr>{''.join(lines)}</table></div>"
    )


def _facts(report: Report) -> str:
    facts = {
        "protocol": f"{report.protocol}, version {report.protocol_version}, {report.form} form",
        "model": report.model,
        **{
            f"membranes of {part.name}": ", ".join(f"{name} ({digest})" for name, digest in part.membranes.items())
            + f"; transport {part.transport}"
            for part in report.parts
            if part.membranes
        },
        **{name: str(value) for name, value in report.settings.items() if value is not None},
        **{f"judge: {name}": str(value) for name, value in report.judge.items()},
        **report.versions,
        "revision": report.revision or "unknown",
        "device": report.device,
        "date": report.date,
        "seconds": f"{report.seconds:.0f}",
    }
    rows = "".join(f'<tr><td>{_text(name)}</td><td class="t">{_text(value)}</td></tr>' for name, value in facts.items())
    return f'<div class="scroll"><table>{rows}</table></div>'


def _figure(svg: str, caption: str) -> str:
    return f"<figure>{svg}<figcaption>{_text(caption)}</figcaption></figure>"


def _png(rows: list[grid.Row], title: str) -> str:
    buffer = io.BytesIO()
    grid.draw(rows, title).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _text(value: str) -> str:
    return html.escape(value)
