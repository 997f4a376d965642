"""The stack: any number of membranes on one denoiser, each with its own permeability for each sample.

Every layer carries all membranes as one pair of matrices, so that two extra products serve any number of them:
y = W x + ((x D^T) * gamma) U^T, which is eq. 9 of
[[arXiv:2312.16145] One-dimensional Adapter to Rule Them All](https://arxiv.org/abs/2312.16145) with gamma counted once.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol, Self, cast
from weakref import WeakKeyDictionary

import torch
from diffusers.models.attention_processor import Attention
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn import functional as F

from semiperm.errors import StackError, listed
from semiperm.models.layers import adapted_layers, erasable_layers, is_adapted, sizes, unwrapped

# B batch, K membranes, R the ranks of all of them together

PRECISIONS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class Pairs(Protocol):
    """What a stack needs of a membrane: a pair (down, up) for every layer, all of one rank."""

    @property
    def down(self) -> Mapping[str, Tensor]: ...
    @property
    def up(self) -> Mapping[str, Tensor]: ...
    @property
    def rank(self) -> int: ...
    def fitted_to(self, layers: Mapping[str, nn.Module]) -> Self:
        """Return the pairs in the shapes of these layers; raises CoverageError if they do not cover exactly these."""
        ...


class Turn:
    """Whose turn it is to use a denoiser; all stacks on it share one.

    Attributes:
        lock: threads take turns.
        in_call: whether a call has reserved the denoiser.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.in_call = False

    def __reduce__(self) -> Any:
        # A copy of a denoiser has turns of its own.
        return Turn, ()


_turns: WeakKeyDictionary[nn.Module, Turn] = WeakKeyDictionary()


class Flags:
    """Host-side flags shared by all layers of a stack, so that forward() needs no device sync.

    Attributes:
        closed: no membrane acts.
        everywhere: some membrane acts in every sample.
        calls_only: whether the denoiser may be used within calls only.
        empty: whether there are no membranes.
        turn: the denoiser's.
    """

    def __init__(self, turn: Turn, calls_only: bool) -> None:
        self.closed = True
        self.everywhere = False
        self.calls_only = calls_only
        self.empty = True
        self.turn = turn


class StackedLayer(nn.Module):
    """Wraps a layer of the denoiser and adds the stacked pair; while closed it returns the layer's own output.

    The pair lives in buffers, so that it follows the denoiser to other devices and precisions. None of them enters the
    state dict.
    """

    down: Tensor
    up: Tensor
    gamma_BR: Tensor

    def __init__(self, base: nn.Module, flags: Flags) -> None:
        # Skip Linear/Conv2d.__init__; the wrapper owns no weights.
        nn.Module.__init__(self)
        self.base = base
        self.flags = flags
        self.idle = True
        # whether the layer was called since the permeabilities were first set; only written in forward()
        self.acted = False
        for name in ("down", "up", "gamma_BR"):
            self.register_buffer(name, torch.empty(0), persistent=False)
        self.train(base.training)

    def __getattr__(self, name: str) -> Any:
        # Forward attribute access (weight, bias, in_features, kernel_size, ...) to the wrapped layer.
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base"), name)

    def forward(self, input: Tensor) -> Tensor:
        if self.flags.calls_only and not self.flags.empty and not self.flags.turn.in_call:
            raise StackError(
                "the denoiser wears membranes, but was used outside of a guarded call, which would draw what they "
                "erase: call the guard instead of its pipeline, give each pipeline that shares the denoiser a guard of "
                "its own, or eject the guards to use the bare model"
            )
        y = self.base(input)
        if self.flags.closed or self.idle:
            return y
        self.acted = True
        if self.gamma_BR.shape[0] not in (1, input.shape[0]):
            raise StackError(
                f"the permeabilities are for a batch of {self.gamma_BR.shape[0]}, but the denoiser got one of "
                f"{input.shape[0]}; guidance needs them once for each of its branches"
            )
        h = self._through_down(input)
        gamma = self.gamma_BR.to(h)
        gamma = gamma[:, :, None, None] if self._is_conv else gamma.unflatten(0, (-1, *[1] * (input.ndim - 2)))
        # 0 * inf is not 0, and h may have overflowed.
        h = torch.where(gamma == 0, 0.0, h * gamma)
        up = self.up.to(h)
        change = (F.conv2d(h, up) if self._is_conv else F.linear(h, up)).to(y.dtype)
        if self.flags.everywhere:
            return y + change
        # Rows for which all membranes are closed keep the bits of the bare layer.
        is_open = (gamma != 0).any(dim=1 if self._is_conv else -1, keepdim=True)
        return torch.where(is_open, y + change, y)

    @property
    def _is_conv(self) -> bool:
        return isinstance(self.base, nn.Conv2d)

    def _through_down(self, x: Tensor) -> Tensor:
        down = self.down.to(x)
        base = self.base
        if not isinstance(base, nn.Conv2d):
            return F.linear(x, down)
        if base.padding_mode == "zeros":
            return F.conv2d(x, down, None, base.stride, base.padding, base.dilation)
        padded = F.pad(x, cast(list[int], base._reversed_padding_repeated_twice), mode=base.padding_mode)
        return F.conv2d(padded, down, None, base.stride, 0, base.dilation)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        # Trained tensors must stay the objects that the optimiser holds, as parameters do when their module is moved.
        trained = {name: self._buffers[name] for name in ("down", "up") if self._buffers[name].requires_grad}  # pyright: ignore[reportOptionalMemberAccess]
        super()._apply(fn, recurse)
        for name, leaf in trained.items():
            leaf.data = self._buffers[name].detach()  # pyright: ignore[reportOptionalMemberAccess]
            self._buffers[name] = leaf
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        # When it loads a LoRA, diffusers looks up FLUX's weights in the state dict by the layer's own names.
        self.base._save_to_state_dict(destination, prefix, keep_vars)

    def extra_repr(self) -> str:
        return f"rank={self.down.shape[0]}"


