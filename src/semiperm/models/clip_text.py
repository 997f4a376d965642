"""CLIP's text encoders, which transformers and diffusers lay out differently from version to version."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from importlib.metadata import version

from semiperm.errors import SemipermError

# From transformers 5.6 on, a CLIPTextModel has no module of this name around its layers.
WRAPPER = "text_model"


@contextmanager
def explaining_clip_skip(clip_skip: int | None) -> Iterator[None]:
    """Explain why a pipeline cannot encode a prompt with `clip_skip`; without it, errors pass as they are.

    Raises:
        SemipermError: the installed versions cannot do it together, or the text encoder has not so many layers.
    """
    try:
        yield
    except AttributeError as error:
        if clip_skip is None or WRAPPER not in str(error):
            raise
        raise SemipermError(
            f"clip_skip={clip_skip} does not work with diffusers {version('diffusers')} and transformers "
            f"{version('transformers')}: this diffusers looks for a part of the text encoder where this transformers "
            "does not keep it. Leave clip_skip out, or encode the prompt yourself and give prompt_embeds."
        ) from error
    except IndexError as error:
        if clip_skip is None:
            raise
        raise SemipermError(
            f"clip_skip={clip_skip} cannot be used: the text encoder does not have so many layers to skip."
        ) from error


def name_among(name: str, names: Collection[str]) -> str | None:
    """Return the one of `names` that means the weight `name`, "<part>.<path>", with `text_model.` or without.

    None if there is none.
    """
    part, _, path = name.partition(".")
    other = path.removeprefix(f"{WRAPPER}.") if path.startswith(f"{WRAPPER}.") else f"{WRAPPER}.{path}"
    return next((one for one in (name, f"{part}.{other}") if one in names), None)
