"""JSON and YAML from strangers: what readers understand differently, or what never ends, is an error."""

import json
import math
from typing import Any, NoReturn

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

from semiperm.errors import clipped


def from_json(text: str) -> Any:
    """Return what a JSON text says.

    Raises:
        ValueError: it is not JSON, names a field twice, has a number that is not finite, or is nested too deeply.
    """
    try:
        return json.loads(text, object_pairs_hook=_fields, parse_constant=_not_finite, parse_float=_finite)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def from_yaml(text: str) -> Any:
    """Return what a YAML text says, of plain values only.

    Raises:
        ValueError: it is not YAML, names a field twice, refers to another place of itself, or is nested too deeply.
    """
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except yaml.MarkedYAMLError as error:
        where = f" in line {error.problem_mark.line + 1}" if error.problem_mark is not None else ""
        raise ValueError(f"{clipped(error.problem or error.context or 'it cannot be read')}{where}") from None
    except yaml.YAMLError as error:
        raise ValueError(clipped(" ".join(str(error).split()))) from None
    except (AttributeError, TypeError, KeyError, OverflowError):
        # PyYAML's constructors of dates and numbers take more than they can read.
        raise ValueError("a value cannot be read as what its tag says") from None


class _Loader(yaml.SafeLoader):
    """Reads neither aliases, which make a short text as large as one likes, nor a field twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise ComposerError(None, None, "aliases are not read", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        names = [one.value for one, _ in node.value if isinstance(one, yaml.ScalarNode)]
        if twice := next((name for number, name in enumerate(names) if name in names[:number]), None):
            raise ConstructorError(None, None, f"{clipped(twice)!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for number, name in enumerate(names) if name in names[:number])
        raise ValueError(f"it names {clipped(twice)!r} twice")
    return found


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        _not_finite(text)
    return number


def _not_finite(text: str) -> NoReturn:
    raise ValueError(f"{clipped(text, 20)} is not a finite number")
