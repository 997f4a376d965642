"""Membranes on the Hugging Face Hub: one safetensors file and a page that says what it does."""

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,  # pyright: ignore[reportPrivateImportUsage]  # of httpx or of httpx2, whichever this client is made on
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from semiperm.membrane.files import MAX_BYTES, SUFFIX, save
from semiperm.membrane.hub_page import GRID, file_name, page
from semiperm.membrane.membrane import Membrane, listed
from semiperm.models.base import is_hub_id

LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


class HubError(ValueError):
    """A membrane cannot be fetched or published; the message says why and what to do."""


def find(source: str | Path, *, revision: str | None = None, filename: str | None = None) -> Path:
    """Return the membrane's file that a source means: a file, a folder or a repository, which it is fetched from."""
    path = Path(source).expanduser()
    if revision is None and path.is_file():
        return path
    if revision is None and path.is_dir():
        return path / _only(path, [file.name for file in path.iterdir()], filename)
    if not is_hub_id(str(source)):
        raise HubError(f"{str(source)!r} is no file or folder here, and no repository's name (user/repo)")
    return _fetch(str(source), revision, filename)


def push(membrane: Membrane, repo: str, *, grid: Path | None = None, private: bool = False) -> str:
    """Publish a membrane and return the repository's address."""
    if not is_hub_id(repo):
        raise HubError(f"{repo!r} is no repository's name (user/repo)")
    contents = _contents(membrane, repo, None if grid is None else _picture(grid))
    if get_token() is None:
        raise HubError(f"pushing to {repo} needs a token that may write: {LOG_IN}")
    api = HfApi()
    with _told(repo):
        # None leaves it to the organization, which may want all of its repositories private
        api.create_repo(repo, private=private or None, exist_ok=True)
        # the Hub would leave a public repository public without a word
        if private and not api.model_info(repo).private:
            raise HubError(f"{repo} exists and is public, so nothing was pushed: make it private, or choose another")
        api.create_commit(
            repo,
            [CommitOperationAdd(name, data) for name, data in contents.items()],
            commit_message=f"Upload the membrane for {membrane.card.concept.name!r}",
        )
    return f"{api.endpoint}/{repo}"


def _contents(membrane: Membrane, repo: str, picture: bytes | None) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        file = save(membrane, Path(folder) / file_name(membrane.card))
        contents = {file.name: file.read_bytes()}
    contents["README.md"] = page(membrane.card, repo, pictured=picture is not None).encode()
    return contents if picture is None else contents | {GRID: picture}


def _picture(path: Path) -> bytes:
    data = path.read_bytes()
    if not data.startswith(b"\x89PNG"):
        raise HubError(f"{path} is not a PNG, which the picture of before and after must be")
    return data


def _fetch(repo: str, revision: str | None, filename: str | None) -> Path:
    api = HfApi()
    with _told(repo, revision):
        try:
            # fails at once where a download would try again for half a minute
            info = api.model_info(repo, revision=revision, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT)
        except (HTTPError, OfflineModeIsEnabled) as error:
            if isinstance(error, HfHubHTTPError) and error.response.status_code < 500:
                raise
            if (kept := _kept(repo, revision)) is None:
                raise
            return kept / _only(kept, [file.relative_to(kept).as_posix() for file in kept.rglob("*")], filename)
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
        name = _only(repo, sizes, filename)
        if sizes[name] > MAX_BYTES:
            raise HubError(f"{name} in {repo} has {sizes[name]:,} bytes, more than a membrane can have ({MAX_BYTES:,})")
        return Path(api.hf_hub_download(repo, name, revision=revision))


def _kept(repo: str, revision: str | None) -> Path | None:
    try:
        return Path(snapshot_download(repo, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def _only(where: str | Path, names: Iterable[str], filename: str | None) -> str:
    """Return the one safetensors file there is, or the one that was asked for."""
    found = sorted(name for name in names if name.endswith(SUFFIX))
    if not found:
        raise HubError(f"{where} has no {SUFFIX} file, and nothing else is read")
    if filename is not None and filename not in found:
        raise HubError(f"{where} has no membrane {filename}; it has {listed(found)}")
    if filename is None and len(found) > 1:
        raise HubError(f"{where} has several membranes: name one of {listed(found)}")
    return filename or found[0]


@contextmanager
def _told(repo: str, revision: str | None = None) -> Iterator[None]:
    """Turn what the Hub and the way to it answer into one sentence."""
    hub = constants.ENDPOINT
    allowed = "that your token may see" if get_token() else f"that is public; for a private one {LOG_IN}"
    try:
        yield
    except OfflineModeIsEnabled:
        raise HubError(f"{repo} is needed from {hub}, which HF_HUB_OFFLINE forbids to ask: unset it") from None
    except GatedRepoError:
        raise HubError(f"{repo} is shown to those only who accept its terms: do so at {hub}/{repo}") from None
    except RepositoryNotFoundError:
        raise HubError(f"{hub} has no repository {repo} {allowed}") from None
    except RevisionNotFoundError:
        raise HubError(f"{repo} has no branch, tag or commit {revision!r}") from None
    except HfHubHTTPError as error:
        raise HubError(_refusal(repo, hub, error)) from None
    except (HTTPError, LocalEntryNotFoundError) as error:
        raise HubError(
            f"{hub} cannot be reached for {repo} ({_short(error)}): check the connection and HF_ENDPOINT"
        ) from None
    except RuntimeError as error:
        raise HubError(f"{hub} did not take the files for {repo}: {_short(error.__cause__ or error)}") from None


REFUSALS: Mapping[int, str] = {
    401: f"the token is not valid; {LOG_IN}",
    403: "your token may not do that; take one that may write there",
    429: "too many requests; try again later",
}


def _refusal(repo: str, hub: str, error: HfHubHTTPError) -> str:
    status = error.response.status_code
    why = REFUSALS.get(status) or _short(error.server_message or error.response.reason_phrase)
    return f"{hub} refused {repo} with status {status}: {why}"


def _short(error: object) -> str:
    return " ".join(str(error).split())
