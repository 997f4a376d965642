"""Memorised pictures: how close the generated pictures come to the original."""

from semiperm.evaluation.protocol import Protocol
from semiperm.evaluation.protocols.one_kind import about

PROTOCOL = Protocol(
    name="memorised",
    version=1,
    shows="a memorised picture is no longer copied, and other memorised pictures are drawn as before",
    cost="terrarium: about 2 minutes on 2 cores; open: 50 pictures an original, twice",
    metrics=("copies", "found", "clip", "alteration"),
    rows=about("memorised"),
    published="memorised",
    kind="memorised",
    files=("reference",),
)
