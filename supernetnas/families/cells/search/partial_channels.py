"""PC-DARTS: operations see one in four channels, and edges have weights of their own.

Xu et al., "PC-DARTS: Partial Channel Connections for Memory-Efficient Architecture Search" (ICLR
2020); the supernet is `supernetnas.families.cells.partial.PartialSupernet`. The alphas and the
betas are trained together by first-order steps, and rest for the first 30 % of the epochs (15 of
50 in the paper). The genotype ranks by the softmax of the alphas times that of the betas.
"""

from __future__ import annotations

import torch

from ....training.batches import LabelledImages
from ..partial import PartialSupernet
from ..space import N_EDGES
from ..supernet import CellSupernet
from .bilevel import BilevelSearch
from .weight_training import SearchSettings

__all__ = ["PartialChannelSearch"]


class PartialChannelSearch(BilevelSearch):
    """PC-DARTS.

    Parameters
    ----------
    supernet : CellSupernet
        An ordinary one, as it comes from a zoo; its operations' leading channels are searched.
    train, validation, settings, generator, **kwargs
        As for `BilevelSearch`.

    Attributes
    ----------
    partial_channels : int
        The paper's K: operations see one in so many channels.
    frozen_share : float
        Share of the epochs, from the first, that leave alphas and betas as they are.
    """

    supernet: PartialSupernet
    partial_channels = 4
    frozen_share = 0.3

    def __init__(
        self,
        supernet: CellSupernet,
        train: LabelledImages,
        validation: LabelledImages,
        settings: SearchSettings,
        generator: torch.Generator,
        **kwargs,
    ) -> None:
        normal, reduce = (1e-3 * torch.randn(N_EDGES, generator=generator) for _ in range(2))
        partial = PartialSupernet(supernet, self.partial_channels, (normal, reduce))
        super().__init__(partial, train, validation, settings, generator, **kwargs)

    def alphas_frozen(self) -> bool:
        """Whether the epoch is one of the first."""
        return self.epoch < round(self.frozen_share * self.settings.epochs)

    def may_stop(self) -> bool:
        """Whether the alphas have been free to move."""
        return self.epoch > round(self.frozen_share * self.settings.epochs)

    def searched_supernet(self) -> CellSupernet:
        """Return an ordinary supernet; the betas are only in the genotype."""
        return self.supernet.full()
