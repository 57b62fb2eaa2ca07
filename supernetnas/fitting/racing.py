"""Brief fits from two starts, where probes do not tell which is better.

A linear classifier of features says little of what their training will add to them: that is more
for a large network than for a small one, and most for one that is yet to be taught. So where two
accuracies are near, or say nothing, both fits are tried on some of the images and compared on
others.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import Any

import torch
from sklearn.base import clone

from ..training.batches import stratified_split
from ..training.probes import subset
from .holding_out import read_held_out
from .resolved import retraining_of, settings_of
from .starts import Start
from .validation import TrainingData

__all__ = ["raced"]

_MOST_IMAGES = 1000  # of a race
_SHARE = 2 / 3  # of the epochs: of fewer, what learns slowly has less of its worth
_HELD_OUT = 1 / 4  # of them, that decide
_LEAST_HELD_OUT = 25  # with fewer nothing is decided
_OF_TIME = 1 / 10  # of a limit on the time of the fit, for each


def raced(clf: Any, start: Start, data: TrainingData, seed: int) -> float | None:
    """Return the accuracy of a brief fit on images that were held out.

    The retraining has two thirds of its epochs and three quarters of the images, of which there are
    a thousand at most; the search is that of the family's default.

    Parameters
    ----------
    clf : SupernetTransferClassifier
        Left as it is.
    start : Start
    data : TrainingData
    seed : int
        Also of which images are held out: equal for all that are compared.

    Returns
    -------
    float or None
        None if there are too few images, or a class has fewer than three: one to hold out, and the
        two that every fit needs.
    """
    labels, generator = torch.from_numpy(data.labels), torch.Generator().manual_seed(seed)
    index = subset(labels, _MOST_IMAGES, generator)
    if _HELD_OUT * len(index) < _LEAST_HELD_OUT or labels[index].bincount().min() < 3:
        return None
    train, test = (
        index[part].numpy() for part in stratified_split(labels[index], _HELD_OUT, generator)
    )
    settings = settings_of(clf, start.family, True, len(train), start.times_epochs)
    other = clone(clf).set_params(
        strategy="multi",
        family=start.family,
        image_size=start.seen.size,
        search="auto",
        retraining=clone(retraining_of(clf)).set_params(epochs=math.ceil(settings.epochs * _SHARE)),
        holdout_fraction=0,
        verbose=0,
        time_limit=None if clf.time_limit is None else clf.time_limit * _OF_TIME,
        checkpoint_dir=None,
        random_state=seed,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the fit itself will warn
        other.fit(data.images.take(train), data.classes[data.labels[train]])
    # Not by `predict`, which refuses images on another scale: these are of the scale of the fit.
    kept_back = replace(data, images=data.images.take(test), labels=data.labels[test])
    held_out = read_held_out(kept_back, test, other.preprocessing_, torch.device(other.device_))
    assert held_out is not None
    return held_out.measure(other.network_, start.family)["validation_accuracy"]