class StackedLinear(StackedLayer, nn.Linear):
    """Subclass of nn.Linear so that PEFT's isinstance checks accept it."""


class StackedConv2d(StackedLayer, nn.Conv2d):
    """Subclass of nn.Conv2d so that PEFT's isinstance checks accept it."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        # PEFT builds the convolutions of a LoRA with the class of the layer that it wraps.
        return nn.Conv2d(*args, **kwargs) if args and isinstance(args[0], int) else super().__new__(cls)


class Stack:
    """K membranes on one denoiser, injected and ejected without a trace.

    Its layers are the denoiser's erasable ones unless others are given. Membranes can be added, removed and replaced
    whether the stack is injected or not. Each change closes it: nothing acts before the next `set_permeability`.

    Permeabilities belong to one call: `call` reserves the denoiser, other threads wait until the call has ended, and
    whatever would change a stack on the denoiser within the call is an error.

    Args:
        calls_only: while membranes are on, the denoiser may be used within calls only: anything else is an error.
            Several stacks of this kind may share a denoiser, as pipelines made with `from_pipe` do; in a call only the
            membranes of its own stack act.

    Raises:
        StackError: the denoiser has a stack already and the two cannot share it, or it has no erasable layers, or it
            would bypass the stack: its projections are fused, or it has PEFT adapters that are not plain LoRAs.
    """

    def __init__(
        self, denoiser: nn.Module, layers: Mapping[str, nn.Module] | None = None, *, calls_only: bool = False
    ) -> None:
        self.denoiser = unwrapped(denoiser)
        self._turn = _turns.setdefault(self.denoiser, Turn())
        self._flags = Flags(self._turn, calls_only)
        self._refuse_stacked_or_bypassed()
        found = erasable_layers(self.denoiser) if layers is None else layers
        self.layers = {path: _bare(layer) for path, layer in found.items()}
        if not self.layers:
            raise StackError(f"{type(denoiser).__name__} has no transformer blocks that a membrane could sit in")
        for path, layer in self.layers.items():
            sizes(path, layer)
        self._membranes: dict[str, Pairs] = {}
        self._wrapped: dict[str, StackedLayer] = {}
        self._trained: str | None = None

    # membranes

    @property
    def names(self) -> list[str]:
        """The membranes' names, in the order of gamma's columns."""
        return list(self._membranes)

    def __len__(self) -> int:
        return len(self._membranes)

    def membrane(self, name: str) -> Any:
        """Return a membrane as it is now, trained weights included; its tensors are never the live ones."""
        self._check_known(name)
        if name != self._trained:
            return self._membranes[name]
        return replace(
            cast(Any, self._membranes[name]),
            down={path: layer.down.detach().clone() for path, layer in self._wrapped.items()},
            up={path: layer.up.detach().clone() for path, layer in self._wrapped.items()},
        )

    def add(self, name: str, membrane: Pairs) -> None:
        """Add a membrane as gamma's last column.

        Raises:
            StackError: the name is taken.
            CoverageError: the membrane does not cover exactly the stack's layers; the stack stays as it was.
        """
        self.add_all({name: membrane})

    def add_all(self, membranes: Mapping[str, Pairs]) -> None:
        """Add membranes as gamma's last columns, all or none; the layers are stacked up once for all of them.

        Raises:
            StackError: a name is taken.
            CoverageError: a membrane does not cover exactly the stack's layers; the stack stays as it was.
        """
        fitted = {name: membrane.fitted_to(self.layers) for name, membrane in membranes.items()}
        with self._reserved("add a membrane"):
            if taken := [name for name in membranes if name in self._membranes]:
                raise StackError(f"there is a membrane called {taken[0]!r} already; replace it, or choose another name")
            self._change({**self._membranes, **fitted})

    def remove(self, name: str) -> None:
        """Take a membrane off; the others keep their order."""
        with self._reserved("remove a membrane"):
            self._check_known(name)
            self._change({kept: membrane for kept, membrane in self._membranes.items() if kept != name})

    def replace(self, name: str, membrane: Pairs) -> None:
        """Put another membrane in the place of one."""
        fitted = membrane.fitted_to(self.layers)
        with self._reserved("replace a membrane"):
            self._check_known(name)
            self._change({**self._membranes, name: fitted})

    def trainable(self, name: str) -> list[Tensor]:
        """Return the live weights of the only membrane, as leaves that require a gradient: down and up, layer by layer.

        They are the ones that act until the stack is ejected or changed; `membrane` returns copies of them.

        Raises:
            StackError: the stack is not injected, has other membranes too, or shares the denoiser with PEFT adapters.
        """
        self._check_known(name)
        self._check_injected("trained")
        refuse_other_adapters(self.denoiser)
        if len(self) != 1:
            raise StackError(f"a membrane is trained alone, but this stack has {listed(self.names)}")
        self._trained = None
        self._membranes[name] = self.membrane(name)
        self._stack_up(train=True)
        self._trained = name
        return [tensor for layer in self._wrapped.values() for tensor in (layer.down, layer.up)]

    # on and off

    @property
    def injected(self) -> bool:
        return bool(self._wrapped)

    def inject(self) -> None:
        """Put the stack on, closed; nothing happens if it is on already.

        Raises:
            StackError: some layers are no longer the denoiser's own, or would be bypassed.
        """
        with self._reserved("inject the stack"):
            if not self.injected:
                self._inject()

    def _inject(self) -> None:
        self._refuse_stacked_or_bypassed()
        places = _places(self.denoiser, self.layers)
        if lost := [path for path in self.layers if path not in places]:
            raise StackError(f"these layers were exchanged since the stack was made: {listed(lost)}; make a new stack")
        for path, layer in self.layers.items():
            stacked = StackedConv2d if isinstance(layer, nn.Conv2d) else StackedLinear
            self._wrapped[path] = stacked(layer, self._flags)
        for path, spots in places.items():
            for parent, child in spots:
                setattr(parent, child, self._wrapped[path])
        # The pipeline's save_pretrained calls the denoiser's.
        self.denoiser.__dict__["save_pretrained"] = _refuse_saving
        self._stack_up()

    def eject(self) -> None:
        """Take the stack off: every layer is the object that it was, wherever other wrappers have put it since."""
        with self._reserved("eject the stack"):
            if self.injected:
                self._eject()

    def _eject(self) -> None:
        self._keep_trained()
        for path, spots in _places(self.denoiser, self._wrapped).items():
            for parent, child in spots:
                # Another stack may have wrapped the layer inside of this one's.
                setattr(parent, child, self._wrapped[path].base)
        self._wrapped = {}
        if not any(isinstance(module, StackedLayer) for module in self.denoiser.modules()):
            self.denoiser.__dict__.pop("save_pretrained", None)
        self._flags.closed = True

    def __enter__(self) -> Self:
        self.inject()
        return self

    def __exit__(self, *_: object) -> None:
        self.eject()

    # permeability

    def set_permeability(self, gamma_BK: Tensor) -> None:
        """Open each membrane for each sample of the denoiser's next batches, gamma times: (B, K), or (1, K) for all.

        Setting the same shape again changes numbers in place, so a compiled denoiser keeps its graph.

        Raises:
            StackError: the stack is not injected, gamma has another shape or is not finite, or the membranes would be
                bypassed or were cast to eight bits, or a guarded call is running in this thread.
        """
        with self._reserved("set permeabilities"):
            self._open(gamma_BK)

    def close(self) -> None:
        """Close every membrane: the denoiser is the bare one again, bit for bit."""
        with self._reserved("close the membranes"):
            self._flags.closed = True

    @contextmanager
    def call(self) -> Iterator[Callable[[Tensor], None]]:
        """Reserve the stack for one call; it yields what to set the call's permeabilities with.

        All membranes are closed afterwards. Calls in other threads wait.

        Raises:
            StackError: another call is running in this thread, such as from one of its callbacks.
        """
        with self._reserved("start another guarded call"):
            self._turn.in_call = True
            for layer in self._wrapped.values():
                layer.acted = False
            try:
                yield self._open
            finally:
                self._turn.in_call = False
                self._flags.closed = True

    def bypassed(self) -> list[str]:
        """Return the layers whose pairs should have acted in the present call, or the last one, but were not called."""
        return [path for path, layer in self._wrapped.items() if not layer.acted and not layer.idle]

    # inside

    def _refuse_stacked_or_bypassed(self) -> None:
        stacked = {path: module for path, module in self.denoiser.named_modules() if isinstance(module, StackedLayer)}
        # Membranes of others would act in training, and a stack without calls would bypass theirs.
        if stacked and not (self._flags.calls_only and all(layer.flags.calls_only for layer in stacked.values())):
            raise StackError(
                f"the denoiser already has a stack (on {listed(list(stacked))}); add to that one, or eject it first"
            )
        _refuse_bypassed(self.denoiser)

    @contextmanager
    def _reserved(self, action: str) -> Iterator[None]:
        with self._turn.lock:
            if self._turn.in_call:
                raise StackError(
                    f"cannot {action} while a guarded call is running on the same denoiser: do it before or after the "
                    "call, not in a callback"
                )
            yield

    def _open(self, gamma_BK: Tensor) -> None:
        self._check_injected("opened")
        _refuse_bypassed(self.denoiser)
        places = _places(self.denoiser, self._wrapped)
        if lost := [path for path in self._wrapped if path not in places]:
            raise StackError(
                f"these layers were exchanged while the stack was on: {listed(lost)}; eject it before the denoiser is "
                "changed, and make a new one"
            )
        _refuse_cast(self._wrapped)
        if gamma_BK.ndim != 2 or gamma_BK.shape[0] == 0 or gamma_BK.shape[1] != len(self):
            raise StackError(
                f"permeabilities must have the shape (batch, {len(self)}), one column for each membrane, not "
                f"{tuple(gamma_BK.shape)}"
            )
        # A buffer made under inference mode could never be changed outside of it.
        with torch.inference_mode(False), torch.no_grad():
            gamma_BK = gamma_BK.detach().clone().float()
            if not torch.isfinite(gamma_BK).all():
                raise StackError(f"permeabilities must be finite, not {gamma_BK.tolist()}")
            ranks = torch.tensor([membrane.rank for membrane in self._membranes.values()], dtype=torch.long)
            gamma_BR = gamma_BK.repeat_interleave(ranks.to(gamma_BK.device), dim=1)
            for layer in self._wrapped.values():
                if layer.gamma_BR.shape == gamma_BR.shape:
                    layer.gamma_BR.copy_(gamma_BR)
                else:
                    layer.gamma_BR = gamma_BR.to(layer.down.device, copy=True)
            is_open_B = (gamma_BK != 0).any(dim=1)
            self._flags.closed = not bool(is_open_B.any())
            self._flags.everywhere = bool(is_open_B.all())

    def _change(self, membranes: dict[str, Pairs]) -> None:
        self._keep_trained(among=membranes)
        self._membranes = membranes
        if self.injected:
            self._stack_up()

    def _keep_trained(self, among: dict[str, Pairs] | None = None) -> None:
        if self._trained is None:
            return
        name, before = self._trained, self._membranes[self._trained]
        now = self.membrane(name)
        self._trained = None
        self._membranes[name] = now
        if among is not None and among.get(name) is before:
            among[name] = now

    def _stack_up(self, train: bool = False) -> None:
        members = list(self._membranes.values())
        self._flags.closed, self._flags.empty = True, not members
        with torch.inference_mode(False), torch.no_grad():
            for path, layer in self._wrapped.items():
                inputs, outputs, kernel = sizes(path, layer.base)
                downs = [member.down[path] for member in members] or [torch.empty(0, inputs, *kernel)]
                ups = [member.up[path] for member in members] or [torch.empty(outputs, 0, *(1 for _ in kernel))]
                # The closed form leaves most layers at 0, and those need no work.
                layer.idle = not train and not any(bool(up.any()) for up in ups)
                device, dtype = _home(layer.base)
                if train:
                    # Half precision would lose small steps.
                    dtype = torch.promote_types(downs[0].dtype, torch.float32)
                layer.down = torch.cat([down.to(device, dtype) for down in downs])
                layer.up = torch.cat([up.to(device, dtype) for up in ups], dim=1)
                layer.gamma_BR = torch.zeros(0, layer.down.shape[0], device=device)
        if train:
            for layer in self._wrapped.values():
                layer.down.requires_grad_()
                layer.up.requires_grad_()

    def _check_known(self, name: str) -> None:
        if name not in self._membranes:
            raise StackError(f"there is no membrane called {name!r}; there are {listed(self.names) or 'none'}")

    def _check_injected(self, verb: str) -> None:
        if not self.injected:
            raise StackError(f"a stack can only be {verb} while it is injected; call inject() first")


def bare_parameters(network: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters of a network by the names that they have without stacks."""
    inside = {f"{path}.base" for path, module in network.named_modules() if isinstance(module, StackedLayer)}
    found: dict[str, nn.Parameter] = {}
    for path, parameter in network.named_parameters():
        owner, _, name = path.rpartition(".")
        while owner in inside:
            owner = owner.removesuffix(".base")
        found[f"{owner}.{name}" if owner else name] = parameter
    return found


