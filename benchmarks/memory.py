"""How much memory an erasure takes on the GPU: counted on the meta device, and measured where there is a GPU.

python -m benchmarks.memory
"""

import gc
from collections.abc import Callable
from typing import Annotated, Any
from unittest import mock

import torch
import typer
from rich.console import Console
from torch import nn

from benchmarks.meter import Meter, without_numbers
from benchmarks.real import REAL, Real
from semiperm.concept import Concept
from semiperm.erasing import fit
from semiperm.erasing.anchors import Anchors
from semiperm.erasing.recipe import LOW_VRAM, Recipe, load_recipe
from semiperm.erasing.run import Counted
from semiperm.membrane.membrane import Card, Membrane
from semiperm.models.base import PROMPTS_AT_ONCE, DiffusionModel

GIB = 2**30
# bytes for a weight of a linear layer: bitsandbytes' NF4 has one float32 scale for 64 weights, its int8 one for a row
BASES: dict[str, float] = {"bfloat16": 2.0, "8 bits": 1.0, "4 bits": 0.5 + 4 / 64}
# all steps are alike, and two trajectory steps are the least there are
SHORT = {"steps": 1, "trajectory_steps": 2}
COLUMNS = ("model", "denoiser", "membrane", "encoding", "plain", "low-vram", "8 bits", "4 bits")


def train(model: DiffusionModel, recipe: Recipe) -> None:
    """Train a membrane as `erase` does, on a few random anchors."""
    count, concept = 32, Concept(name="cat")
    held = Anchors(
        ("",) * count, model.encode([""] * count), torch.full((count,), 1 / count), (1, 2, 3), ("",) * (count - 1)
    )
    start = Membrane.zero(model.erasable_layers(), Card(concept=concept), recipe.rank_for(concept))
    with fit.frozen(model):
        fit._train(model, start, held, recipe, Counted(model), None, False, True, None)


def estimated(model: DiffusionModel, recipe: Recipe) -> int:
    """Return the most bytes beside the denoiser's weights while a membrane is trained on the meta device."""
    # membranes wait on the CPU for a denoiser of which nothing is there; here all of it is
    here = mock.patch("semiperm.membrane.stack._home", lambda _: (model.device, None))
    with Meter(str(model.device), [model.denoiser]) as meter, without_numbers(), here:
        train(model, recipe)
    return meter.peak


def measured(model: DiffusionModel, recipe: Recipe) -> int:
    """Return the most bytes beside the denoiser's weights while a membrane is trained on a GPU."""
    gc.collect()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    train(model, recipe)
    return torch.cuda.max_memory_allocated() - before


def peak(real: Real, device: str, recipe: Recipe, checkpointing: bool) -> int:
    """Return what training takes beside the weights of the denoiser, in bytes."""
    denoiser: Any = real.denoiser(device)
    if checkpointing:
        denoiser.enable_gradient_checkpointing()
    return (estimated if device == "meta" else measured)(real.model(denoiser, device), recipe)


def encoding(real: Real) -> int:
    """Return what encoding takes in bytes: one text encoder at a time, with its activations."""
    return max(_encoder(build, tokens) for build, tokens in real.encoders)


def _encoder(build: Callable[[], nn.Module], tokens: int) -> int:
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            encoder = build().eval()
    finally:
        torch.set_default_dtype(torch.float32)
    ids = torch.zeros(PROMPTS_AT_ONCE, tokens, dtype=torch.long, device="meta")
    with torch.no_grad(), Meter("meta", [encoder]) as meter, without_numbers():
        encoder(ids, output_hidden_states=True)
    return weights(encoder) + meter.peak


def weights(module: nn.Module, linear: float = 2.0) -> int:
    """Return the bytes of a module in half precision, its linear layers' weights at some bytes a number.

    A quantised layer is unpacked while it works, so that the largest of them counts once more.
    """
    layers = [layer.weight.numel() for layer in module.modules() if isinstance(layer, nn.Linear)]
    rest = sum(weight.numel() for weight in module.parameters()) - sum(layers)
    return round(2 * rest + linear * sum(layers) + (2 * max(layers) if linear < 2 else 0))


def row(name: str, recipe: Recipe) -> list[str]:
    """Return one model's figures in GiB."""
    real = REAL[name]
    denoiser = real.denoiser("meta")
    concept = Concept(name="cat")
    layers = real.model(denoiser, "meta").erasable_layers()
    membrane = Membrane.zero(layers, Card(concept=concept), recipe.rank_for(concept))
    plain, little = (peak(real, "meta", recipe, checkpointing) for checkpointing in (False, True))
    # weights, gradients and two moments, all in float32
    figures = [weights(denoiser), 16 * membrane.size, encoding(real), weights(denoiser) + plain]
    figures += [weights(denoiser, linear) + little for linear in BASES.values()]
    return [name, *(f"{figure / GIB:.2f}" if figure < GIB / 10 else f"{figure / GIB:.1f}" for figure in figures)]


def main(
    at_once: Annotated[int | None, typer.Option(help="samples at once instead of the preset's")] = None,
    only: Annotated[list[str] | None, typer.Option(help="models; repeat it; all by default")] = None,
    measure: Annotated[bool, typer.Option(help="measure training as well if there is a GPU")] = True,
) -> None:
    """Print a table in GiB; what is estimated and what is measured is said above it."""
    console = Console()
    recipe = load_recipe("default", **{**LOW_VRAM, **SHORT, **({"at_once": at_once} if at_once else {})})
    console.print("estimated, in GiB:")
    console.print("| " + " | ".join(COLUMNS) + " |")
    console.print("|" + "---|" * len(COLUMNS))
    for name in only or REAL:
        console.print("| " + " | ".join(row(name, recipe)) + " |", soft_wrap=True)
    if not (measure and torch.cuda.is_available()):
        console.print("nothing is measured: there is no GPU")
        return
    for name in only or REAL:
        try:
            found = f"{peak(REAL[name], 'cuda', recipe, True) / GIB:.1f}"
        except torch.OutOfMemoryError:
            found = "more than there is"
        console.print(f"{name}, measured beside the weights with low-vram: {found}", soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
