"""Erasures on the Hugging Face Hub: one safetensors file and a card page that says what it does."""

import html
import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import (
    CommitOperationAdd,
    HfApi,
    ModelCard,
    ModelCardData,
    constants,
    get_token,
    snapshot_download,
)
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # pyright: ignore[reportPrivateImportUsage]  # of httpx or of httpx2, whichever this client is built on
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    SafetensorsParsingError,
)
from huggingface_hub.utils import validate_repo_id

from semiperm import pictures
from semiperm.erasure import Card, Erasure
from semiperm.errors import HubError, MembraneFileError, listed, printable
from semiperm.files.container import SUFFIX
from semiperm.files.safetensors import MAX_BYTES, check_size, load, save
from semiperm.models.names import is_hub_id
from semiperm.paths import file_name, read

LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"
GRID = "before-after.png"
TEMPLATE = Path(__file__).parent / "templates" / "card.md.j2"
TAGS = ("diffusers", "text-to-image", "concept-erasure", "semiperm")
# The Hub's names of licences are SPDX's in small letters; these suit an erasure. Any other is "other" with its name.
LICENCES = (
    "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0", "openrail", "openrail++", "creativeml-openrail-m", "unlicense", "mpl-2.0",
)  # fmt: skip
REFUSALS: Mapping[int, str] = {
    401: f"the token is not valid; {LOG_IN}",
    403: "your token does not permit this; use one that may write there",
    429: "too many requests; try again later",
}


def find(source: str | Path, *, revision: str | None = None, filename: str | None = None) -> Path:
    """Return the path of an erasure's file, downloaded if need be.

    Args:
        source: a file, a folder, or a repository on the Hub (user/repo). A file or folder of that name takes
            precedence, unless a revision is given.
        revision: branch, tag or commit of the repository.
        filename: which file, where a folder or repository has several.

    Raises:
        HubError: there is no such file, or it cannot be downloaded.
    """
    path = Path(source).expanduser()
    if revision is None and path.is_file():
        return path
    if revision is None and path.is_dir():
        return path / _only(path, [file.name for file in path.iterdir()], filename)
    if not _is_repo(str(source)):
        raise HubError(f"{str(source)!r} is neither a file or folder here nor a repository name (user/repo).")
    return _fetch(str(source), revision, filename)


def pull(source: str | Path, *, revision: str | None = None, filename: str | None = None) -> Erasure:
    """Return the erasure in a file, a folder or a repository on the Hub; see `find`.

    Raises:
        HubError: there is no such file, or it cannot be downloaded.
        MembraneFileError: the file is not a sound erasure.
    """
    return load(find(source, revision=revision, filename=filename))


def push(erasure: Erasure, repo: str, *, grid: Path | None = None, private: bool = False) -> str:
    """Publish an erasure with its card page in one commit, and return the address of the repository.

    Args:
        repo: user/repo; created if it does not exist.
        grid: a PNG of pictures before and after, for the page.
        private: create a private repository, and refuse to push to a public one.

    Raises:
        FileNotFoundError: there is no such PNG.
        HubError: the Hub cannot be reached or refuses, there is no token, or `grid` is not a PNG.
        MembraneFileError: the erasure cannot be stored in a file.
    """
    if not _is_repo(repo):
        raise HubError(f"{repo!r} is not a repository name (user/repo).")
    picture = None if grid is None else _picture(grid)
    with tempfile.TemporaryDirectory() as folder:
        file = save(erasure, Path(folder) / name_of_file(erasure.card))
        added = [
            CommitOperationAdd(file.name, file),
            CommitOperationAdd("README.md", page(erasure.card, repo, pictured=picture is not None).encode()),
        ]
        if picture is not None:
            added.append(CommitOperationAdd(GRID, picture))
        if get_token() is None:
            raise HubError(f"Pushing to {repo} needs a token that may write: {LOG_IN}.")
        api = HfApi()
        with _hub_errors(repo):
            # None leaves the choice to the organisation, which may make all of its repositories private.
            api.create_repo(repo, private=private or None, exist_ok=True)
            # The Hub silently leaves an existing public repository public.
            if private and not api.model_info(repo).private:
                raise HubError(
                    f"{repo} exists and is public, so nothing was pushed: make it private, or choose another name."
                )
            api.create_commit(repo, added, commit_message=f"Upload the erasure of {_one_line(erasure.card.title)!r}")
    return f"{api.endpoint}/{repo}"


