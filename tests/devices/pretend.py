"""A pretend GPU: tensors stay on the CPU but are labelled with a device, and whatever mixes devices fails as on a GPU.

Labels belong to storages, so views share them. A function mode answers `tensor.device`, moves tensors and gives factory
calls their device; a dispatch mode sees every operation, those of backward passes too, and checks and labels.

What it does not have: memory, streams, autocast, kernels of its own. Both modes belong to one thread. Python code that
a backward pass runs (activations computed again) is checked by the dispatch mode alone and cannot move tensors.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

# Libraries have branches for this type; on a build without CUDA no real tensor can have it.
PRETEND = torch.device("cuda", 0)
CPU = torch.device("cpu")

aten = torch.ops.aten
# The host waits for the device in these, because it needs a value or a size.
WAITS = {aten._local_scalar_dense, aten.equal, aten.nonzero, aten.masked_select, aten._unique2, aten.unique_dim}
COPIES = {aten.copy_, aten._foreach_copy_}
INDEXES = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index}
# A number may come as a 0-dim CPU tensor here, as in pointwise operations.
TAKE_NUMBERS = {aten.fill, aten.fill_, aten.masked_fill, aten.masked_fill_, aten.where}


class Generator(torch.Generator):
    """A generator that says it is on a device; its numbers are the CPU's."""

    _device: torch.device

    def __new__(cls, device: torch.device | str = PRETEND) -> "Generator":
        self = super().__new__(cls)
        self._device = _indexed(device)
        return self

    def __init__(self, device: torch.device | str = PRETEND) -> None: ...

    @property
    def device(self) -> torch.device:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._device


class PretendDevice:
    """The labels of tensors, while `pretend_device` is active.

    Attributes:
        device: the pretend device.
        waits: what the host waited for, one name for each time: reads of values and copies to the CPU.
    """

    device = PRETEND

    def __init__(self) -> None:
        self.waits: list[str] = []
        self._there: dict[int, StorageWeakRef] = {}
        self._purge_at = 1000
        # where the C++ code of the present call makes new tensors
        self.inside: list[torch.device] = [CPU]

    def of(self, tensor: Tensor) -> torch.device:
        """Return the device that a tensor is on."""
        if tensor.device != CPU:
            return tensor.device
        return PRETEND if self._key(tensor) in self._there else CPU

    def label(self, tensor: Tensor, device: torch.device) -> None:
        """Say that a tensor's storage is on a device."""
        if tensor.device != CPU:
            return
        if device == CPU:
            self._there.pop(self._key(tensor), None)
            return
        # A weak reference keeps the key from being used for another storage.
        self._there[self._key(tensor)] = StorageWeakRef(tensor.untyped_storage())
        if len(self._there) > self._purge_at:
            self._there = {key: ref for key, ref in self._there.items() if not ref.expired()}
            self._purge_at = 2 * len(self._there) + 1000

    def waited(self, name: str, *tensors: Tensor) -> None:
        """Count a wait if one of the tensors is on the pretend device."""
        if any(self.of(tensor) == PRETEND for tensor in tensors):
            self.waits.append(name)

    def moved(self, tensor: Tensor, device: torch.device) -> Tensor:
        """Return a copy on another device; gradients move back."""
        if tensor.requires_grad and torch.is_grad_enabled():
            return _Move.apply(tensor, self, device)  # pyright: ignore[reportReturnType]
        self.waited("copy to the CPU", tensor)
        copy = tensor.detach().clone()
        self.label(copy, device)
        return copy

    @staticmethod
    def _key(tensor: Tensor) -> int:
        return tensor.untyped_storage()._cdata


class _Move(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, pretend: PretendDevice, device: torch.device) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.pretend, ctx.origin = pretend, pretend.of(tensor)
        return pretend.moved(tensor.detach(), device)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        with torch._C.DisableTorchFunction():
            return ctx.pretend.moved(gradient, ctx.origin), None, None


