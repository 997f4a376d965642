"""The result of a run as a typed file."""

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from semiperm.errors import ReportError, clipped
from semiperm.evaluation.estimate import Estimate
from semiperm.files.strict import from_json
from semiperm.paths import read_text, write

Expected = Literal["gone", "kept", "either"]
FORMAT = "semiperm-report/2"
MAX_BYTES = 256 * 1024**2
# names of arms begin so where the erasures were made on another model, and where they were made on this one
CARRIED, NATIVE = "carried to ", "native on "


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Row(_Strict):
    """One subject's figures, and the bare model's on the same prompts and seeds."""

    name: str
    group: str
    """What the rows of a group have in common: "target", "paraphrase", "not asked", "same kind", "other kinds"."""
    expected: Expected
    pictures: int
    opened: float
    """Mean permeability of the membrane that opens furthest."""
    figures: dict[str, Estimate]
    bare: dict[str, Estimate]


class Proof(_Strict):
    """Pictures of closed prompts that were generated again with the erasures on, to compare them with the bare ones."""

    checked: int = 0
    identical: int = 0


class Arm(_Strict):
    """One way of erasing within a protocol, measured."""

    name: str
    model: str
    erasures: dict[str, str]
    """Names and hashes."""
    gate: str
    """Which gate was used: "fitted", "paper" or "always"; empty where nothing is gated."""
    pictures: int
    """Distinct pictures of all rows."""
    rows: list[Row]
    summary: dict[str, Estimate]
    bare_summary: dict[str, Estimate]
    closed: int
    """Pictures whose prompts open nothing: the bare model's by construction."""
    proof: Proof
    permeability: dict[str, list[int]]
    """For each group how many pictures open how far, in ten equal steps from 0 to 1."""


class Report(_Strict):
    """All that a run has measured, and everything that is needed to measure it again."""

    format: str = FORMAT
    protocol: str
    protocol_version: int
    shows: str
    world: str
    """Who judged: "terrarium" or "open"."""
    model: str
    settings: dict[str, Any]
    judge: dict[str, Any]
    versions: dict[str, str]
    revision: str
    device: str
    date: str
    seconds: float
    pictures: int
    published: str = ""
    """Name of the published table to show beside, in `semiperm.reports.published`."""
    arms: list[Arm]


def native_of(report: Report, arm: Arm) -> Arm | None:
    """Return the arm with erasures made on the same model, for an arm whose erasures were made on another."""
    if not arm.name.startswith(CARRIED):
        return None
    beside = NATIVE + arm.name.removeprefix(CARRIED)
    return next((other for other in report.arms if other.name == beside), None)


def save(report: Report, path: Path) -> None:
    """Write a report, whole or not at all."""
    write(path, report.model_dump_json(indent=1) + "\n")


def load(path: Path) -> Report:
    """Read a report.

    Raises:
        OSError: there is no such file.
        ReportError: the file is not a report, or has another format.
    """
    try:
        facts = from_json(read_text(path, MAX_BYTES))
        report = Report.model_validate_json(json.dumps(facts), strict=True)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        where = clipped(".".join(str(part) for part in first["loc"]))
        message = f"{where or 'the file'}: {clipped(first['msg'])}"
        raise ReportError(f"{path} is not a report of semiperm: {message}") from None
    except ValueError as error:
        raise ReportError(f"{path} is not a report of semiperm: {clipped(error)}") from None
    if report.format != FORMAT:
        found = clipped(report.format)
        raise ReportError(f"{path} is a report of the format {found!r}; this version reads {FORMAT!r}")
    return report