def _is_repo(name: str) -> bool:
    if not is_hub_id(name):
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def _picture(path: Path) -> bytes:
    data = read(path, pictures.MAX_BYTES)
    if not data.startswith(b"\x89PNG"):
        raise HubError(f"{path} is not a PNG; the picture of before and after must be one.")
    pictures.decoded(data, path)
    return data


# fetching


def _fetch(repo: str, revision: str | None, filename: str | None) -> Path:
    api = HfApi()
    with _hub_errors(repo, revision):
        try:
            # This request fails at once where a download would retry for half a minute.
            info = api.model_info(repo, revision=revision, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT)
        except (HTTPError, OfflineModeIsEnabled) as error:
            if isinstance(error, HfHubHTTPError) and error.response.status_code < 500:
                raise
            if (cached := _cached(repo, revision)) is None:
                raise
            names = [file.relative_to(cached).as_posix() for file in cached.rglob("*")]
            return cached / _only(cached, names, filename)
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
        name = _only(repo, sizes, filename)
        if sizes[name] > MAX_BYTES["membrane"]:
            # Only the header, which says whether this is a weight delta, is downloaded for this check.
            header = api.parse_safetensors_file_metadata(repo, name, revision=revision)
            check_size(f"{name} in {repo}", sizes[name], header.metadata)
        return Path(api.hf_hub_download(repo, name, revision=revision))


