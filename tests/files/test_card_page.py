"""The card page of an erasure on the Hub: what the Hub reads, what people read, and that text stays text."""

from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt

from semiperm.concept import Concept
from semiperm.erasure import Card
from semiperm.files.hub import escaped, name_of_file, page
from semiperm.gate import ProbeGate
from tests.helpers import card

BASE = "runwayml/stable-diffusion-v1-5"
CAT: dict[str, Any] = {
    "concepts": (Concept(name="cat", targets=("cat", "kitten"), surrogate="dog"),),
    "base_model": BASE,
    "architecture": "stable-diffusion-v1",
    "method": "spm",
    "settings": {"steps": 100, "eta": 1.5, "nothing": "an empty background"},
    "gate": ProbeGate(weight=(0.1, -3.5), bias=0.0, threshold=0.25),
    "licence": "Apache-2.0",
    "effect": {"target_moved": 1.875, "anchors_moved": 0.0625},
    "date": "2026-01-02",
}


def front(page: str) -> dict[str, Any]:
    start, block, _ = page.split("---\n", 2)
    assert start == ""
    return yaml.safe_load(block)


def text_of(page: str) -> str:
    return page.split("---\n", 2)[2]


def rendered(page: str) -> str:
    """Return the page's HTML as a renderer makes it that lets raw HTML and all links through."""
    markdown = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    markdown.validateLink = lambda url: True
    return markdown.render(text_of(page))


def test_the_hub_reads_the_licence_and_the_base() -> None:
    facts = front(page(card(**CAT), "me/cat", pictured=False))
    assert (facts["license"], facts["base_model"], facts["base_model_relation"]) == ("apache-2.0", BASE, "adapter")
    assert (facts["library_name"], facts["pipeline_tag"]) == ("diffusers", "text-to-image")
    assert {"lora", "diffusers", "text-to-image", "concept-erasure"} <= set(facts["tags"])


def test_people_read_what_it_is() -> None:
    text = page(card(**CAT), "me/cat", pictured=False)
    for row in (
        "| concept | cat |", "| kind | object |", "| asked for by | cat, kitten |", "| becomes | dog |",
        f"| base | [{BASE}](https://huggingface.co/{BASE}) |", "| licence | Apache-2.0 |", "| method | spm |",
        "| steps | 100 |", "| eta | 1.5 |", '| nothing | "an empty background" |', "| target_moved | 1.875 |",
        "| anchors_moved | 0.0625 |",
    ):  # fmt: skip
        assert f"\n{row}\n" in text
    assert 'hub.pull("me/cat", filename="cat.safetensors")' in text
    assert f'semiperm.guard(semiperm.load_model("{BASE}"), [erasure])' in text
    assert 'load_lora_weights("me/cat", weight_name="cat.safetensors")' in text
    assert "`target_moved` and" in text and "before-after.png" not in text
    assert "(before-after.png)" in page(card(**CAT), "me/cat", pictured=True)


def test_a_card_without_gate_effect_and_settings() -> None:
    text = page(card(), "me/cat", pictured=False)
    assert '[erasure], gate="paper")' in text
    assert "| becomes | nothing |" in text and "| licence | not stated |" in text
    assert "## Measured" not in text and "## Settings" not in text and "`target_moved`" not in text


def test_the_tables_are_tables() -> None:
    shown = rendered(page(card(**CAT), "me/cat", pictured=True))
    assert shown.count("<table>") == 3 and shown.count("<pre>") == 2 and shown.count("<img") == 1
    assert shown.count("<h2>") == 4


def test_a_weight_delta_has_a_page_of_its_own() -> None:
    concepts = (Concept(name="cat", surrogate="dog"), Concept(name="Van Gogh", kind="style"))
    text = page(Card(concepts=concepts, kind="delta", base_model=BASE), "me/pets", pictured=False)
    assert "# A weight delta that erases cat, Van Gogh\n" in text
    assert "| concept | cat, Van Gogh |" in text and "| kind | object, style |" in text
    assert "| becomes | dog, nothing |" in text and "| layers |" not in text
    assert "[erasure])" in text and "LoRA" not in text and "lora" not in front(text)["tags"]
    assert 'filename="cat-van-gogh.safetensors"' in text


