"""Datasets to pretrain on, read, decoded and signed once for all who need them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..distance.signature import Basis, DatasetSignature, fit_basis
from ..distance.signing import embed_labelled
from ..embedding.embedder import Embedder
from ..families.base import NetworkInput
from ..images.augmentation import Augmentation, StandardisedImages
from ..images.datasets import SourceDataset
from ..images.preprocessing import Preprocessing
from ..images.reading import as_image_set
from ..images.sets import ImageSet
from ..images.stored_pixels import MEMORY, StoredPixels, decode, image_tensors
from ..training.batches import LabelledImages, stratified_split

__all__ = ["PretrainingData", "decode_all", "sign_all"]

logger = logging.getLogger(__name__)

_BASIS_SIZE = 64
_MAX_EMBEDDED = 10_000  # images of a dataset, drawn by class: 50 MB of features
_MAX_KEPT = 1000


@dataclass(frozen=True, eq=False)
class PretrainingData:
    """A dataset to pretrain on.

    Attributes
    ----------
    name : str
    classes : list
        The distinct labels, sorted, as plain values.
    codes : ndarray of shape (n,), int64
        Positions in ``classes``.
    class_names : sequence of str or None
    provenance : mapping
    images : ImageSet or other images
        As they were given; None where there are pixels that can be sent to other processes.
    pixels : torch.Tensor or StoredPixels, or None
        All images, decoded and resized, once that is done.
    augmentation : Augmentation or None
        With the pixels.
    signature : DatasetSignature or None
        Once it is made.
    """

    name: str
    classes: list
    codes: np.ndarray
    class_names: Sequence[str] | None
    provenance: Mapping[str, Any]
    images: Any = field(repr=False)
    pixels: Tensor | StoredPixels | None = field(default=None, repr=False)
    augmentation: Augmentation | None = None
    signature: DatasetSignature | None = None

    @classmethod
    def read(cls, dataset: SourceDataset) -> PretrainingData:
        """Read the labels of a dataset, and nothing of its images."""
        classes, codes = np.unique(np.asarray(dataset.labels), return_inverse=True)
        return cls(
            *(dataset.name, classes.tolist(), codes, dataset.class_names, dataset.provenance),
            images=dataset.images,
        )

    def __len__(self) -> int:
        return len(self.codes)

    def __getstate__(self) -> dict[str, Any]:
        """What goes to another process: pixels, or the images where those are in a file here."""
        state = dict(vars(self))
        if isinstance(self.pixels, Tensor):
            state["images"] = None
        else:
            state["pixels"] = None
        return state

    @property
    def counts(self) -> np.ndarray:
        """Number of images of each class."""
        return np.bincount(self.codes, minlength=len(self.classes))

    def image_set(self) -> ImageSet:
        """Return the images as they were given."""
        return as_image_set(self.images, name=self.name)

    def decoded(self, seen: NetworkInput, memory: int | None = None) -> PretrainingData:
        """Decode and resize the images, unless that is done; ``memory`` is as in `decode`."""
        if self.pixels is not None:
            return self
        images = self.image_set()
        if len(images) != len(self):
            raise ValueError(
                f"Dataset {self.name!r} has {len(images)} images and {len(self)} labels."
            )
        return replace(
            self,
            pixels=decode(images, *seen.size, channels=seen.channels, memory=memory),
            augmentation=Augmentation.choose(*images.typical_size, images.colour),
        )

    def split(
        self, seen: NetworkInput, fraction: float, seed: int, device: torch.device
    ) -> tuple[LabelledImages, LabelledImages]:
        """Return images to train weights, and images to compare architectures, on a device."""
        labels = torch.from_numpy(self.codes)
        parts = stratified_split(labels, fraction, torch.Generator().manual_seed(seed))
        train, validation = (
            LabelledImages(images, labels[part].to(device))
            for part, images in zip(parts, self._standardised(seen, parts, device), strict=True)
        )
        return train, validation

    def whole(self, seen: NetworkInput, device: torch.device) -> StandardisedImages:
        """Return all images, without labels, on a device."""
        (images,) = self._standardised(seen, [slice(None)], device)
        return images

    def _standardised(
        self, seen: NetworkInput, parts: Iterable[Tensor | slice], device: torch.device
    ) -> list[StandardisedImages]:
        """Return parts of the images; statistics, where they are asked for, are those of all."""
        data = self.decoded(seen)
        pixels = data.pixels
        assert pixels is not None and data.augmentation is not None
        own = Preprocessing.of(pixels).standardised_by(seen.mean, seen.std)
        mean, std = torch.tensor(own.mean), torch.tensor(own.std)
        return [image_tensors(pixels[part], mean, std, data.augmentation, device) for part in parts]


def decode_all(datasets: Sequence[PretrainingData], seen: NetworkInput) -> list[PretrainingData]:
    """Decode all images, into memory only if all of them together have room there."""
    channels, height, width = seen.shape
    size = sum(channels * height * width * len(data) for data in datasets)
    memory = MEMORY if size <= MEMORY else 0
    return [data.decoded(seen, memory) for data in datasets]


def sign_all(
    datasets: Sequence[PretrainingData],
    embedder: Embedder,
    basis: Basis | None,
    *,
    compact: bool,
    seed: int,
    device: torch.device,
    verbose: int,
) -> tuple[list[PretrainingData], Basis | None]:
    """Give datasets their signatures; also returns the basis of compact ones.

    A basis that is None is fitted to the datasets.
    """
    signatures, embedded = [], []
    for data in datasets:
        logger.info("embedding %s", data.name)
        labelled = embed_labelled(
            *(data.image_set(), np.asarray(data.classes)[data.codes], embedder),
            max_embedded=_MAX_EMBEDDED,
            device=device,
            random_state=seed,
            verbose=bool(verbose),
        )
        signatures.append(
            labelled.sign(
                data.class_names, max_kept=None if compact else _MAX_KEPT, random_state=seed
            )
        )
        if compact and basis is None:
            embedded.append((labelled.features, labelled.labels))
    if embedded:
        basis = fit_basis(embedded, min(_BASIS_SIZE, embedder.dimension))
    if basis is not None and compact:
        signatures = [full.compress(basis) for full in signatures]
    signed = [
        replace(data, signature=signature)
        for data, signature in zip(datasets, signatures, strict=True)
    ]
    return signed, basis
