"""Artistic styles: the target style on many scenes, other styles and plain objects beside it."""

from semiperm.evaluation.protocol import Protocol
from semiperm.evaluation.protocols.one_kind import about

PROTOCOL = Protocol(
    name="styles",
    version=1,
    shows="a style or an artist is gone, and other styles and the painted objects are drawn as before",
    cost="terrarium: about 3 minutes on 2 cores; open: 20 pictures an artist, twice",
    metrics=("found", "clip", "alteration"),
    rows=about("style"),
    kind="style",
    files=("prompts",),
)
