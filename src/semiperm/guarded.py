"""The guard: a pipeline wearing erasures. Prompts go in; pictures and permeabilities come out."""

import inspect
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Self
from weakref import WeakSet

import torch
from torch import Tensor, nn

from semiperm.conditioning import Encodings, Given, digests, given_to, parts_of
from semiperm.erasure import Card, Erasure
from semiperm.errors import CoverageError, GateError, GuardError, close_match, listed
from semiperm.gate import Gate, OpenGate, PaperGate, Shown, judge
from semiperm.models.layers import fingerprint
from semiperm.models.model import DiffusionModel
from semiperm.models.text import TextFeatures
from semiperm.stack import Stack

# B prompts, N pictures, K membranes

GateOf = Callable[[Card], Gate]


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


def fitted(card: Card) -> Gate:
    """Return the gate on the card.

    Raises:
        GateError: the card has none.
    """
    if card.gate is None:
        raise GateError(
            f"the membrane {card.title!r} has no fitted gate: fit one with semiperm.methods.calibrate.with_gate, or "
            'choose gate="paper" or gate="always"'
        )
    return card.gate


GATES: dict[str, GateOf] = {
    "fitted": fitted,
    "paper": lambda card: PaperGate(phrases=card.concept.targets),
    "always": lambda card: OpenGate(),
}


def judge_prompts(gates: Sequence[Gate], model: DiffusionModel, prompts: Sequence[str]) -> Tensor:
    """Return how far each gate opens for each prompt: (B, K). Of a prompt that is truncated, all parts are judged."""
    parts = [parts_of(prompt, model.tokens) for prompt in prompts]
    gamma = judge(gates, Shown(model.encode([part for some in parts for part in some]), model))
    return torch.stack([rows.amax(0) if gates else rows[0] for rows in gamma.split([len(some) for some in parts])])


