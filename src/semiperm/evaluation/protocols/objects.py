"""Concrete objects and characters: the target in many templates, other concepts beside it."""

from semiperm.evaluation.protocol import Protocol
from semiperm.evaluation.protocols.one_kind import about

PROTOCOL = Protocol(
    name="objects",
    version=1,
    shows="an object or a character is gone in every template, and other concepts are drawn as before",
    cost="terrarium: about 3 minutes on 2 cores; open: 4,800 pictures of the bare model, as many erased",
    metrics=("found", "clip", "clip errors", "frechet", "kernel", "alteration"),
    rows=about("object"),
    published="objects",
)
