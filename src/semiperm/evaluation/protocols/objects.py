"""Concrete objects and characters: the target in many templates, other concepts beside it."""

from semiperm.evaluation.protocol import Protocol
from semiperm.evaluation.protocols.one_kind import about

PROTOCOL = Protocol(
    name="objects",
    version=1,
    shows="a concrete object or character is gone in every template, and others stay as they were",
    cost="terrarium: about 3 minutes on 2 cores; open: 4,800 pictures of the bare model, as many erased",
    metrics=("found", "clip", "clip errors", "frechet", "alteration"),
    rows=about("object"),
    published="objects",
)
