"""Pictures of a fit: its cells, its learning curves, its distances to the zoo and its front.

The classes keep to scikit-learn's convention for displays: the constructor stores data, the
class methods ``from_*`` compute the data and draw, and ``plot`` draws (again) and sets ``ax_``
and ``figure_``. Matplotlib is imported when something is drawn.
"""

from .cell import CellDisplay
from .coupling import ClassCouplingDisplay
from .curves import SearchCurveDisplay
from .distances import DistanceDisplay, DistanceHeatmapDisplay
from .front import FrontDisplay
from .path import PathDisplay
from .ranking import OrderPreservingDisplay, TrajectoryDisplay

__all__ = [
    "CellDisplay",
    "ClassCouplingDisplay",
    "DistanceDisplay",
    "DistanceHeatmapDisplay",
    "FrontDisplay",
    "OrderPreservingDisplay",
    "PathDisplay",
    "SearchCurveDisplay",
    "TrajectoryDisplay",
]
