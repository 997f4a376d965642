"""The protocols, one small file each; a new benchmark is one more declaration, added to the list here."""

import difflib

from semiperm.evaluation.protocol import Protocol, ProtocolError
from semiperm.evaluation.protocols import (
    coco,
    explicit,
    memorised,
    multi,
    objects,
    paraphrase,
    reconsolidate,
    styles,
    unlearncanvas,
)

PROTOCOLS: dict[str, Protocol] = {
    module.PROTOCOL.name: module.PROTOCOL
    for module in (objects, styles, explicit, memorised, coco, unlearncanvas, multi, reconsolidate, paraphrase)
}


def find(name: str) -> Protocol:
    """Return a protocol by its name.

    Raises:
        ProtocolError: there is none of that name.
    """
    if name in PROTOCOLS:
        return PROTOCOLS[name]
    close = difflib.get_close_matches(name, PROTOCOLS, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ProtocolError(f"there is no protocol {name!r}; there are: {', '.join(PROTOCOLS)}.{hint}")