def refuse_other_adapters(denoiser: nn.Module) -> None:
    """Raise a StackError if the denoiser has PEFT adapters: a membrane is trained without them."""
    if others := adapted_layers(denoiser):
        raise StackError(
            f"a membrane is trained without other adapters, but PEFT's (LoRA) are on {listed(others)}; fuse them "
            "into the weights with pipeline.fuse_lora() and pipeline.unload_lora_weights(), or take them off, first"
        )


def _home(layer: nn.Module) -> tuple[torch.device, torch.dtype | None]:
    # The device and precision for the pair; quantised and offloaded layers do not say.
    weight = next(layer.parameters(), None)
    if weight is None or weight.is_meta:
        return torch.device("cpu"), None
    return weight.device, weight.dtype if weight.dtype in PRECISIONS else None


def _places(denoiser: nn.Module, modules: Mapping[str, nn.Module]) -> dict[str, list[tuple[nn.Module, str]]]:
    # By identity, because other wrappers change paths.
    paths = {id(module): path for path, module in modules.items()}
    places: dict[str, list[tuple[nn.Module, str]]] = {}
    for parent in denoiser.modules():
        for child, module in parent._modules.items():
            if id(module) in paths:
                places.setdefault(paths[id(module)], []).append((parent, child))
    return places


