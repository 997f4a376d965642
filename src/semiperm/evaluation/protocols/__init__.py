"""The protocols by name, one small file each; a new one is one file and one line in the table."""

from semiperm.errors import ProtocolError, close_match
from semiperm.evaluation.protocol import Protocol
from semiperm.evaluation.protocols import (
    ablation,
    coco,
    effect,
    explicit,
    fidelity,
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
        effect.PROTOCOL,
        paraphrase.PROTOCOL,
        multi.PROTOCOL,
        transfer.PROTOCOL,
        reconsolidate.PROTOCOL,
        ablation.PROTOCOL,
        sweeps.ETA,
        sweeps.RANK,
        sweeps.COMPARED,
        fidelity.PROTOCOL,
    )
}


def find(name: str) -> Protocol:
    """Return a protocol by its name.

    Raises:
        ProtocolError: there is none of that name.
    """
    if name in PROTOCOLS:
        return PROTOCOLS[name]
    raise ProtocolError(
        f"there is no protocol {name!r}; there are: {', '.join(PROTOCOLS)}.{close_match(name, PROTOCOLS)}"
    )
