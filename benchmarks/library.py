"""Put many membranes for one model into a library and load all of them into one stack, by the clock.

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
from semiperm.erasing.recipe import Recipe
from semiperm.membrane.files import save
from semiperm.membrane.library import Library
from semiperm.membrane.membrane import Card, Membrane
from semiperm.membrane.stack import Stack
from semiperm.models.base import erasable_layers


@contextmanager
def timed(what: str, console: Console) -> Iterator[None]:
    """Print how many seconds something took, and how many of them the processor worked for it."""
    began, worked = time.perf_counter(), time.process_time()
    yield
    told = f"{time.perf_counter() - began:7.2f} s, {time.process_time() - worked:7.2f} s of the processor"
    console.print(f"{what:<30} {told}")


def write(layers: Mapping[str, nn.Module], count: int, folder: Path) -> list[Path]:
    """Write random membranes and return their files."""
    files = []
    for number in range(count):
        draw = torch.Generator().manual_seed(number)
        card = Card(
            concept=Concept(name=f"concept {number}"), gate={"weight": torch.randn(768, generator=draw).tolist()}
        )
        start = Membrane.zero(layers, card, Recipe().rank, draw)
        up = {path: torch.randn(up.shape, generator=draw) for path, up in start.up.items()}
        files.append(save(Membrane(start.card, start.down, up), folder / f"concept-{number}.safetensors"))
    return files


def main(
    count: Annotated[int, typer.Option(min=1)] = 1000,
    shape: Annotated[str, typer.Option(help="terrarium, sd15, sd21 or sdxl: whose layers they have")] = "terrarium",
) -> None:
    """Make, add, load and stack membranes; the denoiser has random weights but for the terrarium's."""
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
            membranes = library.load()
        stack = Stack(denoiser)
        with timed("putting them into a stack", console):
            stack.inject()
            stack.add_all({membrane.card.concept.name: membrane for membrane in membranes})
        with timed("opening one of them", console):
            stack.set_permeability(torch.eye(1, count))
        size = sum(file.stat().st_size for file in files)
    console.print(f"{len(layers)} layers, {size / count / 1e6:.2f} MB a file, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    typer.run(main)
