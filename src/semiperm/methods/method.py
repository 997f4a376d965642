"""Methods: ways to erase concepts, each in a file of its own, under one interface."""

import datetime
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from semiperm.concept import Concept
from semiperm.erasure import Card, Erasure, Kind
from semiperm.errors import MethodError, SettingsError, close_match
from semiperm.files.strict import from_yaml
from semiperm.gate import ProbeGate
from semiperm.methods.training import Run
from semiperm.models.model import DiffusionModel
from semiperm.paths import read_text

MAX_SETTINGS_BYTES = 2**20


class Settings(BaseModel):
    """The settings of a method; each method has a subclass, whose defaults are its recommended settings.

    Attributes:
        seed: seed of everything that is drawn.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    seed: int = 0


@dataclass(frozen=True)
class Method:
    """A way to erase concepts.

    Attributes:
        name: its name in `METHODS`.
        paper: where it was published.
        kind: what it returns: a membrane, a weight delta or a sampler.
        needs: what it needs beside the model and the concept's name.
        cost: what it costs, roughly.
        settings: the class of its settings.
        make: makes the erasure.
        many: whether it erases several concepts in one erasure.
    """

    name: str
    paper: str
    kind: Kind
    needs: str
    cost: str
    settings: type[Settings]
    make: Callable[[DiffusionModel, Sequence[Concept], Any, Run], Erasure]
    many: bool = False

    def erase(self, model: DiffusionModel, concepts: Sequence[Concept], settings: Settings, run: Run) -> Erasure:
        """Make the erasure of concepts from a model, which is not changed.

        Raises:
            MethodError: this method cannot erase these concepts from this model.
            CheckpointError: there is nothing to resume, or it belongs to another erasure.
            Stopped: `run.stop` returned True.
        """
        if not concepts:
            raise MethodError("Name at least one concept to erase.")
        if len(concepts) > 1 and not self.many:
            raise MethodError(
                f"The method {self.name!r} makes one erasure for each concept, but it got {len(concepts)} concepts: "
                "erase them one by one and put all of them on the guard."
            )
        run.check_resume()
        return self.make(model, concepts, settings, run)


# A method's module has its Method as METHOD. Modules are imported on demand: some need optional packages.
METHODS: dict[str, str] = {
    "spm": "semiperm.methods.spm.spm",
    "spm-published": "semiperm.methods.spm_published",
}


def find(name: str) -> Method:
    """Return a method by its name.

    Raises:
        MethodError: there is none of that name.
    """
    if name not in METHODS:
        raise MethodError(f"There is no method {name!r}; there are {', '.join(METHODS)}.{close_match(name, METHODS)}")
    return import_module(METHODS[name]).METHOD


def settings_of(
    method: Method, values: BaseModel | dict[str, Any] | None = None, where: str = "the settings"
) -> Settings:
    """Return a method's settings from some values by name; the others are its defaults.

    Args:
        where: what to call the place where the values stand, in messages.

    Raises:
        SettingsError: a value is unknown or out of range; the message names it.
    """
    if isinstance(values, BaseModel):
        if not isinstance(values, method.settings):
            raise SettingsError(f"These are settings of {type(values).__name__}, not of the method {method.name!r}.")
        return values  # pyright: ignore[reportReturnType]
    try:
        return method.settings.model_validate(values or {})
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            hint = close_match(field, method.settings.model_fields) or (
                f" It has {', '.join(method.settings.model_fields)}."
            )
            raise SettingsError(f"{where}: the method {method.name!r} has no setting {field!r}.{hint}") from None
        raise SettingsError(f"{where}: {field}: {first['msg']}") from None


def settings_file(path: Path) -> dict[str, Any]:
    """Return the settings in a YAML file, by name.

    Raises:
        SettingsError: the file is missing or is not a mapping in YAML.
    """
    if not path.exists() or path.is_dir():
        raise SettingsError(f"There is no settings file {path}.")
    try:
        values = from_yaml(read_text(path, MAX_SETTINGS_BYTES)) or {}
    except ValueError as error:
        raise SettingsError(f"{path} is not YAML: {error}") from None
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise SettingsError(f"{path} must hold settings by name, one a line.")
    return values


def settings_on(card: Card) -> dict[str, Any]:
    """Return the settings that an erasure was made with; those that this version does not know are left out.

    Raises:
        SettingsError: the card does not say how the erasure was made.
        MethodError: the card names an unknown method.
    """
    if not card.method or not card.settings:
        raise SettingsError(
            f"The card of {card.title!r} does not say how it was made, as that of a plain LoRA: erase the concept by "
            "its name instead."
        )
    known = find(card.method).settings.model_fields
    return {name: value for name, value in card.settings.items() if name in known}


def card_of(
    method: str,
    model: DiffusionModel,
    concepts: Sequence[Concept],
    settings: Settings,
    *,
    kind: Kind = "membrane",
    gate: ProbeGate | None = None,
    licence: str = "",
) -> Card:
    """Return the card of an erasure that a method makes.

    The date is today's, or that of $SOURCE_DATE_EPOCH, so that equal seeds can give equal files.
    """
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    now = datetime.datetime.fromtimestamp(int(epoch), datetime.UTC) if epoch else datetime.datetime.now(datetime.UTC)
    return Card(
        concepts=tuple(concepts),
        kind=kind,
        base_model=model.name,
        architecture=model.architecture,
        fingerprint=model.fingerprint(),
        method=method,
        settings=settings.model_dump(),
        gate=gate,
        versions={package: _version(package) for package in ("semiperm", "torch", "diffusers", "transformers")},
        seed=settings.seed,
        date=now.date().isoformat(),
        licence=licence,
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "source"
