"""A zoo with pretrained single paths, and what is fitted from it in seconds."""

from tiny import EMBEDDER, patterns

from supernetnas import Paths, RandomPaths, SupernetTransferClassifier
from supernetnas.fitting.retraining import Retraining
from supernetnas.images.datasets import SourceDataset
from supernetnas.pretraining.settings import Pretraining
from supernetnas.pretraining.whole_zoo import pretrain_zoo

FAMILY = Paths(width=0.125, depth=(1, 1, 1, 1))
PRETRAINING = Pretraining(FAMILY, image_side=8, steps=2, min_epochs=2, multi_epochs=2)
SEARCH = RandomPaths(3, epochs=1, n_recalibration=32)


def datasets():
    """Bars of four classes, and spots of three."""
    found = []
    for seed, (kind, n_classes) in enumerate((("bars", 4), ("spots", 3))):
        images, labels = patterns(9, n_classes, kind, seed=100 + seed, colour=True)
        names = [f"{kind} {n}" for n in range(n_classes)]
        found.append(SourceDataset(kind, images, labels, class_names=names))
    return found


def pretrained(folder, **changes):
    return pretrain_zoo(
        datasets(),
        folder,
        **{"pretraining": PRETRAINING, "embedder": EMBEDDER, "dtype": "float16", **changes},
    )


def paths_classifier(zoo=None, strategy="scratch", **parameters):
    """Return an unfitted classifier of tiny paths that see few pixels."""
    settings = {
        "family": FAMILY,
        "zoo": "no zoo" if zoo is None else str(zoo.folder),
        "image_size": 8,
        "search": SEARCH,
        "retraining": Retraining(epochs=8, learning_rate=0.1),
        "batch_size": 16,
        "device": "cpu",
        "random_state": 0,
    }
    return SupernetTransferClassifier(strategy, **{**settings, **parameters})
