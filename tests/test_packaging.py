"""The package as others meet it: its names, its files, its versions, and the order of its floors."""

import ast
import importlib
import pkgutil
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import semiperm

ROOT = Path(__file__).parents[1]
PACKAGE = Path(semiperm.__file__).parent

# From the bottom up. A module belongs to the floor with the longest name that its own begins with.
FLOORS = [
    {"errors", "paths", "pictures", "concept"},
    {"models"},
    {"gate", "stack", "guarded", "erasure", "membrane", "conditioning"},
    {"files"},
    {"methods"},
    {"attacks"},
    {"api"},
    {"terrarium"},
    {"evaluation"},
    {"reports"},
    {"cli", "__main__"},
]
# Training the terrarium is the command line's business.
MAKING = "terrarium.making"


def modules() -> dict[str, Path]:
    """The modules of the package by name, without `semiperm.`; the package itself is left out."""
    found: dict[str, Path] = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    found.pop("")
    return found


def imported(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """The modules that a file imports anywhere: in functions and for type checking as well."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                names.append(whole if whole.removeprefix("semiperm.") in known else str(node.module))
        yield from (name.removeprefix("semiperm.") for name in names if name.split(".")[0] == "semiperm")


def floor(module: str) -> int:
    (found,) = (number for number, names in enumerate(FLOORS) if module.split(".")[0] in names)
    return found


KNOWN = modules()
IMPORTS = {name: set(imported(path, KNOWN)) for name, path in KNOWN.items()}


def test_exported_names() -> None:
    exported = vars(semiperm)["__all__"]
    assert sorted(exported) == [
        "Card",
        "Concept",
        "Erasure",
        "Guard",
        "Membrane",
        "SemipermError",
        "WeightDelta",
        "erase",
        "guard",
        "load",
        "load_model",
        "save",
    ]
    for name in exported:
        assert getattr(semiperm, name).__name__ == name


def test_every_module_imports() -> None:
    found = [one.name for one in pkgutil.walk_packages([str(PACKAGE)], "semiperm.")]
    assert {name.removeprefix("semiperm.") for name in found} >= set(KNOWN) - {"__main__"}
    for name in found:
        importlib.import_module(name)


def test_every_module_is_on_a_floor() -> None:
    on_floors = set().union(*FLOORS)
    assert {name for name in KNOWN if name.split(".")[0] not in on_floors} == set()


def test_imports_run_downwards() -> None:
    upwards = [
        f"{name} imports {other}"
        for name, others in IMPORTS.items()
        for other in others
        # The package itself, with all public names, is above everything but the command line.
        if floor(name) < (len(FLOORS) - 1 if other == "semiperm" else floor(other))
    ]
    assert upwards == []


def test_files_import_in_no_circle() -> None:
    left = {name: others & set(KNOWN) for name, others in IMPORTS.items()}
    # Only circles, and what lies between two of them, survive: remove modules that import, or are imported by, nothing.
    while free := {name for name in left if not left[name] or not any(name in others for others in left.values())}:
        left = {name: others - free for name, others in left.items() if name not in free}
    assert left == {}


def test_only_the_command_line_trains_the_terrarium() -> None:
    importers = {name for name, others in IMPORTS.items() if any(one.startswith(MAKING) for one in others)}
    assert {name for name in importers if not name.startswith((MAKING, "cli."))} == set()


def requirements(*extras: str) -> dict[str, Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *(line for one in extras for line in project["optional-dependencies"][one])]
    return {canonicalize_name(one.name): one for one in map(Requirement, lines)}


def test_every_imported_distribution_is_declared() -> None:
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
    outside = {name.split(".")[0] for name in names} - sys.stdlib_module_names - {"semiperm"}
    declared = set(requirements("nudenet"))
    homes = packages_distributions()
    # What is not installed is an extra, whose module has the distribution's name.
    assert {name for name in outside if not declared & set(map(canonicalize_name, homes.get(name, [name])))} == set()


def pins(file: str) -> dict[str, Version]:
    lines = re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / file).read_text(encoding="utf-8"), re.M)
    return {canonicalize_name(name): Version(version) for name, version in lines}


def test_the_smoke_test_installs_the_lowest_supported_versions() -> None:
    lowest = pins("constraints-lowest.txt")
    for name, one in requirements().items():
        (bound,) = (spec.version for spec in one.specifier if spec.operator == ">=")
        assert lowest[name] == Version(bound), name


def test_the_constraints_pin_every_dependency_within_its_bounds() -> None:
    exact = pins("constraints.txt")
    for name, one in requirements("dev", "docs").items():
        assert one.specifier.contains(exact[name]), name


def test_the_package_is_typed() -> None:
    assert (PACKAGE / "py.typed").is_file()


@pytest.mark.slow
def test_the_wheel_contains_every_file_of_the_package(tmp_path: Path) -> None:
    # In a copy, because setuptools leaves a build folder beside the sources, and takes old files from it.
    source = tmp_path / "source"
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(source)]
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob("semiperm-*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    files = {
        f"semiperm/{path.relative_to(PACKAGE).as_posix()}"
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert files - inside == set()
    wanted = ["py.typed", "terrarium/weights/unet/diffusion_pytorch_model.safetensors", "files/templates/card.md.j2"]
    assert {f"semiperm/{name}" for name in wanted} <= inside
