"""Files of repositories on the Hugging Face Hub, pinned to a commit and bounded in size.

``huggingface_hub`` does the work, and its cache, its tokens and its environment variables
(``HF_ENDPOINT``, ``HF_HUB_OFFLINE``, ``HF_HUB_DISABLE_PROGRESS_BARS``) hold here as elsewhere. What
is added: every file is of one commit, a file that is larger than expected is not read, what fails
for a moment is tried again, and errors say what is missing and what to do.

Files are put into the cache by `supernetnas.storage.hub_cache`. The library is optional; it is
imported when a repository is asked for.
"""

from __future__ import annotations

import difflib
import os
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, NamedTuple, TypeVar

from tqdm import tqdm

from ..version import __version__
from .destinations import refusal
from .files import FileError
from .foreign_text import ForeignError
from .hub_cache import CacheFolder, RemoteFile, TooLarge, UntrustworthyError, is_commit

__all__ = [
    "HubAddress",
    "HubError",
    "HubRepository",
    "check_address",
    "hub_address",
    "import_hub",
    "is_commit",
    "is_repo_id",
    "is_timeout",
    "persistently",
    "reason",
    "status_of",
]

SCHEME = "hf://"

_REPO_ID = re.compile(r"(?![-.])[\w.-]{1,96}(?<![-.])/(?![-.])[\w.-]{1,96}(?<![-.])", re.ASCII)
_REVISION = re.compile(r"(?!.*\.\.)[\w][\w./-]{0,254}", re.ASCII)

_ATTEMPTS, _PAUSE = 3, 1.0  # seconds before the second attempt; twice as many before the third
_THREADS = 8

_HUB_TROUBLE = "Try again later."
_REMEDIES = {
    404: "Check the name; a mirror may lack it.",
    429: "It is asked too often from here: wait some minutes, or log in (hf auth login).",
}

T = TypeVar("T")


class HubError(ForeignError):
    """A repository, revision or file that cannot be had from the Hub, or not be put there."""


# Names


class HubAddress(NamedTuple):
    """A repository, and a branch, tag or commit of it; None is the branch "main"."""

    repo_id: str
    revision: str | None = None

    def __str__(self) -> str:
        revision = "" if self.revision is None else f"@{self.revision}"
        return f"{SCHEME}{self.repo_id}{revision}"


def is_repo_id(text: Any) -> bool:
    """Whether text is "organisation/name" as the Hub allows it."""
    return isinstance(text, str) and bool(_REPO_ID.fullmatch(text)) and ".." not in text


def hub_address(name: Any) -> HubAddress | None:
    """Read the name of a repository on the Hub, where a path could stand as well.

    ``"hf://org/name"`` always is one, ``"org/name"`` is one unless there is a folder of that name;
    both may end in ``@`` and a branch, tag or commit. A `pathlib.Path` and a string of any other
    form, such as ``"./org/name"`` or ``"name"``, is a path.

    Parameters
    ----------
    name : object

    Returns
    -------
    HubAddress or None
        None for a path.

    Raises
    ------
    ValueError
        If it begins with ``hf://`` and is malformed.
    """
    if not isinstance(name, str):
        return None
    repo_id, at, revision = name.removeprefix(SCHEME).partition("@")
    valid = is_repo_id(repo_id) and (not at or bool(_REVISION.fullmatch(revision)))
    if name.startswith(SCHEME):
        if not valid:
            raise ValueError(f"{name!r} is not of the form 'hf://organisation/name[@revision]'.")
    elif not valid or os.path.exists(name):
        return None
    return HubAddress(repo_id, revision or None)


def check_address(repo_id: str, revision: str | None) -> HubAddress:
    """Refuse what cannot be a repository or a revision.

    Raises
    ------
    ValueError
        Saying what the form is.
    """
    if not is_repo_id(repo_id):
        raise ValueError(f"A repository is named 'organisation/name'; got {repo_id!r:.200}.")
    if revision is not None and not (isinstance(revision, str) and _REVISION.fullmatch(revision)):
        raise ValueError(f"{revision!r:.200} is not the name of a branch, tag or commit.")
    return HubAddress(repo_id, revision)


# Pulling


