"""What sources say of where they come from, as people read it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..storage.counting import counted

__all__ = ["NAMES", "described_provenance"]

NAMES = {
    "upstream": "upstream collection",
    "source": "images taken from",
    "weights": "published weights",
    "weights_licence": "their licence",
    "warm_start": "started from",
    "warm_start_datasets": "trained before on",
}
"""What entries of a provenance are called where their own names are not words."""


def described_provenance(
    provenance: Mapping[str, Any], n_images: int | None, n_classes: int | None
) -> dict[str, Any]:
    """Return a provenance with names for people, and one line for the numbers.

    Parameters
    ----------
    provenance : mapping
        Of a source; a licence that it does not state is "not stated".
    n_images, n_classes : int or None
        That the source was trained on.
    """
    said: dict[str, Any] = {"licence": "not stated", **provenance}
    counts = [
        counted(n, one, many)
        for n, one, many in (
            (n_images, "image", "images"),
            (n_classes, "class", "classes"),
        )
        if n is not None
    ]
    described = {
        NAMES.get(name, name.replace("_", " ")): value
        for name, value in said.items()
        if name not in ("n_images", "n_classes")
    }
    return {**described, **({"trained on": " of ".join(counts)} if counts else {})}
