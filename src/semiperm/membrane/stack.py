"""The stack: any number of membranes on one denoiser, each open as far as it is told to be.

Every layer carries all membranes as one pair of matrices, so that two extra products do for any number of them:
y = W x + ((x D^T) * gamma) U^T, which is eq. 9 of
[[arXiv:2312.16145] One-dimensional Adapter to Rule Them All](https://arxiv.org/abs/2312.16145) with gamma counted once.
"""

from collections.abc import Mapping
from typing import Any, Self, cast

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.nn import functional as F

from semiperm.membrane.membrane import Membrane, listed, sizes
from semiperm.models.base import adapted_layers, erasable_layers, is_adapted, unwrapped

# B batch, K membranes, R the ranks of all of them together

PRECISIONS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class StackError(ValueError):
    """A stack was asked for something that it cannot do exactly."""


class Opening:
    """What all layers of a stack know of the permeabilities without looking at a tensor."""

    closed: bool = True
    everywhere: bool = False


class StackedLayer(nn.Module):
    """A layer of the denoiser and the stacked pair beside it; closed, it is the layer itself.

    Buffers rather than loose tensors, so that they follow the denoiser to other devices and precisions; none of them
    enters its state dict.
    """

    down: Tensor
    up: Tensor
    gates_BR: Tensor

    def __init__(self, base: nn.Module, opening: Opening) -> None:
        # whatever sort of layer this is, it has no weights of its own
        nn.Module.__init__(self)
        self.base = base
        self.opening = opening
        self.idle = True
        for name in ("down", "up", "gates_BR"):
            self.register_buffer(name, torch.empty(0), persistent=False)
        self.train(base.training)

    def __getattr__(self, name: str) -> Any:
        # whoever reads weight, bias, in_features, kernel_size, ... means the layer
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base"), name)

    def forward(self, input: Tensor) -> Tensor:
        y = self.base(input)
        if self.opening.closed or self.idle:
            return y
        if self.gates_BR.shape[0] not in (1, input.shape[0]):
            raise StackError(
                f"the permeabilities are for a batch of {self.gates_BR.shape[0]}, but the denoiser got one of "
                f"{input.shape[0]}; guidance needs them once for each of its branches"
            )
        h = self._through_down(input)
        gates = self.gates_BR.to(h)
        gates = gates[:, :, None, None] if self._is_conv else gates.unflatten(0, (-1, *[1] * (input.ndim - 2)))
        # a product with 0 is not 0 where h has overflowed
        h = torch.where(gates == 0, 0.0, h * gates)
        up = self.up.to(h)
        change = (F.conv2d(h, up) if self._is_conv else F.linear(h, up)).to(y.dtype)
        if self.opening.everywhere:
            return y + change
        # rows that are closed to all membranes keep the layer's own bits
        is_open = (gates != 0).any(dim=1 if self._is_conv else -1, keepdim=True)
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
        # what is trained must stay the tensors that the optimiser has, as parameters do when their module is moved
        trained = {name: self._buffers[name] for name in ("down", "up") if self._buffers[name].requires_grad}  # pyright: ignore[reportOptionalMemberAccess]
        super()._apply(fn, recurse)
        for name, leaf in trained.items():
            leaf.data = self._buffers[name].detach()  # pyright: ignore[reportOptionalMemberAccess]
            self._buffers[name] = leaf
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        # diffusers looks there for FLUX's weights, by the layer's own names, when it loads a LoRA
        self.base._save_to_state_dict(destination, prefix, keep_vars)

    def extra_repr(self) -> str:
        return f"rank={self.down.shape[0]}"


class StackedLinear(StackedLayer, nn.Linear):
    """A linear layer to all who ask, so that PEFT puts its adapters around it."""


