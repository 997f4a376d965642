"""Erasures pushed to the Hub come back as they were; every obstacle is an error of one sentence."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from typer.testing import CliRunner

from semiperm.cli.main import app
from semiperm.erasure import WeightDelta
from semiperm.errors import HubError, MembraneFileError
from semiperm.files.hub import pull, push
from semiperm.files.safetensors import load_membrane, save
from semiperm.membrane import Membrane
from tests.files.hub_stand_in import TOKEN, Repo, StandIn, stand_in
from tests.helpers import card, random_membrane, same_bits, scaled

BASE = "runwayml/stable-diffusion-v1-5"
BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0"
LAYERS = {f"{BLOCK}.attn2.to_k": nn.Linear(12, 8), f"{BLOCK}.attn2.to_v": nn.Linear(12, 8)}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[StandIn]:
    """A Hub of our own, with an empty cache and a token that may write."""
    with stand_in() as found:
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setattr(constants, "AGENT_HARNESSES_PATH", str(tmp_path / "harnesses.json"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        reach(monkeypatch, found.url)
        yield found


def reach(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch, server: StandIn) -> str:
    """The address of a port at which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    reach(monkeypatch, url)
    return url


@pytest.fixture
def cat() -> Membrane:
    return random_membrane(LAYERS).with_card(base_model=BASE, licence="Apache-2.0", date="2026-01-02")


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    path = tmp_path / "grid.png"
    Image.new("RGB", (8, 4), "red").save(path)
    return path


def pulled(source: str | Path, **which: str) -> Membrane:
    erasure = pull(source, **which)
    assert isinstance(erasure, Membrane)
    return erasure


# there and back


def test_a_membrane_comes_back_as_it_was(server: StandIn, cat: Membrane) -> None:
    assert push(cat, "me/cat") == f"{server.url}/me/cat"
    back = pulled("me/cat")
    assert same_bits(back, cat) and back.card == cat.card


def test_a_push_is_one_commit(server: StandIn, cat: Membrane, grid: Path, tmp_path: Path) -> None:
    push(cat, "me/cat", grid=grid)
    repo = server.repos["me/cat"]
    assert len(repo.commits) == 1 and not repo.private
    assert repo.files.keys() == {"cat.safetensors", "README.md", "before-after.png"}
    assert repo.files["before-after.png"] == grid.read_bytes()
    assert repo.files["cat.safetensors"] == save(cat, tmp_path / "cat.safetensors").read_bytes()


def test_the_file_on_the_hub_is_a_plain_lora(server: StandIn, cat: Membrane, tmp_path: Path) -> None:
    push(cat, "me/cat")
    (tmp_path / "lora.safetensors").write_bytes(server.repos["me/cat"].files["cat.safetensors"])
    tensors = load_file(tmp_path / "lora.safetensors")
    flat = f"lora_unet_{BLOCK}.attn2.to_k".replace(".", "_")
    assert len(tensors) == 3 * len(LAYERS)
    assert tensors[f"{flat}.lora_up.weight"].equal(cat.up[f"{BLOCK}.attn2.to_k"])
    assert tensors[f"{flat}.lora_down.weight"].equal(cat.down[f"{BLOCK}.attn2.to_k"])
    assert tensors[f"{flat}.alpha"].item() == 1


def test_a_second_push_replaces_the_first_which_keeps_its_revision(server: StandIn, cat: Membrane) -> None:
    push(cat, "me/cat")
    (first,) = server.repos["me/cat"].commits
    push(scaled(cat, 2), "me/cat")
    assert server.repos["me/cat"].files.keys() == {"cat.safetensors", "README.md"}
    assert same_bits(pulled("me/cat"), scaled(cat, 2))
    assert same_bits(pulled("me/cat", revision=first), cat)


def test_one_of_several_must_be_named(server: StandIn, cat: Membrane) -> None:
    dog = random_membrane(LAYERS, seed=1, name="dog")
    push(cat, "me/pets")
    push(dog, "me/pets")
    with pytest.raises(HubError, match="me/pets has several erasures: name one of cat.safetensors, dog.safetensors"):
        pulled("me/pets")
    assert same_bits(pulled("me/pets", filename="dog.safetensors"), dog)
    with pytest.raises(HubError, match="no erasure fox.safetensors; it has cat.safetensors, dog.safetensors"):
        pulled("me/pets", filename="fox.safetensors")


