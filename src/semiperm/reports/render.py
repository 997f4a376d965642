"""The templates of the reports: HTML and SVG are escaped by themselves, Markdown by its filter `cell`."""

import re
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup, escape

ESCAPED = (".html.j2", ".svg.j2")
# what would open a tag, end a cell, or make emphasis, code or a link of a name
SPECIAL = re.compile(r"([\\`*_\[\]|#~])")


def render(template: str, **context: Any) -> str:
    """Return a template filled in, HTML and SVG as safe to stand in another; a missing name is an error."""
    text = environment().get_template(template).render(**context).strip() + "\n"
    return Markup(text) if template.endswith(ESCAPED) else text


@cache
def environment() -> Environment:
    """Return the environment that loads the package's own templates."""
    made = Environment(
        loader=PackageLoader("semiperm.reports"),
        autoescape=select_autoescape([ending.lstrip(".") for ending in ESCAPED], default=False),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"cell": markdown_text, "figures": unbroken}
    return made


def markdown_text(text: str) -> str:
    """Return a text as it is, for a cell or a sentence of Markdown."""
    line = " ".join(str(text).split())
    return SPECIAL.sub(r"\\\1", line).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def unbroken(text: str) -> Markup:
    """Return a text as HTML whose percentages are not broken between number and sign."""
    return Markup(re.sub(r"(\d) %", r"\1&nbsp;%", str(escape(text))))