def _bare(layer: nn.Module) -> nn.Module:
    while isinstance(layer, StackedLayer):
        layer = layer.base
    return layer


def _is_fused(module: nn.Module) -> bool:
    # The attention of a UNet keeps its flag when it is unfused; only its processor changes.
    if not getattr(module, "fused_projections", False):
        return False
    return not isinstance(module, Attention) or type(module.processor).__name__.startswith("Fused")


def _refuse_bypassed(denoiser: nn.Module) -> None:
    modules = list(denoiser.named_modules())
    if fused := [path for path, module in modules if _is_fused(module)]:
        raise StackError(
            f"the query, key and value projections are fused in {listed(fused)}, which would bypass the membranes; "
            "call unfuse_qkv_projections() first"
        )
    if others := [path for path, module in modules if is_adapted(module) and not isinstance(module, LoraLayer)]:
        raise StackError(
            f"PEFT adapters that are not LoRAs are on {listed(others)}, and such may read a layer's weights without "
            "calling it, which would bypass the membranes; merge them into the weights, or take them off, first"
        )
    if scaling := [path for path, module in modules if isinstance(module, LoraLayer) and module.lora_magnitude_vector]:
        raise StackError(
            f"LoRAs that rescale their layers (DoRA) are on {listed(scaling)}, and would rescale the membranes too; "
            "fuse them into the weights with pipeline.fuse_lora() and pipeline.unload_lora_weights(), or take them off"
        )


def _refuse_saving(*_: Any, **__: Any) -> None:
    raise StackError(
        "a denoiser with membranes on it is not saved, because its files would not hold them: call eject() first to "
        "save the bare model, or merge them into a copy with semiperm.files.export.merge"
    )


def _refuse_cast(wrapped: Mapping[str, StackedLayer]) -> None:
    if cast_down := [path for path, layer in wrapped.items() if layer.down.dtype not in PRECISIONS]:
        raise StackError(
            f"the membranes were cast to {wrapped[cast_down[0]].down.dtype} in {listed(cast_down)}, too coarse a type; "
            "load the pipeline again and call enable_layerwise_casting() before the guard is put on"
        )
