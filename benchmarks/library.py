"""Time many membranes of one model: added to a library, verified, loaded and put on one stack.

python -m benchmarks.library --count 1000
"""

import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import torch
import typer
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from rich.console import Console
from torch import nn

from benchmarks.real import UNETS
from semiperm import load_model
from semiperm.concept import Concept
from semiperm.erasure import Card
from semiperm.files.library import Library
from semiperm.files.safetensors import save
from semiperm.gate import ProbeGate
from semiperm.membrane import Membrane
from semiperm.methods.spm.settings import SpmSettings
from semiperm.models.layers import erasable_layers
from semiperm.stack import Stack


@contextmanager
def timed(what: str, console: Console) -> Iterator[None]:
    """Print the seconds that something took, by the clock and of the processor."""
    began, worked = time.perf_counter(), time.process_time()
    yield
    seconds = f"{time.perf_counter() - began:7.2f} s, {time.process_time() - worked:7.2f} s of the processor"
    console.print(f"{what:<30} {seconds}")


def write(layers: Mapping[str, nn.Module], count: int, folder: Path) -> list[Path]:
    """Write random membranes and return their files."""
    files = []
    for number in range(count):
        draw = torch.Generator().manual_seed(number)
        gate = ProbeGate(weight=tuple(torch.randn(768, generator=draw).tolist()), bias=0.0, threshold=0.5)
        card = Card(concepts=(Concept(name=f"concept {number}"),), gate=gate)
        start = Membrane.zero(layers, card, SpmSettings().rank, draw)
        up = {path: torch.randn(up.shape, generator=draw) for path, up in start.up.items()}
        files.append(save(Membrane(start.card, start.down, up), folder / f"concept-{number}.safetensors"))
    return files


def main(
    count: Annotated[int, typer.Option(min=1)] = 1000,
    shape: Annotated[str, typer.Option(help="the model of the layers: terrarium, sd15, sd21 or sdxl")] = "terrarium",
) -> None:
    """Make, add, load and stack membranes; only the terrarium's denoiser has trained weights."""
    console = Console()
    denoiser = load_model(device="cpu").denoiser if shape == "terrarium" else UNet2DConditionModel(**UNETS[shape])
    layers = erasable_layers(denoiser)
    with tempfile.TemporaryDirectory() as folder:
        with timed(f"making {count}", console):
            files = write(layers, count, Path(folder) / "made")
        library = Library(Path(folder) / "library")
        with timed("adding them to a library", console):
            library.add(files)
        with timed("opening the library", console):
            library = Library(library.folder)
        with timed("verifying it", console):
            assert not library.verify()
        with timed("loading all", console):
            erasures = library.load()
        stack = Stack(denoiser)
        with timed("putting them on a stack", console):
            stack.inject()
            stack.add_all({one.card.concept.name: one for one in erasures if isinstance(one, Membrane)})
        assert len(stack) == count
        with timed("opening one of them", console):
            stack.set_permeability(torch.eye(1, count))
        size = sum(file.stat().st_size for file in files)
    console.print(f"{len(layers)} layers, {size / count / 1e6:.2f} MB a file, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    typer.run(main)