class StackedConv2d(StackedLayer, nn.Conv2d):
    """A convolution to all who ask, so that PEFT puts its adapters around it."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        # PEFT makes the convolutions of a LoRA with the class of the one that it finds
        return nn.Conv2d(*args, **kwargs) if args and isinstance(args[0], int) else super().__new__(cls)


class Stack:
    """K membranes on one denoiser, injected and ejected without a trace.

    Its layers are the denoiser's erasable ones unless others are given. Membranes are added, removed and replaced
    whether it is injected or not, which closes it: nothing acts before `set_permeability`.

    Raises:
        StackError: the denoiser already wears a stack, has no such layers, or would bypass them: its projections are
            fused, or it has PEFT adapters that are no plain LoRA.
    """

    def __init__(self, denoiser: nn.Module, layers: Mapping[str, nn.Module] | None = None) -> None:
        self.denoiser = unwrapped(denoiser)
        _refuse_worn_or_bypassed(self.denoiser)
        self.layers = dict(erasable_layers(self.denoiser) if layers is None else layers)
        if not self.layers:
            raise StackError(f"{type(denoiser).__name__} has no transformer blocks that a membrane could sit in")
        for path, layer in self.layers.items():
            sizes(path, layer)
        self._membranes: dict[str, Membrane] = {}
        self._worn: dict[str, StackedLayer] = {}
        self._opening = Opening()
        self._trained: str | None = None

    # membranes

    @property
    def names(self) -> list[str]:
        """The membranes' names, in the order of gamma's columns."""
        return list(self._membranes)

    def __len__(self) -> int:
        return len(self._membranes)

    def membrane(self, name: str) -> Membrane:
        """Return a membrane as it is now, trained weights included; its tensors are never the live ones."""
        self._check_known(name)
        if name != self._trained:
            return self._membranes[name]
        return Membrane(
            self._membranes[name].card,
            {path: layer.down.detach().clone() for path, layer in self._worn.items()},
            {path: layer.up.detach().clone() for path, layer in self._worn.items()},
        )

    def add(self, name: str, membrane: Membrane) -> None:
        """Add a membrane as gamma's last column.

        Raises:
            StackError: the name is taken.
            CoverageError: the membrane does not cover exactly the stack's layers; the stack stays as it was.
        """
        self.add_all({name: membrane})

    def add_all(self, membranes: Mapping[str, Membrane]) -> None:
        """Add membranes as gamma's last columns, all or none; the layers are stacked up once for all of them.

        Raises:
            StackError: a name is taken.
            CoverageError: a membrane does not cover exactly the stack's layers; the stack stays as it was.
        """
        if taken := [name for name in membranes if name in self._membranes]:
            raise StackError(f"there is a membrane called {taken[0]!r} already; replace it, or choose another name")
        fitted = {name: membrane.fitted_to(self.layers) for name, membrane in membranes.items()}
        self._change({**self._membranes, **fitted})

    def remove(self, name: str) -> None:
        """Take a membrane off; the others keep their order."""
        self._check_known(name)
        self._change({kept: membrane for kept, membrane in self._membranes.items() if kept != name})

    def replace(self, name: str, membrane: Membrane) -> None:
        """Put another membrane in the place of one."""
        self._check_known(name)
        self._change({**self._membranes, name: membrane.fitted_to(self.layers)})

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
        return [tensor for layer in self._worn.values() for tensor in (layer.down, layer.up)]

    # on and off

    @property
    def injected(self) -> bool:
        return bool(self._worn)

    def inject(self) -> None:
        """Put the stack on, closed; nothing happens if it is on already.

        Raises:
            StackError: some layers are no longer the denoiser's own, or would be bypassed.
        """
        if self.injected:
            return
        _refuse_worn_or_bypassed(self.denoiser)
        places = _places(self.denoiser, self.layers)
        if lost := [path for path in self.layers if path not in places]:
            raise StackError(f"these layers were exchanged since the stack was made: {listed(lost)}; make a new stack")
        for path, layer in self.layers.items():
            stacked = StackedConv2d if isinstance(layer, nn.Conv2d) else StackedLinear
            self._worn[path] = stacked(layer, self._opening)
        for path, spots in places.items():
            for parent, child in spots:
                setattr(parent, child, self._worn[path])
        # a pipeline's save_pretrained calls the denoiser's own
        self.denoiser.__dict__["save_pretrained"] = _refuse_saving
        self._stack_up()

    def eject(self) -> None:
        """Take the stack off: every layer is the object that it was, wherever other wrappers have put it since."""
        if not self.injected:
            return
        self._keep_trained()
        for path, spots in _places(self.denoiser, self._worn).items():
            for parent, child in spots:
                setattr(parent, child, self.layers[path])
        self.denoiser.__dict__.pop("save_pretrained", None)
        self._worn = {}
        self.close()

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
                bypassed or were cast to eight bits.
        """
        self._check_injected("opened")
        _refuse_bypassed(self.denoiser)
        _refuse_cast(self._worn)
        if gamma_BK.ndim != 2 or gamma_BK.shape[0] == 0 or gamma_BK.shape[1] != len(self):
            raise StackError(
                f"permeabilities must have the shape (batch, {len(self)}), one column for each membrane, not "
                f"{tuple(gamma_BK.shape)}"
            )
        # a buffer made under inference mode could never be changed outside of it
        with torch.inference_mode(False), torch.no_grad():
            gamma_BK = gamma_BK.detach().clone().float()
            if not torch.isfinite(gamma_BK).all():
                raise StackError(f"permeabilities must be finite, not {gamma_BK.tolist()}")
            ranks = torch.tensor([membrane.rank for membrane in self._membranes.values()], dtype=torch.long)
            gates_BR = gamma_BK.repeat_interleave(ranks.to(gamma_BK.device), dim=1)
            for layer in self._worn.values():
                if layer.gates_BR.shape == gates_BR.shape:
                    layer.gates_BR.copy_(gates_BR)
                else:
                    layer.gates_BR = gates_BR.to(layer.down.device, copy=True)
            is_open_B = (gamma_BK != 0).any(dim=1)
            self._opening.closed = not bool(is_open_B.any())
            self._opening.everywhere = bool(is_open_B.all())

    def close(self) -> None:
        """Close every membrane: the denoiser is the bare one again, bit for bit."""
        self._opening.closed = True

    # inside

    def _change(self, membranes: dict[str, Membrane]) -> None:
        self._keep_trained(among=membranes)
        self._membranes = membranes
        if self.injected:
            self._stack_up()

    def _keep_trained(self, among: dict[str, Membrane] | None = None) -> None:
        if self._trained is None:
            return
        name, before = self._trained, self._membranes[self._trained]
        now = self.membrane(name)
        self._trained = None
        self._membranes[name] = now
        if among is not None and among.get(name) is before:
            among[name] = now

    def _stack_up(self, train: bool = False) -> None:
        self.close()
        members = list(self._membranes.values())
        with torch.inference_mode(False), torch.no_grad():
            for path, layer in self._worn.items():
                inputs, outputs, kernel = sizes(path, layer.base)
                downs = [member.down[path] for member in members] or [torch.empty(0, inputs, *kernel)]
                ups = [member.up[path] for member in members] or [torch.empty(outputs, 0, *(1 for _ in kernel))]
                # an instant membrane leaves most layers at 0, and those need no work
                layer.idle = not train and not any(bool(up.any()) for up in ups)
                device, dtype = _home(layer.base)
                if train:
                    # half precision would lose small steps
                    dtype = torch.promote_types(downs[0].dtype, torch.float32)
                layer.down = torch.cat([down.to(device, dtype) for down in downs])
                layer.up = torch.cat([up.to(device, dtype) for up in ups], dim=1)
                layer.gates_BR = torch.zeros(0, layer.down.shape[0], device=device)
        if train:
            for layer in self._worn.values():
                layer.down.requires_grad_()
                layer.up.requires_grad_()

    def _check_known(self, name: str) -> None:
        if name not in self._membranes:
            raise StackError(f"there is no membrane called {name!r}; there are {listed(self.names) or 'none'}")

    def _check_injected(self, verb: str) -> None:
        if not self.injected:
            raise StackError(f"a stack can only be {verb} while it is injected; call inject() first")