@dataclass(frozen=True)
class HubRepository:
    """A repository at one commit, and how to reach it.

    Attributes
    ----------
    repo_id : str
    commit : str
        Full hash.
    cache_dir : str or None
        None is the cache of ``huggingface_hub``.
    token : str, bool or None
        None is the one that the user has logged in with. It is neither shown nor pickled.
    local_files_only : bool
        Whether to look into the cache alone.
    endpoint : str or None
        None is the public Hub, or what ``HF_ENDPOINT`` says.
    progress : bool
        Whether downloads show a bar, on a terminal.
    """

    repo_id: str
    commit: str
    cache_dir: str | None = None
    token: str | bool | None = field(default=None, repr=False, compare=False)
    local_files_only: bool = False
    endpoint: str | None = None
    progress: bool = field(default=True, compare=False)

    @classmethod
    def at(
        cls, address: HubAddress, first: str, limit: int, **options: Any
    ) -> tuple[HubRepository, Path]:
        """Find the commit that a revision means now, and fetch a first file of it.

        Parameters
        ----------
        address : HubAddress
        first : str
            Path of a file that the repository must have.
        limit : int
            Most bytes that it may have.
        **options
            Attributes of the repository.

        Returns
        -------
        repository : HubRepository
        path : pathlib.Path
            Of the file in the cache.

        Raises
        ------
        HubError
            If it cannot be had.
        FileError
            If it is too large.
        """
        try:
            import_hub()
        except ImportError as error:
            raise ImportError(f"{error}.{_no_folder(address.repo_id)}") from error
        revision = address.revision or "main"
        repository = cls(address.repo_id, revision, **options)
        path = repository.fetch({first: limit})[first]
        # The cache keeps a folder per commit: snapshots/<commit>/<path>.
        commit = path.parents[first.count("/")].name
        if not is_commit(commit):
            raise HubError(f"{path} is not in a cache of the Hub: {commit!r} is no commit.")
        return replace(repository, commit=commit), path

    def __reduce__(self) -> tuple:
        options = {name: getattr(self, name) for name in ("local_files_only", "endpoint")}
        return _rebuild, (self.repo_id, self.commit, self.cache_dir, options)

    def __deepcopy__(self, memo: Any) -> HubRepository:
        return self  # it cannot change, and a copy in this process keeps the token

    @property
    def address(self) -> HubAddress:
        return HubAddress(self.repo_id, self.commit)

    def cached(self, path: str) -> Path | None:
        """Where a file is in the cache, if it is; makes no request."""
        found = import_hub().try_to_load_from_cache(
            self.repo_id, path, cache_dir=self.cache_dir, revision=self.commit
        )
        return Path(found) if isinstance(found, str) else None

    def fetch(self, limits: Mapping[str, int], *, force: bool = False) -> dict[str, Path]:
        """Fetch files that are not in the cache, several at a time.

        Parameters
        ----------
        limits : mapping of str to int
            By path in the repository, the most bytes that a file may have. The paths must have
            been checked.
        force : bool
            Whether to fetch what is in the cache as well.

        Returns
        -------
        dict of str to pathlib.Path
            Where they are in the cache.

        Raises
        ------
        HubError
            Naming all files that are missing if nothing can be fetched, or the first that failed.
        FileError
            If a file is too large. No more of it was read.
        """
        found: dict[str, Path] = {}
        if is_commit(self.commit) and not force:
            cached = {path: self.cached(path) for path in limits}
            found = {path: where for path, where in cached.items() if where is not None}
        missing = [path for path in limits if path not in found]
        if missing and is_commit(self.commit) and self.offline:
            raise HubError(self._lacks({path: limits[path] for path in missing}))
        if not missing:
            return found
        with self._bar(missing, limits) as bar:

            def fetch(path: str) -> Path:
                return self._fetch(path, limits[path], force, bar.update)

            if len(missing) == 1:
                return {**found, missing[0]: fetch(missing[0])}
            with ThreadPoolExecutor(min(_THREADS, len(missing))) as pool:
                futures = {path: pool.submit(fetch, path) for path in missing}
                try:
                    return found | {path: future.result() for path, future in futures.items()}
                except BaseException:
                    pool.shutdown(wait=True, cancel_futures=True)
                    raise

    @property
    def offline(self) -> bool:
        """Whether nothing can be fetched."""
        return self.local_files_only or import_hub().constants.HF_HUB_OFFLINE

    def _bar(self, missing: list[str], limits: Mapping[str, int]) -> tqdm:
        from huggingface_hub.utils import are_progress_bars_disabled

        hidden = not self.progress or are_progress_bars_disabled()
        what = missing[0] if len(missing) == 1 else f"{len(missing)} files"
        return tqdm(
            desc=f"{self.repo_id}: {what}",
            # The first file of a repository has a limit, but no known size.
            total=sum(limits[path] for path in missing) if is_commit(self.commit) else None,
            unit="B",
            unit_scale=True,
            disable=True if hidden else None,
        )

    def _fetch(self, path: str, limit: int, force: bool, advance: Callable[[int], Any]) -> Path:
        name, hub = f"{path} of {self.address}", import_hub()
        cache = CacheFolder.of(hub, self.cache_dir, self.repo_id)
        headers = hub.utils.build_hf_headers(
            token=self.token, library_name="supernetnas", library_version=__version__
        )

        def explain(error: Exception) -> str:
            return self._explain(error, path)

        def look_up() -> RemoteFile:
            return RemoteFile.look_up(hub, self.repo_id, path, self.commit, self.endpoint, headers)

        def download(file: BinaryIO) -> None:
            persistently(lambda: remote.read_into(hub, file, limit, advance), explain)

        try:
            if self.offline:
                raise HubError(self._lacks({path: limit}))
            remote = persistently(look_up, explain, patient=False)
            if (remote.size or 0) > limit:
                raise TooLarge(f"is said to have {remote.size} bytes; at most {limit} are read.")
            where = cache.add(path, remote, download, force=force)
            if remote.commit != self.commit:
                cache.refer(self.commit, remote.commit)
        except TooLarge as error:
            raise FileError(f"{name} {error}") from None
        except UntrustworthyError as error:
            raise HubError(f"{name} could not be fetched: {error}. Is this a Hub?") from None
        except HubError as error:
            known = None if force or _is_missing(error.__cause__) else self.cached(path)
            if known is None:
                raise
            where = known  # of the commit that the branch meant when it was asked last
        except OSError as error:
            if error.errno is None:
                raise
            raise refusal(
                HubError, f"{name} could not be put into the cache {cache.folder}", error
            ) from error
        if (size := where.stat().st_size) > limit:  # fetched earlier, by somebody who allowed more
            raise FileError(f"{name} has {size} bytes; at most {limit} are read.")
        return where

    def _explain(self, error: Exception, path: str) -> str:
        """Say what an error of the library means for who asked for a file."""
        from huggingface_hub import errors

        where = self.address
        # A path that was mistyped is taken for a repository; its first file is not of a commit.
        no_folder = "" if is_commit(self.commit) else _no_folder(self.repo_id)
        if isinstance(error, errors.GatedRepoError):
            return f"{where} is gated: ask for access on its page, and log in. ({_said(error)})"
        if isinstance(error, errors.RepositoryNotFoundError):
            return (
                f"There is no repository {self.repo_id!r} on the Hub, or it is private and needs a "
                f"token (hf auth login, or token=...).{no_folder}"
            )
        if isinstance(error, errors.RevisionNotFoundError):
            return f"{self.repo_id} has no branch, tag or commit {self.commit!r}."
        if isinstance(error, errors.RemoteEntryNotFoundError):
            return f"{where} has no file {path!r}."
        if (status := status_of(error)) in (401, 403):
            return (
                f"The Hub refuses access to {where} (status {status}: {_said(error)}). Check your "
                f"token.{no_folder}"
            )
        return f"{path} of {where} could not be fetched: {reason(error, self.endpoint)}{no_folder}"

    def _lacks(self, limits: Mapping[str, int]) -> str:
        listed = [f"{path} ({_mebibytes(limits[path])})" for path in sorted(limits)]
        if not is_commit(self.commit):  # a first file, of unknown size
            listed = sorted(limits)
        more = f" and {len(listed) - 20} more" if len(listed) > 20 else ""
        return (
            f"The network is off (HF_HUB_OFFLINE or local_files_only) and the cache lacks, of "
            f"{self.address}: {', '.join(listed[:20])}{more}. Pull them while the network is on."
        )


