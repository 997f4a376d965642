"""The result of a run as a typed file."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from semiperm.atomic import write
from semiperm.evaluation.estimate import Estimate

FORMAT = "semiperm-report/1"
# how the parts are called whose membranes were made elsewhere, and those that are measured beside them
CARRIED, NATIVE = "carried to ", "native on "


class ReportError(ValueError):
    """A report cannot be read or two of them cannot be compared; the message says why."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Row(_Strict):
    """One subject's figures, and the bare model's on the same prompts and seeds."""

    name: str
    role: str
    pictures: int
    opened: float
    """Mean permeability of the membrane that opens furthest."""
    figures: dict[str, Estimate]
    bare: dict[str, Estimate]


class Proof(_Strict):
    """Closed prompts' pictures that were made again with membranes on, to see that they are the bare model's."""

    checked: int = 0
    identical: int = 0


class Part(_Strict):
    """One way to put membranes on a model."""

    name: str
    model: str
    membranes: dict[str, str]
    """Names and hashes."""
    transport: str
    rows: list[Row]
    summary: dict[str, Estimate]
    bare_summary: dict[str, Estimate]
    closed: int
    """Pictures whose prompts open nothing: the bare model's by construction."""
    proof: Proof
    permeability: dict[str, list[int]]
    """For each role how many pictures open how far, in ten equal steps from 0 to 1."""


class Report(_Strict):
    """All that a run has measured, and everything that is needed to measure it again."""

    format: str = FORMAT
    protocol: str
    protocol_version: int
    shows: str
    form: str
    model: str
    settings: dict[str, Any]
    judge: dict[str, Any]
    versions: dict[str, str]
    revision: str
    device: str
    date: str
    seconds: float
    pictures: int
    reported: str = ""
    parts: list[Part]


def native_of(report: Report, part: Part) -> Part | None:
    """Return the part that a carried one stands beside: membranes that were made on that very model."""
    if not part.name.startswith(CARRIED):
        return None
    beside = NATIVE + part.name.removeprefix(CARRIED)
    return next((other for other in report.parts if other.name == beside), None)


def save(report: Report, path: Path) -> None:
    """Write a report, whole or not at all."""
    write(path, report.model_dump_json(indent=1) + "\n")


def load(path: Path) -> Report:
    """Read a report.

    Raises:
        ReportError: it is not a report, or one of another format.
    """
    try:
        report = Report.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ReportError(f"{path} is not a report of semiperm: {where or 'the file'}: {first['msg']}") from error
    if report.format != FORMAT:
        raise ReportError(f"{path} is a report of the format {report.format!r}; this version reads {FORMAT!r}")
    return report