@pytest.mark.parametrize("base", [BASE, "terrarium", ""])
@pytest.mark.parametrize("kind", ["membrane", "delta"])
@pytest.mark.parametrize("name", ['the "cat"\\', "```\n```", "{{ x }}"])
def test_the_pages_code_is_python(name: str, kind: str, base: str) -> None:
    text = page(card(name=name, kind=kind, base_model=base), "me/cat", pictured=False)
    snippets = [block.split("\n```\n")[0] for block in text.split("```python\n")[1:]]
    assert len(snippets) == (2 if kind == "membrane" else 1)
    for snippet in snippets:
        compile(snippet, "README.md", "exec")


@pytest.mark.parametrize(
    ("licence", "wanted"),
    [
        ("", {"license": "unknown"}),
        ("MIT", {"license": "mit"}),
        ("GPL-3.0-only", {"license": "other", "license_name": "gpl-3.0-only"}),
        ("a: b\n---\nc", {"license": "other", "license_name": "a: b --- c"}),
    ],
)
def test_licences_in_the_hubs_words(licence: str, wanted: dict[str, str]) -> None:
    text = front(page(card(licence=licence), "me/cat", pictured=False))
    assert {name: text[name] for name in text if name.startswith("license")} == wanted


@pytest.mark.parametrize("base", ["terrarium", "", "/models/sd15", "models/sd15.safetensors", "a--b/c", "ü/model"])
def test_a_base_that_is_not_on_the_hub_is_not_linked(base: str) -> None:
    text = page(card(base_model=base), "me/cat", pictured=False)
    assert "base_model" not in front(text)
    assert "huggingface.co/" not in text


def test_a_name_is_text_on_the_page() -> None:
    name = 'a: "cat" | {dog}\n---\n# fox'
    text = page(card(name=name), "me/cat", pictured=False)
    assert front(text)["license"] == "unknown"
    assert '| concept | a: "cat" \\| {dog} --- # fox |' in text
    assert "\n# fox" not in text


HOSTILE = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[click](javascript:alert(1))",
    "![x](http://evil/x.png)",
    "<javascript:alert(1)>",
    "a | b | c",
    "a\n\n# b\n\n| c |",
    "\\| a \\[b](javascript:c)",
    "**bold** __bold__ _a_ *b* ~~c~~ `d`",
    "&lt;script&gt; &#60;b&#62;",
    "{{ 7 * 7 }} {% raw %}",
)


@pytest.mark.parametrize("text", HOSTILE)
def test_text_of_a_card_is_shown_as_it_is(text: str) -> None:
    facts: dict[str, Any] = {
        "concepts": (Concept(name=text, targets=(text,), surrogate=text),),
        "base_model": text,
        "architecture": text,
        "method": text,
        "settings": {text: text},
        "licence": text,
        "date": text,
        "effect": {text: 1.0},
    }
    plain = page(Card(**{name: _plain(value) for name, value in facts.items()}), "me/cat", pictured=False)
    hostile = page(Card(**facts), "me/cat", pictured=False)
    # the same elements as with a plain word in every place
    assert _elements(rendered(hostile)) == _elements(rendered(plain))
    line = MarkdownIt("commonmark").renderInline(escaped(text))
    assert line == " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _plain(value: Any) -> Any:
    """Return a fact of the same form with a plain word for each text."""
    if isinstance(value, tuple):
        return (Concept(name="word", targets=("word",), surrogate="word"),)
    if isinstance(value, dict):
        (one,) = value.values()
        return {"word": "word" if isinstance(one, str) else one}
    return "word"


def _elements(html: str) -> list[str]:
    return [piece.split(">")[0] for piece in html.split("<")[1:]]


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("Van Gogh", "van-gogh.safetensors"),
        ("../../AC/DC", "ac-dc.safetensors"),
        ("猫", "猫.safetensors"),
        ("...", "membrane.safetensors"),
    ],
)
def test_every_concept_gives_a_files_name(name: str, file: str) -> None:
    assert name_of_file(card(name=name)) == file
