"""The smallest zoo and classifier with which everything can be tested in tenths of a second."""

import numpy as np
import torch
import torch.nn.functional as F

from supernetnas import DatasetSignature, SupernetTransferClassifier, Zoo, get_embedder
from supernetnas.families.cells.config import SupernetConfig
from supernetnas.families.cells.supernet import CellSupernet
from supernetnas.fitting.resolved import family_of, method_of
from supernetnas.images.reading import as_image_set

CONFIG = SupernetConfig("s1", 2, 3, (8, 8), 3, 4)

# Enough for the training accuracy that scikit-learn's checks want.
SETTINGS = {
    "image_size": 8,
    "family__init_channels": 2,
    "family__n_cells": 3,
    "search__epochs": 1,
    "search__perturbation": "none",
    "retraining__epochs": 8,
    "retraining__learning_rate": 0.1,
    "batch_size": 64,
    "device": "cpu",
    "random_state": 0,
}


def coarse_pixels(batch):
    """Embed by 4 x 4 mean colours, and a constant so that no image is zero."""
    pooled = F.adaptive_avg_pool2d(batch.float() / 255, 4).flatten(1)
    return torch.cat([pooled, torch.ones(len(pooled), 1)], dim=1)


EMBEDDER = get_embedder(coarse_pixels, input_size=8)


def patterns(n_per_class=10, n_classes=4, kind="bars", seed=0, colour=False, noise=20):
    """Images of bars or spots, uint8 of shape (n, 8, 8[, 3]), shuffled, and their classes."""
    random = np.random.default_rng(seed)
    labels = random.permutation(np.repeat(np.arange(n_classes), n_per_class))
    images = random.normal(60, noise, (len(labels), 8, 8))
    for image, label in zip(images, labels, strict=True):
        if kind == "bars":
            image[2 * label : 2 * label + 2] += 140
        else:
            row, column = divmod(label, 2)
            image[4 * row : 4 * row + 3, 4 * column : 4 * column + 3] += 140
    images = images.clip(0, 255).astype(np.uint8)
    if colour:
        images = np.stack([images, images // 2, 255 - images], axis=-1)
    return images, labels


def state(seed):
    """State of a supernet that has seen one batch."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        supernet = CellSupernet(CONFIG)
        supernet(torch.randn(8, 3, 8, 8))
    return supernet.state_dict()


def make_zoo(folder):
    """Write a zoo of two single sources, "bars" and "spots", and the multi source "both"."""
    zoo = Zoo.create(folder, embedder_id=EMBEDDER.identity)
    for seed, kind in enumerate(("bars", "spots")):
        images, labels = patterns(kind=kind, seed=100 + seed, colour=True)
        signature = DatasetSignature.from_features(
            EMBEDDER.embed(as_image_set(images)), labels, embedder_id=EMBEDDER.identity
        )
        zoo.add(kind, config=CONFIG, state_dict=state(seed), signature=signature)
    zoo.add("both", config=CONFIG, state_dict=state(2), kind="multi")
    return zoo


def tiny_classifier(zoo=None, strategy="scratch", settings=None, **parameters):
    """Return an unfitted classifier with `SETTINGS`; "ot" gets the zoo's embedder.

    Of the settings of a search, also of further `settings`, it gets those that its method has.
    """
    defaults = {**SETTINGS, **(settings or {}), "zoo": "no zoo" if zoo is None else str(zoo.folder)}
    if strategy == "ot":
        defaults["embedder"] = EMBEDDER
    clf = SupernetTransferClassifier(strategy)
    if parameters.get("family", "cells") == "cells":
        parameters.setdefault("search", "sdarts")
    for name in ("search", "retraining", "family"):
        if name in parameters:
            clf.set_params(**{name: parameters.pop(name)})
            if not isinstance(getattr(clf, name), str):  # it has its own settings
                defaults = {k: v for k, v in defaults.items() if not k.startswith(f"{name}__")}
    if isinstance(clf.search, str) and clf.search in ("auto", *family_of(clf).searches):
        has = method_of(clf).get_params()
        defaults = {
            key: value
            for key, value in defaults.items()
            if not key.startswith("search__") or key.removeprefix("search__") in has
        }
    else:
        defaults = {k: v for k, v in defaults.items() if not k.startswith("search__")}
    return clf.set_params(**{**defaults, **parameters})