def _cached(repo: str, revision: str | None) -> Path | None:
    try:
        return Path(snapshot_download(repo, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def _only(where: str | Path, names: Iterable[str], filename: str | None) -> str:
    """Return the name of the only safetensors file, or `filename` if that is one of them."""
    found = sorted(name for name in names if name.endswith(SUFFIX))
    if not found:
        raise HubError(f"{where} has no {SUFFIX} file, and no other files are read.")
    if filename is not None and filename not in found:
        raise HubError(f"{where} has no erasure {filename}; it has {listed(found)}.")
    if filename is None and len(found) > 1:
        raise HubError(f"{where} has several erasures: name one of {listed(found)}.")
    return filename or found[0]


@contextmanager
def _hub_errors(repo: str, revision: str | None = None) -> Iterator[None]:
    """Turn the errors of the Hub's client into a HubError of one sentence."""
    hub = constants.ENDPOINT
    visible = "that your token may see" if get_token() else f"that is public; for a private one {LOG_IN}"
    try:
        yield
    except OfflineModeIsEnabled:
        raise HubError(f"{repo} is not cached, and HF_HUB_OFFLINE forbids a request to {hub}: unset it.") from None
    except GatedRepoError:
        raise HubError(f"{repo} is open only to those who accept its terms: accept them at {hub}/{repo}.") from None
    except RepositoryNotFoundError:
        raise HubError(f"{hub} has no repository {repo} {visible}.") from None
    except RevisionNotFoundError:
        raise HubError(f"{repo} has no branch, tag or commit {revision!r}.") from None
    except HfHubHTTPError as error:
        raise HubError(_refusal(repo, hub, error)) from None
    except (HTTPError, LocalEntryNotFoundError) as error:
        raise HubError(
            f"{hub} cannot be reached for {repo} ({_one_line(error)}): check the connection and HF_ENDPOINT."
        ) from None
    except (MembraneFileError, SafetensorsParsingError) as error:
        raise HubError(f"{repo} was not downloaded: {_one_line(error)}") from None
    except RuntimeError as error:
        raise HubError(f"{hub} did not accept the files for {repo}: {_one_line(error.__cause__ or error)}") from None


def _refusal(repo: str, hub: str, error: HfHubHTTPError) -> str:
    status = error.response.status_code
    why = REFUSALS.get(status) or _one_line(error.server_message or error.response.reason_phrase)
    return f"{hub} refused {repo} with status {status}: {why}."


# the card page


def name_of_file(card: Card) -> str:
    """Return the name of an erasure's file in its repository."""
    return (file_name(card.title) or card.kind) + SUFFIX


def page(card: Card, repo: str, *, pictured: bool) -> str:
    """Return the card page (README.md) of an erasure's repository; all text from the card is escaped."""
    made_on = card.base_model or "your/model"
    written = ModelCard.from_template(
        _card_data(card),
        template_path=str(TEMPLATE),
        kind=card.kind,
        title=escaped(card.title),
        rank=card.rank,
        base=_base(card),
        picture=GRID if pictured else "",
        facts=_facts(card),
        effect=_cells({name: f"{value:g}" for name, value in card.effect.items()}),
        settings=_cells({name: json.dumps(value) for name, value in card.settings.items()}),
        on_hub=_is_on_hub(card),
        has_gate=card.gate is not None,
        code={
            "repo": _literal(repo),
            "file": _literal(name_of_file(card)),
            "model": _literal(made_on),
            "prompt": _literal(card.concept.targets[0]),
        },
    )
    return str(written)


def escaped(text: str) -> str:
    """Return a text for Markdown as one line that shows as it is: no HTML, links, emphasis or table cells."""
    # Invisible characters could hide what the others say.
    line = html.escape(printable(_one_line(text)), quote=False)
    line = re.sub(r"([\\`*\[\]|~$])", r"\\\1", line)
    # Underscores inside words mean nothing in Markdown.
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", line)


def _card_data(card: Card) -> ModelCardData:
    """Return what the Hub sorts repositories by."""
    licence = printable(_one_line(card.licence)).lower()
    facts: dict[str, Any] = {"license": licence or "unknown"}
    if licence and licence not in LICENCES:
        facts = {"license": "other", "license_name": html.escape(licence, quote=False)}
    if _is_on_hub(card):
        facts |= {"base_model": card.base_model, "base_model_relation": "adapter"}
    tags = [*(["lora"] if card.kind == "membrane" else []), *TAGS]
    return ModelCardData(library_name="diffusers", pipeline_tag="text-to-image", tags=tags, **facts)


def _is_on_hub(card: Card) -> bool:
    # A local folder can have a name like a repository's.
    return _is_repo(card.base_model) and not Path(card.base_model).exists()


def _base(card: Card) -> str:
    if _is_on_hub(card):
        return f"[{escaped(card.base_model)}](https://huggingface.co/{card.base_model})"
    return escaped(card.base_model or card.architecture) or "a model that its card does not name"


def _facts(card: Card) -> list[tuple[str, str]]:
    concepts = card.concepts
    asked = {
        "concept": ", ".join(concept.name for concept in concepts),
        "kind": ", ".join(dict.fromkeys(concept.kind for concept in concepts)),
        "asked for by": ", ".join(target for concept in concepts for target in concept.targets),
        "becomes": ", ".join(dict.fromkeys(concept.surrogate or "nothing" for concept in concepts)),
    }
    made = {
        "architecture": card.architecture,
        "layers": str(card.layers or ""),
        "method": card.method,
        "date": card.date,
        "licence": card.licence or "not stated",
    }
    return [*_cells(asked), ("base", _base(card)), *_cells(made)]


def _cells(rows: Mapping[str, str]) -> list[tuple[str, str]]:
    return [(escaped(name), escaped(value)) for name, value in rows.items() if value]


def _literal(text: str) -> str:
    """Return a text as Python has it, with escapes for all that is not seen."""
    return json.dumps(text, ensure_ascii=not text.isprintable())


def _one_line(text: object) -> str:
    return " ".join(str(text).split())
