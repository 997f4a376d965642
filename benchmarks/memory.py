"""GPU memory of an erasure: counted on the meta device, and measured if there is a GPU.

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
from semiperm.erasure import Card
from semiperm.membrane import Membrane
from semiperm.methods.spm import spm
from semiperm.methods.spm.anchors import Anchors
from semiperm.methods.spm.settings import LOW_VRAM, SpmSettings
from semiperm.methods.training import Run
from semiperm.methods.trajectories import Counted
from semiperm.models.model import PROMPTS_AT_ONCE, DiffusionModel

GIB = 2**30
# Bytes for a weight of a linear layer: bitsandbytes' NF4 has one float32 scale for 64 weights, its int8 one for a row.
BASES: dict[str, float] = {"bfloat16": 2.0, "8 bits": 1.0, "4 bits": 0.5 + 4 / 64}
# All steps take the same memory, and a trajectory has at least two.
SHORT: dict[str, Any] = {"steps": 1, "trajectory_steps": 2}
COLUMNS = ("model", "denoiser", "membrane", "encoding", "plain", "low-vram", "8 bits", "4 bits")


def train(model: DiffusionModel, settings: SpmSettings) -> None:
    """Train a membrane as the method `spm` does, on a few random anchors."""
    count, concept = 32, Concept(name="cat")
    held = Anchors(
        ("",) * count, model.encode([""] * count), torch.full((count,), 1 / count), (1, 2, 3), ("",) * (count - 1)
    )
    start = Membrane.zero(model.erasable_layers(), Card(concepts=(concept,)), settings.rank_for(concept))
    with spm.frozen(model):
        spm._trained(model, start, held, settings, Counted(model), Run())


def estimated(model: DiffusionModel, settings: SpmSettings) -> int:
    """Return the peak of bytes beside the denoiser's weights while a membrane is trained on the meta device."""
    # A stack takes meta weights for offloaded ones, and keeps its membranes on the CPU; here they belong on meta too.
    here = mock.patch("semiperm.stack._home", lambda _: (model.device, None))
    with Meter(str(model.device), [model.denoiser]) as meter, without_numbers(), here:
        train(model, settings)
    return meter.peak


def measured(model: DiffusionModel, settings: SpmSettings) -> int:
    """Return the peak of bytes beside the denoiser's weights while a membrane is trained on a GPU."""
    gc.collect()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    train(model, settings)
    return torch.cuda.max_memory_allocated() - before


def peak(real: Real, device: str, settings: SpmSettings, checkpointing: bool) -> int:
    """Return the bytes that training takes beside the weights of the denoiser."""
    denoiser: Any = real.denoiser(device)
    if checkpointing:
        denoiser.enable_gradient_checkpointing()
    return (estimated if device == "meta" else measured)(real.model(denoiser, device), settings)


def encoding(real: Real) -> int:
    """Return the bytes that encoding takes: one text encoder at a time, with its activations."""
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
    """Return the bytes of a module in half precision, with `linear` bytes for each weight of its linear layers.

    A quantised layer is unpacked in its call, so the largest of them counts once more.
    """
    layers = [layer.weight.numel() for layer in module.modules() if isinstance(layer, nn.Linear)]
    rest = sum(weight.numel() for weight in module.parameters()) - sum(layers)
    return round(2 * rest + linear * sum(layers) + (2 * max(layers) if linear < 2 else 0))


def row(name: str, settings: SpmSettings) -> list[str]:
    """Return one model's figures in GiB."""
    real = REAL[name]
    denoiser = real.denoiser("meta")
    concept = Concept(name="cat")
    layers = real.model(denoiser, "meta").erasable_layers()
    membrane = Membrane.zero(layers, Card(concepts=(concept,)), settings.rank_for(concept))
    plain, little = (peak(real, "meta", settings, checkpointing) for checkpointing in (False, True))
    # Weights, gradients and two moments, all in float32.
    figures = [weights(denoiser), 16 * membrane.size, encoding(real), weights(denoiser) + plain]
    figures += [weights(denoiser, linear) + little for linear in BASES.values()]
    return [name, *(f"{figure / GIB:.2f}" if figure < GIB / 10 else f"{figure / GIB:.1f}" for figure in figures)]


def main(
    at_once: Annotated[int | None, typer.Option(help="samples at once instead of the preset's")] = None,
    only: Annotated[list[str] | None, typer.Option(help="models; repeat it; all by default")] = None,
    measure: Annotated[bool, typer.Option(help="measure training as well if there is a GPU")] = True,
) -> None:
    """Print a table of estimates in GiB, and below it what was measured."""
    console = Console()
    settings = SpmSettings(**{**LOW_VRAM, **SHORT, **({"at_once": at_once} if at_once else {})})
    console.print("estimated, in GiB:")
    console.print("| " + " | ".join(COLUMNS) + " |")
    console.print("|" + "---|" * len(COLUMNS))
    for name in only or REAL:
        console.print("| " + " | ".join(row(name, settings)) + " |", soft_wrap=True)
    if not (measure and torch.cuda.is_available()):
        console.print("nothing is measured: there is no GPU")
        return
    for name in only or REAL:
        try:
            found = f"{peak(REAL[name], 'cuda', settings, True) / GIB:.1f}"
        except torch.OutOfMemoryError:
            found = "more than there is"
        console.print(f"{name}, measured beside the weights with low-vram: {found}", soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
