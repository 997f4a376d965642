"""UnlearnCanvas: every style with every object (arXiv:2402.11846)."""

from dataclasses import replace

from semiperm.errors import ProtocolError
from semiperm.evaluation.context import Context
from semiperm.evaluation.protocol import ArmPlan, Protocol
from semiperm.evaluation.subject import OTHER_KINDS, SAME_KIND, TARGET, Subject


def rows(context: Context, arm: ArmPlan) -> list[Subject]:
    """Return a row for each style over all objects and a row for each object over all styles."""
    context.world.check(context.targets)
    styles, things = context.world.styled(context.seeds)
    erased = {_key(concept.name) for concept in context.targets}
    if erased and not any(_key(subject.name) in erased for subject in (*styles, *things)):
        raise ProtocolError(f"none of {', '.join(sorted(erased))} is among this protocol's styles and objects")
    about_styles = any(_key(subject.name) in erased for subject in styles)
    return [
        *(_placed(subject, erased, same=about_styles) for subject in styles),
        *(_placed(subject, erased, same=not about_styles) for subject in things),
    ]


def _placed(subject: Subject, erased: set[str], *, same: bool) -> Subject:
    if _key(subject.name) in erased:
        return replace(subject, group=TARGET, expected="gone")
    return replace(subject, group=SAME_KIND if same else OTHER_KINDS, expected="kept")


def _key(name: str) -> str:
    return name.lower().replace(" ", "_")


PROTOCOL = Protocol(
    name="unlearncanvas",
    version=1,
    shows="one style or object of a grid of both is gone, and all others are drawn as before",
    cost="terrarium: about 4 minutes on 2 cores; open: 5,100 pictures, twice",
    metrics=("found", "alteration"),
    rows=rows,
    published="unlearncanvas",
)
