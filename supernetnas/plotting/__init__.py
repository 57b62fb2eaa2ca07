"""Pictures of a fit: cells, learning curves, distances to the zoo, front, and mistakes.

The classes keep to scikit-learn's convention for displays: the constructor stores data, the
class methods ``from_*`` compute the data and draw, and ``plot`` draws (again) and sets ``ax_``
and ``figure_``. Matplotlib is imported when something is drawn.
"""

from .cell import CellDisplay
from .confusion import ConfusionDisplay
from .coupling import ClassCouplingDisplay
from .curves import SearchCurveDisplay
from .distances import DistanceDisplay, DistanceHeatmapDisplay
from .errors import ErrorsDisplay
from .front import FrontDisplay
from .inputs import InputsDisplay
from .path import PathDisplay
from .ranking import OrderPreservingDisplay, TrajectoryDisplay

__all__ = [
    "CellDisplay",
    "ClassCouplingDisplay",
    "ConfusionDisplay",
    "DistanceDisplay",
    "DistanceHeatmapDisplay",
    "ErrorsDisplay",
    "FrontDisplay",
    "InputsDisplay",
    "OrderPreservingDisplay",
    "PathDisplay",
    "SearchCurveDisplay",
    "TrajectoryDisplay",
]
