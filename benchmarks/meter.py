"""A meter of the bytes that tensors hold at once while code runs; it works on the meta device as well."""

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Meter(TorchDispatchMode):
    """Counts the storages that operations allocate, those saved for autograd included, until they are freed.

    Attributes:
        now: bytes at present, without those of the modules that existed before.
        peak: the most bytes at once.
    """

    def __init__(self, device: str, there: Iterable[nn.Module] = ()) -> None:
        super().__init__()
        self.device = torch.device(device).type
        self.now = self.peak = 0
        own = (tensor for module in there for tensor in (*module.parameters(), *module.buffers()))
        self._known = {tensor.untyped_storage()._cdata for tensor in own}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(found):
            if isinstance(tensor, Tensor) and tensor.device.type == self.device:
                self._count(tensor.untyped_storage())
        return found

    def _count(self, storage: torch.UntypedStorage) -> None:
        # A view shares the storage of its base.
        if storage._cdata in self._known:
            return
        self._known.add(storage._cdata)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._freed, storage._cdata, storage.nbytes())

    def _freed(self, name: int, size: int) -> None:
        self._known.discard(name)
        self.now -= size


@contextmanager
def without_numbers() -> Iterator[None]:
    """Let code run on the meta device that calls attention or reads a number.

    Attention on the meta device would allocate every score; the kernels of a GPU keep the output and one sum a row, as
    the kernel called here does. Every number is read as 0.
    """
    with (
        mock.patch.object(F, "scaled_dot_product_attention", _attention),
        mock.patch.object(Tensor, "__float__", lambda _: 0.0),
    ):
        yield


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
    times = query.shape[1] // key.shape[1]
    key, value = (tensor.repeat_interleave(times, dim=1) if times > 1 else tensor for tensor in (key, value))
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value)[0]