class _Functions(TorchFunctionMode):
    """Answers questions for the device, moves tensors, and gives new tensors their device."""

    def __init__(self, pretend: PretendDevice) -> None:
        super().__init__()
        self.pretend = pretend
        self.special: dict[Any, Callable[..., Any]] = {
            Tensor.device.__get__: lambda tensor: pretend.of(tensor),  # pyright: ignore[reportAttributeAccessIssue]
            Tensor.is_cuda.__get__: lambda tensor: pretend.of(tensor).type == "cuda",  # pyright: ignore[reportAttributeAccessIssue]
            Tensor.is_cpu.__get__: lambda tensor: pretend.of(tensor).type == "cpu",  # pyright: ignore[reportAttributeAccessIssue]
            Tensor.get_device: lambda tensor: 0 if pretend.of(tensor) == PRETEND else -1,
            Tensor.to: self._to,
            Tensor.cpu: lambda tensor, *_, **__: self._to(tensor, CPU),
            Tensor.cuda: lambda tensor, *_, **__: self._to(tensor, PRETEND),
            Tensor.type_as: self._to,
            Tensor.numpy: self._as_array(Tensor.numpy),
            Tensor.__array__: self._as_array(Tensor.__array__),
            Tensor.tolist: self._tolist,
        }

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if special := self.special.get(func):
            return special(*args, **kwargs)
        wanted = kwargs.get("device")
        leaves = _leaves((args, kwargs))
        given = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if wanted is None:
            where = self.pretend.of(given[0]) if given else CPU
        else:
            where = _indexed(wanted)
            kwargs = {**kwargs, "device": CPU if where == PRETEND else where}
        for leaf in leaves:
            # Operations get a wrapper of the generator that does not know its device.
            if isinstance(leaf, torch.Generator) and where.type != "meta" and leaf.device.type != where.type:
                raise RuntimeError(
                    f"Expected a '{where.type}' device type for generator but found '{leaf.device.type}'"
                )
        with self._inside(where):
            found = func(*args, **kwargs)
        if wanted is None or where.type == "meta":
            return found
        origins = {one.untyped_storage()._cdata for one in given}

        def placed(made: Tensor) -> Tensor:
            if self.pretend.of(made) == where:
                return made
            if made.untyped_storage()._cdata in origins:
                return self.pretend.moved(made, where)
            self.pretend.label(made, where)
            return made

        return tree_map_only(Tensor, placed, found)

    @contextmanager
    def _inside(self, device: torch.device) -> Iterator[None]:
        self.pretend.inside.append(device)
        try:
            yield
        finally:
            self.pretend.inside.pop()

    def _to(self, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        places = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        device, dtype = None, None
        if places:
            device, dtype = self.pretend.of(places[0]), places[0].dtype
        for value in (*args[:2], kwargs.get("device"), kwargs.get("dtype")):
            if isinstance(value, torch.dtype):
                dtype = value
            elif isinstance(value, torch.device | str) or (isinstance(value, int) and not isinstance(value, bool)):
                device = _indexed(value)
        more = {name: value for name, value in kwargs.items() if name in ("copy", "memory_format")}
        if device is not None and device.type == "meta":
            return tensor.to(device, dtype, **more)
        if device is None or device == self.pretend.of(tensor):
            return tensor.to(tensor.device, dtype or tensor.dtype, **more)
        more.pop("copy", None)
        return self.pretend.moved(tensor, device).to(dtype=dtype or tensor.dtype, **more)

    def _as_array(self, read: Callable[..., Any]) -> Callable[..., Any]:
        def array(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
            if self.pretend.of(tensor) == PRETEND:
                raise TypeError(
                    f"can't convert {PRETEND} device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host "
                    "memory first."
                )
            return read(tensor, *args, **kwargs)

        return array

    def _tolist(self, tensor: Tensor) -> Any:
        self.pretend.waited("tolist", tensor)
        return tensor.tolist()


class _Operations(TorchDispatchMode):
    """Checks the devices of what every operation is given, and labels what it returns."""

    def __init__(self, pretend: PretendDevice) -> None:
        super().__init__()
        self.pretend = pretend

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunction():
            kwargs = kwargs or {}
            given = [leaf for leaf in _leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            where = self._where(func, args, given)
            self._count(func, args, given)
            found = func(*args, **kwargs)
            if where == PRETEND and func.overloadpacket not in COPIES:
                for leaf in _leaves((found,)):
                    if isinstance(leaf, Tensor):
                        self.pretend.label(leaf, where)
            return found

    def _where(self, func: Any, args: Any, given: list[Tensor]) -> torch.device:
        if not given:
            return self.pretend.inside[-1]
        packet = func.overloadpacket
        if packet in COPIES:
            return self.pretend.of(given[0])
        bound = given
        if packet in INDEXES:
            # Indices may lie on the CPU, or where the tensor lies.
            where = self.pretend.of(given[0])
            foreign = [one for one in _leaves(args[1]) if isinstance(one, Tensor) and self.pretend.of(one) != CPU]
            values = args[2:3] if packet not in (aten.index, aten._unsafe_index) else ()
            bound = [given[0], *foreign, *(one for one in values if one.ndim or self.pretend.of(one) != CPU)]
            if where == CPU and foreign:
                raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
        elif torch.Tag.pointwise in func.tags or packet in TAKE_NUMBERS or packet.__name__.startswith("_foreach"):
            # What is changed in place never counts as a number.
            fixed = 1 if func._schema.is_mutable else 0
            others = [one for one in given[fixed:] if one.ndim or self.pretend.of(one) != CPU]
            bound = given[:fixed] + others or given
        devices = {self.pretend.of(one) for one in bound}
        if len(devices) > 1 and PRETEND in devices:
            raise RuntimeError(
                "Expected all tensors to be on the same device, but found at least two devices, "
                f"{' and '.join(sorted(map(str, devices)))}! (in {func})"
            )
        return next(iter(devices))

    def _count(self, func: Any, args: Any, given: list[Tensor]) -> None:
        packet = func.overloadpacket
        if packet in WAITS:
            self.pretend.waited(packet.__name__, *given)
        elif packet in INDEXES and any(isinstance(one, Tensor) and one.dtype is torch.bool for one in _leaves(args[1])):
            self.pretend.waited("boolean index", *given)
        elif packet in COPIES and self.pretend.of(given[0]) == CPU:
            self.pretend.waited("copy to the CPU", *given)


def _leaves(values: Iterable[Any]) -> list[Any]:
    """Return the items of nested lists, tuples and mappings; torch's own function for it takes half of the time."""
    found: list[Any] = []
    for value in values:
        if isinstance(value, list | tuple):
            found += _leaves(value)
        elif isinstance(value, dict):
            found += _leaves(value.values())
        else:
            found.append(value)
    return found


def _indexed(device: Any) -> torch.device:
    found = torch.device(device)
    return PRETEND if found.type == PRETEND.type else found


@contextmanager
def pretend_device() -> Iterator[PretendDevice]:
    """Return a context in which "cuda" is a device whose tensors must not meet those on the CPU."""
    pretend = PretendDevice()
    with _Operations(pretend), _Functions(pretend):
        yield pretend
