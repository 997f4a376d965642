"""A pipeline that wears membranes: prompts in, pictures out, each membrane open as far as the prompt asks for it."""

import difflib
import inspect
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from semiperm.membrane.files import load
from semiperm.membrane.membrane import CoverageError, Membrane
from semiperm.membrane.stack import Stack
from semiperm.membrane.transport import RULES, Rule
from semiperm.models.base import DiffusionModel, TextFeatures, fingerprint
from semiperm.models.load import model_of

# B prompts, N pictures, K membranes

PROBE = "a photo"


class GuardError(RuntimeError):
    """A guarded pipeline cannot be sure that its membranes act, and so gives no pictures."""


@dataclass(frozen=True)
class Permeability:
    """How far each membrane opens for each prompt; printed, it is a table.

    Attributes:
        prompts: one row each; prompts that came as embeddings are called `<embeddings 0>` and so on.
        names: the membranes, one column each.
        gamma_BK: the values, on the CPU.
    """

    prompts: tuple[str, ...]
    names: tuple[str, ...]
    gamma_BK: Tensor

    def rows(self) -> list[dict[str, float]]:
        """Return one mapping from membrane to permeability for each prompt."""
        return [dict(zip(self.names, row, strict=True)) for row in self.gamma_BK.tolist()]

    def opened(self) -> list[dict[str, float]]:
        """Return for each prompt the membranes that are not closed."""
        return [{name: gamma for name, gamma in row.items() if gamma != 0} for row in self.rows()]

    def __str__(self) -> str:
        widths = [max(len(name), len("0.00")) for name in self.names]
        head = [f"{name:>{width}}" for name, width in zip(self.names, widths, strict=True)]
        lines = ["  ".join([*head, "prompt"])]
        for prompt, row in zip(self.prompts, self.gamma_BK.tolist(), strict=True):
            cells = [f"{gamma:>{width}.2f}" for gamma, width in zip(row, widths, strict=True)]
            lines.append("  ".join([*cells, prompt]))
        return "\n".join(lines)


def guard(
    pipeline_or_model: Any, membranes: Sequence[Membrane | Path | str], *, transport: str | Rule = "calibrated"
) -> "Guard":
    """Put membranes (or their files) on a diffusers pipeline and return the pipeline's guarded form.

    Args:
        pipeline_or_model: a Stable Diffusion pipeline (text to image or a relative of it), or a DiffusionModel.
        transport: "calibrated", "paper", "always", or a rule of one's own (see `semiperm.membrane.transport`).

    Raises:
        CoverageError: a membrane belongs to another architecture or covers other layers.
        MembraneFileError: a file is not a membrane.
        ValueError: there is no such transport.
    """
    guarded = Guard(pipeline_or_model, transport=transport)
    try:
        guarded.add_all(membranes)
    except BaseException:
        guarded.eject()
        raise
    return guarded