def test_nothing_but_the_membrane_is_fetched(server: StandIn, cat: Membrane, grid: Path) -> None:
    push(cat, "me/cat", grid=grid)
    server.repos["me/cat"].commit({"cat.pt": b"\x80\x04", "setup.py": b"1 / 0"})
    server.asked.clear()
    pulled("me/cat")
    fetched = {line.split()[1] for line in server.asked if "/resolve/" in line}
    assert fetched == {"/me/cat/resolve/main/cat.safetensors"}
    with pytest.raises(HubError, match="no erasure cat.pt"):
        pulled("me/cat", filename="cat.pt")


@pytest.mark.parametrize("data", [b"\x80\x04pickle", b"\xff" * 64])
def test_what_is_no_membrane_is_refused(server: StandIn, data: bytes) -> None:
    server.repos["me/bad"] = Repo()
    server.repos["me/bad"].commit({"bad.safetensors": data})
    with pytest.raises(MembraneFileError, match="bad.safetensors"):
        pulled("me/bad")


def test_what_is_too_large_is_not_fetched(server: StandIn, tmp_path: Path) -> None:
    save_file({"conv_in.weight": torch.ones(50_000)}, tmp_path / "model.safetensors")
    server.repos["me/model"] = Repo()
    server.repos["me/model"].commit({"model.safetensors": (tmp_path / "model.safetensors").read_bytes()})
    server.sizes["model.safetensors"] = 5 * 1024**3
    with pytest.raises(HubError, match="5,368,709,120 bytes are more than a membrane can have"):
        pulled("me/model")
    (fetched,) = [line for line in server.asked if "/resolve/" in line]
    # the header alone
    assert fetched.endswith(" bytes=0-100000")
    server.repos["me/model"].commit({"model.safetensors": b"\xff" * 100})
    with pytest.raises(HubError, match="me/model was not downloaded: .*header"):
        pulled("me/model")


def test_a_weight_delta_may_be_large(server: StandIn) -> None:
    delta = WeightDelta(card(kind="delta"), {"unet.conv_in.weight": torch.ones(3)}, "0" * 64)
    push(delta, "me/delta")
    server.sizes["cat.safetensors"] = 5 * 1024**3
    back = pull("me/delta")
    assert isinstance(back, WeightDelta) and back.card == delta.card
    assert torch.equal(back.deltas["unet.conv_in.weight"], torch.ones(3))
    server.sizes["cat.safetensors"] = 100 * 1024**3
    with pytest.raises(HubError, match="more than a weight delta can have"):
        pull("me/delta")


def test_a_repository_without_a_membrane(server: StandIn) -> None:
    server.repos["me/pickles"] = Repo()
    server.repos["me/pickles"].commit({"cat.pt": b"\x80\x04"})
    with pytest.raises(HubError, match="me/pickles has no .safetensors file"):
        pulled("me/pickles")


def test_files_and_folders_here_go_before_the_hub(server: StandIn, cat: Membrane, tmp_path: Path) -> None:
    file = save(cat, tmp_path / "me" / "cat.safetensors")
    assert same_bits(pulled(file), cat)
    assert same_bits(pulled(str(file.parent)), cat)
    save(cat, tmp_path / "me" / "dog.safetensors")
    with pytest.raises(HubError, match="cat.safetensors, dog.safetensors"):
        pulled(file.parent)
    assert same_bits(pulled(file.parent, filename="dog.safetensors"), cat)
    assert server.asked == []


# obstacles


def test_a_repository_that_is_not_there_or_not_shown(
    server: StandIn, cat: Membrane, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(HubError, match="has no repository me/none that your token may see"):
        pulled("me/none")
    push(cat, "me/secret", private=True)
    assert server.repos["me/secret"].private
    assert same_bits(pulled("me/secret"), cat)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HubError, match="has no repository me/secret that is public; .* `hf auth login`"):
        pulled("me/secret")
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    with pytest.raises(HubError, match="the token is not valid"):
        pulled("me/secret")


def test_a_revision_that_is_not_there(server: StandIn, cat: Membrane) -> None:
    push(cat, "me/cat")
    with pytest.raises(HubError, match="me/cat has no branch, tag or commit 'v9'"):
        pulled("me/cat", revision="v9")


@pytest.mark.parametrize("name", ["cat", "cat.safetensors", "me/cat.safetensors", "a/b/c", "/no/where"])
def test_a_name_that_is_neither_a_file_nor_a_repository(server: StandIn, cat: Membrane, name: str) -> None:
    with pytest.raises(HubError, match="neither a file or folder here nor a repository name"):
        pulled(name)
    with pytest.raises(HubError, match="is not a repository name .user/repo."):
        push(cat, name)
    assert server.asked == []


def test_pushing_without_the_right_token(server: StandIn, cat: Membrane, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HubError, match="refused others/cat with status 403: your token does not permit this"):
        push(cat, "others/cat")
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    with pytest.raises(HubError, match="the token is not valid"):
        push(cat, "me/cat")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HubError, match="needs a token that may write: .*HF_TOKEN"):
        push(cat, "me/cat")
    assert server.repos == {}


