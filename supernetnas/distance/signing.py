"""From labelled images to the signature of their dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .measures import grouped_by_class, stratified_sample
from .signature import DatasetSignature

if TYPE_CHECKING:
    import torch

    from ..embedding.embedder import Embedder
    from ..images.sets import ImageSet

__all__ = ["MAX_EMBEDDED", "MAX_KEPT", "LabelledFeatures", "embed_labelled", "sign"]

MAX_EMBEDDED = 2000
"""Images of a target; more hardly move its distances, and each costs 10 ms."""

MAX_KEPT = 1000
"""Rows of a signature."""


@dataclass(frozen=True)
class LabelledFeatures:
    """Features of a dataset, or of a sample of it.

    Attributes
    ----------
    features : ndarray of shape (n, d)
    labels : ndarray of shape (n,)
    embedder_id : str
        Identity of the embedder that made the features.
    counts : ndarray of shape (n_classes,), int64, or None
        Images of each class in the dataset, where these are a sample of it.
    """

    features: np.ndarray
    labels: np.ndarray
    embedder_id: str
    counts: np.ndarray | None = None

    def sign(
        self,
        class_names: Sequence[str] | None = None,
        *,
        max_kept: int | None = MAX_KEPT,
        random_state: int = 0,
    ) -> DatasetSignature:
        """Keep what distances need; arguments as for `sign`."""
        if max_kept is not None:
            max_kept = max(max_kept, len(np.unique(self.labels)))
        return DatasetSignature.from_features(
            self.features,
            self.labels,
            embedder_id=self.embedder_id,
            n_samples=max_kept,
            class_names=class_names,
            counts=self.counts,
            random_state=random_state,
        )


def embed_labelled(
    images: ImageSet,
    labels: np.ndarray,
    embedder: Embedder,
    *,
    max_embedded: int | None = MAX_EMBEDDED,
    device: str | torch.device = "cpu",
    random_state: int = 0,
    verbose: bool = False,
) -> LabelledFeatures:
    """Embed a dataset; parameters as for `sign`."""
    codes = np.unique(labels, return_inverse=True)[1]
    counts = np.bincount(codes)
    if max_embedded is not None and len(labels) > (most := max(max_embedded, len(counts))):
        order = grouped_by_class(codes, random_state)
        sample = np.sort(order[stratified_sample(counts, most)])
        images, labels = images.take(sample), labels[sample]
    features = embedder.embed(images, device=device, verbose=verbose)
    return LabelledFeatures(features, labels, embedder.identity, counts)


def sign(
    images: ImageSet,
    labels: np.ndarray,
    embedder: Embedder,
    class_names: Sequence[str] | None = None,
    *,
    max_embedded: int | None = MAX_EMBEDDED,
    max_kept: int | None = MAX_KEPT,
    device: str | torch.device = "cpu",
    random_state: int = 0,
    verbose: bool = False,
) -> DatasetSignature:
    """Embed a labelled dataset and keep what distances need.

    Parameters
    ----------
    images : ImageSet
        n images.
    labels : ndarray of shape (n,)
    embedder : Embedder
    class_names : sequence of str, optional
        Names of the sorted labels; by default the labels.
    max_embedded : int or None, default=2000
        Of more images a stratified sample of so many is embedded, or one image per class if there
        are more classes; None embeds all.
    max_kept : int or None, default=1000
        Rows of features that the signature keeps, or one per class if there are more classes; None
        keeps all.
    device : str or torch.device
    random_state : int
        Seed of the samples.
    verbose : bool
        Whether to show a progress bar.

    Returns
    -------
    DatasetSignature
    """
    embedded = embed_labelled(
        images,
        labels,
        embedder,
        max_embedded=max_embedded,
        device=device,
        random_state=random_state,
        verbose=verbose,
    )
    return embedded.sign(class_names, max_kept=max_kept, random_state=random_state)
