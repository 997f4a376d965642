"""The protocols, one small file each; a new benchmark is one more declaration, added to the list here."""

import difflib

from semiperm.evaluation.protocol import Protocol, ProtocolError
from semiperm.evaluation.protocols import (
    ablation,
    coco,
    explicit,
    memorised,
    multi,
    objects,
    paraphrase,
    reconsolidate,
    styles,
    sweeps,
    transfer,
    unlearncanvas,
)

PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        objects.PROTOCOL,
        styles.PROTOCOL,
        explicit.PROTOCOL,
        memorised.PROTOCOL,
        coco.PROTOCOL,
        unlearncanvas.PROTOCOL,
        transfer.PROTOCOL,
        multi.PROTOCOL,
        ablation.PROTOCOL,
        sweeps.ETA,
        sweeps.RANK,
        sweeps.RECIPES,
        reconsolidate.PROTOCOL,
        paraphrase.PROTOCOL,
    )
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
