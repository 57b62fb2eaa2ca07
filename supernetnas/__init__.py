"""Neural architecture search for image classification from pretrained supernets.

`SupernetTransferClassifier` is a scikit-learn classifier for images. Its ``fit`` starts the
architecture search from a supernet of a zoo, by default the one pretrained on all its datasets, or
else the one nearest to the given images, and trains the convolutional network that it finds.

The public names below, and the submodules, are imported at their first use, so that importing
the package (the command line does, for ``--help``) does not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from supernetnas.classifier import SupernetTransferClassifier
    from supernetnas.embedding import Embedder, get_embedder
    from supernetnas.hub import HubError
    from supernetnas.images import ImageFiles, load_images
    from supernetnas.plotting import (
        CellDisplay,
        ClassCouplingDisplay,
        DistanceDisplay,
        DistanceHeatmapDisplay,
        SearchCurveDisplay,
    )
    from supernetnas.signature import DatasetSignature
    from supernetnas.spaces import Genotype, SearchSpace, get_space
    from supernetnas.zoo import Source, Zoo, ZooError

__version__ = "0.1.0"

__all__ = [
    "CellDisplay",
    "ClassCouplingDisplay",
    "DatasetSignature",
    "DistanceDisplay",
    "DistanceHeatmapDisplay",
    "Embedder",
    "Genotype",
    "HubError",
    "ImageFiles",
    "SearchCurveDisplay",
    "SearchSpace",
    "Source",
    "SupernetTransferClassifier",
    "Zoo",
    "ZooError",
    "__version__",
    "get_embedder",
    "get_space",
    "load_images",
]

_MODULE_OF = {
    "CellDisplay": "plotting",
    "ClassCouplingDisplay": "plotting",
    "DatasetSignature": "signature",
    "DistanceDisplay": "plotting",
    "DistanceHeatmapDisplay": "plotting",
    "Embedder": "embedding",
    "Genotype": "spaces",
    "HubError": "hub",
    "ImageFiles": "images",
    "SearchCurveDisplay": "plotting",
    "SearchSpace": "spaces",
    "Source": "zoo",
    "SupernetTransferClassifier": "classifier",
    "Zoo": "zoo",
    "ZooError": "zoo",
    "get_embedder": "embedding",
    "get_space": "spaces",
    "load_images": "images",
}

# `otdd` is the module here and `supernetnas.otdd.otdd` the function: a function of that name
# would be replaced by the module as soon as anything imports it.
_SUBMODULES = frozenset((*_MODULE_OF.values(), "otdd"))


def __getattr__(name: str) -> Any:
    """Import a public name or a submodule at its first use."""
    if name in _MODULE_OF:
        value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
        globals()[name] = value
        return value
    if name in _SUBMODULES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the public names and the submodules, imported or not."""
    return sorted({*__all__, *_SUBMODULES})
