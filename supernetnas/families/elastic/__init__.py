"""Networks whose kernels, widths, depths and input size shrink.

The largest member is a pretrained network with its own weights; all smaller ones share another set.
"""

from .costs import Costs, member_costs
from .lite0 import LITE0, LITE0_SPACE, lite0_supernet
from .network import Network, NetworkConfig
from .space import Backbone, Block, ElasticArchitecture, ElasticSpace, Stage
from .supernet import ElasticConfig, ElasticSupernet

__all__ = [
    "LITE0",
    "LITE0_SPACE",
    "Backbone",
    "Block",
    "Costs",
    "ElasticArchitecture",
    "ElasticConfig",
    "ElasticSpace",
    "ElasticSupernet",
    "Network",
    "NetworkConfig",
    "Stage",
    "lite0_supernet",
    "member_costs",
]
