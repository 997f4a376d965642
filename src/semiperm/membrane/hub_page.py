"""The page that a membrane gets on the Hub: front matter for the Hub, a text for people."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from semiperm.membrane.files import SUFFIX
from semiperm.membrane.membrane import Card
from semiperm.models.base import is_hub_id

GRID = "before-after.png"
MOVED = "`target_moved` and `anchors_moved` are shares of the way from the target to what it becomes, always open."
TAGS = ("lora", "diffusers", "text-to-image", "concept-erasure", "semiperm")
# of the names that the Hub takes for licences, which are SPDX's in small letters, those that suit an adapter
LICENCES = (
    "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0", "openrail", "openrail++", "creativeml-openrail-m", "unlicense", "mpl-2.0",
)  # fmt: skip


def file_name(card: Card) -> str:
    """Return the name of the membrane's file in a repository."""
    return card.concept.slug + SUFFIX


def page(card: Card, repo: str, *, pictured: bool) -> str:
    """Return the README of a membrane's repository."""
    blocks = [
        f"---\n{yaml.safe_dump(front_matter(card), sort_keys=False, allow_unicode=True)}---",
        f"# A membrane that erases {_one_line(card.concept.name)}",
        f"A rank-{card.rank} adapter for {_base(card)}, made with semiperm after "
        "[arXiv:2312.16145](https://arxiv.org/abs/2312.16145). With semiperm it opens only where a prompt asks for the "
        "concept, and every other picture is the bare model's; the file is a plain LoRA too.",
    ]
    if pictured:
        blocks.append(f"![before and after]({GRID})")
    blocks.append(_table("membrane", "", _facts(card)))
    if card.effect:
        blocks += ["## Measured", _table("figure", "value", {name: f"{x:g}" for name, x in card.effect.items()})]
    if "target_moved" in card.effect:
        blocks.append(MOVED)
    blocks += ["## Use with semiperm", _guarded(card, repo), "## Use as a plain LoRA with diffusers"]
    blocks += ["A plain LoRA is open for every prompt, whatever it asks for.", _lora(card, repo)]
    return "\n\n".join(blocks) + "\n"


def front_matter(card: Card) -> dict[str, Any]:
    """Return what the Hub sorts repositories by."""
    facts: dict[str, Any] = _licence(card.licence.lower())
    if _on_hub(card):
        facts |= {"base_model": card.base_model, "base_model_relation": "adapter"}
    return facts | {"library_name": "diffusers", "pipeline_tag": "text-to-image", "tags": list(TAGS)}


def _licence(name: str) -> dict[str, str]:
    if not name:
        return {"license": "unknown"}
    return {"license": name} if name in LICENCES else {"license": "other", "license_name": name}


def _on_hub(card: Card) -> bool:
    # a folder beside us can be named like a repository
    return is_hub_id(card.base_model) and not Path(card.base_model).exists()


def _base(card: Card) -> str:
    if _on_hub(card):
        return f"[{card.base_model}](https://huggingface.co/{card.base_model})"
    return card.base_model or card.architecture or "a model that its card does not name"


def _facts(card: Card) -> dict[str, str]:
    made = [f"{name} {card.recipe[name]}" for name in ("loop", "steps", "eta") if name in card.recipe]
    return {
        "concept": card.concept.name,
        "kind": card.concept.kind,
        "asked for by": ", ".join(card.concept.targets),
        "becomes": card.concept.surrogate or "nothing",
        "base": _base(card),
        "architecture": card.architecture,
        "layers": str(card.layers),
        "recipe": ", ".join(made),
        "date": card.date,
        "licence": card.licence or "not stated",
    }


def _table(first: str, second: str, rows: Mapping[str, str]) -> str:
    def cell(text: str) -> str:
        return _one_line(text.replace("|", "\\|"))

    lines = [f"| {first} | {second} |", "|---|---|"]
    return "\n".join([*lines, *(f"| {cell(name)} | {cell(value)} |" for name, value in rows.items() if value)])


def _guarded(card: Card, repo: str) -> str:
    # the default transport needs a gate
    transport = "" if card.gate else ', transport="paper"'
    return _code(
        "import semiperm",
        "",
        f"membrane = semiperm.Membrane.from_pretrained({_text(repo)}, filename={_text(file_name(card))})",
        f"guarded = semiperm.guard(semiperm.load_model({_model(card)}), [membrane]{transport})",
        f'pictures = guarded(prompt=[{_text(card.concept.targets[0])}, "a house"]).images',
    )


def _lora(card: Card, repo: str) -> str:
    if _on_hub(card):
        opening = ["import diffusers", "", f"pipeline = diffusers.DiffusionPipeline.from_pretrained({_model(card)})"]
    else:
        opening = ["import semiperm", "", f"pipeline = semiperm.load_model({_model(card)}).pipeline"]
    return _code(*opening, f"pipeline.load_lora_weights({_text(repo)}, weight_name={_text(file_name(card))})")


def _model(card: Card) -> str:
    return _text(card.base_model or "your/model")


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def _code(*lines: str) -> str:
    return "\n".join(["```python", *lines, "```"])
