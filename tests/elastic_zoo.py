"""A zoo with an elastic source of the published network, and what is fitted from it in seconds."""

from dataclasses import replace

import numpy as np
import torch

from supernetnas import SupernetTransferClassifier, Zoo
from supernetnas.families.elastic import ElasticArchitecture, lite0_supernet
from supernetnas.families.elastic.lite0 import LITE0_SHAPES
from supernetnas.fitting.retraining import Retraining
from supernetnas.images.augmentation import Augmentation, ImageTensors

MEMBERS = (
    *(ElasticArchitecture(32, blocks) for blocks in LITE0_SHAPES.values()),
    *(ElasticArchitecture(size, LITE0_SHAPES["smallest"]) for size in (16, 24, 48)),
)


def coloured(n_per_class=6, n_classes=3, side=40, channels=3, seed=0):
    """Images like photographs, uint8 of shape (n, side, side, channels), and their classes.

    Noise over a gradient whose direction and colour are those of the class.
    """
    random = np.random.default_rng(seed)
    labels = random.permutation(np.repeat(np.arange(n_classes), n_per_class))
    colours = 60 * np.cos(2.1 * np.arange(n_classes)[:, None] + 1.3 * np.arange(channels))
    angles = np.linspace(0, np.pi, n_classes, endpoint=False)
    rows, columns = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    ramps = np.stack([np.cos(a) * rows + np.sin(a) * columns for a in angles])
    images = 128 + (1 + ramps[labels][..., None]) * colours[labels][:, None, None]
    images += random.normal(0, 20, images.shape)
    return images.clip(0, 255).astype(np.uint8), labels


def make_elastic_zoo(folder, embedder_id):
    """Write a zoo whose source "multi" is of the published network and a few members."""
    supernet = lite0_supernet(members=MEMBERS)
    images, _ = coloured(n_per_class=20, side=48, seed=1)
    half = torch.full((3,), 0.5)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
    supernet.recalibrate(
        ImageTensors(pixels, half, half, Augmentation.NONE),
        generator=torch.Generator().manual_seed(0),
        batch_size=30,
        max_batches=2,
    )
    zoo = Zoo.create(folder, embedder_id=embedder_id)
    zoo.add(
        "multi",
        kind="multi",
        config=replace(supernet.config, published=True),
        state_dict=supernet.shared_state(),
        dtype="float16",
    )
    return zoo


def elastic_classifier(zoo=None, strategy="multi", **parameters):
    """Return an unfitted classifier of elastic networks that see few pixels, for a few epochs."""
    settings = {
        "family": "elastic",
        "zoo": "no zoo" if zoo is None else str(zoo.folder),
        "image_size": 32,
        "retraining": Retraining(epochs=4, learning_rate=1e-3),
        "batch_size": 8,
        "device": "cpu",
        "random_state": 0,
    }
    return SupernetTransferClassifier(strategy, **{**settings, **parameters})
