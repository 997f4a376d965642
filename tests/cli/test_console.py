"""What is printed: errors as sentences, bugs as bugs, and no control characters."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import semiperm
from semiperm.cli import console, options
from semiperm.guarded import GATES
from tests.cli.command import refused, run

CLEAR = "\x1b[2J"


def test_no_command_shows_the_commands() -> None:
    result = run()
    for name in ("erase", "generate", "inspect", "terrarium", "demo", "methods", "--install-completion"):
        assert name in result.output


def test_help_does_not_wait_for_torch() -> None:
    code = "import sys, semiperm.cli.main; print('torch' in sys.modules, 'diffusers' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "False"]


def test_the_module_is_the_command() -> None:
    found = subprocess.run([sys.executable, "-m", "semiperm", "--help"], capture_output=True, text=True, check=True)
    assert "Usage: semiperm [OPTIONS]" in found.stdout and "erase" in found.stdout


def test_the_completed_gates_are_all_gates() -> None:
    assert tuple(GATES) == options.GATES


# errors


def test_a_missing_membrane(model: Path, tmp_path: Path) -> None:
    missing = tmp_path / "none.safetensors"
    assert str(missing) in refused(run("inspect", missing))
    assert str(missing) in refused(run("generate", "a cat", "-m", missing, "--steps", 1, "--model", model))


def test_a_file_that_is_no_membrane(tmp_path: Path) -> None:
    # a name with what would be markup in it
    broken = tmp_path / "broken[b].safetensors"
    broken.write_bytes(b"nothing of the sort")
    assert str(broken) in refused(run("inspect", broken))
    refused(run("inspect", tmp_path))


def test_a_wrong_model(cat: Path, tmp_path: Path) -> None:
    assert "terrariun" in refused(run("generate", "a cat", "--model", "terrariun"))
    assert "model_index.json" in refused(run("erase", "cat", "--model", tmp_path, "--out", tmp_path / "a.safetensors"))


def test_a_bug_is_called_one(monkeypatch: pytest.MonkeyPatch, cat: Path) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError(f"a screw\nis loose {CLEAR}")

    monkeypatch.setattr(semiperm, "load", broken)
    result = run("inspect", cat)
    assert result.exit_code == 1
    (line,) = result.output.strip().splitlines()
    assert line.startswith("error: ") and r"RuntimeError: a screw is loose \x1b[2J" in line
    assert "This is a bug" in line and "`semiperm --debug ...`" in line and "torch" in line
    assert "Traceback" not in result.output

    debugged = run("--debug", "inspect", cat)
    assert debugged.exit_code == 1
    assert "Traceback" in debugged.output and "in broken" in debugged.output
    assert "This is a bug" in debugged.output
    assert CLEAR not in debugged.output


def test_the_traceback_of_a_mistake_is_shown_on_request(tmp_path: Path) -> None:
    result = run("--debug", "inspect", tmp_path / "none.safetensors")
    assert result.exit_code == 1
    assert "Traceback" in result.output and "This is a bug" not in result.output


@pytest.mark.parametrize("error", [MemoryError("no room"), type("OutOfMemoryError", (RuntimeError,), {})("no room")])
def test_too_little_memory_is_no_bug(error: Exception, monkeypatch: pytest.MonkeyPatch, cat: Path) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(semiperm, "load", full)
    assert "low-vram" in refused(run("inspect", cat))


def test_an_interrupt_is_no_error(monkeypatch: pytest.MonkeyPatch, cat: Path) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(semiperm, "load", interrupted)
    result = run("inspect", cat)
    assert (result.exit_code, result.output) == (130, "stopped\n")


def test_wrong_usage_is_the_parsers_business() -> None:
    result = run("erase", "cat", "--no-such-option")
    assert result.exit_code == 2
    assert "This is a bug" not in result.output and "--no-such-option" in result.output


# control characters


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain äöü 猫", "plain äöü 猫"),
        (CLEAR, r"\x1b[2J"),
        ("\x9b2J", r"\x9b2J"),
        ("one\rtwo\nthree\x07", r"one\rtwo\nthree\x07"),
        ("evil\u202etxt", r"evil\u202etxt"),
        ("\udc80", r"\udc80"),
        ("[bold]", "[bold]"),
    ],
)
def test_control_characters_are_escaped(text: str, shown: str) -> None:
    assert console.printable(text) == shown


def test_control_characters_in_prompts_paths_and_errors_are_escaped(model: Path, cat: Path, tmp_path: Path) -> None:
    shown = run("inspect", cat, "--prompt", f"a cat{CLEAR}", "--model", model, "--gate", "always")
    assert shown.exit_code == 0, shown.output
    assert r"a cat\x1b[2J" in shown.output
    path = tmp_path / f"none{CLEAR}.safetensors"
    message = refused(run("inspect", path))
    assert r"none\x1b[2J.safetensors" in message
    made = run("generate", "a cat", "--count", 1, "--steps", 1, "--model", model, "--out", tmp_path / f"out{CLEAR}")
    assert r"out\x1b[2J" in made.output
    for output in (shown.output, message, made.output):
        assert CLEAR not in output


def test_control_characters_on_a_strangers_card_are_escaped(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "cat.safetensors"
    made = run("erase", f"cat{CLEAR}", "--target", "cat", "--instant", "--model", model, "--out", out)
    assert made.exit_code == 0, made.output
    shown = run("inspect", out, "--prompt", "a cat", "--model", model)
    assert shown.exit_code == 0, shown.output
    assert CLEAR not in shown.output and "cat\\" in shown.output
