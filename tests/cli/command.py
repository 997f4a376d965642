"""Running commands in tests."""

from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from semiperm.cli.main import app


def run(*words: Any) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


def refused(result: Any) -> str:
    """Return the one sentence that a command failed with."""
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    # A card or another library's output may come before the sentence, but nothing after it.
    lines = result.output.strip().splitlines()
    assert [number for number, line in enumerate(lines) if "error: " in line] == [len(lines) - 1], result.output
    # A bug is never the user's mistake.
    assert "This is a bug" not in lines[-1]
    return lines[-1]


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
