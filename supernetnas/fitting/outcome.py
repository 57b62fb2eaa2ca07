"""What a search has changed, in one line."""

from __future__ import annotations

from typing import Any

from ..families.base import Family
from ..storage.counting import counted
from .searching import Found

__all__ = ["describe_outcome"]


def describe_outcome(found: Found, architecture: Any, family: Family) -> str:
    """Say how an architecture differs from what there was before, and from what it was chosen.

    Parameters
    ----------
    found : Found
    architecture : Architecture
        What was derived.
    family : Family

    Returns
    -------
    str
        Such as "5 of 16 edges differ from the genotype of the source 'multi'; chosen from ...".
    """
    start = f"the source {found.start.name!r}" if found.start.pretrained else "the random weights"
    before = f"{family.unsearched_name} of {start}"
    difference = family.difference(found.start.before, architecture)
    counts = [(row["stage"], row.get("candidates", 0)) for row in found.history]
    # Of all generations; that finalists are scored again is no comparison of its own.
    compared = sum(n for stage, n in counts if stage == "search") or sum(n for _, n in counts)
    if not found.history:
        what = f"{difference} from" if difference else "it is"
        return f"there was no search: {what} {before}"
    among = family.among(found.search.searched_supernet().config)
    chosen = f"chosen from {among}"
    if compared:
        chosen += f", in {counted(compared, 'comparison')}"
    if not difference:
        return f"the search changed nothing: it is {before}; {chosen}"
    return f"{difference} from {before}; {chosen}"
