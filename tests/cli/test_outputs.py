"""What commands write: refused at once where it cannot be or would replace something, and never half-written."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from safetensors import SafetensorError

import semiperm
from semiperm import paths
from semiperm.evaluation import run as running
from semiperm.evaluation.report import Report
from semiperm.evaluation.report import save as save_report
from semiperm.methods import training
from semiperm.methods.training import beside
from tests.cli.command import files, refused, run
from tests.cli.test_erase import FEW
from tests.reports.helpers import cat_erased, report_of
from tests.test_paths import NEVER, state

NO_MODEL = ("--model", "no-such-model")
TRAINED = ("erase", "dog", "--steps", 4, *FEW, "--set", "checkpoint_every=2")


def full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def named(path: Path) -> Path:
    """The same place with the name of an erasure."""
    other = path.with_name(path.name + ".safetensors")
    if os.path.lexists(path) and not str(path).startswith("/dev"):
        path.rename(other)
    return other


# before any work


@pytest.mark.parametrize("where", NEVER[:-1])
@pytest.mark.parametrize("force", [(), ("--force",)])
def test_what_cannot_be_written_is_refused_before_the_model_is_looked_for(
    where: Any, force: tuple[str, ...], cat: Path, tmp_path: Path
) -> None:
    path = where(tmp_path)
    shown = str(path).replace("\0", "\\x00")
    message = refused(run("generate", "a cat", "--compare", path, *force, *NO_MODEL))
    assert shown in message and "cannot be written" in message
    before, out = state(tmp_path), tmp_path / "out.safetensors"
    preview = refused(run("erase", "cat", "--out", out, "--preview", path, *force, *NO_MODEL))
    assert shown in preview and "cannot be written" in preview
    assert state(tmp_path) == before
    erasure = named(path)
    before = state(tmp_path)
    for command in (("erase", "cat"), ("adopt", cat, "--concept", "cat")):
        message = refused(run(*command, "--out", erasure, *force, *NO_MODEL))
        # /dev/null.safetensors is a name like any other.
        assert "no-such-model" in message if str(erasure.parent) == "/dev" else "cannot be written" in message
    assert state(tmp_path) == before


def test_no_command_replaces_a_file_without_force(model: Path, cat: Path, tmp_path: Path) -> None:
    out, picture = tmp_path / "out.safetensors", tmp_path / "out.png"
    out.write_text("kept")
    picture.write_text("kept")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "01-0003.png").write_text("kept")
    (tmp_path / "adapter_config.json").write_text("kept")
    for command in (
        ("erase", "cat", "--out", out, *NO_MODEL),
        ("erase", "cat", "--out", tmp_path / "new.safetensors", "--preview", picture, *NO_MODEL),
        ("adopt", cat, "--concept", "cat", "--out", out, *NO_MODEL),
        ("generate", "a cat", "--compare", picture, *NO_MODEL),
        ("generate", "a cat", "a dog", "--seed", 3, "--count", 1, "--out", tmp_path / "pictures", *NO_MODEL),
        ("export", cat, "--format", "kohya", "--out", out),
        ("export", cat, "--format", "diffusers", "--out", out),
        ("export", cat, "--format", "peft", "--out", tmp_path),
        ("export", cat, "--format", "merged", "--out", tmp_path, *NO_MODEL),
        ("pull", "somebody/cat", "--out", out),
    ):
        assert "exists and is not replaced" in refused(run(*command)), command
    assert {path.read_text() for path in tmp_path.rglob("*") if path.is_file()} == {"kept"}


def test_force_replaces_a_file(model: Path, cat: Path, tmp_path: Path) -> None:
    for form in ("kohya", "diffusers"):
        assert run("export", cat, "--format", form, "--out", tmp_path / "out.safetensors", "--force").exit_code == 0
    assert run("export", cat, "--format", "peft", "--out", tmp_path / "peft").exit_code == 0
    assert run("export", cat, "--format", "peft", "--out", tmp_path / "peft", "--force").exit_code == 0
    drawn = ("generate", "a cat", "--count", 1, "--steps", 1, "--model", model, "--out", tmp_path / "pictures")
    assert run(*drawn).exit_code == 0
    assert "exists" in refused(run(*drawn))
    assert run(*drawn, "--force").exit_code == 0


def test_not_even_force_replaces_the_erasure_of_another_concept(model: Path, cat: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    made = run("erase", "dog", "--instant", "--out", out, "--model", model)
    assert made.exit_code == 0, made.output
    before = out.read_bytes()
    assert "exists" in refused(run("erase", "dog", "--instant", "--out", out, "--model", model))
    for command in (
        ("erase", "cat", "--out", out, *NO_MODEL),
        ("adopt", cat, "--concept", "cat", "--out", out, *NO_MODEL),
        ("export", cat, "--format", "kohya", "--out", out),
    ):
        assert "is the erasure of 'dog'" in refused(run(*command, "--force"))
    assert out.read_bytes() == before
    again = run("erase", "dog", "--instant", "--seed", 3, "--out", out, "--model", model, "--force")
    assert again.exit_code == 0, again.output
    assert out.read_bytes() != before


def test_concepts_whose_names_differ_in_signs_have_files_of_their_own(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("C++", "C#", "c"):
        made = run("erase", name, "--instant", "--model", model)
        assert made.exit_code == 0, made.output
    assert sorted(semiperm.load(path).card.title for path in tmp_path.iterdir()) == ["C#", "C++", "c"]


def test_pages_and_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, out = tmp_path / "report.json", tmp_path / "page.html"
    save_report(report_of(cat_erased()), first)
    assert run("compare", first, first, "--out", out).exit_code == 0
    before = out.read_bytes()
    assert "exists" in refused(run("compare", first, first, "--out", out))
    assert "cannot be written" in refused(run("compare", first, first, "--out", "/dev/full", "--force"))
    assert run("compare", first, first, "--out", out, "--force").exit_code == 0
    assert out.read_bytes() == before
    monkeypatch.setattr(running, "run", lambda *_, **__: pytest.fail("the run has begun"))
    assert "exists" in refused(run("terrarium", "evaluate", "--out", out, "--cache", tmp_path / "cache"))


def test_a_run_does_not_replace_pages_that_are_not_its_own(
    cat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []

    def measured(*_: Any, out: Path, **__: Any) -> tuple[Report, list[Any]]:
        made.append(out)
        save_report(report_of(cat_erased()), out / "report.json")
        return report_of(cat_erased()), []

    monkeypatch.setattr(running, "run", measured)
    protocol = report_of(cat_erased()).protocol
    command = ("evaluate", "-p", protocol, "-m", cat, "--out", tmp_path)
    (tmp_path / "report.html").write_text("kept")
    assert "report.html exists" in refused(run(*command))
    assert made == [] and (tmp_path / "report.html").read_text() == "kept"
    assert run(*command, "--force").exit_code == 0
    # The same command resumes, and so may write its pages again.
    assert run(*command).exit_code == 0
    assert len(made) == 2
    save_report(report_of(cat_erased()).model_copy(update={"protocol": "another"}), tmp_path / "report.json")
    assert "report.json exists" in refused(run(*command))
    assert len(made) == 2


def test_a_demo_replaces_only_a_demo(tmp_path: Path) -> None:
    (tmp_path / "mosaic.safetensors").write_text("kept")
    assert "mosaic.safetensors exists" in refused(run("demo", "--out", tmp_path))
    assert files(tmp_path) == ["mosaic.safetensors"]


# resuming


def test_what_is_finished_or_stopped_is_not_lost(model: Path, cat: Path, tmp_path: Path) -> None:
    assert "is finished" in refused(run("erase", "cat", "--out", cat, "--resume", *NO_MODEL))
    out = tmp_path / "dog.safetensors"
    beside(out).write_text("")
    assert "would be lost: resume it with --resume" in refused(run("erase", "dog", "--out", out, *NO_MODEL))
    started = run("erase", "dog", "--instant", "--out", out, "--model", model, "--force")
    assert started.exit_code == 0, started.output
    assert files(tmp_path) == ["dog.safetensors"]


# full disks


def test_a_training_whose_checkpoints_cannot_be_written_goes_on(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = tmp_path / "whole" / "dog.safetensors", tmp_path / "dog.safetensors"
    assert run(*TRAINED, "--model", model, "--out", whole).exit_code == 0

    def no_room(*_: Any) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(training, "save_file", no_room)
    made = run(*TRAINED, "--model", model, "--out", out)
    assert made.exit_code == 0, made.output
    assert made.output.count("goes on, but the checkpoint of step 2 of 4 cannot be written") == 1
    assert out.read_bytes() == whole.read_bytes()
    assert files(tmp_path) == ["dog.safetensors", "whole/dog.safetensors"]


def test_a_preview_that_cannot_be_written_does_not_end_the_training(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("semiperm.pictures.save_png", full)
    made = run(
        *TRAINED, "--model", model, "--out", tmp_path / "dog.safetensors", "--preview", tmp_path / "preview.png"
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    assert "preview.png cannot be written" in made.output
    assert files(tmp_path) == ["dog.safetensors"]


def test_an_erasure_that_cannot_be_written_at_the_end_is_written_elsewhere(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, spare = tmp_path / "full" / "dog.safetensors", tmp_path / "spare"
    spare.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(spare))
    monkeypatch.setattr(paths, "_sync", lambda path: full() if path.parent == out.parent else None)
    message = refused(run("erase", "dog", "--instant", "--model", model, "--out", out))
    assert f"{out} cannot be written (No space left on device)" in message
    assert files(out.parent) == []
    (found,) = spare.rglob("*.safetensors")
    assert str(found) in message and semiperm.load(found).card.title == "dog"


@pytest.mark.parametrize("form", ["kohya", "diffusers", "peft", "merged"])
def test_an_export_to_a_full_disk_is_one_sentence_and_leaves_nothing(
    form: str, model: Path, cat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = DiffusionPipeline.save_pretrained

    def half(self: Any, folder: Path, **more: Any) -> None:
        real(self, folder, **more)
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(paths, "_sync", full)
    monkeypatch.setattr(DiffusionPipeline, "save_pretrained", half)
    out = tmp_path / ("out" if form in ("peft", "merged") else "out.safetensors")
    message = refused(run("export", cat, "--format", form, "--model", model, "--out", out))
    assert str(out) in message and "No space left on device" in message
    assert files(tmp_path) == []


@pytest.mark.parametrize("command", ["adopt", "pull", "compare", "generate", "library"])
def test_other_commands_on_a_full_disk(
    command: str, model: Path, cat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, out = tmp_path / "report.json", tmp_path / "out"
    save_report(report_of(cat_erased()), first)
    monkeypatch.setattr("semiperm.files.hub.find", lambda *_, **__: cat)
    monkeypatch.setattr(paths, "_sync", full)
    words = {
        "adopt": ("adopt", cat, "--concept", "cat", "--model", model, "--out", out / "a.safetensors"),
        "pull": ("pull", "somebody/cat", "--out", out / "a.safetensors"),
        "compare": ("compare", first, first, "--out", out / "a.html"),
        "generate": ("generate", "a cat", "--count", 1, "--steps", 1, "--model", model, "--out", out),
        "library": ("library", "add", out, cat),
    }
    message = refused(run(*words[command]))
    assert str(out) in message and "No space left on device" in message
    assert set(files(out)) <= {".lock"}


# the terminal


def child(*words: Any, stdout: Any = subprocess.PIPE, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "semiperm", *map(str, words)],
        stdout=stdout, stderr=subprocess.PIPE, env={**os.environ, **environment},
    )  # fmt: skip


def test_a_terminal_that_lacks_characters_gets_escapes_and_every_picture_is_saved(
    model: Path, cat: Path, tmp_path: Path
) -> None:
    drawn = ("generate", "a 猫", "-m", cat, "--gate", "always", "--count", 1, "--steps", 1, "--model", model)
    done = child(*drawn, "--out", tmp_path / "ascii", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert rb"a \u732b" in done.stdout and b"1.00" in done.stdout
    assert files(tmp_path / "ascii") == ["00-0000.png"]


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_pictures_are_saved_before_anything_is_printed(model: Path, cat: Path, tmp_path: Path, unbuffered: str) -> None:
    drawn = ("generate", "a cat", "-m", cat, "--count", 1, "--steps", 1, "--model", model)
    with open("/dev/full", "wb") as nowhere:
        done = child(*drawn, "--out", tmp_path / "full", stdout=nowhere, PYTHONUNBUFFERED=unbuffered)
    assert done.returncode == 1 and b"Traceback" not in done.stderr and b"No space left" in done.stderr
    assert files(tmp_path / "full") == ["00-0000.png"]


# equal seeds


def test_equal_seeds_give_equal_bytes(model: Path, cat: Path, tmp_path: Path) -> None:
    def made(name: str, seed: int, **environment: str) -> bytes:
        # in a process of its own: the order of sets, for instance, changes from one to the next
        out = tmp_path / name / "cat.safetensors"
        done = child("erase", "cat", "--instant", "--seed", seed, "--model", model, "--out", out, **environment)
        assert done.returncode == 0, done.stderr
        return out.read_bytes()

    epoch = {"SOURCE_DATE_EPOCH": "1700000000"}
    first = made("first", 0, PYTHONHASHSEED="1", **epoch)
    assert made("second", 0, PYTHONHASHSEED="2", **epoch) == first
    assert semiperm.load(tmp_path / "first" / "cat.safetensors").card.date == "2023-11-14"
    again = made("third", 0, PYTHONHASHSEED="3")
    # The card has the day, which may have changed since.
    if semiperm.load(tmp_path / "third" / "cat.safetensors").card.date == semiperm.load(cat).card.date:
        assert again == cat.read_bytes()
