"""Neural architecture search for image classification from pretrained supernets.

`SupernetTransferClassifier` is a scikit-learn classifier for images. Its ``fit`` starts the
architecture search from a supernet of a zoo, by default that of the family that suits the images
best, and trains the convolutional network that it finds.

The public names below, and the folders of the package, are imported at their first use, so that
importing the package (the command line does, for ``--help``) does not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .version import __version__

if TYPE_CHECKING:
    from .classifier import SupernetTransferClassifier
    from .comparison import Comparison, compare
    from .distance.otdd import otdd
    from .distance.signature import DatasetSignature
    from .embedding.embedder import Embedder, get_embedder
    from .evaluation.evaluation import Evaluation
    from .families.cells.family import Cells
    from .families.cells.genotype import Genotype
    from .families.cells.search.methods import (
        DARTS,
        GDAS,
        PCDARTS,
        DrNAS,
        NoSearch,
        RandomArchitecture,
        RandomSearch,
        SmoothDARTS,
    )
    from .families.cells.space import SearchSpace, get_space
    from .families.elastic.family import Elastic
    from .families.elastic.member_search import Front
    from .families.elastic.space import ElasticArchitecture
    from .families.paths.family import Paths
    from .families.paths.methods import RandomPaths
    from .families.paths.space import PathArchitecture
    from .fitting.retraining import Retraining
    from .images.augmentation import Augmentation
    from .images.image_files import ImageFiles, load_images
    from .plotting import (
        CellDisplay,
        ClassCouplingDisplay,
        ConfusionDisplay,
        DistanceDisplay,
        DistanceHeatmapDisplay,
        ErrorsDisplay,
        FrontDisplay,
        InputsDisplay,
        OrderPreservingDisplay,
        PathDisplay,
        SearchCurveDisplay,
        TrajectoryDisplay,
    )
    from .search.evolution import Evolution
    from .search.limits import Latency
    from .search.shifting import Shifting
    from .search.splitting import Split
    from .storage.hub import HubError
    from .training.execution import Execution
    from .zoo import Source, Zoo, ZooError

__all__ = [
    "DARTS",
    "GDAS",
    "PCDARTS",
    "Augmentation",
    "CellDisplay",
    "Cells",
    "ClassCouplingDisplay",
    "Comparison",
    "ConfusionDisplay",
    "DatasetSignature",
    "DistanceDisplay",
    "DistanceHeatmapDisplay",
    "DrNAS",
    "Elastic",
    "ElasticArchitecture",
    "Embedder",
    "ErrorsDisplay",
    "Evaluation",
    "Evolution",
    "Execution",
    "Front",
    "FrontDisplay",
    "Genotype",
    "HubError",
    "ImageFiles",
    "InputsDisplay",
    "Latency",
    "NoSearch",
    "OrderPreservingDisplay",
    "PathArchitecture",
    "PathDisplay",
    "Paths",
    "RandomArchitecture",
    "RandomPaths",
    "RandomSearch",
    "Retraining",
    "SearchCurveDisplay",
    "SearchSpace",
    "Shifting",
    "SmoothDARTS",
    "Source",
    "Split",
    "SupernetTransferClassifier",
    "TrajectoryDisplay",
    "Zoo",
    "ZooError",
    "__version__",
    "compare",
    "get_embedder",
    "get_space",
    "load_images",
    "otdd",
]

_MODULE_OF = {
    "Augmentation": "images.augmentation",
    "CellDisplay": "plotting",
    "Cells": "families.cells.family",
    "ClassCouplingDisplay": "plotting",
    "Comparison": "comparison",
    "ConfusionDisplay": "plotting",
    "DARTS": "families.cells.search.methods",
    "DatasetSignature": "distance.signature",
    "DistanceDisplay": "plotting",
    "DistanceHeatmapDisplay": "plotting",
    "DrNAS": "families.cells.search.methods",
    "Elastic": "families.elastic.family",
    "ElasticArchitecture": "families.elastic.space",
    "Embedder": "embedding.embedder",
    "ErrorsDisplay": "plotting",
    "Evaluation": "evaluation.evaluation",
    "Evolution": "search.evolution",
    "Execution": "training.execution",
    "Front": "families.elastic.member_search",
    "FrontDisplay": "plotting",
    "GDAS": "families.cells.search.methods",
    "Genotype": "families.cells.genotype",
    "HubError": "storage.hub",
    "ImageFiles": "images.image_files",
    "InputsDisplay": "plotting",
    "Latency": "search.limits",
    "NoSearch": "families.cells.search.methods",
    "OrderPreservingDisplay": "plotting",
    "PCDARTS": "families.cells.search.methods",
    "PathArchitecture": "families.paths.space",
    "PathDisplay": "plotting",
    "Paths": "families.paths.family",
    "RandomArchitecture": "families.cells.search.methods",
    "RandomPaths": "families.paths.methods",
    "RandomSearch": "families.cells.search.methods",
    "Retraining": "fitting.retraining",
    "SearchCurveDisplay": "plotting",
    "SearchSpace": "families.cells.space",
    "Shifting": "search.shifting",
    "SmoothDARTS": "families.cells.search.methods",
    "Source": "zoo",
    "Split": "search.splitting",
    "SupernetTransferClassifier": "classifier",
    "TrajectoryDisplay": "plotting",
    "Zoo": "zoo",
    "ZooError": "zoo",
    "compare": "comparison",
    "get_embedder": "embedding.embedder",
    "get_space": "families.cells.space",
    "load_images": "images.image_files",
    "otdd": "distance.otdd",
}

_ROOMS = frozenset(
    {
        "classifier",
        "cli",
        "comparison",
        "distance",
        "embedding",
        "evaluation",
        "families",
        "fitting",
        "images",
        "plotting",
        "pretraining",
        "reporting",
        "saving",
        "search",
        "selection",
        "storage",
        "training",
        "zoo",
    }
)


def __getattr__(name: str) -> Any:
    """Import a public name or a folder at its first use."""
    if name in _MODULE_OF:
        value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
        globals()[name] = value
        return value
    if name in _ROOMS:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the public names and the folders, imported or not."""
    return sorted({*__all__, *_ROOMS})
