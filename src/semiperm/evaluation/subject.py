"""A subject: the pictures about one thing, which become one row of a report."""

from dataclasses import dataclass

from semiperm.evaluation.report import Expected
from semiperm.evaluation.store import Pictures
from semiperm.pictures import Shot

# groups that the figures of a whole arm are computed over; a protocol may have others
TARGET = "target"
PARAPHRASE = "paraphrase"
NOT_ASKED = "not asked"
SAME_KIND = "same kind"
OTHER_KINDS = "other kinds"


@dataclass(frozen=True)
class Subject:
    """One row of a protocol's table. Subjects are compared by value.

    Attributes:
        name: name of the row, unique within an arm.
        group: what the row has in common with others, for instance "target" or "same kind".
        expected: what should happen to the label: "gone", "kept", or "either" where the row proves neither.
        shots: the pictures to make.
        prompts: prompts that are judged by the gates alone, without pictures, instead of shots.
        label: what a classifier should find in each picture of the bare model; empty where none can tell.
        labels: for each picture the names that should all be found in it, instead of one label for all.
        text: what CLIP compares the pictures with; each picture's own prompt if empty.
        surrogate: the text that the CLIP error rate compares with `text`.
        original: one picture that must not be copied.
        reference: pictures that distances are measured to, instead of the bare model's.
    """

    name: str
    group: str
    expected: Expected
    shots: tuple[Shot, ...] = ()
    prompts: tuple[str, ...] = ()
    label: str = ""
    labels: tuple[tuple[str, ...], ...] = ()
    text: str = ""
    surrogate: str = ""
    original: Pictures | None = None
    reference: Pictures | None = None

    @property
    def wanted(self) -> tuple[tuple[str, ...], ...]:
        """For each picture the names that a classifier should find in it; empty where none can tell."""
        return self.labels or (((self.label,),) * len(self.shots) if self.label else ())

    @property
    def names(self) -> set[str]:
        """All names that a classifier must be able to give for this row."""
        return {name for names in self.wanted for name in names} | ({self.surrogate} - {""})
