"""Images that a fit does not train on, to measure the network that comes of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..evaluation.evaluation import Evaluation, image_names
from ..families.base import Family
from ..images.preprocessing import Preprocessing
from ..images.stored_pixels import decode
from ..saving.folding import for_predictions
from ..training.batches import LabelledImages, stratified_split
from .validation import TrainingData

__all__ = ["HeldOut", "hold_out", "read_held_out"]

_BATCH = 128


@dataclass(frozen=True)
class HeldOut:
    """Images that are kept from a training.

    Attributes
    ----------
    images : LabelledImages
        As the network sees them, on its device.
    index : ndarray of shape (n,), int64
        Their positions in what ``fit`` was given.
    """

    images: LabelledImages
    index: np.ndarray

    def measure(self, network: nn.Module, family: Family) -> dict[str, float]:
        """Return loss and accuracy of a network, which is left in evaluation mode."""
        scores, labels = self._scores(network.eval(), family), self.images.labels.cpu()
        return {
            "validation_loss": float(F.cross_entropy(scores, labels)),
            "validation_accuracy": float((scores.argmax(1) == labels).double().mean()),
        }

    def evaluate(self, network: nn.Module, family: Family, classes: np.ndarray, X) -> Evaluation:
        """Judge what a network that was trained to the end predicts.

        Parameters
        ----------
        network : torch.nn.Module
        family : Family
        classes : ndarray of shape (n_classes,)
        X : sequence
            What ``fit`` was given.
        """
        scores = self._scores(network, family)
        return Evaluation.of(
            classes.tolist(),
            self.images.labels.cpu().numpy(),
            scores.softmax(dim=1).numpy(),
            names=image_names(X, self.index),
            index=self.index,
        )

    @torch.no_grad()
    def _scores(self, network: nn.Module, family: Family) -> Tensor:
        network = for_predictions(network, family.folded)
        batches = torch.arange(len(self.images)).split(_BATCH)
        return torch.cat([network(self.images.images.clean(i)).float().cpu() for i in batches])


def hold_out(
    data: TrainingData, fraction: float, seed: int
) -> tuple[TrainingData, TrainingData | None, np.ndarray]:
    """Set a share of each class aside.

    Parameters
    ----------
    data : TrainingData
    fraction : float
        0 sets nothing aside.
    seed : int

    Returns
    -------
    training, held_out : TrainingData
        The latter is None where nothing was set aside.
    index : ndarray of int64
        Positions of what was.
    """
    if not fraction:
        return data, None, np.arange(0)
    generator = torch.Generator().manual_seed(seed)
    kept, aside = stratified_split(torch.from_numpy(data.labels), fraction, generator)
    parts = [
        replace(data, images=data.images.take(index), labels=data.labels[index])
        for index in (kept.numpy(), aside.numpy())
    ]
    return parts[0], parts[1], aside.numpy()


def read_held_out(
    data: TrainingData | None, index: np.ndarray, seen: Preprocessing, device: torch.device
) -> HeldOut | None:
    """Decode images that were set aside as those that a network is trained on were.

    Raises
    ------
    OSError
        If images cannot be read.
    """
    if data is None:
        return None
    pixels = decode(data.images, *seen.image_size, seen.channels, resize=seen.resize)
    images = seen.on_device(pixels, device)
    return HeldOut(LabelledImages(images, torch.from_numpy(data.labels).to(device)), index)