def test_a_private_push_to_a_public_repository_is_refused(server: StandIn, cat: Membrane) -> None:
    server.repos["me/open"] = Repo()
    with pytest.raises(HubError, match="me/open exists and is public"):
        push(cat, "me/open", private=True)
    assert server.repos["me/open"].files == {} and server.blobs == {}


def test_files_that_the_hub_does_not_take(server: StandIn, cat: Membrane) -> None:
    server.full = True
    with pytest.raises(HubError, match="did not accept the files for me/cat: .*403"):
        push(cat, "me/cat")
    assert server.repos["me/cat"].files == {}


def test_a_picture_that_is_none(server: StandIn, cat: Membrane, tmp_path: Path) -> None:
    (tmp_path / "grid.png").write_bytes(b"GIF89a")
    with pytest.raises(HubError, match="grid.png is not a PNG"):
        push(cat, "me/cat", grid=tmp_path / "grid.png")
    with pytest.raises(FileNotFoundError):
        push(cat, "me/cat", grid=tmp_path / "none.png")
    assert server.asked == []


def test_a_hub_that_cannot_be_reached(unreachable: str, cat: Membrane) -> None:
    with pytest.raises(HubError, match=f"^{unreachable} cannot be reached for me/cat"):
        pulled("me/cat")
    with pytest.raises(HubError, match="cannot be reached"):
        push(cat, "me/cat")


def test_what_was_fetched_is_found_again_without_the_hub(
    server: StandIn, cat: Membrane, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(cat, "me/cat")
    pulled("me/cat")
    server.status = 503
    assert same_bits(pulled("me/cat"), cat)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    server.asked.clear()
    assert same_bits(pulled("me/cat"), cat)
    assert same_bits(pulled("me/cat", filename="cat.safetensors"), cat)
    with pytest.raises(HubError, match="me/dog is not cached, and HF_HUB_OFFLINE forbids a request"):
        pulled("me/dog")
    assert server.asked == []


# the command line


def run(*words: Any) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


def refused(result: Any) -> str:
    """Return the one sentence that a command failed with."""
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    (line,) = result.output.strip().splitlines()
    assert line.startswith("error: ")
    return line


@pytest.fixture
def file(cat: Membrane, tmp_path: Path) -> Path:
    return save(cat, tmp_path / "mine" / "cat.safetensors")


def test_push_and_pull(
    server: StandIn, file: Path, grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pushed = run("push", file, "me/cat", "--grid", grid, "--private")
    assert pushed.exit_code == 0, pushed.output
    assert pushed.output.strip() == f"{server.url}/me/cat"
    assert server.repos["me/cat"].private and "before-after.png" in server.repos["me/cat"].files
    (commit,) = server.repos["me/cat"].commits
    pulled = run("pull", "me/cat")
    assert (pulled.exit_code, pulled.output.strip()) == (0, "cat.safetensors")
    assert Path("cat.safetensors").read_bytes() == file.read_bytes()
    elsewhere = run("pull", "me/cat", "--out", "out/my.safetensors", "--revision", commit, "--file", "cat.safetensors")
    assert elsewhere.exit_code == 0, elsewhere.output
    assert same_bits(load_membrane("out/my.safetensors"), load_membrane(file))


def test_a_pulled_file_overwrites_no_other(
    server: StandIn, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("push", file, "me/cat").exit_code == 0
    Path("cat.safetensors").write_bytes(b"mine")
    for more in ((), ("--out", "cat.safetensors")):
        assert "cat.safetensors exists" in refused(run("pull", "me/cat", *more))
        assert Path("cat.safetensors").read_bytes() == b"mine"
    assert run("pull", "me/cat", "--out", "cat.safetensors", "--force").exit_code == 0
    assert Path("cat.safetensors").read_bytes() == file.read_bytes()


def test_the_command_line_names_the_obstacle(
    server: StandIn, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "me/none" in refused(run("pull", "me/none"))
    server.repos["me/pets"] = Repo()
    server.repos["me/pets"].commit({"cat.safetensors": b"", "dog.safetensors": b""})
    assert "cat.safetensors, dog.safetensors" in refused(run("pull", "me/pets"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in refused(run("pull", "me/cat"))
    assert "HF_HUB_OFFLINE" in refused(run("push", file, "me/cat"))


def test_the_command_line_names_an_unreachable_hub(unreachable: str, file: Path) -> None:
    assert unreachable in refused(run("pull", "me/cat"))
    assert unreachable in refused(run("push", file, "me/cat"))
