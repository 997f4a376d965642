"""Hostile names, on the cards of strangers and on the command line."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from semiperm.concept import Concept
from semiperm.files import hub
from semiperm.files.safetensors import load
from semiperm.paths import file_name
from tests.cli.command import run
from tests.hostile import containers
from tests.hostile.law import accepts, control_characters, in_time, refuses, spoken, untouched
from tests.hostile.texts import ESCAPES, LONG, MARKUP, PATHS

TEXTS = {**ESCAPES, **MARKUP, **{f"as a path {what}": text for what, text in PATHS.items() if text}}
NAMES = [what for what, text in TEXTS.items() if "\ud800" not in text]


@pytest.mark.parametrize("what", NAMES)
def test_a_card_is_shown_without_harm(here: Path, what: str, cat: bytes) -> None:
    Path("cat.safetensors").write_bytes(containers.named(cat, TEXTS[what]))
    accepts(here, "inspect", "cat.safetensors")
    refuses(here, "push", "cat.safetensors", "someone/cat", names="token")
    # It has no gate.
    refuses(here, "generate", "a cat", "-m", "cat.safetensors")


@pytest.mark.parametrize("what", NAMES)
def test_the_page_shows_names_as_text(here: Path, what: str, cat: bytes) -> None:
    Path("cat.safetensors").write_bytes(containers.named(cat, TEXTS[what]))
    page = hub.page(load("cat.safetensors").card, "someone/cat", pictured=False)
    assert not control_characters(page)
    _, front, body = page.split("---\n", 2)
    assert set(yaml.safe_load(front)) <= {
        "library_name", "pipeline_tag", "tags", "license", "license_name", "base_model", "base_model_relation",
    }  # fmt: skip
    text = re.sub(r"^```.*?^```$", "", body, flags=re.MULTILINE | re.DOTALL)
    assert "<" not in front + text
    # no link, picture or reference but ours
    links = re.findall(r"(?<!\\)\]\(([^)]*)\)|(?<!\\)\]:\s*(\S+)", text)
    assert all(target.startswith("https://") for found in links for target in found if target)


@pytest.mark.parametrize("what", NAMES)
def test_files_are_named_after_concepts_without_leaving_the_folder(here: Path, what: str) -> None:
    text = TEXTS[what]
    for name in (Concept(name=text).slug, file_name(text)):
        assert (here / name).parent == here or not name
        assert name.isprintable() and len(name.encode()) <= 255 or len(text) > 255


@pytest.mark.parametrize("what", NAMES)
def test_a_library_lists_names_without_harm(here: Path, what: str, cat: bytes) -> None:
    Path("cat.safetensors").write_bytes(containers.named(cat, TEXTS[what]))
    spoken(run("library", "add", "library", "cat.safetensors"), 40_000)
    accepts(here, "library", "list", "library")


def test_a_name_of_a_million_characters_is_cut(here: Path, cat: bytes) -> None:
    Path("cat.safetensors").write_bytes(containers.named(cat, LONG))
    accepts(here, "inspect", "cat.safetensors")
    spoken(run("library", "add", "library", "cat.safetensors"), 40_000)
    accepts(here, "library", "list", "library")
    words = ("adopt", "cat.safetensors", "--concept", "dog", "--out", "cat.safetensors", "--force")
    refuses(here, *words, names="cat.safetensors")


ARGUMENTS: dict[str, Any] = {
    "inspect": lambda text: ("inspect", text),
    "generate": lambda text: ("generate", "a cat", "-m", text),
    "a gate": lambda text: ("generate", "a cat", "--gate", text),
    "a method": lambda text: ("erase", "cat", "--method", text),
    "a settings file": lambda text: ("erase", "cat", "--settings", text),
    "like": lambda text: ("erase", "--like", text),
    "adopt": lambda text: ("adopt", text, "--concept", "cat", "--out", "out.safetensors"),
    "export": lambda text: ("export", text, "--out", "out.safetensors"),
    "an output": lambda text: ("erase", "cat", "--out", f"cat.safetensors/{text}.safetensors"),
    "a report": lambda text: ("compare", text, text),
    "a protocol": lambda text: ("evaluate", "-p", text, "--out", "out"),
    "a world": lambda text: ("evaluate", "-p", "objects", "--out", "out", "--world", text),
    "a library's name": lambda text: ("library", "remove", "library", text),
    "a repository": lambda text: ("push", "cat.safetensors", text),
    "a part": lambda text: ("terrarium", "train", "--part", text),
    "a relative": lambda text: ("terrarium", "build", text),
}


SOME = {what: ESCAPES[what] for what in ("clears the screen", "runs backwards", "has a zero byte", "has new lines")}
SOME |= {"has half a character": "cat\ud800\udcff", "is much too long": LONG[:100_000]}


@pytest.mark.parametrize("what", SOME)
@pytest.mark.parametrize("where", ARGUMENTS)
def test_an_argument_is_repeated_without_harm(here: Path, where: str, what: str, cat: bytes) -> None:
    Path("cat.safetensors").write_bytes(cat)
    with untouched(here), in_time():
        found = run(*ARGUMENTS[where](SOME[what]))
    # The parser itself refuses what no path can have.
    assert found.exit_code in (1, 2)
    spoken(found)


@pytest.mark.parametrize("what", ESCAPES)
def test_what_the_parser_refuses_is_repeated_without_harm(here: Path, what: str) -> None:
    text = ESCAPES[what]
    for words in (
        (text,), (f"--{text}",), ("erase", "cat", "--steps", text), ("erase", "cat", "--kind", text),
        ("inspect", "a", text), ("library", text), ("library", "list", f"--{text}"),
    ):  # fmt: skip
        with untouched(here), in_time():
            found = run(*words)
        assert found.exit_code == 2
        spoken(found)
