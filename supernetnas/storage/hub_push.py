"""Commits to repositories on the Hugging Face Hub: all files of a change at once, or none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from ..version import __version__
from .hub import (
    HubError,
    HubRepository,
    check_address,
    import_hub,
    persistently,
    reason,
    status_of,
)
from .hub_cache import is_commit

__all__ = ["Conflict", "Pushed", "Target"]

T = TypeVar("T")


class Conflict(HubError):
    """Somebody else's commit came first."""


class Pushed(NamedTuple):
    """What a push led to.

    Attributes
    ----------
    commit : str
        Full hash; that of the newest commit if there was nothing to change.
    url : str
        Of the commit, or of the pull request.
    revision : str
        Branch, or ``refs/pr/N`` of a pull request.
    """

    commit: str
    url: str
    revision: str


class Target:
    """A branch of a repository, or a pull request to come, to be written to.

    Parameters
    ----------
    repo_id : str
    revision : str, optional
        Branch; made of "main" where there is none of that name.
    create_pr : bool
        Whether to propose the changes instead. The repository must exist.
    private : bool, optional
        Of a repository that is made now; None leaves it to the Hub.
    token, endpoint
        As in `HubRepository`.
    """

    def __init__(
        self,
        repo_id: str,
        *,
        revision: str | None = None,
        create_pr: bool = False,
        private: bool | None = None,
        token: str | bool | None = None,
        endpoint: str | None = None,
    ) -> None:
        check_address(repo_id, revision)
        if create_pr and revision not in (None, "main"):
            raise ValueError(f"A pull request is made to 'main', not to {revision!r}.")
        if is_commit(revision):
            raise ValueError(f"A commit cannot be pushed to; name a branch instead of {revision}.")
        hub = import_hub()
        if hub.constants.HF_HUB_OFFLINE:
            raise HubError("The network is off (HF_HUB_OFFLINE): nothing can be pushed.")
        self.repo_id, self.revision, self.create_pr = repo_id, revision or "main", create_pr
        self._token, self._endpoint = token, endpoint
        self._api = hub.HfApi(
            endpoint=endpoint,
            token=token,
            library_name="supernetnas",
            library_version=__version__,
        )
        # The library itself would wait for a silent server for ever.
        session, seconds = hub.utils.get_session(), hub.constants.HF_HUB_ETAG_TIMEOUT
        self._call(lambda: session.head(self._api.endpoint, timeout=seconds), patient=False)
        if not create_pr:
            self._call(lambda: self._api.create_repo(repo_id, private=private, exist_ok=True))
            if self.revision != "main" and not self.revision.startswith("refs/"):
                self._call(lambda: self._api.create_branch(repo_id, branch=revision, exist_ok=True))

    def head(self) -> str:
        """Full hash of the newest commit."""
        sha = self._call(lambda: self._api.repo_info(self.repo_id, revision=self.revision)).sha
        if not is_commit(sha):  # it names a folder of the cache
            raise HubError(
                f"The newest commit of {self.repo_id} is said to be {sha!r:.100}. Is this a Hub?"
            )
        return sha

    def url(self, commit: str) -> str:
        """Address of a commit for people."""
        return f"{self._api.endpoint}/{self.repo_id}/commit/{commit}"

    def files(self, commit: str) -> list[str]:
        """Paths of all files at a commit."""
        return self._call(lambda: self._api.list_repo_files(self.repo_id, revision=commit))

    def commit(
        self,
        additions: Mapping[str, bytes | Path],
        deletions: Iterable[str],
        message: str,
        parent: str,
    ) -> Pushed:
        """Change files in one step.

        Large files are sent first, one by one, and stay at the Hub if a later one fails: calling
        again sends the rest.

        Parameters
        ----------
        additions : mapping of str to bytes or path
        deletions : iterable of str
        message : str
        parent : str
            The commit that is expected to be the newest.

        Raises
        ------
        Conflict
            If it is not.
        HubError
            If anything else goes wrong. The branch is as it was.
        """
        hub = import_hub()

        def operations() -> list[Any]:  # used up by a commit that fails
            added = [
                hub.CommitOperationAdd(path, data if isinstance(data, bytes) else str(data))
                for path, data in additions.items()
            ]
            return added + [hub.CommitOperationDelete(path) for path in deletions]

        info = self._call(
            lambda: self._api.create_commit(
                self.repo_id,
                operations(),
                commit_message=message,
                revision=self.revision,
                create_pr=self.create_pr,
                parent_commit=parent,
            )
        )
        if self.create_pr:  # what follows goes to the same one
            self.create_pr, self.revision = False, info.pr_revision
            return Pushed(info.oid, info.pr_url, info.pr_revision)
        return Pushed(info.oid, info.commit_url, self.revision)

    def repository(self, commit: str) -> HubRepository:
        """Return the repository at a commit, to read from."""
        return HubRepository(self.repo_id, commit, token=self._token, endpoint=self._endpoint)

    def _call(self, call: Callable[[], T], *, patient: bool = True) -> T:
        def explain(error: Exception) -> str:
            from huggingface_hub import errors

            text = " ".join(str(error.__cause__ or error).split())
            if status_of(error) in (401, 403) and not isinstance(
                error, errors.RevisionNotFoundError
            ):
                return (
                    f"The Hub does not let you write to {self.repo_id}: log in with a token that "
                    f"may write (hf auth login, or token=...). It says: {text:.300}"
                )
            if isinstance(error, errors.RepositoryNotFoundError):
                return f"There is no repository {self.repo_id!r} on the Hub, or it is private."
            return (
                f"The push to {self.repo_id} failed: {reason(error, self._endpoint)} Nothing was "
                "changed. Push again to go on: what has arrived is not sent again."
            )

        try:
            return persistently(call, explain, patient=patient)
        except HubError as error:
            if status_of(error.__cause__) in (409, 412):
                raise Conflict(str(error)) from error
            raise