class Guard:
    """A diffusers pipeline wearing erasures of any kind; called like the pipeline itself.

    Membranes share one stack. Every picture gets the permeabilities of its own prompt, the same in all branches of
    guidance: each prompt of a batch gives the picture that it gives alone. Negative prompts and image prompts open
    nothing. Threads take turns: permeabilities belong to one call, and a change of the erasures within a call is an
    error.

    While membranes are on, only guards may use the denoiser: the pipeline itself, or another one that shares the
    denoiser, raises a StackError. Pipelines that share networks get a guard each; in a call of one, its own membranes
    act, and erasures of other kinds act in all of them.

    Attributes:
        model: the DiffusionModel.
        pipeline: its pipeline; only the denoiser's layers change while the stack is injected.
        stack: the membranes on the denoiser.

    Raises:
        CoverageError: an erasure does not fit the model.
        GuardError: there is no gate of that name, the pipeline has a guard already, or other guards have put erasures
            that are no membranes on the same networks.
    """

    def __init__(
        self, model: DiffusionModel, erasures: Sequence[Erasure] = (), *, gate: str | GateOf = "fitted"
    ) -> None:
        self.model = model
        self.pipeline = model.pipeline
        self._gate_of = _gate_of(gate)
        self.stack = Stack(model.denoiser, calls_only=True)
        # While the stack is injected, the layers have other paths inside the denoiser.
        self._fingerprint = fingerprint(self.stack.layers)
        self._cards: dict[str, Card] = {}
        self._others: dict[str, Erasure] = {}
        self._worn = _Worn(self.stack)
        self._encodings = Encodings()
        # gamma of the prompts of the present call, so that nothing is encoded while the denoiser is at work
        self._judged: dict[str, Tensor] = {}
        self.add_all(erasures)
        self.inject()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the pipeline with its own arguments and return its output with the permeabilities.

        An output object gets the attribute `permeability`; a tuple (`return_dict=False`) gets it as its last item.

        Raises:
            GuardError: the guard was ejected, or its membranes could not be set for the denoiser's input.
            GateError: a gate cannot judge this call.
        """
        if not self.stack.injected:
            raise GuardError("This guard was ejected, so it erases nothing; call inject() to put it on again.")
        if self.model.denoiser is not self.stack.denoiser:
            raise GuardError("The pipeline has another denoiser now; make a new guard for it.")
        arguments = inspect.signature(self.pipeline.__call__).bind(*args, **kwargs).arguments
        with self.stack.call() as set_permeability:
            asked = self._asked(arguments)
            repeats = arguments.get("num_images_per_prompt") or 1
            gamma_NK = asked.gamma_BK.repeat_interleave(repeats, dim=0)
            negative = [value for name, value in arguments.items() if name.startswith("negative_prompt")]
            with (
                self._encodings.recording(
                    self.pipeline, [value for value in negative if value is not None]
                ) as negatives,
                self._setting(gamma_NK, set_permeability, _Looks(self, negatives)) as batches,
            ):
                output = self.pipeline(*args, **kwargs)
            by_prompt = arguments.get("prompt") is not None
            if not batches and len(self.stack) and (gamma_NK.any() or not by_prompt):
                raise GuardError(
                    "The pipeline made pictures, but no call of its denoiser was seen, so the membranes may not have "
                    "acted: something calls the denoiser without its hooks."
                )
            if gamma_NK.any() and (missed := self.stack.bypassed()):
                raise GuardError(
                    f"The denoiser did not call the layers {listed(missed)}, so their membranes did not act: an "
                    "attention processor or block reads their weights directly. Take it off, or put the guard on first."
                )
        # What the denoiser was given may have opened further than the prompts.
        gamma_BK = gamma_NK.view(len(asked.prompts), repeats, -1).amax(1)
        asked = Permeability(asked.prompts, asked.names, gamma_BK)
        if isinstance(output, tuple):
            return (*output, asked)
        output.permeability = asked
        return output

    def permeability(self, prompts: str | Sequence[str]) -> Permeability:
        """Return how far each membrane opens for each prompt."""
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        return Permeability(tuple(prompts), tuple(self.stack.names), judge_prompts(self._gates(), self.model, prompts))

    def judge(self, text: TextFeatures) -> Tensor:
        """Return how far each membrane opens for text features: (B, K).

        Raises:
            GateError: a gate cannot judge them.
        """
        return judge(self._gates(), Shown(text, self.model))

    def _gates(self) -> list[Gate]:
        return [self._gate_of(self._cards[name]) for name in self.stack.names]

    def _of_prompt(self, prompt: str) -> Tensor:
        if prompt not in self._judged:
            self._judged[prompt] = self.permeability(prompt).gamma_BK[0]
        return self._judged[prompt]

    def opens(self, prompts: str | Sequence[str]) -> Tensor | None:
        """Return the permeability of the membrane that opens furthest for each prompt: (B,), 0 without membranes.

        None if an erasure without a gate is among them, because that always acts.
        """
        if self._others:
            return None
        gamma_BK = self.permeability(prompts).gamma_BK
        return gamma_BK.amax(1) if gamma_BK.shape[1] else torch.zeros(len(gamma_BK))

    # erasures

    @property
    def names(self) -> list[str]:
        """The erasures' names: membranes in the order of gamma's columns, then the others."""
        return [*self.stack.names, *self._others]

    def add(self, erasure: Erasure, name: str | None = None) -> str:
        """Add an erasure and return its name: its concept's, with a number if that is taken.

        Raises:
            CoverageError: it does not fit the model.
        """
        return self._add({name or _free_name(erasure.card.title, self.names): erasure})[0]

    def add_all(self, erasures: Sequence[Erasure]) -> list[str]:
        """Add erasures, all or none, and return their names; faster than one by one.

        Raises:
            CoverageError: one does not fit the model.
        """
        named: dict[str, Erasure] = {}
        for erasure in erasures:
            named[_free_name(erasure.card.title, [*self.names, *named])] = erasure
        return self._add(named)

    def remove(self, name: str) -> None:
        """Remove an erasure."""
        if name in self._others:
            with self._ejected():
                del self._others[name]
        else:
            self.stack.remove(name)
            del self._cards[name]

    def replace(self, name: str, membrane: Erasure) -> None:
        """Replace a membrane by another under the same name."""
        self.stack.replace(name, self._fitted(membrane))
        self._cards[name] = membrane.card

    # on and off

    def inject(self) -> None:
        """Put the erasures on, after `eject`."""
        if self.stack.injected:
            return
        with ExitStack() as worn:
            worn.enter_context(_owning([self.pipeline], "The pipeline has a guard already; add to that one"))
            if self._others:
                networks = [part for part in vars(self.pipeline).values() if isinstance(part, nn.Module)]
                # Weights are restored to what they were, so that others may not change them in between.
                problem = "Another guard has put weight deltas or samplers on the same networks; give all to one guard"
                worn.enter_context(_owning(networks, problem))
            for erasure in self._others.values():
                worn.enter_context(erasure.on(self.model))
            worn.enter_context(self._encodings.recording(self.pipeline))
            self.stack.inject()
            self._worn.contexts = worn.pop_all()

    def eject(self) -> None:
        """Take the erasures off: the pipeline is what it was before, bit for bit."""
        self._worn.eject()

    def __enter__(self) -> Self:
        self.inject()
        return self

    def __exit__(self, *_: object) -> None:
        self.eject()

    # inside

    def _add(self, named: Mapping[str, Erasure]) -> list[str]:
        membranes = {name: self._fitted(one) for name, one in named.items() if one.kind == "membrane"}
        others = {name: one for name, one in named.items() if one.kind != "membrane"}
        if taken := [name for name in named if name in self.names]:
            raise GuardError(f"There is an erasure called {taken[0]!r} already; replace it, or choose another name.")
        for membrane in membranes.values():
            # A membrane without the gate is refused now, not in the middle of a call.
            self._gate_of(membrane.card)
        if others:
            with self._ejected():
                self._others |= others
        self.stack.add_all(membranes)
        self._cards |= {name: membrane.card for name, membrane in membranes.items()}
        return list(named)

    @contextmanager
    def _ejected(self) -> Iterator[None]:
        # Weight deltas name the parameters of the bare denoiser, so they are applied before the stack wraps its layers.
        was_injected, before = self.stack.injected, dict(self._others)
        self.eject()
        try:
            yield
            if was_injected:
                self.inject()
        except BaseException:
            self._others = before
            if was_injected:
                self.inject()
            raise

    def _fitted(self, membrane: Any) -> Any:
        try:
            return membrane.fitted_to(self.stack.layers)
        except CoverageError as error:
            card = membrane.card
            if not card.fingerprint or card.fingerprint == self._fingerprint:
                raise
            raise CoverageError(
                f"The membrane {card.title!r} was made for {card.base_model or card.architecture or 'a model'} "
                f"with the fingerprint {card.fingerprint}; {self.model.name} has {self._fingerprint}. {error}",
                missing=error.missing,
                foreign=error.foreign,
                misshapen=error.misshapen,
            ) from error

    def _asked(self, arguments: Mapping[str, Any]) -> Permeability:
        prompt = arguments.get("prompt")
        embeds = arguments.get("prompt_embeds")
        if prompt is None and embeds is not None:
            # They are judged when the denoiser gets them.
            prompts = tuple(f"<embeddings {index}>" for index in range(len(embeds)))
            return Permeability(prompts, tuple(self.stack.names), torch.zeros(len(embeds), len(self.stack)))
        if not isinstance(prompt, str | list):
            raise GuardError("Give a prompt, a list of prompts, or prompt_embeds: there is nothing to judge.")
        self._judged = {}
        asked = self.permeability(prompt)
        self._judged |= dict(zip(asked.prompts, asked.gamma_BK, strict=True))
        for name in ("prompt_2", "prompt_3"):
            other = arguments.get(name)
            if not other:
                continue
            # The prompt of another encoder can ask for a concept as well as the first one's.
            also = self.permeability([other] * len(asked.prompts) if isinstance(other, str) else other)
            self._judged |= dict(zip(also.prompts, also.gamma_BK, strict=True))
            if len(also.prompts) != len(asked.prompts):
                raise GuardError(f"There are {len(asked.prompts)} prompts, but {name} has {len(also.prompts)}.")
            asked = Permeability(asked.prompts, asked.names, torch.maximum(asked.gamma_BK, also.gamma_BK))
        return asked

    @contextmanager
    def opened(self, gamma_NK: Tensor) -> Iterator[None]:
        """Open the membranes for calls of the denoiser within the context: (N, K), one row a sample of one branch.

        Raises:
            StackError: another call is running in this thread.
        """
        with self.stack.call() as set_permeability, self._setting(gamma_NK, set_permeability):
            yield

    @contextmanager
    def _setting(
        self, gamma_NK: Tensor, set_permeability: Callable[[Tensor], None], looks: "_Looks | None" = None
    ) -> Iterator[list[int]]:
        """Set the permeabilities before calls of the denoiser, and raise them in place for what it is given.

        Yields the list of its batch sizes, one for each time that they were set.
        """
        batches: list[int] = []
        caller = threading.get_ident()

        # On the outermost module: for a compiled denoiser that is outside of the compiled graph.
        @torch.compiler.disable
        def before_denoiser(_denoiser: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if threading.get_ident() != caller:
                raise GuardError("Another thread called the denoiser during a guarded call; let it call the guard too.")
            if not len(self.stack):
                return
            # From the batch at hand and not from guidance_scale: a callback may end guidance half way, and some
            # pipelines have a third branch. Pipelines concatenate the branches, never interleave them, or run each as
            # a batch of all pictures.
            latents = args[0] if args else kwargs["sample"] if "sample" in kwargs else kwargs["hidden_states"]
            batch = latents.shape[0]
            if batch % len(gamma_NK):
                raise GuardError(
                    f"The denoiser got a batch of {batch}, which is not a multiple of the {len(gamma_NK)} pictures of "
                    "this call, so it is unknown which sample belongs to which prompt."
                )
            raised = looks is not None and looks.raise_to(gamma_NK, given_to(args, kwargs))
            if raised or batches[-1:] != [batch]:
                set_permeability(gamma_NK.repeat(batch // len(gamma_NK), 1))
                batches.append(batch)

        # torch.compiler.disable is not typed as returning a function.
        hook: Any = before_denoiser
        handle = self.model.called.register_forward_pre_hook(hook, with_kwargs=True)
        try:
            yield batches
        finally:
            handle.remove()


_owned: WeakSet[Any] = WeakSet()


@contextmanager
def _owning(things: Sequence[Any], problem: str) -> Iterator[None]:
    if any(thing in _owned for thing in things):
        raise GuardError(f"{problem}, or eject it first.")
    _owned.update(things)
    try:
        yield
    finally:
        _owned.difference_update(things)


class _Worn:
    """What a guard and its copies have put on the pipeline; taken off when the last of them is gone.

    Otherwise a guard that nobody can call any more would block the next one.
    """

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.contexts = ExitStack()

    def eject(self) -> None:
        self.stack.eject()
        self.contexts.close()

    def __del__(self) -> None:
        with suppress(Exception):
            self.eject()


class _Looks:
    """Looks at the conditioning that enters the denoiser during one call, whenever it changes.

    Rows that are the pipeline's encodings of prompts are judged by these prompts, rows that are its encodings of this
    call's negative prompts open nothing, and all other rows are judged as embeddings.
    """

    def __init__(self, guard: Guard, negatives: dict[bytes, str | None]) -> None:
        self.guard = guard
        self.negatives = negatives
        self._seen: list[tuple[Given, int]] = []

    def raise_to(self, gamma_NK: Tensor, given: Given) -> bool:
        """Raise the permeabilities in place to what the conditioning asks for; return whether one was raised."""
        hidden_BTC, pooled_BC, version = given.hidden_BTC, given.pooled_BC, _version(given.hidden_BTC)
        for seen, known in self._seen:
            if hidden_BTC is seen.hidden_BTC and pooled_BC is seen.pooled_BC and version == known >= 0:
                return False
        # A few at most: pipelines run one pass for all branches, or one for each.
        self._seen = [*self._seen[-3:], (given, version)]
        pictures = len(gamma_NK)
        if len(hidden_BTC) % pictures or (pooled_BC is not None and len(pooled_BC) != len(hidden_BTC)):
            raise GuardError(
                f"The denoiser got {len(hidden_BTC)} rows of text for {pictures} pictures, so it is unknown which row "
                "belongs to which picture."
            )
        branches = len(hidden_BTC) // pictures
        before = gamma_NK.clone()
        unknown: list[int] = []
        keys = [digests(hidden_BTC), *([] if pooled_BC is None else [digests(pooled_BC)])]
        for place, row in enumerate(zip(*keys, strict=True)):
            branch, picture = divmod(place, pictures)
            # The last branch is positive, or judged by its negative prompt as InstructPix2Pix's; or it is a call of
            # its own.
            may_be_negative = branch < branches - 1 or self.guard.model.separate_branches
            if may_be_negative and all(key in self.negatives for key in row):
                continue
            prompts = {self.guard._encodings.prompts.get(key, self.negatives.get(key)) for key in row}
            if None in prompts:
                unknown.append(place)
                continue
            for prompt in prompts:
                assert prompt is not None
                gamma_NK[picture] = torch.maximum(gamma_NK[picture], self.guard._of_prompt(prompt))
        if unknown:
            rows = torch.tensor(unknown, device=hidden_BTC.device)
            text = TextFeatures(
                hidden_BTC[rows],
                None if pooled_BC is None else pooled_BC[rows],
                None if given.mask_BT is None else given.mask_BT[rows].bool(),
                start=self.guard.model.start,
            )
            for place, gamma_K in zip(unknown, self.guard.judge(text), strict=True):
                gamma_NK[place % pictures] = torch.maximum(gamma_NK[place % pictures], gamma_K)
        return not torch.equal(gamma_NK, before)


def _version(tensor: Tensor) -> int:
    # Tensors made under inference mode do not count their changes: they are looked at each time.
    return -1 if tensor.is_inference() else tensor._version


def _gate_of(gate: str | GateOf) -> GateOf:
    if not isinstance(gate, str):
        return gate
    if gate not in GATES:
        raise GuardError(f"There is no gate {gate!r}; there are {', '.join(GATES)}.{close_match(gate, GATES)}")
    return GATES[gate]


def _free_name(name: str, taken: Collection[str]) -> str:
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name} ({number})"
    return free
