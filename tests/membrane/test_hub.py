"""Membranes go to the Hub and come back as they were; what hinders them is said in a sentence."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from typer.testing import CliRunner

from semiperm import cli
from semiperm.concept import Concept
from semiperm.membrane.files import MembraneFileError, load, save
from semiperm.membrane.hub import HubError
from semiperm.membrane.hub_page import file_name, page
from semiperm.membrane.membrane import Card, Membrane
from tests.membrane.helpers import card, random_membrane, same_bits
from tests.membrane.hub_stand_in import TOKEN, Repo, StandIn, stand_in

BASE = "runwayml/stable-diffusion-v1-5"
BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0"
LAYERS = {f"{BLOCK}.attn2.to_k": nn.Linear(12, 8), f"{BLOCK}.attn2.to_v": nn.Linear(12, 8)}
FACTS: dict[str, Any] = {
    "concept": Concept(name="cat", targets=("cat", "kitten"), surrogate="dog"),
    "base_model": BASE,
    "architecture": "stable-diffusion-v1",
    "recipe": {"loop": "membrane", "steps": 100, "eta": 1.5, "rank": 1},
    "gate": {"threshold": 0.25, "weight": [0.1, -3.5]},
    "licence": "Apache-2.0",
    "effect": {"target_moved": 1.875, "anchors_moved": 0.0625},
    "date": "2026-01-02",
}


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
    return random_membrane(LAYERS).with_card(**FACTS)


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    path = tmp_path / "grid.png"
    Image.new("RGB", (8, 4), "red").save(path)
    return path


def front(repo: Repo) -> dict[str, Any]:
    _, block, _ = repo.files["README.md"].decode().split("---\n", 2)
    return yaml.safe_load(block)


# there and back


def test_a_membrane_comes_back_as_it_was(server: StandIn, cat: Membrane) -> None:
    assert cat.push_to_hub("me/cat") == f"{server.url}/me/cat"
    back = Membrane.from_pretrained("me/cat")
    assert same_bits(back, cat) and back.card == cat.card


def test_all_that_is_pushed_is_one_commit(server: StandIn, cat: Membrane, grid: Path, tmp_path: Path) -> None:
    cat.push_to_hub("me/cat", grid=grid)
    repo = server.repos["me/cat"]
    assert len(repo.commits) == 1 and not repo.private
    assert repo.files.keys() == {"cat.safetensors", "README.md", "before-after.png"}
    assert repo.files["before-after.png"] == grid.read_bytes()
    assert repo.files["cat.safetensors"] == save(cat, tmp_path / "cat.safetensors").read_bytes()


def test_what_lies_on_the_hub_is_a_plain_lora(server: StandIn, cat: Membrane, tmp_path: Path) -> None:
    cat.push_to_hub("me/cat")
    (tmp_path / "lora.safetensors").write_bytes(server.repos["me/cat"].files["cat.safetensors"])
    tensors = load_file(tmp_path / "lora.safetensors")
    flat = f"lora_unet_{BLOCK}.attn2.to_k".replace(".", "_")
    assert len(tensors) == 3 * len(LAYERS)
    assert tensors[f"{flat}.lora_up.weight"].equal(cat.up[f"{BLOCK}.attn2.to_k"])
    assert tensors[f"{flat}.lora_down.weight"].equal(cat.down[f"{BLOCK}.attn2.to_k"])
    assert tensors[f"{flat}.alpha"].item() == 1


def test_a_second_push_replaces_and_the_first_is_still_to_be_had(server: StandIn, cat: Membrane) -> None:
    cat.push_to_hub("me/cat")
    (first,) = server.repos["me/cat"].commits
    cat.scaled(2).push_to_hub("me/cat")
    assert server.repos["me/cat"].files.keys() == {"cat.safetensors", "README.md"}
    assert same_bits(Membrane.from_pretrained("me/cat"), cat.scaled(2))
    assert same_bits(Membrane.from_pretrained("me/cat", revision=first), cat)


def test_one_of_several_must_be_named(server: StandIn, cat: Membrane) -> None:
    dog = random_membrane(LAYERS, seed=1, name="dog")
    cat.push_to_hub("me/pets")
    dog.push_to_hub("me/pets")
    with pytest.raises(HubError, match="me/pets has several membranes: name one of cat.safetensors, dog.safetensors"):
        Membrane.from_pretrained("me/pets")
    assert same_bits(Membrane.from_pretrained("me/pets", filename="dog.safetensors"), dog)
    with pytest.raises(HubError, match="no membrane fox.safetensors; it has cat.safetensors, dog.safetensors"):
        Membrane.from_pretrained("me/pets", filename="fox.safetensors")


def test_nothing_but_the_membrane_is_fetched(server: StandIn, cat: Membrane, grid: Path) -> None:
    cat.push_to_hub("me/cat", grid=grid)
    server.repos["me/cat"].commit({"cat.pt": b"\x80\x04", "setup.py": b"1 / 0"})
    server.asked.clear()
    Membrane.from_pretrained("me/cat")
    fetched = {line.split()[1] for line in server.asked if "/resolve/" in line}
    assert fetched == {"/me/cat/resolve/main/cat.safetensors"}
    with pytest.raises(HubError, match="no membrane cat.pt"):
        Membrane.from_pretrained("me/cat", filename="cat.pt")


@pytest.mark.parametrize("data", [b"\x80\x04pickle", b"\xff" * 64])
def test_what_is_no_membrane_is_refused(server: StandIn, data: bytes) -> None:
    server.repos["me/bad"] = Repo()
    server.repos["me/bad"].commit({"bad.safetensors": data})
    with pytest.raises(MembraneFileError, match="bad.safetensors"):
        Membrane.from_pretrained("me/bad")


def test_what_is_too_large_is_not_fetched(server: StandIn) -> None:
    server.repos["me/model"] = Repo()
    server.repos["me/model"].commit({"model.safetensors": b""})
    server.sizes["model.safetensors"] = 5 * 1024**3
    with pytest.raises(HubError, match="5,368,709,120 bytes, more than a membrane can have"):
        Membrane.from_pretrained("me/model")
    assert not any("/resolve/" in line for line in server.asked)


def test_a_repository_without_a_membrane(server: StandIn) -> None:
    server.repos["me/pickles"] = Repo()
    server.repos["me/pickles"].commit({"cat.pt": b"\x80\x04"})
    with pytest.raises(HubError, match="me/pickles has no .safetensors file"):
        Membrane.from_pretrained("me/pickles")


def test_files_and_folders_here_go_before_the_hub(server: StandIn, cat: Membrane, tmp_path: Path) -> None:
    file = save(cat, tmp_path / "me" / "cat.safetensors")
    assert same_bits(Membrane.from_pretrained(file), cat)
    assert same_bits(Membrane.from_pretrained(str(file.parent)), cat)
    save(cat, tmp_path / "me" / "dog.safetensors")
    with pytest.raises(HubError, match="cat.safetensors, dog.safetensors"):
        Membrane.from_pretrained(file.parent)
    assert same_bits(Membrane.from_pretrained(file.parent, filename="dog.safetensors"), cat)
    assert server.asked == []


# the page


def test_the_page_tells_the_hub_the_licence_and_the_base(server: StandIn, cat: Membrane) -> None:
    cat.push_to_hub("me/cat")
    facts = front(server.repos["me/cat"])
    assert (facts["license"], facts["base_model"], facts["base_model_relation"]) == ("apache-2.0", BASE, "adapter")
    assert facts["library_name"] == "diffusers"
    assert {"lora", "diffusers", "text-to-image", "concept-erasure"} <= set(facts["tags"])


def test_the_page_tells_people_what_it_is(server: StandIn, cat: Membrane, grid: Path) -> None:
    cat.push_to_hub("me/cat")
    told = server.repos["me/cat"].files["README.md"].decode()
    for row in (
        "| concept | cat |", "| kind | object |", "| asked for by | cat, kitten |", "| becomes | dog |",
        "| licence | Apache-2.0 |", "| recipe | loop membrane, steps 100, eta 1.5 |", "| target_moved | 1.875 |",
        "| anchors_moved | 0.0625 |",
    ):  # fmt: skip
        assert row in told
    assert 'from_pretrained("me/cat", filename="cat.safetensors")' in told
    assert 'load_lora_weights("me/cat", weight_name="cat.safetensors")' in told
    assert "[membrane])" in told and "before-after.png" not in told
    assert '[membrane], transport="paper")' in page(card(), "me/cat", pictured=False)
    cat.push_to_hub("me/cat", grid=grid)
    assert "(before-after.png)" in server.repos["me/cat"].files["README.md"].decode()


def test_the_pages_code_is_python() -> None:
    for base in (BASE, "terrarium", ""):
        told = page(Card(concept=Concept(name='the "cat"\\'), base_model=base), "me/cat", pictured=False)
        snippets = [block.split("```")[0] for block in told.split("```python\n")[1:]]
        assert len(snippets) == 2
        for snippet in snippets:
            compile(snippet, "README.md", "exec")


@pytest.mark.parametrize(
    ("licence", "wanted"),
    [
        ("", {"license": "unknown"}),
        ("MIT", {"license": "mit"}),
        ("GPL-3.0-only", {"license": "other", "license_name": "gpl-3.0-only"}),
    ],
)
def test_licences_in_the_hubs_words(licence: str, wanted: dict[str, str]) -> None:
    told = yaml.safe_load(page(card(licence=licence), "me/cat", pictured=False).split("---\n")[1])
    assert {name: told[name] for name in told if name.startswith("license")} == wanted


@pytest.mark.parametrize("base", ["terrarium", "", "/models/sd15", "models/sd15.safetensors"])
def test_a_base_that_is_not_on_the_hub_is_not_linked(base: str) -> None:
    told = page(card(base_model=base), "me/cat", pictured=False)
    assert "base_model" not in yaml.safe_load(told.split("---\n")[1])
    assert "huggingface.co/" not in told


def test_a_name_is_text_on_the_page() -> None:
    name = 'a: "cat" | {dog}\n---\n# fox'
    told = page(card(name=name), "me/cat", pictured=False)
    assert yaml.safe_load(told.split("---\n")[1])["license"] == "unknown"
    assert '| concept | a: "cat" \\| {dog} --- # fox |' in told
    assert "\n# fox" not in told


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("Van Gogh", "van-gogh.safetensors"),
        ("../../AC/DC", "ac-dc.safetensors"),
        ("猫", "猫.safetensors"),
        ("...", "membrane.safetensors"),
    ],
)
def test_every_concept_gives_a_files_name(name: str, file: str) -> None:
    assert file_name(card(name=name)) == file


# what hinders


def test_a_repository_that_is_not_there_or_not_shown(
    server: StandIn, cat: Membrane, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(HubError, match="has no repository me/none that your token may see"):
        Membrane.from_pretrained("me/none")
    cat.push_to_hub("me/secret", private=True)
    assert server.repos["me/secret"].private
    assert same_bits(Membrane.from_pretrained("me/secret"), cat)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HubError, match="has no repository me/secret that is public; .* `hf auth login`"):
        Membrane.from_pretrained("me/secret")
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    with pytest.raises(HubError, match="the token is not valid"):
        Membrane.from_pretrained("me/secret")


def test_a_revision_that_is_not_there(server: StandIn, cat: Membrane) -> None:
    cat.push_to_hub("me/cat")
    with pytest.raises(HubError, match="me/cat has no branch, tag or commit 'v9'"):
        Membrane.from_pretrained("me/cat", revision="v9")


@pytest.mark.parametrize("name", ["cat", "cat.safetensors", "me/cat.safetensors", "a/b/c", "/no/where"])
def test_a_name_that_is_neither_a_file_nor_a_repository(server: StandIn, cat: Membrane, name: str) -> None:
    with pytest.raises(HubError, match="no file or folder here, and no repository's name"):
        Membrane.from_pretrained(name)
    with pytest.raises(HubError, match="is no repository's name .user/repo."):
        cat.push_to_hub(name)
    assert server.asked == []


def test_pushing_without_the_right_token(server: StandIn, cat: Membrane, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HubError, match="refused others/cat with status 403: your token may not do that"):
        cat.push_to_hub("others/cat")
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    with pytest.raises(HubError, match="the token is not valid"):
        cat.push_to_hub("me/cat")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HubError, match="needs a token that may write: .*HF_TOKEN"):
        cat.push_to_hub("me/cat")
    assert server.repos == {}


def test_what_shall_be_private_is_not_put_where_all_can_see_it(server: StandIn, cat: Membrane) -> None:
    server.repos["me/open"] = Repo()
    with pytest.raises(HubError, match="me/open exists and is public"):
        cat.push_to_hub("me/open", private=True)
    assert server.repos["me/open"].files == {} and server.blobs == {}


def test_files_that_the_hub_does_not_take(server: StandIn, cat: Membrane) -> None:
    server.full = True
    with pytest.raises(HubError, match="did not take the files for me/cat: .*403"):
        cat.push_to_hub("me/cat")
    assert server.repos["me/cat"].files == {}


def test_a_picture_that_is_none(server: StandIn, cat: Membrane, tmp_path: Path) -> None:
    (tmp_path / "grid.png").write_bytes(b"GIF89a")
    with pytest.raises(HubError, match="grid.png is not a PNG"):
        cat.push_to_hub("me/cat", grid=tmp_path / "grid.png")
    with pytest.raises(FileNotFoundError):
        cat.push_to_hub("me/cat", grid=tmp_path / "none.png")
    assert server.asked == []


def test_a_hub_that_cannot_be_reached(unreachable: str, cat: Membrane) -> None:
    with pytest.raises(HubError, match=f"^{unreachable} cannot be reached for me/cat"):
        Membrane.from_pretrained("me/cat")
    with pytest.raises(HubError, match="cannot be reached"):
        cat.push_to_hub("me/cat")


def test_what_was_fetched_is_found_again_without_the_hub(
    server: StandIn, cat: Membrane, monkeypatch: pytest.MonkeyPatch
) -> None:
    cat.push_to_hub("me/cat")
    Membrane.from_pretrained("me/cat")
    server.status = 503
    assert same_bits(Membrane.from_pretrained("me/cat"), cat)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    server.asked.clear()
    assert same_bits(Membrane.from_pretrained("me/cat"), cat)
    assert same_bits(Membrane.from_pretrained("me/cat", filename="cat.safetensors"), cat)
    with pytest.raises(HubError, match="me/dog is needed from .*, which HF_HUB_OFFLINE forbids to ask"):
        Membrane.from_pretrained("me/dog")
    assert server.asked == []


# the command line


def run(*words: Any) -> Any:
    return CliRunner().invoke(cli.app, [str(word) for word in words])


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
    assert same_bits(load("out/my.safetensors"), load(file))


def test_a_pulled_file_takes_no_others_place(
    server: StandIn, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("push", file, "me/cat").exit_code == 0
    Path("cat.safetensors").write_bytes(b"mine")
    assert "cat.safetensors exists" in refused(run("pull", "me/cat"))
    assert Path("cat.safetensors").read_bytes() == b"mine"
    assert run("pull", "me/cat", "--out", "cat.safetensors").exit_code == 0
    assert Path("cat.safetensors").read_bytes() == file.read_bytes()


def test_the_command_line_says_what_hinders(
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


def test_the_command_line_says_that_nobody_answers(unreachable: str, file: Path) -> None:
    assert unreachable in refused(run("pull", "me/cat"))
    assert unreachable in refused(run("push", file, "me/cat"))
