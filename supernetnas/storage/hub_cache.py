"""Single files of the Hub, fetched into the cache of ``huggingface_hub``.

The library's own download makes paths of what a server answers: the ``ETag`` names a file of the
cache, and the header of the commit a folder, so that a mirror could have any file of the user's
overwritten. Here both are checked before anything is written. The cache is left as the library
leaves it: ``blobs/<etag>``, links to it in ``snapshots/<commit>/``, and ``refs/<branch>`` with a
commit. Content comes by HTTP, not by Xet, whose answers would have to be checked as well.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO
from urllib.parse import urljoin, urlsplit

from .files import temporary_beside, write_atomic

__all__ = ["CacheFolder", "RemoteFile", "TooLarge", "UntrustworthyError", "is_commit"]

_COMMIT = re.compile(r"[0-9a-f]{40}")
_ETAG = re.compile(r"(?!\.)[A-Za-z0-9._-]{1,128}")
_CHUNK = 2**16


class UntrustworthyError(Exception):
    """An answer that no Hub gives."""


class TooLarge(Exception):
    """More bytes than are read."""


def is_commit(text: Any) -> bool:
    """Whether text is the full hash of a commit."""
    return isinstance(text, str) and bool(_COMMIT.fullmatch(text))


@dataclass(frozen=True)
class RemoteFile:
    """A file at a commit, as the Hub describes it.

    Attributes
    ----------
    commit, etag : str
        Checked: they can be names of files.
    size : int or None
        Declared.
    url : str
        Where its content is.
    headers : dict of str to str
        To ask for it with: the token goes to the Hub alone.
    """

    commit: str
    etag: str
    size: int | None
    url: str
    headers: dict[str, str]

    @classmethod
    def look_up(
        cls,
        hub: ModuleType,
        repo_id: str,
        path: str,
        revision: str,
        endpoint: str | None,
        headers: dict[str, str],
    ) -> RemoteFile:
        """Ask the Hub for a file.

        Raises
        ------
        UntrustworthyError
            If what it answers is not of the form that it must have.
        """

        def url_at(revision: str) -> str:
            return hub.hf_hub_url(repo_id, path, revision=revision, endpoint=endpoint)

        url = url_at(revision)
        found = hub.get_hf_file_metadata(
            url, headers=headers, token=False, timeout=hub.constants.HF_HUB_ETAG_TIMEOUT
        )
        commit = revision if is_commit(revision) else found.commit_hash
        for header, value, valid in (
            ("commit", commit, is_commit(commit)),
            ("ETag", found.etag, isinstance(found.etag, str) and _ETAG.fullmatch(found.etag)),
        ):
            if not valid:
                raise UntrustworthyError(f"{url} was answered with the {header} {value!r:.100}")
        # A branch may move on before the content is asked for.
        location = url_at(commit) if found.location == url else urljoin(url, found.location)
        if urlsplit(location)[:2] != urlsplit(url)[:2]:
            headers = {k: v for k, v in headers.items() if k.lower() != "authorization"}
        return cls(commit, found.etag, found.size, location, headers)

    def read_into(
        self, hub: ModuleType, file: BinaryIO, limit: int, advance: Callable[[int], Any]
    ) -> None:
        """Read the content into a file, from where the file ends.

        Raises
        ------
        TooLarge
            Before a byte more than ``limit`` is written.
        """
        start = file.seek(0, os.SEEK_END)
        headers = {**self.headers, "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        with hub.utils.get_session().stream(
            "GET",
            self.url,
            headers=headers,
            follow_redirects=True,
            timeout=hub.constants.HF_HUB_DOWNLOAD_TIMEOUT,
        ) as response:
            hub.utils.hf_raise_for_status(response)
            if start and response.status_code != 206:
                advance(-start)
                start = file.seek(0)
                file.truncate()
            declared = start + int(response.headers.get("Content-Length") or 0)
            if declared > limit:
                raise TooLarge(f"is said to have {declared} bytes; at most {limit} are read.")
            for chunk in response.iter_bytes(_CHUNK):
                start += len(chunk)
                if start > limit:
                    raise TooLarge(f"has more than the {limit} bytes that are read.")
                file.write(chunk)
                advance(len(chunk))


@dataclass(frozen=True)
class CacheFolder:
    """What the cache has of a repository.

    Attributes
    ----------
    hub : module
        ``huggingface_hub``.
    folder : pathlib.Path
    """

    hub: ModuleType
    folder: Path

    @classmethod
    def of(cls, hub: ModuleType, cache_dir: str | None, repo_id: str) -> CacheFolder:
        """Find the folder of a repository."""
        cache = Path(hub.constants.HF_HUB_CACHE if cache_dir is None else cache_dir).expanduser()
        return cls(hub, cache / f"models--{repo_id.replace('/', '--')}")

    def refer(self, revision: str, commit: str) -> None:
        """Remember which commit a branch or tag means, if the cache can be written to."""
        reference = self.folder / "refs" / revision
        with contextlib.suppress(OSError):
            if not reference.is_file() or reference.read_text() != commit:
                reference.parent.mkdir(parents=True, exist_ok=True)
                write_atomic(reference, commit)

    def add(
        self, path: str, remote: RemoteFile, download: Callable[[BinaryIO], None], *, force: bool
    ) -> Path:
        """Put a file into the cache, if it is not there; returns where it is.

        Parameters
        ----------
        path : str
            In the repository; it must have been checked.
        remote : RemoteFile
        download : callable
            Writes the content to a file, which is no part of the cache yet.
        force : bool
            Whether to download what is there as well.
        """
        found = self.folder / "snapshots" / remote.commit / path
        blob = self.folder / "blobs" / remote.etag
        lock = self.folder.parent / ".locks" / self.folder.name / f"{remote.etag}.lock"
        if found.exists() and not force:
            return found
        for parent in (found.parent, blob.parent, lock.parent):
            parent.mkdir(parents=True, exist_ok=True)
        with self.hub.utils.WeakFileLock(lock):  # another process may be at the same file
            if force or not blob.is_file():
                with _replaced(blob) as temporary, temporary.open("xb") as file:
                    download(file)
            with _replaced(found) as temporary:
                try:
                    temporary.symlink_to(os.path.relpath(blob, found.parent))
                except OSError:  # where there are no links, or no right to make one
                    shutil.copyfile(blob, temporary)
        return found


@contextlib.contextmanager
def _replaced(path: Path) -> Iterator[Path]:
    """Give a name beside for what is to become a file, which it replaces in one step."""
    temporary = temporary_beside(path)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