def _no_folder(path: str) -> str:
    """Say that there is no folder of a name, if so, and which is meant."""
    if os.path.exists(path):
        return ""
    parent, name = os.path.split(path)
    try:
        near = difflib.get_close_matches(name, os.listdir(parent), n=1)
    except OSError:
        near = []
    hint = f", but {os.path.join(parent, near[0])!r}" if near else ""
    return f" There is no folder {path!r} here{hint}."


def _rebuild(
    repo_id: str, commit: str, cache_dir: str | None, options: dict[str, Any]
) -> HubRepository:
    return HubRepository(repo_id, commit, cache_dir, **options)


def persistently(
    call: Callable[[], T], explain: Callable[[Exception], str], *, patient: bool = True
) -> T:
    """Call, again if what failed may pass by; any other failure is explained.

    A server that was silent for as long as is waited for is not asked again unless ``patient``.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return call()
        except Exception as error:
            if not _is_network(error):
                raise
            silent = not patient and is_timeout(error)
            if attempt == _ATTEMPTS or silent or not _may_pass(error):
                raise HubError(explain(error)) from error
            time.sleep(_PAUSE * attempt)
    raise AssertionError("unreachable")


def status_of(error: BaseException | None) -> int | None:
    """HTTP status of the answer that an error is about."""
    return getattr(getattr(error, "response", None), "status_code", None)


def is_timeout(error: BaseException) -> bool:
    """Whether a server was silent for too long."""
    names = {cls.__name__ for cls in type(error).__mro__}  # of httpx or httpx2
    return isinstance(error, TimeoutError) or "TimeoutException" in names


def reason(error: Exception, endpoint: str | None) -> str:
    """What went wrong on the way to the Hub, and what to do."""
    constants = import_hub().constants
    hub = f"the Hub ({endpoint or constants.ENDPOINT})"
    if (status := status_of(error)) is not None:
        remedy = _REMEDIES.get(status, _HUB_TROUBLE if status >= 500 else "Is this a Hub?")
        return f"{hub} answered with status {status} ({_said(error)}). {remedy}"
    if is_timeout(error):
        return (
            f"{hub} did not answer for {constants.HF_HUB_ETAG_TIMEOUT} s. Try again later, or set "
            "HF_HUB_ETAG_TIMEOUT and HF_HUB_DOWNLOAD_TIMEOUT to more seconds."
        )
    cause = error.__cause__ or error
    return (
        f"{hub} could not be reached, or the connection broke ({type(cause).__name__}: "
        f"{_said(error)}). Check your connection and HF_ENDPOINT."
    )


def _said(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:300].rstrip(".")


def _is_missing(error: BaseException | None) -> bool:
    """Whether the Hub knows the repository, and that it lacks what was asked for."""
    from huggingface_hub import errors

    return isinstance(error, errors.RevisionNotFoundError | errors.RemoteEntryNotFoundError)


def _is_network(error: Exception) -> bool:
    """Whether the Hub, its library or the way there failed, and not the disk or our own code."""
    roots = {cls.__module__.partition(".")[0] for cls in type(error).__mro__}
    return (
        bool(roots & {"huggingface_hub", "httpx", "httpx2", "hf_xet"})
        or isinstance(error, ConnectionError | TimeoutError)
        or (type(error) is OSError and error.errno is None)  # a size that is not the declared one
        or (type(error) is RuntimeError and "Error while uploading" in str(error))
    )


def _may_pass(error: Exception) -> bool:
    if type(error) is RuntimeError:  # an upload in a thread
        cause = error.__cause__
        return isinstance(cause, Exception) and _is_network(cause) and _may_pass(cause)
    status = status_of(error)
    return status is None or status >= 500 or status in (408, 429)


def _mebibytes(n_bytes: int) -> str:
    return f"{n_bytes / 2**20:.2f} MiB"


def import_hub() -> ModuleType:
    """Import ``huggingface_hub``, or say what to install."""
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
    except ImportError as error:
        raise ImportError(
            "The Hugging Face Hub needs the package huggingface-hub: pip install 'supernetnas[hub]'"
        ) from error
    return huggingface_hub
