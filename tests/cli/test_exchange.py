"""`semiperm export`, `push`, `pull` and `library`."""

from pathlib import Path

import pytest

from semiperm.files import hub
from tests.cli.command import files, refused, run


@pytest.mark.parametrize("form", ["kohya", "diffusers", "peft", "merged"])
def test_membranes_are_exported_for_other_tools(form: str, model: Path, cat: Path, tmp_path: Path) -> None:
    out = tmp_path / ("folder" if form in ("peft", "merged") else "out.safetensors")
    result = run("export", cat, "--format", form, "--model", model, "--out", out)
    assert result.exit_code == 0, result.output
    assert out.is_dir() == (form in ("peft", "merged"))
    if form != "merged":
        assert "holds one membrane" in refused(run("export", cat, cat, "--format", form, "--out", tmp_path / "x"))


def test_pushing_needs_a_repository(cat: Path) -> None:
    assert "user/repo" in refused(run("push", cat, "no repository"))


def test_a_pulled_file_overwrites_nothing_unless_forced(
    cat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "find", lambda *_, **__: cat)
    monkeypatch.chdir(tmp_path)
    assert run("pull", "somebody/cat").exit_code == 0
    assert (tmp_path / "cat.safetensors").read_bytes() == cat.read_bytes()
    assert "cat.safetensors exists" in refused(run("pull", "somebody/cat"))
    assert "exists" in refused(run("pull", "somebody/cat", "--out", tmp_path / "cat.safetensors"))
    assert run("pull", "somebody/cat", "--force").exit_code == 0
    assert run("pull", "somebody/cat", "--out", tmp_path / "cat.safetensors", "--force").exit_code == 0


def test_a_library_is_kept_from_the_command_line(cat: Path, tmp_path: Path) -> None:
    folder = tmp_path / "library"
    added = run("library", "add", folder, cat)
    assert added.exit_code == 0, added.output
    assert "cat.safetensors" in run("library", "list", folder).output
    assert "cat.safetensors" in run("library", "search", folder, "CAT").output
    assert "cat.safetensors" not in run("library", "search", folder, "dog").output
    assert "1 erasure, all as they were added" in run("library", "verify", folder).output
    (folder / "cat.safetensors").write_bytes(b"other")
    verified = run("library", "verify", folder)
    assert "error" not in verified.output
    assert verified.exit_code == 1 and "was changed since it was added" in verified.output.replace("\n", " ")
    assert run("library", "remove", folder, "cat").exit_code == 0
    assert files(folder) == [".lock", "index.json"]
    assert "no erasure 'cat'" in refused(run("library", "remove", folder, "cat"))