class Guard:
    """A diffusers pipeline with a stack of membranes and a transport; called like the pipeline itself.

    Every picture gets the permeabilities of its own prompt, in all branches of guidance alike: each prompt of a batch
    gives the picture that it gives alone. Negative prompts and image prompts open nothing. Between calls, and after a
    call that failed, all membranes are closed and the pipeline is the bare one. Like the pipeline, it makes one batch
    at a time; threads must take turns.

    Attributes:
        model: the DiffusionModel around the pipeline.
        pipeline: the pipeline, which is not changed but for its denoiser's layers while the stack is injected.
        stack: the membranes on the denoiser.
        last: what opened in the last call, one row a prompt; None before the first.
    """

    def __init__(self, pipeline_or_model: Any, *, transport: str | Rule = "calibrated") -> None:
        self.rule = _rule(transport)
        self.model: DiffusionModel = model_of(pipeline_or_model)
        self.pipeline = self.model.pipeline
        self.stack = Stack(self.model.denoiser)
        # once injected, the layers are found inside the stack's own, under other paths
        self._fingerprint = fingerprint(self.stack.layers)
        self._encoded: dict[tuple[Any, ...], TextFeatures] = {}
        self._probe: TextFeatures | None = None
        self._gamma_NK: Tensor | None = None
        self._batch = 0
        self.last: Permeability | None = None
        self.stack.inject()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the pipeline with its own arguments and return what it returns.

        Raises:
            GuardError: the guard was ejected, or its membranes could not be set for what the denoiser was given.
        """
        if not self.stack.injected:
            raise GuardError("This guard was ejected, so nothing would be erased; call inject() to put it on again.")
        if self.model.denoiser is not self.stack.denoiser:
            raise GuardError("The pipeline was given another denoiser since; make a new guard for it.")
        arguments = inspect.signature(self.pipeline.__call__).bind(*args, **kwargs).arguments
        self.last = self._asked(arguments)
        repeats = arguments.get("num_images_per_prompt") or 1
        with self._opened(self.last.gamma_BK.repeat_interleave(repeats, dim=0)):
            output = self.pipeline(*args, **kwargs)
            if not self._batch and self.last.gamma_BK.any():
                raise GuardError(
                    "The pipeline made pictures while its denoiser was never seen at work, so the membranes may not "
                    "have acted: something calls the denoiser past its hooks."
                )
        return output

    def permeability(self, prompts: str | Sequence[str]) -> Permeability:
        """Return how far each membrane opens for each prompt."""
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        return Permeability(tuple(prompts), tuple(self.stack.names), self._gamma(self.model.encode(prompts)))

    # membranes

    @property
    def names(self) -> list[str]:
        """The membranes' names, in the order of the columns."""
        return self.stack.names

    def add(self, membrane: Membrane | Path | str, name: str | None = None) -> str:
        """Add a membrane or a membrane's file and return the name it got: its concept's, numbered if that is taken.

        Raises:
            CoverageError: it belongs to another architecture or covers other layers.
        """
        membrane = self._fitted(membrane)
        name = name or _free_name(membrane.card.concept.name, self.stack.names)
        self.stack.add(name, membrane)
        return name

    def add_all(self, membranes: Sequence[Membrane | Path | str]) -> list[str]:
        """Add membranes or their files, all or none, and return the names they got; quicker than one by one.

        Raises:
            CoverageError: one belongs to another architecture or covers other layers.
        """
        named: dict[str, Membrane] = {}
        taken = set(self.stack.names)
        for membrane in map(self._fitted, membranes):
            name = _free_name(membrane.card.concept.name, taken)
            taken.add(name)
            named[name] = membrane
        self.stack.add_all(named)
        return list(named)

    def remove(self, name: str) -> None:
        """Take a membrane off."""
        self.stack.remove(name)

    def replace(self, name: str, membrane: Membrane | Path | str) -> None:
        """Put another membrane in the place of one, under the same name."""
        self.stack.replace(name, self._fitted(membrane))

    # on and off

    def inject(self) -> None:
        """Put the stack back on after `eject`."""
        self.stack.inject()

    def eject(self) -> None:
        """Take the stack off: the pipeline is as it was before, bit for bit."""
        self.stack.eject()

    def __enter__(self) -> Self:
        self.inject()
        return self

    def __exit__(self, *_: object) -> None:
        self.eject()

    # inside

    def _fitted(self, membrane: Membrane | Path | str) -> Membrane:
        if not isinstance(membrane, Membrane):
            membrane = load(membrane, layers=self.stack.layers)
        try:
            return membrane.fitted_to(self.stack.layers)
        except CoverageError as error:
            card = membrane.card
            if not card.fingerprint or card.fingerprint == self._fingerprint:
                raise
            raise CoverageError(
                f"The membrane {card.concept.name!r} was made for {card.base_model or card.architecture or 'a model'} "
                f"with the fingerprint {card.fingerprint}; {self.model.name} has {self._fingerprint}. {error}",
                missing=error.missing,
                foreign=error.foreign,
                misshapen=error.misshapen,
            ) from error

    def _asked(self, arguments: Mapping[str, Any]) -> Permeability:
        prompt = arguments.get("prompt")
        embeds, pooled = arguments.get("prompt_embeds"), arguments.get("pooled_prompt_embeds")
        if prompt is None and embeds is not None:
            where = self.model.text_device
            mask = arguments.get("prompt_attention_mask", arguments.get("prompt_embeds_mask"))
            features = TextFeatures(
                embeds.to(where),
                None if pooled is None else pooled.to(where),
                None if mask is None else mask.to(where).bool(),
                start=self.model.start,
            )
            prompts = tuple(f"<embeddings {index}>" for index in range(len(features)))
            return Permeability(prompts, tuple(self.stack.names), self._gamma(features))
        if not isinstance(prompt, str | list):
            raise TypeError("Give a prompt, a list of prompts, or prompt_embeds: there is nothing to judge by.")
        asked = self.permeability(prompt)
        for name in ("prompt_2", "prompt_3"):
            other = arguments.get(name)
            if not other:
                continue
            # another encoder's prompt can ask for a concept as well as the first's
            also = self.permeability([other] * len(asked.prompts) if isinstance(other, str) else other)
            if len(also.prompts) != len(asked.prompts):
                raise ValueError(f"There are {len(asked.prompts)} prompts, but {name} has {len(also.prompts)}.")
            asked = Permeability(asked.prompts, asked.names, torch.maximum(asked.gamma_BK, also.gamma_BK))
        return asked

    def _gamma(self, features: TextFeatures) -> Tensor:
        self._forget_if_changed()
        columns = []
        for name in self.stack.names:
            gamma_B = torch.as_tensor(self.rule(self.stack.membrane(name).card, features, self._encode))
            gamma_B = gamma_B.detach().float().cpu()
            if gamma_B.shape != (len(features),) or not gamma_B.isfinite().all():
                raise GuardError(
                    f"The transport must give one finite permeability for each of {len(features)} prompts; "
                    f"for the membrane {name!r} it gave {gamma_B.tolist()}."
                )
            columns.append(gamma_B)
        return torch.stack(columns, dim=1) if columns else torch.zeros(len(features), 0)

    def _forget_if_changed(self) -> None:
        # a LoRA may have come to a text encoder, gone, or been scaled; nothing but asking it tells them all
        if not self._encoded:
            return
        before, self._probe = self._probe, self.model.encode([PROBE])
        if before is None or not _same(before, self._probe):
            self._encoded = {}

    def _encode(self, prompts: Sequence[str]) -> TextFeatures:
        # a rule compares with the same few phrases at every call; a textual inversion makes other tokens of them
        key = (*prompts, self.model.device, self.model.dtype, len(self.pipeline.tokenizer))
        if self._probe is None:
            self._probe = self.model.encode([PROBE])
        if key not in self._encoded:
            self._encoded[key] = self.model.encode(prompts)
        return self._encoded[key]

    @contextmanager
    def _opened(self, gamma_NK: Tensor) -> Iterator[None]:
        self._gamma_NK, self._batch = gamma_NK, 0
        # on the outermost module, which for a compiled denoiser is outside of the compiled graph
        # torch.compiler.disable does not say that it gives a function back
        pour: Any = self._pour
        handle = self.model.called.register_forward_pre_hook(pour, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()
            self._gamma_NK = None
            self.stack.close()

    @torch.compiler.disable
    def _pour(self, _denoiser: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # From the batch at hand and not from guidance_scale: a callback may end guidance half way, and some pipelines
        # have a third branch. All of them put the branches one after the other, never interleaved, or into passes of
        # their own, each a batch of all pictures.
        gamma_NK = self._gamma_NK
        latents = args[0] if args else kwargs["sample"] if "sample" in kwargs else kwargs["hidden_states"]
        batch = latents.shape[0]
        if gamma_NK is None or batch == self._batch or not len(self.stack):
            return
        if batch % len(gamma_NK):
            raise GuardError(
                f"The denoiser was given a batch of {batch}, which is no multiple of the {len(gamma_NK)} pictures "
                "asked for, so it is unknown which sample belongs to which prompt."
            )
        self.stack.set_permeability(gamma_NK.repeat(batch // len(gamma_NK), 1))
        self._batch = batch


def _same(first: TextFeatures, second: TextFeatures) -> bool:
    pairs = ((first.hidden_BTC, second.hidden_BTC), (first.pooled_BC, second.pooled_BC))
    return all(torch.equal(a, b.to(a)) if a is not None and b is not None else a is b for a, b in pairs)


def _rule(transport: str | Rule) -> Rule:
    if not isinstance(transport, str):
        return transport
    if transport not in RULES:
        close = difflib.get_close_matches(transport, RULES, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"There is no transport {transport!r}; there are {', '.join(sorted(RULES))}.{hint}")
    return RULES[transport]


def _free_name(name: str, taken: Collection[str]) -> str:
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name} ({number})"
    return free
