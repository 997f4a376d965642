"""The published tables as data: one JSON file each, with the cells as printed."""

from functools import cache
from importlib.resources import files

from pydantic import BaseModel, ConfigDict, model_validator

ENDING = ".json"


class Published(BaseModel):
    """A published table: what it shows, where it was published, and its cells as printed.

    Attributes:
        layout: which of `columns.LAYOUTS` writes measured figures in the same columns; empty where none does.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    source: str
    layout: str = ""
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @model_validator(mode="after")
    def _is_rectangular(self) -> "Published":
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f"a row of {self.title!r} has not one cell for each of its {len(self.columns)} columns")
        return self


@cache
def names() -> tuple[str, ...]:
    """Return the names of all published tables."""
    return tuple(sorted(path.name.removesuffix(ENDING) for path in _folder().iterdir() if path.name.endswith(ENDING)))


@cache
def published(name: str) -> Published:
    """Return a published table by its name.

    Raises:
        ValueError: there is none of that name, so a protocol's declaration is wrong.
    """
    if name not in names():
        raise ValueError(f"there is no published table {name!r}; there are: {', '.join(names())}")
    return Published.model_validate_json((_folder() / f"{name}{ENDING}").read_text(encoding="utf-8"))


def _folder():  # noqa: ANN202
    return files("semiperm.reports.published")
