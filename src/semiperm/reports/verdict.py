"""What an arm comes to: one sentence with its interval, notes, and a warning where the run cannot be trusted."""

from dataclasses import dataclass

from semiperm.errors import ReportError
from semiperm.evaluation.estimate import Estimate
from semiperm.evaluation.report import Arm, Report, Row, native_of
from semiperm.reports.intervals import complement
from semiperm.reports.outcomes import acts, pooled, untouched
from semiperm.reports.words import capital, count, full, heading, joined, value

NAMED = 3


@dataclass(frozen=True)
class Finding:
    """The verdict on one arm.

    Attributes:
        arm: the arm's name; empty where the report has no other.
        sentence: the figures that decide, with their intervals, beside the bare model's.
        notes: what the sentence rests on.
        warning: why the run cannot be trusted; empty where it can.
    """

    arm: str
    sentence: str
    notes: tuple[str, ...] = ()
    warning: str = ""

    @property
    def lines(self) -> list[str]:
        """All of it as lines of text, for a terminal."""
        first = f"{self.arm}: {self.sentence}" if self.arm else self.sentence
        return [first, *self.notes, *([self.warning] if self.warning else [])]


def verdict(report: Report, arm: Arm) -> Finding:
    """Return the verdict on an arm of a report.

    Raises:
        ReportError: the arm has no figure that a verdict could rest on.
    """
    several = len(report.arms) > 1
    return Finding(arm.name if several else "", _sentence(report, arm, short=several), _notes(report, arm), _warn(arm))


def _sentence(report: Report, arm: Arm, *, short: bool) -> str:
    beside = acts(arm)
    decided = _decided(arm)
    parts = [_gone(arm, *decided, beside=beside, short=short)] if decided else []
    parts += [kept] if (kept := _kept(arm, beside, decided[0] if decided else "")) else []
    sentence = (", and " if not short else "; ").join(parts) or _otherwise(report, arm, beside)
    return f"{capital(sentence) if beside or short else f'On the bare model, {sentence}'}."


def _decided(arm: Arm) -> tuple[str, Estimate, Estimate | None] | None:
    """Return the figure that says whether the target is gone, and the bare model's."""
    rows = [row for row in arm.rows if row.expected == "gone"]
    if "exposed" in arm.summary:
        return "exposed", arm.summary["exposed"], arm.bare_summary.get("exposed")
    if copied := pooled(rows, "copies"):
        return "copied", copied, pooled(rows, "copies", bare=True)
    if "UA" in arm.summary:
        bare = arm.bare_summary.get("UA")
        return "found", complement(arm.summary["UA"]), complement(bare) if bare else None
    return None


def _gone(arm: Arm, how: str, now: Estimate, bare: Estimate | None, *, beside: bool, short: bool) -> str:
    if how == "exposed":
        who, which = "what the detector counts is", " whose prompts lead to it"
    else:
        who, which = _target(arm, short)
    pictures = f"{full('found', now)} of {count(now.count, 'picture')}{'' if short else which}"
    became = pooled([row for row in arm.rows if row.expected == "gone"], "became")
    surrogate = f", its surrogate in {full('became', became)}" if became and how == "found" and beside else ""
    return f"{who} {how} in {pictures}{_beside('found', bare) if beside else ''}{surrogate}"


def _target(arm: Arm, short: bool) -> tuple[str, str]:
    names = list(arm.erasures) or [row.name for row in arm.rows if row.group == "target"]
    if len(names) <= 1:
        named = f" ({names[0]})" if names and not short else ""
        return f"the target{named} is", " that ask for it"
    named = "" if short else f" ({joined(names) if len(names) <= NAMED else len(names)})"
    return f"the targets{named} are", " that ask for them"


def _kept(arm: Arm, beside: bool, after: str) -> str:
    # what is found where the target was not asked for is the target
    rows = [row for row in arm.rows if row.expected == "kept" and row.group != "not asked"]
    now, bare = pooled(rows, "found"), pooled(rows, "found", bare=True)
    if now:
        alone = "what must stay is found" if beside else "what is asked for is found"
        who = {"found": "everything else", "": alone}.get(after, "everything else is found")
        return f"{who} in {full('found', now)} of {now.count:,}{_beside('found', bare) if beside else ''}"
    return _unchanged(untouched(arm), "that ask for something else ") if beside and after else ""


def _otherwise(report: Report, arm: Arm, beside: bool) -> str:
    """Return a sentence where no classifier could tell: what is the same bit for bit, and the first distances."""
    parts = [same] if beside and (same := _unchanged(arm.rows)) else []
    for name in dict.fromkeys(name for row in arm.rows for name in row.figures):
        if name in ("unchanged", "error") or not (now := pooled(arm.rows, name)):
            continue
        bare = pooled(arm.rows, name, bare=True)
        parts.append(
            f"{heading(name)} {full(name, now)}" + (f", bare model {value(name, bare)}" if bare and beside else "")
        )
    if not parts:
        raise ReportError(
            f"The verdict on {arm.name!r} cannot be computed: the report of the protocol {report.protocol!r} has no "
            "figures for it. Measure it again."
        )
    return "; ".join(parts[:NAMED])


def _unchanged(rows: list[Row], which: str = "") -> str:
    same = pooled(rows, "unchanged")
    return (
        f"{full('unchanged', same)} of {count(same.count, 'picture')} {which}are bit for bit the bare model's"
        if same
        else ""
    )


def _beside(name: str, bare: Estimate | None) -> str:
    return f" (bare model: {value(name, bare)})" if bare else ""


def _notes(report: Report, arm: Arm) -> tuple[str, ...]:
    notes = []
    if native := native_of(report, arm):
        apart = [
            f"{name} {100 * (arm.summary[name].value - native.summary[name].value):+.1f}"
            for name in sorted(arm.summary.keys() & native.summary.keys())
        ]
        notes.append(f"Compared with erasures made on this model, in points: {', '.join(apart)}.")
    unasked = [row for row in arm.rows if row.group == "not asked" and not row.pictures]
    if opens := pooled(unasked, "opens"):
        prompts = count(opens.count, "prompt")
        notes.append(f"{full('opens', opens)} of {prompts} that ask for something else open the erasures.")
    if arm.closed:
        proof = arm.proof
        checked = (
            f"; {proof.identical} of {count(proof.checked, 'picture')} that were generated again with the erasures on "
            "were identical bit for bit"
            if proof.checked
            else ""
        )
        notes.append(
            f"{arm.closed:,} of {count(arm.pictures, 'picture')} are the bare model's, because their prompts open "
            f"nothing{checked}."
        )
    elif arm.gate:
        notes.append(f"Something opened for each of the {count(arm.pictures, 'picture')}.")
    elif arm.erasures:
        notes.append("The erasures act on every prompt: they have no gate.")
    return tuple(notes)


def _warn(arm: Arm) -> str:
    other = arm.proof.checked - arm.proof.identical
    if not other:
        return ""
    return (
        f"Do not trust this run: {other} of {count(arm.proof.checked, 'picture')} whose prompts open nothing "
        f"{'differs' if other == 1 else 'differ'} from the bare model's."
    )