def refuse_other_adapters(denoiser: nn.Module) -> None:
    """Raise a StackError if the denoiser wears adapters of PEFT, beside which no membrane is made."""
    if others := adapted_layers(denoiser):
        raise StackError(
            f"a membrane is trained without other adapters, but PEFT's (LoRA) are on {listed(others)}; fuse them "
            "into the weights with pipeline.fuse_lora() and pipeline.unload_lora_weights(), or take them off, first"
        )


def _home(layer: nn.Module) -> tuple[torch.device, torch.dtype | None]:
    # where the pair shall live, and in which precision; quantised and offloaded layers do not say
    weight = next(layer.parameters(), None)
    if weight is None or weight.is_meta:
        return torch.device("cpu"), None
    return weight.device, weight.dtype if weight.dtype in PRECISIONS else None


def _places(denoiser: nn.Module, modules: Mapping[str, nn.Module]) -> dict[str, list[tuple[nn.Module, str]]]:
    # by identity, since other wrappers change paths
    paths = {id(module): path for path, module in modules.items()}
    places: dict[str, list[tuple[nn.Module, str]]] = {}
    for parent in denoiser.modules():
        for child, module in parent._modules.items():
            if id(module) in paths:
                places.setdefault(paths[id(module)], []).append((parent, child))
    return places


def _refuse_worn_or_bypassed(denoiser: nn.Module) -> None:
    if worn := [path for path, module in denoiser.named_modules() if isinstance(module, StackedLayer)]:
        raise StackError(f"the denoiser already wears a stack (on {listed(worn)}); add to that one, or eject it first")
    _refuse_bypassed(denoiser)


def _is_fused(module: nn.Module) -> bool:
    # a UNet's attention keeps its flag when it is unfused, and only its processor tells
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
    if others := [path for path, module in modules if is_adapted(module) and "lora_A" not in module._modules]:
        raise StackError(
            f"adapters of PEFT that are no LoRA are on {listed(others)}, and such may read a layer's weights without "
            "calling it, which would bypass the membranes; merge them into the weights, or take them off, first"
        )
    if scaling := [path for path, module in modules if len(getattr(module, "lora_magnitude_vector", None) or ())]:
        raise StackError(
            f"LoRAs that rescale their layers (DoRA) are on {listed(scaling)}, and would rescale the membranes too; "
            "fuse them into the weights with pipeline.fuse_lora() and pipeline.unload_lora_weights(), or take them off"
        )


def _refuse_saving(*_: Any, **__: Any) -> None:
    raise StackError(
        "a denoiser that wears membranes is not saved, because they would not be in its files: eject() them first to "
        "save the bare model, or bake them in with semiperm.membrane.export.merge"
    )


def _refuse_cast(worn: Mapping[str, StackedLayer]) -> None:
    if cast_down := [path for path, layer in worn.items() if layer.down.dtype not in PRECISIONS]:
        raise StackError(
            f"the membranes were cast to {worn[cast_down[0]].down.dtype} in {listed(cast_down)}, which is too coarse "
            "for them; load the pipeline again and call enable_layerwise_casting() before the guard is put on"
        )
