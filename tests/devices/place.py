"""Where the tests of this folder run: on a pretend GPU or on a real one."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class Place:
    """A device that is not the CPU.

    Attributes:
        device: the device.
        generator: makes a generator on it.
        waits: what the host has waited for; None if this cannot be counted.
    """

    device: torch.device
    generator: Callable[[], torch.Generator]
    waits: list[str] | None = field(default=None)
