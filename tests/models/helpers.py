"""What the tests of all model families share."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from semiperm.api import guard
from semiperm.concept import Concept
from semiperm.erasure import Card
from semiperm.gate import Gate, Shown
from semiperm.guarded import Guard
from semiperm.membrane import Membrane
from semiperm.models.load import model_of


class ByName(Gate):
    """Opens for prompts that have a word in them, at their beginning or behind a space."""

    word: str

    def gamma(self, shown: Shown) -> Tensor:
        wanted = shown.reader.tokens([self.word, f" {self.word}"])
        assert shown.text.ids is not None
        return torch.tensor([float(any(set(word) <= set(row) for word in wanted)) for row in shown.text.ids])


def by_name(card: Card) -> Gate:
    """Return the gate that opens for the concept's name."""
    return ByName(word=card.concept.name)


class TenthOfLength(Gate):
    """Gives a tenth of the number of positions that the mask of embeddings leaves."""

    def gamma(self, shown: Shown) -> Tensor:
        mask_BT = shown.text.mask_BT
        assert shown.text.start == 0 and mask_BT is not None and mask_BT.dtype == torch.bool
        return mask_BT.sum(1) / 10


class Watched:
    """Calls a guard, and remembers the permeabilities that its last call returned."""

    def __init__(self, guarded: Guard) -> None:
        self.guarded = guarded
        self.gammas: list[float] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        output = self.guarded(*args, **kwargs)
        self.gammas = output.permeability.gamma_BK.flatten().tolist()
        return output


def membrane_for(pipeline: Any, name: str) -> Membrane:
    generator = torch.Generator().manual_seed(0)
    layers = model_of(pipeline, "tiny").erasable_layers()
    empty = Membrane.zero(layers, Card(concepts=(Concept(name=name),)), generator=generator)
    up = {path: 0.5 * torch.randn(tensor.shape, generator=generator) for path, tensor in empty.up.items()}
    return Membrane(empty.card, empty.down, up)


def check_against_changed_weights(pipeline: Any, draw: Callable[[Any], Tensor], atol: float, rtol: float) -> None:
    """Check pictures of three prompts, two each: those of the first and last are those of weights changed by hand.

    The second prompt does not ask for the concept, so its pictures are the bare model's, as all are after the guard.
    """
    membrane, bare = membrane_for(pipeline, "cat"), draw(pipeline)
    with guard(pipeline, [membrane], gate=by_name) as guarded:
        watched = Watched(guarded)
        found = draw(watched)
        assert watched.gammas == [1, 0, 1]
    assert torch.equal(draw(pipeline), bare)
    assert torch.equal(found[2:4], bare[2:4])
    for path, layer in model_of(pipeline).erasable_layers().items():
        cast(nn.Linear, layer).weight.data += membrane.up[path] @ membrane.down[path]
    changed = draw(pipeline)
    for rows in (slice(0, 2), slice(4, 6)):
        torch.testing.assert_close(found[rows], changed[rows], atol=atol, rtol=rtol)
        assert (found[rows] - bare[rows]).abs().max() > 1e-3


def seen_by_the_denoiser(pipeline: Any, **arguments: Any) -> list[dict[str, Any]]:
    """Return what the pipeline gives its denoiser in each call, and what the denoiser returns."""
    calls: list[dict[str, Any]] = []
    real = pipeline.transformer.forward

    def spy(*args: Any, **kwargs: Any) -> Any:
        found = real(*args, **kwargs)
        calls.append({**dict(zip(["hidden_states"], args, strict=False)), **kwargs, "found": found[0]})
        return found

    pipeline.transformer.forward = spy
    try:
        pipeline(**{"num_inference_steps": 3, "output_type": "latent", **arguments})
    finally:
        del pipeline.transformer.forward
    return calls
