"""What the tests of all model families share."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from semiperm.concept import Concept
from semiperm.guarded import guard
from semiperm.membrane.membrane import Card, Membrane
from semiperm.models.base import TextFeatures
from semiperm.models.load import model_of


def by_name(card: Card, features: TextFeatures, encode: Callable[[Sequence[str]], TextFeatures]) -> Tensor:
    """Open for prompts that have the concept's name in them, at their beginning or behind a space."""
    wanted = encode([card.concept.name, f" {card.concept.name}"]).ids
    assert wanted is not None and features.ids is not None
    return torch.tensor([float(any(set(name) <= set(row) for name in wanted)) for row in features.ids])


def membrane_for(pipeline: Any, name: str) -> Membrane:
    generator = torch.Generator().manual_seed(0)
    layers = model_of(pipeline, "tiny").erasable_layers()
    empty = Membrane.zero(layers, Card(concept=Concept(name=name)), generator=generator)
    up = {path: 0.5 * torch.randn(tensor.shape, generator=generator) for path, tensor in empty.up.items()}
    return Membrane(empty.card, empty.down, up)


def check_against_changed_weights(pipeline: Any, draw: Callable[[Any], Tensor], atol: float, rtol: float) -> None:
    """Check that of three prompts, two pictures each, the first and last are those of weights changed by hand.

    The second asks for something else, and its pictures are the bare ones, as all are once the guard is off.
    """
    membrane, bare = membrane_for(pipeline, "cat"), draw(pipeline)
    with guard(pipeline, [membrane], transport=by_name) as guarded:
        found = draw(guarded)
        assert guarded.last is not None and guarded.last.gamma_BK.flatten().tolist() == [1, 0, 1]
    assert torch.equal(draw(pipeline), bare)
    assert torch.equal(found[2:4], bare[2:4])
    for path, layer in model_of(pipeline).erasable_layers().items():
        cast(nn.Linear, layer).weight.data += membrane.up[path] @ membrane.down[path]
    changed = draw(pipeline)
    for rows in (slice(0, 2), slice(4, 6)):
        torch.testing.assert_close(found[rows], changed[rows], atol=atol, rtol=rtol)
        assert (found[rows] - bare[rows]).abs().max() > 1e-3


def seen_by_the_denoiser(pipeline: Any, **arguments: Any) -> list[dict[str, Any]]:
    """What the pipeline gives its denoiser, and what comes back."""
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
