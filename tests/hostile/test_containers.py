"""Hostile safetensors files, given to every command and function that reads a membrane."""

from pathlib import Path
from typing import Any

import pytest

from semiperm.files.container import packed
from semiperm.files.safetensors import contents, load, load_adapter
from semiperm.models.layers import erasable_layers
from tests.helpers import random_membrane
from tests.hostile import containers
from tests.hostile.law import accepts, in_time, refuses, refuses_in_a_sentence, untouched
from tests.tiny import tiny_pipeline

NAME = "hostile.safetensors"


def _sound() -> bytes:
    path = Path("cat.safetensors")
    return packed(path, *contents(path, random_membrane(erasable_layers(tiny_pipeline().unet))))


SOUND = _sound()
HOSTILE = containers.of(SOUND)
NO_HARM = containers.without_harm(SOUND)
ADAPTERS = containers.adapters(SOUND)
# one of each kind, for the commands that read files as `inspect` does
SOME = (
    "cut after 8 bytes", "header of 2**63", "header is nested deep", "header is a card twice", "offsets as another's",
    "numbers that are not finite", "a layer is stored in PEFT's name too", "a tensor whose name is an escape",
    "layers are 30,000", "a pickle", "with an escape for a field", "with 30,000 unknown fields",
)  # fmt: skip
COMMANDS: dict[str, tuple[Any, ...]] = {
    "generate": ("generate", "a cat", "-m", NAME, "--count", 1, "--steps", 1),
    "inspect for a prompt": ("inspect", NAME, "--prompt", "a cat"),
    "adopt": ("adopt", NAME, "--concept", "cat", "--model", "tiny"),
    "export": ("export", NAME, "--out", "out.safetensors"),
    "export to PEFT": ("export", NAME, "--format", "peft", "--out", "out"),
    "export a merged model": ("export", NAME, "--format", "merged", "--out", "out"),
    "library add": ("library", "add", "library", NAME),
    "erase like it": ("erase", "--like", NAME, "--out", "out.safetensors"),
    "evaluate": ("evaluate", "-p", "objects", "--out", "out", "-m", NAME, "--cache", "cache"),
    "push": ("push", NAME, "someone/cat"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_file_is_refused(here: Path, what: str) -> None:
    Path(NAME).write_bytes(HOSTILE[what])
    refuses(here, "inspect", NAME, names=NAME)


@pytest.mark.parametrize("what", SOME)
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_it(here: Path, command: str, what: str) -> None:
    Path(NAME).write_bytes(HOSTILE[what])
    refuses(here, *COMMANDS[command], names=NAME)


@pytest.mark.parametrize("what", ADAPTERS)
def test_a_hostile_adapter_is_not_adopted(here: Path, what: str, model: Any) -> None:
    path = here / NAME
    path.write_bytes(ADAPTERS[what])
    refuses(here, *COMMANDS["adopt"], names=NAME)
    with untouched(here), in_time(), pytest.raises(Exception) as caught:
        load_adapter(path, model)
    refuses_in_a_sentence(caught.value, path)
    with untouched(here), in_time(), pytest.raises(Exception) as caught:
        load(path, model.erasable_layers())
    refuses_in_a_sentence(caught.value, path)


@pytest.mark.parametrize("what", NO_HARM)
def test_what_is_odd_but_sound_is_read(here: Path, what: str) -> None:
    Path(NAME).write_bytes(NO_HARM[what])
    assert NAME in accepts(here, "inspect", NAME)
